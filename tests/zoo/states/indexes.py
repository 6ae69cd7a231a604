"""Indexes: every kind, grown by deltas, remapped, deferred, damaged."""

import os
import shutil

import pyarrow as pa

from build import Db, ids, state
from states.cases import HELD, vectors, words


def lists(i: int) -> pa.Table:
    return pa.table({"id": range(50), "l": pa.array([[f"w{j % 9}", f"w{i % 5}"] for j in range(50)])})


def simple(kind: str, column: str, make=words, **options):
    """Twenty fragments, an index over them, deletions, and a tail that it lacks."""

    def build(db: Db):
        db.fill(make)
        db.open().create_scalar_index(column, kind, **options)
        db.open().delete("id % 10 = 3")
        db.put(make(20))

    return build


def vector(kind: str, **options):
    def build(db: Db):
        db.fill(lambda i: vectors(60, seed=i))
        db.open().create_index("vec", index_type=kind, num_partitions=2, **options)
        db.open().delete("id % 10 = 3")
        db.put(vectors(60, seed=99))

    return build


def nested_and_replaced(kind: str, column: str):
    def batch(i):
        ids = range(i * 10, i * 10 + 10)
        return pa.table({"id": ids, "st": [{"a": n, "t": f"word{n} x", "l": [f"l{n % 3}"]} for n in ids]})

    def build(db: Db):
        db.fill(batch, 5)
        db.open().create_scalar_index(column, kind)
        db.open().merge_insert("id").when_matched_update_all().execute(db.open().to_table())
        db.put(batch(20))

    return build


REPLACED = "on a field of a struct, all of whose rows were replaced."
KINDS = {
    "index_btree": (simple("BTREE", "id"), "A btree."),
    "index_bitmap": (simple("BITMAP", "v"), "A bitmap."),
    "index_label_list": (simple("LABEL_LIST", "l", lists), "A label list."),
    "index_ngram": (simple("NGRAM", "v"), "N-grams."),
    "index_zonemap": (simple("ZONEMAP", "id"), "A zone map."),
    "index_bloomfilter": (simple("BLOOMFILTER", "v"), "A bloom filter."),
    "index_text": (simple("INVERTED", "v"), "A text index."),
    "index_text_positions": (simple("INVERTED", "v", with_position=True), "A text index with positions."),
    "index_ivf_flat": (vector("IVF_FLAT"), "IVF_FLAT."),
    "index_ivf_pq": (vector("IVF_PQ", num_sub_vectors=4), "IVF_PQ."),
    "index_ivf_sq": (vector("IVF_SQ"), "IVF_SQ."),
    "index_ivf_hnsw_sq": (vector("IVF_HNSW_SQ"), "IVF_HNSW_SQ."),
    "index_ivf_hnsw_pq": (vector("IVF_HNSW_PQ", num_sub_vectors=4), "IVF_HNSW_PQ."),
    "index_ivf_rq": (vector("IVF_RQ"), "IVF_RQ."),
    "index_nested_emptied_btree": (nested_and_replaced("BTREE", "st.a"), f"A btree {REPLACED}"),
    "index_nested_emptied_bitmap": (nested_and_replaced("BITMAP", "st.a"), f"A bitmap {REPLACED}"),
    "index_nested_emptied_ngram": (nested_and_replaced("NGRAM", "st.t"), f"N-grams {REPLACED}"),
    "index_nested_emptied_label_list": (nested_and_replaced("LABEL_LIST", "st.l"), f"A label list {REPLACED}"),
}
for name, (make, about) in KINDS.items():
    make.__name__, make.__doc__ = name, about
    state(quick=name in ("index_btree", "index_text"))(make)


@state()
def index_deltas(db: Db):
    """An index of twelve deltas."""
    db.fill(words, 5)
    db.open().create_scalar_index("id", "BTREE")
    for i in range(12):
        db.put(words(5 + i))
        db.open().optimize.optimize_indices(num_indices_to_merge=0)
    db.put(words(30))


