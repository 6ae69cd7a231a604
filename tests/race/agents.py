"""Agents on one spool beside a bare append loop: files and rows a second, in one run.

    squire N      N agents work off the spool until it is empty, with what a power cut outlives synced
    process N     the same, without syncs, as bare Lance does
    pylance N     N processes read the same files and append each by a commit of its own, and try again when they lose

With --latency every request to the store takes so many milliseconds more (a build with failpoints); the loop has no such thing and is left
out. Ends with 1 when a table does not hold every row once.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("LANCE_LOG", "error")

import lance
import pyarrow as pa
import pyarrow.parquet as pq


def rows(file, count):
    return pa.table({"file": [file] * count, "n": list(range(count)), "text": [f"row {file}/{n}" for n in range(count)]})


def table_of(file, tables):
    return f"t{file % tables}"


def fill(folder, tables, count, files):
    folder.mkdir(parents=True)
    for file in range(files):
        pq.write_table(rows(file, count), folder / f"{table_of(file, tables)}.{file:06d}.parquet")


def counted(dataset, files, tables, count):
    """Whether `dataset(table)` of each table holds every row of its files once."""
    for table in {table_of(file, tables) for file in range(files)}:
        seen = dataset(table).to_table(columns=["file", "n"])
        mine = [file for file in range(files) if table_of(file, tables) == table]
        pairs = set(zip(seen["file"].to_pylist(), seen["n"].to_pylist()))
        if len(seen) != len(mine) * count or len(pairs) != len(seen):
            return False
    return True


def squire(root, args, agents, tables, count, files, durability):
    store, spool = root / "store", root / "spool"
    pq.write_table(rows(0, 1), root / "like.parquet")
    run = lambda *words: subprocess.run([args.squire, *map(str, words)], check=True, capture_output=True, text=True).stdout
    run("init", store)
    for table in range(tables):
        run("create", store, f"t{table}", "--like", root / "like.parquet")
    fill(spool / "incoming", tables, count, files)
    env, place = dict(os.environ, SQUIRE_DURABILITY=durability), str(store)
    if args.latency:
        env["SQUIRE_FAULTS"] = f"latency={args.latency}..{args.latency + 1}ms"
        place = f"file-object-store://{store}"
    command = [args.squire, "agent", place, "--spool", str(spool), "--until-empty", "--log", "error"]
    began = time.perf_counter()
    started = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) for _ in range(agents)]
    peak = 0
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        peak = max(peak, usage.ru_maxrss // 1024)
        if status:
            raise RuntimeError(f"an agent ended with {status}")
    took = time.perf_counter() - began
    commits = lance.dataset(str(store / "_squire" / "manifest.lance")).version - tables
    right = counted(lambda table: lance.dataset(str(store / f"{table}.lance")), files, tables, count)
    return took, commits, peak, right


def append(root, files):
    """Appends these files, one commit each."""
    for file in files:
        table = pq.read_table(file)
        uri = str(Path(root) / f"{Path(file).name.split('.')[0]}.lance")
        while True:
            try:
                lance.write_dataset(table, uri, mode="append")
                break
            except OSError as e:  # lost to another one too often
                if "conflict" not in str(e).lower() and "contention" not in str(e).lower():
                    raise


def pylance(root, args, processes, tables, count, files):
    fill(root / "files", tables, count, files)
    for table in range(tables):
        lance.write_dataset(rows(0, 1).slice(0, 0), str(root / f"t{table}.lance"))
    names = sorted(str(file) for file in (root / "files").iterdir())
    context = get_context("spawn")
    with context.Pool(processes) as pool:
        pool.map(len, [[]] * processes)
        began = time.perf_counter()
        pool.starmap(append, [(str(root), names[i::processes]) for i in range(processes)], chunksize=1)
        took = time.perf_counter() - began
    right = counted(lambda table: lance.dataset(str(root / f"{table}.lance")), files, tables, count)
    return took, files, 0, right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squire", required=True, help="the binary")
    parser.add_argument("--agents", default="1,2,4,8")
    parser.add_argument("--loops", default="1,8", help="processes of the bare loop")
    parser.add_argument("--tables", default="1,5")
    parser.add_argument("--rows", default="1,100,10000", help="of a file")
    parser.add_argument("--files", type=int, default=2_000, help="a tenth of them where rows are 10,000 or more")
    parser.add_argument("--latency", type=int, default=0, help="milliseconds that a request takes more")
    args = parser.parse_args()
    numbers = lambda text: [int(word) for word in text.split(",") if word]
    print("| tables | rows of a file | who | files/s | to the loop | rows/s | commits/s | MB peak | each once |\n|---|---|---|---|---|---|---|---|---|")
    bad = 0
    for tables in numbers(args.tables):
        for count in numbers(args.rows):
            files = args.files // 10 if count >= 10_000 else args.files
            sides = [] if args.latency else [("pylance", n, pylance, ()) for n in numbers(args.loops)]
            sides += [("squire", n, squire, ("power",)) for n in numbers(args.agents)]
            sides += [] if args.latency else [("process", n, squire, ("process",)) for n in numbers(args.agents)[:1]]
            base = None
            for name, n, side, more in sides:
                root = Path(tempfile.mkdtemp(prefix="agents-"))
                try:
                    took, commits, peak, right = side(root, args, n, tables, count, files, *more)
                finally:
                    shutil.rmtree(root, ignore_errors=True)
                rate = files / took
                base = base or rate
                ratio = "-" if args.latency else f"{rate / base:.2f}"
                print(
                    f"| {tables} | {count} | {name} {n} | {rate:.0f} | {ratio} | {rate * count:.0f} | {commits / took:.1f} "
                    f"| {peak or '-'} | {'yes' if right else 'NO'} |",
                    flush=True,
                )
                bad += not right
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
