#!/usr/bin/env bash
# Runs the test suites one after the other, goes on after a failure, and closes with one line per suite.
#
# GRANARY_TEST_ALL=1 adds what takes long. GRANARY_STAGES="sdk crash" runs only these.
set -uo pipefail
cd "$(dirname "$0")/.."

all=${GRANARY_TEST_ALL:-}
stages="house cargo fuzz build sdk clients process crash disks memory cluster sdk-cluster"
[ -z "$all" ] || stages="${stages/fuzz/fuzz sim} upstream upstream-cluster"
stages=${GRANARY_STAGES:-$stages}
python="$GRANARY_VENV/bin/python"
export GRANARY_BIN="${GRANARY_BIN:-$CARGO_TARGET_DIR/release/granary}"
logs="$CARGO_TARGET_DIR/test-logs"
mkdir -p "$logs"
export GRANARY_TEST_LOGS="$logs"
if [ -n "$all" ]; then marks=(); else marks=(-m "not long"); fi
# One client is enough to see that a cluster answers as a server does. What is left out there of the others needs one zone.
if [ -n "$all" ]; then on_cluster=(tests/sdk -k "not promises"); else on_cluster=(tests/sdk/clients/test_go.py); fi
if [ -n "$all" ]; then upstream=(); else upstream=(--quick); fi

pytest_in() { "$python" -m pytest -c tests/pytest.ini --rootdir tests "${marks[@]}" "$@"; }

stage() {
  case "$1" in
    house)    cargo run --quiet --release -p xtask -- check ;;
    cargo)    cargo test --release --workspace --no-fail-fast ;;
    fuzz)     GRANARY_FUZZ_SECONDS="${GRANARY_FUZZ_SECONDS:-${all:+60}}" scripts/fuzz.sh ;;
    sim)      GRANARY_SIM_SEEDS="${GRANARY_SIM_SEEDS:-0..2000}" cargo test --release -p granary-sim --test seeds ;;
    build)    cargo build --release -p granary-node --bin granary &&
              cargo run --quiet --release -p xtask -- readme --check ;;
    sdk)      pytest_in tests/sdk --ignore tests/sdk/clients ;;
    clients)  pytest_in tests/sdk/clients -o console_output_style=classic -rfEs ;;
    process)  pytest_in tests/process tests/compat ;;
    crash)    pytest_in tests/crash -s ;;
    disks)    pytest_in tests/disks -s ;;
    memory)   pytest_in tests/memory -s ;;
    cluster)  cargo test --release --quiet --manifest-path tests/faultfs/Cargo.toml &&
              cargo build --release --quiet --manifest-path tests/faultfs/Cargo.toml &&
              GRANARY_SOAK_SECONDS="${GRANARY_SOAK_SECONDS:-${all:+300}}" pytest_in tests/cluster -s ;;
    sdk-cluster) GRANARY_CLIENTS_ON=cluster pytest_in "${on_cluster[@]}" -o console_output_style=classic -rfEs ;;
    upstream) "$python" tests/sdk/upstream/run.py "${upstream[@]}" ;;
    upstream-cluster) "$python" tests/sdk/upstream/run.py --cluster "${upstream[@]}" ;;
    *)        echo "there is no stage $1" >&2; return 2 ;;
  esac
}

# What the suites store at once, and what the servers under test keep free (2 % of the file system, or 1 GiB).
room=${all:+24}
room=${room:-8}
read -r size free < <(df --output=size,avail --block-size=1M "${TMPDIR:-/tmp}" | tail -1)
kept=$((size / 50 > 1024 ? size / 50 : 1024))
if [ "$free" -lt $((room * 1024 + kept)) ] && [[ " $stages " =~ \ (sdk|clients|process|crash|disks|memory|cluster|sdk-cluster|upstream|upstream-cluster)\  ]]; then
  echo "the suites need $(((room * 1024 + kept) / 1024)) GiB of free space in ${TMPDIR:-/tmp}, which has $((free / 1024)) GiB" >&2
  exit 2
fi

# The numbers that a suite printed, whatever its runner: cargo prints one line per binary, pytest one in all.
counts() {
  awk '
    /^test result: / { for (i = 1; i <= NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/) f += $i; if ($(i+1) ~ /^ignored/) s += $i } seen = 1 }
    /^suite total: / { p += $3; f += $5; s += $7; seen = 1 }
    END { if (seen) printf "%d passed, %d failed, %d skipped", p, f, s; else printf "-" }
  ' "$1"
}

summary=()
failed=0
for name in $stages; do
  printf '\n== %s\n' "$name"
  began=$SECONDS
  stage "$name" 2>&1 | tee "$logs/$name.log"
  status=${PIPESTATUS[0]}
  verdict=ok
  if [ "$status" -ne 0 ]; then verdict=FAILED; failed=1; fi
  summary+=("$(printf '%-16s %-7s %5ds  %s' "$name" "$verdict" $((SECONDS - began)) "$(counts "$logs/$name.log")")")
done

printf '\n%s\n' "suite            verdict  time  tests"
printf '%s\n' "${summary[@]}"
for name in $stages; do grep -h '^NOT RUN: ' "$logs/$name.log"; done
printf 'in all %ds; logs in %s\n' "$SECONDS" "$logs"
exit $failed
