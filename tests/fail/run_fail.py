#!/usr/bin/python3
"""Every fallible call fails once: runs the test programs of `make fail`, and adds up.

A program runs each of its cases once for each of the product's calls that is to fail (fail_plan.c
chooses which; fail_run.c says what counts as wrong). One by hand, with its output:

    FAIL_CASE=NAME FAIL_AT=17 [FAIL_VARIANT=1] build/asan/fail/test_tls

Others of its variables: FAIL_KIND=alloc,lmdb,sys,lib,ring (those only), FAIL_VERBOSE=1 (a line a
case), FAIL_BUDGET_MS (about so long a case; 0: all calls, all errors), FAIL_JOBS (children at once),
FAIL_LIMIT_MS, FAIL_SEED, FAIL_LEAKS=1 (LeakSanitizer after each run that passes).
"""

import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SUM = re.compile(r"^sum: (.*)$", re.M)
WRONG = re.compile(r"^wrong: \S+, (\S+) (.*?)(?: when .*| though .*)?$", re.M)

# Programs with much to do begin first, and are cut: each part has every so-many-th case.
PARTS = {"test_io": 2, "test_store": 2, "test_queue": 2, "test_tls": 2, "test_stream": 2,
         "test_daemon": 2, "test_dns": 1, "test_ingress": 1, "test_sasl_login": 1}

# What the rig must say of fail_broken.c: a case, and the words of its verdict.
BROKEN = {("unchecked", "has a sanitizer report"), ("leak", "passes, but leaks"),
          ("check", "aborts"), ("twice", "has a sanitizer report"), ("spin", "does not end"),
          ("promise_written", "fails an assertion")}


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


def makes_calls(program):
    """Whether anything that may fail was linked into it: the pure modules' tests have nothing."""
    return any(name.startswith("fail_") and name[5:] in makes_calls.rows
               for name in symbols(program, "--defined-only"))


def rows():
    with open(os.path.join(HERE, "calls.def"), encoding="utf-8") as file:
        return set(re.findall(r"^(?:CALL|BYTES|OWN)\(\w+, [^,]+, (\w+),", file.read(), re.M))


def run(program, part, parts, settings):
    environment = {**os.environ, **settings, "FAIL_PART": f"{part}/{parts}"}
    done = subprocess.run([program], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", check=False)
    found = SUM.search(done.stdout)
    counts = dict(pair.split("=") for pair in found[1].split()) if found else None
    return program, done, {key: int(value) for key, value in counts.items()} if counts else None


def self_test(folder):
    """The broken functions are told of, each with its words; the sound one is not."""
    program = os.path.join(folder, "test_broken")
    _, done, counts = run(program, 0, 1, {"FAIL_LIMIT_MS": "10000", "FAIL_BUDGET_MS": "0"})
    said = set(WRONG.findall(done.stdout))
    problems = [f"not told: {case} {words}" for case, words in sorted(BROKEN - said)]
    problems += [f"told wrongly: {case} {words}" for case, words in sorted(said - BROKEN)]
    if done.returncode == 0 or counts is None or counts["wrong"] < len(BROKEN):
        problems.append(f"exit status {done.returncode}, counts {counts}")
    for problem in problems:
        print(f"self-test: {problem}")
    if problems:
        print(done.stdout + done.stderr)
    else:
        print(f"self-test: {len(BROKEN)} broken functions, each told of in the right words")
    return not problems


def jobs_of(folder):
    names = sorted(name for name in os.listdir(folder)
                   if name.startswith("test_") and os.access(os.path.join(folder, name), os.X_OK))
    names.remove("test_broken")
    names.sort(key=lambda name: -PARTS.get(name, 0))
    jobs, silent = [], []
    for name in names:
        program = os.path.join(folder, name)
        if makes_calls(program):
            jobs += [(program, part, PARTS.get(name, 1)) for part in range(PARTS.get(name, 1))]
        else:
            silent.append(name)
    return jobs, silent


def tell(program, done, counts, took_s, verbose):
    """What a program said that was wrong; or all, when it has not come to its sum."""
    text = done.stdout
    if counts is None:
        print(f"{os.path.basename(program)}: exit status {done.returncode}, no sum\n"
              f"{text}{done.stderr}")
    elif counts["wrong"] > 0 or verbose:
        print(re.sub(r"^\[.*\n", "", text, flags=re.M), end="")
    if counts is not None:
        print(f"{os.path.basename(program):20} {counts['cases']:4} cases {counts['calls']:7} calls "
              f"{counts['runs']:6} runs {counts['reached']:6} failed "
              f"{counts['sites_reached']:4} of {counts['sites']:4} sites "
              f"{counts['wrong']:3} wrong {took_s:6.1f} s")
    sys.stdout.flush()


def run_all(folder, options):
    settings = {"FAIL_BUDGET_MS": "0" if options.nightly else str(options.budget_ms)}
    if options.nightly:
        settings["FAIL_LEAKS"] = "1"
    if options.verbose:
        settings["FAIL_VERBOSE"] = "1"
    jobs, silent = jobs_of(folder)
    total = {"cases": 0, "calls": 0, "runs": 0, "reached": 0, "wrong": 0}

    def timed(job):
        began = time.monotonic()
        return *run(*job, settings), time.monotonic() - began

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for program, done, counts, took_s in pool.map(timed, jobs):
            tell(program, done, counts, took_s, options.verbose)
            for key in total:
                total[key] += counts[key] if counts else 0
            bad_end = counts is None or (done.returncode != 0) != (counts["wrong"] > 0)
            total["wrong"] += 1 if bad_end else 0
    print(f"without a call that may fail: {' '.join(silent)}")
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="build/asan/fail")
    parser.add_argument("--nightly", action="store_true", help="all calls, all their errors")
    parser.add_argument("--budget-ms", type=int, default=500, help="of a case, about")
    parser.add_argument("--jobs", type=int, default=2, help="programs at once")
    parser.add_argument("--verbose", action="store_true", help="a line a case")
    options = parser.parse_args()
    folder = os.path.abspath(options.folder)
    makes_calls.rows = rows()
    unknown = unknown_calls(os.path.join(folder, "libproduct.a"))
    for name in unknown:
        print(f"{name}: called by the product; needs a row of calls.def, or a reason in exempt.txt")
    sound = self_test(folder)
    total = run_all(folder, options)
    wrong = total["wrong"] + len(unknown) + (0 if sound else 1)
    print(f"{total['calls']} calls, {total['runs']} runs, of which {total['reached']} reached "
          "the call that was to fail")
    print(f"fail: {total['cases']} test cases, {total['reached']} injected failures, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
