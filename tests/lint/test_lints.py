"""Each lint bites: a copy of the tree, one planted violation, and exactly that is told.

What the tree itself breaks at the moment is told before and after, and so cancels out.
"""

import os
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import banned  # noqa: E402
import format as formatting  # noqa: E402
import layers  # noqa: E402
import purity  # noqa: E402
import tables  # noqa: E402
import tree  # noqa: E402

COPIED = ("daemon", "schema", "ctl", "web", "tests", "packaging", "README.md", ".clang-format")


ORIGINALS = {}  # path: what a test has written over, or None where there was nothing
BEFORE = {}  # check and folder: what it tells of the folder as it is


@pytest.fixture(name="whole", scope="session")
def whole_fixture(tmp_path_factory):
    """The tree without build/, in a folder of its own."""
    whole = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "corpus")
    for name in COPIED:
        source, target = os.path.join(tree.default_root(), name), whole / name
        if os.path.isdir(source):
            shutil.copytree(source, target, ignore=ignored)
        elif os.path.exists(source):
            shutil.copy2(source, target)
    return whole


@pytest.fixture(name="copy")
def copy_fixture(whole):
    """The same, put back as it was when the test is done."""
    yield whole
    for target, text in ORIGINALS.items():
        if text is None:
            target.unlink()
        else:
            target.write_text(text, encoding="utf-8")
    ORIGINALS.clear()


def write(copy, path, text):
    target = copy / path
    target.parent.mkdir(parents=True, exist_ok=True)
    ORIGINALS.setdefault(target, target.read_text(encoding="utf-8") if target.exists() else None)
    target.write_text(text, encoding="utf-8")


def edit(copy, path, old, new):
    text = (copy / path).read_text(encoding="utf-8")
    assert old in text, f"{path} has no {old!r} any more"
    write(copy, path, text.replace(old, new, 1))


def news(check, copy, plant):
    """What check tells after plant() that it did not tell before."""
    key = (check, copy)
    if key not in BEFORE:
        BEFORE[key] = check(str(copy))
    plant()
    return [problem for problem in check(str(copy)) if problem not in BEFORE[key]]


# ---- layers ----

LAYERS = [
    ("daemon/proto/planted.c", '#include "daemon/io/io.h"',
     'daemon/proto/planted.c:1: daemon/proto may not include "daemon/io/io.h"'),
    ("daemon/base/planted.h", '\n#include "schema/outcome.h"',
     'daemon/base/planted.h:2: daemon/base may not include "schema/outcome.h"'),
    ("daemon/ingress/planted.c", '#include "daemon/store/store.h"',
     'daemon/ingress/planted.c:1: daemon/ingress may not include "daemon/store/store.h"'),
    ("ctl/planted.c", '#include "daemon/flow/flow.h"',
     'ctl/planted.c:1: ctl may not include "daemon/flow/flow.h"'),
    ("web/planted.c", '#include "daemon/store/store.h"',
     'web/planted.c:1: web may not include "daemon/store/store.h"'),
    ("daemon/sched/planted.c", "#include <lmdb.h>",
     "daemon/sched/planted.c:1: <lmdb.h> has its home in daemon/store, not in daemon/sched"),
    ("daemon/planted.c", "#include <liburing.h>",
     "daemon/planted.c:1: <liburing.h> has its home in daemon/io, not in daemon"),
    ("daemon/stream/planted.c", "#  include   <openssl/ssl.h>",
     "daemon/stream/planted.c:1: <openssl/ssl.h> has its home in daemon/tls, not in daemon/stream"),
    ("daemon/io/planted.c", "#include <glib.h>",
     "daemon/io/planted.c:1: <glib.h> is neither of the system nor in layers.txt"),
    ("daemon/dns/planted.c", '#include "dns.h"',
     'daemon/dns/planted.c:1: "dns.h" is no file, seen from the top of the tree'),
    ("daemon/novel/planted.c", "", "daemon/novel/planted.c:1: this folder is no module of layers.txt"),
    ("ctl/planted.c", '#include "daemon/config/config_private.h"',
     'ctl/planted.c:1: "daemon/config/config_private.h" is a private header of daemon/config'),
]


@pytest.mark.parametrize("path,text,expected", LAYERS)
def test_layers(copy, path, text, expected):
    assert news(layers.check, copy, lambda: write(copy, path, text + "\n")) == [expected]


