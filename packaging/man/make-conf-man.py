#!/usr/bin/python3
"""Prints tasuki.conf(5), made from schema/config.def and schema/playbook.def:

    packaging/man/make-conf-man.py > packaging/man/tasuki.conf.5
"""

import sys

from roff import escaped, rows

HEAD = r'''.\" Made by packaging/man/make-conf-man.py from schema/config.def and schema/playbook.def: change those.
.TH TASUKI.CONF 5 "" tasuki "tasuki mail relay"
.SH NAME
tasuki.conf \- configuration of the tasuki mail relay
.SH SYNOPSIS
.I /etc/tasuki/tasuki.conf
.SH DESCRIPTION
The file is read by
.BR tasukid (8),
.BR tasukictl (1)
and
.BR tasuki\-web (8).
It has lines of the form
.IB key " = " value\fR,
section lines like
.BI [upstream\~ name ]\fR,
and comments: from a
.B #
at the beginning of a line or of a value, or behind a blank.
A value in double quotes keeps its blanks, and what would be a comment.
Settings in front of the first section are those of the relay itself.
.PP
An unknown or repeated key and a value that cannot be read are errors, each of which is told with its
line and column. No line is ever skipped with a warning, and a file with an error is not used at all:
.PP
.RS
.B tasukictl config check
.RE
.PP
says what the daemon would say, without a daemon.
.B tasukictl config explain
.I KEY
prints a setting's entry of this page, and
.B tasukictl config show
the settings in force.
.SH EXAMPLE
The smallest file that works:
.PP
.RS
.nf
upstream      = [relay.example.jp]:587
user          = id\-smtpauth
password\-file = /etc/tasuki/secrets/upstream
.fi
.RE
.SH VALUES
.TP
.I size
A number of bytes, or one with
.BR K ,
.B M
or
.BR G :
.BR 25M .
.TP
.I duration
A number with
.BR ms ,
.BR s ,
.BR m ,
.BR h ,
.B d
or
.BR w :
.BR 5d .
.TP
.I list
Values separated by commas.
.TP
.I yes or no
As it says.
'''

SECTIONS = {
    "GLOBAL": ("THE RELAY", "These stand in front of the first section."),
    "UPSTREAM": ("UPSTREAMS", """These stand in a section
.BI [upstream\\~ name ]\\fR,
one for each account with a provider. In a file with a single upstream they may stand in front of
the first section instead; there
.B host
is called
.BR upstream ."""),
    "DASHBOARD": ("THE STATUS PAGE", "These stand in the section\n.BR [dashboard] ."),
}

TYPES = {
    "LISTEN_LIST": "list of places to listen", "LISTEN": "place to listen",
    "NETWORK_LIST": "list of networks", "BOOL": "yes or no", "HOSTNAME": "host name",
    "ADDRESS": "mail address", "SIZE": "size", "DURATION": "duration", "COUNT": "number",
    "PATH": "absolute path", "COUNT_AUTO": "number, or auto", "IO": "auto, uring or poll",
    "TEXT": "text", "LOG_LEVEL": "error, warning, notice, info or debug", "HOST": "host",
    "TLS": "verify, encrypt or off", "AUTH_LIST": "auto, or a list of login methods",
    "PIPELINE": "auto, off, safe or stream", "RATE": "list of rates",
}

PROVIDERS = r'''.SH PROVIDERS
Where
.B host
names one of these, its server and port are known, and so are its limits and what it means by its
refusals. Settings in the file count more than those listed here.'''

TAIL = r'''.SH FILES
.TP
.I /etc/tasuki/tasuki.conf
The configuration, readable by root and the daemon.
.TP
.I /etc/tasuki/secrets/
Password files. One that others than its owner can read is refused, with the command that mends it.
.SH SEE ALSO
.BR tasukictl (1),
.BR tasukid (8),
.BR tasuki\-web (8)
'''


def entry(key, kind, default, doc, example):
    lines = [".TP", ".BR %s" % escaped(key), escaped(doc), ".br",
             "A value is: %s." % escaped(TYPES.get(kind, kind.lower().replace("_", " ")))]
    if default:
        lines += ["Default:", ".BR \"%s\" ." % escaped(default)]
    else:
        lines += ["Default: %s." % ("see above" if "by default" in doc else "none")]
    if example:
        lines += [".br", "Example:", ".B \"%s = %s\"" % (escaped(key), escaped(example))]
    return lines


def provider(name, word, title, host, regional, advice):
    servers = [s.replace("%", "REGION") for s in (host, regional) if s]
    words = ([word] if host else []) + (["%s:REGION" % word] if regional else [])
    settings = ["%s = %s" % (key, value) for owner, key, value in rows("playbook.def", "SETTING")
                if owner == name]
    lines = [".TP", ".BR %s" % escaped(" or ".join(words)).replace(" ", "\\ "),
             escaped("%s, %s. %s" % (title, " or ".join(servers), advice))]
    return lines + ([".br", escaped("Settings: %s." % "; ".join(settings))] if settings else [])


def page(table):
    out = [HEAD.rstrip("\n")]
    for section, (title, text) in SECTIONS.items():
        out += [".SH " + title, text]
        for row_section, _member, key, kind, default, doc, example in table:
            if row_section == section:
                out += entry(key, kind, default, doc, example)
    unknown = {row[0] for row in table} - set(SECTIONS)
    if unknown:
        sys.exit("a section that is not described here: %s" % ", ".join(sorted(unknown)))
    out.append(PROVIDERS)
    for name, word, title, host, regional, _names, advice in rows("playbook.def", "PROVIDER"):
        out += provider(name, word, title, host, regional, advice)
    return "\n".join(out) + "\n" + TAIL


if __name__ == "__main__":
    sys.stdout.write(page(rows("config.def")))
