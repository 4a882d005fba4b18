"""What the generators of the manual pages share: rows of schema/*.def, and plain text as roff."""

import re
import sys
from pathlib import Path

SCHEMA = Path(__file__).resolve().parents[2] / "schema"
ARGUMENT = re.compile(r' *(?:"((?:[^"\\]|\\.)*)"|(\w+)) *(?:,|$)')


def unquoted(text):
    return re.sub(r"\\(.)", r"\1", text)


def escaped(text):
    """Plain text for a line of roff; what is not ASCII by its code point."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = "".join(ch if ch.isascii() else "\\[u%04X]" % ord(ch) for ch in text)
    if len(text) > 60 and " " not in text:
        text = text.replace(":", ":\\:")  # a line may be broken there
    return "\\&" + text if text.startswith(".") else text


def arguments(table, text):
    found, at = [], 0
    while at < len(text):
        m = ARGUMENT.match(text, at)
        if m is None:
            sys.exit("schema/%s has a row that is not understood here: %s" % (table, text))
        found.append(m[2] if m[1] is None else unquoted(m[1]))
        at = m.end()
    return found


def rows(table, macro="X"):
    """The rows of schema/TABLE, each a list of its arguments."""
    text = (SCHEMA / table).read_text(encoding="utf-8")
    found = re.findall(r"^%s\((.*)\)$" % macro, text, re.MULTILINE)
    if len(found) != len(re.findall(r"^%s\(" % macro, text, re.MULTILINE)):
        sys.exit("schema/%s has a row over several lines" % table)
    return [arguments(table, row) for row in found]
