"""Text values, as squire stores them, against their exact meaning, pyarrow and DuckDB.

Usage: differential.py SQUIRE DIRECTORY SEED VALUES

Of each text format a file goes through `squire write`, with a column of each type and made-up values in it: fields with and without
quotes, JSON strings, numbers, words, lists and objects, nulls of each format, names that stand twice (`meaning.py`). A refusal must
name line and column; the value becomes a null and the file is tried again. A value that its type can hold must not be refused, and
what was stored must be what the text means. pyarrow and DuckDB read each value in a file of its own: where one of them reads another
value than squire, the difference stands in `KNOWN` with its reason.
Prints {"stored": N, "witnessed": N, "refused": N, "stricter": N, "known": {WHY: N}, "faults": [...]}.
"""

import collections
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
import pyarrow.json
from meaning import SCALARS, exact, fail, is_list, is_text, nested, spell

NESTED = 6


def by_doubles(arrow, spelling, text):
    """What a JSON text means to whoever makes doubles of all numbers with a point or an exponent, and an integer of -0."""

    def double(found):
        if found[0].startswith('"'):
            return found[0]
        return f"{decimal.Decimal(float(found[0])):E}" if re.search("[.eE]", found[0]) else str(int(found[0]))

    return exact(arrow, spelling, re.sub(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*', double, text))


# Where a reader makes another value of a text than squire and exact arithmetic do: who, in which format, why, and what it makes of it.
KNOWN = [("DuckDB", "ndjson", "numbers of JSON become doubles, and -0 an integer, before they become the column's type", by_doubles)]


def plain(arrow):
    """The type with numbers in the place of moments, which Python has not for each year and each nanosecond."""
    if is_list(arrow):
        size = arrow.list_size if pa.types.is_fixed_size_list(arrow) else -1
        return pa.list_(plain(arrow.value_type), size)
    if pa.types.is_struct(arrow):
        return pa.struct([(field.name, plain(field.type)) for field in arrow])
    if pa.types.is_temporal(arrow):
        return pa.int32() if arrow.bit_width == 32 else pa.int64()
    return arrow


def values(column, arrow):
    """The values of a column as `exact` says them."""
    return column.cast(arrow).cast(plain(arrow)).to_pylist()


def same(stored, value):
    if isinstance(stored, list) and isinstance(value, list):
        return len(stored) == len(value) and all(map(same, stored, value))
    if isinstance(stored, dict) and isinstance(value, dict):
        return stored.keys() == value.keys() and all(same(stored[name], value[name]) for name in value)
    if isinstance(stored, float) and isinstance(value, float):
        return struct.pack("d", stored) == struct.pack("d", value) or (math.isnan(stored) and math.isnan(value))
    return type(stored) is type(value) and stored == value


def field_of(fmt, name, spelling, text):
    """A field of a record: of CSV, or a member of an object."""
    if fmt == "csv":
        return '"' + text.replace('"', '""') + '"' if spelling == "quoted" else text
    value = "null" if spelling == "null" else text
    return f'"{name}": {value}' + (f', "{name}": {value}' if spelling == "twice" else "")


def record_of(fmt, i, fields, end="\n"):
    """`fields` are (name, spelling, text)."""
    parts = [field_of(fmt, *field) for field in fields]
    return f"{i}," + ",".join(parts) + end if fmt == "csv" else f'{{"id": {i}, ' + ", ".join(parts) + "}" + end


def by_pyarrow(arrow, fmt, spelling, text):
    """The value that pyarrow reads in a file of one row, or `ValueError` where it reads none."""
    schema = pa.schema([("id", pa.int64()), ("v", arrow)])
    record = record_of(fmt, 0, [("v", spelling, text)]).encode()
    try:
        if fmt == "csv":
            options = pa.csv.ConvertOptions(
                column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=not is_text(arrow), null_values=[""]
            )
            parse = pa.csv.ParseOptions(newlines_in_values=True)
            table = pa.csv.read_csv(io.BytesIO(b"id,v\n" + record), convert_options=options, parse_options=parse)
        else:
            options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
            table = pa.json.read_json(io.BytesIO(record), parse_options=options)
        return values(table["v"], arrow)[0]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise ValueError(text) from e


def duckdb_type(arrow):
    if pa.types.is_fixed_size_list(arrow):
        return f"{duckdb_type(arrow.value_type)}[{arrow.list_size}]"
    if is_list(arrow):
        return duckdb_type(arrow.value_type) + "[]"
    if pa.types.is_struct(arrow):
        return "STRUCT(" + ", ".join(f"{field.name} {duckdb_type(field.type)}" for field in arrow) + ")"
    return next(name for other, name in SCALARS.values() if other == arrow) or fail(arrow)


class Duck:
    """DuckDB, reading files of one row."""

    def __init__(self, root):
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self.path = root / "one"

    def read(self, arrow, fmt, spelling, text):
        columns = f"columns = {{id: 'BIGINT', v: '{duckdb_type(arrow)}'}}"
        self.path.write_text(("id,v\n" if fmt == "csv" else "") + record_of(fmt, 0, [("v", spelling, text)]), newline="")
        if fmt == "csv":
            quoted = "true" if not is_text(arrow) else "false"
            options = f"header = true, delim = ',', quote = '\"', escape = '\"', nullstr = '', allow_quoted_nulls = {quoted}, auto_detect = false"
            query = f"SELECT v FROM read_csv('{self.path}', {options}, {columns})"
        else:
            query = f"SELECT v FROM read_json('{self.path}', format = 'newline_delimited', {columns})"
        try:
            return values(self.connection.sql(query).to_arrow_table()["v"], arrow)[0]
        except (duckdb.Error, pa.ArrowInvalid, pa.ArrowNotImplementedError, IndexError) as e:
            raise ValueError(text) from e


def run(squire, *args):
    done = subprocess.run([squire, *map(str, args)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


class Report:
    def __init__(self):
        self.counts = collections.Counter()
        self.known = collections.Counter()
        self.faults = []

    def fault(self, text):
        self.faults.append(text)

    def print(self):
        counts = {name: self.counts[name] for name in ("stored", "witnessed", "refused", "stricter")}
        print(json.dumps({**counts, "known": self.known, "faults": self.faults}))


def write_until_taken(squire, store, fmt, path, types, rows, report):
    """Writes the file, and makes a null of each value that is refused, which must mean nothing."""
    ending = "\r\n" if len(rows) % 2 else "\n"
    refused = []
    while True:
        lines, at = [], 2 if fmt == "csv" else 1
        with path.open("w", newline="") as file:
            file.write("id," + ",".join(types) + ending if fmt == "csv" else "")
            for i, row in enumerate(rows):
                lines.append(at)
                record = record_of(fmt, i, [(name, *row[name]) for name in types], ending)
                at += record.count("\n")
                file.write(record)
        code, said = run(squire, "write", store, fmt, path, "--mode", "overwrite")
        if code == 0:
            return refused
        told = re.search(r"\.(?:csv|ndjson):(\d+): column `(\w+)[`.\[]", said)
        if code != 2 or not told or int(told[1]) not in lines or told[2] not in types:
            report.fault(f"{fmt}: refused without a line and a column: {said[-300:]}")
            return None
        row, name = rows[lines.index(int(told[1]))], told[2]
        spelling, text = row[name]
        row[name] = ("null", "")
        refused.append((name, spelling, text))
        try:
            value = exact(types[name], spelling, text)
            report.fault(f"{types[name]}, {fmt}: {spelling} {text!r} is {value!r} and was refused: {said.strip()[-300:]}")
            if spelling == "null":
                return None
        except ValueError:
            pass


def known(who, fmt, value, *written):
    for by, of, why, makes in KNOWN:
        try:
            if (by, of) == (who, fmt) and same(value, makes(*written)):
                return why
        except ValueError:
            pass
    return None


def witness(arrow, fmt, spelling, text, stored, readers, report):
    """What others read must be what was stored, or a difference that is known."""
    for who, read in readers.items():
        try:
            value = read(arrow, fmt, spelling, text)
        except ValueError:
            continue
        report.counts["witnessed"] += 1
        if same(stored, value):
            continue
        why = known(who, fmt, value, arrow, spelling, text)
        if why is None:
            report.fault(f"{arrow}, {fmt}: {spelling} {text!r} was stored as {stored!r}; {who} reads {value!r}")
        else:
            report.known[f"{who}: {why}"] += 1


def compare(squire, store, root, fmt, types, count, rng, report):
    like = root / f"{fmt}.arrow"
    schema = pa.schema([("id", pa.int64()), *types.items()])
    with pa.ipc.new_file(like, schema) as writer:
        writer.write_table(schema.empty_table())
    code, said = run(squire, "create", store, fmt, "--like", like)
    assert code == 0, said
    rows = [{name: spell(arrow, fmt, rng) for name, arrow in types.items()} for _ in range(count)]
    duck = Duck(root)
    readers = {"pyarrow": by_pyarrow, "DuckDB": duck.read}
    refused = write_until_taken(squire, store, fmt, root / f"rows.{fmt}", types, rows, report)
    if refused is None:
        return
    report.counts["refused"] += len(refused)
    for name, *written in refused:
        agreed = []
        for read in readers.values():
            try:
                agreed.append(read(types[name], fmt, *written))
            except ValueError:
                pass
        report.counts["stricter"] += len(agreed) == 2 and same(*agreed)
    read = lance.dataset(str(store / f"{fmt}.lance")).to_table().sort_by("id")
    for name, arrow in types.items():
        for row, stored in zip(rows, values(read[name], arrow), strict=True):
            spelling, text = row[name]
            report.counts["stored"] += 1
            try:
                value = exact(arrow, spelling, text)
            except ValueError:
                report.fault(f"{arrow}, {fmt}: {spelling} {text!r} was stored as {stored!r} and means nothing")
                continue
            if not same(stored, value):
                report.fault(f"{arrow}, {fmt}: {spelling} {text!r} was stored as {stored!r} and means {value!r}")
            if spelling != "null":
                witness(arrow, fmt, spelling, text, stored, readers, report)


def main():
    squire, root, seed, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    store, rng, report = root / "lake", random.Random(seed), Report()
    code, said = run(squire, "init", store)
    assert code == 0, said
    scalars = {name: arrow for name, (arrow, _) in SCALARS.items()}
    compare(squire, store, root, "csv", scalars, count, rng, report)
    lists = {f"nested_{i}": nested(rng) for i in range(NESTED)}
    compare(squire, store, root, "ndjson", scalars | lists, count, rng, report)
    report.print()


main()
