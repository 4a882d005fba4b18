"""crash.py as a test: the books of a real run balance, and every spoilt copy of them does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from books import FAKES

CRASH = Path(__file__).with_name("crash.py")


def crash(*args):
    return subprocess.run([sys.executable, str(CRASH), *args], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("crash") / "books.json"
    return path, crash("--books", str(path))


def test_books_balance_after_kills(run):
    _, done = run
    assert done.returncode == 0, done.stdout.decode()
    assert b"the books balance" in done.stdout


@pytest.mark.parametrize("fake", sorted(FAKES))
def test_spoilt_books_are_noticed(run, fake):
    path, _ = run
    done = crash("--check", str(path), "--fake", fake)
    assert done.returncode == 1, done.stdout.decode()
    assert b"WRONG: " in done.stdout
