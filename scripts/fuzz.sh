#!/usr/bin/env bash
# Fuzzes what reads the requests of strangers, each target in tests/fuzz/targets for a while.
#
#   scripts/fuzz.sh [TARGET...]        default: all of them
#
# GRANARY_FUZZ_SECONDS   how long each (10)
# What is new and interesting is kept in $CARGO_TARGET_DIR/fuzz/corpus beside the inputs of tests/fuzz/corpus; an input that
# fails is written to $CARGO_TARGET_DIR/fuzz/failures and becomes a test, then an input of tests/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${GRANARY_FUZZ_SECONDS:-10}
place="${CARGO_TARGET_DIR:-$PWD/target}/fuzz"
host=$(rustc -vV | sed -n 's/^host: //p')
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for file in tests/fuzz/targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# The coverage that libFuzzer is steered by; only the targets and their crates get it, because --target is named.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
cargo build --release --quiet --manifest-path tests/fuzz/Cargo.toml --target-dir "$place" --target "$host"
unset RUSTFLAGS

for name in "${targets[@]}"; do
  mkdir -p "$place/corpus/$name" "$place/failures"
  log="$place/$name.log"
  if ! "$place/$host/release/$name" -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
      -dict="tests/fuzz/dictionaries/$name" -artifact_prefix="$place/failures/$name-" "$place/corpus/$name" "tests/fuzz/corpus/$name" > "$log" 2>&1; then
    grep -v '^#' "$log" | tail -40
    echo "fuzz: $name FAILED; the input is in $place/failures" >&2
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  kept=$(find "$place/corpus/$name" -type f | wc -l)
  covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
  printf 'fuzz: %-12s %12s executions, %s inputs kept, %s edges\n' "$name" "$runs" "$kept" "$covered"
done
