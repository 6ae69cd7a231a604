"""Tables whose fragments differ: columns that came and went, rows that were changed."""

import pyarrow as pa

from build import Db, ids, state
from states.cases import words


@state()
def columns_added(db: Db):
    """A computed column was added, and more appended."""
    db.fill(words)
    db.open().add_columns({"twice": "id * 2"})
    db.fill(lambda i: words(20 + i).append_column("twice", pa.array(range(50), pa.int64())), 5)


@state()
def columns_added_null(db: Db):
    """A column without values was added: fragments before it lack it."""
    db.fill(words)
    db.open().add_columns(pa.field("later", pa.string()))
    db.fill(lambda i: words(20 + i).append_column("later", pa.array(["x"] * 50)), 5)


@state()
def columns_dropped(db: Db):
    """A column was dropped; its data is still in the files."""
    db.fill(words)
    db.open().drop_columns(["v"])
    db.fill(lambda i: ids(i, 50), 3)


@state()
def columns_renamed(db: Db):
    """An indexed column was renamed."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().alter_columns({"path": "id", "name": "key"})
    db.fill(lambda i: words(20 + i).rename_columns(["key", "v"]), 3)


@state()
def columns_cast(db: Db):
    """A column was cast: its fragments have two files."""
    db.fill(ids)
    db.open().alter_columns({"path": "id", "data_type": pa.int32()})
    db.fill(lambda i: ids(20 + i).cast(pa.schema([("id", pa.int32())])), 3)


@state()
def columns_subset(db: Db):
    """Appends that leave nullable columns out."""
    db.fill(lambda i: words(i).select(["id"]) if i % 2 else words(i))


@state()
def rows_updated(db: Db):
    """Rows were updated, some of them indexed."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().create_scalar_index("v", "BITMAP")
    for i in range(5):
        db.open().update({"v": f"'u{i}'"}, where=f"id % 7 = {i}")


@state()
def rows_merged(db: Db):
    """Rows were merged by key, and an index stands."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    for i in range(5):
        db.open().merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(words(i * 5))


@state()
def columns_merged(db: Db):
    """Part of the columns was merged into matching rows."""
    db.fill(words)
    db.open().create_scalar_index("v", "BTREE")
    part = pa.table({"id": range(0, 1000, 3), "v": ["merged"] * 334})
    db.open().merge_insert("id").when_matched_update_all().execute(part)
    db.open().merge_insert("id").when_matched_update_all().execute(part.slice(0, 10))


@state()
def overwritten(db: Db):
    """Overwritten by another schema, with an index and tags on what was."""
    import lance

    db.fill(words)
    db.open().create_scalar_index("v", "BITMAP")
    db.open().tags.create("before", db.open().version)
    lance.write_dataset(ids(0), db.path(), mode="overwrite")
    db.fill(lambda i: ids(i + 1), 19)


@state()
def restored(db: Db):
    """An older version was restored."""
    db.fill(ids)
    version = db.open().version
    db.open().delete("id > 50")
    old = db.open(version=version)
    old.restore()
    db.fill(lambda i: ids(i + 20), 3)


@state(quick=True)
def many_deletions(db: Db):
    """Half of each fragment is deleted, one commit at a time."""
    db.fill(lambda i: ids(i, 100), 5)
    for i in range(25):
        db.open().delete(f"id % 50 = {i}")


@state(quick=True)
def deletions_indexed(db: Db):
    """Deletions under btree, text and vector index at once."""
    from states.cases import vectors

    def batch(i):
        return vectors(50, seed=i).append_column("v", words(i)["v"])

    db.fill(batch)
    db.open().create_scalar_index("id", "BTREE")
    db.open().create_scalar_index("v", "INVERTED")
    db.open().create_index("vec", index_type="IVF_FLAT", num_partitions=2)
    db.open().delete("id % 3 = 1")


@state()
def fragments_whole_deleted(db: Db):
    """Whole fragments are deleted between others."""
    db.fill(ids, 30)
    db.open().delete("id % 20 < 10")
