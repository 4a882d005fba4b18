#!/usr/bin/python3
"""Every fallible call fails once: runs the test programs of `make fail`, and adds up.

A program runs each of its cases once for each of the product's calls that is to fail (fail_plan.c
chooses which; fail_run.c says what counts as wrong). One by hand, with its output:

    FAIL_CASE=NAME FAIL_AT=17 [FAIL_VARIANT=1] build/asan/fail/test_tls

Others of its variables: FAIL_KIND=alloc,lmdb,sys,lib,ring (those only), FAIL_VERBOSE=1 (a line a
case), FAIL_JOBS (children at once), FAIL_BUDGET_MS (about so long for a case's calls, or else every
so-many-th fails; 0: no bound), FAIL_EACH=1 (these first, with fewer turns of long loops, then each
site's other errors), FAIL_TIME_MS (about so long for each step), FAIL_SLOW_MS (a case that takes
longer is tried but for what no other comes to), FAIL_LIMIT_MS (for one run), FAIL_SEED, FAIL_LEAKS=1
(LeakSanitizer after each run that passes).
"""

import argparse
import concurrent.futures
import itertools
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SUM = re.compile(r"^sum: (.*)$", re.M)
MEASURED = re.compile(r"measured: sites=(\d+)$")
WRONG = re.compile(r"^wrong: \S+, (\S+) (.*?)(?: when .*| though .*)?$", re.M)

# Measured first, so that they are not what all the others wait for in the end.
LONGEST = ("test_store", "test_store_pages", "test_tls", "test_stream", "test_io",
           "test_store_copy", "test_store_check", "test_queue_pool", "test_queue_pace")

COMMON_SITES = 1 << 16  # fail.h
SITE = struct.Struct("QQQ")  # key, bid, reached
FLOOR = 0.80  # of the sites that the cases come to has failed, or the target fails
COUNTS = ("cases", "slow", "whole", "calls", "runs", "reached", "sites", "sites_reached", "wrong")

# What the rig must say of fail_broken.c: a case, and the words of its verdict.
BROKEN = {("unchecked", "has a sanitizer report"), ("late", "has a sanitizer report"),
          ("leak", "passes, but leaks"),
          ("check", "aborts"), ("twice", "has a sanitizer report"), ("spin", "does not end"),
          ("promise_written", "fails an assertion")}
BROKEN_FOR_ASAN = {("twice", "has a sanitizer report")}  # LeakSanitizer alone does not see it


def symbols(path, *options):
    done = subprocess.run(["nm", *options, path], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in done.stdout.splitlines()
            if line.strip() and not line.endswith(":")}


