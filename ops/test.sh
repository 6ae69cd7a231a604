#!/usr/bin/env bash
# Everything CI checks, cheapest first. A failed step does not stop the later ones; the exit code
# is 0 only if every step passed.
#
#   ops/test.sh          all steps; SQUIRE_SKIP_LINT=1 leaves out clippy and rustdoc, which need a
#                        second, check-only build of all dependencies
#   ops/test.sh --lint   formatting, clippy and rustdoc only
#
# Run ops/setup.sh --test first (`make test` does).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

cache=${XDG_CACHE_HOME:-$HOME/.cache}/squire
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
# What ops/setup.sh --test put there: promtool, and the Python that has pylance, LanceDB and moto.
export PATH=$PATH:$cache/bin
export SQUIRE_PYTHON=${SQUIRE_PYTHON:-$cache/venv/bin/python}
readonly FEATURES=(--workspace --features squire-tests/failpoints)

lint_only=no
case "${1-}" in
  "") ;;
  --lint) lint_only=yes ;;
  *) printf 'usage: %s [--lint]\n' "$0" >&2; exit 2 ;;
esac

failed=()
summary=

step() { # TITLE COMMAND...
  local title=$1 started=$SECONDS verdict=ok
  shift
  printf '\n[%4ds] %s\n' "$SECONDS" "$title"
  if ! "$@"; then
    verdict=FAILED
    failed+=("$title")
  fi
  printf '[%4ds] %s: %s, %d s\n' "$SECONDS" "$title" "$verdict" "$((SECONDS - started))"
}

# The tests start the binary that this builds; its seams are compiled in.
build_all() { cargo build "${FEATURES[@]}"; }

run_tests() {
  if command -v cargo-nextest >/dev/null 2>&1; then
    cargo nextest run "${FEATURES[@]}"
    return
  fi
  # Plain cargo test closes every binary with a line of its own; one total is added at the end.
  # One thread, because seams are armed for a whole process.
  local log status
  log=$(mktemp)
  cargo test "${FEATURES[@]}" --lib --bins --tests --no-fail-fast -- --test-threads=1 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  summary=$(awk '/^test result:/ { passed += $4; failed += $6 } END { printf "%d passed, %d failed", passed, failed }' "$log")
  rm -f "$log"
  return "$status"
}

# A minute each with a seed that every run shares and with one that no other run has; it is printed.
run_chaos() { "$CARGO_TARGET_DIR/debug/squire-chaos" --minutes 1 "$@"; }

check_prometheus() {
  promtool check config ops/prometheus/prometheus.yml &&
    promtool check rules ops/prometheus/squire.rules.yml &&
    promtool test rules ops/prometheus/squire.rules.test.yml
}

# The model is a workspace of its own, and optimised: see tests/model/Cargo.toml.
in_model() { (cd tests/model && CARGO_TARGET_DIR=$cache/model "$@"); }
check_model() { in_model cargo test -q --release && in_model cargo run -q --release -- ci; }

# Every relative link of the Markdown files leads to a file that is there.
check_links() {
  local broken=0 file link
  while IFS= read -r file; do
    while IFS= read -r link; do
      link=${link%%#*}
      if [ -n "$link" ] && [ ! -e "$(dirname "$file")/$link" ]; then
        printf '%s: broken link to %s\n' "$file" "$link"
        broken=1
      fi
    done < <(grep -oE '\]\([^) ]+\)' "$file" | sed -E 's/^\]\(//; s/\)$//' | grep -vE '^[a-z]+:')
  done < <(git ls-files --cached --others --exclude-standard -- '*.md')
  return "$broken"
}

check_rustdoc() {
  RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features
}

check_formatting() { cargo fmt --all --check && in_model cargo fmt --check; }
check_clippy() {
  cargo clippy --workspace --all-targets --all-features -- -D warnings &&
    in_model cargo clippy --release --all-targets -- -D warnings
}

step "formatting" check_formatting
if [ "$lint_only" = no ]; then
  step "links in the documentation" check_links
  step "alert rules and their tests" check_prometheus
  step "protocol model" check_model
  step "build" build_all
  step "tests" run_tests
  step "chaos, seed 1" run_chaos --seed 1
  step "chaos, fresh seed" run_chaos
  step "examples in the documentation" cargo test "${FEATURES[@]}" --doc
fi
if [ "$lint_only" = yes ] || [ "${SQUIRE_SKIP_LINT:-0}" != 1 ]; then
  step "clippy" check_clippy
  step "rustdoc" check_rustdoc
else
  printf '\n[%4ds] clippy and rustdoc left out: SQUIRE_SKIP_LINT=1\n' "$SECONDS"
fi

printf '\n'
if [ "${#failed[@]}" -gt 0 ]; then
  printf 'failed steps after %d s:' "$SECONDS"
  printf ' [%s]' "${failed[@]}"
  printf '\n'
else
  printf 'all steps passed in %d s\n' "$SECONDS"
fi
[ -z "$summary" ] || printf '%s\n' "$summary"
[ "${#failed[@]}" -eq 0 ]
