#!/usr/bin/python3
"""The pure modules do no I/O, ask no clock, allocate nothing and keep nothing: what their release
objects need from outside is on the list of purity.txt, and they have no variables that change."""

import os
import subprocess

import tree

PURE = ("daemon/base", "schema", "daemon/proto", "daemon/sched", "daemon/outcome")
BUILD = "build/release"


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read_allowed(root):
    """Two dicts, of symbols and of variables: name -> the one object, or None for any."""
    symbols, variables = {}, {}
    for line in tree.read(root, "tests/lint/purity.txt").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("variable "):
            name, _, home = line[len("variable "):].partition(":")
            variables[name.strip()] = home.strip() or None
        elif line:
            names, _, home = line.partition(":")
            for name in names.split():
                symbols[name] = home.strip() or None
    return symbols, variables


def needed(path):
    """Names that the object leaves to others."""
    return {line.split()[-1] for line in run("nm", "-u", path).splitlines() if line.strip()}


def defined(path):
    lines = run("nm", "--defined-only", "--extern-only", path).splitlines()
    return {line.split()[-1] for line in lines if line.strip()}


def variables_of(path):
    """Names in .data and .bss; tables of pointers, in .data.rel.ro, are read only once loaded."""
    found = set()
    for line in run("objdump", "-t", path).splitlines():
        fields = line.split()
        section = next((f for f in fields if f.startswith(".") or f == "*COM*"), "")
        if not fields or fields[-1] == section:
            continue
        changes = section == "*COM*" or section.split(".")[1:2] in (
            ["data"], ["bss"], ["tdata"], ["tbss"])
        if changes and not section.startswith(".data.rel.ro"):
            # A static inside a function is called name.123.
            found.add(fields[-1].split(".")[0])
    return found


def objects_of(root):
    """(source, object relative to the build folder) of every pure source, and what is missing."""
    pairs, problems = [], []
    for path in tree.files(root, (".c",), PURE):
        name = path[:-2] + ".o"
        built = os.path.join(root, BUILD, name)
        if not os.path.exists(built):
            problems.append(f"{path}:1: {BUILD}/{name} is not there; run make first")
        elif os.path.getmtime(built) < os.path.getmtime(os.path.join(root, path)):
            problems.append(f"{path}:1: {BUILD}/{name} is older than its source; run make first")
        else:
            pairs.append((path, name))
    return pairs, problems


def check(root):
    symbols, variables = read_allowed(root)
    pairs, problems = objects_of(root)
    own = set()
    for _, name in pairs:
        own |= defined(os.path.join(root, BUILD, name))
    for path, name in pairs:
        built = os.path.join(root, BUILD, name)
        for symbol in sorted(needed(built) - own):
            # A pure function that is not built yet has been told above, not by who calls it.
            if symbol not in symbols:
                problems.append(f"{path}:1: a pure module calls {symbol}")
            elif symbols[symbol] not in (None, name):
                problems.append(f"{path}:1: only {symbols[symbol]} may call {symbol}")
        for variable in sorted(variables_of(built)):
            if variables.get(variable, "") not in (None, name):
                problems.append(f"{path}:1: a pure module has a variable that changes: {variable}")
    return problems


if __name__ == "__main__":
    tree.main(check)
