"""A race: one writer beside one maintainer, on one table; then the same writer beside the next maintainer.

Every maintainer meets the same table and the same writes (one seed), in one run, and all are measured alike:

    written   bytes that its process wrote (`wchar` of /proc/PID/io)
    useful    bytes of the data files and indexes that some version refers to and the writer did not make
    vain      the rest of what was written
    runs      of a loop each call; of Squire those that committed something, and what others cost is vain
    stranded  bytes of files that no version refers to, after the maintainer has made one pass more, alone

In a store (--places store) the writer is `squire` and the only maintainer Squire's, beside none. Ends with 1 when a writer
beside Squire failed, or the rows are not the writer's.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

# A maintainer that loses is counted; Lance warns of it besides.
os.environ.setdefault("LANCE_LOG", "error")

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM = 256
APPENDED = 100
MERGED = 10
NEW_IDS = 10_000_000
MERGED_IDS = 20_000_000


def rows(ids, rng):
    """Rows of about a kilobyte."""
    ids = np.asarray(ids, dtype=np.int64)
    vectors = rng.standard_normal(len(ids) * DIM, dtype=np.float32)
    return pa.table(
        {
            "id": ids,
            "category": rng.integers(0, 100, len(ids), dtype=np.int32),
            "text": [f"document {i} of a race, which is as long as a short title" for i in ids],
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIM),
        }
    )


def build(path, args, index):
    """The table before the race: every commit would cost minutes, so the fragments are those of one."""
    rng = np.random.default_rng(args.seed)
    total = args.fragments * args.rows
    batches = (rows(range(i * args.rows, (i + 1) * args.rows), rng).to_batches()[0] for i in range(args.fragments))
    schema = rows([0], rng).schema
    lance.write_dataset(
        pa.RecordBatchReader.from_batches(schema, batches), path, max_rows_per_file=args.rows, max_rows_per_group=args.rows
    )
    dataset = lance.dataset(path)
    if index in ("btree", "both"):
        dataset.create_scalar_index("id", "BTREE")
    if index in ("ivf_pq", "both"):
        lance.dataset(path).create_index("vec", "IVF_PQ", num_partitions=max(1, total // 4096), num_sub_vectors=16)


class Pylance:
    """Writes through pylance, as most users do."""

    def __init__(self, place, _args):
        self.path = str(Path(place) / "t.lance")
        self.dataset = lance.dataset(self.path)
        self.files = set()

    def append(self, table):
        self.dataset = lance.write_dataset(table, self.dataset, mode="append")

    def update(self, key):
        self.dataset.update({"category": "category + 1"}, where=f"id = {key}")

    def delete(self, key):
        self.dataset.delete(f"id = {key}")

    def merge(self, table):
        merge = self.dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(table)

    def note(self):
        """Which files the latest commit made: those of its newest fragment."""
        newest = max(self.dataset.get_fragments(), key=lambda fragment: fragment.fragment_id)
        self.files.update(file.path for file in newest.data_files())


class Squire:
    """Writes through the command line, into a store."""

    def __init__(self, place, args):
        self.store, self.squire = place, args.squire
        self.scratch = tempfile.mkdtemp(dir=Path(place).parent)
        self.files = set()

    def run(self, *args):
        done = subprocess.run([self.squire, *args], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-300:])

    def given(self, table):
        path = str(Path(self.scratch) / "rows.parquet")
        pq.write_table(table, path)
        return path

    def append(self, table):
        self.run("write", self.store, "t", self.given(table))

    def update(self, key):
        self.merge(rows([key], np.random.default_rng(key)))

    def delete(self, key):
        self.run("delete", self.store, "t", "--where", f"id = {key}")

    def merge(self, table):
        self.run("write", self.store, "t", self.given(table), "--mode", "merge", "--key", "id")

    def note(self):
        pass


def write(place, client, args, rate, begins, told):
    """Appends and mutates at the given rates, from when the race begins until it is over."""
    writer = {"plain": Pylance, "store": Squire}[client](place, args)
    rng = np.random.default_rng(args.seed)
    present, total = set(range(args.fragments * args.rows)), args.fragments * args.rows
    latencies, failures, done = {"append": [], "mutation": []}, [], {"append": 0, "mutation": 0}
    rates = {"append": args.appends, "mutation": rate}
    while (elapsed := time.time() - begins) < args.seconds:
        behind = {kind: elapsed * rates[kind] - done[kind] for kind in rates if rates[kind]}
        kind = max(behind, key=behind.get)
        if behind[kind] < 0:
            time.sleep(0.005)
            continue
        done[kind] += 1
        key, verb = int(rng.integers(0, total)), "append"
        if kind == "append":
            first = NEW_IDS + done[kind] * APPENDED
            ids = list(range(first, first + APPENDED))
        else:
            verb = rng.choice(["update", "update", "delete", "merge"])
            old, new = rng.integers(0, total, MERGED // 2), MERGED_IDS + done[kind] * MERGED + np.arange(MERGED // 2)
            ids = sorted({int(i) for i in (*old, *new)})
        given = rows(ids, rng) if verb in ("append", "merge") else None
        started = time.perf_counter()
        try:
            getattr(writer, verb)(key if given is None else given)
            latencies[kind].append(time.perf_counter() - started)
        except Exception as e:  # whatever a writer meets is what is measured
            failures.append(f"{verb}: {e}"[:200])
            continue
        if verb == "delete":
            present.discard(key)
        elif verb != "update" or client == "store":
            present.update(ids if given is not None else [key])
        writer.note()
    told.put({"latencies": latencies, "failures": failures, "present": present, "files": writer.files})


def loop(place, how, begins, seconds, told):
    """A maintainer as users write it: again, a second after it has ended."""
    runs = {"ok": 0, "failed": 0}
    while time.time() < begins + seconds:
        try:
            if how == "lancedb":
                import lancedb

                lancedb.connect(place).open_table("t").optimize()
            else:
                lance.dataset(str(Path(place) / "t.lance")).optimize.compact_files()
            runs["ok"] += 1
        except Exception:  # lost the race
            runs["failed"] += 1
        time.sleep(1)
    told.put((runs, written_by("self"), peak_of("self")))


def written_by(process):
    lines = Path(f"/proc/{process}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def peak_of(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def files_below(path):
    return {str(file.relative_to(path)): file.stat().st_size for file in Path(path).rglob("*") if file.is_file()}


def referred(path):
    """Sizes of the data files, and ids of the indexes, that some version refers to."""
    files, indexes = {}, set()
    for version in lance.dataset(path).versions():
        dataset = lance.dataset(path, version=version["version"])
        for fragment in dataset.get_fragments():
            files.update((file.path, file.file_size_bytes) for file in fragment.data_files())
        indexes.update(index["uuid"] for index in dataset.list_indices())
    return files, indexes


def race(place, client, maintainer, rate, args):
    """One maintainer beside the writer. Gives what is printed of it."""
    context = get_context("spawn")
    path = str(Path(place) / "t.lance")
    before_files, before_indexes = referred(path)
    begins, answers, runs = time.time() + 3, context.Queue(), context.Queue()
    writer = context.Process(target=write, args=(place, client, args, rate, begins, answers))
    writer.start()
    daemon, looping = None, None
    if maintainer == "squire":
        log = open(Path(place).parent / "squire.log", "w")
        command = [args.squire, "daemon", place, "--listen", "off"]
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    elif maintainer != "none":
        looping = context.Process(target=loop, args=(place, maintainer, begins, args.seconds, runs))
        looping.start()
    wrote = answers.get(timeout=args.seconds + 600)
    writer.join()
    result = {"ok": 0, "failed": 0}, 0, 0
    if daemon:
        written, peak = written_by(daemon.pid), peak_of(daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=120)
        history = json.loads(subprocess.run([args.squire, "history", place, "--json"], capture_output=True).stdout)
        result = {"ok": len(history["runs"]), "failed": 0}, written, peak
    elif looping:
        result = runs.get(timeout=600)
        looping.join()
    counts, written, peak = result
    files, indexes = referred(path)
    made = {name: size for name, size in files.items() if name not in before_files and name not in wrote["files"]}
    useful = sum(size or 0 for size in made.values()) if client == "plain" else None
    sizes = files_below(path)
    if useful is not None:
        fresh = {f"_indices/{uuid}/" for uuid in indexes - before_indexes}
        useful += sum(size for name, size in sizes.items() if any(name.startswith(index) for index in fresh))
    dataset = lance.dataset(path)
    fragments, total = len(dataset.get_fragments()), dataset.count_rows()
    after = sum(sizes.values())
    if maintainer == "squire":
        subprocess.run([args.squire, "daemon", place, "--once", "--listen", "off"], capture_output=True)
    files, indexes = referred(path)
    stranded = 0
    for name, size in files_below(path).items():
        room, _, rest = name.partition("/")
        is_known = rest in files if room == "data" else rest.split("/")[0] in indexes
        if room in ("data", "_indices") and not is_known:
            stranded += size
    ids = lance.dataset(path).to_table(columns=["id"])["id"].to_numpy()
    return {
        "place": client,
        "rate": rate,
        "maintainer": maintainer,
        "runs": counts,
        "written": written,
        "useful": useful,
        "fragments": fragments,
        "rows": total,
        "disk": after,
        "stranded": stranded,
        "peak": peak,
        "failures": wrote["failures"],
        "latencies": wrote["latencies"],
        "right": len(ids) == len(wrote["present"]) and set(ids.tolist()) == wrote["present"],
    }


def quantile(values, q):
    return float(np.percentile(values, q)) * 1e3 if values else float("nan")


def line(result, base):
    """One line of the table; `base` is the race without a maintainer."""
    mega = lambda n: f"{n / 1e6:.0f}"
    p50, p99 = (quantile(result["latencies"]["mutation"], q) for q in (50, 99))
    against = quantile(base["latencies"]["mutation"], 99)
    useful, written = result["useful"], result["written"]
    share = f"{100 * min(useful / written, 1):.1f} %" if useful is not None and written else "-"
    return (
        f"| {result['place']} | {result['index']} | {result['rate']:g} | {result['maintainer']} "
        f"| {result['runs']['ok']} of {sum(result['runs'].values())} | {mega(written)} | {share} | {result['fragments']} "
        f"| {mega(result['disk'])} | {mega(result['stranded'])} | {mega(result['peak'])} | {len(result['failures'])} "
        f"| {p50:.0f} / {p99:.0f} | {p99 / against:.2f} | {'yes' if result['right'] else 'NO'} |"
    )


HEAD = """
| place | index | mutations/s | maintainer | runs that succeed | MB written | useful | fragments | MB on disk | MB stranded | MB peak | writer failures | mutation p50 / p99 ms | p99 to none | rows right |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squire", required=True, help="the binary")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--fragments", type=int, default=2_000)
    parser.add_argument("--rows", type=int, default=500, help="of each fragment")
    parser.add_argument("--appends", type=float, default=5, help="a second")
    parser.add_argument("--rates", default="1,10", help="mutations a second")
    parser.add_argument("--indexes", default="none", help="of none, btree, ivf_pq, both")
    parser.add_argument("--places", default="plain", help="of plain, store")
    parser.add_argument("--maintainers", default="none,lancedb,compact,squire")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = parser.parse_args()
    print(f"seed {args.seed}, {args.fragments} fragments of {args.rows} rows, {args.seconds:g} s each")
    print(HEAD, flush=True)
    root, bad = Path(tempfile.mkdtemp(prefix="race-")), 0
    try:
        for place in args.places.split(","):
            for index in args.indexes.split(","):
                origin = root / f"{place}-{index}"
                prepare(origin, place, index, args)
                for rate in map(float, args.rates.split(",")):
                    for _ in range(args.rounds):
                        bad += compare(root, origin, (place, index, rate), args)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.exit(1 if bad else 0)


