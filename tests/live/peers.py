"""The peers of the live tests: a private Postfix, a scripted upstream, and tasukid itself.

Everything lives in a directory of its own under /tmp and on loopback; the system's Postfix and
/etc are never touched. TASUKI_BUILD names the build directory (default build/release), TASUKI_IO
the backend (uring or poll; default: what the daemon chooses).
"""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TASUKI_BUILD", ROOT / "build/release"))
BUILD = BUILD if BUILD.is_absolute() else ROOT / BUILD
IO = os.environ.get("TASUKI_IO", "")
PATIENCE_S = 30
POLL_S = 0.02
USER = "id-smtpauth"
PASSWORD = "correct horse;battery=staple"
SECRETS = (PASSWORD, base64.b64encode(PASSWORD.encode()).decode(),
           base64.b64encode(b"\0%s\0%s" % (USER.encode(), PASSWORD.encode())).decode())
SANITIZER_WORDS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error:",
                   "this is a fault of tasukid")


def wait_until(predicate, timeout=PATIENCE_S, what="it"):
    """What predicate says, once that is true; asked again and again until the timeout."""
    end = time.monotonic() + timeout
    while True:
        said = predicate()
        if said:
            return said
        assert time.monotonic() < end, "waited %d s in vain for %s" % (
            timeout, what() if callable(what) else what)
        time.sleep(POLL_S)


def free_ports(count):
    """Ports that nobody listens on just now."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def own_directory(name):
    """Short, since a socket's path has 107 bytes, and open to Postfix's own user."""
    path = tempfile.mkdtemp(prefix="tlive-%s-" % name, dir="/tmp")
    os.chmod(path, 0o755)
    return Path(path)


# ---- certificates ----


class Certificates:
    """A private authority and what it signed: one good pair, and some that are wrong."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = self.authority("ca")
        self.stranger_ca = self.authority("stranger")
        self.good = self.sign("good", "ca", "DNS:localhost,IP:127.0.0.1")
        self.wrong_name = self.sign("wrong-name", "ca", "DNS:other.example.test")
        self.expired = self.sign("expired", "ca", "DNS:localhost,IP:127.0.0.1", days=-1)
        self.unknown = self.sign("unknown", "stranger", "DNS:localhost,IP:127.0.0.1")

    def openssl(self, *args):
        subprocess.run(["openssl", *args], check=True, cwd=self.directory, capture_output=True,
                       timeout=PATIENCE_S)

    def authority(self, name):
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-nodes", "-subj", "/CN=live test " + name, "-days", "30",
                     "-keyout", name + ".key", "-out", name + ".pem")
        return self.directory / (name + ".pem")

    def sign(self, name, ca, names, days=30):
        (self.directory / (name + ".ext")).write_text("subjectAltName=%s\n" % names)
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-subj", "/CN=" + name, "-keyout", name + ".key", "-out", name + ".csr")
        self.openssl("x509", "-req", "-in", name + ".csr", "-CA", ca + ".pem", "-CAkey",
                     ca + ".key", "-CAcreateserial", "-days", str(days),
                     "-extfile", name + ".ext", "-out", name + ".pem")
        return self.directory / (name + ".pem"), self.directory / (name + ".key")


# ---- what arrived ----


class Arrived:
    """One message as an upstream got it: envelope and content, trace lines apart."""

    def __init__(self, sender, recipients, content):
        self.sender = sender
        self.recipients = tuple(recipients)
        self.received = []
        rest = content
        while rest[:10].lower() == b"received: ":
            end = re.search(rb"\r\n(?![ \t])", rest)
            if end is None:
                break
            line = rest[:end.end()]
            if b"(tasuki)" not in line and b"(Postfix)" not in line:
                break
            self.received.append(line)
            rest = rest[end.end():]
        self.ours = [line for line in self.received if b"(tasuki)" in line]
        self.length = len(rest)
        self.digest = hashlib.sha256(rest).hexdigest()
        self.body = rest if len(rest) <= 1 << 20 else None


def read_content(lines):
    """The content up to its end, dots unstuffed; None when the peer went away before."""
    parts = []
    whole = True
    while True:
        line = lines.readline()
        if not line.endswith(b"\n"):
            return None
        if whole and line == b".\r\n":
            return b"".join(parts)
        parts.append(line[1:] if whole and line.startswith(b".") else line)
        whole = line.endswith(b"\r\n")


