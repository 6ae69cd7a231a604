#!/usr/bin/env bash
# Installs what a build (and, with --test, a test run) of Squire needs and this machine lacks.
# Safe to run again: every step looks first, and a complete machine costs well under a second.
#
#   ops/setup.sh          what `make run` needs: a C compiler, protoc; checks the Rust toolchain
#   ops/setup.sh --test   also strace, promtool, prometheus, a Python environment with pylance, LanceDB, moto and ADBC, and where they
#                         can be had a browser, node and schemathesis for the tests of the page
#   ops/setup.sh --ray    the same as --test, and a Python environment with Ray
#   ops/setup.sh --zoo    also one environment for each older release of pylance that the zoo builds states with
#
# Everything that is not a system package goes below ${XDG_CACHE_HOME:-~/.cache}/squire.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly RUST_MINIMUM=1.94.0
readonly PYTHON_PACKAGES=("pylance==14.0.2" "lancedb==0.40.0" "moto[server]==5.2.5" "pyarrow==26.0.1" "duckdb==2.0.1"
  "adbc-driver-flightsql==1.13.0" "adbc-driver-manager==1.13.0")

# An environment of its own: Ray holds back what other packages need.
readonly RAY_PACKAGES=("ray==2.60.0")

# What tests the page and the API; a machine without them skips those tests.
readonly API_PACKAGES=("schemathesis==4.32.5")

# From the oldest that installs on a current Python to a recent one; what pip needs to be told beside the release.
readonly ZOO_RELEASES=(
  "0.5.10 pyarrow<15 numpy<2" "0.10.18 pyarrow<16 numpy<2" "0.21.0 pyarrow<19 numpy<3" "0.30.0 pyarrow==26.0.1 numpy<3"
  "1.0.4 pyarrow==26.0.1 numpy<3" "6.1.0 pyarrow==26.0.1 numpy<3"
)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/squire
venv=$cache/venv
for_tests=no
for_zoo=no
for_ray=no

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

case "${1-}" in
  "") ;;
  --test) for_tests=yes ;;
  --zoo) for_tests=yes for_zoo=yes ;;
  --ray) for_tests=yes for_ray=yes ;;
  *) printf 'usage: %s [--test | --zoo | --ray]\n' "$0" >&2; exit 2 ;;
esac

# ---- system packages -------------------------------------------------------------------------

missing=()
need_package() { # COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

# Lance's protocol files import Google's, which Debian packs apart from the compiler.
protoc_knows_googles_types() (
  probe=$(mktemp -d) && trap 'rm -rf "$probe"' EXIT || return 1
  printf 'syntax = "proto3";\nimport "google/protobuf/empty.proto";\n' > "$probe/probe.proto"
  protoc --proto_path="$probe" --descriptor_set_out=/dev/null "$probe/probe.proto" 2>/dev/null
)

python_can_make_environments() {
  command -v python3 >/dev/null 2>&1 && python3 -c 'import ensurepip, venv' >/dev/null 2>&1
}

find_missing_packages() {
  missing=()
  need_package cc build-essential
  need_package protoc protobuf-compiler
  protoc_knows_googles_types || missing+=(libprotobuf-dev)
  if [ "$for_tests" = yes ] && [ ! -x "$venv/bin/python" ] && ! python_can_make_environments; then
    missing+=(python3 python3-venv)
  fi
  if [ "$for_tests" = yes ]; then
    need_package strace strace
  fi
}

as_root=()
can_install() {
  command -v apt-get >/dev/null 2>&1 || return 1
  [ "$(id -u)" -eq 0 ] && return 0
  as_root=(sudo)
  # A terminal can be asked for a password; a script that nobody watches must not hang on one.
  command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true >/dev/null 2>&1; }
}

install_missing_packages() {
  find_missing_packages
  [ "${#missing[@]}" -eq 0 ] && return 0
  if ! can_install; then
    die "please install: ${missing[*]} (Debian names; on Debian or Ubuntu: sudo apt-get install ${missing[*]}), then run this again"
  fi
  say "installing ${missing[*]} with apt-get"
  refresh_package_lists
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}"
  find_missing_packages
  [ "${#missing[@]}" -eq 0 ] || die "still missing after the installation: ${missing[*]}"
}

lists_are_fresh=no
refresh_package_lists() {
  [ "$lists_are_fresh" = yes ] && return 0
  "${as_root[@]}" apt-get update -q
  lists_are_fresh=yes
}

# ---- Rust ------------------------------------------------------------------------------------

check_rust() {
  if ! command -v cargo >/dev/null 2>&1; then
    die "no cargo on PATH: install Rust $RUST_MINIMUM or newer with rustup (the one in Debian stable is too old)"
  fi
  local have
  have=$(cargo --version | cut -d' ' -f2)
  if [ "$(printf '%s\n%s\n' "$RUST_MINIMUM" "$have" | sort -V | head -n 1)" != "$RUST_MINIMUM" ]; then
    die "cargo $have is too old: Rust $RUST_MINIMUM or newer is needed (rustup update)"
  fi
}

announce_build() {
  local target=${CARGO_TARGET_DIR:-$cache/target}
  if [ ! -d "$target/debug/deps" ]; then
    say "first build into $target: about 600 crates, 20 to 30 minutes on two cores and several GB of disk; later builds take seconds"
  fi
}

# ---- what only the tests need ----------------------------------------------------------------