def prepare(origin, place, index, args):
    """The table that every race of this place and index begins with."""
    origin.mkdir()
    if place == "plain":
        build(str(origin / "t.lance"), args, index)
        return
    rng = np.random.default_rng(args.seed)
    subprocess.run([args.squire, "init", str(origin)], check=True, capture_output=True)
    writer = Squire(str(origin), args)
    first = writer.given(rows([0], rng))
    subprocess.run([args.squire, "create", str(origin), "t", "--like", first], check=True, capture_output=True)
    for i in range(args.fragments):
        writer.append(rows(range(i * args.rows, (i + 1) * args.rows), rng))
    if index in ("btree", "both"):
        subprocess.run([args.squire, "index", str(origin), "t", "id", "--type", "btree"], check=True, capture_output=True)
        subprocess.run([args.squire, "reindex", str(origin)], check=True, capture_output=True)


def compare(root, origin, what, args):
    """All maintainers, one after the other. Gives how many races went wrong."""
    place, index, rate = what
    base, bad = None, 0
    for maintainer in args.maintainers.split(","):
        if place == "store" and maintainer not in ("none", "squire"):
            continue
        copy = root / "race" / "db"
        shutil.rmtree(root / "race", ignore_errors=True)
        shutil.copytree(origin, copy)
        result = race(str(copy), place, maintainer, rate, args) | {"index": index}
        base = base or result
        print(line(result, base), flush=True)
        for failure in result["failures"][:3]:
            print(f"    {failure}")
        bad += maintainer == "squire" and (bool(result["failures"]) or not result["right"])
    return bad


if __name__ == "__main__":
    main()
