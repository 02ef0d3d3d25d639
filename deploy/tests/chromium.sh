#!/usr/bin/env bash
# Puts a headless Chromium into build/chromium, as the program `chromium`, for the test of the status page: one that is on the PATH, or out of
# Debian's packages, without installing anything. Debian replaces it every other week, and keeps no version for longer: apt's signature is
# what it is checked by.
#
# Exit code: 0 done, 1 failed, 3 there is no apt here, or one that has no such package.
set -euo pipefail
cd "$(dirname "$0")/../.."

to=build/chromium
[[ -x $to/chromium ]] && exit 0
mkdir -p "$to"
for name in chromium chromium-headless-shell google-chrome; do
    if found=$(command -v "$name"); then
        ln -sf "$found" "$to/chromium"
        exit 0
    fi
done
# shellcheck source=deploy/apt.sh
source deploy/apt.sh "$to" chromium
# Ubuntu, for one, has no such package. Where there are no lists at all, what apt says of that is told below.
if compgen -G "$work/lists/*_Packages*" >/dev/null &&
    [[ -z $(apt-cache "${apt[@]:2}" show chromium-headless-shell 2>>"$work/log") ]]; then
    echo "${0##*/}: apt has no chromium-headless-shell here: put chromium on the PATH" >&2
    exit 3
fi
# What the system has not of what it needs. A page without a font has no text.
if ! "${apt[@]}" install --download-only --yes --no-install-recommends chromium-headless-shell fonts-dejavu-core >>"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
for package in "$work"/archives/*.deb; do
    dpkg-deb --extract "$package" "$work/root"
done
rm -rf "$to/root"
mv "$work/root" "$to/root"
cat >"$to/fonts.conf" <<'CONF'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir prefix="relative">root/usr/share/fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
CONF
cat >"$to/starting" <<'START'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
libraries=$here/root/usr/lib/$(uname -m)-linux-gnu
export LD_LIBRARY_PATH="$libraries:$libraries/pulseaudio${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FONTCONFIG_FILE="$here/fonts.conf" XDG_CACHE_HOME="$here/cache"
exec "$here/root/usr/lib/chromium/chromium-headless-shell" "$@"
START
chmod +x "$to/starting"
mv "$to/starting" "$to/chromium"
