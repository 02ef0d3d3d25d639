#!/usr/bin/env bash
# An A/B test that is really made: two variants of a model on one worker, calls at a constant rate, and `embed rollout` that moves the traffic step by
# step on the evidence. What is left: the rollout's record and page, and what callers saw meanwhile.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ab.sh --registry DIR --out DIR [options] [-- OPTIONS OF `embed rollout start`]

  --registry DIR  a registry whose version has both precisions
  --out DIR       where record.json, report.html, rollout.txt and calls/ go
  --model MODEL   (default: all-minilm-l6-v2)
  --from NAME     the variant that has the traffic: a precision (default: fp32)
  --to NAME       the one that is to get it (default: int8)
  --rate N        calls a second (default: 40)
  --steps LIST    percents of the traffic (default: 5,50,100)
  --hold TIME     how long each step is watched (default: 10m)

Needed on the PATH, or in a folder that EMBED_BIN_DIR names: embed, embed-worker, embed-loadtest, nats-server.
The exit code is that of the rollout: 0 if the traffic has moved.
TEXT
}

registry='' out='' model=all-minilm-l6-v2 from=fp32 to=int8 rate=40 steps=5,50,100 hold=10m
while [[ $# -gt 0 ]]; do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    --registry | --out | --model | --from | --to | --rate | --steps | --hold)
        [[ $# -ge 2 ]] || { echo "ab.sh: $1 needs a value" >&2 && exit 2; }
        printf -v "${1#--}" '%s' "$2" && shift 2
        ;;
    *) echo "ab.sh: unknown option $1; see --help" >&2 && exit 2 ;;
    esac
done
[[ -n $registry && -n $out ]] || { usage >&2 && exit 2; }
PATH=${EMBED_BIN_DIR:+$EMBED_BIN_DIR:}$PATH
mkdir -p "$out" && out=$(realpath "$out")
scratch=$(mktemp -d)

dev_pid='' load_pid=''
# Called by the trap alone.
# shellcheck disable=SC2329
finish() {
    local pid
    for pid in $load_pid $dev_pid; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$scratch"
}
trap finish EXIT

embed dev --json --port 0 --data-dir "$scratch/dev" --registry "$registry" --variant "$model=$from" --variant "$model=$to" \
    >"$scratch/ready.json" 2>"$scratch/dev.log" &
dev_pid=$!
until grep -qs nats_url "$scratch/ready.json"; do
    kill -0 "$dev_pid" 2>/dev/null || { tail -n 3 "$scratch/dev.log" >&2 && exit 1; }
    sleep 0.2
done
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$scratch/ready.json" | head -n 1; }
NATS_URL=$(field nats_url) && export NATS_URL
routing=(--route-config "$(field route_config)")

# Calls that name no variant go wherever the route says. A new report each half minute, until the rollout is over.
calls() {
    local n child=''
    trap 'kill "$child" 2>/dev/null; exit 0' TERM
    for ((n = 1; ; n++)); do
        embed-loadtest run --model "$model" --rate "$rate" --duration 30 --out "$out/calls/$n" >/dev/null 2>&1 &
        child=$!
        wait "$child" || true
    done
}
calls &
load_pid=$!

status=0
embed rollout start "$model" --from "$from" --to "$to" --steps "$steps" --hold "$hold" "${routing[@]}" "$@" 2>&1 |
    tee "$out/rollout.txt" || status=$?
embed rollout report "$model" "${routing[@]}" --save "$out/record.json" -o "$out/report.html" || status=$?
exit "$status"
