#!/usr/bin/env bash
# Makes sure that what a build, the tests or the benchmark need is there.
#
#   scripts/setup.sh build|test|bench
#
# GRANARY_BENCH_GARAGE=1 with bench also builds garage, which Granary is compared with, beside the target directory. That takes
# some minutes, and a C compiler for its SQLite, LMDB, zstd and libsodium.
#
# As root on Debian or Ubuntu it installs what is missing. Otherwise it changes nothing and says
# exactly what to install. It never installs Rust: which Rust a machine has is its owner's choice.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-build}
rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

missing=()
need() { missing+=("$1"); }

have() { command -v "$1" >/dev/null 2>&1; }

# libclang-cpp, which other packages bring, is another library and of no use to bindgen.
have_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  local library directory
  for library in 'libclang.so*' 'libclang-[0-9]*.so*'; do
    for directory in '/usr/lib/llvm-*/lib' '/usr/lib/*' '/usr/lib64'; do
      compgen -G "$directory/$library" >/dev/null && return 0
    done
  done
  return 1
}

# The C++ compiler builds RocksDB, libclang generates its bindings, make builds jemalloc.
if ! have c++ || ! have cc; then need g++; fi
have make || need make
have pkg-config || need pkg-config
have_libclang || need libclang-dev

# Whether the Python packages of the tests are needed: bench/failover.py breaks clusters with what the cluster tests do it with.
needs_venv=
case "$purpose ${GRANARY_BENCH:-compare proof failover}" in
  test*|bench*failover*) needs_venv=1 ;;
esac

if [ "$purpose" = test ] || [ "$purpose" = bench ]; then
  have python3 || need python3
fi
if [ -n "$needs_venv" ]; then
  python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
fi
if [ "$purpose" = bench ]; then
  have wrk || need wrk
  have strace || need strace
  have openssl || need openssl
  have valgrind || need valgrind
fi

# What is wrong with Rust, in a sentence; empty when nothing is.
rust_problem() {
  if ! have cargo; then
    local hint="Install it from https://rustup.rs"
    [ -x "$HOME/.cargo/bin/cargo" ] && hint="It is in $HOME/.cargo/bin, which is not in PATH."
    echo "Granary needs Rust $rust_wanted or newer and there is no cargo in PATH. $hint"
    return
  fi
  local found
  found=$(cargo --version | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p')
  if [ "$(printf '%s\n%s\n' "$rust_wanted" "$found" | sort -V | head -n 1)" != "$rust_wanted" ]; then
    echo "Granary needs Rust $rust_wanted or newer and this one is $found: run \`rustup update\`."
  fi
}

# Everything that is missing is said at once, before anything is installed.
problem=$(rust_problem)
[ -z "$problem" ] || echo "$problem" >&2
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    if [ -z "$problem" ]; then
      echo "installing: ${missing[*]}"
      export DEBIAN_FRONTEND=noninteractive
      apt-get update -qq
      apt-get install -y -qq --no-install-recommends "${missing[@]}" ca-certificates >/dev/null
    fi
  else
    echo "Granary needs packages that are not installed: ${missing[*]}" >&2
    echo "On Debian or Ubuntu: sudo apt-get install -y ${missing[*]}" >&2
    echo "(elsewhere: a C and C++ compiler, make, pkg-config, libclang; for tests and the benchmark also Python 3.10 with venv; for the benchmark wrk, strace, valgrind and openssl)" >&2
    exit 1
  fi
fi
[ -z "$problem" ] || exit 1

# The tool chains of the clients of other languages. A run without them is a run all the same: scripts/test.sh says at its end
# which clients it did without.
if [ "$purpose" = test ]; then
  wished=()
  wish() { have "$1" || wished+=("$2"); }
  wish node nodejs
  wish npm npm
  wish go golang-go
  wish javac default-jdk-headless
  wish mvn maven
  have chromium-browser || have google-chrome || wish chromium chromium
  if [ ${#wished[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && have apt-get; then
      echo "installing for the clients: ${wished[*]}"
      export DEBIAN_FRONTEND=noninteractive
      apt-get update -qq || true
      # One by one: a package that this distribution does not have takes no other one with it.
      for package in "${wished[@]}"; do
        apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "could not install $package: some clients will not be run" >&2
      done
    else
      echo "for all clients install: ${wished[*]}" >&2
    fi
  fi
fi

if [ -n "$needs_venv" ]; then
  wanted=$(cat tests/sdk/requirements.txt tests/sdk/requirements-crc.txt | sha256sum | cut -c1-16)
  stamp="$GRANARY_VENV/.granary-$wanted"
  if [ ! -e "$stamp" ]; then
    echo "preparing the Python clients in $GRANARY_VENV"
    [ -x "$GRANARY_VENV/bin/python" ] || python3 -m venv "$GRANARY_VENV"
    pip=("$GRANARY_VENV/bin/python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" -r tests/sdk/requirements.txt
    # oss2 brings a crc module that is pure Python where no Python headers are installed; the
    # prebuilt one of the other SDK must be the last to write that module.
    "${pip[@]}" --force-reinstall --no-deps -r tests/sdk/requirements-crc.txt
    touch "$stamp"
  fi
fi
[ "$purpose" != test ] || scripts/clients.sh

if [ "$purpose" = bench ] && [ -n "${GRANARY_BENCH_GARAGE:-}" ]; then
  garage="$CARGO_TARGET_DIR/../garage"
  if [ ! -x "$garage/bin/garage" ]; then
    echo "building garage in $garage"
    CARGO_TARGET_DIR="$garage/target" cargo install garage --version '~2.5' --locked --root "$garage"
    rm -rf "$garage/target"
  fi
fi
