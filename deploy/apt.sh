# Sourced by scripts that want Debian's packages without installing anything, with a folder (below the repository's root, which is where they
# are) and the programs that they want. It makes `work`, a folder in that one which goes at the end, and `apt`, which is apt-get with lists of
# its own: nobody's are changed, and it need not be root. apt checks Debian's signature. Exits with 3 where there is no apt.
# shellcheck shell=bash

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "${0##*/}: no apt is here: put $2 on the PATH" >&2
    exit 3
fi
mkdir -p "$1"
work=$(mktemp -d "$PWD/$1/apt.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial"
# `_apt`, as which apt fetches where it is root, may not write here.
apt=(apt-get -q -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o "Dir::Cache::Archives=$work/archives"
    -o Acquire::Retries=5 -o APT::Sandbox::User=root -o Debug::NoLocking=1)
# A list that cannot be had may be of something else.
"${apt[@]}" update >"$work/log" 2>&1 || true
