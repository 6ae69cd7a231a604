"""Shapes of rows: types, nesting, widths and emptiness."""

import datetime
import decimal
import os

import pyarrow as pa

from build import Db, ids, state

REFUSED = {"optimize": (3, r"\bt\b"), "daemon": (1, r"\bt\b")}
"""What a rewrite that cannot be read back comes to."""


def typed(kind: pa.DataType, value) -> "callable":
    """Batches of ten rows, `value(i)` and nulls, of one type."""
    return lambda i: pa.table(
        {
            "id": range(i * 10, i * 10 + 10),
            "v": pa.array([value(i * 10 + j) if j % 4 else None for j in range(10)], kind),
        }
    )


def dictionary_of(keys: pa.DataType, count: int, nest):
    """Batches whose dictionaries have `count` values of their own, nested by `nest`."""

    def batch(i):
        array = pa.DictionaryArray.from_arrays(pa.array(range(count), keys), [f"{i}-{j:05d}" for j in range(count)])
        return pa.table({"id": range(count), "v": nest(array)})

    return batch


@state(expect=REFUSED)
def dictionary_in_struct(db: Db):
    """Narrow dictionary keys inside a struct."""
    db.fill(dictionary_of(pa.int8(), 100, lambda a: pa.StructArray.from_arrays([a, a], ["a", "b"])), 16)


@state(expect=REFUSED)
def dictionary_in_list(db: Db):
    """Narrow dictionary keys inside a list."""

    def nest(array):
        return pa.ListArray.from_arrays(pa.array(range(len(array) + 1), pa.int32()), array)

    db.fill(dictionary_of(pa.int8(), 100, nest), 16)


@state(expect=REFUSED)
def dictionary_unsigned(db: Db):
    """Unsigned narrow dictionary keys."""
    db.fill(dictionary_of(pa.uint8(), 200, lambda a: a), 16)


@state(expect=REFUSED)
def dictionary_int16(db: Db):
    """16-bit dictionary keys, too few for all fragments."""
    db.fill(dictionary_of(pa.int16(), 3000, lambda a: a), 16)


@state()
def dictionary_same(db: Db):
    """Narrow keys of one small dictionary that all fragments share."""
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2] * 5, pa.int8()), ["a", "b", "c"])
    db.fill(lambda i: pa.table({"id": range(15), "v": array}))


@state()
def dictionary_int32(db: Db):
    """32-bit dictionary keys, as pandas does not write them."""
    db.fill(dictionary_of(pa.int32(), 100, lambda a: a), 16)


@state()
def dictionary_int64(db: Db):
    """64-bit dictionary keys."""
    db.fill(dictionary_of(pa.int64(), 100, lambda a: a), 16)


@state()
def structs(db: Db):
    """Structs in structs, null at each level."""
    kind = pa.struct([("a", pa.int32()), ("b", pa.struct([("c", pa.string()), ("d", pa.list_(pa.int64()))]))])
    db.fill(typed(kind, lambda i: {"a": i, "b": {"c": f"x{i}", "d": [i, None]} if i % 3 else None}))


@state(quick=True)
def lists_of_structs(db: Db):
    """Lists of structs, empty, null and with null elements."""
    kind = pa.list_(pa.struct([("a", pa.int32()), ("b", pa.string())]))
    db.fill(typed(kind, lambda i: [{"a": i, "b": None}, None, {"a": None, "b": "y"}][: i % 4]))


@state()
def lists_of_lists(db: Db):
    """Lists of lists of strings."""
    db.fill(typed(pa.list_(pa.list_(pa.string())), lambda i: [[], None, [f"x{i}", None]][: i % 4]))


@state(store=False)
def maps(db: Db):
    """Maps, which need storage version 2.2."""
    db.fill(
        typed(pa.map_(pa.string(), pa.int64()), lambda i: [(f"k{j}", j) for j in range(i % 4)]),
        data_storage_version="2.2",
    )


