#!/usr/bin/env bash
# Builds the server and compares its speed with a bare HTTP server, a raw writer and, where it is installed, garage; shows with
# strace that its answers come after its syncs; then breaks a cluster of it again and again and measures how long writes wait, and
# how fast a lost disk is repaired. BENCH_ARGS goes to bench/compare.py, PROOF_ARGS to bench/proof.py, FAILOVER_ARGS to
# bench/failover.py, REPAIR_ARGS to bench/repair.py; GRANARY_BENCH="compare proof" runs some of the four.
# Only when named, because it takes long and much disk: growth (GROWTH_ARGS to bench/growth.py) and crowd (CROWD_ARGS
# to bench/crowd.py).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release -p granary-node --bin granary -p granary-testkit --bin bare_hyper --bin raw_writer
# Where scripts/setup.sh installs it.
export PATH="$CARGO_TARGET_DIR/../garage/bin:$PATH"
mkdir -p "$CARGO_TARGET_DIR/bench"
out="$CARGO_TARGET_DIR/bench/$(date -u +%Y%m%dT%H%M%SZ)"
for part in ${GRANARY_BENCH:-compare proof failover repair}; do
  # shellcheck disable=SC2086
  case "$part" in
    compare)  python3 bench/compare.py --binaries "$CARGO_TARGET_DIR/release" --out "$out.md" --json "$out.json" ${BENCH_ARGS:-} ;;
    proof)    python3 bench/proof.py --binaries "$CARGO_TARGET_DIR/release" ${PROOF_ARGS:-} | tee "$out-proof.txt" ;;
    failover) "$GRANARY_VENV/bin/python" bench/failover.py --binary "$CARGO_TARGET_DIR/release/granary" --out "$out-failover.md" --json "$out-failover.json" ${FAILOVER_ARGS:-} ;;
    repair)   "$GRANARY_VENV/bin/python" bench/repair.py --binary "$CARGO_TARGET_DIR/release/granary" --out "$out-repair.md" --json "$out-repair.json" ${REPAIR_ARGS:-} ;;
    growth)   "$GRANARY_VENV/bin/python" bench/growth.py --binaries "$CARGO_TARGET_DIR/release" --out "$out-growth.md" --json "$out-growth.json" ${GROWTH_ARGS:-} ;;
    crowd)    "$GRANARY_VENV/bin/python" bench/crowd.py --binaries "$CARGO_TARGET_DIR/release" --out "$out-crowd.md" --json "$out-crowd.json" ${CROWD_ARGS:-} ;;
    *)        echo "GRANARY_BENCH has compare, proof, failover, repair, growth and crowd, not $part" >&2; exit 2 ;;
  esac
done
echo "written to $out*"
