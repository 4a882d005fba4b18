#!/usr/bin/python3
"""Every row of schema/*.def is used by a program, named in a test, and documented; and is there once.

  used         its name stands in C outside of schema/, tests/ and, for a setting, its own parser
  tested       its name or its word stands in a file of tests/, other than those that walk a whole
               table and so know every row, and what none of them does
  documented   settings and commands: in README.md, packaging/man/, packaging/*.conf or schema/*.md.
               Log events and metrics: there as well, and by the sentence in the row.
               Outcomes: by the sentence in the row, which is not empty
               A page that is made from a table is judged as it is, so one that is behind is told.
"""

import glob
import os
import re

import tree

ARGUMENT = re.compile(r'\s*((?:"(?:\\.|[^"\\])*"\s*)+|[^,"]*)\s*(?:,|$)')
EXCEPTION = re.compile(r"^(\S+) (\S+) (used|tested|documented): (.+)$")
WORD = re.compile(r"[\w-]+")  # of a page or a test: store-open, max-size
NAME = re.compile(r"\w+")  # of C
# These walk all rows of a table.
WALKS = tuple(f"tests/unit/test_{table}.c" for table in ("event", "metric", "outcome"))
MEMBER = re.compile(r"(?:\.|->)\s*(dashboard\.\w+|\w+)")


class Row:
    """One row: what it is called in C and elsewhere, and where it stands."""

    def __init__(self, table, line, name, in_code, words, sentence, in_pages):
        self.table, self.line, self.name = table, line, name
        self.in_code, self.words = in_code, words
        self.sentence, self.in_pages = sentence, in_pages


def arguments(text):
    """The arguments of one X(...), string literals without their quotes."""
    found, at = [], 0
    while at < len(text):
        m = ARGUMENT.match(text, at)
        if m is None or m.end() == at:
            break
        piece = m[1].strip()
        if piece.startswith('"'):
            piece = "".join(re.findall(r'"((?:\\.|[^"\\])*)"', piece))
        found.append(piece)
        at = m.end()
    return found


def config_row(line, a):
    section, member, key = a[0], a[1], a[2]
    field = f"dashboard.{member}" if section == "DASHBOARD" else member
    name = f"{section.lower()}/{key}"
    return Row("config.def", line, name, field, {key}, a[5], True)


def command_row(line, a):
    return Row("command.def", line, a[1], f"COMMAND_{a[0]}", {a[1]}, a[4], True)


def outcome_row(line, a):
    return Row("outcome.def", line, a[1], f"OUTCOME_{a[0]}", {a[1]}, a[5], False)


def event_row(line, a):
    return Row("event.def", line, a[1], f"EVENT_{a[0]}", {a[1]}, a[4], True)


def metric_row(line, a):
    return Row("metric.def", line, a[1], f"METRIC_{a[0]}", {a[1], "tasuki_" + a[1]},
               a[3], True)


def lifecycle_row(line, a):
    return Row("lifecycle.def", line, a[1], f"LIFECYCLE_{a[0]}", {a[1]}, a[2], True)


def provider_row(line, a):
    # A provider is found by its word, by way of the table.
    return Row("playbook.def", line, a[1], "playbook_find", {a[1]}, a[6], True)


# Macros of playbook.def beside PROVIDER, which are not rows of their own: number of arguments.
OF_PROVIDERS = {"SETTING": 3, "REPLY": 8}

# table: maker, number of arguments
TABLES = {
    "config.def": (config_row, 7),
    "command.def": (command_row, 5),
    "outcome.def": (outcome_row, 7),
    "event.def": (event_row, 5),
    "metric.def": (metric_row, 4),
    "lifecycle.def": (lifecycle_row, 3),
    "playbook.def": (provider_row, 7),
}


def row_pattern(macro):
    return re.compile(r"^" + macro + r"\((?P<args>.*?)\)\s*$", re.M | re.S)


def check_of_providers(path, text):
    for macro, count in OF_PROVIDERS.items():
        for m in row_pattern(macro).finditer(text):
            given = len(arguments(m["args"]))
            if given != count:
                yield (f"{path}:{tree.line_of(text, m.start())}: a {macro} has {count} arguments, "
                       f"not {given}")