@state()
def half_floats(db: Db):
    """Half floats, plain and as vectors, with NaN and infinities."""
    import numpy as np

    def batch(i):
        values = np.array([i, 0.5, np.nan, np.inf, -0.0, 65504, 1e-7, 2, 3, 4], dtype=np.float16)
        return pa.table({"id": range(10), "h": values, "v": pa.FixedSizeListArray.from_arrays(pa.array(values), 1)})

    db.fill(batch)


@state()
def null_vectors(db: Db):
    """Vectors of which some are null, and a vector index over them."""
    kind = pa.list_(pa.float32(), 8)
    db.fill(typed(kind, lambda i: [float(i + j) for j in range(8)]), 40)
    db.open().create_index("v", index_type="IVF_FLAT", num_partitions=2)
    db.put(typed(kind, lambda i: [float(i - j) for j in range(8)])(90))


@state()
def fixed_lists(db: Db):
    """Fixed-size lists of integers and fixed-size binary."""
    db.fill(
        lambda i: pa.table(
            {
                "v": pa.array([[i, j] for j in range(10)], pa.list_(pa.int32(), 2)),
                "b": pa.array([bytes([i, j, 0]) if j % 3 else None for j in range(10)], pa.binary(3)),
            }
        )
    )


@state()
def fixed_lists_with_nulls(db: Db):
    """Fixed-size lists with null elements."""
    db.fill(typed(pa.list_(pa.float32(), 2), lambda i: [None, float(i)]))


@state()
def decimals(db: Db):
    """128 and 256-bit decimals at their limits."""

    def batch(i):
        small = [decimal.Decimal(i) / 8, None, decimal.Decimal("-9" * 1)]
        big = [decimal.Decimal("9" * 76), None, decimal.Decimal(-i)]
        return pa.table({"a": pa.array(small, pa.decimal128(38, 6)), "b": pa.array(big, pa.decimal256(76, 0))})

    db.fill(batch)