def test_layers_file_cycle(copy):
    def plant():
        write(copy, "daemon/base/one.h", '#include "daemon/base/two.h"\n')
        write(copy, "daemon/base/two.h", '#include "daemon/base/one.h"\n')
    assert news(layers.check, copy, plant) == [
        "daemon/base/one.h:1: files include each other: "
        "daemon/base/one.h -> daemon/base/two.h -> daemon/base/one.h"]


def test_layers_table_cycle(copy):
    found = news(layers.check, copy, lambda: edit(
        copy, "tests/lint/layers.txt", "module daemon/io: daemon/base",
        "module daemon/io: daemon/base daemon/stream"))
    assert found == ["tests/lint/layers.txt:1: the table has a cycle: "
                     "daemon/io -> daemon/stream -> daemon/io"]


@pytest.mark.parametrize("path,text", [
    ("daemon/proto/planted.c", '/* #include "daemon/io/io.h" */\n#include "schema/outcome.h"\n'),
    ("tests/unit/planted.c", '#include <openssl/ssl.h>\n#include "daemon/config/config_private.h"\n'),
    ("daemon/planted.c", '#include "daemon/store/store.h"\n#include <sys/socket.h>\n'),
])
def test_layers_lets_be(copy, path, text):
    assert news(layers.check, copy, lambda: write(copy, path, text)) == []


# ---- purity ----

def compile_c(copy, path):
    target = copy / purity.BUILD / (path[:-2] + ".o")
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O1", "-fPIE", "-std=c17", "-D_GNU_SOURCE", "-I.", "-c", path, "-o",
                    str(target)], cwd=copy, check=True)


@pytest.fixture(name="pure")
def pure_fixture(tmp_path):
    """A tree of one pure function."""
    write(tmp_path, "tests/lint/purity.txt", tree.read(HERE, "purity.txt"))
    write(tmp_path, "daemon/base/sum.c",
          "#include <string.h>\nsize_t sum(const char *s);\n"
          "size_t sum(const char *s)\n{\n    return strlen(s);\n}\n")
    compile_c(tmp_path, "daemon/base/sum.c")
    assert purity.check(str(tmp_path)) == []
    yield tmp_path
    ORIGINALS.clear()


PLANTED = "daemon/sched/planted.c"

PURITY = [
    ("#include <time.h>\nlong f(void);\nlong f(void)\n{\n    return time(0);\n}\n",
     "a pure module calls time"),
    ("#include <stdlib.h>\nvoid *f(void);\nvoid *f(void)\n{\n    return malloc(77);\n}\n",
     "a pure module calls malloc"),
    ("#include <unistd.h>\nlong f(char *b);\nlong f(char *b)\n{\n    return read(0, b, 1);\n}\n",
     "a pure module calls read"),
    ("#include <stdlib.h>\nvoid f(void);\nvoid f(void)\n{\n    abort();\n}\n",
     "only daemon/base/check.o may call abort"),
    ("static int calls;\nint f(void);\nint f(void)\n{\n    return ++calls;\n}\n",
     "a pure module has a variable that changes: calls"),
    ("int f(void);\nint f(void)\n{\n    static int seen = 3;\n    return seen++;\n}\n",
     "a pure module has a variable that changes: seen"),
    ("int shared;\n", "a pure module has a variable that changes: shared"),
    ("_Thread_local int mine;\n", "a pure module has a variable that changes: mine"),
]


@pytest.mark.parametrize("text,expected", PURITY)
def test_purity(pure, text, expected):
    def plant():
        write(pure, PLANTED, text)
        compile_c(pure, PLANTED)
    assert news(purity.check, pure, plant) == [f"{PLANTED}:1: {expected}"]


def test_purity_wants_objects(pure):
    assert news(purity.check, pure, lambda: write(pure, PLANTED, "int f(void);\n")) == [
        f"{PLANTED}:1: build/release/daemon/sched/planted.o is not there; run make first"]


def test_purity_wants_new_objects(pure):
    def plant():
        built = pure / purity.BUILD / "daemon/base/sum.o"
        os.utime(built, (1, 1))
    assert news(purity.check, pure, plant) == [
        "daemon/base/sum.c:1: build/release/daemon/base/sum.o is older than its source; "
        "run make first"]


