#!/usr/bin/env bash
# Installs the OSS clients of other languages that the tests run, each from its own registry at the version of its lock.
#
#   scripts/clients.sh [NAME...]        default: all of them
#
# NAME is node (ali-oss), go (the official Go SDK v2), java (the official Java SDK), python (OpenDAL, ossfs, aiooss2).
# A client is in $GRANARY_CLIENTS/NAME (default: beside GRANARY_VENV) and is made again only when its lock or its sources
# change. Where its tool chain or its registry cannot be had, $GRANARY_CLIENTS/NAME/missing says why and the tests say so at
# the end; with GRANARY_REQUIRE_CLIENTS that is an error.
set -uo pipefail
cd "$(dirname "$0")/.."
source=$PWD/tests/sdk/clients
clients=${GRANARY_CLIENTS:-${GRANARY_VENV:?set GRANARY_VENV or GRANARY_CLIENTS}-clients}

# Each of these makes a client in the directory it is given, and prints what is wrong if it cannot.
make_node() {
  cp "$source"/node/package.json "$source"/node/package-lock.json "$1" &&
    (cd "$1" && npm ci --silent --no-audit --no-fund --ignore-scripts)
}

# A build, not a run: compiling belongs to installing. GOTOOLCHAIN=local: no other Go is fetched.
make_go() {
  (cd "$source/go" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 go build -buildvcs=false -trimpath -o "$1/client" .)
}

# jars.txt is the lock: what one version of the client brings.
make_java() {
  (cd "$source/java" &&
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DoutputDirectory="$1/lib" -DincludeScope=runtime &&
    LC_ALL=C diff jars.txt <(cd "$1/lib" && LC_ALL=C ls) &&
    javac -encoding UTF-8 -Xlint:-options -nowarn -cp "$1/lib/*" -d "$1/classes" ./*.java)
}

# The source distributions are unpacked beside the environment: their tests are what is run.
make_python() {
  local pip=("$1/bin/python" -m pip --quiet --disable-pip-version-check) name version
  python3 -m venv "$1" &&
    "${pip[@]}" install --no-deps -r "$source/python/requirements.txt" || return 1
  for name in ossfs aiooss2; do
    version=$(sed -n "s/^$name==//p" "$source/python/requirements.txt")
    "${pip[@]}" download --no-deps --no-binary "$name" --dest "$1/sources" "$name==$version" &&
      tar -xzf "$1/sources/$name-$version.tar.gz" -C "$1/sources" && mv "$1/sources/$name-$version" "$1/sources/$name" || return 1
  done
}

# tool chain | the files that decide whether to make it again
needs() {
  case "$1" in
    node)   echo "node npm | node/package-lock.json" ;;
    go)     echo "go | go/*.go go/go.mod go/go.sum" ;;
    java)   echo "java javac mvn | java/*.java java/pom.xml java/jars.txt" ;;
    python) echo "python3 | python/requirements.txt" ;;
    *)      echo "there is no client $1" >&2; return 2 ;;
  esac
}

client() {
  local name=$1 tools files place=$clients/$1 tool wanted new said
  IFS='|' read -r tools files < <(needs "$name") || return 2
  # shellcheck disable=SC2086
  wanted=$(cd "$source" && { echo "$place"; sha256sum $files; } | sha256sum | cut -c1-16)
  [ "$(cat "$place/ready" 2>/dev/null)" = "$wanted" ] && return 0
  mkdir -p "$place"
  rm -f "$place/ready" "$place/missing"
  for tool in $tools; do
    if ! command -v "$tool" >/dev/null 2>&1; then
      echo "there is no \`$tool\`" >"$place/missing"
      return 1
    fi
  done
  echo "preparing the client $name in $place"
  new=$(mktemp -d "$clients/$name.XXXXXX")
  if said=$("make_$name" "$new" 2>&1); then
    rm -rf "$place" && mv "$new" "$place" && echo "$wanted" >"$place/ready"
  else
    rm -rf "$new"
    printf '%s\n' "$said" | tail -20 >&2
    echo "it could not be installed: $(printf '%s' "$said" | tail -1 | cut -c1-200)" >"$place/missing"
    return 1
  fi
}

mkdir -p "$clients"
exec 9>"$clients/lock"
flock 9
failed=()
for name in ${*:-node go java python}; do
  client "$name" || failed+=("$name: $(cat "$clients/$name/missing" 2>/dev/null)")
done
if [ ${#failed[@]} -gt 0 ]; then
  printf 'client not installed: %s\n' "${failed[@]}" >&2
  [ -z "${GRANARY_REQUIRE_CLIENTS:-}" ] || exit 1
fi
exit 0
