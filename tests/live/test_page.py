"""The status page in a real browser, against a scripted daemon.

    npm install --prefix tests/live
    /usr/bin/python3 -m pytest tests/live/test_page.py

Skipped where node, Chromium or playwright-core are missing. NODE_PATH may name another folder with
playwright-core, CHROMIUM another browser. Pictures of the page go to build/screens.
"""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

import web_rig
from web_rig import (HANG, HOSTILE, MINUTE_MS, NOW_MS, PATIENCE_S, ROOT, FakeDaemon, Web,
                     gone, list_answer, marked_status, pages, refusal, row, show_answer, status_answer,
                     transcript_answer)

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SCREENS = Path(os.environ.get("TASUKI_SCREENS", ROOT / "build/screens"))
LIVE = ROOT / "tests/live"


def why_not():
    if shutil.which("node") is None:
        return "node is not installed"
    if not os.access(CHROMIUM, os.X_OK):
        return f"there is no {CHROMIUM}"
    found = subprocess.run(["node", "-e", 'require("playwright-core")'], cwd=LIVE,
                           capture_output=True, timeout=PATIENCE_S, check=False)
    return "" if found.returncode == 0 else "no playwright-core: npm install --prefix tests/live"


class Browser:
    def __init__(self):
        self.process = subprocess.Popen(["node", "page_driver.js"], cwd=LIVE,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.timer = None
        self.answer()

    def answer(self):
        timer = threading.Timer(2 * PATIENCE_S, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        assert line, "the browser does not answer"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer.get("result")

    def do(self, command, **args):
        self.process.stdin.write(json.dumps({"do": command, **args}).encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()

    def js(self, code):
        return self.do("evaluate", code=code)

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText")

    def wait_for(self, code):
        web_rig.wait_until(lambda: self.js(code), code)

    def wait_for_text(self, selector, words):
        self.wait_for(f"document.querySelector({json.dumps(selector)})?.innerText"
                      f".includes({json.dumps(words)})")

    def open(self, web, **how):
        self.do("open", url=f"http://127.0.0.1:{web.port}/", **how)
        self.wait_for('document.getElementById("verdict").dataset.level !== "wait"')

    def shot(self, name):
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.do("shot", path=str(SCREENS / (name + ".png")))

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def browser():
    reason = why_not()
    if reason:
        pytest.skip(reason)
    running = Browser()
    yield running
    running.stop()


@pytest.fixture
def place():
    path = web_rig.short_directory()
    yield path
    web_rig.remove(path)


@pytest.fixture
def daemon(place):
    fake = FakeDaemon(place)
    fake.answers = {"status": status_answer(), "queue": pages(3), "show": show_answer(),
                    "history": list_answer(), "transcript": transcript_answer()}
    yield fake
    if not fake.stopping.is_set():
        fake.stop()


@pytest.fixture
def web(daemon):
    running = Web("--listen", "127.0.0.1:0", "--socket", daemon.path)
    yield running
    running.stop()


def assert_fits(browser):
    """Nothing sticks out to the right."""
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")


BUSY = [
    row(1, state="failed", subject="Invoice 2026-1183 for Yamada Trading", attempts=1, due_ms=0,
        reason="no-such-recipient", sentence="the upstream does not know the recipient",
        hint="Check the address; then delete it.", to=["ymada@example.jp"], recipient_count=1,
        arrived_ms=NOW_MS - 26 * 3_600_000, **{"from": "office@example.jp"}),
    row(2, state="held", subject="Newsletter November", reason="none", attempts=0, due_ms=0,
        bytes=8_400_000, recipient_count=240, arrived_ms=NOW_MS - 5 * 3_600_000),
    row(3, subject="Scan_20261124_0912.pdf", arrived_ms=NOW_MS - 15 * MINUTE_MS,
        state="deferred"),
    row(4, subject="見積書の送付について", state="sending", to=["tanaka@example.co.jp"],
        recipient_count=1, arrived_ms=NOW_MS - 20_000, reason="none", attempts=1),
    row(5, state="queued", subject="", reason="none", attempts=0, to=["root@example.jp"], recipient_count=1,
        arrived_ms=NOW_MS - 5_000, due_ms=NOW_MS - 1, client="127.0.0.1",
        **{"from": "cron@nas.example.jp"}),
]

PAST = [
    gone(11, subject="Scan_20261124_0840.pdf"),
    gone(12, end="reported", state="failed", subject="Order 4711", reason="no-such-recipient",
         sentence="the upstream does not know the recipient", to=["ymada@example.jp"],
         recipient_count=1),
    gone(13, end="deleted", state="queued", reason="none", subject="Newsletter October"),
    gone(14, end="discarded", state="failed", reason="none", subject="", **{"from": ""}),
]

# ---- what is shown ----


def test_verdict_and_cards(browser, web):
    browser.open(web)
    assert browser.text("#verdict-word") == "OK"
    assert "3 messages on the way" in browser.text("#verdict-sentence")
    assert browser.js('document.querySelector("#verdict .said").getAttribute("aria-live")') == (
        "polite")
    assert browser.js('getComputedStyle(document.querySelector(".sign-ok")).display') == "inline"
    assert browser.text("#q-queued") == "3"
    assert "1.0 GB of 20 GB" in browser.text("#q-bytes")
    card = browser.text("#upstreams")
    for words in ("Upstream main", "[relay.example.jp]:587", "works", "192.0.2.1:587", "TLSv1.3",
                  "SCRAM-SHA-256", "2 of 4 open, 1 at work", "3 min ago"):
        assert words in card
    assert "io_uring" in browser.text("#b-io") and "12 clients" in browser.text("#b-clients")
    assert browser.js('document.querySelectorAll("#queue-rows .row").length') == 3
    assert browser.do("complaints") == []


def test_marked_upstream(browser, web, daemon):
    daemon.answers["status"] = marked_status()
    browser.open(web)
    assert browser.text("#verdict-word") == "Trouble"
    assert "tasukictl test" in browser.text("#verdict-hint")
    card = browser.text("#upstreams")
    for words in ("not working", "The upstream refuses the login.",
                  "535 5.7.8 authentication failed", "Next try in", "for 15 min"):
        assert words in card
    assert browser.js("document.title") == "Trouble · tasuki"


def test_it_refreshes(browser, web, daemon):
    browser.open(web)
    first = browser.js('window.kept = document.querySelector("#queue-rows .row"), true')
    assert first
    changed = status_answer(verdict={"level": "attention", "sentence": "One message failed.",
                                     "hint": "tasukictl queue"})
    daemon.answers["status"] = changed
    daemon.answers["queue"] = pages(2)
    browser.wait_for_text("#verdict-sentence", "One message failed.")
    browser.wait_for('document.querySelectorAll("#queue-rows .row").length === 2')
    assert browser.js('window.kept === document.querySelector("#queue-rows .row")'), "rows are kept"


def test_no_jump_on_refresh(browser, web, daemon):
    browser.open(web)
    measure = ('JSON.stringify([...document.querySelectorAll("section, .row, .card dd")]'
               '.map((e) => [e.offsetTop, e.offsetHeight]))')
    before = browser.js(measure)
    asked = len(daemon.asked("status"))
    web_rig.wait_until(lambda: len(daemon.asked("status")) >= asked + 2, "it does not refresh")
    assert browser.js(measure) == before


def test_hostile_strings_are_inert(browser, web, daemon):
    status = marked_status(text=HOSTILE)
    for key in ("sentence", "hint"):
        status["verdict"][key] = HOSTILE
        status["upstreams"][0][key] = HOSTILE
    status["upstreams"][0].update(name=HOSTILE, host=HOSTILE, peer=HOSTILE, tls=HOSTILE,
                                  mechanism=HOSTILE)
    status.update(version=HOSTILE, listeners=[HOSTILE],
                  io={"backend": HOSTILE, "reason": HOSTILE})
    bad = {key: HOSTILE for key in ("subject", "from", "client", "device", "state", "sentence",
                                    "hint", "text", "upstream")}
    shown = dict(show_answer(text=HOSTILE), **bad)
    shown["recipients"][0].update(to=HOSTILE, state=HOSTILE, sentence=HOSTILE, enhanced=HOSTILE)
    shown["helo"] = HOSTILE
    shown["moves"][0].update({key: HOSTILE for key in ("cause", "from", "to", "reason", "sentence",
                                                       "upstream", "peer", "tls", "text")})
    status["upstreams"][0]["pipeline"] = {"mode": HOSTILE, "max": HOSTILE, "reason": HOSTILE}
    past = gone(9, **dict(bad, to=[HOSTILE], end=HOSTILE))
    daemon.answers = {"status": status, "queue": list_answer(row(to=[HOSTILE], **bad)),
                      "show": shown, "history": list_answer(past),
                      "transcript": {"schema": 1, "id": "0", "lines": [HOSTILE]}}
    browser.open(web)
    browser.js('document.querySelector(".open-row").click()')
    browser.wait_for('document.querySelector(".recipients li")')
    browser.js('document.querySelector(".detail .plain").click()')
    browser.wait_for('document.querySelector(".dialogue pre")')
    browser.wait_for('document.querySelector("#history-rows .row")')
    body = browser.js("document.body.textContent")
    assert body.count("<img src=x onerror=") > 30
    assert "\\u202efdp.exe \\u001b[31m \\u0000" in body
    for unseen in "\u202e\x1b\0":
        assert unseen not in body
    assert browser.js('document.querySelectorAll("main img, main script").length') == 0
    assert "owned" not in browser.js("document.title")
    assert browser.do("complaints") == []
    browser.do("open", url=f"http://127.0.0.1:{web.port}/", width=360, height=800)
    browser.wait_for('document.querySelector(".row")')
    assert_fits(browser)


def test_details_by_keyboard(browser, web, daemon):
    browser.open(web)
    for _ in range(20):
        browser.do("press", key="Tab")
        if browser.js('document.activeElement.className === "open-row"'):
            break
    assert browser.js('document.activeElement.getAttribute("aria-expanded")') == "false"
    browser.do("press", key="Enter")
    browser.wait_for_text(".detail", "日本@example.jp")
    assert browser.js('document.activeElement.getAttribute("aria-expanded")') == "true"
    detail = browser.text(".detail")
    for words in ("550 5.1.1 no such user here", "Check the address", "scanner.local",
                  "tasukictl show 06h0r8y3"):
        assert words in detail
    asked = len(daemon.asked("status"))
    web_rig.wait_until(lambda: len(daemon.asked("status")) >= asked + 2, "it does not refresh")
    assert browser.text(".detail") == detail, "a refresh leaves it open"
    browser.do("press", key="Enter")
    browser.wait_for('document.querySelector(".detail") === null')


def test_moves_and_dialogue(browser, web, daemon):
    browser.open(web)
    browser.js('document.querySelector(".open-row").click()')
    browser.wait_for_text(".moves", "Put off by main")
    moves = browser.js('[...document.querySelectorAll(".moves li")].map((e) => e.innerText)')
    assert len(moves) == 5
    for words in ("3 h ago", "Put off by main: the upstream asks to try again later.",
                  "451 4.3.0 try later", "192.0.2.1:587", "connection 17, 120 ms"):
        assert words in moves[0], moves[0]
    assert "日本@example.jp: refused by main: the upstream does not know the recipient." in moves[1]
    assert "Held by uid 1000." in moves[2] and "too early" in moves[2]
    assert "Let go by uid 0." in moves[3]
    assert "The sender was told." in moves[4]
    browser.js('document.querySelector(".detail .plain").click()')
    browser.wait_for_text(".dialogue pre", "C: MAIL FROM:<scanner@example.jp>")
    assert daemon.asked("transcript") == [{"id": row(0)["id"]}]
    assert browser.do("complaints") == []


def test_dialogue_that_may_not_be_seen(browser, web, daemon):
    daemon.answers["transcript"] = refusal("not-permitted", "no", "try it with sudo")
    browser.open(web)
    browser.js('document.querySelector(".open-row").click()')
    browser.wait_for('document.querySelector(".detail .plain")')
    browser.js('document.querySelector(".detail .plain").click()')
    browser.wait_for_text(".dialogue", "to root and to its own user only")
    assert "sudo tasukictl show --transcript " + row(0)["id"] in browser.text(".dialogue")
    assert browser.text("#verdict-word") == "OK"


def test_moves_left_out_are_counted(browser, web, daemon):
    shown = show_answer(moves_left_out=31)
    shown["moves"] = shown["moves"][:1] * 6
    daemon.answers["show"] = shown
    browser.open(web)
    browser.js('document.querySelector(".open-row").click()')
    browser.wait_for_text(".moves", "… 31 more steps …")
    moves = browser.js('[...document.querySelectorAll(".moves li")].map((e) => e.innerText)')
    assert len(moves) == 7 and "31 more steps" in moves[4]


def test_history(browser, web, daemon):
    daemon.answers["history"] = list_answer(*PAST, cursor="x")
    browser.open(web)
    browser.wait_for('document.querySelectorAll("#history-rows .row").length === 4')
    assert daemon.asked("history")[0] == {"limit": 20}
    assert "The last 4, the newest first." in browser.text("#history-note")
    words = browser.js('[...document.querySelectorAll("#history-rows .row")].map((e) => e.innerText)')
    for line, wanted in zip(words, (["delivered", "Taken by main, 2 min after it arrived."],
                                    ["reported", "does not know the recipient", "sender was told"],
                                    ["deleted", "Somebody has deleted it."],
                                    ["discarded", "did not want to be told"])):
        for word in wanted:
            assert word in line, line
    browser.js('document.querySelector("#history-rows .open-row").click()')
    browser.wait_for_text("#history-rows .detail", "What happened")
    assert browser.js('document.querySelector("#queue-rows .detail")') is None
    daemon.answers["history"] = list_answer()
    daemon.answers["status"] = status_answer(history={"messages": 0, "bytes": 0})
    browser.wait_for_text("#history-note", "Nothing has left yet.")
    assert browser.js('document.getElementById("history-table").hidden')


def test_history_that_is_refused_is_no_outage(browser, web, daemon):
    daemon.answers["history"] = refusal("unknown-command", "this daemon does not know that command")
    browser.open(web)
    browser.wait_for_text("#history-note", "does not know that command")
    assert browser.text("#verdict-word") == "OK"
    assert browser.js('document.querySelectorAll("#queue-rows .row").length') == 3


def test_what_a_message_waits_for(browser, web, daemon):
    """What is due is not called next in turn while its upstream is out of order."""
    daemon.answers["queue"] = list_answer(row(1, attempts=0, reason="none", due_ms=NOW_MS - 1000))
    browser.open(web)
    browser.wait_for_text("#queue-rows", "it is its turn")
    daemon.answers["status"] = marked_status()
    browser.wait_for_text("#queue-rows", "it waits until main works again")
    daemon.answers["status"]["upstreams"][0]["stand_in"] = "backup"
    browser.wait_for_text("#queue-rows", "it is its turn")


def test_what_is_kept_and_the_pace(browser, web, daemon):
    browser.open(web)
    assert browser.text("#q-kept") == "2 in the trash · 1,234 in the history · 1 report sent"
    card = browser.text("#upstreams")
    for words in ("up to 4 at once", "on (the upstream announces it)"):
        assert words in card
    status = status_answer()
    status["upstreams"][0].update(paused_until_ms=NOW_MS + 3_600_000, concurrency=1, rate_room=0,
                                  rate_next_ms=NOW_MS + 3_600_000, forecast_ms=NOW_MS + 420_000,
                                  rates=[{"most": 30, "of": "messages", "per": "min", "used": 30},
                                         {"most": 10000, "of": "recipients", "per": "day",
                                          "used": 412}])
    status["upstreams"][0]["pipeline"]["lowered"] = {
        "max": "off", "reason": "connections broke", "until_ms": NOW_MS + 3_000_000}
    daemon.answers["status"] = status
    browser.wait_for_text("#upstreams", "as the upstream asked")
    for words in ("paused for", "up to 1 at once", "its rate is used up for",
                  "used 30 of 30 messages/min and 412 of 10,000 recipients/day",
                  "not more than off for", "(connections broke)",
                  "what waits has left in about 7 min"):
        assert words in browser.text("#upstreams"), words


def test_a_daemon_that_says_no_pace(browser, web, daemon):
    """Fields that an older daemon does not have leave no empty lines."""
    status = status_answer()
    for key in ("concurrency", "paused_until_ms", "rate_room", "forecast_ms", "pipeline"):
        del status["upstreams"][0][key]
    del status["history"], status["reports"], status["queue"]["trashed"]
    daemon.answers["status"] = status
    browser.open(web)
    labels = browser.js('[...document.querySelectorAll("#upstreams dt")]'
                        '.filter((e) => e.offsetHeight > 0).map((e) => e.textContent)')
    assert "Connections" in labels and "Pace" not in labels and "Pipelining" not in labels
    assert browser.text("#q-kept") == ""


@pytest.mark.parametrize("state,word,what", [
    ("deferred", "put off", "The upstream asks to try again later."),
    ("in-doubt", "in doubt", "The connection broke"),
    ("trashed", "in the trash", "tasukictl undelete 06h0r8y3")])
def test_state_words(browser, web, daemon, state, word, what):
    more = {"sentence": "the connection broke", "reason": "in-doubt"} if state == "in-doubt" else {}
    daemon.answers["queue"] = list_answer(row(0, state=state, due_ms=NOW_MS + 3_600_000, **more))
    browser.open(web)
    browser.wait_for_text("#queue-rows .badge", word)
    assert what in browser.text("#queue-rows .row")


def test_filter(browser, web, daemon):
    browser.open(web)
    browser.js('document.getElementById("filter").focus()')
    daemon.answers["queue"] = lambda args: (
        refusal("bad-filter", 'unknown field "form"', "did you mean from:?")
        if args.get("filter") == "form:x" else list_answer(row(7)))
    browser.do("type", text="form:x")
    browser.wait_for_text("#filter-note", 'unknown field "form" (did you mean from:?)')
    assert browser.text("#verdict-word") == "OK", "a typing mistake is no outage"
    browser.js('document.getElementById("filter").value = ""')
    browser.do("type", text="from:scan state:queued")
    browser.do("press", key="Enter")
    browser.wait_for_text("#filter-note", "1 message that match")
    assert daemon.asked("queue")[-1]["filter"] == "from:scan state:queued"
    daemon.answers["queue"] = list_answer()
    browser.wait_for_text("#empty", "Nothing in the queue matches")


def test_load_more(browser, web, daemon):
    daemon.answers["queue"] = pages(150)
    browser.open(web)
    browser.wait_for('document.querySelectorAll("#queue-rows .row").length === 100')
    browser.js('document.getElementById("more").click()')
    browser.wait_for('document.querySelectorAll("#queue-rows .row").length === 150')
    browser.wait_for('document.getElementById("more").hidden')


def test_daemon_goes_away_and_comes_back(browser, web, daemon, place):
    browser.open(web)
    daemon.stop()
    browser.wait_for_text("#verdict-sentence", "The mail daemon does not answer.")
    assert browser.text("#verdict-word") == "Not reachable"
    assert "is not running" in browser.text("#verdict-detail")
    assert "systemctl start tasuki" in browser.text("#verdict-hint")
    assert browser.js('document.body.classList.contains("stale")')
    assert "old" in browser.text("#fresh") and browser.text("#q-queued") == "3"
    browser.shot("lost")
    second = FakeDaemon(place)
    second.answers = daemon.answers
    try:
        browser.wait_for_text("#verdict-word", "OK")
        assert not browser.js('document.body.classList.contains("stale")')
    finally:
        second.stop()


def test_daemon_is_slow(browser, web, daemon):
    daemon.answers["status"] = HANG
    browser.open(web)
    assert "did not answer within 2 seconds" in browser.text("#verdict-detail")


def test_daemon_makes_no_sense(browser, web, daemon):
    daemon.answers["status"] = {"schema": 1}
    browser.open(web)
    assert "does not understand" in browser.text("#verdict-detail")


def test_tasuki_web_goes_away(browser, web):
    browser.open(web)
    web.stop()
    browser.wait_for_text("#verdict-sentence", "cannot reach tasuki-web")
    assert "systemctl status tasuki-web" in browser.text("#verdict-hint")


def test_it_pauses_while_hidden(browser, web, daemon):
    browser.open(web)
    browser.js('Object.defineProperty(document, "hidden", {configurable: true, get: () => true})')
    # one that was under way may end, and one timer may still be set
    browser.js("new Promise((done) => setTimeout(done, 3000))")
    asked = len(daemon.asked("status"))
    browser.js("new Promise((done) => setTimeout(done, 5000))")
    assert len(daemon.asked("status")) == asked
    browser.js('Object.defineProperty(document, "hidden", {configurable: true, get: () => false});'
               'document.dispatchEvent(new Event("visibilitychange"))')
    web_rig.wait_until(lambda: len(daemon.asked("status")) > asked, "it does not go on")


# ---- how it looks ----


@pytest.mark.parametrize("name,how", [
    ("light", {}), ("dark", {"scheme": "dark"}), ("narrow", {"width": 360, "height": 800}),
    ("narrow-dark", {"width": 360, "height": 800, "scheme": "dark"})])
def test_pictures(browser, web, daemon, name, how):
    daemon.answers["queue"] = list_answer(*BUSY)
    daemon.answers["history"] = list_answer(*PAST)
    browser.open(web, **how)
    browser.wait_for('document.querySelectorAll("#history-rows .row").length === 4')
    assert_fits(browser)
    browser.shot("well-" + name)
    daemon.answers["status"] = marked_status()
    browser.wait_for_text("#verdict-word", "Trouble")
    browser.js('document.querySelectorAll(".open-row")[0].click()')
    browser.wait_for('document.querySelector(".recipients li")')
    assert_fits(browser)
    browser.shot("trouble-" + name)


def test_picture_of_a_fresh_install(browser, web, daemon):
    fresh = status_answer(verdict={"level": "ok", "hint": "", "sentence":
                                   "All is well: the queue is empty, nothing waits for you."},
                          clients=0, started_ms=NOW_MS - 40_000,
                          counters={"accepted": 0, "delivered": 0, "deferred": 0, "refused": 0,
                                    "rejected": 0})
    fresh["queue"].update(queued=0, sending=0, used_bytes=90_000)
    fresh["upstreams"][0].update(state="untried", connections=0, busy=0, delivered=0, deferred=0,
                                 refused=0, last_delivery_ms=0, peer="", tls="", mechanism="")
    daemon.answers.update(status=fresh, queue=list_answer())
    browser.open(web)
    browser.wait_for_text("#empty", "tasukictl test --to")
    assert "No mail has come by yet" in browser.text("#empty")
    browser.shot("fresh")


def test_a_stand_in_is_named(browser, web, daemon):
    """Which mail an upstream is for, and who carries it while it is down."""
    status = marked_status()
    status["upstreams"][0].update(stand_in="backup <b>", use="for sender:*@shop.example")
    status["upstreams"].append({**status_answer()["upstreams"][0], "name": "backup",
                                "use": "when-down"})
    daemon.answers["status"] = status
    browser.open(web)
    browser.wait_for_text("#upstreams", "carries its mail meanwhile.")
    assert browser.js('document.querySelectorAll("#upstreams b").length') == 0, "text, no markup"
    cards = browser.text("#upstreams")
    assert "for sender:*@shop.example" in cards and "when-down" in cards
    daemon.answers["status"] = status_answer()
    browser.wait_for_text("#upstreams", "Connected to")
    web_rig.wait_until(lambda: "carries its mail" not in browser.text("#upstreams"), "its end")
    assert "always" not in browser.text("#upstreams"), "any mail: nothing to say"
