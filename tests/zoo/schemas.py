"""Random tables: schemas of every Arrow type that Lance takes, nested, from one seed."""

from __future__ import annotations

import datetime
import decimal
import random

import pyarrow as pa

from build import CURRENT, Db, State

WIDEST = 5
"""Columns of a table, and fields of a struct."""
DEEPEST = 3
FRAGMENTS = 18
VERSIONS = ("2.1", "2.2")
"""2.0 knows no null structs."""
SCALARS: list[pa.DataType] = [
    pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(5),
    pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.timestamp("s"), pa.timestamp("ms"),
    pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ms", "America/New_York"), pa.duration("s"),
    pa.duration("us"), pa.decimal128(12, 3), pa.decimal128(38, 0), pa.decimal256(60, 10), pa.string_view(),
    pa.binary_view(),
]  # fmt: skip
INDEXED = (pa.int32(), pa.int64(), pa.string(), pa.date32(), pa.uint32())


def kind(rng: random.Random, depth: int, version: str) -> pa.DataType:
    """A random type, nested at most `depth` deep."""
    choice = rng.random()
    if depth == 0 or choice < 0.6:
        return rng.choice(SCALARS)
    if choice < 0.7:
        keys = rng.choice([pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.int64()])
        return pa.dictionary(keys, pa.string())
    if choice < 0.82:
        return pa.list_(kind(rng, depth - 1, version))
    if choice < 0.86:
        return pa.large_list(kind(rng, depth - 1, version))
    if choice < 0.9:
        return pa.list_(rng.choice([pa.float32(), pa.int16(), pa.float64()]), rng.randint(1, 8))
    if choice < 0.93 and version >= "2.2":
        return pa.map_(pa.string(), kind(rng, 0, version))
    fields = [pa.field(f"f{i}", kind(rng, depth - 1, version)) for i in range(rng.randint(1, WIDEST))]
    return pa.struct(fields)


def value(rng: random.Random, of: pa.DataType):
    """A random value of a type, with nulls and the edges of its range."""
    types = pa.types
    if rng.random() < 0.15:
        return None
    if types.is_dictionary(of):
        return f"d{rng.randrange(100)}"
    if types.is_boolean(of):
        return rng.random() < 0.5
    if types.is_integer(of):
        unsigned = types.is_unsigned_integer(of)
        low, high = (0, 2**of.bit_width - 1) if unsigned else (-(2 ** (of.bit_width - 1)), 2 ** (of.bit_width - 1) - 1)
        return rng.choice([low, high, rng.randint(low, high), rng.randint(0, 9)])
    if types.is_float16(of):
        import numpy as np

        return np.float16(rng.choice([0, 1.5, -2, 65504, float("inf")]))
    if types.is_floating(of):
        return rng.choice([0.0, -0.0, float("nan"), float("-inf"), rng.randint(-99, 99) / 4])
    if types.is_decimal(of):
        digits = rng.choice([1, of.precision])
        return decimal.Decimal(rng.randrange(10**digits)).scaleb(-of.scale)
    if types.is_date(of):
        return datetime.date(1970, 1, 1) + datetime.timedelta(days=rng.randint(-30_000, 30_000))
    if types.is_time(of):
        return datetime.time(rng.randrange(24), rng.randrange(60), rng.randrange(60))
    if types.is_timestamp(of):
        return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=rng.randint(-(10**9), 10**9))
    if types.is_duration(of):
        return datetime.timedelta(seconds=rng.randint(-(10**6), 10**6))
    if types.is_fixed_size_binary(of):
        return rng.randbytes(of.byte_width)
    if types.is_binary(of) or types.is_large_binary(of) or types.is_binary_view(of):
        return rng.randbytes(rng.choice([0, 3, 40]))
    if types.is_struct(of):
        return {f.name: value(rng, f.type) for f in of}
    if types.is_map(of):
        return [(f"k{i}", value(rng, of.item_type)) for i in range(rng.randrange(3))]
    if types.is_fixed_size_list(of):
        return [value(rng, of.value_type) or 0 for _ in range(of.list_size)]
    if types.is_list(of) or types.is_large_list(of):
        return [value(rng, of.value_type) for _ in range(rng.randrange(4))]
    return rng.choice(["", "a", "ü", f"text {rng.randrange(1000)}", "x" * 200])


def random_state(seed: int, number: int) -> State:
    """Table `number` of a seed."""
    rng = random.Random(f"{seed}/{number}")
    version, stable = rng.choice(VERSIONS), rng.random() < 0.3
    schema = pa.schema([pa.field(f"c{i}", kind(rng, DEEPEST, version)) for i in range(rng.randint(1, WIDEST))])

    def make(db: Db) -> None:
        def batch(_: int) -> pa.Table:
            rows = rng.randint(1, 40)
            return pa.table(
                [pa.array([value(rng, f.type) for _ in range(rows)], f.type) for f in schema], schema=schema
            )

        db.fill(batch, FRAGMENTS, data_storage_version=version, enable_stable_row_ids=stable)
        for column in (f for f in schema if f.type in INDEXED):
            db.open().create_scalar_index(column.name, "BTREE")
        if rng.random() < 0.5:
            db.open().delete("_rowid % 5 = 1")
        db.put(batch(FRAGMENTS))

    about = f"version {version}{', stable row ids' if stable else ''}: " + ", ".join(
        f"{f.name} {f.type}" for f in schema
    )
    return State(f"random_{number}", make, about, CURRENT, store=False)


def random_states(seed: int, count: int) -> list[State]:
    """The first `count` tables of a seed."""
    return [random_state(seed, number) for number in range(count)]
