#!/usr/bin/env bash
# Builds the server and compares its speed with a bare HTTP server, a raw writer and, where it is installed, garage; shows with
# strace that its answers come after its syncs; counts its instructions per request (the part `instructions` fails when they are not
# those on record); compares a cluster of it with one of garage; then breaks a cluster again and again and measures how long writes
# wait, and how fast a lost disk is repaired. BENCH_ARGS goes to bench/compare.py, PROOF_ARGS to bench/proof.py, INSTRUCTIONS_ARGS
# to bench/instructions.py, CLUSTER_ARGS to bench/cluster.py, FAILOVER_ARGS to bench/failover.py, REPAIR_ARGS to bench/repair.py;
# GRANARY_BENCH="compare proof" runs some of them.
# Only when named, because it takes long and much disk: growth (GROWTH_ARGS to bench/growth.py) and crowd (CROWD_ARGS
# to bench/crowd.py).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release -p granary-node --bin granary -p granary-testkit --bin bare_hyper --bin raw_writer
# Where scripts/setup.sh installs it.
export PATH="$CARGO_TARGET_DIR/../garage/bin:$PATH"
mkdir -p "$CARGO_TARGET_DIR/bench"
out="$CARGO_TARGET_DIR/bench/$(date -u +%Y%m%dT%H%M%SZ)"
# A count that is not the one on record keeps no other part from running.
failed=0
for part in ${GRANARY_BENCH:-compare proof instructions cluster failover repair}; do
  # shellcheck disable=SC2086
  case "$part" in
    compare)  python3 bench/compare.py --binaries "$CARGO_TARGET_DIR/release" --out "$out.md" --json "$out.json" ${BENCH_ARGS:-} ;;
    proof)    python3 bench/proof.py --binaries "$CARGO_TARGET_DIR/release" ${PROOF_ARGS:-} | tee "$out-proof.txt" ;;
    cluster)  python3 bench/cluster.py --binaries "$CARGO_TARGET_DIR/release" --out "$out-cluster.md" --json "$out-cluster.json" ${CLUSTER_ARGS:-} ;;
    failover) "$GRANARY_VENV/bin/python" bench/failover.py --binary "$CARGO_TARGET_DIR/release/granary" --out "$out-failover.md" --json "$out-failover.json" ${FAILOVER_ARGS:-} ;;
    repair)   "$GRANARY_VENV/bin/python" bench/repair.py --binary "$CARGO_TARGET_DIR/release/granary" --out "$out-repair.md" --json "$out-repair.json" ${REPAIR_ARGS:-} ;;
    instructions) python3 bench/instructions.py --binaries "$CARGO_TARGET_DIR/release" --out "$out-instructions.md" --json "$out-instructions.json" ${INSTRUCTIONS_ARGS:---check} || failed=1 ;;
    growth)   "$GRANARY_VENV/bin/python" bench/growth.py --binaries "$CARGO_TARGET_DIR/release" --out "$out-growth.md" --json "$out-growth.json" ${GROWTH_ARGS:-} ;;
    crowd)    "$GRANARY_VENV/bin/python" bench/crowd.py --binaries "$CARGO_TARGET_DIR/release" --out "$out-crowd.md" --json "$out-crowd.json" ${CROWD_ARGS:-} ;;
    *)        echo "GRANARY_BENCH has compare, proof, instructions, cluster, failover, repair, growth and crowd, not $part" >&2; exit 2 ;;
  esac
done
echo "written to $out*; bench/plot.py draws what the JSON files say"
exit "$failed"
