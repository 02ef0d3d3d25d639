#!/usr/bin/env bash
# Measures the worker on a machine with an NVIDIA GPU: the engine alone, online calls and bulk through NATS, and
# sentence-transformers on the same texts. README.md beside this file says how; `summarize.py` makes the page.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: run.sh --registry DIR [--registry DIR …] --out DIR [options]

  --registry DIR    models with FP32, FP16 and packed graphs; of each model the real one is taken, or else its twin
  --out DIR         where everything goes that was measured
  --phases LIST     of check,engine,launches,bulk,rpc,swap,peer (default: all)
  --provider NAME   what the worker has to run on (default: cuda)
  --precision NAME  what is served, and compared with the peer (default: fp16)
  --device LIST     which GPUs, such as 0,1 (default: 0); graphs are checked, and the peer runs, on the first of them
  --count N         texts of mixed lengths (default: 100000; a fifth of them for the large model)
  --rates LIST      online calls a second (default: 250,1000,5000,20000)
  --window N        bulk jobs in flight; a third of them for the large model (default: 96)
  --job N           texts in a bulk job (default: 256)
  --seconds N       how long each measurement through NATS takes (default: 6)
  --repeats N       how often each of them is made (default: 3)
  --small           only the small model (MiniLM)
  --python PYTHON   with torch, sentence-transformers, tokenizers; for `check` with onnxruntime-gpu (default: python3)
  --worker-cores L  pin worker and server to these cores, such as 0-11, and what asks them to --load-cores
  --load-cores L    see above

Needed on the PATH, or in folders that EMBED_BIN_DIR names: embed, embed-worker, embed-loadtest, nats-server.
TEXT
}