@state()
def index_vector_deltas(db: Db):
    """A vector index of six deltas."""
    db.fill(lambda i: vectors(60, seed=i), 5)
    db.open().create_index("vec", index_type="IVF_FLAT", num_partitions=2)
    for i in range(6):
        db.put(vectors(60, seed=50 + i))
        db.open().optimize.optimize_indices(num_indices_to_merge=0)


@state()
def index_two_on_column(db: Db):
    """A btree and a bitmap on one column."""
    db.fill(words)
    db.open().create_scalar_index("v", "BTREE", name="one")
    db.open().create_scalar_index("v", "BITMAP", name="two", replace=False)
    db.put(words(20))


@state()
def index_nested_field(db: Db):
    """An index on a field of a struct."""
    db.fill(lambda i: pa.table({"id": range(10), "st": [{"a": i * 10 + j, "b": "x"} for j in range(10)]}))
    db.open().create_scalar_index("st.a", "BTREE")
    db.put(pa.table({"id": range(10), "st": [{"a": 200 + j, "b": "x"} for j in range(10)]}))


@state()
def index_zones_in_struct(db: Db):
    """A zone map on a field of a struct, which is null here and there."""

    def nested(i):
        return pa.table({"id": range(10), "st": [{"a": i * 10 + j if j % 5 else None} for j in range(10)]})

    db.fill(nested)
    db.open().create_scalar_index("st.a", "ZONEMAP")
    db.open().delete("id = 3")
    db.put(nested(20))


@state()
def index_emptied(db: Db):
    """A vector index all of whose rows were deleted, and too few new ones to train it."""
    db.fill(lambda i: vectors(60, seed=i), 5)
    db.open().create_index("vec", "IVF_PQ", num_partitions=2, num_sub_vectors=4)
    db.open().delete("true")
    for i in range(20):
        db.put(vectors(1, seed=50 + i))


@state()
def index_json(db: Db):
    """An index of a path inside JSON documents."""
    from lance.indices import IndexConfig

    def batch(i):
        text = pa.array([f'{{"a": {i * 10 + j}, "b": [{j}]}}' if j % 4 else None for j in range(10)], pa.string())
        return pa.table({"id": range(10), "j": text.cast(pa.json_(pa.string()))})

    db.fill(batch)
    path = {"target_index_type": "btree", "path": "a"}
    db.open().create_scalar_index("j", IndexConfig(index_type="json", parameters=path))
    db.open().delete("id % 5 = 1")
    db.put(batch(20))
    db.put(batch(21))
    db.put(batch(22))


@state()
def index_nulls(db: Db):
    """A btree and a bitmap over columns that are mostly null."""
    db.fill(
        lambda i: pa.table({"id": range(20), "v": pa.array([None] * 18 + [f"x{i}", ""]), "n": pa.nulls(20, pa.int32())})
    )
    db.open().create_scalar_index("v", "BTREE")
    db.open().create_scalar_index("n", "BITMAP")
    db.put(pa.table({"id": range(20), "v": pa.array([None] * 20, pa.string()), "n": pa.nulls(20, pa.int32())}))


