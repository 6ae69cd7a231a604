"""The zoo: table states of several releases, each through every command of Squire, beside healthy tables.

zoo.py [--squire FILE] [--quick] [--part I/N] [--seed N] [--random N] [--jobs N] [--out DIR] [STATE...]

Prints one line for each state and place as it ends, then what failed; writes zoo.tsv and zoo.json. Ends with 1 if a
state fares otherwise than its declaration says. CONTRIBUTING.md says how to add a state.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from build import CURRENT, State, load
from lane import Fault, Result, as_json, healthy_directory, healthy_store, stale, trial

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "squire"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR") or CACHE / "target")
    parser.add_argument("states", nargs="*", metavar="STATE", help="names, or parts of names; all by default")
    parser.add_argument("--squire", type=Path, default=target / "debug/squire")
    parser.add_argument("--quick", action="store_true", help="only the fast states that `make test` runs")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="only every N-th state, from the I-th on")
    parser.add_argument("--seed", type=int, default=None, help="of the random schemas; printed when not given")
    parser.add_argument(
        "--random", type=int, default=None, metavar="N", help="random tables (12; with --quick or names 0)"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=target / "zoo", help="where zoo.tsv and zoo.json go")
    parser.add_argument("--list", action="store_true", help="print the states and end")
    return parser.parse_args()


def python_of(release: str) -> Path | None:
    """The interpreter that has this release of pylance; None when `ops/setup.sh --zoo` did not make it."""
    if release == CURRENT:
        return Path(sys.executable)
    python = CACHE / "zoo" / f"pylance-{release}" / "bin/python"
    return python if python.is_file() else None


def choose(args: argparse.Namespace) -> tuple[list[State], int]:
    states = [s for s in load().values() if not args.quick or s.quick]
    if args.states:
        states = [s for s in states if any(s.name == n for n in args.states)] or [
            s for s in states if any(n in s.name for n in args.states)
        ]
    part, parts = map(int, args.part.split("/"))
    states = states[part - 1 :: parts]
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(2**32)
    count = args.random if args.random is not None else 0 if args.quick or args.states else 12
    if count:
        from schemas import random_states

        states += random_states(seed, count)
    return states, seed


def one(squire: Path, name: str, place: str, templates: Path, seed: int, count: int) -> Result:
    """Runs in a worker: finds the state by name, since builders do not travel between processes."""
    states = load()
    if count:
        from schemas import random_states

        states |= {s.name: s for s in random_states(seed, count)}
    state = states[name]
    try:
        return trial(squire, state, place, templates, python_of(state.release))
    except Exception as error:
        result = Result(state.name, state.release, place, state.about, verdict="FAIL")
        result.faults.append(Fault("zoo", f"{type(error).__name__}: {error}"[:300]))
        return result


def commands_of(result: Result) -> str:
    said = [f"{command.replace(' --dry-run', '?')}={','.join(map(str, codes))}" for command, codes in result.codes.items()]
    return " ".join(said + ([f"carried={result.carried}"] if result.carried is not None else []))


def line(result: Result) -> str:
    reason = "; ".join([*result.skipped, *(f"{k}: {v}" for k, v in result.known.items())])
    if result.verdict == "FAIL":
        reason = "; ".join(f"{f.check}: {f.detail}" for f in result.faults)
    return f"{result.verdict:<6} {result.state:<28} {result.release:<8} {result.place:<10} {commands_of(result)} {reason[:300]}"


def write(results: list[Result], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "zoo.json").write_text(as_json(results))
    rows = [["state", "release", "place", "verdict", "exit codes", "faults", "known", "skipped", "about"]]
    for r in results:
        faults = "; ".join(f"{f.check}: {f.detail}" for f in r.faults)
        known = "; ".join(f"{check}: {why}" for check, why in r.known.items())
        rows.append(
            [r.state, r.release, r.place, r.verdict, commands_of(r), faults, known, "; ".join(r.skipped), r.about]
        )
    text = "\n".join("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row) for row in rows)
    (out / "zoo.tsv").write_text(text + "\n")


def main() -> int:
    args = arguments()
    states, seed = choose(args)
    if args.list:
        for state in states:
            print(f"{state.name:<28} pylance {state.release:<8} {' '.join(state.about.split())}")
        return 0
    if not states:
        print("no such state; --list shows them")
        return 2
    if not args.squire.is_file():
        print(f"{args.squire} is missing: build it, or name one with --squire")
        return 2
    started = time.monotonic()
    count = sum(s.name.startswith("random_") for s in states)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="zoo-templates-") as directory:
        templates = Path(directory)
        healthy_directory(templates / "directory")
        healthy_store(args.squire, templates / "store")
        pool = ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn"))
        waiting = []
        for state in states:
            for place in [p for p, wanted in (("directory", state.plain), ("store", state.store)) if wanted]:
                if python_of(state.release) is None:
                    why = f"no pylance {state.release}: ops/setup.sh --zoo makes it"
                    results.append(Result(state.name, state.release, place, state.about, verdict="skip", skipped=[why]))
                    continue
                waiting.append(pool.submit(one, args.squire.absolute(), state.name, place, templates, seed, count))
        for skipped in results:
            print(line(skipped), flush=True)
        for done in as_completed(waiting):
            results.append(done.result())
            print(line(results[-1]), flush=True)
        pool.shutdown()
    for state in states:
        ran = [r for r in results if r.state == state.name and r.verdict != "skip"]
        if ran:
            stale(state, ran)
    results.sort(key=lambda r: (r.state, r.place))
    write(results, args.out)
    verdicts = {v: sum(r.verdict == v for r in results) for v in ("ok", "known", "skip", "FAIL")}
    summary = ", ".join(f"{n} {v}" for v, n in verdicts.items() if n)
    carried = sum(1 for r in results if r.carried)
    seeded = f", seed {seed}" if count else ""
    print(
        f"{len(states)} states, {len(results)} trials: {summary}, {carried} carried in {time.monotonic() - started:.0f} s{seeded}; {args.out}/zoo.tsv"
    )
    return 1 if verdicts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
