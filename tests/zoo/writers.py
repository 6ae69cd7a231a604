"""Other Lance clients write while Squire rewrites: random writes at random seams of one `squire optimize`. A twin of the table takes
the same writes and is never maintained. Afterwards both say the same: rows, row ids where stable, what each index answers, tags.

writers.py --squire BIN [--seed S] [--cases N]

Case N of a seed is the same at every run. Prints one line for each case that fails, then what happened; ends with 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Callable

os.environ.setdefault("LANCE_LOG", "ERROR")  # before Lance is imported: it warns of each query's columns
os.environ["LANCE_ENABLE_UNSTABLE_DATA_OVERLAY_FILES"] = "1"  # which a release neither writes nor reads otherwise

import lance
import pyarrow as pa
from lance.file import LanceFileWriter
from lance.fragment import DataFile

from oracle import differences, garbage, is_blob, observe, scan, short
from schemas import value
from seams import run_stopped

SEAMS = (
    "maintain.before_compact",
    "maintain.after_plan",
    "maintain.before_journal",
    "maintain.after_journal",
    "maintain.after_rewrite",
    "maintain.after_carry",
    "maintain.after_compact",
    "commit.before_put",
    "commit.after_put",
)
WORDS = ("amber", "birch", "cedar", "dusk", "ember", "fjord", "grove")
DIMENSION = 8
INDEXES: dict[str, tuple[str, dict]] = {
    "BTREE id": ("id", {}),
    "BTREE st.a": ("st.a", {}),
    "BITMAP word": ("word", {}),
    "ZONEMAP n": ("n", {}),
    "BLOOMFILTER n": ("n", {}),
    "LABEL_LIST labels": ("labels", {}),
    "NGRAM text": ("text", {}),
    "INVERTED text": ("text", {"with_position": True}),
    "IVF_FLAT vec": ("vec", {"num_partitions": 2}),
    "IVF_PQ vec": ("vec", {"num_partitions": 2, "num_sub_vectors": 2, "num_bits": 4}),
    "IVF_HNSW_SQ vec": ("vec", {"num_partitions": 1}),
}
"""Type and column -> column, options."""
CONFIG = """[policy]
max_task_fragments = {fragments}
verify = "{verify}"
"""
# What stays as it is, since Lance would let rows that were deleted take the places of others in what an index finds.
HELD = b"deleted since it was built"

LIMIT = 120
"""Seconds for one command."""

Write = Callable[[str], None]
"""A write to the table at a path, the same for the table and its twin."""


def array_of(of: pa.Field, values: list) -> pa.Array:
    return lance.blob_array(values) if "blob" in str(getattr(of.type, "extension_name", "")) else pa.array(values, of.type)


def overlay(path: str, values: dict[int, int], version: str) -> None:
    """Other values of n, by id, in files that lie over those of the fragments."""
    dataset = lance.dataset(path)
    listed = ", ".join(map(str, values))
    found = dataset.to_table(columns=["id"], with_row_address=True, filter=f"id IN ({listed})").to_pylist()
    field = next(f.id() for f in dataset.lance_schema.fields() if f.name() == "n")
    groups = []
    for fragment in sorted({row["_rowaddr"] >> 32 for row in found}):
        rows = {row["_rowaddr"] & 0xFFFFFFFF: values[row["id"]] for row in found if row["_rowaddr"] >> 32 == fragment}
        name = f"{uuid.uuid4()}.lance"
        file = f"{path}/data/{name}"
        schema = pa.schema([pa.field("n", pa.int32())])
        with LanceFileWriter(file, schema, version=version) as writer:
            writer.write_batch(pa.table([pa.array([rows[at] for at in sorted(rows)], pa.int32())], schema=schema))
        major, minor = map(int, version.split("."))
        data = DataFile(name, [field], [0], major, minor, os.path.getsize(file))
        over = lance.LanceOperation.DataOverlayFile(data, sorted(rows))
        groups.append(lance.LanceOperation.DataOverlayGroup(fragment, [over]))
    if groups:
        lance.LanceDataset.commit(path, lance.LanceOperation.DataOverlay(groups), read_version=dataset.version)


class Case:
    """One table, its twin, and what is done to both."""

    def __init__(self, squire: Path, seed: int, number: int, root: Path):
        self.squire, self.root = squire, root
        self.rng = random.Random(f"{seed}/{number}")
        self.table, self.twin = str(root / "t.lance"), str(root / "twin.lance")
        self.stable = self.rng.random() < 0.5
        self.null_vectors = self.rng.random() < 0.3
        self.version = self.rng.choice(("2.0", "2.1", "2.2"))
        self.next_id, self.done, self.faults = 0, [], []
        self.foreign, self.outcome = False, Counter()

    # ---- tables ----------------------------------------------------------------------------------

    def cell(self, of: pa.Field):
        rng = self.rng
        if of.name.startswith("word"):
            return rng.choice(WORDS)
        if of.name.startswith("text"):
            return None if rng.random() < 0.1 else " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
        if of.name.startswith("labels"):
            return rng.sample(WORDS, rng.randint(0, 3))
        if of.name.startswith("vec"):
            return None if self.null_vectors and rng.random() < 0.2 else [rng.random() for _ in range(DIMENSION)]
        if of.name.startswith("st"):
            return {"a": rng.randrange(50), "b": value(rng, pa.string())}
        if pa.types.is_null(of.type):
            return None
        if is_blob(of):
            # In the file, beside it, and in a file of its own.
            return None if rng.random() < 0.2 else rng.randbytes(rng.choice((0, 40, 3_000, 70_000)))
        return value(rng, of.type)

    def rows(self, ids: list[int], schema: pa.Schema) -> pa.Table:
        columns = [array_of(f, ids if f.name == "id" else [self.cell(f) for _ in ids]) for f in schema]
        # A table's blobs are of another type than what is written to it.
        return pa.table(columns, schema=pa.schema([f.with_type(c.type) for f, c in zip(schema, columns)]))

    def new_ids(self, count: int) -> list[int]:
        self.next_id += count
        return list(range(self.next_id - count, self.next_id))

    def build(self) -> None:
        rng = self.rng
        kinds = [
            pa.dictionary(pa.int16(), pa.string()), pa.float16(), pa.timestamp("us", "UTC"), pa.decimal128(20, 4),
            pa.large_binary(), pa.bool_(), pa.list_(pa.list_(pa.string())), pa.null(),
        ]  # fmt: skip
        if self.version > "2.0":  # which has no null structs
            kinds.append(pa.list_(pa.struct([("p", pa.int32()), ("q", pa.string())])))
            kinds.append(pa.struct([("p", pa.struct([("q", pa.list_(pa.int16()))])), ("r", pa.float16())]))
        if self.version > "2.1":
            kinds.append(pa.map_(pa.string(), pa.int64()))
        extra = [pa.field(f"x{i}", kind) for i, kind in enumerate(rng.sample(kinds, 2))]
        if rng.random() < 0.4:
            # Version 2.2 makes it a blob of the second kind.
            extra.append(pa.field("xb", pa.large_binary(), metadata={"lance-encoding:blob": "true"}))
        schema = pa.schema([
            pa.field("id", pa.int64()), pa.field("n", pa.int32()), pa.field("word", pa.string()),
            pa.field("text", pa.string()), pa.field("labels", pa.list_(pa.string())),
            pa.field("st", pa.struct([("a", pa.int64()), ("b", pa.string())])),
            pa.field("vec", pa.list_(pa.float32(), DIMENSION)), *extra,
        ])  # fmt: skip
        for _ in range(rng.randint(4, 9)):
            rows = self.rows(self.new_ids(rng.randint(5, 60)), schema)
            options = {"enable_stable_row_ids": self.stable, "data_storage_version": self.version}
            mode = "append" if os.path.exists(self.table) else "create"
            schema = lance.write_dataset(rows, self.table, mode=mode, **options).schema
        for name in rng.sample(sorted(INDEXES), rng.randint(0, 3)):
            self.index(name)(self.table)
        if rng.random() < 0.7:
            lance.dataset(self.table).delete(f"id % {rng.randint(2, 9)} = 1")
        if rng.random() < 0.5:
            lance.write_dataset(self.rows(self.new_ids(rng.randint(1, 9)), schema), self.table, mode="append")
        shutil.copytree(self.table, self.twin)

    def index(self, name: str) -> Write:
        kind = name.split()[0]
        column, options = INDEXES[name]

        def build(path: str) -> None:
            dataset = lance.dataset(path)
            if kind.startswith("IVF"):
                dataset.create_index(column, kind, name=name.replace(" ", "_"), replace=True, **options)
            else:
                dataset.create_scalar_index(column, kind, name=name.replace(" ", "_"), replace=True, **options)

        return build

    # ---- writes ----------------------------------------------------------------------------------

    def draw(self) -> tuple[str, Write]:
        """One random write. What it depends on is drawn here, so that both tables get the same."""
        rng = self.rng
        schema, described = lance.dataset(self.twin).schema, lance.dataset(self.table).describe_indices()
        some = sorted(rng.sample(range(self.next_id), min(self.next_id, rng.randint(1, 12))))
        listed = ", ".join(map(str, some))
        kind = rng.choices(
            ["append", "delete", "update", "merge", "overlay", "overwrite", "add", "add nulls", "drop", "rename",
             "compact", "index", "extend", "tag"],
            [6, 6, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        )[0]  # fmt: skip
        if kind == "compact" and self.stable and any(i.name[:3] in ("INV", "IVF") for i in described):
            kind = "tag"  # Lance's own compaction lets these find what was deleted
        if kind == "append":
            rows = self.rows(self.new_ids(rng.randint(1, 30)), schema)
            return kind, lambda path: lance.write_dataset(rows, path, mode="append")
        if kind == "delete":
            where = rng.choice([f"id IN ({listed})", f"id % {rng.randint(3, 20)} = 0", "word = 'dusk'"])
            return f"delete {where}", lambda path: lance.dataset(path).delete(where)
        if kind == "update":
            where = rng.choice([f"id IN ({listed})", f"id % {rng.randint(5, 30)} = 2"])
            values = {"n": str(rng.randint(0, 9)), "text": f"'{rng.choice(WORDS)} again'"}
            return f"update {where}", lambda path: lance.dataset(path).update(values, where=where)
        if kind == "merge":
            # One new row at most: the order of several, and so their ids, are not said.
            rows = self.rows(some + self.new_ids(rng.randint(0, 1)), schema)
            merge = lambda path: lance.dataset(path).merge_insert("id").when_matched_update_all()  # noqa: E731
            return kind, lambda path: merge(path).when_not_matched_insert_all().execute(rows)
        if kind == "overlay":
            values = {row: rng.randrange(99) for row in some}
            return kind, lambda path: overlay(path, values, self.version)
        if kind == "overwrite":
            rows = self.rows(self.new_ids(rng.randint(1, 40)), schema)
            return kind, lambda path: lance.write_dataset(rows, path, mode="overwrite")
        if kind == "add":
            column = {f"c{rng.randrange(10**6)}": "id * 2"}
            return kind, lambda path: lance.dataset(path).add_columns(column)
        if kind == "add nulls":
            column = pa.field(f"c{rng.randrange(10**6)}", rng.choice((pa.string(), pa.list_(pa.int64()))))
            return kind, lambda path: lance.dataset(path).add_columns(column)
        if kind in ("drop", "rename"):
            column = rng.choice([name for name in schema.names if name[0] in "cx"] or ["x0"])
            change = {"path": column, "name": f"c{rng.randrange(10**6)}"}
            if kind == "drop":
                return f"drop {column}", lambda path: lance.dataset(path).drop_columns([column])
            return f"rename {column}", lambda path: lance.dataset(path).alter_columns(change)
        if kind == "compact":
            return kind, lambda path: path == self.table and lance.dataset(path).optimize.compact_files()
        if kind == "extend":
            return kind, lambda path: lance.dataset(path).optimize.optimize_indices()
        if kind == "index":
            name = rng.choice(sorted(INDEXES))
            return f"index {name}", self.index(name)
        name = f"tag{rng.randrange(10**6)}"
        return kind, lambda path: lance.dataset(path).tags.create(name, lance.dataset(path).version)

    def write(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            said, write = self.draw()
            try:
                write(self.twin)
            except Exception as error:  # what Lance refuses by itself is no write
                self.done.append(f"({said}: {short(error)[:60]})")
                continue
            self.done.append(said)
            self.outcome["writes"] += 1
            self.foreign |= said == "compact"
            try:
                write(self.table)
            except Exception as error:
                self.faults.append(f"a writer failed: {said}: {short(error)}")

    # ---- Squire ----------------------------------------------------------------------------------

    def optimize(self) -> None:
        rng = self.rng
        config = self.root / "squire.toml"
        fragments, verify = rng.choice((2, 3, 32)), rng.choice(("counts", "sample", "full"))
        config.write_text(CONFIG.format(fragments=fragments, verify=verify))
        stops = {seam: rng.choice((1, 1, 2, 3)) for seam in rng.sample(SEAMS, rng.randint(1, 4))}
        self.done.append(f"optimize stopped at {stops}, tasks of {fragments}")
        line = [str(self.squire), "optimize", self.table, "--json", "--config", str(config)]

        def meanwhile() -> None:
            self.outcome["stopped"] += 1
            self.write()

        code, out, err = run_stopped(line, stops, meanwhile, LIMIT)
        self.answered("optimize", code, out, err, (0, 75))

    def run(self, verb: str) -> None:
        line = [str(self.squire), verb, self.table, "--json"]
        done = subprocess.run(line, capture_output=True, timeout=LIMIT)
        self.answered(verb, done.returncode, done.stdout, done.stderr, (0,))

    def answered(self, verb: str, code: int, out: bytes, err: bytes, fine: tuple[int, ...]) -> None:
        if code == 3 and HELD in out:
            self.outcome["held"] += 1
            return
        if code == 75:
            self.outcome["given up"] += 1
        if code not in fine:
            self.faults.append(f"{verb} ended with {code}: {(out + err).decode(errors='replace')[:600]}")
            return
        if verb == "optimize" and code == 0:
            report = json.loads(out)["tables"][0]["report"]
            for key in ("carried", "conflicts", "fragments_removed"):
                self.outcome[key] += report[key]
            self.faults += [f"unfit: {what}" for what in report["unfit"]]

    def compare(self, when: str) -> None:
        twin, table = observe(Path(self.twin)), observe(Path(self.table))
        for view, path in ((twin, self.twin), (table, self.table)):
            # As multisets: a tag may stand on a version that was rewritten.
            tagged = lambda tag: lance.dataset(path, version=tag)  # noqa: E731
            view.references = {tag: hash(tuple(sorted(r for _, r in scan(tagged(tag))))) for tag in tagged(None).tags.list()}
        self.faults += [f"{when}: {check}: {what}" for check, what in differences(twin, table)]

    def play(self) -> None:
        self.build()
        self.optimize()
        self.compare("after the rewrite")
        # What lost to another maintainer's rewrite is that one's to remove.
        if not self.foreign:
            left = set(garbage(Path(self.table), set())) - set(garbage(Path(self.twin), set()))
            self.faults += [f"left behind: {path}" for path in sorted(left)]
        self.write()
        self.run("optimize")
        self.run("reindex")
        self.compare("after another round")


def main() -> int:
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path.home() / ".cache/squire/target"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--squire", type=Path, default=target / "debug/squire", help="with its seams compiled in")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=100)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    total, failed = Counter(), 0
    for number in range(options.first, options.first + options.cases):
        with tempfile.TemporaryDirectory() as root:
            case = Case(options.squire, options.seed, number, Path(root))
            try:
                case.play()
            except Exception as error:
                case.faults.append(f"the case ended: {short(error)}")
            total += case.outcome
            if case.faults:
                failed += 1
                about = f"{'stable' if case.stable else 'address'} row ids, version {case.version}"
                print(f"case {number} ({about}): {'; '.join(case.faults)}\n    {' | '.join(case.done)}", flush=True)
    said = ", ".join(f"{count} {what}" for what, count in sorted(total.items()))
    print(f"seed {options.seed}: {options.cases} cases, {failed} failed; {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