@state()
def times(db: Db):
    """Dates, times, instants with zones, durations; before and after the epoch."""

    def batch(i):
        ticks = [-(10**12) + i, None, 0, 10**12 + i]
        kinds = {
            "ts_us": pa.timestamp("us"),
            "ts_ms_tz": pa.timestamp("ms", "Europe/Berlin"),
            "ts_s": pa.timestamp("s", "UTC"),
            "d": pa.duration("us"),
        }
        columns = {
            n: pa.array([t and t // 1000 if n == "ts_s" else t for t in ticks], pa.int64()).cast(k)
            for n, k in kinds.items()
        }
        columns["day"] = pa.array(
            [datetime.date(1, 1, 1), None, datetime.date(1970, 1, 1), datetime.date(9999, 12, 31)]
        )
        columns["t64"] = pa.array([0, None, 1, 86_399_999_999], pa.int64()).cast(pa.time64("us"))
        columns["t32"] = pa.array([0, None, 1, 86_399], pa.int32()).cast(pa.time32("s"))
        return pa.table(columns)

    db.fill(batch)


@state()
def unsigned(db: Db):
    """Integers at their limits, unsigned 64 bit among them."""
    db.fill(
        lambda i: pa.table(
            {
                "u64": pa.array([2**64 - 1, None, i], pa.uint64()),
                "i64": pa.array([-(2**63), None, 2**63 - 1], pa.int64()),
                "u8": pa.array([255, None, i], pa.uint8()),
                "b": pa.array([True, None, False]),
            }
        )
    )


@state()
def floats(db: Db):
    """NaN, infinities and negative zero."""
    db.fill(lambda i: pa.table({"f": pa.array([float("nan"), float("inf"), float("-inf"), -0.0, None, i / 3])}))


@state()
def views(db: Db):
    """String and binary views."""
    db.fill(typed(pa.string_view(), lambda i: f"a string longer than twelve bytes {i}" if i % 2 else "short"))


@state()
def large_types(db: Db):
    """Large strings, binaries and lists."""
    db.fill(
        lambda i: pa.table(
            {
                "s": pa.array([f"x{i}", None, ""], pa.large_string()),
                "b": pa.array([b"\0\xff", None, b""], pa.large_binary()),
                "l": pa.array([[i], None, []], pa.large_list(pa.int32())),
            }
        )
    )


@state()
def all_null(db: Db):
    """A column of nulls, and one of the null type."""
    db.fill(lambda i: pa.table({"id": range(5), "n": pa.nulls(5, pa.string()), "x": pa.nulls(5)}))


@state(store=False)
def zero_rows(db: Db):
    """A table without a row."""
    db.put(ids(0).slice(0, 0))


@state()
def empty_fragments(db: Db):
    """Appends without rows between others."""
    db.fill(lambda i: ids(i).slice(0, 0 if i % 2 else 10), 40)


@state(quick=True)
def all_deleted(db: Db):
    """Every row is deleted."""
    db.fill(ids)
    db.open().delete("true")


@state()
def one_huge_row(db: Db):
    """One row of 8 MB beside small ones."""
    db.fill(lambda i: pa.table({"id": [i], "b": [os.urandom(8_000_000) if i == 7 else b"x"]}))


@state()
def zstd_text(db: Db):
    """Text that zstd stores in a hundredth of its bytes: sizes go by decoded bytes."""
    doc = pa.field("doc", pa.string(), metadata={"lance-encoding:compression": "zstd"})
    schema = pa.schema([pa.field("id", pa.int64()), doc])
    db.fill(lambda i: pa.table([pa.array(range(20)), pa.array([f"{i} abcdefgh" * 10_000] * 20)], schema=schema))


@state()
def many_columns(db: Db):
    """Four hundred columns."""
    db.fill(lambda i: pa.table({f"c{j}": [i, j, None] for j in range(400)}), 17)


@state()
def odd_names(db: Db):
    """Column names with spaces, quotes, umlauts, upper case."""
    names = ["a b", "A B", "ü", "select", "it's", '"q"', "x" * 200]
    db.fill(lambda i: pa.table({name: [i, None, 3] for name in names}))


@state()
def json_columns(db: Db):
    """JSON columns."""
    kind = pa.json_(pa.string())
    db.fill(
        lambda i: pa.table(
            {"id": range(10), "j": pa.array([f'{{"a": {j}, "b": [{i}]}}' for j in range(10)], pa.string()).cast(kind)}
        )
    )


@state()
def extension_types(db: Db):
    """UUIDs and tensors: extension types keep their names."""

    def batch(i):
        uuids = pa.ExtensionArray.from_storage(
            pa.uuid(), pa.array([bytes([i, j] * 8) for j in range(4)], pa.binary(16))
        )
        tensors = pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2, 2]), pa.array([[1.0, 2, 3, i]] * 4, pa.list_(pa.float32(), 4))
        )
        return pa.table({"u": uuids, "t": tensors})

    db.fill(batch)


@state(store=False)
def blobs_v1(db: Db):
    """Blob columns of the first kind."""
    blob = pa.field("b", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([pa.field("id", pa.int64()), blob])
    db.fill(
        lambda i: pa.table([pa.array([i, i]), pa.array([os.urandom(3000), b""], pa.large_binary())], schema=schema),
        data_storage_version="2.1",
    )


@state(store=False)
def blobs_v2(db: Db):
    """Blob columns of the second kind: inline, packed and in files of their own."""
    import lance

    schema = pa.schema([pa.field("id", pa.int64()), lance.blob_field("b")])
    db.fill(
        lambda i: pa.table(
            [pa.array([i, i]), lance.blob_array([os.urandom(3000), os.urandom(300_000)])], schema=schema
        ),
        17,
        data_storage_version="2.2",
    )
