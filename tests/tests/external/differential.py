"""Text values, as squire stores them, against pyarrow, DuckDB and exact arithmetic.

Usage: differential.py SQUIRE DIRECTORY SEED VALUES

For each type and each text format a file of generated values, one row each, goes through `squire write`: fields with and without
quotes, JSON strings, numbers, words, lists and objects, nulls of each format, names that stand twice. A refusal must name
the line and the column; the row is taken out and the rest tried again. What was stored must be the value that the text means,
which Python's integers, decimals and dates say exactly, and what pyarrow and DuckDB read where both read the same. A value that
its type can hold must not be refused. Prints {"stored": N, "witnessed": N, "refused": N, "faults": [...]}.
"""

import csv
import datetime
import decimal
import fractions
import io
import json
import math
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import duckdb
import lance
import pyarrow as pa
import pyarrow.csv
import pyarrow.json

EXACT = decimal.Context(prec=2000)
UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)

TYPES = {
    "int8": pa.int8(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "decimal": pa.decimal128(20, 4),
    "text": pa.utf8(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
    "instant": pa.timestamp("us", "UTC"),
}
NESTED = {
    "list": pa.list_(pa.int64()),
    "struct": pa.struct([("a", pa.int64()), ("b", pa.utf8())]),
    "structs": pa.list_(pa.struct([("a", pa.float64()), ("b", pa.list_(pa.bool_()))])),
}
DUCKDB = {
    "int8": "TINYINT", "int32": "INTEGER", "int64": "BIGINT", "uint64": "UBIGINT", "float32": "FLOAT", "float64": "DOUBLE",
    "decimal": "DECIMAL(20,4)", "text": "VARCHAR", "bool": "BOOLEAN", "date": "DATE", "time": "TIMESTAMP",
    "instant": "TIMESTAMPTZ",
}


def number(rng):
    """A number's text, near the edges where types end."""
    edge = rng.choice([0, 1, 2**7, 2**8, 2**24, 2**31, 2**32, 2**53, 2**63, 2**64, 10**15, 10**16, 10**20])
    whole = str(edge + rng.randint(-2, 2)) if rng.random() < 0.7 else str(rng.randint(0, 10 ** rng.randint(1, 25)))
    text = whole.lstrip("-")
    if rng.random() < 0.4:
        text += "." + "".join(rng.choice("0012345678999") for _ in range(rng.randint(1, 8)))
    if rng.random() < 0.25:
        text += f"{rng.choice('eE')}{rng.choice(['', '+', '-'])}{rng.choice([0, 1, 2, 3, 10, 22, 38, 308, 400])}"
    return rng.choice(["", "", "-"]) + text


def moment(rng):
    """A date's, a time's or an instant's text, good ones mostly."""
    year = rng.choice([1, 1600, 1899, 1969, 1970, 2000, 2024, 2026, 9999])
    text = f"{year:04}-{rng.randint(1, 12):02}-{rng.choice([1, 15, 28, 29, 30, 31]):02}"
    if rng.random() < 0.2:
        return text
    text += rng.choice("T ") + f"{rng.choice([0, 12, 23, 23, 24]):02}:{rng.choice([0, 59, 59, 60]):02}:{rng.randint(0, 59):02}"
    if rng.random() < 0.5:
        text += "." + "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 3, 6, 6, 7, 9])))
    return text + rng.choice(["", "", "Z", "+00:00", "-05:00", "+05:30"])


def words(rng):
    """A text with what parsers stumble over."""
    parts = ["a", "é", "\u00a0", " ", '"', ",", "\n", "\r\n", "'", "null", "NULL", "NaN", "\\", "𝄞", "0", "\t", ";"]
    return "".join(rng.choice(parts) for _ in range(rng.randint(0, 5)))


def generate(kind, rng):
    if kind == "text":
        return words(rng)
    if kind == "bool":
        return rng.choice(["true", "false", "TRUE", "True", "tRue", "1", "0", "yes", "t", "FALSE"])
    if kind in ("date", "time", "instant"):
        return moment(rng) if rng.random() < 0.9 else number(rng)
    if kind.startswith("float") and rng.random() < 0.4:
        return tie(kind, rng) if rng.random() < 0.5 else rng.choice(["nan", "NaN", "inf", "-inf", "Infinity", "-0", "-0.0", "4.9e-324", "1.7976931348623157e308", "2e-400"])
    return number(rng)


JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
SPECIAL = {"NaN", "nan", "Infinity", "+Infinity", "inf", "+inf", "-Infinity", "-inf"}


def generate_json(arrow, rng):
    """The text of a nested value; not always one of the type."""
    roll = rng.random()
    if roll < 0.1:
        return "null"
    if roll < 0.14:
        return rng.choice(["1", '"x"', "{}", "[]", "true", "[[1]]", '{"a":{}}'])
    if pa.types.is_list(arrow):
        return "[" + ", ".join(generate_json(arrow.value_type, rng) for _ in range(rng.randint(0, 3))) + "]"
    if pa.types.is_struct(arrow):
        names = rng.choice([["a", "b"], ["a", "b"], ["b", "a"], ["a"], [], ["a", "b", "a"], ["a", "c"]])
        types = {field.name: field.type for field in arrow}
        return "{" + ", ".join(f'"{n}": {generate_json(types.get(n, pa.int64()), rng)}' for n in names) + "}"
    if pa.types.is_boolean(arrow):
        return rng.choice(["true", "false"])
    if pa.types.is_string(arrow):
        return json.dumps(words(rng))
    if rng.random() < 0.7:
        return str(rng.randint(-5, 2**53))
    text = number(rng)
    return text if JSON_NUMBER.fullmatch(text) else "0"


def spell(kind, fmt, rng):
    """How a value stands in a file, and the value: "twice" is a name that stands twice in its object."""
    if kind in NESTED:
        return "json", generate_json(NESTED[kind], rng)
    if rng.random() < 0.08:
        return "null", ""
    text = generate(kind, rng)
    if fmt == "csv":
        plain = text != "" and not re.search(r'[",\r\n]', text)
        return ("plain" if plain and rng.random() < 0.5 else "quoted"), text
    if rng.random() < 0.04:
        return "twice", text
    if kind == "bool" and text in ("true", "false") or JSON_NUMBER.fullmatch(text) and rng.random() < 0.6:
        return "json", text
    return "string", text


def exact(kind, spelling, text):
    """What the text means in the type; `ValueError` when no value of the type is that."""
    if spelling == "null":
        return None
    if spelling == "twice":
        fail(text)
    if kind in NESTED:
        return exact_json(NESTED[kind], json.loads(text, object_pairs_hook=members, parse_int=Number, parse_float=Number))
    # Whoever quotes every field writes a null like this; no other type has an empty value.
    if spelling == "quoted" and text == "" and kind != "text":
        return None
    if kind == "text":
        return text if spelling != "json" else fail(text)
    if kind == "bool":
        truths = {"json": ["true", "false"], "string": []}.get(spelling, ["true", "True", "TRUE", "false", "False", "FALSE"])
        return text.lower() == "true" if text in truths else fail(text)
    if kind in ("date", "time", "instant"):
        return exact_moment(kind, text) if spelling != "json" else fail(text)
    return exact_number(kind, text)


def exact_number(kind, text):
    if kind.startswith("float") and text in SPECIAL:
        return float(text)
    if not re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", text):
        fail(text)
    value = EXACT.create_decimal(text)
    if not kind.startswith("float"):
        if kind != "decimal" and value != value.to_integral_value():
            fail(text)
        return value if kind == "decimal" else int(value)
    found = nearest(kind, value)
    # A float that becomes nothing or everything is refused, and so is an integer, written as one, that is not what it becomes.
    if math.isinf(found) or (found == 0) != (value == 0) or (re.fullmatch(r"[+-]?\d+", text) and int(found) != value):
        fail(text)
    return found


# How a float is packed, its bits, what is infinite as bits, the largest number, and where numbers begin that become infinite.
FLOATS = {
    "float16": ("<e", "<h", 0x7C00, 65504.0, 65520),
    "float32": ("<f", "<i", 0x7F800000, 3.4028234663852886e38, 2**128 - 2**103),
    "float64": ("<d", "<q", 0x7FF0000000000000, 1.7976931348623157e308, 2**1024 - 2**970),
}


def nearest(kind, value):
    """The float nearest to an exact number, the even one of two."""
    pack, bits, _, most, infinite = FLOATS[kind]
    size = abs(fractions.Fraction(value))
    if size >= infinite:
        return math.inf
    near = struct.unpack(bits, struct.pack(pack, min(float(size), most)))[0]
    around = [n for n in (near - 1, near, near + 1) if 0 <= n < FLOATS[kind][2]]
    floats = {n: struct.unpack(pack, struct.pack(bits, n))[0] for n in around}
    best = min(around, key=lambda n: (abs(fractions.Fraction(floats[n]) - size), n & 1))
    return math.copysign(floats[best], -1 if value.is_signed() else 1)


def tie(kind, rng):
    """A number in the middle of two floats, or a little beside it."""
    pack, bits, infinite, _, _ = FLOATS[kind]
    at = rng.randint(0, infinite - 2)
    low, high = (decimal.Decimal(struct.unpack(pack, struct.pack(bits, n))[0]) for n in (at, at + 1))
    middle = EXACT.divide(EXACT.add(low, high), 2)
    little = decimal.Decimal(rng.choice([0, 1, -1])).scaleb(middle.adjusted() - rng.choice([30, 60]))
    return f"{EXACT.add(middle, little):E}"


class Number(str):
    """A number of a JSON text, every digit of it."""


def members(pairs):
    """The members of an object, unless a name stands twice."""
    return dict(pairs) if len({name for name, _ in pairs}) == len(pairs) else fail(pairs)


def exact_json(arrow, value):
    if value is None:
        return None
    if pa.types.is_list(arrow) and isinstance(value, list):
        return [exact_json(arrow.value_type, item) for item in value]
    if pa.types.is_struct(arrow) and isinstance(value, dict):
        types = {field.name: field.type for field in arrow}
        given = {name: exact_json(types[name] if name in types else fail(name), inner) for name, inner in value.items()}
        return {name: given.get(name) for name in types}
    if pa.types.is_boolean(arrow) and isinstance(value, bool):
        return value
    if pa.types.is_string(arrow) and isinstance(value, str) and not isinstance(value, Number):
        return value
    if (pa.types.is_integer(arrow) or pa.types.is_floating(arrow)) and isinstance(value, str):
        found = exact_number("float64" if pa.types.is_floating(arrow) else "int64", value)
        return found if isinstance(found, float) or -(2**63) <= found < 2**63 else fail(value)
    fail(value)


def exact_moment(kind, text):
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?)?", text)
    if not found:
        fail(text)
    day, clock, fraction, offset = found.groups()
    if kind == "date":
        return datetime.date.fromisoformat(day) if clock is None else fail(text)
    fraction = (fraction or "").ljust(6, "0")
    if fraction[6:].strip("0"):
        fail(text)
    naive = datetime.datetime.fromisoformat(f"{day}T{clock or '00:00:00'}") + datetime.timedelta(microseconds=int(fraction[:6]))
    if kind == "time":
        return naive if offset is None else fail(text)
    if offset is None:
        fail(text)
    zone = datetime.datetime.fromisoformat("2000-01-01T00:00:00" + offset.replace("Z", "+00:00")).utcoffset()
    return ((naive - datetime.datetime(1970, 1, 1)) - zone) // datetime.timedelta(microseconds=1)


def fail(text):
    raise ValueError(text)


def same(kind, stored, value):
    if kind == "instant" and isinstance(stored, datetime.datetime):
        stored = (stored.astimezone(UTC) - EPOCH) // datetime.timedelta(microseconds=1)
    if kind == "instant" and isinstance(value, datetime.datetime):
        value = (value.astimezone(UTC) - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(stored, list) and isinstance(value, list):
        return len(stored) == len(value) and all(same("", *pair) for pair in zip(stored, value))
    if isinstance(stored, dict) and isinstance(value, dict):
        return stored.keys() == value.keys() and all(same("", stored[name], value[name]) for name in value)
    if isinstance(stored, float) and isinstance(value, float):
        return struct.pack("d", stored) == struct.pack("d", value) or (math.isnan(stored) and math.isnan(value))
    return type(stored) is type(value) and stored == value


def by_pyarrow(kind, fmt, record):
    """The value that pyarrow reads in a file of one row, or `ValueError` where it reads none."""
    schema = pa.schema([("id", pa.int64()), ("v", {**TYPES, **NESTED}[kind])])
    try:
        if fmt == "csv":
            options = pa.csv.ConvertOptions(
                column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
            )
            parse = pa.csv.ParseOptions(newlines_in_values=True)
            table = pa.csv.read_csv(io.BytesIO(b"id,v\n" + record.encode()), convert_options=options, parse_options=parse)
        else:
            options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
            table = pa.json.read_json(io.BytesIO(record.encode()), parse_options=options)
        return table["v"][0].as_py() if kind != "instant" else table["v"].cast(pa.int64())[0].as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise ValueError(record) from e


def by_duckdb(connection, kind, spelling, text):
    if kind not in DUCKDB or spelling in ("null", "twice"):
        raise ValueError(text)
    try:
        return connection.execute(f"SELECT CAST(? AS {DUCKDB[kind]})", [text]).fetchone()[0]
    except duckdb.Error as e:
        raise ValueError(text) from e


def record_of(fmt, i, spelling, text):
    if fmt == "csv":
        field = '"' + text.replace('"', '""') + '"' if spelling == "quoted" else text
        return f"{i},{field}\n"
    value = {"null": "null", "json": text}.get(spelling, json.dumps(text))
    if spelling == "twice":
        value += f', "v": {value}'
    return f'{{"id": {i}, "v": {value}}}\n'


def write_file(path, fmt, rows):
    """One row a record; the line that each begins on."""
    lines, at = [], 2 if fmt == "csv" else 1
    with path.open("w", newline="") as file:
        if fmt == "csv":
            file.write("id,v\n")
        for i, spelling, text in rows:
            lines.append(at)
            record = record_of(fmt, i, spelling, text)
            at += record.count("\n")
            file.write(record)
    return lines


def run(squire, *args):
    done = subprocess.run([squire, *map(str, args)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main():
    squire, root, seed, values = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    store, rng = root / "lake", random.Random(seed)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    faults, stored, witnessed, refused = [], 0, 0, 0
    code, said = run(squire, "init", store)
    assert code == 0, said
    for kind, arrow in (TYPES | NESTED).items():
        like = root / f"{kind}.arrow"
        schema = pa.schema([("id", pa.int64()), ("v", arrow)])
        with pa.ipc.new_file(like, schema) as writer:
            writer.write_table(schema.empty_table())
        for fmt in ("csv", "ndjson") if kind in TYPES else ("ndjson",):
            table = f"{kind}_{fmt}"
            code, said = run(squire, "create", store, table, "--like", like)
            assert code == 0, said
            rows = [(i, *spell(kind, fmt, rng)) for i in range(values)]
            path = root / f"{table}.{fmt}"
            while rows:
                lines = write_file(path, fmt, rows)
                code, said = run(squire, "write", store, table, path, "--mode", "overwrite")
                if code == 0:
                    break
                told = re.search(r"\.(?:csv|ndjson):(\d+): column `v[`.\[]", said)
                at = lines.index(int(told.group(1))) if told and int(told.group(1)) in lines else None
                if code != 2 or at is None:
                    faults.append(f"{table}: refused without a line and a column: {said[-300:]}")
                    rows = []
                    break
                i, spelling, text = rows.pop(at)
                refused += 1
                try:
                    value = exact(kind, spelling, text)
                    arrowed = pa.scalar(value, type=arrow) if kind in TYPES else None
                    if arrowed is None or kind == "instant" or same(kind, arrowed.as_py(), value):
                        faults.append(f"{table}: {spelling} {text!r} is {value!r} and was refused: {said.strip()[-200:]}")
                except (ValueError, OverflowError, pa.ArrowInvalid):
                    pass
            if not rows:
                continue
            read = lance.dataset(str(store / f"{table}.lance")).to_table()
            column = read["v"] if kind != "instant" else read["v"].cast(pa.int64())
            got = dict(zip(read["id"].to_pylist(), column.to_pylist(), strict=True))
            for i, spelling, text in rows:
                stored += 1
                shown = f"{table}: {spelling} {text!r} was stored as {got[i]!r}"
                try:
                    value = exact(kind, spelling, text)
                except ValueError:
                    faults.append(f"{shown} and means nothing")
                    continue
                if kind == "decimal" and value is not None:
                    value = value.quantize(decimal.Decimal("0.0001"), context=EXACT)
                if not same(kind, got[i], value):
                    faults.append(f"{shown} and means {value!r}")
                # Each of them changes some values in its own way; together they are witnesses.
                try:
                    arrowed = by_pyarrow(kind, fmt, record_of(fmt, i, spelling, text))
                    others = arrowed, arrowed if value is None or kind in NESTED else by_duckdb(connection, kind, spelling, text)
                except ValueError:
                    continue
                if not same(kind, *others):
                    continue
                witnessed += 1
                if not same(kind, got[i], others[0]):
                    faults.append(f"{shown}; pyarrow and DuckDB read {others[0]!r}")
    print(json.dumps({"stored": stored, "witnessed": witnessed, "refused": refused, "faults": faults}))


main()
