"""A thousand commits of one row: what a table looks like after them with Squire's daemon on, beside one that was written at once.

    appends   each commit adds a row
    merges    each replaces a row and adds one

In a directory pylance writes; in a store `squire ingest`, and for merges `squire write`. When the writer is through and the daemon
has nothing more to do, fragments, versions, bytes and a scan of two columns are compared with a table of the same rows that was
written by one commit. A version is kept for an hour at least, so all are there yet, and what they alone refer to; bytes are those of
the latest version, and all. Ends with 1 when the rows are not the writer's.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

def rows(ids, seed):
    """Rows of about half a kilobyte."""
    rng = np.random.default_rng(seed)
    vectors = pa.array(rng.standard_normal(len(ids) * 128, dtype=np.float32))
    return pa.table({"id": pa.array(ids, pa.int64()), "vec": pa.FixedSizeListArray.from_arrays(vectors, 128)})


class Directory:
    """A table that pylance writes."""

    def __init__(self, root, squire, base):
        self.root = root / "db"
        lance.write_dataset(base, str(self.root / "t.lance"))
        self.dataset = lance.dataset(str(self.root / "t.lance"))

    def appends(self, commits):
        for one in commits:
            self.dataset = lance.write_dataset(one, self.dataset, mode="append")

    def merges(self, commits):
        for two in commits:
            self.dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(two)


class Store:
    """A table that `squire` writes."""

    def __init__(self, root, squire, base):
        self.root, self.squire, self.scratch = root / "store", squire, root / "rows.parquet"
        pq.write_table(base, self.scratch)
        self.run("init", self.root)
        self.run("create", self.root, "t", "--like", self.scratch, "--key", "id")
        self.run("write", self.root, "t", self.scratch)

    def run(self, *args, **more):
        subprocess.run([self.squire, *map(str, args)], check=True, capture_output=True, **more)

    def appends(self, commits):
        lines = (json.dumps(row) for one in commits for row in one.to_pylist())
        self.run("ingest", self.root, "t", "--producer", "small", "--rows", "1", input="\n".join(lines).encode() + b"\n")

    def merges(self, commits):
        for two in commits:
            pq.write_table(two, self.scratch)
            self.run("write", self.root, "t", self.scratch, "--mode", "merge")


def measured(path):
    dataset = lance.dataset(str(path))
    files = {str(file.relative_to(path)): file.stat().st_size for file in path.rglob("*") if file.is_file()}
    live = [f"data/{file.path}" for fragment in dataset.get_fragments() for file in fragment.data_files()]
    times = []
    for _ in range(20):
        began = time.perf_counter()
        dataset = lance.dataset(str(path))
        dataset.to_table(columns=["id", "vec"])
        times.append(time.perf_counter() - began)
    newest = max(path.joinpath("_versions").glob("*.manifest"), key=lambda file: file.stat().st_mtime).stat().st_size
    bytes_live = sum(files[name] for name in live) + newest
    return len(dataset.get_fragments()), len(dataset.versions()), bytes_live, sum(files.values()), min(times) * 1e3


def settle(root):
    """Waits until nothing has changed for a while."""
    path, before = root / "t.lance", None
    for _ in range(40):
        time.sleep(5)
        now = lance.dataset(str(path))
        now = now.version, len(now.versions()), len(list(path.rglob("*")))
        if now == before:
            return
        before = now
    print("    it did not come to rest")


def compare(kind, how, args):
    root = Path(tempfile.mkdtemp(prefix="small-"))
    try:
        base = rows(range(args.rows), 1)
        place = {"directory": Directory, "store": Store}[kind](root, args.squire, base)
        new = range(args.rows, args.rows + args.commits)
        if how == "appends":
            commits = [rows([i], i) for i in new]
            final = pa.concat_tables([base, *commits])
        else:
            commits = [rows([i - args.rows, i], i) for i in new]
            final = pa.concat_tables([*commits, base.slice(args.commits)])
        command = [args.squire, "daemon", str(place.root), "--listen", "off"]
        daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(root / "log").open("w"))
        began = time.perf_counter()
        getattr(place, how)(commits)
        took = time.perf_counter() - began
        settle(place.root)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=120)
        ours = measured(place.root / "t.lance")
        lance.write_dataset(final, str(root / "fresh.lance"))
        fresh = measured(root / "fresh.lance")
        got = lance.dataset(str(place.root / "t.lance")).to_table().sort_by("id")
        right = got.combine_chunks() == final.sort_by("id").combine_chunks()
        ratios = " | ".join(f"{a:.0f} / {b:.0f} ({a / b:.2f})" for a, b in zip(ours, fresh))
        print(f"| {kind} | {args.commits} {how} in {took:.0f} s | {ratios} | {'yes' if right else 'NO'} |", flush=True)
        return right
    finally:
        shutil.rmtree(root, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squire", required=True, help="the binary")
    parser.add_argument("--commits", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=50_000, help="of the table before")
    args = parser.parse_args()
    print("| place | commits | fragments (to fresh) | versions | bytes of the latest | bytes | scan of two columns, ms | rows right |\n|---|---|---|---|---|---|---|---|")
    right = [compare(kind, how, args) for kind in ("directory", "store") for how in ("appends", "merges")]
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