class Sink:
    """Where Postfix hands content on (smtpd_proxy_filter): keeps each message, byte for byte."""

    def __init__(self):
        self.messages = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        with peer, peer.makefile("rb", buffering=1 << 16) as lines:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.sendall(b"220 sink\r\n")
            sender, recipients = "", []
            for line in lines:
                verb = line[:4].upper()
                if verb == b"MAIL":
                    sender, recipients = path_of(line), []
                elif verb == b"RCPT":
                    recipients.append(path_of(line))
                elif verb == b"DATA":
                    peer.sendall(b"354 go\r\n")
                    content = read_content(lines)
                    if content is None:
                        return
                    with self.lock:
                        self.messages.append(Arrived(sender, recipients, content))
                elif verb == b"QUIT":
                    peer.sendall(b"221 bye\r\n")
                    return
                peer.sendall(b"250 ok\r\n")

    def to(self, *recipients):
        with self.lock:
            return [m for m in self.messages if set(recipients) & set(m.recipients)]

    def count(self):
        return len(self.messages)

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def path_of(line):
    return line[line.index(b"<") + 1:line.index(b">")].decode("utf-8", "surrogateescape")


# ---- Postfix ----

MAIN_CF = """
compatibility_level = 3.6
queue_directory = {d}/queue
data_directory = {d}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {d}/log/mail.log
maillog_file_prefixes = {d}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
myhostname = upstream.test
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
relay_domains =
default_transport = error:nothing leaves here
smtpd_peername_lookup = no
smtpd_reject_unlisted_recipient = no
smtpd_proxy_filter = 127.0.0.1:{sink}
smtpd_client_event_limit_exceptions =
smtpd_timeout = 60s
message_size_limit = 52428800
smtpd_recipient_limit = 1000
smtpd_tls_cert_file = {cert}
smtpd_tls_key_file = {key}
smtpd_tls_security_level = encrypt
smtpd_tls_loglevel = 1
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = tasuki.test
smtpd_tls_auth_only = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
"""

