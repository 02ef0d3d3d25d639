#!/usr/bin/env bash
# Does the worker run on TensorRT, on this machine? Starts a NATS server and a worker that may use nothing but TensorRT, for
# each precision, and says PASS or FAIL of each step: a step that could not be made is a FAIL. Run it once on a machine with an
# NVIDIA GPU and TensorRT 10.
#
# Exit code: 0 all steps passed, 1 one failed, 2 wrong usage.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: tensorrt-smoke.sh --registry DIR [options]

  --registry DIR       a model registry with graphs for TensorRT, as `make models` writes it
  --model NAME         the model's slug (default: all-minilm-l6-v2)
  --precisions LIST    separated by commas (default: fp16,int8, and fp8 where the device has it: compute capability 8.9 or newer)
  --most-elsewhere N   nodes of a graph that may run on another provider (default: 4; products never)
  --image IMAGE        run the worker in this container image instead of from the PATH
  --provider NAME      what the worker has to run on (default: tensorrt; tensorrt-rtx, cuda and cpu try out this script)
  --build-timeout S    seconds that a first start may take, engines being built (default: 1800)
  --out DIR            where logs, reports and built engines go (default: a new folder in /tmp)

Needed on the PATH, or named by EMBED_BIN_DIR: embed, embed-loadtest, nats-server, and embed-worker unless --image is given; for TensorRT
also embed-models and trtexec, which comes with TensorRT (Debian package libnvinfer-bin).
TEXT
}

