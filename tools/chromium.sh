#!/bin/bash
# The browser tests drive Debian's chromium. Where there is none, root has it installed; for anybody else it is unpacked, with
# the libraries that this machine lacks, into .venv/chromium, and .venv/bin/chromium starts it. Nothing outside .venv is touched.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

command -v chromium >/dev/null && exit 0
[ -x .venv/bin/chromium ] && exit 0
[ -n "${SWITCHBOARD_CHROMIUM:-}" ] && exit 0
say() { printf '%s\n' "$*" >&2; }
if ! command -v apt-get >/dev/null; then
    say "The browser tests need chromium: put one on PATH, or name one in SWITCHBOARD_CHROMIUM, then make test again."
    exit 1
fi

say "Setting up: chromium"
folder=$PWD/.venv/chromium
log=$PWD/.venv/chromium.log

installed() {
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium
}

# apt with lists, packages and locks of its own: it reads what the system trusts and has, and writes only here.
unpacked() {
    rm -rf "$folder"
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/root" || return 1
    local apt=(apt-get -q -y -o Debug::NoLocking=1 -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache")
    "${apt[@]}" update && "${apt[@]}" --download-only --no-install-recommends install chromium || return 1
    local package
    for package in "$folder"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$folder/root" || return 1
    done
    rm -rf "$folder/lists" "$folder/cache"

    local libraries
    libraries=$(find "$folder/root" -name '*.so.[0-9]*' -printf '%h\n' | sort -u | paste -sd:)
    cat >"$folder/fonts.conf" <<END || return 1
<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>$folder/root/usr/share/fonts</dir><cachedir>$folder/fonts</cachedir></fontconfig>
END
    cat >.venv/bin/chromium.part <<END || return 1
#!/bin/sh
LD_LIBRARY_PATH='$libraries' FONTCONFIG_FILE='$folder/fonts.conf' exec '$folder/root/usr/lib/chromium/chromium' "\$@"
END
    chmod +x .venv/bin/chromium.part && .venv/bin/chromium.part --version && mv .venv/bin/chromium.part .venv/bin/chromium
}

if [ "$(id -u)" = 0 ]; then way=installed; else way=unpacked; fi
$way >"$log" 2>&1 && exit 0
tail -n 5 "$log" >&2
say "Chromium, which the browser tests need, could not be had; the whole story is in $log."
say "Install it (apt-get install chromium as root) or name one in SWITCHBOARD_CHROMIUM, then make test again."
exit 1
