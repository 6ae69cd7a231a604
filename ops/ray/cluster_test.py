"""Real raylets, real workers, real deaths: `squire optimize --executor ray` on a cluster of two nodes in this machine.

    cluster_test.py --squire BINARY [--python PYTHON]     BINARY has its seams compiled in; PYTHON has pylance, for what readers see
                    [--seed N] [--rounds N]               who dies when, in `survives_what_happens`; the seed is printed
    cluster_test.py --squire BINARY --figures FRAGMENTS   wall times by each executor, instead

Every case asserts on the rows, read by pylance, and that nothing is left on storage which no version refers to.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.cluster_utils import Cluster

ROWS_OF = """
import hashlib, json, lance, sys
table = lance.dataset(sys.argv[1])
rows = table.to_table().sort_by("id").to_pylist()
digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
files = {f.path for fragment in table.get_fragments() for f in fragment.metadata.files}
print(json.dumps({"rows": len(rows), "digest": digest, "fragments": len(table.get_fragments()), "files": sorted(files)}))
"""
FILL = """
import lance, pyarrow as pa, sys
uri, fragments, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for n in range(fragments):
    ids = list(range(n * rows, (n + 1) * rows))
    batch = pa.table({"id": pa.array(ids, pa.int64()), "value": [f"{n}-{i}-" + "x" * (i % 400) for i in ids]})
    lance.write_dataset(batch, uri, mode="append" if n else "create")
"""
# Deletes, updates and appends until its input ends, and says what the rows are that should be there, and that the table has them.
WRITE = """
import hashlib, json, random, select, sys, lance, pyarrow as pa
uri, random = sys.argv[1], random.Random(int(sys.argv[2]))
rows = {r["id"]: r["value"] for r in lance.dataset(uri).to_table(columns=["id", "value"]).to_pylist()}
writes, lost, new = 0, 0, max(rows) + 1
while not select.select([sys.stdin], [], [], random.uniform(0, 0.3))[0]:
    ids = random.sample(sorted(rows), 3)
    where = "id IN (" + ", ".join(map(str, ids)) + ")"
    table = lance.dataset(uri)
    try:
        match random.randrange(4):
            case 0 | 1 if len(rows) > 100:
                table.delete(where)
                for id in ids: del rows[id]
            case 0 | 1 | 2:
                table.update({"value": f"'w-{writes}'"}, where=where)
                for id in ids: rows[id] = f"w-{writes}"
            case 3:
                lance.write_dataset(pa.table({"id": pa.array([new], pa.int64()), "value": [f"w-{writes}"]}), uri, mode="append")
                rows[new] = f"w-{writes}"
                new += 1
        writes += 1
    except Exception as e:
        if "onflict" not in str(e) and "contention" not in str(e):
            raise
        lost += 1
rows = [{"id": id, "value": rows[id]} for id in sorted(rows)]
print(json.dumps({"rows": len(rows), "digest": hashlib.sha256(json.dumps(rows).encode()).hexdigest(), "writes": writes, "lost": lost}))
"""
# Reads every version, and names the files that none of them refers to and that are none of what a writer of a few rows lost.
FILES = """
import json, sys, lance
from pathlib import Path
from lance.file import LanceFileReader
root = Path(sys.argv[1])
table = lance.dataset(str(root))
known, indexes, versions = set(), set(), 0
for version in table.versions():
    at = table.checkout_version(version["version"])
    known |= {f.path for fragment in at.get_fragments() for f in fragment.metadata.files}
    indexes |= {i["uuid"] for i in at.list_indices()}
    assert at.to_table().num_rows == at.count_rows()
    if at.list_indices():
        assert at.to_table(filter="id >= 0").num_rows == at.count_rows()
    versions += 1
def is_writers(file):
    try:
        return LanceFileReader(str(file)).metadata().num_rows <= 3
    except Exception:
        return False
