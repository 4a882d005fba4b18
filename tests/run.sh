#!/bin/sh
# All tests, on a fresh Debian 12: sh tests/run.sh [STAGE...]
#
# Installs what packaging/packages.txt lists, then runs the stages below, each with a time limit and
# a log of its own in build/test-logs, and goes on after one that fails. The last line is
# "N passed, N failed"; the exit status is 1 when anything failed. A stage that ends badly without
# saying what failed counts as one failure.
#
# One stage, here and now, with its output on the terminal: sh tests/run.sh --stage STAGE
# All that are there: sh tests/run.sh --list
set -u
cd "$(dirname "$0")/.." || exit 1

# NAME SECONDS WHAT: in this order. stage_NAME below does it; dashes become underscores.
stages='
build-release   400 gcc, without a warning
build-clang     400 clang, without a warning
unit-release    300 unit tests and dialogues
unit-asan       600 the same under AddressSanitizer and UndefinedBehaviorSanitizer
unit-tsan       600 the same under ThreadSanitizer
fuzz            400 every fuzz target for 6 seconds on a copy of its corpus
lint            200 layers, purity, tables, banned calls, format; and the lints themselves
live-uring      600 real peers, over io_uring
live-poll       600 real peers, over epoll: what has to do with the network
crash           400 kill -9 under load, over io_uring and over epoll at once; then the books
power           400 power loss: every state that a cut may leave on the disk, 50,000 of them
fail            500 every call that may fail fails once, in every unit test and in the whole daemon
demo            200 packaging/demo.sh --once
'

PYTHON=${PYTHON:-/usr/bin/python3}
logs=build/test-logs
export PATH="$PATH:/usr/sbin:/sbin" # Postfix is there, also for who is not root
export LC_ALL=C.UTF-8

# ---- what the stages share ----

# Output counts where it is cmocka's or pytest's closing line, or one of these two.
passed() {
    echo "ok $*"
}

failed() {
    echo "not ok $*"
    stage_status=1
}

# judge NAME COMMAND...: the command is one test.
judge() {
    name=$1
    shift
    if "$@"; then
        passed "$name"
    else
        failed "$name: exit status $?"
    fi
}

build() {
    make -j2 VARIANT="$1" programs units
}

# Each of these programs in its own process, two at a time: FOLDER gets NAME.log and NAME.status.
# The rest of the words is the command, to which the program is added.
run_side_by_side() {
    folder=$1
    shift
    # shellcheck disable=SC2016 # the inner shell's variables
    xargs -P 2 -I PROGRAM sh -c 'folder=$1 program=$2; shift 2
        "$@" "$program" >"$folder/${program##*/}.log" 2>&1 </dev/null
        echo $? >"$folder/${program##*/}.status"' sh "$folder" PROGRAM "$@"
}

# What lies in FOLDER, in order. A program that fails without a line of cmocka's to say so has
# crashed; one that says nothing has tested nothing.
tell_unit_tests() {
    for file in "$1"/*.status; do
        name=$(basename "$file" .status)
        status=$(cat "$file")
        echo "--- $name"
        cat "$1/$name.log"
        if [ "$status" -ne 0 ]; then
            stage_status=1
            grep -q '^\[  FAILED  \] [0-9]' "$1/$name.log" || failed "$name: exit status $status"
        elif ! grep -q '^\[  PASSED  \] [0-9]' "$1/$name.log"; then
            failed "$name: no test was run"
        fi
    done
}

unit_tests() {
    make -j2 VARIANT="$1" units || return 1
    folder=$logs/unit-$1
    rm -rf "$folder" && mkdir -p "$folder" || return 1
    shift
    find "build/${folder##*/unit-}/unit" -name 'test_*' -type f -perm -u+x |
        grep -v -E "${left_out:-^$}" | sort | run_side_by_side "$folder" timeout -k 10 200 "$@"
    tell_unit_tests "$folder"
    return $stage_status
}

live() {
    make -j2 all || return 1
    if [ "$1" = uring ] && ! has_uring; then
        echo 'io_uring is not to be had here: skipped'
        return 0
    fi
    io=$1
    shift
    TASUKI_IO=$io timeout -k 30 580 "$PYTHON" -m pytest -q -p no:cacheprovider -n 3 --dist loadfile \
        "$@"
}

# Where the kernel, or a container, forbids io_uring, it ends at once and says so.
has_uring() {
    timeout 2 build/release/tasuki-demo-upstream --io uring --listen 127.0.0.1:0 >/dev/null 2>&1
    [ $? -eq 124 ]
}

