"""`make install`: what README's steps put where, and that the units call what is there."""

import re
import shutil
import stat
import subprocess

import pytest

from peers import ROOT

PROGRAMS = {"bin/tasukictl": "tasukictl", "sbin/tasukid": "tasukid", "sbin/tasuki-web": "tasuki-web"}


@pytest.fixture(name="root")
def installed(tmp_path):
    install(tmp_path)
    return tmp_path


def install(root):
    subprocess.run(["make", "-s", "install", "DESTDIR=%s" % root, "PREFIX=/usr"], cwd=ROOT,
                   check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)


def test_programs_pages_and_completion(root):
    for path, name in PROGRAMS.items():
        said = subprocess.run([str(root / "usr" / path), "--version"], check=True,
                              capture_output=True, text=True, timeout=30).stdout
        assert said.startswith(name + " ")
    pages = {p.name for p in (root / "usr/share/man").glob("man*/*")}
    assert pages == {"tasukictl.1", "tasuki.conf.5", "tasukid.8", "tasuki-web.8"}
    assert (root / "usr/share/bash-completion/completions/tasukictl").is_file()


def test_units_call_what_is_there(root):
    units = sorted((root / "usr/lib/systemd/system").iterdir())
    assert [u.name for u in units] == ["tasuki-web.service", "tasuki.service"]
    for unit in units:
        text = unit.read_text()
        program = re.search(r"^ExecStart=(/\S+) -c /etc/tasuki/tasuki.conf$", text, re.M)[1]
        assert (root / program[1:]).stat().st_mode & stat.S_IXUSR
        assert "User=tasuki" in text and "@" not in text
    assert (root / "usr/lib/sysusers.d/tasuki.conf").read_text().splitlines()[-1].startswith(
        "u tasuki ")
    if shutil.which("systemd-analyze"):
        # What it says of programs and users that this root has and the machine does not is no
        # fault of the unit's.
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *map(str, units)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        wrong = [line for line in done.stderr.splitlines()
                 if "tasuki" in line and "is not executable" not in line]
        assert wrong == []


def test_a_configuration_that_is_there_stays(root):
    file = root / "etc/tasuki/tasuki.conf"
    assert "upstream" in file.read_text()
    file.write_text("# mine\n")
    install(root)
    assert file.read_text() == "# mine\n"
