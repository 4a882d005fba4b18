#!/usr/bin/python3
"""Prints tasukid(8): tasukid.8.in with the log events of schema/event.def and the counters of
schema/metric.def in their places:

    packaging/man/make-daemon-man.py > packaging/man/tasukid.8
"""

import sys
from pathlib import Path

from roff import escaped, rows

PAGE = Path(__file__).resolve().parent / "tasukid.8.in"

HEAD = '.\\" Made by packaging/man/make-daemon-man.py from tasukid.8.in and schema/: change those.\n'


def event_entries():
    lines = []
    for _name, word, level, fields, when in rows("event.def"):
        lines += [".TP", ".BR %s \" (%s)\"" % (escaped(word), level.lower()),
                  escaped(when)]
        if fields:
            lines += [".br", "Fields: %s" % ", ".join(escaped(field) for field in fields.split())]
    return lines


def metric_entries():
    lines = []
    for _name, name, kind, text in rows("metric.def"):
        lines += [".TP", ".BR %s \" (%s)\"" % (escaped("tasuki_" + name), kind.lower()),
                  escaped(text)]
    return lines


PLACES = {"@event.def@": event_entries, "@metric.def@": metric_entries}


def page(template):
    out = []
    for line in template.splitlines():
        out += PLACES[line]() if line in PLACES else [line]
    for place in PLACES:
        if template.splitlines().count(place) != 1:
            sys.exit("%s has no single line %s" % (PAGE.name, place))
    return HEAD + "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(PAGE.read_text(encoding="utf-8")))