def unknown_calls(library):
    """What the product calls that is neither a row of calls.def, nor exempt, nor its own."""
    known = symbols(library, "--defined-only")
    with open(os.path.join(HERE, "exempt.txt"), encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#"):
                known.update(line.rpartition(":")[2].split())
    called = symbols(library, "--undefined-only")
    return sorted(name for name in called - known
                  if not name.startswith(("fail_", "__asan_", "__ubsan_", "_TRACE", "__odr_asan")))


def has_asan(program):
    return any(name.startswith("__asan_init") for name in symbols(program, "--undefined-only"))


def makes_calls(program):
    """Whether anything that may fail was linked into it: the pure modules' tests have nothing."""
    return any(name.startswith("fail_") and name[5:] in makes_calls.rows
               for name in symbols(program, "--defined-only"))


def rows():
    with open(os.path.join(HERE, "calls.def"), encoding="utf-8") as file:
        return set(re.findall(r"^(?:CALL|BYTES|OWN)\(\w+, [^,]+, (\w+),", file.read(), re.M))


def run(program, settings):
    environment = {**os.environ, **settings}
    done = subprocess.run([program], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", check=False)
    found = SUM.search(done.stdout)
    counts = dict(pair.split("=") for pair in found[1].split()) if found else None
    return program, done, {key: int(value) for key, value in counts.items()} if counts else None


def said_by(done):
    """Without cmocka's own lines, which tests/run.sh would count."""
    return re.sub(r"^\[.*\n", "", done.stdout + done.stderr, flags=re.M)


def self_test(folder, plan):
    """The broken functions are told of, each with its words; the sound one is not. What to print,
    when all is well a single line."""
    program = os.path.join(folder, "test_broken")
    _, done, counts = run(program, {"FAIL_LIMIT_MS": "3000", **plan})
    broken = BROKEN if has_asan(program) else BROKEN - BROKEN_FOR_ASAN
    said = set(WRONG.findall(done.stdout))
    problems = [f"not told: {case} {words}" for case, words in sorted(broken - said)]
    problems += [f"told wrongly: {case} {words}" for case, words in sorted(said - broken)]
    if (done.returncode == 0 or counts is None or counts["wrong"] < len(broken)
            or counts["sites_reached"] < counts["sites"]):
        problems.append(f"exit status {done.returncode}, counts {counts}")
    if problems:
        return [*(f"self-test: {problem}" for problem in problems), said_by(done)]
    return [f"self-test: {len(broken)} broken functions, each told of in the right words"]


def programs_of(folder):
    """Those that make calls; and the names of those that do not."""
    names = sorted(name for name in os.listdir(folder)
                   if name.startswith("test_") and os.access(os.path.join(folder, name), os.X_OK))
    names.remove("test_broken")
    names.sort(key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    paths = [os.path.join(folder, name) for name in names]
    calling = [path for path in paths if makes_calls(path)]
    return calling, [os.path.basename(path) for path in paths if path not in calling]


class Program:
    """One that runs step by step: it measures its cases, lets the sites fail that fall to it, and
    then whatever there is time for. Its children live no longer than a step."""

    def __init__(self, path):
        self.path = path
        self.name = os.path.basename(path)
        self.process = None
        self.said = ""
        self.processor = None  # None: any
        self.sites = 0
        self.took_s = 0.0

    def begin(self, settings):
        self.process = subprocess.Popen(
            [self.path], cwd=ROOT, env={**os.environ, **settings}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if self.processor is not None:
            os.sched_setaffinity(self.process.pid, {self.processor})
        self.listen()

    def listen(self):
        """To what it says until a step is done, or until it has ended."""
        began = time.monotonic()
        for line in self.process.stdout:
            found = MEASURED.search(line)
            if found:
                self.sites = int(found[1])
                break
            self.said += line
        self.took_s += time.monotonic() - began

    def step(self, seconds):
        try:
            self.process.stdin.write(f"{max(int(1000 * seconds), 1)}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: counts() says so
        self.listen()

    def run(self, settings):
        """All at once, to its end."""
        began = time.monotonic()
        self.begin(settings)
        self.end()
        self.took_s = time.monotonic() - began

    def end(self):
        if self.process.returncode is None:
            self.said += self.process.communicate()[0] or ""

    def counts(self):
        """What it has counted, and None when it did not come to that."""
        self.end()
        found = SUM.search(self.said)
        pairs = found[1].split() if found else ()
        return {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs)} or None

    def tell(self, counts, verbose):
        """What it said that was wrong; or all, when it has not come to its sum."""
        if counts is None:
            print(f"{self.name}: exit status {self.process.returncode}, no sum")
        if counts is None or counts["wrong"] > 0 or verbose:
            print(re.sub(r"^\[.*\n", "", self.said, flags=re.M), end="")
        if counts is not None:
            print(f"{self.name:20} {counts['cases']:4} cases {counts['calls']:7} calls "
                  f"{counts['runs']:6} runs {counts['reached']:6} failed "
                  f"{counts['sites_reached']:4} of its {counts['sites']:4} sites "
                  f"{counts['wrong']:3} wrong {self.took_s:6.1f} s")
        sys.stdout.flush()


def sites_in(common):
    common.seek(0)
    return [(bid, reached) for key, bid, reached in SITE.iter_unpack(common.read()) if key]


def in_steps(programs, settings, options, common, began):
    """Each step of all programs, the dearest first, before the next."""
    def left(until):
        return until - (time.monotonic() - began)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda program: program.begin(settings), programs))
        print(f"measured after {time.monotonic() - began:.0f} s", flush=True)
        costs = dict.fromkeys((program.process.pid for program in programs), 0)
        for bid, _ in sites_in(common):
            costs[bid >> 10 & 0x3fffff] = costs.get(bid >> 10 & 0x3fffff, 0) + (bid >> 32) + 6
        programs.sort(key=lambda program: -costs[program.process.pid])
        list(pool.map(lambda program: program.step(left(options.most_seconds)), programs))
        failed = sum(reached for _, reached in sites_in(common))
        print(f"{failed} sites failed after {time.monotonic() - began:.0f} s", flush=True)
        waiting = sum(program.sites for program in programs)
        lock = threading.Lock()

        def more(program):
            nonlocal waiting
            with lock:
                part = program.sites / max(waiting, 1)
                waiting -= program.sites
            program.step(max(min(options.jobs * part, 1) * left(options.seconds), 0))

        list(pool.map(more, programs))


def each_call(programs, settings, options):
    """Programs in no order, each to its end, and what it has to say as soon as it has. Those of a
    worker stay on one processor: a run is short and gets much fresh memory, which costs half as much
    again where two have to agree on it."""
    processors = itertools.cycle(sorted(os.sched_getaffinity(0)))
    worker = threading.local()

    def whole(program):
        if not hasattr(worker, "processor"):
            worker.processor = next(processors)
        program.processor = worker.processor
        left_s = (options.most_seconds or 0) - (time.monotonic() - options.began)
        bound = {"FAIL_TIME_MS": str(max(int(1000 * left_s), 1))} if options.most_seconds else {}
        program.run({**settings, **bound})
        program.tell(program.counts(), options.verbose)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(whole, programs))


def run_all(folder, options):
    budget_ms = options.budget_ms
    if budget_ms is None:
        budget_ms = 0 if options.nightly else 500
    settings = {"FAIL_BUDGET_MS": str(budget_ms),
                "FAIL_SEED": str(options.seed)}
    if options.leaks:
        settings["FAIL_LEAKS"] = "1"
    if options.nightly:
        settings["FAIL_EACH"] = "1"
    else:
        settings["FAIL_STEPS"] = "1"
        settings["FAIL_SLOW_MS"] = str(options.slow_ms)
    if options.verbose:
        settings["FAIL_VERBOSE"] = "1"
    common = tempfile.NamedTemporaryFile(prefix="tasuki-fail-")
    common.truncate(SITE.size * COMMON_SITES)
    settings["FAIL_COMMON"] = common.name
    paths, silent = programs_of(folder)
    programs = [Program(path) for path in paths]
    if options.nightly:
        each_call(programs, settings, options)
    else:
        in_steps(programs, settings, options, common, options.began)
    total = dict.fromkeys(COUNTS, 0)
    for program in programs:
        counts = program.counts()
        if not options.nightly:
            program.tell(counts, options.verbose)
        for key in total:
            total[key] += counts[key] if counts else 0
        bad_end = counts is None or (program.process.returncode != 0) != (counts["wrong"] > 0)
        total["wrong"] += 1 if bad_end else 0
    sites = sites_in(common)
    total["sites"], total["sites_reached"] = len(sites), sum(reached for _, reached in sites)
    print(f"without a call that may fail: {' '.join(silent)}")
    for words in ("slow: ", "in part: ", "not failed: "):
        for program in programs:
            for line in re.findall(rf"^{words}.*$", program.said, re.M):
                print(line)
    return total


def processor_s():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="build/asan/fail")
    parser.add_argument("--nightly", action="store_true", help="each call of each case")
    parser.add_argument("--seconds", type=int, default=150,
                        help="so long for other errors and calls, once each site was tried")
    parser.add_argument("--most-seconds", type=int,
                        help="then nothing is tried any more; what was not is told (260; nightly: "
                        "no bound)")
    parser.add_argument("--slow-ms", type=int, default=3000,
                        help="a case that takes longer is tried but for what no other comes to")
    parser.add_argument("--budget-ms", type=int,
                        help="for the calls of a case, in one run each (500; nightly: no bound)")
    parser.add_argument("--seed", type=int, default=1, help="other cases and calls")
    parser.add_argument("--jobs", type=int, default=2, help="programs at once")
    parser.add_argument("--leaks", action="store_true",
                        help="LeakSanitizer after each run that passes, not only the suspect ones")
    parser.add_argument("--verbose", action="store_true", help="a line a case")
    options = parser.parse_args()
    options.began = time.monotonic()
    if options.most_seconds is None and not options.nightly:
        options.most_seconds = 260
    folder = os.path.abspath(options.folder)
    makes_calls.rows = rows()
    unknown = unknown_calls(os.path.join(folder, "libproduct.a"))
    for name in unknown:
        print(f"{name}: called by the product; needs a row of calls.def, or a reason in exempt.txt")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # it waits more than it works
        tested = [pool.submit(self_test, folder, plan)
                  for plan in ({"FAIL_EACH": "1", "FAIL_BUDGET_MS": "0"},
                               {"FAIL_BUDGET_MS": "1000"})]
        total = run_all(folder, options)
    said = [test.result() for test in tested]
    sound = all(len(lines) == 1 for lines in said)
    print("\n".join(line for lines in said for line in lines))
    low = total["sites_reached"] < FLOOR * total["sites"]
    wrong = total["wrong"] + len(unknown) + (0 if sound else 1)
    print(f"{total['calls']} calls, {total['runs']} runs, of which {total['reached']} reached "
          f"the call that was to fail; {total['slow']} slow cases tried but for what they alone have")
    if options.nightly:
        print(f"in {total['whole']} of {total['cases']} cases each call has failed in turn, until "
              "a run passed without coming to it")
    print(f"{total['sites_reached']} of {total['sites']} sites have failed, "
          f"{100 * total['sites_reached'] / max(total['sites'], 1):.1f} %"
          f"{', which is too few' if low else ''}; at least {100 * FLOOR:.0f} % have to")
    print(f"fail: {total['cases']} test cases, {total['reached']} injected failures, {wrong} wrong, "
          f"{time.monotonic() - options.began:.0f} s ({processor_s():.0f} s of processor time)")
    return 1 if wrong or low or not total["sites"] else 0


if __name__ == "__main__":
    sys.exit(main())
