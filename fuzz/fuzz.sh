#!/usr/bin/env bash
# Coverage-guided fuzzing with libFuzzer: all targets, or those that are named, FUZZ_SECONDS in all (an hour), FUZZ_JOBS of them at a time. A run
# begins with the corpus that is kept in fuzz/corpus and with what the runs before it have left in build/fuzz/corpus; an input that fails is
# written to build/fuzz. `--keep` runs nothing: it packs, of all that, as little as reaches the same, into fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

# Longest input that is kept: a corpus is for everybody who clones this.
longest_kept=2048

keep=
if [[ ${1:-} == --keep ]]; then
    keep=yes
    shift
fi
seconds=${FUZZ_SECONDS:-3600}
jobs=${FUZZ_JOBS:-1}
folder=$PWD/build/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(sed -n 's/^ *Target { name: "\([a-z-]*\)".*/\1/p' fuzz/src/targets/mod.rs)
fi

# What libFuzzer needs of a compiler; a stable one can do it. With --target, build scripts are left as they are.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Clink-dead-code -Ccodegen-units=1"
RUSTFLAGS=$(tr -s '\n ' ' ' <<<"$coverage") ${CARGO:-cargo} build --release --locked --target "$host" --target-dir "$folder/target" \
    --package embed-fuzz --features libfuzzer
program=$folder/target/$host/release/embed-fuzz

# What is kept of a target, beside what is there.
unpack() {
    local kept=fuzz/corpus/$1.tar.gz
    mkdir -p "$folder/corpus/$1"
    if [[ -f $kept ]]; then tar -xzf "$kept" -C "$folder/corpus/$1" --skip-old-files; fi
}

fuzz() {
    FUZZ_TARGET=$1 FUZZ_CORPUS=$folder/corpus/$1 "$program" "$folder/corpus/$1" \
        -max_total_time=$((seconds * jobs / ${#targets[@]})) -max_len=65536 -timeout=20 -rss_limit_mb=4096 -artifact_prefix="$folder/$1-" \
        -print_final_stats=1
}

# The same bytes from the same inputs, whoever packs them, and whenever.
pack() {
    local least=$folder/least/$1
    rm -rf "$least"
    mkdir -p "$least" fuzz/corpus
    FUZZ_TARGET=$1 "$program" -merge=1 -max_len=$longest_kept -timeout=20 -rss_limit_mb=4096 "$least" "$folder/corpus/$1"
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - -C "$least" . | gzip -9n >"fuzz/corpus/$1.tar.gz"
}

# One target's whole run; what it says comes when it is over where several run side by side.
one() {
    unpack "$1"
    if [[ $keep ]]; then pack "$1"; else fuzz "$1"; fi
}

failed=()
await() {
    local target
    for target in "${!running[@]}"; do
        wait "${running[$target]}" || failed+=("$target")
        echo "=== $target"
        cat "$folder/$target.log"
    done
    running=()
}

declare -A running=()
mkdir -p "$folder"
for target in "${targets[@]}"; do
    if ((jobs == 1)); then
        echo "=== $target"
        one "$target"
        continue
    fi
    one "$target" >"$folder/$target.log" 2>&1 &
    running[$target]=$!
    if ((${#running[@]} == jobs)); then await; fi
done
await
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