# The Debian package would start a Prometheus server; its checker is wanted, and the server only in tests, so that
# these two files are unpacked below the cache. That also needs no root where the package lists are fresh.
get_promtool() {
  command -v promtool >/dev/null 2>&1 && command -v prometheus >/dev/null 2>&1 && return 0
  [ -x "$cache/bin/promtool" ] && [ -x "$cache/bin/prometheus" ] && return 0
  if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-deb >/dev/null 2>&1; then
    die "please install Prometheus, so that prometheus and promtool are on PATH, then run this again"
  fi
  say "fetching promtool and prometheus out of Debian's prometheus package into $cache/bin"
  if ! unpack_promtool; then
    can_install || die "no usable package lists: run apt-get update as root, or install promtool yourself, then run this again"
    refresh_package_lists
    unpack_promtool || die "could not fetch promtool: install it yourself so that it is on PATH, then run this again"
  fi
}

unpack_promtool() (
  unpacked=$(mktemp -d) && trap 'rm -rf "$unpacked"' EXIT && cd "$unpacked" || return 1
  apt-get download -q -o APT::Sandbox::User=root prometheus >download.log 2>&1 || return 1
  dpkg-deb -x prometheus_*.deb . &&
    install -D -m 755 -t "$cache/bin" usr/bin/promtool usr/bin/prometheus
)

make_python_environment() {
  local wanted stamp=$venv/squire-packages
  wanted=$(printf '%s\n' "${PYTHON_PACKAGES[@]}")
  if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return 0
  fi
  say "making a Python environment in $venv with ${PYTHON_PACKAGES[*]} (about 150 MB to fetch, a minute or two)"
  mkdir -p "$cache"
  [ -x "$venv/bin/python" ] || python3 -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${PYTHON_PACKAGES[@]}"
  "$venv/bin/python" -c 'import adbc_driver_flightsql, duckdb, lance, lancedb, moto.server, pyarrow'
  # Written last: an installation that was interrupted is done again.
  printf '%s' "$wanted" > "$stamp"
}

have_any() { # COMMAND...
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null 2>&1 && return 0
  done
  return 1
}

# A browser and node, and what drives them. Only the tests of the page need them, and say so where they are missing.
get_browser() {
  local wanted=() home=$cache/page
  have_any chromium-headless-shell chromium chromium-browser google-chrome || wanted+=(chromium-headless-shell)
  have_any node && have_any npm || wanted+=(nodejs npm)
  if [ "${#wanted[@]}" -gt 0 ]; then
    say "installing ${wanted[*]} with apt-get, for the tests of the page"
    if ! can_install || ! refresh_package_lists ||
      ! DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -q --no-install-recommends "${wanted[@]}"; then
      say "no browser, or no node: the test of the page is skipped"
      return 0
    fi
  fi
  cmp -s tests/page/package.json "$home/package.json" && [ -d "$home/node_modules/playwright-core" ] && return 0
  say "fetching playwright-core and axe-core into $home"
  mkdir -p "$home"
  rm -f "$home/package.json"
  cp tests/page/package.json "$home/wanted.json"
  if (cd "$home" && cp wanted.json package.json && npm install --silent --no-audit --no-fund --ignore-scripts); then
    return 0
  fi
  rm -f "$home/package.json"
  say "npm cannot fetch them: the test of the page is skipped"
}

get_schemathesis() {
  local home=$cache/api stamp=$cache/api/squire-packages
  [ "$(cat "$stamp" 2>/dev/null)" = "${API_PACKAGES[*]}" ] && return 0
  say "making a Python environment in $home with ${API_PACKAGES[*]}"
  if python3 -m venv --clear "$home" && "$home/bin/python" -m pip install --quiet --disable-pip-version-check "${API_PACKAGES[@]}"; then
    printf '%s' "${API_PACKAGES[*]}" > "$stamp"
  else
    rm -rf "$home"
    say "it does not install with $(python3 --version): the test of the API's description is skipped"
  fi
}

make_ray_environment() {
  local home=$cache/ray
  [ -x "$home/bin/python" ] && [ "$(cat "$home/squire-packages" 2>/dev/null)" = "${RAY_PACKAGES[*]}" ] && return 0
  say "making a Python environment in $home with ${RAY_PACKAGES[*]} (about 80 MB to fetch)"
  mkdir -p "$cache"
  [ -x "$home/bin/python" ] || python3 -m venv --clear "$home"
  "$home/bin/python" -m pip install --quiet --disable-pip-version-check "${RAY_PACKAGES[@]}"
  "$home/bin/python" -c 'import ray.cluster_utils'
  printf '%s' "${RAY_PACKAGES[*]}" > "$home/squire-packages"
}

# A release that does not install here is skipped by the zoo, which says so.
make_zoo_environments() {
  local release packages home
  for wanted in "${ZOO_RELEASES[@]}"; do
    read -r release packages <<<"$wanted"
    home=$cache/zoo/pylance-$release
    [ "$(cat "$home/squire-packages" 2>/dev/null)" = "$wanted" ] && continue
    say "making an environment with pylance $release in $home"
    mkdir -p "$cache/zoo"
    # shellcheck disable=SC2086 # several packages in one word
    if python3 -m venv --clear "$home" &&
      "$home/bin/python" -m pip install --quiet --disable-pip-version-check "pylance==$release" $packages &&
      "$home/bin/python" -c 'import lance, pyarrow'; then
      printf '%s' "$wanted" > "$home/squire-packages"
    else
      rm -rf "$home"
      say "pylance $release does not install with $(python3 --version); the zoo skips its states"
    fi
  done
}

note_test_runner() {
  command -v cargo-nextest >/dev/null 2>&1 ||
    say "cargo-nextest is not installed: the tests run under plain cargo test, one binary after another"
}

check_rust
install_missing_packages
if [ "$for_tests" = yes ]; then
  get_promtool
  make_python_environment
  get_browser
  get_schemathesis
  note_test_runner
fi
if [ "$for_ray" = yes ]; then
  make_ray_environment
fi
if [ "$for_zoo" = yes ]; then
  make_zoo_environments
fi
announce_build
say "ready"