MASTER_CF = """
127.0.0.1:{starttls} inet n - n - - smtpd
127.0.0.1:{implicit} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
127.0.0.1:{plain} inet n - n - - smtpd
  -o smtpd_tls_security_level=none -o smtpd_sasl_auth_enable=no
  -o smtpd_relay_restrictions=permit_mynetworks,reject
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
127.0.0.1:{no_login} inet n - n - - smtpd
  -o smtpd_sasl_auth_enable=no
127.0.0.1:{wrong_name} inet n - n - - smtpd
  -o smtpd_tls_cert_file={c.wrong_name[0]} -o smtpd_tls_key_file={c.wrong_name[1]}
127.0.0.1:{expired} inet n - n - - smtpd
  -o smtpd_tls_cert_file={c.expired[0]} -o smtpd_tls_key_file={c.expired[1]}
127.0.0.1:{unknown} inet n - n - - smtpd
  -o smtpd_tls_cert_file={c.unknown[0]} -o smtpd_tls_key_file={c.unknown[1]}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

SERVICES = ("starttls", "implicit", "plain", "no_login", "wrong_name", "expired", "unknown")


class Postfix:
    """A whole Postfix of our own. What it takes goes to a Sink, unchanged."""

    def __init__(self, certificates):
        self.directory = own_directory("postfix")
        self.sink = Sink()
        self.ports = dict(zip(SERVICES, free_ports(len(SERVICES))))
        d = self.directory
        for name in ("config/sasl", "queue", "data", "log"):
            (d / name).mkdir(parents=True)
        shutil.chown(d / "data", "postfix")
        cert, key = certificates.good
        (d / "config/main.cf").write_text(
            MAIN_CF.format(d=d, sink=self.sink.port, cert=cert, key=key))
        (d / "config/master.cf").write_text(MASTER_CF.format(c=certificates, **self.ports))
        (d / "config/sasl/smtpd.conf").write_text(
            "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: %s/sasldb2\n"
            "mech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256\n" % d)
        subprocess.run(["saslpasswd2", "-p", "-c", "-f", str(d / "sasldb2"), "-u", "tasuki.test",
                        USER], input=PASSWORD.encode(), check=True, timeout=PATIENCE_S,
                       capture_output=True)
        shutil.chown(d / "sasldb2", "postfix")

    def command(self, word):
        done = subprocess.run(["postfix", "-c", str(self.directory / "config"), word],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=PATIENCE_S * 2)
        assert done.returncode == 0, "postfix %s: %s %s" % (
            word, done.stdout.decode(errors="replace"), self.log()[-3000:])

    def start(self):
        self.command("start")
        for port in self.ports.values():
            wait_until(lambda port=port: answers(port), what="Postfix on port %d" % port)

    def stop(self):
        self.command("stop")

    def remove(self):
        self.sink.stop()
        shutil.rmtree(self.directory)

    def log(self):
        path = self.directory / "log/mail.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def sessions_at_once(self, port_name, since=0):
        """The most sessions that the log saw at once on one service."""
        open_now = most = 0
        for line in self.log()[since:].splitlines():
            found = re.search(r"postfix/(\S+)/smtpd\[\d+\]: (dis)?connect from", line)
            if found and found[1].endswith(":%d" % self.ports[port_name]):
                open_now += -1 if found[2] else 1
                most = max(most, open_now)
        return most


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S):
            return True
    except ConnectionRefusedError:
        return False


# ---- an upstream that does as it is told ----

CLOSE = "close"
RESET = "reset"
STALL = "stall"


class ScriptedUpstream:
    """An SMTP server with faults. `faults` maps a stage to CLOSE, RESET, STALL or the reply to give
    instead (bytes, without CRLF); it can be changed while clients are connected. Stages: greeting,
    EHLO, STARTTLS, secured, AUTH, MAIL, RCPT, DATA, content, dot, QUIT. `recipients` maps an
    address to its reply, `senders` likewise (`""` is the null sender). `offers` are further lines of
    the answer to EHLO. `script`, when set, is what happens instead of all that: steps as tuples
    ("reply", bytes), ("expect", bytes), ("content",), ("tls",), ("close",), ("stall",).
    """

    def __init__(self, certificate=None, starttls=True, login=True):
        self.starttls, self.login = starttls and certificate is not None, login
        self.implicit = certificate is not None and not starttls
        self.faults, self.recipients, self.script = {}, {}, None
        self.messages, self.commands, self.sessions = [], [], 0
        self.mechanisms = b"PLAIN"  # offered
        self.offers, self.senders = [], {}
        self.stalled = threading.Event()
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.present(certificate)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def present(self, certificate):
        """From now on this certificate."""
        self.context = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*map(str, certificate))

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.sessions += 1
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        try:
            peer.settimeout(PATIENCE_S)
            Dialogue(self, peer).run()
        except (OSError, EOFError, ValueError):
            pass
        finally:
            peer.close()

    def took(self, arrived):
        with self.lock:
            self.messages.append(arrived)

    def to(self, *recipients):
        with self.lock:
            return [m for m in self.messages if set(recipients) & set(m.recipients)]

    def heard(self, start):
        with self.lock:
            return [c for c in self.commands if c.upper().startswith(start)]

    def mend(self):
        self.faults, self.recipients, self.script = {}, {}, None

    def stop(self):
        self.over.set()
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()


class Dialogue:
    """One connection to a ScriptedUpstream."""

    def __init__(self, upstream, peer):
        self.up, self.peer = upstream, peer
        self.lines = None
        self.sender, self.recipients = "", []
        self.mailing = self.secured = False

    def run(self):
        if self.up.implicit:
            self.secure()
        else:
            self.lines = self.peer.makefile("rb", buffering=1 << 16)
        if self.up.script is not None:
            for step in self.up.script:
                getattr(self, "step_" + step[0])(*step[1:])
            return
        self.answer("greeting", b"220 scripted.test ESMTP")
        while True:
            line = self.command()
            verb = line.split()[0].upper().decode("latin-1") if line.split() else ""
            getattr(self, "on_" + verb.lower(), self.on_unknown)(line)
            if verb == "QUIT":
                return

    def command(self):
        line = self.lines.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError
        with self.up.lock:
            self.up.commands.append(line[:-2])
        return line[:-2]

    def secure(self):
        self.peer = self.up.context.wrap_socket(self.peer, server_side=True)
        self.lines = self.peer.makefile("rb", buffering=1 << 16)
        self.secured = True

    def answer(self, stage, good):
        """The good reply, or the fault of this stage; True for the good one."""
        fault = self.up.faults.get(stage)
        if fault in (CLOSE, RESET, STALL):
            self.fail(fault)
        self.peer.sendall((good if fault is None else fault) + b"\r\n")
        return fault is None

    def fail(self, how):
        if how == RESET:
            self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == STALL:
            self.step_stall()
        raise EOFError

    def on_ehlo(self, line):
        offers = [b"scripted.test", b"SIZE 52428800", b"8BITMIME", b"PIPELINING", *self.up.offers]
        if self.up.starttls and not self.secured:
            offers.append(b"STARTTLS")
        elif self.up.login:
            offers.append(b"AUTH " + self.up.mechanisms)
        good = b"\r\n".join(b"250-" + o for o in offers[:-1]) + b"\r\n250 " + offers[-1]
        self.answer("secured" if self.secured and self.up.starttls else "EHLO", good)

    def on_helo(self, line):
        self.answer("EHLO", b"250 scripted.test")

    def on_starttls(self, line):
        if self.answer("STARTTLS", b"220 go ahead"):
            self.secure()

    def on_auth(self, line):
        words = line.split()
        given = base64.b64decode(words[2] if len(words) > 2 else b"").split(b"\0")[-1]
        good = given == PASSWORD.encode()
        self.answer("AUTH", b"235 2.7.0 ok" if good else b"535 5.7.8 wrong password")

    def on_mail(self, line):
        self.recipients = []
        self.sender = path_of(line)
        reply = self.up.senders.get(self.sender, b"250 2.1.0 ok")
        self.mailing = self.answer("MAIL", reply) and reply.startswith(b"25")

    def on_rcpt(self, line):
        path = path_of(line)
        reply = b"503 5.5.1 no MAIL" if not self.mailing else \
            self.up.recipients.get(path, b"250 2.1.5 ok")
        if self.answer("RCPT", reply) and reply.startswith(b"25"):
            self.recipients.append(path)

    def on_data(self, line):
        if not self.recipients:
            self.answer("none", b"554 5.5.1 no valid recipients")
            return
        if not self.answer("DATA", b"354 go"):
            return
        fault = self.up.faults.get("content")
        if fault is not None:
            self.lines.readline()
            self.fail(fault)
        content = read_content(self.lines)
        if content is None:
            raise EOFError
        if self.up.faults.get("dot") is None:
            self.up.took(Arrived(self.sender, self.recipients, content))
        self.answer("dot", b"250 2.0.0 taken")

    def on_rset(self, line):
        self.answer("RSET", b"250 2.0.0 ok")

    def on_noop(self, line):
        self.answer("NOOP", b"250 2.0.0 ok")

    def on_quit(self, line):
        self.answer("QUIT", b"221 2.0.0 bye")

    def on_unknown(self, line):
        self.answer("unknown", b"500 5.5.2 what?")

    def step_reply(self, text):
        self.peer.sendall(text)

    def step_expect(self, start):
        line = self.command()
        assert line.upper().startswith(start), line

    def step_content(self):
        if read_content(self.lines) is None:
            raise EOFError

    def step_tls(self):
        self.secure()

    def step_close(self):
        raise EOFError

    def step_stall(self):
        self.up.stalled.set()
        self.up.over.wait(PATIENCE_S)
        raise EOFError


# ---- tasukid ----


class Outcome:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def json(self):
        return json.loads(self.out)

    def rows(self):
        return [json.loads(line) for line in self.out.splitlines()]


def parse_logfmt(line):
    pairs = re.findall(r'([a-z-]+)=("(?:[^"\\]|\\.)*"|\S*)', line)
    return {key: value[1:-1] if value.startswith('"') else value for key, value in pairs}


def section(name="main", **settings):
    """An upstream's section; a_b is written a-b."""
    lines = ["[upstream %s]" % name]
    settings = {"probe_min": "200ms", "probe_max": "500ms", **settings}
    lines += ["%s = %s" % (key.replace("_", "-"), value) for key, value in settings.items()]
    return "\n".join(lines) + "\n"