@state()
def index_untrained(db: Db):
    """An index that was declared and never trained."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE", train=False)


@state()
def index_column_dropped(db: Db):
    """An indexed column was dropped."""
    db.fill(words)
    db.open().create_scalar_index("v", "BITMAP")
    db.open().create_scalar_index("id", "BTREE")
    db.open().drop_columns(["v"])
    db.put(ids(20, 50))


@state(broken_index=True, expect={**HELD, "reindex": (1, "id_idx"), "daemon": (1, "id_idx")})
def index_truncated(db: Db):
    """The files of an index were cut short."""
    db.fill(ids)
    db.open().create_scalar_index("id", "BTREE")
    db.put(ids(20, 50))
    yield
    for index in os.listdir(db.dir() / "_indices"):
        for file in (db.dir() / "_indices" / index).iterdir():
            os.truncate(file, file.stat().st_size // 2)


@state(broken_index=True, expect={**HELD, "reindex": (1, "vec_idx"), "daemon": (1, "vec_idx")})
def index_vector_gone(db: Db):
    """The files of a vector index are gone."""
    db.fill(lambda i: vectors(60, seed=i))
    db.open().create_index("vec", index_type="IVF_FLAT", num_partitions=2)
    db.put(vectors(60, seed=99))
    yield
    shutil.rmtree(db.dir() / "_indices")


@state(broken_index=True, expect={**HELD, "reindex": (1, "v_idx"), "daemon": (1, "v_idx")})
def index_text_gone(db: Db):
    """The files of a text index are gone."""
    db.fill(words)
    db.open().create_scalar_index("v", "INVERTED")
    db.put(words(20))
    yield
    shutil.rmtree(db.dir() / "_indices")


@state(broken_index=True, expect={**HELD, "reindex": (1, "v_idx"), "daemon": (1, "v_idx")})
def index_damaged_covered(db: Db):
    """A file of an index was cut short, and nothing waits to be indexed."""
    db.fill(words)
    db.open().create_scalar_index("v", "BITMAP")
    yield
    for file in (db.dir() / "_indices").glob("*/*"):
        os.truncate(file, file.stat().st_size - 1)


@state(broken_index=True)
def index_lost_covered(db: Db):
    """An index that another client's compactions made lose its rows, and nothing waits to be indexed."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().optimize.compact_files(defer_index_remap=True)
    db.open().delete("id % 5 = 1")
    db.open().optimize.compact_files()


@state(broken_index=True, expect={**HELD, "reindex": (1, "v_idx"), "daemon": (0, "v_idx")})
def index_unknown_type(db: Db):
    """An index of a type that this release does not know."""
    db.fill(words)
    db.open().create_scalar_index("v", "BITMAP")
    db.put(words(20))
    for manifest in (db.dir() / "_versions").glob("*.manifest"):
        manifest.write_bytes(manifest.read_bytes().replace(b"BitmapIndexDetails", b"FutureIndexDetails"))


@state(broken_index=True, expect={**HELD, "reindex": (1, "jieba/default"), "daemon": (0, "jieba/default")})
def index_text_dictionary(db: Db):
    """A text index by a tokenizer with a dictionary, without which it cannot be opened."""
    home = db.root.parent / "models"
    (home / "jieba/default").mkdir(parents=True, exist_ok=True)
    (home / "jieba/default/config.json").write_text('{"main": "dict.txt"}')
    (home / "jieba/default/dict.txt").write_text("北京 100 n\n大学 100 n\n北京大学 50 n\n")
    os.environ["LANCE_LANGUAGE_MODEL_HOME"] = str(home)
    towns = ["北京大学", "北京", "大学", "上海"]
    db.fill(lambda i: pa.table({"id": range(i * 20, i * 20 + 20), "v": towns * 5}))
    db.open().create_scalar_index("v", "INVERTED", base_tokenizer="jieba/default")
    del os.environ["LANCE_LANGUAGE_MODEL_HOME"]
    db.put(pa.table({"id": range(400, 420), "v": towns * 5}))


def several(i: int) -> pa.Table:
    """Three vectors a row."""
    plain = vectors(180, seed=i)["vec"].combine_chunks()
    return pa.table({"id": range(60), "vec": pa.ListArray.from_arrays(pa.array(range(0, 181, 3), pa.int32()), plain)})


@state()
def index_several_vectors(db: Db):
    """An index of several vectors a row."""
    db.fill(several)
    db.open().create_index("vec", "IVF_FLAT", metric="cosine", num_partitions=2)
    db.open().delete("id % 10 = 3")
    db.fill(lambda i: several(20 + i), 3)


