#!/usr/bin/env bash
# Reads mutated input files, thousands to a process; a process that dies names its case by the file that it leaves.
#
#   ops/fuzz.sh SEED CASES
set -euo pipefail
cd "$(dirname "$0")/.."

seed=$1 cases=$2 each=5000
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/squire/target}"
export CARGO_TARGET_DIR SQUIRE_FUZZ_DIR=$CARGO_TARGET_DIR/fuzz
rm -rf "$SQUIRE_FUZZ_DIR"
mkdir -p "$SQUIRE_FUZZ_DIR"

build=(cargo test -q --workspace --features squire-tests/failpoints)
test=("${build[@]}" --bin squire)
cargo build -q --workspace --features squire-tests/failpoints --bins
"${test[@]}" --no-run
echo "seed $seed, $cases cases"

failed=0
# Text values against other readers: fewer, since each that is refused costs a process.
SQUIRE_FUZZ_SEED=$seed SQUIRE_FUZZ_CASES=$((cases / 100 + 1)) "${build[@]}" --test external differential -- --nocapture ||
    failed=1

# A file of a few kilobytes that asks for gigabytes is a fault.
ulimit -v $((3 * 1024 * 1024))
end=$((seed + cases))
while ((seed < end)); do
    left=$((end - seed))
    export SQUIRE_FUZZ_SEED=$seed SQUIRE_FUZZ_CASES=$((left < each ? left : each))
    if "${test[@]}" formats::tests::fuzz >"$SQUIRE_FUZZ_DIR/output" 2>&1; then
        seed=$((seed + SQUIRE_FUZZ_CASES))
        continue
    fi
    grep -hE "^(seed |memory allocation|fatal|thread .* has overflowed)" "$SQUIRE_FUZZ_DIR/output" || tail -n 5 "$SQUIRE_FUZZ_DIR/output"
    case=$(ls -t "$SQUIRE_FUZZ_DIR" | grep -m 1 '^case-') || { echo "no case is left: $SQUIRE_FUZZ_DIR/output" >&2; exit 1; }
    mkdir -p "$SQUIRE_FUZZ_DIR/failed"
    mv "$SQUIRE_FUZZ_DIR/$case" "$SQUIRE_FUZZ_DIR/failed/"
    echo "failed: $case (make fuzz SEED=$(grep -oE '[0-9]+' <<<"$case" | head -n 1) CASES=1)"
    seed=$(($(grep -oE '[0-9]+' <<<"$case" | head -n 1) + 1))
    failed=$((failed + 1))
done
echo "$cases cases, failed: $failed"
((failed == 0))