# ---- the stages ----

stage_build_release() {
    judge 'build release' make -j2 all units
}

stage_build_clang() {
    judge 'build clang' build clang
}

stage_unit_release() {
    unit_tests release
}

stage_unit_asan() {
    unit_tests asan
}

# gcc 12's ThreadSanitizer does not know the address layouts of every newer kernel: without
# randomisation, where that can be had, it does.
stage_unit_tsan() {
    # What has one thread cannot race: the slowest of it is left out. The store with readers beside its
    # writer is test_store_copy, test_store_history and test_queue.
    left_out='/test_(smtp_|sched|record|dialog|mail_|config|filter|view|classify|store_pages|store_check|store$)'
    if setarch -R true 2>/dev/null; then
        unit_tests tsan setarch -R
    else
        unit_tests tsan
    fi
}

# On a copy of the corpus, which grows.
fuzz_one() {
    name=${1##*/fuzz_}
    work=build/fuzz/work/$name
    mkdir -p "$work" build/fuzz/findings || return 1
    [ ! -d "tests/fuzz/corpus/$name" ] || cp -n "tests/fuzz/corpus/$name"/* "$work"/ || return 1
    timeout -k 10 120 "$1" -max_total_time=6 -rss_limit_mb=2048 \
        -artifact_prefix="build/fuzz/findings/$name-" "$work"
}

stage_fuzz() {
    make -j2 VARIANT=fuzz fuzzers || return 1
    folder=$logs/fuzz
    rm -rf "$folder" && mkdir -p "$folder" || return 1
    find build/fuzz -maxdepth 1 -name 'fuzz_*' -type f -perm -u+x | sort |
        run_side_by_side "$folder" sh tests/run.sh --fuzz-one
    for file in "$folder"/*.status; do
        name=$(basename "$file" .status)
        if [ "$(cat "$file")" -eq 0 ]; then
            passed "$name: $(sed -n 's/^Done \([0-9]*\) runs.*/\1 runs/p' "$folder/$name.log")"
        else
            failed "$name: a finding"
            tail -n 60 "$folder/$name.log"
            # The machine that it was found on may be gone tomorrow: the input itself, for base64 -d.
            finding=$(sed -n 's/.*Test unit written to //p' "$folder/$name.log")
            [ ! -f "$finding" ] || echo "wrong: $name on $(base64 -w 0 "$finding")"
        fi
    done
    return $stage_status
}

# A verdict a line, then what is wrong with blanks before it.
stage_lint() {
    make -j2 all || return 1
    "$PYTHON" tests/lint/run >$logs/lint.out 2>&1
    status=$?
    sed -e '/^[a-z]* *ok$/s/^/ok /' -e '/^[a-z]* *[0-9]* problems/s/^/not ok /' $logs/lint.out
    "$PYTHON" -m pytest -q -p no:cacheprovider tests/lint/test_lints.py || status=1
    return $status
}

stage_live_uring() {
    live uring tests/live
}

# Files that do not care what drives the network were run already.
stage_live_poll() {
    live poll tests/live/test_clients.py tests/live/test_relay.py tests/live/test_upstream_faults.py \
        tests/live/test_told.py tests/live/test_window.py tests/live/test_reports.py \
        tests/live/test_memory.py
}

# Both at once: they mostly wait for the disk and for each other.
stage_crash() {
    (live uring tests/crash) >$logs/crash-uring.log 2>&1 &
    other=$!
    (live poll tests/crash) >$logs/crash-poll.log 2>&1
    status=$?
    wait $other || status=1
    cat $logs/crash-uring.log $logs/crash-poll.log
    return $status
}

stage_power() {
    make -j2 build/release/power || return 1
    judge 'the rig notices each of the faults that it must' build/release/power --self-test
    judge '50,000 states after a power loss' build/release/power --states 50000
}

stage_fail() {
    judge 'every fallible call fails once' make -j2 fail
}

stage_demo() {
    judge 'the demo' sh packaging/demo.sh --once
}

# ---- the frame ----

# count LOG: "PASSED FAILED SKIPPED" of a stage, from what its tests said.
count() {
    awk '
        /^\[  PASSED  \] [0-9]+ test/ { passed += $4 }
        /^\[  FAILED  \] [0-9]+ test/ { failed += $4 }
        /^\[  SKIPPED \] [0-9]+ test/ { skipped += $4 }
        /^ok / { passed++ }
        /^not ok / { failed++ }
        /^(=+ )?[0-9]+ [a-z]+(, [0-9]+ [a-z]+)* in [0-9.]+s/ {
            gsub(/[=,]/, " ")
            for (i = 1; i < NF; i++) {
                if ($(i + 1) == "passed" || $(i + 1) == "xfailed") passed += $i
                if ($(i + 1) == "failed" || $(i + 1) ~ /^errors?$/) failed += $i
                if ($(i + 1) == "skipped") skipped += $i
            }
        }
        END { print passed + 0, failed + 0, skipped + 0 }
    ' "$1"
}

all_passed=0
all_failed=0

# What one wants to see where there is only this output: the lines that say what failed, or else the
# end of the log.
show_trouble() {
    grep -a -E '^(not ok |wrong: |FAILED |ERROR |\[   LINE   \]|\[  FAILED  \] [^0-9]|.*error: |.*ERROR: )' \
        "$1" | awk '!seen[$0]++' | head -n 60 >"$1.trouble"
    [ -s "$1.trouble" ] || tail -n 40 "$1" >"$1.trouble"
    sed 's/^/    /' "$1.trouble"
}

run_stage() {
    log=$logs/$1.log
    printf '%-14s %s ... ' "$1" "$3"
    began=$(date +%s)
    timeout -k 30 "$2" sh tests/run.sh --stage "$1" >"$log" 2>&1 </dev/null
    status=$?
    took=$(($(date +%s) - began))
    # shellcheck disable=SC2046 # three numbers
    set -- "$1" "$2" $(count "$log")
    stage_passed=$3 stage_failed=$4 stage_skipped=$5
    if [ $status -ne 0 ] && [ "$stage_failed" -eq 0 ]; then
        stage_failed=1
        if [ $status -eq 124 ] || [ $status -eq 137 ]; then
            echo "not ended after $2 s" >>"$log"
        else
            echo "exit status $status" >>"$log"
        fi
    fi
    all_passed=$((all_passed + stage_passed))
    all_failed=$((all_failed + stage_failed))
    skipped=
    [ "$stage_skipped" -eq 0 ] || skipped=", $stage_skipped skipped"
    printf '%s passed, %s failed%s (%s s)\n' "$stage_passed" "$stage_failed" "$skipped" "$took"
    if [ "$stage_failed" -gt 0 ]; then
        echo "  see $log:"
        show_trouble "$log"
    fi
}

list_stages() {
    printf '%s' "$stages" | sed '/^$/d'
}

# Which one is meant, with its dashes as a function's name has them.
function_of() {
    list_stages | awk -v name="$1" '$1 == name { gsub(/-/, "_", $1); print "stage_" $1 }'
}

# The one thing that Debian has no package of; without it, tests of the page are skipped.
browser_driver() {
    [ -d tests/live/node_modules/playwright-core ] ||
        timeout -k 10 200 npm install --prefix tests/live --no-audit --no-fund --no-package-lock
}

run_stages() {
    mkdir -p $logs
    printf '%-14s %s ... ' packages 'what packaging/packages.txt lists, and a driver for the browser'
    if sh packaging/packages.sh build runtime test >$logs/packages.log 2>&1; then
        browser_driver >>$logs/packages.log 2>&1 ||
            printf 'npm brought no browser driver, so the page is not looked at ... '
        echo 'there'
    else
        all_failed=1
        echo 'not all are there'
        tail -n 25 $logs/packages.log | sed 's/^/    /'
    fi
    list=$logs/stages
    list_stages >$list
    while read -r name seconds what <&3; do
        case " ${*:-$name} " in
        *" $name "*) run_stage "$name" "$seconds" "$what" ;;
        esac
    done 3<$list
    echo
    echo "$all_passed passed, $all_failed failed"
    [ $all_failed -eq 0 ]
}

stage_status=0
case ${1-} in
--list)
    list_stages
    ;;
--fuzz-one)
    fuzz_one "$2"
    ;;
--stage)
    run=$(function_of "${2-}")
    if [ -z "$run" ]; then
        echo "no such stage: ${2-}; see --list" >&2
        exit 64
    fi
    mkdir -p $logs
    $run
    status=$?
    [ $status -ne 0 ] || status=$stage_status
    exit $status
    ;;
-*)
    sed -n '2,/^set/s/^# \{0,1\}//p' tests/run.sh
    exit 64
    ;;
*)
    for name in "$@"; do
        if [ -z "$(function_of "$name")" ]; then
            echo "no such stage: $name; see --list" >&2
            exit 64
        fi
    done
    run_stages "$@"
    ;;
esac