@state(broken_index=True)
def index_zero_vectors(db: Db):
    """An index by cosine, and more vectors without a direction than with one: it does not hold those."""
    import numpy as np

    def batch(i):
        values = np.random.default_rng(i).random((60, 16), dtype=np.float32)
        values[:50:2], values[1:50:2] = 0, np.nan
        return pa.table({"id": range(60), "vec": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 16)})

    db.fill(batch)
    db.open().create_index("vec", "IVF_FLAT", metric="cosine", num_partitions=2)
    db.open().delete("id % 10 = 3")
    db.fill(lambda i: batch(20 + i), 3)


@state()
def index_likes(db: Db):
    """An index of texts that are alike."""
    from lance.indices import IndexConfig

    def batch(i):
        return pa.table({"id": range(10), "v": [f"the fox {i * 10 + j} jumps over the lazy dog {j}" for j in range(10)]})

    db.fill(batch)
    db.open().create_scalar_index("v", IndexConfig(index_type="minhashlsh", parameters={}))
    db.open().delete("id = 3")
    db.fill(lambda i: batch(20 + i), 3)


@state()
def index_substrings(db: Db):
    """An index of all parts of texts."""
    from lance.indices import IndexConfig

    db.fill(words)
    db.open().create_scalar_index("v", IndexConfig(index_type="fm", parameters={}))
    db.open().delete("id % 10 = 3")
    db.fill(lambda i: words(20 + i), 3)


def texts(values: list, kind: str = "INVERTED", **options):
    """Few different texts, an index over them, deletions, and a tail that it lacks."""

    def build(db: Db):
        def batch(i):
            v = pa.array([values[(i + j) % len(values)] for j in range(50)])
            return pa.table({"id": range(i * 50, i * 50 + 50), "v": v})

        db.fill(batch)
        db.open().create_scalar_index("v", kind, **options)
        db.open().delete("id % 10 = 3")
        db.fill(lambda i: batch(20 + i), 3)

    return build


TEXTS = {
    "index_text_stop_words": (texts(["it", "the"]), "A text index over stop words alone."),
    "index_ngram_short": (texts(["no", "it", "a"], "NGRAM"), "N-grams of texts that are shorter."),
    "index_text_scripts": (texts(["北京大学", "東京 都", "Übersicht", "ü", ""]), "A text index over other scripts."),
    "index_text_icu": (texts(["北京大学", "東京都", "한국어"], base_tokenizer="icu"), "The same, split by a dictionary."),
    "index_text_raw": (texts(["two-words", "one"], base_tokenizer="raw", stem=False), "A text index of whole texts."),
    "index_ngram_scripts": (texts(["北京大学", "東京 都", "Übersicht"], "NGRAM"), "N-grams of other scripts."),
    "index_text_lists": (texts([["w1", "two words"], ["w2"], []]), "A text index over lists of texts."),
}
for name, (make, about) in TEXTS.items():
    make.__name__, make.__doc__ = name, about
    # Of what is left out on purpose an index finds nothing.
    state(broken_index=name == "index_text_stop_words")(make)


def labels(array):
    """Labels of one type, an index over them, deletions, and a tail that it lacks."""

    def build(db: Db):
        def batch(i):
            return pa.table({"id": range(i * 50, i * 50 + 50), "l": array([[j % 9 + 1, i % 5 + 10] for j in range(50)])})

        db.fill(batch)
        db.open().create_scalar_index("l", "LABEL_LIST")
        db.open().delete("id % 10 = 3")
        db.fill(lambda i: batch(20 + i), 3)

    return build


def as_dictionary(lists: list) -> pa.ListArray:
    items = pa.array([f"w{n}" for row in lists for n in row]).dictionary_encode()
    return pa.ListArray.from_arrays(pa.array(range(0, len(items) + 1, 2), pa.int32()), items)