registry=() out='' phases=check,engine,launches,bulk,rpc,swap,peer provider=cuda precision=fp16 device=0 count=100000
rates=250,1000,5000,20000 seconds=6 repeats=3 window=96 job=256 small='' python=python3 worker_cores='' load_cores=''
while [[ $# -gt 0 ]]; do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --small) small=yes && shift ;;
    --registry | --out | --phases | --provider | --precision | --device | --count | --rates | --seconds | --repeats | --window | --job | \
        --python | \
        --worker-cores | --load-cores)
        [[ $# -ge 2 ]] || { echo "run.sh: $1 needs a value" >&2 && exit 2; }
        name=${1#--} && name=${name//-/_}
        if [[ $name == registry ]]; then registry+=("$(realpath "$2")"); else printf -v "$name" '%s' "$2"; fi
        shift 2
        ;;
    *) echo "run.sh: unknown option $1; see --help" >&2 && exit 2 ;;
    esac
done
[[ ${#registry[@]} -gt 0 && -n $out ]] || { usage >&2 && exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
PATH=${EMBED_BIN_DIR:+$EMBED_BIN_DIR:}$PATH
for command in embed embed-worker embed-loadtest nats-server "$python"; do
    command -v "$command" >/dev/null || { echo "run.sh: $command is not on the PATH" >&2 && exit 2; }
done
mkdir -p "$out" && out=$(realpath "$out")
chosen() { [[ ,$phases, == *,$1,* ]]; }
begin=$SECONDS
say() { printf '[%3d s] %s\n' $((SECONDS - begin)) "$*" >&2; }

# place SLUG: prints the registry that has the model, and the slug there: its own, or its twin's.
place() {
    local slug folder
    for slug in "$1" "$1-twin"; do
        for folder in "${registry[@]}"; do
            [[ -f $folder/models/$slug/current.json ]] && printf '%s %s\n' "$folder" "$slug" && return 0
        done
    done
    return 1
}
# current MODEL_DIR: prints the version that is current.
current() { sed -n 's/.*"version": *"\([^"]*\)".*/\1/p' "$1/current.json" | head -n 1; }
minilm=all-minilm-l6-v2 large=uae-large-v1
models=("$minilm" distilled-minilm-l3-v2 bge-small-en-v1-5 bert-base-uncased "$large")
served=("$minilm" "$large")
[[ -n $small ]] && models=("$minilm") served=("$minilm")

# --- The machine and the texts ------------------------------------------------------------------------------------

{
    nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,compute_cap --format=csv,noheader || echo none
} >"$out/device.csv" 2>/dev/null
{ nats-server --version && embed-worker --version; } >"$out/versions.txt"
read -r folder slug < <(place "$minilm") || { echo "run.sh: no registry has $minilm or its twin" >&2 && exit 2; }
tokenizer=("$folder/models/$slug"/*/tokenizer.json)
"$python" "$here/texts.py" --tokenizer "${tokenizer[0]}" --out "$out/texts" --count "$count" >&2
head -n $((count / 5)) "$out/texts/mixed.jsonl" >"$out/texts/mixed-large.jsonl"

# texts_of MODEL: the texts of mixed lengths that a model of its size gets through in seconds.
texts_of() { [[ $1 == "$large" ]] && echo "$out/texts/mixed-large.jsonl" || echo "$out/texts/mixed.jsonl"; }

# fit FILE WINDOW: prints as many bulk jobs, but no more than there are distinct texts for: equal ones that wait together are computed once.
fit() {
    local most
    most=$(($(sed 's/.*"text"//' "$1" | sort -u | wc -l) / job))
    ((most > 0)) || most=1
    echo $((most < $2 ? most : $2))
}

# --- The graphs are right on this GPU ------------------------------------------------------------------------------

failed=0
if chosen check; then
    operators=()
    for folder in ${PATH//:/ }; do
        [[ -f $folder/libembed_kernels.so ]] && operators=(--operators "$folder/libembed_kernels.so") && break
    done
    for model in "${served[@]}"; do
        read -r folder slug < <(place "$model") || continue
        version=$(current "$folder/models/$slug")
        say "check-gpu: $slug"
        PYTHONPATH=$root/deploy/models${PYTHONPATH:+:$PYTHONPATH} "$python" -m embed_models check-gpu "$folder/models/$slug/$version" \
            --device "${device%%,*}" --no-speed "${operators[@]}" --out "$out/check-$model.json" >&2 || failed=1
    done
fi

# --- The engine alone ---------------------------------------------------------------------------------------------

on=(--provider "$provider")
[[ $provider == cpu ]] || for number in ${device//,/ }; do on+=(--device "$number"); done
# bench NAME OPTIONS…: its configuration is the environment.
bench() {
    local name=$1 && shift
    say "engine: $name"
    embed-loadtest bench "${on[@]}" --out "$out/$name" "$@" >"$out/$name.txt" || failed=1
}
lengths=(--length "32,128" --seconds-per-cell 0.3 --mix none)
if chosen engine; then
    for model in "${models[@]}"; do
        read -r folder slug < <(place "$model") || { say "no registry has $model; left out" && continue; }
        bench "engine-$model" --registry "$folder" --model "$slug" --precision fp32 --precision "$precision" \
            --batch 1,8,64,256,1024 "${lengths[@]}"
    done
    for model in "${served[@]}"; do
        read -r folder slug < <(place "$model") || continue
        bench "engine-$model-mixed" --registry "$folder" --model "$slug" --precision "$precision" \
            --batch 64 --length 32 --seconds-per-cell 0.1 --texts "$(texts_of "$model")" --mix-rounds 4
    done
fi
# The small model with other settings.
read -r folder slug < <(place "$minilm")
small=(--registry "$folder" --model "$slug" --precision "$precision" "${lengths[@]}")
if chosen launches && [[ $provider != cpu ]]; then
    EMBED_WORKER__ENGINE__DEVICE__CUDA_GRAPHS__ROWS='[]' bench launches-engine "${small[@]}" --batch 1,8
fi
if chosen engine && [[ $provider != cpu ]]; then
    EMBED_WORKER__ENGINE__CUDA__CUDNN_ATTENTION=true bench cudnn-engine "${small[@]}" --batch 64,256,1024
fi

# --- Through NATS -------------------------------------------------------------------------------------------------

nats_pid='' worker_pid='' sampler_pid=''
stop() {
    local pid
    # A process that ends by a signal says so by its status, which is no failure here.
    for pid in $sampler_pid $worker_pid $nats_pid; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    nats_pid='' worker_pid='' sampler_pid=''
    return 0
}
# What was measured is summed up also if the rest is cut off. Called by the trap alone.
# shellcheck disable=SC2329
finish() {
    stop
    rm -rf "$out"/serve-*/nats "$out/texts" "$out/swap-registry"
    "$python" "$here/summarize.py" "$out"
    embed-loadtest page "$out" >/dev/null
}
trap finish EXIT

pin_worker=() pin_load=()
[[ -n $worker_cores ]] && pin_worker=(taskset -c "$worker_cores")
[[ -n $load_cores ]] && pin_load=(taskset -c "$load_cores")

# serve MODEL [LINE]: starts a server and a worker that serves nothing else, with this line for its devices, and sets url.
serve() {
    local folder slug dir=$out/serve-$1
    read -r folder slug < <(place "$1") || return 1
    rm -rf "$dir" && mkdir -p "$dir"
    echo 'max_payload: 8MB' >"$dir/nats.conf"
    "${pin_worker[@]}" nats-server --addr 127.0.0.1 --port -1 --ports_file_dir "$dir" --jetstream \
        --store_dir "$dir/nats" -c "$dir/nats.conf" >"$dir/nats.log" 2>&1 &
    nats_pid=$!
    # The port is in a file that the server names after its process, which need not be ours.
    until grep -qs nats:// "$dir"/nats-server_*.ports; do kill -0 "$nats_pid" && sleep 0.1; done
    url=$(grep -ho 'nats://[0-9.:]*' "$dir"/nats-server_*.ports | head -n 1)
    embed init --registry "$folder" --server "$url" --variant "$slug=$precision" >"$dir/init.log" 2>&1
    cat >"$dir/worker.toml" <<TOML
[engine]
providers = ["$provider"]
strict = true
devices = [$device]

[engine.device]
${2-}

[[variant]]
model = "$slug"
name = "$precision"
precision = "$precision"
default = true
TOML
    "${pin_worker[@]}" embed-worker run --config "$dir/worker.toml" --registry "$folder" --server "$url" --json \
        --metrics-addr 127.0.0.1:0 >"$dir/ready.json" 2>"$dir/worker.log" &
    worker_pid=$!
    until grep -qs metrics_url "$dir/ready.json"; do
        kill -0 "$worker_pid" 2>/dev/null || { tail -n 3 "$dir/worker.log" >&2 && worker_pid='' && return 1; }
        sleep 0.1
    done
    say "serving $slug"
}

# Processor time that a process has taken, in hundredths of a second.
ticks() {
    local fields
    read -r -a fields < <(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 0
    echo $((fields[11] + fields[12]))
}

# load NAME MODEL OPTIONS…: runs embed-loadtest, as often as is wanted, with its reports in $out/NAME/1 and so on.
load() {
    local name=$1 repeat && shift
    for ((repeat = 1; repeat <= repeats; repeat++)); do load_once "$name/$repeat" "$@"; done
}

# load_once NAME MODEL OPTIONS…: the same once; beside its report, what GPU and cores did meanwhile.
load_once() {
    local name=$1 model=$2 && shift 2
    say "$name"
    mkdir -p "$out/$name"
    nvidia-smi -i "$device" --query-gpu=utilization.gpu,memory.used,power.draw --format=csv,noheader,nounits -lms 200 \
        >"$out/$name/gpu.csv" 2>/dev/null &
    sampler_pid=$!
    local since=$SECONDS worker nats
    worker=$(ticks "$worker_pid") nats=$(ticks "$nats_pid")
    local folder slug
    read -r folder slug < <(place "$model")
    "${pin_load[@]}" embed-loadtest run --server "$url" --model "$slug" --pid "$worker_pid" "$nats_pid" \
        --out "$out/$name" "$@" >"$out/$name/report.txt" 2>&1 || say "$name: $(grep -m 1 -i 'answered\|error' "$out/$name/report.txt")"
    printf '{"seconds": %d, "worker_ticks": %d, "nats_ticks": %d}\n' $((SECONDS - since)) \
        $(($(ticks "$worker_pid") - worker)) $(($(ticks "$nats_pid") - nats)) >"$out/$name/cores.json"
    kill "$sampler_pid" 2>/dev/null || true
    wait "$sampler_pid" 2>/dev/null || true
    sampler_pid=''
}

# at_rates NAME MODEL: online calls at each rate.
at_rates() {
    local rate
    for rate in ${rates//,/ }; do
        load "$1-$rate" "$2" --rate "$rate" --duration "$seconds" --slo-ms 10
    done
}

if chosen launches && [[ $provider != cpu ]]; then
    if serve "$minilm" 'cuda_graphs = { rows = [] }'; then at_rates launches "$minilm"; else say "$minilm is not served" && failed=1; fi
    stop
fi
if chosen bulk || chosen rpc; then
    for model in "${served[@]}"; do
        serve "$model" || { say "$model is not served" && failed=1 && stop && continue; }
        if chosen rpc && [[ $model == "$minilm" ]]; then at_rates rpc "$model"; fi
        if chosen bulk; then
            # A rate at which no call falls into the measurement: bulk alone.
            alone=(--rate 0.000001)
            bulk=(--pattern mixed --duration $((seconds + 2)) --warm-up 3 --bulk-texts "$job")
            jobs=$window
            [[ $model == "$large" ]] && jobs=$(((window + 2) / 3))
            mixed=(--texts "$(texts_of "$model")" --bulk-window "$(fit "$(texts_of "$model")" "$jobs")")
            load "bulk-$model-mixed" "$model" "${bulk[@]}" "${alone[@]}" "${mixed[@]}"
            if [[ $model == "$minilm" ]]; then
                load "bulk-$model-full" "$model" "${bulk[@]}" "${alone[@]}" --texts "$out/texts/full.jsonl" \
                    --bulk-window "$(fit "$out/texts/full.jsonl" "$jobs")"
            fi
            load "beside-$model-mixed" "$model" "${bulk[@]}" --rate 250 --slo-ms 10 "${mixed[@]}"
        fi
        stop
    done
fi

# Two versions that share nothing, one in place of the other, while calls and bulk jobs go on.
if chosen swap; then
    read -r folder slug < <(place "$minilm")
    version=$(current "$folder/models/$slug") ours=$out/swap-registry
    rm -rf "$ours"
    for name in v0.0.1 v0.0.2; do
        "$python" "$here/second_version.py" "$folder/models/$slug/$version" "$ours/models/$slug/$name"
    done
    embed-worker models promote "$slug" v0.0.1 --registry "$ours" >&2
    registry=("$ours" "${registry[@]}")
    if EMBED_WORKER__MODELS__KEEP_PREVIOUS=2s serve "$minilm"; then
        say "swaps under load"
        mkdir -p "$out/swap"
        "${pin_load[@]}" embed-loadtest swap --server "$url" --registry "$ours" --model "$slug" --rate 250 --bulk --bulk-texts "$job" --texts "$(texts_of "$minilm")" \
            --swaps 6 --rollbacks 3 --quiet "$seconds" --pid "$worker_pid" --out "$out/swap" >"$out/swap/report.txt" 2>&1 ||
            say "swaps: a call failed, or callers noticed too much; see $out/swap/report.txt"
        grep -h 'CUDA graphs\|first runs' "$out/serve-$minilm/worker.log" >"$out/swap/worker.log" || true
    else
        say "$minilm is not served" && failed=1
    fi
    stop
    registry=("${registry[@]:1}")
fi

# --- The peer -----------------------------------------------------------------------------------------------------

if chosen peer; then
    for model in "${served[@]}"; do
        say "sentence-transformers: $model"
        [[ $provider == cpu ]] && torch=cpu || torch=cuda:${device%%,*}
        "$python" "$here/sentence_transformers_fp16.py" --recipe "$model" --tokenizer "${tokenizer[0]}" --device "$torch" \
            --texts "$(texts_of "$model")" --out "$out/peer-$model.json" >"$out/peer-$model.txt" 2>&1 ||
            { failed=1 && tail -n 3 "$out/peer-$model.txt" >&2; }
        # Attention without padding is there on a GPU alone.
        [[ $provider == cpu ]] && continue
        kinds=("mixed=$(texts_of "$model")")
        [[ $model == "$minilm" ]] && kinds+=("full=$out/texts/full.jsonl")
        for kind in "${kinds[@]}"; do
            say "compiled PyTorch without padding: $model, ${kind%%=*}"
            "$python" "$here/packed_torch_fp16.py" --recipe "$model" --tokenizer "${tokenizer[0]}" --device "$torch" \
                --texts "${kind#*=}" --out "$out/packed-$model-${kind%%=*}.json" >"$out/packed-$model-${kind%%=*}.txt" 2>&1 ||
                { failed=1 && tail -n 3 "$out/packed-$model-${kind%%=*}.txt" >&2; }
        done
    done
fi

say "done: $out/report.html, $out/results.md, $out/results.json"
exit "$failed"
