#!/bin/sh
# Every fuzz target for SECONDS on a copy of its corpus; the first finding ends it.
# usage: tests/fuzz/run.sh SECONDS
set -eu
seconds=${1:-60}
for target in build/fuzz/fuzz_*; do
    case $target in *.d | *.log) continue ;; esac
    name=${target##*/fuzz_}
    work=build/fuzz/work/$name
    mkdir -p "$work" build/fuzz/findings
    if [ -d "tests/fuzz/corpus/$name" ]; then
        cp -n "tests/fuzz/corpus/$name"/* "$work"/
    fi
    printf '%s: ' "$name"
    if "$target" -max_total_time="$seconds" -rss_limit_mb=2048 -artifact_prefix="build/fuzz/findings/$name-" \
        "$work" >"build/fuzz/$name.log" 2>&1; then
        sed -n 's/^Done \([0-9]*\) runs.*/\1 runs, no finding/p' "build/fuzz/$name.log"
    else
        echo "a finding; see build/fuzz/$name.log and build/fuzz/findings"
        exit 1
    fi
done
