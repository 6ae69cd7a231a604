"""Releases and file formats: what older writers left, and every storage version that is written today."""

import pyarrow as pa

from build import Db, ids, state
from states.cases import HELD, vectors, words


@state(release="0.5.10")
def legacy_oldest(db: Db):
    """The oldest release that installs here: legacy files, V1 manifest paths, a deletion."""
    db.fill(ids)
    db.open().delete("id % 7 = 1")


@state(release="0.10.18")
def legacy_scalar_index(db: Db):
    """Legacy files with a btree index of that time."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.put(words(20))


@state(release="0.10.18", broken_index=True, expect={"reindex": (1, "vec_idx"), "daemon": (1, "vec_idx")})
def legacy_vector_index(db: Db):
    """Legacy files with an IVF_PQ index of that time, and rows that it lacks."""
    db.put(vectors(300))
    db.open().create_index("vec", index_type="IVF_PQ", num_partitions=2, num_sub_vectors=4)
    db.put(vectors(300, seed=1))


@state(release="0.10.18")
def legacy_strings(db: Db):
    """Legacy files with strings, lists and structs."""

    def batch(i):
        rows = [{"id": i, "s": "" if i % 3 else "x" * i, "l": [i, 7], "st": {"a": i, "b": "y"}}] * 5
        return pa.Table.from_pylist(rows)

    db.fill(batch)


@state(store=True, release="0.21.0")
def release_0_21(db: Db):
    """V1 manifest paths, 2.0 files, btree and bitmap, a tag, deletions."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().create_scalar_index("v", "BITMAP")
    db.open().tags.create("old", 5)
    db.open().delete("id % 5 = 1")
    db.put(words(20))


@state(store=True, release="0.21.0", expect={**HELD, "daemon": (0, "v_idx")})
def release_0_21_text(db: Db):
    """A text index of an old release, and rows that it lacks."""
    db.fill(words)
    db.open().create_scalar_index("v", "INVERTED")
    db.put(words(20))


@state(store=True, release="0.30.0")
def release_0_30(db: Db):
    """Btree and text index, a tag, deletions."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().create_scalar_index("v", "INVERTED")
    db.open().tags.create("old", 5)
    db.open().delete("id % 5 = 1")
    db.put(words(20))


@state(release="0.30.0")
def release_0_30_stable(db: Db):
    """Stable row ids while they were experimental, with deletions and an index."""
    db.fill(words, enable_move_stable_row_ids=True)
    db.open().create_scalar_index("id", "BTREE")
    db.open().delete("id % 5 = 1")
    db.put(words(20))


@state(store=True, release="0.30.0")
def release_0_30_vector(db: Db):
    """IVF_PQ of a middle release, and rows that it lacks."""
    db.put(vectors(300))
    db.open().create_index("vec", index_type="IVF_PQ", num_partitions=2, num_sub_vectors=4)
    db.put(vectors(300, seed=1))


@state(store=True, release="1.0.4")
def release_1_0(db: Db):
    """IVF_HNSW_SQ, btree and bitmap of release 1."""
    db.fill(lambda i: vectors(60, seed=i))
    db.open().create_index("vec", index_type="IVF_HNSW_SQ", num_partitions=2)
    db.open().create_scalar_index("id", "BTREE")
    db.put(vectors(60, seed=99))


@state(store=True, release="1.0.4")
def release_1_0_text(db: Db):
    """Text index with positions of release 1, deletions."""
    db.fill(words)
    db.open().create_scalar_index("v", "INVERTED", with_position=True)
    db.open().delete("id % 5 = 1")
    db.put(words(20))


@state(release="6.1.0", expect={"optimize --dry-run": ((0, 3), ""), "optimize": ((0, 3), "")})
def release_6_1(db: Db):
    """All kinds of scalar index of release 6, with stable row ids."""
    db.fill(words, enable_stable_row_ids=True)
    for column, kind in (("id", "BTREE"), ("v", "INVERTED")):
        db.open().create_scalar_index(column, kind)
    db.open().delete("id % 5 = 1")
    db.put(words(20))


def rich(i: int) -> pa.Table:
    rows = [
        {
            "id": i * 10 + j,
            "f": j / 3,
            "s": None if j % 3 else f"s{j}",
            "l": [j] * (j % 3),
            "st": {"a": j, "b": f"b{j}"},
        }
        for j in range(10)
    ]
    return pa.Table.from_pylist(rows)


@state(store=False)
def format_legacy(db: Db):
    """Legacy files written by the current release."""
    db.fill(rich, data_storage_version="legacy")


@state(store=False)
def format_2_0(db: Db):
    """Storage version 2.0."""
    db.fill(rich, data_storage_version="2.0")
    db.open().delete("id % 4 = 1")


@state(store=False)
def format_2_1(db: Db):
    """Storage version 2.1."""
    db.fill(rich, data_storage_version="2.1")
    db.open().delete("id % 4 = 1")


@state(store=False)
def format_2_3(db: Db):
    """The storage version that is not stable yet."""
    db.fill(rich, data_storage_version="2.3")
    db.open().delete("id % 4 = 1")


@state(store=False)
def v1_manifest_paths(db: Db):
    """V1 manifest paths, written by the current release."""
    db.fill(ids, enable_v2_manifest_paths=False)


@state(store=False)
def migrated_manifest_paths(db: Db):
    """V1 manifest paths that were migrated."""
    db.fill(ids, enable_v2_manifest_paths=False)
    db.open().migrate_manifest_paths_v2()


@state(store=False)
def lancedb_table(db: Db):
    """A table made and indexed by LanceDB."""
    import lancedb

    table = lancedb.connect(str(db.root)).create_table("t", words(0))
    for i in range(1, 20):
        table.add(words(i))
    table.create_scalar_index("id", index_type="BTREE")
    table.create_fts_index("v", use_tantivy=False) if hasattr(table, "create_fts_index") else None
    table.add(words(20))