def test_purity_lets_be(pure):
    """Calls of other pure functions, constants, tables of pointers."""
    def plant():
        write(pure, PLANTED,
              "#include <stddef.h>\nsize_t sum(const char *s);\n"
              "const char *const words[] = {\"a\", \"b\"};\n"
              "size_t f(int i);\nsize_t f(int i)\n{\n    return sum(words[i]);\n}\n")
        compile_c(pure, PLANTED)
    assert news(purity.check, pure, plant) == []


# ---- tables ----

def append(copy, path, text):
    write(copy, path, (copy / path).read_text(encoding="utf-8") + text)


def line_count(copy, path):
    return len((copy / path).read_text(encoding="utf-8").splitlines())


ROWS = [
    ("event.def", 'X(PLANTED, "planted-row", INFO, "", "it happened")', "planted-row",
     ["no program uses it (used)", "no test names it (tested)",
      "no page describes it (documented)"]),
    ("metric.def", 'X(PLANTED, "planted_total", COUNTER, "Planted ones.")', "planted_total",
     ["no program uses it (used)", "no test names it (tested)",
      "no page describes it (documented)"]),
    ("outcome.def", 'X(PLANTED, "planted-row", RETRY, 0, 0, "", "c")', "planted-row",
     ["no program uses it (used)", "no test names it (tested)", "its sentence is empty (documented)"]),
    ("outcome.def", 'X(PLANTED, "planted-row", RETRY, 0, 0, "a, b", "c")', "planted-row",
     ["no program uses it (used)", "no test names it (tested)"]),
    ("command.def", 'X(PLANTED, "planted-row", READ, "", "it")', "planted-row",
     ["no program uses it (used)", "no test names it (tested)",
      "no page describes it (documented)"]),
    ("config.def", 'X(GLOBAL, planted_ms, "planted-row", DURATION, "1m", "It.", "2m")',
     "global/planted-row",
     ["no program uses it (used)", "no test names it (tested)",
      "no page describes it (documented)"]),
]


@pytest.mark.parametrize("table,row,name,expected", ROWS)
def test_tables(copy, table, row, name, expected):
    line = line_count(copy, f"schema/{table}") + 1
    found = news(tables.check, copy, lambda: append(copy, f"schema/{table}", row + "\n"))
    assert found == [f"schema/{table}:{line}: {name}: {words}" for words in expected]


def test_tables_satisfied(copy):
    """The same setting, used, tested and documented."""
    def plant():
        append(copy, "schema/config.def",
               'X(GLOBAL, planted_ms, "planted-row", DURATION, "1m", "It.", "2m")\n')
        write(copy, "daemon/planted.c", "int f(struct config *c) { return c->planted_ms; }\n")
        write(copy, "tests/unit/planted.c", '"planted-row = 1m"\n')
        write(copy, "packaging/man/planted.5", "planted-row is planted.\n")
    assert news(tables.check, copy, plant) == []


def test_tables_reads_pages_as_they_are_shown(copy):
    """A manual page has its hyphens as roff wants them."""
    def plant():
        append(copy, "schema/event.def", 'X(PLANTED, "planted-row", INFO, "", "it happened")\n')
        write(copy, "packaging/man/planted.8", ".BR planted\\-row\n")
    assert not any("documented" in problem for problem in news(tables.check, copy, plant))


@pytest.mark.parametrize("table", ["event", "metric", "outcome"])
def test_tables_a_walk_over_all_rows_is_no_test_of_one(copy, table):
    def plant():
        append(copy, "schema/outcome.def", 'X(PLANTED, "planted-row", RETRY, 0, 0, "a, b", "c")\n')
        path = f"tests/unit/test_{table}.c"
        write(copy, path, (copy / path).read_text() + 'const char *word = "planted-row";\n')
    assert any("tested" in problem for problem in news(tables.check, copy, plant))


def test_tables_comments_do_not_use(copy):
    def plant():
        append(copy, "schema/metric.def", 'X(PLANTED, "planted_total", COUNTER, "Planted ones.")\n')
        write(copy, "daemon/planted.c", '/* METRIC_PLANTED */\nchar *x = "METRIC_PLANTED";\n')
        write(copy, "tests/unit/planted.c", "METRIC_PLANTED\n")
        write(copy, "packaging/man/planted.8", "planted_total\n")
    assert [problem.rpartition(": ")[2] for problem in news(tables.check, copy, plant)] == [
        "no program uses it (used)"]