stranded = [f.name for f in (root / "data").iterdir() if f.name not in known and not is_writers(f)]
stranded += [d.name for d in (root / "_indices").iterdir() if d.name not in indexes] if (root / "_indices").exists() else []
print(json.dumps({"stranded": stranded, "versions": versions}))
"""
PATIENCE = 120


class Lake:
    """A watched directory with one table, and a configuration."""

    def __init__(self, options, fragments=24, rows=20):
        self.options = options
        self.dir = tempfile.TemporaryDirectory()
        self.uri = str(Path(self.dir.name) / "lake")
        os.mkdir(self.uri)
        self.python(FILL, f"{self.uri}/t.lance", fragments, rows)
        self.before = self.read()

    def python(self, program, *args):
        done = subprocess.run([self.options.python, "-c", program, *map(str, args)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def read(self):
        return json.loads(self.python(ROWS_OF, f"{self.uri}/t.lance"))

    def config(self, address, worker=(), away="wait", workers=2, of_task=8, memory="256MiB"):
        file = Path(self.dir.name) / "squire.toml"
        command = json.dumps([*worker])
        file.write_text(
            f'[policy]\nmax_task_fragments = {of_task}\n[executor]\nworkers = {workers}\nmemory = "{memory}"\n'
            f'ray_join = "15s"\nray_address = "{address}"\nray_python = "{sys.executable}"\nray_worker = {command}\nray_away = "{away}"\n'
        )
        return str(file)

    def squire(self, *args):
        environment = {**os.environ, "SQUIRE_DURABILITY": "process"}
        environment.pop("FAILPOINTS", None)
        return subprocess.Popen(
            [self.options.squire, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def optimize(self, config, executor="ray"):
        return self.squire("optimize", self.uri, "--executor", executor, "--config", config, "--json")

    def recover(self):
        done, said = ended(self.squire("recover", self.uri, "--force"))
        assert done == 0, said

    def assert_whole(self, fragments=None):
        now = self.read()
        assert (now["rows"], now["digest"]) == (self.before["rows"], self.before["digest"]), "rows"
        if fragments is not None:
            assert now["fragments"] == fragments, now["fragments"]
        # The files of both versions, and no other.
        known = set(now["files"]) | set(self.before["files"])
        there = {file.name for file in Path(self.uri, "t.lance", "data").iterdir()}
        assert there <= known, f"stranded: {there - known}"
        assert not Path(self.uri, ".squire", "recovery").exists(), "records are left"


def ended(process, patience=PATIENCE):
    out, err = process.communicate(timeout=patience)
    return process.returncode, out + err


def processes():
    """Id, state and command line of each."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = (stat.parent / "cmdline").read_bytes().split(b"\0")
            state = stat.read_text().rsplit(") ", 1)[1][0]
        except (OSError, IndexError):
            continue
        if state not in "ZX":
            yield int(stat.parent.name), state, words


def workers_of(squire):
    return [pid for pid, _, words in processes() if words[0] == squire.encode() and b"worker" in words]


def stopped_workers(squire):
    """The workers that stand at a seam."""
    return [pid for pid, state, words in processes() if state == "T" and words[0] == squire.encode() and b"worker" in words]


def programs(address):
    """Both processes of what talks to Ray."""
    return [pid for pid, _, words in processes() if words[-2:] == [address.encode(), b""] and b"-c" in words]


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])


