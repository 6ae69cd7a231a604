"""One state through every command, on a plain directory or in a store, beside two healthy tables."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from build import CURRENT, Db, State, age, build, ids  # isort: skip

import lance
import pyarrow as pa

from oracle import View, differences, files_below, garbage, observe, short, tables_below
from under import rewrite

NEIGHBOURS = ("aa", "zz")
CONFIG = """[daemon]
listen = "off"
[policy]
retention = "1h"
min_versions = {kept}
max_versions = 12
failures_before_cooldown = 9
{more}
[policy.cleanup]
enabled = {cleanup}
"""
DRY = ("status", "plan", "optimize --dry-run", "cleanup --dry-run")
REAL = ("optimize", "reindex", "cleanup")
ROUNDS = 4
"""Runs after which a command finds nothing to do: what a first one made may be small enough for another."""
PASSES = 6
PASSES_AT_LEAST = {"optimize": 2, "reindex": 2, "cleanup": 2, "daemon": 3}
LIMIT = 180
"""Seconds for one command."""
LONGEST_LINE = 700


@dataclass
class Fault:
    """Something that is not as it should be."""

    check: str
    """The command and what was looked at: "optimize rows"."""
    detail: str


@dataclass
class Result:
    """How one state fared in one place."""

    state: str
    release: str
    place: str
    about: str
    verdict: str = "ok"
    codes: dict[str, list[int]] = field(default_factory=dict)
    """Command -> its exit codes, first and second run."""
    carried: int | None = None
    """Commits that were carried past a delete and an update; None when there was nothing to rewrite, or to delete."""
    faults: list[Fault] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def document(self) -> dict:
        return asdict(self)


class Keeper:
    """Runs `squire` on what stands in `root`, and looks at it before and after."""

    def __init__(self, squire: Path, state: State, root: Path, config: Path, result: Result):
        self.squire, self.state, self.root, self.config, self.result = squire, state, root, config, result
        config.write_text(CONFIG.format(kept=state.kept, more=state.config, cleanup=str(state.cleanup).lower()))
        self.before: dict[Path, View] = {path: observe(path) for path in self.own_tables()}
        self.files = {path: set(files_below(path)) for path in tables_below(root)}
        for path, view in self.before.items():
            wrong = [f"{name}: {'; '.join(what)}" for name, what in view.indexes.items() if what]
            if wrong and not state.broken_index:
                self.fault("state", f"wrong before any command: {wrong}"[:300])

    def own_tables(self) -> list[Path]:
        return [path for path in tables_below(self.root) if path.stem not in NEIGHBOURS]

    def fault(self, check: str, detail: str) -> None:
        self.result.faults.append(Fault(check, detail))

    def run(self, command: str, *arguments: str) -> str:
        """Runs one command and checks what it says; gives its output."""
        verb, *flags = (f"{command} --once" if command == "daemon" else command).split()
        line = [str(self.squire), verb, str(self.root), *flags, *arguments, "--config", str(self.config)]
        environment = {k: v for k, v in os.environ.items() if k != "LANCE_LOG"} | {"RUST_BACKTRACE": "0"}
        try:
            done = subprocess.run(line, capture_output=True, timeout=LIMIT, env=environment)
        except subprocess.TimeoutExpired:
            self.fault(command, f"no end within {LIMIT} s")
            return ""
        output = (done.stdout + done.stderr).decode(errors="replace")
        codes = self.result.codes.setdefault(command, [])
        if not codes or codes[-1] != done.returncode:
            codes.append(done.returncode)
        self.check_answer(command, done.returncode, output)
        return output

    def check_answer(self, command: str, code: int, output: str) -> None:
        expect = self.state.expect
        wanted, pattern = expect.get(f"{self.result.place} {command}") or expect.get(command, (0, ""))
        last = output.strip().splitlines()[-1][:200] if output.strip() else ""
        if code not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            self.fault(command, f"exit code {code} instead of {wanted}: {last}")
        elif not re.search(pattern, output):
            self.fault(f"{command} message", f"says nothing of {pattern!r}: {last}")
        if panic := re.search(r"panicked at.*", output):
            self.fault(f"{command} panic", panic.group(0)[:160])
        if longest := max((line for line in output.splitlines() if len(line) > LONGEST_LINE), key=len, default=None):
            self.fault(f"{command} message", f"a line of {len(longest)} characters: {longest[:80]}")
        if leak := re.search(r"\S*cargo/registry\S*", output):
            self.fault(f"{command} message", f"names a source of a build machine: {leak.group(0)[-80:]}")

    def check_named(self, command: str, output: str) -> None:
        for table in (*self.state.tables, *NEIGHBOURS):
            if not re.search(rf"(?m)^.*\b{re.escape(table)}\b", output):
                self.fault(f"{command} message", f"does not name {table}")

    def check_unchanged(self, command: str, before: dict) -> None:
        now = files_below(self.root)
        if now != before:
            changed = sorted(set(now.items()) ^ set(before.items()))
            self.fault(f"{command} changes", f"{len(changed)} files, such as {changed[0][0]}")

    def check_content(self, command: str) -> None:
        for path, before in self.before.items():
            for check, detail in differences(before, observe(path)):
                self.fault(f"{command} {check}", f"{path.stem}: {detail}")

    def check_versions(self, command: str, kept: dict[Path, list[int]]) -> None:
        """The newest versions that stood before `command` are readable after it."""
        for path, versions in kept.items():
            for version in versions:
                try:
                    lance.dataset(str(path), version=version).to_table(columns=[], with_row_id=True)
                except Exception as error:
                    self.fault(f"{command} versions", f"{path.stem} version {version}: {short(error)}")

    def newest(self) -> dict[Path, list[int]]:
        """The versions of each table that the retention keeps. A store's counts snapshots, not versions."""
        if self.result.place == "store":
            return {}
        readable = [path for path, view in self.before.items() if not view.error]
        kept = {path: [v["version"] for v in lance.dataset(str(path)).versions()] for path in readable}
        return {path: sorted(versions)[-self.state.kept :] for path, versions in kept.items()}

    def check_neighbours(self, command: str) -> None:
        """The healthy tables are compacted, indexed and tidied, whatever stands beside them."""
        for name in NEIGHBOURS:
            dataset = lance.dataset(str(self.root / f"{name}.lance"))
            statistics = dataset.stats.index_stats("id_idx") if dataset.describe_indices() else {}
            fragments, versions = len(dataset.get_fragments()), len(dataset.versions())
            unindexed = statistics.get("num_unindexed_rows", "all")
            if dataset.count_rows() != 250:
                self.fault(f"{command} neighbours", f"{name} has {dataset.count_rows()} rows instead of 250")
            if (
                fragments > (3 if "target_rows" not in self.state.config else 30)
                or unindexed != 0
                or versions > (10 if self.state.cleanup else 99)
            ):
                what = f"{name} is left with {fragments} fragments, {unindexed} unindexed rows, {versions} versions"
                self.fault(f"{command} neighbours", what)

    def check_garbage(self, command: str) -> None:
        for path in tables_below(self.root):
            try:
                left = garbage(path, self.files.get(path, set()))
            except Exception:
                left = sorted(
                    p
                    for p in set(files_below(path)) - self.files.get(path, set())
                    if p.split("/")[0] in ("data", "_indices")
                )
            if left:
                self.fault(f"{command} garbage", f"{path.stem}: {len(left)} files, such as {left[0]}")

    def commands(self) -> None:
        """Every one-shot command; each real one twice."""
        for command in DRY:
            before = files_below(self.root)
            output = self.run(command)
            # A store's cleanup lists only what has something to remove.
            if command != "cleanup --dry-run" or self.result.place != "store":
                self.check_named(command, output)
            self.check_unchanged(command, before)
        for command in REAL:
            self.until_settled(command, ROUNDS)
        self.check_neighbours("commands")
        self.check_garbage("commands")
        self.run("status")

    def daemon(self) -> None:
        """Passes of the daemon, until one finds nothing to do."""
        self.until_settled("daemon", PASSES)
        self.check_neighbours("daemon")
        self.check_garbage("daemon")

    def carry(self) -> None:
        """A rewrite of each table, under which rows are deleted and changed; then another, under which none are."""
        for path, view in self.before.items():
            if view.error:
                continue
            with tempfile.TemporaryDirectory(dir=self.root.parent) as twins:
                under = rewrite(self.squire, self.config, path, Path(twins) / path.name)
            if under.code is not None:
                # One that went well says nothing of what stands beside the table that it was told.
                if under.code:
                    self.check_answer("optimize", under.code, under.said)
                self.result.carried = (self.result.carried or 0) + under.carried
                self.result.faults += [Fault(check, f"{path.stem}: {detail}") for check, detail in under.faults]
        self.before = {path: observe(path) for path in self.own_tables()}
        self.until_settled("optimize", ROUNDS)

    def until_settled(self, command: str, rounds: int) -> None:
        """Runs `command` until it changes nothing; what it leaves must be what was there, each time."""
        for number in range(rounds):
            kept, before = self.newest(), self.table_files()
            self.run(command)
            now = self.table_files()
            if number >= PASSES_AT_LEAST[command] - 1 and now == before:
                return
            if now != before:
                self.check_content(command)
                self.check_versions(command, kept)
        changed = sorted(set(now.items()) ^ set(before.items()))
        self.fault(f"{command} again", f"run {rounds} still changes {len(changed)} files, such as {changed[0][0]}")

    def table_files(self) -> dict:
        # The ledger is an account: it counts what an attempt wrote for nothing, too. The history says what was done.
        return {
            p: s
            for p, s in files_below(self.root).items()
            if not p.startswith("_squire/") and p not in (".squire/ledger.json", ".squire/history.json", ".squire/unfit.json")
        }


