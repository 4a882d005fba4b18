#!/usr/bin/python3
"""Who includes whom: the table of layers.txt, third-party headers in their homes, no cycles."""

import fnmatch
import os
import re

import tree

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)


class Table:
    def __init__(self, text):
        self.modules, self.headers, self.system, self.private = {}, {}, [], []
        for line in text.splitlines():
            line = line.split("#")[0].strip()
            if not line:
                continue
            head, _, tail = line.partition(":")
            words = head.split()
            if words[0] == "module":
                self.modules[words[1]] = tail.split()
            elif words[0] == "header":
                self.headers[words[1]] = tail.split()
            elif words[0] in ("system", "private"):
                setattr(self, words[0], tail.split())
            else:
                raise SystemExit(f"layers.txt: {line}")

    def module_of(self, path):
        """The longest module that is a folder of path; None when there is none."""
        best = None
        for module in self.modules:
            if path.startswith(module + "/") and (best is None or len(module) > len(best)):
                best = module
        # A folder below daemon/ that the table does not name is no wiring.
        if best == "daemon" and path.count("/") > 1:
            return None
        return best

    def may(self, module, other):
        allowed = self.modules[module]
        return module == other or "*" in allowed or other in allowed

    def homes(self, header):
        for prefix, homes in self.headers.items():
            if header.startswith(prefix):
                return homes
        return None

    def is_system(self, header):
        return any(header.startswith(name) if name.endswith("/") else header == name
                   for name in self.system)


def includes(root, path):
    """(line, is_system, name) of each #include."""
    text = tree.without(tree.read(root, path), "comment", "line")
    return [(tree.line_of(text, m.start()), m[1] == "<", m[2]) for m in INCLUDE.finditer(text)]


def cycles(graph):
    """Each cycle once, as a list of nodes that begins and ends with the same one."""
    found, done = [], set()

    def visit(node, path):
        if node in path:
            found.append(path[path.index(node):] + [node])
            return
        if node in done:
            return
        for other in sorted(graph.get(node, ())):
            visit(other, path + [node])
        done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def judge_system(table, module, where, header):
    homes = table.homes(header)
    if homes is None:
        if table.is_system(header):
            return []
        return [f"{where} <{header}> is neither of the system nor in layers.txt"]
    if module in homes or module == "tests":
        return []
    return [f"{where} <{header}> has its home in {' and '.join(homes)}, not in {module}"]


def judge_own(root, table, module, where, header):
    if not os.path.isfile(os.path.join(root, header)):
        return [f'{where} "{header}" is no file, seen from the top of the tree']
    other = table.module_of(header)
    if other is None or not table.may(module, other):
        return [f'{where} {module} may not include "{header}"']
    name = os.path.basename(header)
    if other != module and module != "tests" and any(
            fnmatch.fnmatch(name, pattern) for pattern in table.private):
        return [f'{where} "{header}" is a private header of {other}']
    return []


def check(root):
    table = Table(tree.read(root, "tests/lint/layers.txt"))
    problems, of_files = [], {}
    for path in tree.files(root, (".c", ".h", ".def")):
        module = table.module_of(path)
        if module is None:
            problems.append(f"{path}:1: this folder is no module of layers.txt")
            continue
        for line, is_system, header in includes(root, path):
            where = f"{path}:{line}:"
            if is_system:
                problems += judge_system(table, module, where, header)
                continue
            problems += judge_own(root, table, module, where, header)
            of_files.setdefault(path, set()).add(header)
    for cycle in cycles(of_files):
        problems.append(f"{cycle[0]}:1: files include each other: {' -> '.join(cycle)}")
    # What the table allows has no cycle, so modules that keep to it have none either.
    named = {name: set(others) - {"*"} for name, others in table.modules.items()}
    for cycle in cycles(named):
        problems.append(f"tests/lint/layers.txt:1: the table has a cycle: {' -> '.join(cycle)}")
    return problems


if __name__ == "__main__":
    tree.main(check)
