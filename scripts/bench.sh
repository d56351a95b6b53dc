#!/usr/bin/env bash
# Builds the server and the bare HTTP server and compares them. BENCH_ARGS goes to bench/compare.py.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release -p granary-node --bin granary -p granary-testkit --bin bare_hyper
mkdir -p "$CARGO_TARGET_DIR/bench"
out="$CARGO_TARGET_DIR/bench/$(date -u +%Y%m%dT%H%M%SZ)"
# shellcheck disable=SC2086
python3 bench/compare.py --binaries "$CARGO_TARGET_DIR/release" --out "$out.md" --json "$out.json" ${BENCH_ARGS:-}
echo "written to $out.md"
