#!/usr/bin/env bash
# Puts `prometheus` and `promtool` into build/prometheus/bin, for the tests: what is on the PATH, or out of Debian's package, without
# installing anything. Needs apt where they are not installed; the version below is held to its SHA-256.
#
# Exit code: 0 done, 1 failed, 3 there is no apt here.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=2.42.0+ds-5+deb12u1
declare -A sha256=([amd64]=81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55)

to=build/prometheus
[[ -x $to/bin/prometheus && -x $to/bin/promtool ]] && exit 0
mkdir -p "$to/bin"
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    ln -sf "$(command -v prometheus)" "$(command -v promtool)" "$to/bin/"
    exit 0
fi
# shellcheck source=deploy/apt.sh
source deploy/apt.sh "$to" "prometheus and promtool"
architecture=$(dpkg --print-architecture)
cd "$work"
if "${apt[@]}" download "prometheus=$version" >>log 2>&1; then
    wanted=${sha256[$architecture]:-}
    [[ -z $wanted ]] || echo "$wanted  $(echo prometheus_*.deb)" | sha256sum --check --quiet -
else
    # A release of Debian has one version of a package; after its next one it is another.
    "${apt[@]}" download prometheus >>log 2>&1 || { cat log >&2 && exit 1; }
    echo "get.sh: Debian has $(echo prometheus_*.deb), and no longer $version: write it and its SHA-256 into get.sh ($(sha256sum prometheus_*.deb))" >&2
fi
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/prometheus ./usr/bin/promtool
mv usr/bin/prometheus usr/bin/promtool ../bin/
