"""tasukictl upstreams: how each of them is, what waits for it, and what to do."""

import re
import time

from peers import RESET, USER, section, wait_until

CHUNKING = b"250-scripted.test\r\n250-PIPELINING\r\n250 CHUNKING"  # announced and not there


def plain(name, server, **settings):
    return section(name, host="[127.0.0.1]:%d" % server.port, tls="off", insecure_plain="yes",
                   **settings)


def facts(text):
    """Label to value; lines that go on are joined."""
    found, label = {}, None
    for line in text.splitlines():
        if re.match(r"\S", line):
            label = line[:14].strip()
            found[label] = line[14:]
        elif line.strip() and label is not None:
            found[label] += " " + line.strip()
    return found


def test_one_that_works(tasuki, postfix, certificates):
    daemon = tasuki(section(host="[127.0.0.1]:%d" % postfix.ports["starttls"], user=USER,
                            tls_ca=certificates.ca, password_file="SECRET", auth="scram-sha-256",
                            connections=3, rate="30/min, 10000 recipients/day"))
    untried = daemon.ctl("upstreams")
    assert untried.code == 0 and untried.out.startswith("Upstream      main: untried\n")
    assert facts(untried.out)["Pipelining"].startswith("not known yet")
    daemon.send()
    wait_until(daemon.queue_empty)
    wait_until(lambda: daemon.upstream()["delivered"] == 1)
    done = daemon.ctl("upstreams")
    assert done.code == 0 and done.err == ""
    told = facts(done.out)
    assert told["Upstream"] == "main: well"
    assert told["Host"] == "[127.0.0.1]:%d" % postfix.ports["starttls"]
    assert told["Use"] == "always"
    assert re.fullmatch("[01] of 3 connections, 0 busy", told["Open"])
    assert told["TLS"].startswith("TLSv1.")
    assert told["Login by"] == "SCRAM-SHA-256" and told["Pipelining"] == "stream"
    assert told["Rate"] == \
        "1 of 30 messages/min, 1 of 10000 recipients/day used: 29 more messages may go now"
    assert "rate: 1 of 30 messages/min" in daemon.ctl("status").out
    assert told["Waiting"] == "0 messages"
    assert told["Since start"].startswith("1 delivered, 0 deferred, 0 refused; the last delivery")
    assert "What to do" not in done.out
    (row,) = daemon.ctl("upstreams", "--json").rows()
    assert row["schema"] == 1 and row["provider"] is None and row["queued"] == 0
    assert row["rates"] == [{"most": 30, "of": "messages", "per": "min", "used": 1},
                            {"most": 10000, "of": "recipients", "per": "day", "used": 1}]
    assert daemon.ctl("upstreams", "main").out.splitlines()[:3] == done.out.splitlines()[:3]


def test_several_of_which_one_is_down(tasuki, scripted_upstream):
    main, backup, shop = (scripted_upstream() for _ in range(3))
    main.faults = {"greeting": b"554 5.7.1 no entry"}
    shop.faults = {"greeting": b"554 5.7.1 no entry"}
    daemon = tasuki(plain("main", main) + plain("backup", backup, use="when-down") +
                    plain("shop", shop, use="for sender:*@shop.example"))
    daemon.send("anna@example.test")
    wait_until(lambda: backup.to("anna@example.test"), what=daemon.log)
    shop.faults = {}
    wait_until(lambda: daemon.upstream("backup")["delivered"] == 1)
    done = daemon.ctl("upstreams")
    assert done.code == 1
    head, *lines = done.out.split("\n\n")[0].splitlines()
    assert head.split() == ["NAME", "STATE", "SINCE", "BY", "OPEN", "MODE", "WAIT", "GONE", "LAST",
                            "USE", "HOST"]
    rows = {line.split()[0]: line.split() for line in lines}
    assert rows["main"][1] == "down" and rows["main"][4] == "backup"
    assert rows["backup"][1] == "well" and "when-down" in rows["backup"]
    assert rows["shop"][1] == "untried"
    up = daemon.upstream("main")
    assert "Upstream      main: down, backup carries its mail" in done.out
    assert up["sentence"] in done.out and "554 5.7.1 no entry" in done.out
    assert done.out.split("What to do:\n")[1].strip() == "main: " + up["hint"]
    one = daemon.ctl("upstreams", "backup")
    assert one.code == 0 and facts(one.out)["Use"] == "when-down"
    one = daemon.ctl("upstreams", "main")
    assert one.code == 1 and "554 5.7.1 no entry" in facts(one.out)["Upstream"]
    assert [row["name"] for row in daemon.ctl("upstreams", "--json").rows()] == \
        ["main", "backup", "shop"]
    wrong = daemon.ctl("upstreams", "mian")
    assert wrong.code == 66 and 'did you mean "main"?' in wrong.err


