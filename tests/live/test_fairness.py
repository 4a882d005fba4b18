"""One device's flood, or its large scans, do not hold up another's alert."""

import smtplib
import subprocess

from peers import PATIENCE_S, section, wait_until

FLOOD = 10000
WINDOW = 16  # messages that may be with one connection already
SCAN = b"Subject: scan\r\n\r\n" + (b"x" * 76 + b"\r\n") * (20 * 1024 * 1024 // 78)
ALERT = "Subject: on fire\r\n\r\nthe server room\r\n"


def upstream(port, **more):
    return section(host="[127.0.0.1]:%d" % port, tls="off", connections=1, probe_min="1s",
                   probe_max="1s", **more)


def flood(daemon, count):
    subprocess.run(["smtp-source", "-d", "-s", "10", "-m", str(count), "-l", "1024",
                    "-f", "scanner@example.test", "-t", "archive@example.test",
                    "127.0.0.1:%d" % daemon.port], check=True, timeout=120, stdin=subprocess.DEVNULL)


def alert(daemon):
    """From a device of its own, so from an address of its own."""
    with smtplib.SMTP("127.0.0.1", daemon.port, timeout=PATIENCE_S,
                      source_address=("127.0.0.7", 0)) as client:
        client.sendmail("alarm@example.test", ["anna@example.test"], ALERT)


def place_of_alert(server, timeout=PATIENCE_S):
    """How many messages had arrived when it did."""

    def found():
        with server.lock:
            return [place for place, m in enumerate(server.messages)
                    if m.recipients == ("anna@example.test",)]

    return wait_until(found, timeout=timeout, what="the alert")[0]


def test_ten_thousand_messages_do_not_delay_anothers_alert(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"greeting": b"421 4.3.2 not now"}
    daemon = tasuki(upstream(server.port))
    flood(daemon, FLOOD)
    alert(daemon)
    assert daemon.status()["queue"]["queued"] == FLOOD + 1
    server.mend()
    assert place_of_alert(server) <= 2 * WINDOW
    # And with the flood flowing: what is with the connection already cannot be called back.
    with server.lock:
        server.messages.clear()
    alert(daemon)
    with server.lock:
        gone = len(server.messages)
    assert place_of_alert(server) <= gone + 2 * WINDOW


def test_scans_of_twenty_megabytes_do_not_delay_anothers_alert(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"greeting": b"421 4.3.2 not now"}
    daemon = tasuki(upstream(server.port))
    for _ in range(4):
        daemon.send(to="archive@example.test", body=SCAN)
    alert(daemon)
    server.mend()
    assert place_of_alert(server, timeout=60) <= 1, "at most one scan was chosen before"
    wait_until(daemon.queue_empty, timeout=120, what=daemon.log)
    assert len(server.messages) == 5


def test_small_ones_pass_large_ones_of_the_same_sender(tasuki, scripted_upstream):
    server = scripted_upstream()
    server.faults = {"greeting": b"421 4.3.2 not now"}
    daemon = tasuki(upstream(server.port))
    for _ in range(3):
        daemon.send(to="archive@example.test", body=SCAN)
    daemon.send(to="anna@example.test")
    server.mend()
    assert place_of_alert(server, timeout=60) <= 1
    wait_until(daemon.queue_empty, timeout=120, what=daemon.log)
    assert len(server.messages) == 4