# ---- places ------------------------------------------------------------------------------------


def healthy_directory(root: Path) -> None:
    """The two neighbours: 20 fragments, an index that lacks rows, 22 versions."""
    db = Db(root)
    for name in NEIGHBOURS:
        db.fill(ids, name=name)
        db.open(name).create_scalar_index("id", "BTREE")
        db.put(pa.table({"id": range(200, 250)}), name)


def healthy_store(squire: Path, root: Path) -> None:
    """A store with the same two neighbours."""
    files = root.parent
    (files / "ids.json").write_text('[{"name": "id", "type": "int64", "nullable": true}]')
    (files / "tail.csv").write_text("id\n" + "".join(f"{i}\n" for i in range(200, 250)))
    call(squire, "init", root)
    for name in NEIGHBOURS:
        call(squire, "create", root, name, "--schema", files / "ids.json")
        for i in range(20):
            (files / "part.csv").write_text("id\n" + "".join(f"{j}\n" for j in range(i * 10, i * 10 + 10)))
            call(squire, "write", root, name, files / "part.csv")
        call(squire, "index", root, name, "id", "--type", "btree")
    call(squire, "reindex", root)
    for name in NEIGHBOURS:
        call(squire, "write", root, name, files / "tail.csv")


def call(squire: Path, *arguments: object) -> str:
    done = subprocess.run([str(squire), *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise RuntimeError(f"squire {arguments[0]}: rc {done.returncode}: {(done.stdout + done.stderr).strip()[:300]}")
    return done.stdout


def put_in(state: State, root: Path, python: Path | None, publish=None) -> None:
    """Builds `state` in `root`, with the Python of its release."""
    if state.release == CURRENT or python is None:
        build(state, root, publish)
        return
    script = Path(__file__).with_name("build.py")
    where = [str(root), "in-store"] if publish else [str(root)]
    done = subprocess.run([str(python), str(script), state.name, *where], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"building with pylance {state.release}: {done.stderr.strip()[-300:]}")
    (publish or (lambda: None))()


def in_store(squire: Path, state: State, root: Path, python: Path | None) -> None:
    """Makes the state's table in a store: an empty one of ours, what its builder commits, and a forced repair."""
    call(squire, "create", root, "t", "--schema", root.parent / "ids.json")

    def publish() -> None:
        head = lance.dataset(str(root / "t.lance")).version
        call(squire, "repair", root, "--table", "t", "--force", "--head", head)

    if state.release != CURRENT:
        # An old release writes into no table of a newer format.
        empty = pa.table({"id": pa.array([], pa.int64())})
        lance.write_dataset(empty, str(root / "t.lance"), mode="overwrite", data_storage_version="2.0")
    put_in(state, root, python, publish)


def trial(squire: Path, state: State, place: str, templates: Path, python: Path | None) -> Result:
    """One state in one place: the commands on one copy, the daemon on another, in a directory a rewrite under writers on a third."""
    result = Result(state.name, state.release, place, " ".join(state.about.split()))
    with tempfile.TemporaryDirectory(prefix=f"zoo-{state.name}-") as directory:
        base = Path(directory)
        root = base / "made" / "db"
        shutil.copytree(templates / place, root, symlinks=True)
        (base / "made" / "ids.json").write_text((templates / "ids.json").read_text())
        try:
            in_store(squire, state, root, python) if place == "store" else put_in(state, root, python)
        except Exception as error:
            result.faults.append(Fault("state", f"cannot be built: {short(error)}"))
        else:
            age(root)
            # Base paths are absolute: a copy elsewhere would refer to the original, so each lane has its turn in place.
            root.rename(base / "kept")
            lanes = [Keeper.commands, Keeper.daemon]
            if place == "directory":
                lanes.append(Keeper.carry)
            for lane in lanes:
                shutil.copytree(base / "kept", root, symlinks=True)
                lane(Keeper(squire, state, root, base / "squire.toml", result))
                shutil.rmtree(root)
            if place == "directory" and state.release == CURRENT:
                carry_stable(squire, state, root, templates, result)
    judge(state, result)
    return result


def carry_stable(squire: Path, state: State, root: Path, templates: Path, result: Result) -> None:
    """The rewrite under writers, of the same state with stable row ids, where Lance makes that."""
    shutil.copytree(templates / "directory", root, symlinks=True)
    try:
        build(state, root, stable=True)
    except Exception as error:
        result.skipped.append(f"not with stable row ids: {short(error)}")
        return
    # Indexes that find what was deleted hold their fragments.
    codes = state.expect.get("optimize", (0, ""))[0]
    codes = (*(codes if isinstance(codes, tuple) else (codes,)), 3)
    held = replace(state, expect={**state.expect, "optimize": (codes, "")})
    Keeper(squire, held, root, root.parent.parent / "squire.toml", result).carry()


def judge(state: State, result: Result) -> None:
    """ok, known or FAIL."""
    unknown = []
    for fault in result.faults:
        key = next((key for key in state.known if f"{fault.check} ".startswith(f"{key} ")), None)
        if key is None:
            unknown.append(fault)
        else:
            result.known[key] = state.known[key]
    result.verdict = "FAIL" if unknown else "known" if result.known else "ok"
    result.faults = unknown


def stale(state: State, results: list[Result]) -> None:
    """A fault that is declared as known and shows nowhere any more is a failure of the declaration."""
    for key in set(state.known) - {key for result in results for key in result.known}:
        results[-1].faults.append(Fault("known", f"{key!r} holds now: remove its declaration"))
        results[-1].verdict = "FAIL"


def as_json(results: list[Result]) -> str:
    return json.dumps([result.document() for result in results], indent=1)