def test_what_waits(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"MAIL": RESET, "greeting": b"421 4.3.2 not now"}
    daemon = tasuki(plain("main", server))
    for number in range(3):
        daemon.send("r%d@example.test" % number)
    daemon.ask("hold", filter="to:r1")
    wait_until(lambda: daemon.upstream()["state"] == "marked")
    wait_until(lambda: daemon.status()["queue"]["held"] == 1 or
               daemon.ask("hold", filter="to:r1") is None)
    told = facts(daemon.ctl("upstreams").out)
    assert told["Waiting"].startswith("2 messages, 1 more held")
    (row,) = daemon.ctl("upstreams", "--json").rows()
    assert (row["queued"], row["held"]) == (2, 1)


def test_what_was_learnt(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"EHLO": CHUNKING}
    daemon = tasuki(plain("main", server), retry_min="1s", retry_max="1s")
    daemon.send()
    wait_until(daemon.queue_empty, what=daemon.log)
    wait_until(lambda: daemon.upstream()["pipeline"]["mode"] == "safe")
    (lowered,) = daemon.events("pipeline-lowered")
    pipeline = daemon.upstream()["pipeline"]
    week_ms = 7 * 24 * 3600 * 1000
    assert 0 <= time.time() * 1000 + week_ms - pipeline["until_ms"] < 3600 * 1000
    told = facts(daemon.ctl("upstreams").out)["Pipelining"]
    assert re.fullmatch("safe lowered; more than safe is tried again in 6 d .*. Learnt: " +
                        re.escape(lowered["why"]), told), told


def test_what_is_only_suspected(tasuki, scripted_upstream):
    """Two connections in a row that broke before a single answer: less at once for an hour."""
    server = scripted_upstream()
    server.faults = {"MAIL": RESET}
    daemon = tasuki(plain("main", server, probe_min="1s", probe_max="1s"), workers="1",
                    retry_min="1s", retry_max="1s")
    assert daemon.upstream()["pipeline"]["lowered"] is None
    daemon.send()
    (logged, *_) = wait_until(lambda: daemon.events("pipeline-lowered"), what=daemon.log)
    pipeline = daemon.upstream()["pipeline"]
    lowered = pipeline["lowered"]
    assert (lowered["max"], lowered["reason"]) == (logged["to"], logged["why"])
    assert 0 <= time.time() * 1000 + 3600 * 1000 - lowered["until_ms"] < 600 * 1000
    assert pipeline["until_ms"] is None, "it is not remembered"
    server.mend()
    wait_until(daemon.queue_empty, what=daemon.log)
    told = facts(daemon.ctl("upstreams").out)["Pipelining"]
    assert re.fullmatch("(safe|off) lowered on suspicion; more than (safe|off) is tried again in "
                        "5[0-9] min.*. Suspected: " + re.escape(lowered["reason"]), told), told


def test_each_advice_names_its_upstream(tasuki, scripted_upstream):
    main, shop, third = (scripted_upstream() for _ in range(3))
    main.faults = {"greeting": b"554 5.7.1 no entry"}
    shop.faults = third.faults = {"EHLO": b"550 who are you"}
    daemon = tasuki(plain("main", main) +
                    plain("shop", shop, use="for sender:*@shop.example") +
                    plain("third", third, use="for sender:*@third.example"))
    for sender in ("a@b.example", "a@shop.example", "a@third.example"):
        daemon.send(sender=sender)
    wait_until(lambda: [daemon.upstream(name)["state"] for name in ("main", "shop", "third")] ==
               ["marked"] * 3, what=daemon.log)
    advice = [daemon.upstream(name)["hint"] for name in ("main", "shop")]
    for command in ("status", "upstreams"):
        todo = " ".join(daemon.ctl(command).out.split("What to do:\n")[1].split())
        assert "main: " + advice[0] in todo and "shop, third: " + advice[1] in todo, todo
        assert all(todo.count(words) == 1 for words in advice), "each stands once"


def test_a_known_provider(tasuki):
    """Shown by its title; nothing is sent there, so nothing connects."""
    daemon = tasuki(section("main", host="gmail", user="anna@example.jp", password_file="SECRET"))
    assert daemon.upstream()["provider"] == "gmail"
    assert facts(daemon.ctl("upstreams").out)["Host"] == "[smtp.gmail.com]:587 (Gmail)"
    assert not daemon.events("upstream-up") and not daemon.events("upstream-down")


def test_no_daemon(tasuki, scripted_upstream):
    daemon = tasuki(plain("main", scripted_upstream()), start=False)
    done = daemon.ctl("upstreams")
    assert done.code == 69 and "  next: tasukid" in done.err
