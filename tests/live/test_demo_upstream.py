"""tasuki-demo-upstream, as a client sees it: what it takes, and each way it misbehaves.

TASUKI_BUILD names the build directory (default build/release), TASUKI_IO the backend.
"""

import os
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / os.environ.get("TASUKI_BUILD", "build/release") / "tasuki-demo-upstream"
IO = os.environ.get("TASUKI_IO") or "auto"
PATIENCE_S = 30
USER, PASSWORD = "id-smtpauth", "pass word"
CONTENT = "Subject: hello\r\n\r\n.a line that begins with a dot\r\nend\r\n"


class Upstream:
    def __init__(self, directory, *options, login=True):
        self.directory = Path(directory)
        self.control = self.directory / "control"
        self.kept = self.directory / "kept"
        self.kept.mkdir()
        secret = self.directory / "password"
        secret.write_text(PASSWORD + "\nnot this line\n")
        account = ["--user", USER, "--password-file", str(secret), "--make-cert", directory]
        self.process = subprocess.Popen(
            [str(PROGRAM), "--listen", "127.0.0.1:0", "--io", IO, "--control", str(self.control),
             "--keep", str(self.kept), *(account if login else []), *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def tell(self, words):
        """Its exit code and what it printed."""
        done = subprocess.run([str(PROGRAM), "--control", str(self.control), "--tell", words],
                              capture_output=True, text=True, timeout=PATIENCE_S)
        return done.returncode, done.stdout.strip()

    def stats(self, words="stats"):
        code, said = self.tell(words)
        assert code == 0, said
        numbers, _, mode = said.partition(" mode=")
        return {name: int(value) for name, value in
                (pair.split("=") for pair in numbers.split())} | {"mode": mode}

    def context(self):
        return ssl.create_default_context(cafile=str(self.directory / "ca.pem"))

    def client(self, login=True, host="localhost"):
        client = smtplib.SMTP(host, self.port, timeout=PATIENCE_S)
        if login:
            client.starttls(context=self.context())
            client.login(USER, PASSWORD)
        return client

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, rest
        assert "Sanitizer" not in rest and "runtime error" not in rest, rest
        return rest


@pytest.fixture
def upstream():
    """Makes demo upstreams; each must end in peace."""
    made = []
    with tempfile.TemporaryDirectory(prefix="tdemo-") as directory:
        def make(*options, **how):
            made.append(Upstream(directory, *options, **how))
            return made[-1]

        yield make
        try:
            for one in made:
                if one.process.poll() is None:
                    one.stop()
        finally:
            for one in made:
                if one.process.poll() is None:
                    one.process.kill()
                    one.process.wait()


def send(client, *recipients):
    client.sendmail("a@b.example", list(recipients) or ["c@d.example"], CONTENT)


# ---- a good upstream ----


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_takes_counts_and_keeps(upstream, host):
    up = upstream()
    with up.client(host=host) as client:
        send(client, "c@d.example", "e@f.example")
        send(client)
    stats = up.stats()
    assert (stats["messages"], stats["recipients"], stats["logins"]) == (2, 3, 1)
    assert stats["bytes"] == 2 * len(CONTENT)
    assert sorted(p.name for p in up.kept.iterdir()) == ["000001.eml", "000002.eml"]
    assert (up.kept / "000001.eml").read_bytes() == (
        "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\n\r\n"
        + CONTENT).encode()
    assert not up.control.exists() or up.process.poll() is None
    up.stop()
    assert not up.control.exists()


def test_the_key_is_the_owners_alone(upstream):
    up = upstream()
    assert (up.directory / "key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("user, password, good", [
    (USER, PASSWORD, True), (USER, PASSWORD + "x", False), (USER, PASSWORD[:-1], False),
    ("x" + USER, PASSWORD, False), (USER, "", False), ("", PASSWORD, False)])
def test_login(upstream, mechanism, user, password, good):
    up = upstream()
    client = up.client(login=False)
    client.starttls(context=up.context())
    client.ehlo()
    client.user, client.password = user, password
    act = client.auth_plain if mechanism == "PLAIN" else client.auth_login
    if good:
        assert client.auth(mechanism, act)[0] == 235
    else:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.auth(mechanism, act)
        assert refused.value.smtp_code == 535
    stats = up.stats()
    assert (stats["logins"], stats["logins-refused"]) == ((1, 0) if good else (0, 1))


def test_no_login_in_the_clear_and_no_mail_without(upstream):
    up = upstream()
    client = up.client(login=False)
    client.ehlo()
    assert not client.has_extn("auth")
    assert client.docmd("AUTH PLAIN", "AGEAYg==")[0] == 538
    assert client.mail("a@b.example")[0] == 530


def test_tls_on_connect(upstream):
    up = upstream("--tls-on-connect")
    with smtplib.SMTP_SSL("localhost", up.port, timeout=PATIENCE_S, context=up.context()) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        client.login(USER, PASSWORD)
        send(client)
    assert up.stats()["messages"] == 1


@pytest.mark.parametrize("options, there, absent", [
    ((), "pipelining", "chunking"), (("--chunking", "--no-pipelining"), "chunking", "pipelining")])
def test_extensions(upstream, options, there, absent):
    up = upstream(*options, login=False)
    with up.client(login=False) as client:
        client.ehlo()
        assert client.has_extn(there) and not client.has_extn(absent)


def test_chunks(upstream):
    up = upstream("--chunking", login=False)
    with up.client(login=False) as client:
        client.ehlo()
        client.mail("a@b.example")
        client.rcpt("c@d.example")
        client.send(b"BDAT 5 LAST\r\n.a\r\n\r")
        assert client.getreply()[0] == 250
    assert (up.kept / "000001.eml").read_bytes().endswith(b"\r\n\r\n.a\r\n\r\n")


def test_many_messages_in_one_flight_over_many_threads(upstream):
    up = upstream("--threads", "3", login=False)
    flight = b"".join(
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + CONTENT.encode().replace(b"\n.", b"\n..")
        + b".\r\n" for _ in range(50))

    def talk():
        with socket.create_connection(("127.0.0.1", up.port), timeout=PATIENCE_S) as peer:
            lines = peer.makefile("rb")
            peer.sendall(b"EHLO x\r\n" + flight + b"QUIT\r\n")
            said = lines.read().splitlines()
            assert sum(line.startswith(b"250 2.0.0") for line in said) == 50, said

    threads = [threading.Thread(target=talk) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    stats = up.stats()
    assert (stats["messages"], stats["connections"]) == (600, 12)
    assert stats["bytes"] == 600 * len(CONTENT)


# ---- misbehaviour ----


@pytest.mark.parametrize("mode, code, where", [
    ("refuse-sender", 553, "sender"), ("refuse", 554, "recipient"), ("defer", 451, "recipient"),
    ("refuse-content", 554, "content"), ("defer-content", 451, "content")])
def test_refusals(upstream, mode, code, where):
    up = upstream()
    client = up.client()
    assert up.stats(mode)["mode"] == mode
    assert client.mail("a@b.example")[0] == (code if where == "sender" else 250)
    if where != "sender":
        assert client.rcpt("c@d.example")[0] == (code if where == "recipient" else 250)
    if where == "content":
        assert client.data(CONTENT)[0] == code
    assert up.stats("ok")["messages"] == 0
    client.rset()
    send(client)
    assert up.stats()["messages"] == 1
    assert len(list(up.kept.iterdir())) == 1


@pytest.mark.parametrize("mode, code", [("refuse-login", 535), ("defer-login", 454)])
def test_refused_login_ends_open_sessions(upstream, mode, code):
    up = upstream()
    client = up.client()
    up.stats(mode)
    assert client.getreply()[0] == 421
    with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        up.client()
    assert refused.value.smtp_code == code
    stats = up.stats("ok")
    assert (stats["logins"], stats["logins-refused"]) == (1, 2)  # PLAIN, then LOGIN
    send(up.client())


def test_throttle(upstream):
    up = upstream()
    client = up.client()
    up.stats("throttle")
    assert client.mail("a@b.example")[0] == 421
    with pytest.raises(smtplib.SMTPConnectError) as refused:
        up.client(login=False)
    assert refused.value.smtp_code == 421
    up.stats("ok")
    send(up.client())


@pytest.mark.parametrize("mode, counted", [
    ("drop", 0), ("drop late", 1), ("drop data", 0), ("drop mail", 0)])
def test_drop(upstream, mode, counted):
    up = upstream()
    client = up.client()
    assert up.stats(mode)["mode"] == mode
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(client)
    stats = up.stats()
    assert (stats["messages"], stats["sessions"]) == (counted, 0)
    assert len(list(up.kept.iterdir())) == counted


def test_stall_holds_everything_until_it_ends(upstream):
    up = upstream()
    client = up.client()
    up.stats("stall")
    client.sock.settimeout(0.3)
    client.send(b"NOOP\r\n")
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    stranger = socket.create_connection(("127.0.0.1", up.port), timeout=PATIENCE_S)
    stranger.settimeout(0.3)
    with pytest.raises(TimeoutError):
        stranger.recv(1)
    up.stats("ok")
    client.sock.settimeout(PATIENCE_S)
    stranger.settimeout(PATIENCE_S)
    assert client.sock.recv(3) == b"250"
    assert stranger.recv(3) == b"220"
    stranger.close()


def test_slow_holds_answers_back(upstream):
    up = upstream(login=False)
    client = up.client(login=False)
    client.ehlo()
    assert up.stats("slow 3600000")["mode"] == "slow 3600000"
    client.sock.settimeout(0.3)
    client.send(b"NOOP\r\n")
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    assert up.stats("slow 1")["mode"] == "slow 1"
    client = up.client(login=False)
    client.ehlo()
    send(client)
    assert up.stats()["messages"] == 1


def test_stopping_while_it_stalls(upstream):
    up = upstream("--threads", "2", "--mode", "stall", login=False)
    peers = [socket.create_connection(("127.0.0.1", up.port), timeout=PATIENCE_S) for _ in range(4)]
    up.stop()
    for peer in peers:
        try:
            assert peer.recv(1) == b""
        except ConnectionResetError:
            pass
        peer.close()


# ---- the control socket, the options ----


@pytest.mark.parametrize("words, answer", [
    ("refuze", 'did you mean "refuse"'), ("slow", '"slow N"'), ("slow x", "error"),
    ("slow 99999999", "error"), ("drop never", "error"), ("", "error"), ("ok ok", "error")])
def test_unknown_modes(upstream, words, answer):
    up = upstream(login=False)
    code, said = up.tell(words)
    assert code == 64 and answer in said
    assert up.stats()["mode"] == "ok"


def test_the_control_socket_takes_lines_in_any_pieces(upstream):
    up = upstream(login=False)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE_S)
        peer.connect(str(up.control))
        lines = peer.makefile("rb")
        peer.sendall(b"de")
        peer.sendall(b"fer\nsta")
        assert lines.readline().endswith(b"mode=defer\n")
        peer.sendall(b"ts\r\nok\n")
        assert lines.readline().endswith(b"mode=defer\n")
        assert lines.readline().endswith(b"mode=ok\n")
        peer.sendall(b"x" * 4096)
        try:
            assert lines.read() == b""
        except ConnectionResetError:
            pass
    assert up.stats()["mode"] == "ok"


@pytest.mark.parametrize("options", [
    ["--mode", "refuze"], ["--threads", "0"], ["--threads", "x"], ["--io", "x"], ["--user", "x"],
    ["--listen", "nowhere"], ["--listen", "127.0.0.1:70000"], ["--tls-on-connect"], ["word"],
    ["--tell", "ok"], ["--no-such-option"], ["--cert", "x"]])
def test_bad_options(options):
    done = subprocess.run([str(PROGRAM), *options], capture_output=True, text=True,
                          timeout=PATIENCE_S)
    assert done.returncode == 64 and done.stderr


def test_a_file_is_not_replaced_by_the_control_socket(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("here")
    done = subprocess.run([str(PROGRAM), "--listen", "127.0.0.1:0", "--threads", "2", "--control",
                           str(precious)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (73, "") and str(precious) in done.stderr
    assert precious.read_text() == "here"


def test_help_names_every_mode():
    done = subprocess.run([str(PROGRAM), "--help"], capture_output=True, text=True,
                          timeout=PATIENCE_S)
    assert done.returncode == 0
    for mode in ("ok", "refuse-login", "refuse", "defer", "stall", "drop late", "slow N", "throttle"):
        assert mode in done.stdout


def test_nobody_to_tell():
    done = subprocess.run([str(PROGRAM), "--control", "/nonexistent/socket", "--tell", "ok"],
                          capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 69 and done.stderr