registry='' model=all-minilm-l6-v2 precisions='' image='' provider=tensorrt build_timeout=1800 out='' most_elsewhere=4
while [[ $# -gt 0 ]]; do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --registry | --model | --precisions | --image | --provider | --build-timeout | --out | --most-elsewhere)
        [[ $# -ge 2 ]] || { echo "tensorrt-smoke: $1 needs a value" >&2 && exit 2; }
        name=${1#--} && name=${name//-/_}
        printf -v "$name" '%s' "$2"
        shift 2
        ;;
    *) echo "tensorrt-smoke: unknown option $1; see --help" >&2 && exit 2 ;;
    esac
done
[[ -n $registry ]] || { usage >&2 && exit 2; }
[[ -d $registry/models/$model ]] || { echo "tensorrt-smoke: $registry has no model $model" >&2 && exit 2; }
registry=$(cd "$registry" && pwd)
PATH=${EMBED_BIN_DIR:+$EMBED_BIN_DIR:}$PATH
needed=(embed embed-loadtest nats-server)
[[ -n $image ]] && needed+=(docker) || needed+=(embed-worker)
[[ $provider == tensorrt ]] && needed+=(embed-models trtexec)
for command in "${needed[@]}"; do
    command -v "$command" >/dev/null || { echo "tensorrt-smoke: $command is not on the PATH" >&2 && exit 2; }
done
out=${out:-$(mktemp -d /tmp/tensorrt-smoke.XXXXXX)}
mkdir -p "$out" && out=$(cd "$out" && pwd)

# --- Steps --------------------------------------------------------------------------------------------------------

failures=0
pass() { printf 'PASS  %s\n' "$*" | tee -a "$out/verdict.txt"; }
fail() {
    printf 'FAIL  %s\n' "$*" | tee -a "$out/verdict.txt"
    failures=$((failures + 1))
}
note() { printf '      %s\n' "$*"; }

nats_pid='' worker_pid='' container=''
stop_worker() {
    [[ -n $container ]] && { docker stop --time 30 "$container" >/dev/null 2>&1 || true; }
    # A process that ends by a signal says so by its status, which is no failure here.
    if [[ -n $worker_pid ]]; then
        kill "$worker_pid" 2>/dev/null || true
        wait "$worker_pid" 2>/dev/null || true
    fi
    worker_pid='' container=''
    return 0
}
# shellcheck disable=SC2317  # called by the trap
clean_up() {
    stop_worker
    if [[ -n $nats_pid ]]; then
        kill "$nats_pid" 2>/dev/null || true
        wait "$nats_pid" 2>/dev/null || true
    fi
    rm -rf "$out/nats"
    return 0
}
trap clean_up EXIT

# GET of a path on the worker's health address; needs no curl.
get() {
    local address=${metrics_url#http://}
    exec 3<>"/dev/tcp/${address%:*}/${address##*:}" || return 1
    printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
    sed '1,/^\r$/d' <&3
    exec 3<&- 3>&-
}

# config FILE PRECISION CHAIN STRICT
config() {
    cat >"$1" <<TOML
[engine]
providers = [$3]
strict = $4

[engine.tensorrt]
cache = true
cache_dir = "$cache"
# What is built here stays here: the registry is only read.
share_cache = false

[[variant]]
model = "$model"
name = "smoke"
precision = "$2"
default = true
TOML
}

# start NAME [ENVIRONMENT…]: starts a worker with $out/NAME.toml; waits until it is ready, which sets metrics_url and
# seconds, or has ended, or the time is up: then it returns 1.
start() {
    local name=$1 && shift
    local arguments=(run --config "$out/$name.toml" --registry "$registry" --server "$nats_url" --json)
    arguments+=(--metrics-addr 127.0.0.1:0 --worker-id "smoke-$name")
    local begin=$SECONDS told=0
    if [[ -n $image ]]; then
        container=akidb-smoke-$$-$name
        local gpus=(--gpus all) variables=()
        for variable in "$@"; do variables+=(--env "$variable"); done
        [[ $provider == cpu ]] && gpus=()
        docker run --rm --name "$container" --network host --user "$(id -u):$(id -g)" "${gpus[@]}" "${variables[@]}" \
            --volume "$registry:$registry:ro" --volume "$out:$out" "$image" "${arguments[@]}" \
            >"$out/$name.ready" 2>"$out/$name.log" &
    else
        env "$@" embed-worker "${arguments[@]}" >"$out/$name.ready" 2>"$out/$name.log" &
    fi
    worker_pid=$!
    while ! grep -qs metrics_url "$out/$name.ready"; do
        kill -0 "$worker_pid" 2>/dev/null || { worker_pid='' && return 1; }
        ((SECONDS - begin < build_timeout)) || { stop_worker && return 1; }
        if ((SECONDS - begin >= told + 30)); then
            told=$((SECONDS - begin))
            note "$name: starting for ${told} s; building engines takes minutes"
        fi
        sleep 0.2
    done
    metrics_url=$(sed -n 's/.*"metrics_url":"\([^"]*\)".*/\1/p' "$out/$name.ready")
    seconds=$((SECONDS - begin))
}

last_words() { tail -n 1 "$out/$1.log" | cut -c 1-300; }

in_use() { get /metrics | sed -n 's/^akidb_provider_in_use{.*provider="\([a-z-]*\)".*} 1$/\1/p' | sort -u | tr '\n' ' '; }

# graph PRECISION: the file that TensorRT is given, of the model's current version.
graph() {
    local version
    version=$(sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' "$registry/models/$model/current.json" | head -n 1)
    printf '%s/models/%s/%s/%s-tensorrt.onnx' "$registry" "$model" "$version" "$1"
}

# inspect PRECISION: what TensorRT makes of the graph, layer by layer. ONNX Runtime's own engines name their layers and nothing more, so this one is
# built beside them, by the same TensorRT for the same device, types as the graph says, and the shapes of the worker's first profile.
inspect() {
    shape() { printf 'input_ids:%s,attention_mask:%s' "$1" "$1"; }
    trtexec --onnx="$(graph "$1")" --stronglyTyped --profilingVerbosity=detailed --skipInference \
        --minShapes="$(shape 1x1)" --optShapes="$(shape 64x64)" --maxShapes="$(shape 1024x64)" \
        --exportLayerInfo="$out/layers-$1.json" >"$out/trtexec-$1.log" 2>&1 ||
        { echo "trtexec: $(tail -n 1 "$out/trtexec-$1.log")" && return 1; }
    embed-models check-engine "$(graph "$1")" "$out/layers-$1.json" 2>&1
}

# nearness FILE FILE: mean and least cosine of the vectors of two backfills of the same rows.
nearness() {
    paste -d '\n' "$1" "$2" | awk '
        { sub(/.*"embedding":\[/, ""); sub(/\].*/, ""); n = split($0, v, ",") }
        NR % 2 { for (i = 1; i <= n; i++) a[i] = v[i]; next }
        { d = x = y = 0; for (i = 1; i <= n; i++) { d += a[i] * v[i]; x += a[i] * a[i]; y += v[i] * v[i] }
          c = (n > 1 && x > 0 && y > 0) ? d / sqrt(x * y) : -1; sum += c; rows++; if (rows == 1 || c < least) least = c }
        END { if (!rows) exit 1; printf "%.6f %.6f\n", sum / rows, least }'
}

engines() { (cd "$cache" && find . -type f -name '*.engine*' -exec cksum {} + | sort); }

# --- The machine --------------------------------------------------------------------------------------------------

if [[ $provider == cpu ]]; then
    note 'on the CPU: this tries out the script, and says nothing about TensorRT'
elif device=$(nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader 2>&1); then
    pass "device: ${device//$'\n'/; }"
    capability=$(awk -F ', *' 'NR == 1 { print $3 }' <<<"$device")
else
    fail "device: nvidia-smi does not answer: ${device##*: }"
fi

if [[ -z $precisions ]]; then
    precisions=fp16,int8
    # 8.9 is Ada; Hopper is 9.0, Blackwell 10 to 12.
    if awk -v c="${capability:-0}" 'BEGIN { exit !(c >= 8.9) }'; then precisions+=,fp8; fi
fi
note "precisions: $precisions"

nats-server --addr 127.0.0.1 --port -1 --ports_file_dir "$out" --jetstream --store_dir "$out/nats" >"$out/nats.log" 2>&1 &
nats_pid=$!
until ports=$(cat "$out/nats-server_$nats_pid.ports" 2>/dev/null) && [[ $ports == *nats://* ]]; do
    kill -0 "$nats_pid" 2>/dev/null || { fail "nats-server: $(tail -n 1 "$out/nats.log")" && exit 1; }
    sleep 0.1
done
nats_url=$(sed -n 's/.*"\(nats:\/\/[^"]*\)".*/\1/p' <<<"${ports//,/$'\n'}" | head -n 1)
embed init --registry "$registry" --server "$nats_url" --variant "$model=smoke" >"$out/init.log" 2>&1 ||
    { fail "embed init: $(tail -n 1 "$out/init.log")" && exit 1; }

# --- Each precision, on this provider alone -------------------------------------------------------------------------

for precision in ${precisions//,/ }; do
    cache=$out/engines-$precision && mkdir -p "$cache"
    config "$out/$precision.toml" "$precision" "\"$provider\"" true
    # A version is not served before it has reproduced its golden vectors, so being ready says that, too.
    if start "$precision"; then
        first=$seconds
        pass "$precision: starts on $provider alone, with its golden vectors, in $first s"
    else
        fail "$precision: does not start on $provider alone: $(last_words "$precision")"
        continue
    fi
    used=$(in_use)
    if [[ $used == "$provider " ]]; then pass "$precision: runs on $used"; else fail "$precision: runs on ${used:-nothing}"; fi
    # How many nodes of the graph another provider has, as the worker says when it has loaded the model. Products are refused by `strict`.
    elsewhere=$(grep -o -m 1 'nodes_elsewhere=[0-9]*' "$out/$precision.log" || true)
    if [[ -z $elsewhere ]]; then
        fail "$precision: the worker does not say how many nodes run elsewhere"
    elif ((${elsewhere#*=} > most_elsewhere)); then
        fail "$precision: $elsewhere, at most $most_elsewhere may"
    else
        pass "$precision: $elsewhere, none of them a product"
    fi
    if [[ $provider == tensorrt ]]; then
        if said=$(inspect "$precision"); then pass "$precision: engine: $said"; else fail "$precision: engine: $said"; fi
    fi

    if embed-loadtest run --server "$nats_url" --model "$model" --rate 20 --duration 10 --lengths mixed \
        --out "$out/calls-$precision" >"$out/calls-$precision.log" 2>&1; then
        pass "$precision: 200 calls of mixed lengths are answered; see $out/calls-$precision/report.html"
    else
        fail "$precision: calls: $(tail -n 1 "$out/calls-$precision.log")"
    fi
    for i in {1..2000}; do printf '{"id":%d,"text":"row %d of a backfill%*s"}\n' "$i" "$i" $((i % 200)) x; done >"$out/rows.jsonl"
    if embed backfill run --force --server "$nats_url" --model "$model" "$out/rows.jsonl" "$out/vectors-$precision.jsonl" \
        >"$out/backfill-$precision.log" 2>&1 && [[ $(wc -l <"$out/vectors-$precision.jsonl") -eq 2000 ]]; then
        pass "$precision: backfill: $(tail -n 1 "$out/backfill-$precision.log")"
    else
        fail "$precision: backfill: $(tail -n 1 "$out/backfill-$precision.log")"
    fi
    stop_worker

    before=$(engines)
    if ! start "$precision"; then
        fail "$precision: does not start a second time: $(last_words "$precision")"
    elif [[ $provider != tensorrt ]]; then
        pass "$precision: starts a second time, in $seconds s"
    elif [[ -z $before ]]; then
        fail "$precision: no engine was kept in $cache"
    elif [[ $(engines) != "$before" ]]; then
        fail "$precision: the second start built engines again"
    else
        pass "$precision: the second start takes the kept engines: $seconds s instead of $first s"
    fi
    stop_worker
done

# --- 8 bits, and not 16 under their name ---------------------------------------------------------------------------

exact=''
for precision in ${precisions//,/ }; do
    case $precision in fp16 | fp32) exact=${exact:-$precision} ;; esac
done
for precision in ${precisions//,/ }; do
    case $precision in int8 | fp8) ;; *) continue ;; esac
    if [[ -z $exact ]]; then
        fail "$precision: vectors: nothing to compare them with; have fp16 among --precisions"
    elif ! near=$(nearness "$out/vectors-$precision.jsonl" "$out/vectors-$exact.jsonl"); then
        fail "$precision: vectors: there are none"
    elif awk -v m="${near% *}" 'BEGIN { exit !(m >= 0.98 && m <= 0.9999) }'; then
        pass "$precision: vectors: mean and least cosine to $exact are $near, as 8 bits have it"
    else
        fail "$precision: vectors: mean and least cosine to $exact are $near; in 8 bits the mean is 0.98 to 0.9999"
    fi
done

# --- Falling back -------------------------------------------------------------------------------------------------

# Without a visible device, the same worker refuses to start if it may not fall back, and says what it fell back to if it may.
if [[ $provider != cpu ]]; then
    cache=$out/engines-none && mkdir -p "$cache"
    config "$out/strict.toml" int8 "\"$provider\"" true
    if start strict CUDA_VISIBLE_DEVICES=-1; then
        fail "strict: starts without a device, on $(in_use)"
    elif [[ $(last_words strict) == *"$provider"* ]]; then
        pass "strict: refuses to start without a device: $(last_words strict)"
    else
        fail "strict: does not say that $provider is missing: $(last_words strict)"
    fi
    stop_worker
    config "$out/chain.toml" int8 "\"$provider\", \"cpu\"" false
    if start chain CUDA_VISIBLE_DEVICES=-1 && [[ $(in_use) == "cpu " ]] && grep -q "$provider" "$out/chain.log"; then
        pass "chain: falls back to the CPU, and says so: $(grep -m 1 "$provider" "$out/chain.log" | cut -c 1-200)"
    else
        fail "chain: does not fall back to the CPU, or not loudly: $(last_words chain)"
    fi
    stop_worker
fi

if ((failures)); then
    echo "tensorrt-smoke: FAIL, $failures step(s); logs in $out"
    exit 1
fi
echo "tensorrt-smoke: PASS; logs in $out"