def test_tables_row_twice(copy):
    row = 'X(START, "start", NOTICE, "version", "again")\n'
    found = news(tables.check, copy, lambda: append(copy, "schema/event.def", row))
    assert any("start: stands in line" in problem for problem in found)


def test_tables_odd_row(copy):
    line = line_count(copy, "schema/event.def") + 1
    found = news(tables.check, copy, lambda: append(copy, "schema/event.def", 'X(ODD, "odd")\n'))
    assert found == [f"schema/event.def:{line}: a row of event.def has 5 arguments, not 2"]


def test_tables_exception(copy):
    def plant():
        append(copy, "schema/event.def", 'X(PLANTED, "planted-row", INFO, "", "it happened")\n')
        append(copy, "tests/lint/tables.txt",
               "event.def planted-row used: soon\nevent.def planted-row tested: soon\n"
               "event.def planted-row documented: soon\n")
    assert news(tables.check, copy, plant) == []


def test_tables_exception_not_needed(copy):
    found = news(tables.check, copy, lambda: append(
        copy, "tests/lint/tables.txt", "event.def no-such-row used: soon\n"))
    assert len(found) == 1
    assert found[0].endswith("not needed: event.def no-such-row used")


# ---- banned ----

BANNED = [
    ("int x; // so", "a // comment"),
    ("/* TO" "DO: later */", "a note that must not be committed: TO" "DO"),
    ("/* FIX" "ME */", "a note that must not be committed: FIX" "ME"),
    ("int f(void) { return atoi(x); }", "atoi(); use u64_parse"),
    ("void f(void) { strcpy(a, b); }", "strcpy(); use buf_put_str, or memcpy with a known length"),
    ("void f(void) { strcat (a, b); }", "strcat(); use buf_put_str"),
    ("void f(void) { sprintf(a, b); }", "sprintf(); use snprintf"),
    ("void f(void) { gets(a); }", "gets(); use a bounded read"),
    ("void f(void) { strtok(a, b); }", "strtok(); use slice_find"),
    ("void f(void) { system(a); }", "system(); use posix_spawn, without a shell"),
    ("void f(void) { popen(a, b); }", "popen(); use posix_spawn, without a shell"),
    ("\tint x;", "a tab"),
    ("int " + "x" * 97 + ";", "102 columns, at most 100"),
    ('#include "daemon/../schema/event.h"', "an include that climbs with .."),
]


@pytest.mark.parametrize("text,expected", BANNED)
def test_banned(copy, text, expected):
    found = news(banned.check, copy, lambda: write(copy, "ctl/planted.c", f"\n{text}\n"))
    assert found == [f"ctl/planted.c:2: {expected}"]


def test_banned_note_elsewhere(copy):
    found = news(banned.check, copy,
                 lambda: write(copy, "tests/live/planted.py", "# TO" "DO\n"))
    assert found == ["tests/live/planted.py:1: a note that must not be committed: TO" "DO"]


def test_banned_lets_be(copy):
    text = ('/* strcpy(a, b) and // and system(x) in a comment */\n'
            'const char *url = "http://x/ atoi(1)";\n'
            "int f(void)\n{\n    return snprintf(a, 1, \"\") + p->system(x) + my_gets(y);\n}\n"
            "/* " + "\u00e4" * 94 + " */\n")
    assert news(banned.check, copy, lambda: write(copy, "ctl/planted.c", text)) == []


# ---- format ----

def test_format(copy):
    found = news(formatting.check, copy,
                 lambda: write(copy, "ctl/planted.c", "int f(void){return 1;}\n"))
    assert found == ["ctl/planted.c:1: not formatted: clang-format -i ctl/planted.c"]


# ---- all of them ----

def test_run_tells_and_fails(copy):
    write(copy, "ctl/planted.c", "int x; // so\n")
    done = subprocess.run([os.path.join(HERE, "run"), "--root", str(copy), "banned"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("banned ")
    assert "  ctl/planted.c:1: a // comment\n" in done.stdout


def test_run_passes(tmp_path):
    for name in ("tests/lint/banned.txt", "daemon/base/num.c"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy2(os.path.join(tree.default_root(), name), tmp_path / name)
    done = subprocess.run([os.path.join(HERE, "run"), "--root", str(tmp_path), "banned"],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "banned   ok\n")
