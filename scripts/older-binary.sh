#!/usr/bin/env bash
# Builds the binary of an older commit once, keeps it beside the target folder, and prints where it is.
#
#   scripts/older-binary.sh [COMMIT]        default: the one in tests/compat/older-commit
#
# The binary of COMMIT is $CARGO_TARGET_DIR/../older/COMMIT/granary. Other people's crates, RocksDB with its fifteen minutes among them,
# are not compiled again: they are linked from the target folder, which should have a finished build of the present commit.
# Exit code 3: this clone does not have the commit.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=${1:-$(grep -v '^#' tests/compat/older-commit)}
if ! commit=$(git rev-parse --verify --quiet "$wanted^{commit}"); then
  echo "commit $wanted is not in this clone: git fetch --unshallow, or fetch that commit" >&2
  exit 3
fi
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
older=$(dirname "$target")/older
binary=$older/$commit/granary
if [ -x "$binary" ]; then
  echo "$binary"
  exit 0
fi

mkdir -p "$older"
exec 9>"$older/lock"
flock 9
# Somebody else may have built it meanwhile.
if [ -x "$binary" ]; then
  echo "$binary"
  exit 0
fi

# What an earlier run that was killed has left goes first.
rm -rf "$older"/build-*
build=$older/build-$$
tree=$build/source
trap 'rm -rf "$build"' EXIT
mkdir -p "$tree"
git archive "$commit" | tar -x -C "$tree"

release=$build/target/release
mkdir -p "$release"
# Linked, because it is much; but for the notes that cargo writes over in place.
for part in deps build; do
  if [ -d "$target/release/$part" ]; then
    cp -al "$target/release/$part" "$release/" 2>/dev/null || cp -a "$target/release/$part" "$release/"
  fi
done
find "$release/build" -mindepth 2 -maxdepth 2 -type f -links +1 -size -64k -exec sh -c 'cp -p "$1" "$1.own" && mv "$1.own" "$1"' sh {} \; 2>/dev/null || true
if [ -d "$target/release/.fingerprint" ]; then cp -a "$target/release/.fingerprint" "$release/"; fi
# The crates of this repository have the same names in every commit: what was built of them here goes.
own=$(sed -n 's/^name = "\(.*\)"/\1/p' "$tree"/crates/*/Cargo.toml Cargo.toml crates/*/Cargo.toml | sort -u)
own+=$'\n'$(find "$tree"/crates/*/tests crates/*/tests -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | sed 's/\.rs$//' | sort -u)
for name in $own; do
  for part in deps build .fingerprint; do
    # Packages are named with hyphens, what is built of them with underscores, followed by a hash.
    for spelt in "$name" "${name//-/_}" "lib${name//-/_}"; do
      rm -rf "$release/$part/$spelt"-[0-9a-f]*
    done
  done
done

echo "building the binary of $(git log -1 --format='%h (%s)' "$commit")" >&2
CARGO_TARGET_DIR=$build/target cargo build --quiet --release --manifest-path "$tree/Cargo.toml" --locked -p granary-node --bin granary >&2
mkdir -p "$older/$commit"
strip -o "$build/granary" "$release/granary" || cp "$release/granary" "$build/granary"
mv "$build/granary" "$binary"
echo "$binary"
