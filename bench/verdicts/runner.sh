#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest: sh runner.sh SUITE
# SUITE holds "tests", a line "name<TAB>command" each; "filter", a shell script that keeps of a
# test's output (stdin) what is the same in each run; "exclude", names not to run; and "seconds",
# how long a test may take. Prints a line of each: verdict, name, status, digest, the guest's
# seconds, last line.
# Works in busybox and in Debian's sh.
suite=$1
read -r seconds < "$suite/seconds"
work=${TMPDIR:-/tmp}/verdicts
rm -rf "$work"
mkdir -p "$work/run"
tab=$(printf '\t')
grep -v '^$' "$suite/tests" | while IFS=$tab read -r name command; do
    grep -qxF -e "$name" "$suite/exclude" && continue
    mkdir -p "$work/run/$name"
    read -r began _ < /proc/uptime
    (
        cd "$work/run/$name" || exit 125
        exec timeout -s KILL "$seconds" sh -c "$command"
    ) < /dev/null > "$work/output" 2>&1
    status=$?
    read -r ended _ < /proc/uptime
    rm -rf "$work/run/$name"
    sh "$suite/filter" < "$work/output" > "$work/kept"
    digest=$(sha256sum < "$work/kept")
    said=$(tail -n 1 "$work/kept" | tr -cd ' -~' | cut -c 1-100)
    took=$(echo "$began $ended" | awk '{ printf "%.2f", $2 - $1 }')
    printf 'verdict\t%s\t%s\t%s\t%s\t%s\n' "$name" "$status" "${digest%% *}" "$took" "$said"
done
