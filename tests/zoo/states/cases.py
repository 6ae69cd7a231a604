"""The nine faults that the zoo was begun with; each stands for a kind that the other modules widen."""

import os
import shutil

import pyarrow as pa

from build import Db, ids, state


def airports(i: int, keys: pa.DataType = pa.int8()) -> pa.Table:
    names = pa.DictionaryArray.from_arrays(pa.array(range(100), keys), [f"{i}-{j:03d}" for j in range(100)])
    return pa.table({"id": range(100), "airport": names})


@state(quick=True, expect={"optimize": (3, "t"), "daemon": (1, "t")})
def dictionary(db: Db):
    """Narrow dictionary keys: a rewrite needs more keys than they hold."""
    db.fill(airports, 16)


def words(i: int) -> pa.Table:
    return pa.table({"id": range(i * 50, i * 50 + 50), "v": [f"w{j % 9}" for j in range(50)]})


@state(quick=True)
def reuse_index(db: Db):
    """A fragment-reuse index stands, and fragments have changed since."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().create_scalar_index("v", "INVERTED")
    db.open().optimize.compact_files(defer_index_remap=True)
    db.open().delete("id % 5 = 1")


def vectors(rows: int, dimension: int = 16, seed: int = 0) -> pa.Table:
    import numpy as np

    values = np.random.default_rng(seed).random(rows * dimension, dtype=np.float32)
    return pa.table({"id": range(rows), "vec": pa.FixedSizeListArray.from_arrays(pa.array(values), dimension)})


@state(store=True, release="0.21.0", broken_index=True, expect={"reindex": (1, "vec_idx"), "daemon": (1, "vec_idx")})
def old_vector_index(db: Db):
    """A vector index of an old release, whose extension panics inside Lance."""
    db.put(vectors(300))
    db.open().create_index("vec", index_type="IVF_PQ", num_partitions=2, num_sub_vectors=4)
    db.put(vectors(300, seed=1))


HELD = {command: (3, "skipped: index") for command in ("optimize --dry-run", "optimize")}
"""What an index covers that cannot follow a rewrite stays as it is."""


@state(quick=True, broken_index=True, expect={**HELD, "reindex": (1, "id_idx"), "daemon": (1, "id_idx")})
def index_files_gone(db: Db):
    """The files of an index are gone, and it has rows to take in."""
    db.fill(ids)
    db.open().create_scalar_index("id", "BTREE")
    db.put(ids(20, 50))
    yield
    for index in os.listdir(db.dir() / "_indices"):
        shutil.rmtree(db.dir() / "_indices" / index)


HALF = {
    command: (1, "half")
    for command in (
        "status",
        "plan",
        "optimize --dry-run",
        "optimize",
        "reindex",
        "cleanup --dry-run",
        "cleanup",
        "daemon",
    )
}


@state(quick=True, store=False, tables=("half",), expect=HALF)
def half_folder(db: Db):
    """A folder named like a table, with data and without a version."""
    os.makedirs(db.dir("half") / "data")


@state(quick=True, plain=False, expect={command: (1, "t") for command in HALF})
def store_table_gone(db: Db):
    """A store's table was deleted behind its back."""
    db.fill(ids)
    yield
    shutil.rmtree(db.dir())


@state(quick=True, store=False, kept=1, tables=("t", "clone"))
def shallow_clone(db: Db):
    """A clone beside its source reads the source's files, which only a former version names."""
    db.fill(ids, 17)
    db.open().tags.create("v3", 3)
    db.open().shallow_clone(db.path("clone"), 3)
    db.open().tags.delete("v3")


@state(slow=True, store=False)
def decoded_bytes(db: Db):
    """2.2 GB of text in a few kilobytes of zstd: a default scan of one fragment of them overflows."""
    doc = pa.field("doc", pa.string(), metadata={"lance-encoding:compression": "zstd"})
    schema = pa.schema([pa.field("id", pa.int64()), doc])
    text = "abcdefgh" * 125_000
    db.fill(lambda i: pa.table([pa.array(range(100)), pa.array([text] * 100)], schema=schema), 22)


@state(
    release="0.21.0",
    config='max_task_input="3MiB"\nmax_task_output="3MiB"',
    expect={"optimize --dry-run": (0, "t(.lance)?: [67] tasks")},
)
def no_file_sizes(db: Db):
    """Manifests of old releases carry no file sizes: byte bounds hold all the same."""
    db.fill(lambda i: pa.table({"b": pa.array([os.urandom(100_000) for _ in range(10)])}))