def read_rows(root):
    rows, problems = [], []
    for path in tree.files(root, (".def",), ("schema",)):
        table = os.path.basename(path)
        text = tree.without(tree.read(root, path), "comment")
        if table not in TABLES:
            problems.append(f"{path}:1: tables.py does not know this table")
            continue
        maker, count = TABLES[table]
        macro = "PROVIDER" if table == "playbook.def" else "X"
        problems += check_of_providers(path, text) if macro != "X" else []
        pattern = row_pattern(macro)
        for m in pattern.finditer(text):
            line = tree.line_of(text, m.start())
            args = arguments(m["args"])
            if len(args) != count:
                problems.append(f"{path}:{line}: a row of {table} has {count} arguments, not "
                                f"{len(args)}")
            else:
                rows.append(maker(line, args))
        starts = len(re.findall(r"^" + macro + r"\(", text, re.M))
        if starts != len(pattern.findall(text)) or starts == 0:
            problems.append(f"{path}:1: rows that cannot be read, or none")
    return rows, problems


def read_pages(root):
    pages = glob.glob(os.path.join(root, "packaging/man/*"))
    pages += glob.glob(os.path.join(root, "packaging/*.conf"))
    pages += glob.glob(os.path.join(root, "schema/*.md")) + [os.path.join(root, "README.md")]
    # A hyphen that is typed as one is \- in a manual page.
    return "\n".join(tree.read(root, os.path.relpath(page, root)).replace("\\-", "-")
                     for page in sorted(pages) if os.path.isfile(page))


def read_code(root, left_out):
    code = []
    for path in tree.files(root, (".c", ".h"), ("daemon", "ctl", "web")):
        if not path.startswith(left_out):
            code.append(tree.without(tree.read(root, path), "comment", "line", "string"))
    return "\n".join(code)


def read_tests(root):
    suffixes = (".c", ".h", ".py", ".sh", ".conf", ".txt", ".dialog", ".json")
    return "\n".join(tree.read(root, path) for path in tree.files(root, suffixes, ("tests",))
                     if not path.startswith(("tests/lint/", *WALKS)))


def read_exceptions(root):
    exceptions = {}
    for number, line in enumerate(tree.read(root, "tests/lint/tables.txt").splitlines(), 1):
        m = EXCEPTION.match(line)
        if m:
            exceptions[m[1], m[2], m[3]] = number
        elif line.strip() and not line.startswith("#"):
            raise SystemExit(f"tests/lint/tables.txt:{number}: {line}")
    return exceptions


class Uses:
    """What is named where, as sets."""

    def __init__(self, root):
        self.names = set(NAME.findall(read_code(root, ("schema/",))))
        self.members = set(MEMBER.findall(read_code(root, ("daemon/config/",))))
        tests = read_tests(root)
        self.tests = set(WORD.findall(tests)) | set(NAME.findall(tests))
        self.documented = set(WORD.findall(read_pages(root)))


def broken_rules(row, uses):
    """The rules that a row breaks, each with the words to say so."""
    if row.in_code not in (uses.members if row.table == "config.def" else uses.names):
        yield "used", "no program uses it"
    if not (row.words | {row.in_code}) & uses.tests:
        yield "tested", "no test names it"
    documented = row.sentence.strip() != ""
    if row.in_pages:
        documented = documented and bool(row.words & uses.documented)
    if not documented:
        yield "documented", "no page describes it" if row.in_pages else "its sentence is empty"


def check(root):
    rows, problems = read_rows(root)
    uses, exceptions = Uses(root), read_exceptions(root)
    needed, seen = set(), {}
    for row in rows:
        where = f"schema/{row.table}:{row.line}: {row.name}:"
        if (row.table, row.name) in seen:
            problems.append(f"{where} stands in line {seen[row.table, row.name]} already")
        seen.setdefault((row.table, row.name), row.line)
        for rule, words in broken_rules(row, uses):
            exception = (row.table, row.name, rule)
            if exception in exceptions:
                needed.add(exception)
            else:
                problems.append(f"{where} {words} ({rule})")
    for exception, number in exceptions.items():
        if exception not in needed:
            problems.append(f"tests/lint/tables.txt:{number}: not needed: {' '.join(exception)}")
    return problems


if __name__ == "__main__":
    tree.main(check)