def struck(pid):
    """Kills it, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_for(what, of):
    began = time.monotonic()
    while not (found := of()):
        assert time.monotonic() - began < PATIENCE, f"never: {what}"
        time.sleep(0.02)
    return found


def raylet_of(pid):
    """The node that a worker is on, by the process that is its ancestor."""
    while pid > 1:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0].endswith(b"raylet"):
            return pid
        pid = parent_of(pid)
    raise AssertionError("no raylet is above it")


def stopping(options, seam="worker.after_rewrite"):
    return ["env", f"FAILPOINTS={seam}=1*return(stop)", options.squire]


def executes(options, cluster):
    lake = Lake(options)
    code, said = ended(lake.optimize(lake.config(cluster.address)))
    assert code == 0, said
    assert "ray executes the tasks" in said, said
    lake.assert_whole(fragments=3)


def survives_killed_workers(options, cluster):
    """Each worker is killed once; of the next one the process goes on."""
    lake = Lake(options)
    run = lake.optimize(lake.config(cluster.address, stopping(options)))
    for _ in range(3):
        os.kill(wait_for("a worker stands", lambda: stopped_workers(options.squire))[0], signal.SIGKILL)
    while run.poll() is None:
        for pid in stopped_workers(options.squire):
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)
    code, said = ended(run)
    assert code == 0, said
    lake.assert_whole(fragments=3)


def survives_a_killed_program(options, cluster):
    """The run itself is killed while its workers stand: they die with the program in front of Ray, and recovery reclaims."""
    lake = Lake(options)
    run = lake.optimize(lake.config(cluster.address, stopping(options)))
    wait_for("two workers stand", lambda: len(stopped_workers(options.squire)) >= 2)
    run.kill()
    ended(run)
    wait_for("its workers are gone", lambda: not stopped_workers(options.squire))
    lake.recover()
    lake.assert_whole(fragments=24)
    code, said = ended(lake.optimize(lake.config(cluster.address)))
    assert code == 0, said
    lake.assert_whole(fragments=3)


def stops_when_asked(options, cluster):
    lake = Lake(options)
    run = lake.optimize(lake.config(cluster.address, stopping(options)))
    wait_for("two workers stand", lambda: len(stopped_workers(options.squire)) >= 2)
    run.send_signal(signal.SIGINT)
    code, said = ended(run)
    assert not stopped_workers(options.squire), "a worker is left"
    assert code == 1, (code, said)
    lake.assert_whole(fragments=24)


def survives_a_killed_raylet(options, cluster):
    """What its workers were at is executed on the other node, or told; content is the same, and in the end nothing is left."""
    lake = Lake(options)
    run = lake.optimize(lake.config(cluster.address, stopping(options)))
    workers = wait_for("two workers stand", lambda: (w := stopped_workers(options.squire)) and len(w) >= 2 and w)
    raylets = {raylet_of(pid) for pid in workers}
    head = raylet_of_head(cluster)
    os.kill(next(iter(raylets - {head})), signal.SIGKILL)
    cluster.add_node(num_cpus=1)
    while run.poll() is None:
        for pid in stopped_workers(options.squire):
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)
    code, said = ended(run)
    assert code in (0, 3), (code, said)
    lake.recover()
    lake.assert_whole()


def raylet_of_head(cluster):
    return cluster.head_node.all_processes["raylet"][0].process.pid


def is_told_when_ray_is_away(options, cluster):
    nowhere = "127.0.0.1:1"
    lake = Lake(options)
    began = time.monotonic()
    code, said = ended(lake.optimize(lake.config(nowhere)))
    assert code == 1 and "no Ray at 127.0.0.1:1" in said, (code, said)
    assert time.monotonic() - began < PATIENCE / 2, "it went on looking for Ray"
    lake.assert_whole(fragments=24)
    code, said = ended(lake.optimize(lake.config(nowhere, away="local")))
    assert code == 0, said
    lake.assert_whole(fragments=3)


SEAMS = ["maintain.after_journal", "worker.after_rewrite", "worker.after_result"]


class Fate:
    """Decides, by its seed, what becomes of each worker that stands, and of all around it."""

    def __init__(self, options, cluster, lake):
        self.options, self.cluster, self.lake = options, cluster, lake
        self.random = random.Random(options.seed)
        self.deaths = dict.fromkeys(["worker", "process of Ray", "raylet", "program", "run"], 0)

    def strikes(self, worker, run):
        what = self.random.choices(["nobody", *self.deaths], [60, 14, 7, 5, 5, 2])[0]
        try:
            if what == "worker":
                struck(worker)
            elif what == "process of Ray":
                struck(parent_of(worker))
            elif what == "raylet" and (raylet := raylet_of(worker)) != raylet_of_head(self.cluster):
                struck(raylet)
                self.cluster.add_node(num_cpus=1)
            elif what == "program" and (those := sorted(programs(self.cluster.address))):
                struck(self.random.choice(those))
            elif what == "run":
                run.kill()
            else:
                what = "nobody"
                os.kill(worker, signal.SIGCONT)
        except (OSError, AssertionError):
            return  # The worker is gone already.
        if what in self.deaths:
            self.deaths[what] += 1

    def round(self):
        config = self.lake.config(self.cluster.address, stopping(self.options, self.random.choice(SEAMS)), of_task=6)
        run = self.lake.optimize(config)
        while run.poll() is None:
            for pid in sorted(stopped_workers(self.options.squire)):
                self.strikes(pid, run)
            time.sleep(0.05)
        code, said = ended(run)
        assert code in (0, 1, 3, 75, -signal.SIGKILL), (code, said)
        # Those of a killed run; Ray kills them as soon as it knows.
        wait_for("its workers are gone", lambda: not workers_of(self.options.squire))
        wait_for("what talks to Ray is gone", lambda: not programs(self.cluster.address))
        return code


def survives_what_happens(options, cluster):
    """Workers, Ray's own processes, raylets, the program and the run are killed at random under a writer."""
    lake = Lake(options, fragments=60, rows=100)
    uri = f"{lake.uri}/t.lance"
    lake.python("import lance, sys; lance.dataset(sys.argv[1]).create_scalar_index('id', 'BTREE')", uri)
    writer = subprocess.Popen(
        [options.python, "-c", WRITE, uri, str(options.seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    fate = Fate(options, cluster, lake)
    codes = []
    for _ in range(options.rounds):
        codes.append(fate.round())
        lake.recover()
    said, _ = writer.communicate(timeout=PATIENCE)
    assert writer.returncode == 0, "the writer failed"
    wanted = json.loads(said)
    code, said = ended(lake.optimize(lake.config(cluster.address)))
    assert code == 0, said
    lake.recover()
    now, files = lake.read(), json.loads(lake.python(FILES, uri))
    print(f"  {wanted['writes']} writes, {wanted['lost']} lost to conflicts; killed: {fate.deaths}; exit codes {codes}; "
          f"{files['versions']} versions read, {now['fragments']} fragments", flush=True)
    assert (now["rows"], now["digest"]) == (wanted["rows"], wanted["digest"]), "rows"
    assert not files["stranded"], f"stranded: {files['stranded']}"
    assert not Path(lake.uri, ".squire", "recovery").exists(), "records are left"


CASES = [
    executes, survives_killed_workers, stops_when_asked, survives_a_killed_program, is_told_when_ray_is_away,
    survives_a_killed_raylet, survives_what_happens,
]


# Rows of random text, which no encoding makes small.
FILL_LARGE = """
import lance, os, pyarrow as pa, sys
uri, fragments, rows, width = sys.argv[1], *map(int, sys.argv[2:])
for n in range(fragments):
    ids = list(range(n * rows, (n + 1) * rows))
    batch = pa.table({"id": pa.array(ids, pa.int64()), "value": [os.urandom(width // 2).hex() for _ in ids]})
    lance.write_dataset(batch, uri, mode="append" if n else "create")
lance.dataset(uri).create_scalar_index("id", "BTREE")
"""
DIGEST = """
import hashlib, lance, sys
table, digest, rows = lance.dataset(sys.argv[1]), hashlib.sha256(), 0
for batch in table.to_batches():
    for row in zip(batch["id"].to_pylist(), batch["value"].to_pylist()):
        # The order of rows is not the same: sums do not see it.
        rows += 1
        digest_of = hashlib.sha256(repr(row).encode()).digest()
        total = (int.from_bytes(digest_of, "big") + (total if rows > 1 else 0)) % (1 << 256)
print(rows, hex(total), len(table.get_fragments()))
"""
BY = [
    ("inline", "inline", 1), ("local, 1 worker", "local", 1), ("local, 2 workers", "local", 2), ("ray, 2 workers", "ray", 2),
    ("ray, 4 workers", "ray", 4),
]


def figures(options, cluster):
    """The same table by each executor, from a copy of its own."""
    import shutil

    first = Lake(options, fragments=1)
    origin = f"{first.dir.name}/origin.lance"
    began = time.monotonic()
    first.python(FILL_LARGE, origin, options.figures, options.rows, options.width)
    size = sum(f.stat().st_size for f in Path(origin).rglob("*") if f.is_file())
    print(f"{options.figures} fragments, {size / 1e9:.2f} GB with an index, written in {time.monotonic() - began:.0f} s; "
          f"{os.cpu_count()} cores here", flush=True)
    wanted = first.python(DIGEST, origin).split()
    uri = f"{first.uri}/t.lance"
    for name, executor, workers in BY:
        shutil.rmtree(uri)
        shutil.copytree(origin, uri)
        config = first.config(cluster.address, workers=workers, of_task=options.of_task, memory="1GiB")
        began = time.monotonic()
        code, said = ended(first.optimize(config, executor), PATIENCE * 30)
        took = time.monotonic() - began
        assert code == 0, said
        report = json.JSONDecoder().raw_decode(said[said.index("{"):])[0]["tables"][0]["report"]
        rows, digest, fragments = first.python(DIGEST, uri).split()
        assert [rows, digest] == wanted[:2], "rows"
        tasks = said.count("a task came back") or "?"
        print(f"{name:18} {took:7.1f} s  {report['bytes_rewritten'] / 1e9:6.2f} GB  {tasks} tasks  {fragments} fragments", flush=True)
    print("rows identical in all")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squire", required=True)
    parser.add_argument("--python", default=os.environ.get("SQUIRE_PYTHON", "python3"))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--figures", type=int)
    parser.add_argument("--rows", type=int, default=500, help="of a fragment of the figures")
    parser.add_argument("--width", type=int, default=1000, help="bytes of a row of the figures")
    parser.add_argument("--of-task", type=int, default=200)
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    cpus = 2 if options.figures else 1
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus})
    cluster.add_node(num_cpus=cpus)
    cluster.wait_for_nodes()
    failed = []
    try:
        if options.figures:
            figures(options, cluster)
            return 0
        for case in CASES:
            if options.only and case.__name__ not in options.only:
                continue
            began = time.monotonic()
            try:
                case(options, cluster)
                verdict = "ok"
            except Exception as e:
                verdict = f"FAILED: {type(e).__name__}: {e}"
                failed.append(case.__name__)
            print(f"{case.__name__}: {verdict}, {time.monotonic() - began:.1f} s", flush=True)
    finally:
        cluster.shutdown()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