LABELS = {
    "index_labels_days": lambda lists: pa.array(lists, pa.list_(pa.date32())),
    "index_labels_instants": lambda lists: pa.array(lists, pa.list_(pa.timestamp("us", "UTC"))),
    "index_labels_views": lambda lists: pa.array([[f"w{n}" for n in row] for row in lists], pa.list_(pa.string_view())),
    "index_labels_dictionary": as_dictionary,
    "index_labels_decimals": lambda lists: pa.array(lists, pa.list_(pa.decimal128(10, 2))),
}
for name, array in LABELS.items():
    make = labels(array)
    make.__name__, make.__doc__ = name, "A label list of another type."
    state()(make)


def deferred(kind: str, column: str, make=words):
    """An index whose remap was deferred, and deletions since."""

    def build(db: Db):
        db.fill(make)
        create = db.open().create_index if kind.startswith("IVF") else db.open().create_scalar_index
        create(column, kind, **({"num_partitions": 2} if kind.startswith("IVF") else {}))
        db.open().optimize.compact_files(defer_index_remap=True)
        db.open().delete("id % 5 = 1")
        for i in range(20):
            db.put(make(20 + i))

    return build


for kind, column in (
    ("BTREE", "id"),
    ("BITMAP", "v"),
    ("INVERTED", "v"),
    ("NGRAM", "v"),
    ("ZONEMAP", "id"),
    ("IVF_FLAT", "vec"),
    ("LABEL_LIST", "l"),
):
    make = deferred(kind, column, {"vec": lambda i: vectors(60, seed=i), "l": lists}.get(column, words))
    make.__name__, make.__doc__ = (
        f"reuse_{kind.lower()}",
        f"A fragment-reuse index over {kind}, deletions and new fragments.",
    )
    state()(make)


@state()
def reuse_twice(db: Db):
    """Two deferred compactions, one after the other, then deletions."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().optimize.compact_files(defer_index_remap=True)
    db.fill(lambda i: words(20 + i), 20)
    db.open().delete("id % 5 = 1")
    db.open().optimize.compact_files(defer_index_remap=True)
    db.fill(lambda i: words(60 + i), 20)
    db.open().delete("id % 5 = 2")


@state(
    store=False,
    expect={"optimize --dry-run": ((0, 3), ""), "optimize": ((0, 3), ""), "daemon": (0, "build it anew")},
)
def index_stable_row_ids(db: Db):
    """Every common index over stable row ids, with updates and deletions."""
    db.fill(words, enable_stable_row_ids=True)
    db.open().create_scalar_index("id", "BTREE")
    db.open().create_scalar_index("v", "INVERTED")
    db.open().delete("id % 5 = 1")
    db.open().update({"v": "'w1'"}, where="id % 7 = 2")
    db.put(words(20))


@state(quick=True)
def index_stable_segments(db: Db):
    """Two segments of a bitmap over stable row ids: what was updated since stands in both, and only once under its value."""

    def valued(i):
        return pa.table({"id": range(i * 50, i * 50 + 50), "v": [f"w{(i * 50 + j) % 9}" for j in range(50)]})

    db.fill(valued, enable_stable_row_ids=True)
    db.open().create_scalar_index("v", "BITMAP")
    for i in range(20, 44):
        db.put(valued(i))
    db.open().optimize.optimize_indices(num_indices_to_merge=0)
    db.open().update({"v": "'w5'"}, where="id % 7 = 1")


@state(expect={"optimize --dry-run": ((0, 3), ""), "optimize": ((0, 3), "")})
def index_stable_vectors(db: Db):
    """Vectors deleted under stable row ids: what covers them stays as it is, or what is dead would take places of what is near."""
    db.fill(lambda i: vectors(60, seed=i), enable_stable_row_ids=True)
    db.open().create_index("vec", "IVF_FLAT", num_partitions=2)
    db.open().delete("id % 3 = 0")


@state(expect={"optimize --dry-run": ((0, 3), ""), "optimize": ((0, 3), ""), "daemon": (0, "vec_idx")})
def reuse_ivf_hnsw_sq(db: Db):
    """The same over a graph, from which Lance does not answer after one more rewrite: what it covers stays as it is."""
    deferred("IVF_HNSW_SQ", "vec", lambda i: vectors(60, seed=i))(db)
