#!/usr/bin/env bash
# Coverage-guided fuzzing with libFuzzer: all targets, or those that are named, FUZZ_SECONDS in all (an hour). The corpus stays in
# build/fuzz/corpus, and the next run goes on from it; an input that fails is written to build/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-3600}
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

for target in "${targets[@]}"; do
    corpus=$folder/corpus/$target
    mkdir -p "$corpus"
    echo "=== $target"
    FUZZ_TARGET=$target FUZZ_CORPUS=$corpus "$folder/target/$host/release/embed-fuzz" "$corpus" \
        -max_total_time=$((seconds / ${#targets[@]})) -max_len=65536 -timeout=20 -rss_limit_mb=4096 -artifact_prefix="$folder/$target-" \
        -print_final_stats=1
done
