"""What the lints share: the files of the tree, C without its comments, and how problems are told.

A lint is a module with check(root) -> list of problems, each "file:line: what is wrong", and runs
alone as well: tests/lint/layers.py [ROOT].
"""

import functools
import os
import re
import sys

TOP = ("daemon", "schema", "ctl", "web", "tests")
SKIPPED = {"build", ".git", "node_modules", "__pycache__", ".pytest_cache", "corpus"}

PIECES = re.compile(
    r"""(?P<comment>/\*.*?\*/)|(?P<line>//[^\n]*)"""
    r"""|(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.S,
)


def files(root, suffixes, top=TOP):
    """Paths below the top folders, relative to root, in order."""
    found = []
    for folder in top:
        for path, folders, names in os.walk(os.path.join(root, folder)):
            folders[:] = sorted(name for name in folders if name not in SKIPPED)
            for name in sorted(names):
                if name.endswith(suffixes):
                    found.append(os.path.relpath(os.path.join(path, name), root))
    return found


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def blank(text):
    """As many lines and columns, nothing in them."""
    return re.sub(r"[^\n]", " ", text)


@functools.lru_cache(maxsize=None)
def without(text, *kinds):
    """C text with its comments ("comment", "line") or literals ("string") blanked."""
    return PIECES.sub(lambda m: blank(m[0]) if m.lastgroup in kinds else m[0], text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def default_root():
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main(check):
    root = sys.argv[1] if len(sys.argv) > 1 else default_root()
    problems = check(root)
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)
