"""Damage: what crashes, full disks, copies and curious hands leave behind."""

import os
import shutil

import pyarrow as pa
from build import Db, ids, state
from states.cases import HALF, words

UNREADABLE = {command: (1, r"\bt\b") for command in HALF}
"""A table that cannot be opened costs a line and the exit code."""
READS_DATA = {command: (1, r"\bt\b") for command in ("status", "plan", "optimize --dry-run", "optimize", "daemon")}
CLEANS = {"cleanup": (1, r"\bt\b"), "cleanup --dry-run": (1, r"\bt\b"), "store cleanup --dry-run": (0, "")}
"""Where there is something to remove, it stays. A store's snapshots have nothing old at first."""


def newest(db: Db):
    """The manifest of HEAD: V2 names count down."""
    return min((db.dir() / "_versions").glob("*.manifest"))


@state(expect=UNREADABLE)
def empty_manifest(db: Db):
    """The newest manifest is an empty file: a crash before its bytes were synced."""
    db.fill(ids)
    yield
    newest(db).write_bytes(b"")


@state(expect=UNREADABLE)
def truncated_manifest(db: Db):
    """The newest manifest was cut short."""
    db.fill(ids)
    yield
    os.truncate(newest(db), newest(db).stat().st_size // 2)


@state(expect=UNREADABLE)
def zeroed_manifest(db: Db):
    """The newest manifest has its size and no bytes."""
    db.fill(ids)
    yield
    newest(db).write_bytes(bytes(newest(db).stat().st_size))


@state(expect={**READS_DATA, **CLEANS})
def missing_data_file(db: Db):
    """A data file of HEAD is gone: its older versions may be the last good ones."""
    db.fill(ids)
    yield
    min((db.dir() / "data").iterdir()).unlink()


@state(store=False, expect={**CLEANS, "daemon": (1, r"\bt\b")})
def missing_file_elsewhere(db: Db):
    """A data file of HEAD in another base is gone: its older versions may be the last good ones."""
    import lance

    base = db.root.parent / "elsewhere" / db.root.name
    base.mkdir(parents=True, exist_ok=True)
    db.fill(ids, 1, initial_bases=[lance.DatasetBasePath(str(base), name="b")])
    db.fill(lambda i: ids(i + 1), 19)
    lance.write_dataset(ids(0, 50), db.path(), mode="overwrite", target_bases=["b"])
    yield
    min(base.rglob("*.lance")).unlink()


@state(store=False, expect={**CLEANS, "daemon": (1, r"\bt\b")})
def missing_blob(db: Db):
    """The files with the blobs of HEAD are gone; a scan says where they would stand."""
    import lance

    schema = pa.schema([pa.field("id", pa.int64()), lance.blob_field("b")])
    one = lambda i: pa.table([pa.array([i]), lance.blob_array([os.urandom(5_000_000)])], schema=schema)
    db.fill(one, 5, data_storage_version="2.2")
    lance.write_dataset(one(9), db.path(), mode="overwrite")
    yield
    head = db.open().get_fragments()[0].data_files()[0].path
    for blob in (db.dir() / "data" / head.removesuffix(".lance")).glob("*.blob"):
        blob.unlink()


@state(expect={**READS_DATA, **CLEANS})
def truncated_data_file(db: Db):
    """A data file of HEAD was cut short."""
    db.fill(ids)
    yield
    file = min((db.dir() / "data").iterdir())
    os.truncate(file, file.stat().st_size // 2)


@state(expect={**READS_DATA, **CLEANS})
def missing_deletion_file(db: Db):
    """A deletion file of HEAD is gone."""
    db.fill(ids)
    db.open().delete("id % 10 = 3")
    yield
    min((db.dir() / "_deletions").iterdir()).unlink()


@state()
def hole_in_history(db: Db):
    """Versions in the middle are gone."""
    db.fill(ids)
    yield
    for manifest in sorted((db.dir() / "_versions").glob("*.manifest"))[5:9]:
        manifest.unlink()


@state()
def transactions_gone(db: Db):
    """The transaction files are gone."""
    db.fill(ids)
    yield
    shutil.rmtree(db.dir() / "_transactions")


@state(store=False)
def wrong_hint(db: Db):
    """The hint of the latest version names one that never was."""
    db.fill(ids)
    hint = db.dir() / "_versions" / "latest_version_hint.json"
    if hint.exists():
        hint.write_text('{"version": 99}')


@state()
def torn_hint(db: Db):
    """The hint of the latest version is an empty file."""
    db.fill(ids)
    yield
    (db.dir() / "_versions" / "latest_version_hint.json").write_text("")


@state()
def stray_files(db: Db):
    """Editors and copies left files everywhere."""
    db.fill(ids)
    yield
    for place in ("", "_versions", "data", "_transactions"):
        for name in (".DS_Store", "Thumbs.db", "copy of x.tmp", ".nfs0001"):
            (db.dir() / place / name).write_text("x")
    (db.root / "notes.txt").write_text("x")
    (db.root / "backup").mkdir()


@state(store=False)
def uncommitted_files(db: Db):
    """Data files of a writer that has not committed yet: they are nobody's garbage for seven days."""
    db.fill(ids)
    shutil.copy(min((db.dir() / "data").iterdir()), db.dir() / "data" / "00000000-in-flight.lance")


@state(store=False)
def file_named_as_table(db: Db):
    """A file whose name ends like a table's: nobody takes it for one."""
    db.fill(ids)
    (db.root / "file.lance").write_text("x")


@state(store=False, expect={c: (1, "empty") for c in HALF}, tables=("t", "empty"))
def empty_folder(db: Db):
    """An empty folder named like a table."""
    db.fill(ids)
    (db.root / "empty.lance").mkdir()


@state(store=False, expect={c: (0, "bad") for c in HALF})
def non_utf8_name(db: Db):
    """A table's folder whose name is no UTF-8."""
    db.fill(ids)
    os.mkdir(os.fsencode(db.root) + b"/bad\xff.lance")


@state(store=False)
def non_utf8_file(db: Db):
    """A file beside the tables whose name is no UTF-8."""
    db.fill(ids)
    with open(os.fsencode(db.root) + b"/bad\xff.txt", "w") as file:
        file.write("x")


@state(store=False)
def link_loop(db: Db):
    """Links that lead in a circle, beside the tables and inside one."""
    db.fill(ids)
    (db.root / "loop").symlink_to(db.root / "loop")
    (db.root / "up").symlink_to(db.root)


@state(store=False, expect={c: (0, "loop") for c in HALF}, tables=("t", "loop"))
def link_loop_as_table(db: Db):
    """A link to itself, named like a table."""
    db.fill(ids)
    (db.root / "loop.lance").symlink_to(db.root / "loop.lance")


@state(store=False, expect={c: (0, "gone") for c in HALF}, tables=("t", "gone"))
def dangling_link(db: Db):
    """A link to a table that is gone."""
    db.fill(ids)
    (db.root / "gone.lance").symlink_to("/nonexistent/t.lance")


@state(store=False, tables=("t", "alias"))
def linked_table(db: Db):
    """One table under two names, by a link: it is maintained once, or twice without harm."""
    db.fill(ids)
    (db.root / "alias.lance").symlink_to(db.dir())


REFUSED = {c: (1 if "clean" in c or c == "daemon" else 3, r"\bt\b") for c in HALF}


def set_flag(db: Db, reader: bool) -> None:
    """Sets a feature flag that no release knows in the newest manifest: fields 9 and 10, a varint each."""
    import re

    path = newest(db)
    data = path.read_bytes()
    length = int.from_bytes(data[-16:-8], "little")  # position of the manifest, before the magic
    size = int.from_bytes(data[length : length + 4], "little")
    body = data[length + 4 : length + 4 + size]
    flags = (b"\x48" if reader else b"\x50") + b"\x80\x80\x80\x40"  # 1 << 27, appended: the last value of a field wins
    new = body + flags
    path.write_bytes(data[:length] + len(new).to_bytes(4, "little") + new + data[length + 4 + size :])
    assert re.search(re.escape(flags), path.read_bytes())


@state(expect=REFUSED)
def unknown_reader_flag(db: Db):
    """HEAD asks its readers for a feature that this release does not know."""
    db.fill(ids)
    yield
    set_flag(db, reader=True)


@state(quick=True, expect={"optimize --dry-run": (3, "flags"), "optimize": (3, "flags"), "reindex": (3, "flags"), **CLEANS, "daemon": ((0, 1), "flags")})
def unknown_writer_flag(db: Db):
    """HEAD asks its writers for a feature that this release does not know."""
    db.fill(ids)
    db.open().create_scalar_index("id", "BTREE")
    db.put(ids(20, 50))
    yield
    set_flag(db, reader=False)


@state(plain=False, expect=REFUSED)
def replaced_under_pin(db: Db):
    """A store's table was dropped and made again, with other rows, as LanceDB does."""
    import lance

    db.fill(ids)
    yield
    shutil.rmtree(db.dir())
    for i in range(30):
        lance.write_dataset(words(i), db.path(), mode="append" if i else "create")
