#!/bin/bash
# Makes .venv with everything that a lock file pins, and this project in it. Usage: tools/setup.sh requirements.lock
# The second time it only compares a stamp. Needs nothing but python3 with its venv module.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

lock=$1
python=${PYTHON:-python3}
log=.venv/setup.log

say() { printf '%s\n' "$*" >&2; }

# What a finished set-up depends on: these files, this folder (scripts hold its path), and a Python that still works.
wanted() {
    cat "$1" pyproject.toml tools/setup.sh | cksum
    pwd
    .venv/bin/python --version 2>/dev/null
}
fresh() { [ -f ".venv/ready-${1%.lock}" ] && [ "$(cat ".venv/ready-${1%.lock}")" = "$(wanted "$1")" ]; }
# The tests' lock holds all of the other one.
done_before() { fresh "$lock" || fresh requirements-test.lock; }
done_before && exit 0

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "Python 3.11 or later is needed, and $python is not: install it, or say which with PYTHON=/path/to/python3"
    exit 1
fi

# Only one set-up at a time in one folder.
mkdir -p .venv && exec 9>.venv/setup.lock
if command -v flock >/dev/null; then flock 9; fi
done_before && exit 0

# One line that moves on a terminal, and a line a step elsewhere.
progress() {
    if [ -t 2 ]; then printf '\r\033[K%s' "$*" >&2; else say "$*"; fi
}

fail() {
    [ -t 2 ] && printf '\r\033[K' >&2
    say "$1"
    tail -n 5 "$log" >&2
    say "The whole story is in $log."
    exit 1
}

: >"$log"
if ! .venv/bin/python -c 'import pip, sys; sys.exit(sys.prefix != sys.argv[1])' "$PWD/.venv" 2>/dev/null; then
    progress "Setting up: the virtual environment"
    "$python" -c 'import ensurepip, venv' >>"$log" 2>&1 ||
        fail "A virtual environment cannot be made: on Debian, apt-get install python3-venv and try again."
    find .venv -mindepth 1 -maxdepth 1 ! -name setup.log ! -name setup.lock -exec rm -rf {} +
    "$python" -m venv .venv >>"$log" 2>&1 || fail "The virtual environment cannot be made."
fi

total=$(grep -c '^[A-Za-z0-9]' "$lock")
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
seen=0
.venv/bin/python -m pip install --progress-bar off --require-hashes -r "$lock" 2>>"$log" | while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    case $line in
    Collecting* | Processing* | Ignoring* | "Requirement already"*)
        seen=$((seen + 1))
        if [ -t 2 ] || [ $((seen % 20)) = 0 ]; then progress "Setting up: $seen of $total packages found"; fi
        ;;
    Installing*) progress "Setting up: installing $total packages" ;;
    esac
done || fail "The packages of $lock could not be installed."

progress "Setting up: switchboard itself"
.venv/bin/python -m pip install -q --no-deps --no-build-isolation -e . >>"$log" 2>&1 ||
    fail "Switchboard itself could not be installed."

wanted "$lock" >".venv/ready-${lock%.lock}"
progress "Setting up: done"
[ -t 2 ] && printf '\n' >&2
exit 0
