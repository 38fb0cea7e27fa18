#!/bin/bash
# The browser tests drive Debian's chromium: installs it when that is possible, else says what to do.
command -v chromium >/dev/null && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    printf 'Setting up: chromium\n' >&2
    log=$(mktemp)
    if { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium; } >"$log" 2>&1; then
        rm -f "$log"
        exit 0
    fi
    tail -n 5 "$log" >&2
fi
printf 'The browser tests need chromium on PATH: apt-get install chromium as root, then make test again.\n' >&2
exit 1