class Tasuki:
    """tasukid in a directory of its own. Settings of the top of the file are keyword arguments."""

    def __init__(self, upstreams, **settings):
        self.directory = own_directory("tasuki")
        self.secret = self.directory / "secret"
        self.write_secret(PASSWORD)
        self.file = self.directory / "tasuki.conf"
        whole = {"listen": "127.0.0.1:0", "allow": "private", "hostname": "tasuki.test",
                 "domain": "test", "state": self.directory / "queue", "run": self.directory,
                 "retry_min": "200ms", "retry_max": "1s", "queue_max": "1G", "workers": 2,
                 "log_level": "debug", **settings}
        if IO:
            whole["io"] = IO
        text = "".join("%s = %s\n" % (k.replace("_", "-"), v) for k, v in whole.items())
        self.file.write_text(text + upstreams.replace("SECRET", str(self.secret)))
        self.log_path = self.directory / "log"
        self.process = None
        self.port = None

    def write_secret(self, password):
        """In one step, as an editor does it: no moment in which the file is empty."""
        fresh = self.directory / "secret.new"
        fresh.touch(mode=0o600)
        fresh.write_text(password + "\n")
        fresh.replace(self.secret)

    def start(self):
        past = len(self.log())
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(BUILD / "tasukid"), "-c", str(self.file)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)
        started = wait_until(lambda: self.ended() or self.events("start", since=past),
                             what=lambda: "the start: " + self.log())
        assert isinstance(started, list), "tasukid ended at once: " + self.log()
        self.port = int(started[-1]["listen"].split(",")[0].rsplit(":", 1)[1])
        return self

    def ended(self):
        return self.process.poll() is not None

    def stop(self, number=signal.SIGTERM):
        """Ends it in peace; what it says at the end is judged as well."""
        if self.process is None:
            return
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(number)
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            process.wait(PATIENCE_S)
            raise
        log = self.log()
        assert code == 0, "exit %d\n%s" % (code, log[-4000:])
        assert "event=stopped" in log, log[-2000:]
        for word in SANITIZER_WORDS:
            assert word not in log, log[log.index(word) - 200:][:6000]
        for secret in SECRETS:
            assert secret not in log

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        self.process = None

    def remove(self):
        shutil.rmtree(self.directory)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, word, since=0, **fields):
        found = [parse_logfmt(line) for line in self.log()[since:].splitlines()
                 if "event=%s " % word in line + " "]
        return [e for e in found if all(e.get(k) == v for k, v in fields.items())]

    def ctl(self, *args, timeout=PATIENCE_S):
        program = BUILD / "tasukictl"
        done = subprocess.run([str(program), "-c", str(self.file), *args],
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                              env={**os.environ, "LC_ALL": "C.UTF-8", "TERM": "dumb"})
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ask(self, command, **args):
        """A request on the control socket itself: quicker than a program for each."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE_S)
            peer.connect(str(self.directory / "ctl.sock"))
            peer.sendall(json.dumps({"id": 1, "command": command, "args": args}).encode() + b"\n")
            with peer.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        assert answer["ok"], answer
        return answer["result"]

    def status(self):
        return self.ask("status")

    def upstream(self, name="main"):
        return next(u for u in self.status()["upstreams"] if u["name"] == name)

    def queue(self, filter=""):
        return self.ask("queue", filter=filter, limit=1000)["messages"]

    def queue_empty(self):
        counts = self.status()["queue"]
        return counts["queued"] == counts["held"] == counts["failed"] == 0

    def send(self, to="anna@example.test", body=b"Subject: x\r\n\r\nhello\r\n",
             sender="scanner@example.test"):
        """One message over a connection of its own; the id that the reply names."""
        with Client(self.port) as client:
            return client.mail(to, body, sender)


class Client:
    """A client that says exactly what it is told."""

    def __init__(self, port, hello=True, timeout=PATIENCE_S):
        self.peer = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.lines = self.peer.makefile("rb")
        self.greeting = self.reply()
        if hello:
            assert self.say(b"EHLO client.test").startswith(b"250")

    def reply(self):
        """One whole reply; b"" at the end of the stream."""
        whole = b""
        try:
            for line in self.lines:
                whole += line
                if line[3:4] != b"-":
                    break
        except ConnectionResetError:
            pass
        return whole

    def write(self, data):
        self.peer.sendall(data)

    def say(self, line):
        self.write(line + b"\r\n")
        return self.reply()

    def reply_count_is_one(self):
        """Nothing more comes: the answer to a further command is its own."""
        return self.say(b"VRFY x").startswith(b"252")

    def begin(self, to="anna@example.test", sender="scanner@example.test"):
        recipients = [to] if isinstance(to, str) else to
        assert self.say(b"MAIL FROM:<%s>" % sender.encode()).startswith(b"250")
        for path in recipients:
            assert self.say(b"RCPT TO:<%s>" % path.encode()).startswith(b"250")

    def mail(self, to, body, sender="scanner@example.test"):
        self.begin(to, sender)
        assert self.say(b"DATA").startswith(b"354")
        stuffed = re.sub(rb"(^|(?<=\r\n))\.", b"..", body)
        reply = self.say(stuffed + b"." if stuffed else b".")
        assert reply.startswith(b"250 2."), reply
        return reply.split()[2].decode()

    def close(self):
        self.lines.close()
        self.peer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
