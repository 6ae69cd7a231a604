"""Text values, as squire stores them, against pyarrow, DuckDB and exact arithmetic.

Usage: differential.py SQUIRE DIRECTORY SEED VALUES

For each type and each text format a file of generated values, one row each, goes through `squire write`. A refusal must name
the line and the column; the row is taken out and the rest tried again. What was stored must be the value that the text means,
which Python's integers, decimals and dates say exactly, and what pyarrow and DuckDB read where both read the same. A number or a
text that its type can hold must not be refused. Prints {"stored": N, "witnessed": N, "refused": N, "faults": [...]}.
"""

import csv
import datetime
import decimal
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

EXACT = decimal.Context(prec=2000)
UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)

TYPES = {
    "int8": pa.int8(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "decimal": pa.decimal128(20, 4),
    "text": pa.utf8(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
    "instant": pa.timestamp("us", "UTC"),
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
    if kind.startswith("float") and rng.random() < 0.1:
        return rng.choice(["nan", "NaN", "inf", "-inf", "Infinity", "-0", "-0.0", "4.9e-324", "1.7976931348623157e308", "2e-400"])
    return number(rng)


def exact(kind, text):
    """What the text means in the type; `ValueError` when no value of the type is that."""
    if kind == "text":
        return text
    if kind == "bool":
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else fail(text)
    if kind in ("date", "time", "instant"):
        return exact_moment(kind, text)
    if kind.startswith("float"):
        value = float(text)
        return struct.unpack("f", struct.pack("f", value))[0] if kind == "float32" and abs(value) < 3.5e38 else value
    try:
        value = EXACT.create_decimal(text)
    except decimal.InvalidOperation:
        fail(text)
    if not value.is_finite():
        fail(text)
    return int(value) if kind != "decimal" and value == value.to_integral_value() else value if kind == "decimal" else fail(text)


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
    if isinstance(stored, float) and isinstance(value, float):
        return struct.pack("d", stored) == struct.pack("d", value) or (math.isnan(stored) and math.isnan(value))
    return type(stored) is type(value) and stored == value


def by_pyarrow(kind, text):
    """The value that pyarrow reads, or `None` where it reads none."""
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["v"], [text]])
    options = pa.csv.ConvertOptions(column_types={"v": TYPES[kind]}, strings_can_be_null=False)
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    try:
        table = pa.csv.read_csv(io.BytesIO(out.getvalue().encode()), convert_options=options, parse_options=parse)
    except pa.ArrowInvalid:
        return None
    return table["v"][0].as_py() if kind != "instant" else table["v"].cast(pa.int64())[0].as_py()


def by_duckdb(connection, kind, text):
    try:
        value = connection.execute(f"SELECT CAST(? AS {DUCKDB[kind]})", [text]).fetchone()[0]
    except duckdb.Error:
        return None
    return value


def write_file(path, fmt, kind, rows):
    """One row a record; the line that each begins on."""
    lines, at = [], 2 if fmt == "csv" else 1
    with path.open("w", newline="") as file:
        if fmt == "csv":
            file.write("id,v\n")
        for i, text in rows:
            lines.append(at)
            if fmt == "csv":
                record = f'{i},"' + text.replace('"', '""') + '"\n'
            else:
                record = json.dumps({"id": i, "v": text}) + "\n"
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
    for kind, arrow in TYPES.items():
        like = root / f"{kind}.arrow"
        schema = pa.schema([("id", pa.int64()), ("v", arrow)])
        with pa.ipc.new_file(like, schema) as writer:
            writer.write_table(schema.empty_table())
        for fmt in ("csv", "ndjson"):
            table = f"{kind}_{fmt}"
            code, said = run(squire, "create", store, table, "--like", like)
            assert code == 0, said
            rows = [(i, generate(kind, rng)) for i in range(values)]
            path = root / f"{table}.{fmt}"
            while rows:
                lines = write_file(path, fmt, kind, rows)
                code, said = run(squire, "write", store, table, path, "--mode", "overwrite")
                if code == 0:
                    break
                told = re.search(r"\.(?:csv|ndjson):(\d+): column `v`", said)
                at = lines.index(int(told.group(1))) if told and int(told.group(1)) in lines else None
                if code != 2 or at is None:
                    faults.append(f"{table}: refused without a line and a column: {said[-300:]}")
                    rows = []
                    break
                i, text = rows.pop(at)
                refused += 1
                try:
                    must = kind in ("text", "int8", "int32", "int64", "uint64", "decimal")
                    value = exact(kind, text)
                    arrowed = pa.scalar(value, type=arrow).as_py() if must else None
                    if must and same(kind, arrowed, value):
                        faults.append(f"{table}: {text!r} is {value!r} and was refused: {said.strip()[-200:]}")
                except (ValueError, OverflowError, pa.ArrowInvalid):
                    pass
            if not rows:
                continue
            read = lance.dataset(str(store / f"{table}.lance")).to_table()
            column = read["v"] if kind != "instant" else read["v"].cast(pa.int64())
            got = dict(zip(read["id"].to_pylist(), column.to_pylist(), strict=True))
            for i, text in rows:
                stored += 1
                try:
                    value = exact(kind, text)
                except ValueError:
                    faults.append(f"{table}: {text!r} was stored as {got[i]!r} and means nothing")
                    continue
                if kind == "decimal":
                    value = value.quantize(decimal.Decimal("0.0001"), context=EXACT)
                if not same(kind, got[i], value):
                    faults.append(f"{table}: {text!r} was stored as {got[i]!r} and means {value!r}")
                # Each of them changes some values in its own way; together they are witnesses.
                others = by_pyarrow(kind, text), by_duckdb(connection, kind, text)
                if None in others or not same(kind, *others):
                    continue
                witnessed += 1
                if not same(kind, got[i], others[0]):
                    faults.append(f"{table}: {text!r} was stored as {got[i]!r}; pyarrow and DuckDB read {others[0]!r}")
    print(json.dumps({"stored": stored, "witnessed": witnessed, "refused": refused, "faults": faults}))


main()
