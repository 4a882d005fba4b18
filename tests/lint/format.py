#!/usr/bin/python3
"""Every C file is as clang-format leaves it."""

import re
import shutil
import subprocess

import tree

COMPLAINT = re.compile(r"^(?P<where>[^:\n]+:\d+):\d+: error:", re.M)


def check(root):
    if shutil.which("clang-format") is None:
        return ["tests/lint/format.py:1: clang-format is not installed"]
    paths = tree.files(root, (".c", ".h"))
    done = subprocess.run(["clang-format", "--dry-run", "--Werror", *paths], cwd=root,
                          capture_output=True, text=True, check=False)
    first = {}
    for m in COMPLAINT.finditer(done.stderr):
        path = m["where"].rpartition(":")[0]
        first.setdefault(path, m["where"])
    problems = [f"{where}: not formatted: clang-format -i {path}" for path, where in first.items()]
    if done.returncode != 0 and not problems:
        problems.append(f"tests/lint/format.py:1: clang-format: {done.stderr.strip()[:200]}")
    return problems


if __name__ == "__main__":
    tree.main(check)
