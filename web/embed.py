#!/usr/bin/python3
"""Writes web/page_data.c, which holds the files of the page as bytes.

    web/embed.py            writes it
    web/embed.py --check    says whether it is current (exit 1: it is not)

Run it after every change of a file below, and commit what it writes.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE / "page_data.c"
FILES = {
    "page_html": "page.html",
    "page_css": "page.css",
    "page_js": "page.js",
    "page_icon": "icon.svg",
    "page_openapi": "openapi.json",
}
HEAD = """\
/*
 * Made by web/embed.py from the files of the page; change those and run it again.
 */
#include "web/page_data.h"

/* clang-format off */
"""
PER_LINE = 24


def array(name, path):
    data = path.read_bytes()
    lines = [f"\n/* {path.name} */", f"static const uint8_t {name}_bytes[] = {{"]
    for at in range(0, len(data), PER_LINE):
        lines.append("    " + ",".join(str(byte) for byte in data[at:at + PER_LINE]) + ",")
    lines += ["};", f"const struct slice {name} = {{{name}_bytes, sizeof {name}_bytes}};", ""]
    return "\n".join(lines)


def main():
    text = HEAD + "".join(array(name, HERE / file) for name, file in FILES.items())
    if sys.argv[1:] == ["--check"]:
        if not TARGET.exists() or TARGET.read_text() != text:
            sys.exit("web/page_data.c is not current; run: web/embed.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        TARGET.write_text(text)


if __name__ == "__main__":
    main()
