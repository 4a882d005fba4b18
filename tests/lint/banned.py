#!/usr/bin/python3
"""What no file of the tree may hold: notes to oneself, // comments, calls without a bound, tabs, long
lines, and paths that climb out of a folder."""

import re

import tree

COLUMNS_MAX = 100
# Cut in two, so that this file does not find itself.
NOTE = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")
CLIMB = re.compile(r'#[ \t]*include[ \t]*"[^"\n]*\.\./')


def read_calls(root):
    calls = {}
    for line in tree.read(root, "tests/lint/banned.txt").splitlines():
        line = line.split("#")[0].strip()
        if line:
            name, _, instead = line.partition(":")
            calls[name.strip()] = instead.strip()
    return calls


def judge_notes(path, text):
    return [f"{path}:{tree.line_of(text, m.start())}: a note that must not be committed: {m[0]}"
            for m in NOTE.finditer(text)]


def judge_c(path, text, calls, call):
    problems = []
    for piece in tree.PIECES.finditer(text):
        if piece.lastgroup == "line":
            problems.append(f"{path}:{tree.line_of(text, piece.start())}: a // comment")
    for number, line in enumerate(text.split("\n"), 1):
        if "\t" in line:
            problems.append(f"{path}:{number}: a tab")
        if len(line) > COLUMNS_MAX:
            problems.append(f"{path}:{number}: {len(line)} columns, at most {COLUMNS_MAX}")
    code = tree.without(text, "comment", "line")
    for climb in CLIMB.finditer(code):
        problems.append(f"{path}:{tree.line_of(code, climb.start())}: an include that climbs with ..")
    code = tree.without(code, "string")
    for m in call.finditer(code):
        problems.append(f"{path}:{tree.line_of(code, m.start())}: {m[1]}(); use {calls[m[1]]}")
    return problems


def check(root):
    calls = read_calls(root)
    # Not a member or a field of that name: p->system(), v.gets().
    call = re.compile(r"(?<![\w.>])(" + "|".join(calls) + r")\s*\(")
    problems = []
    for path in tree.files(root, (".c", ".h")):
        text = tree.read(root, path)
        problems += judge_c(path, text, calls, call) + judge_notes(path, text)
    for path in tree.files(root, (".def", ".py", ".sh", ".md", ".txt")):
        problems += judge_notes(path, tree.read(root, path))
    return problems


if __name__ == "__main__":
    tree.main(check)
