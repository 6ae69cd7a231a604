"""Settings and places: configuration that lives in a table, and where tables lie."""

import pyarrow as pa

from build import Db, ids, state
from states.cases import words


@state(store=False)
def auto_cleanup(db: Db):
    """Lance's own cleanup is on in the table: each commit may run it."""
    db.fill(ids, auto_cleanup_options={"interval": 3, "older_than_seconds": 10**7})


@state()
def table_config(db: Db):
    """Configuration, metadata of schema and fields, written by an application."""
    db.fill(ids)
    db.open().update_config({"app.owner": "me", "lance.something": "x"})
    db.open().update_schema_metadata({"origin": "zoo"})
    db.open().update_field_metadata({"id": {"unit": "m"}})


@state(store=False, quick=True)
def stable_row_ids(db: Db):
    """Stable row ids, with deletions, updates and an index."""
    db.fill(words, enable_stable_row_ids=True)
    db.open().create_scalar_index("id", "BTREE")
    db.open().delete("id % 5 = 1")
    db.open().update({"v": "'w1'"}, where="id % 7 = 2")
    db.put(words(20))


@state(store=False, cleanup=False)
def cleanup_off(db: Db):
    """Cleanup is switched off for all: nothing is removed by the daemon."""
    db.fill(ids)


@state(store=False, config="min_candidate_fragments = 4\nmax_task_fragments = 3\ntarget_rows_per_fragment = 25")
def small_tasks(db: Db):
    """Bounds so small that many tasks are needed; they end all the same."""
    db.fill(ids, 40)


@state()
def many_versions(db: Db):
    """Hundreds of versions of one small table."""
    db.fill(lambda i: pa.table({"id": [i]}), 300)


@state()
def unenforced_key(db: Db):
    """A primary key that the schema declares."""
    field = pa.field("id", pa.int64(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})
    db.fill(lambda i: pa.table([pa.array(range(i * 10, i * 10 + 10))], schema=pa.schema([field])))


@state(store=False, tables=("t", "model"))
def nested_folder(db: Db):
    """A table in a folder of the watched directory."""
    db.fill(ids)
    (db.root / "org").mkdir()
    db.fill(ids, name="org/model")


@state(store=False, tables=("t", "a/b/c/d"))
def deeply_nested(db: Db):
    """A table deeper down than folders are looked into: the folder is named."""
    db.fill(ids)
    (db.root / "a/b/c/d").mkdir(parents=True)
    db.fill(ids, name="a/b/c/d/deep")


@state(store=False, tables=("t", "users"))
def child_namespace(db: Db):
    """A table in a child namespace of LanceDB."""
    import lancedb

    db.fill(ids)
    connection = lancedb.connect_namespace("dir", {"root": str(db.root)})
    connection.create_namespace(["team"])
    table = connection.create_table("users", words(0), namespace_path=["team"])
    for i in range(1, 20):
        table.add(words(i))


@state(store=False, tables=("t", "with space", "ünïcode"))
def odd_table_names(db: Db):
    """Folders with spaces and umlauts."""
    for name in ("t", "with space", "ünïcode", "percent%20name"):
        db.fill(ids, name=name)
