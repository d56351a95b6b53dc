#!/usr/bin/env bash
# Formatting, lints, house rules and dependency policy. Goes on after a failure so that one run shows all.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0
step() { printf '\n== %s\n' "$*"; "$@" || failed=1; }

component() {
  if cargo "$1" --version >/dev/null 2>&1; then return 0; fi
  echo "cargo $1 is not installed (rustup component add $2): not checked" >&2
  return 1
}

if component fmt rustfmt; then step cargo fmt --all --check; step cargo fmt --manifest-path tests/faultfs/Cargo.toml --check; step cargo fmt --manifest-path tests/fuzz/Cargo.toml --check; fi
if component clippy clippy; then
  step cargo clippy --release --workspace --all-targets -- -D warnings
  step cargo clippy --release --manifest-path tests/faultfs/Cargo.toml --all-targets -- -D warnings
fi
step cargo run --quiet --release -p xtask -- check
if cargo deny --version >/dev/null 2>&1; then
  step cargo deny check
else
  printf '\ncargo-deny is not installed (cargo install cargo-deny): the dependency policy in deny.toml was not checked\n'
fi
exit $failed
