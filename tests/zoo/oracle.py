"""What a table says to a reader: taken before Squire's commands and after each, and compared."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import lance
import pyarrow as pa

INTERNAL = ("__lance_frag_reuse", "__lance_mem_wal")
SAMPLE = 12
"""Values, terms and vectors that each index is asked for."""


@dataclass
class View:
    """One table as a reader sees it."""

    error: str | None = None
    rows: list[int] = field(default_factory=list)
    """A digest of each row, in scan order."""
    row_ids: dict[int, int] | None = None
    """Row id -> digest, where row ids are stable."""
    schema: pa.Schema | None = None
    config: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, list[str]] = field(default_factory=dict)
    """Name -> what it answers differently from a scan."""
    references: dict[str, str | int] = field(default_factory=dict)
    """Tag or branch -> digest of its rows, or the error that reading it gives."""
    versions: list[int] = field(default_factory=list)
    fragments: int = 0


def short(error: BaseException) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:160]


def digest(value: object) -> int:
    if isinstance(value, (str, bytes)) and len(value) > 4096:
        data = value.encode() if isinstance(value, str) else value
        return zlib.crc32(data) ^ len(data)
    if isinstance(value, dict):
        return hash(tuple((key, digest(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return hash(tuple(digest(item) for item in value))
    return hash(repr(value))


def readable_columns(schema: pa.Schema) -> list[str]:
    """Top-level columns without blobs, which a scan shows as descriptors of where they lie."""
    return [f.name for f in schema if not is_blob(f)]


def is_blob(column: pa.Field) -> bool:
    metadata = column.metadata or {}
    return b"lance-encoding:blob" in metadata or "blob" in str(getattr(column.type, "extension_name", ""))


def scan(dataset, **options) -> list[tuple[int | None, int]]:
    """(row id or None, digest) of every row, in order."""
    columns = readable_columns(dataset.schema)
    found: list[tuple[int | None, int]] = []
    for batch in dataset.scanner(columns=columns, batch_size=256, scan_in_order=True, **options).to_batches():
        at = batch.schema.get_field_index("_rowid")
        row_ids = batch.column(at).to_pylist() if at >= 0 else [None] * batch.num_rows
        values = batch.drop_columns(["_rowid"]) if at >= 0 else batch
        rows = values.to_pylist() if values.num_columns else [{}] * batch.num_rows
        found += [(row, digest(value)) for row, value in zip(row_ids, rows)]
    return found


def blobs(dataset) -> list[int]:
    """Digests of every blob, by column and row."""
    found = []
    for column in dataset.schema:
        if is_blob(column) and dataset.count_rows():
            for blob in dataset.take_blobs(column.name, indices=list(range(dataset.count_rows()))):
                found.append(-1 if blob is None else digest(blob.readall()))
    return found


def observe(path: Path, indexes: bool = True) -> View:
    """Everything that can be said about the table at `path`."""
    view = View()
    try:
        dataset = lance.dataset(str(path))
        stable = bool(getattr(dataset, "has_stable_row_ids", False))
        rows = scan(dataset, with_row_id=stable)
        view.rows = [row for _, row in rows] + blobs(dataset)
        if stable:
            view.row_ids = dict(rows)
        view.schema = dataset.schema
        view.fragments = len(dataset.get_fragments())
        count = sum(batch.num_rows for batch in dataset.to_batches())
        if count != len(rows) or count != dataset.count_rows():
            view.error = (
                f"{dataset.count_rows()} rows counted, {count} scanned by default, {len(rows)} in small batches"
            )
        view.config = dict(dataset.config())
        view.versions = sorted(v["version"] for v in dataset.versions())
        view.references = references(dataset)
        if indexes and not view.error:
            view.indexes = ask_indexes(dataset)
    except (Exception, pa.ArrowException) as error:
        view.error = short(error)
    except BaseException as error:  # Rust's panics are no exceptions
        if type(error).__name__ != "PanicException":
            raise
        view.error = short(error)
    return view


def references(dataset) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    names: list[tuple[str, object]] = [(f"tag {name}", name) for name in dataset.tags.list()]
    names += [(f"branch {name}", (name, None)) for name in dataset.branches.list()]
    for label, reference in names:
        try:
            found[label] = digest([row for _, row in scan(dataset.checkout_version(reference))])
        except Exception as error:
            found[label] = short(error)
    return found


# ---- indexes: what they answer must be what a scan answers -------------------------------------


def ask_indexes(dataset) -> dict[str, list[str]]:
    answers: dict[str, list[str]] = {}
    for index in dataset.describe_indices():
        if index.name in INTERNAL:
            continue
        kind = index.type_url.rsplit(".", 1)[-1]
        column = index.field_names[0] if index.field_names else None
        try:
            answers[index.name] = ask(dataset, index, kind, column)
        except Exception as error:
            answers[index.name] = [short(error)]
    return answers


def found_by(dataset, **query) -> list[int]:
    return sorted(dataset.to_table(columns=[], with_row_id=True, **query)["_rowid"].to_pylist())


def compare(label: str, by_index: list[int], by_scan: list[int]) -> list[str]:
    if by_index == by_scan:
        return []
    return [f"{label}: the index finds {len(by_index)} rows, a scan {len(by_scan)}"]


def literal(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime):
        return f"timestamp '{value.isoformat()}'"
    if isinstance(value, date):
        return f"date '{value.isoformat()}'"
    if isinstance(value, Decimal):
        return f"cast({value} as decimal(38, {-value.as_tuple().exponent}))"
    return None


def spread(values: list) -> list:
    """Up to SAMPLE of `values`, the ends among them."""
    step = max(1, (len(values) - 1) // (SAMPLE - 1)) if len(values) > 1 else 1
    return values[::step][:SAMPLE] + values[-1:]


def column_values(dataset, column: str) -> list:
    top = column.split(".")[0]
    values = dataset.to_table(columns=[top])[top].to_pylist()
    for part in column.split(".")[1:]:
        values = [value and value[part] for value in values]
    return values


def ask(dataset, index, kind: str, column: str) -> list[str]:
    if kind.startswith("Vector"):
        # A graph answers approximately: one vector in fifty may hide.
        return ask_vector(
            dataset, column, hidden=0.02 if "HNSW" in dataset.stats.index_stats(index.name)["index_type"] else 0
        )
    values = column_values(dataset, column)
    if kind.startswith("Json"):
        # The zoo's JSON indexes are of the path "a", whose values are integers.
        numbers = sorted({json.loads(text)["a"] for text in values if text})
        return by_filters(dataset, [f"json_get_int({column}, 'a') = {number}" for number in spread(numbers)])
    there = sorted({v for v in values if v is not None and not isinstance(v, list)}, key=repr)
    problems: list[str] = []
    if kind.startswith("Inverted"):
        terms = Counter(term for text in there for term in text.split())
        for term in spread(sorted(terms)):
            by_index = found_by(dataset, full_text_query={"columns": [column], "query": term}, limit=10**6)
            row_ids = dataset.to_table(columns=[column], with_row_id=True)
            by_scan = [
                row
                for text, row in zip(row_ids[column].to_pylist(), row_ids["_rowid"].to_pylist())
                if text and term in text.split()
            ]
            problems += compare(f"text {term}", by_index, sorted(by_scan))
        return problems
    if kind.startswith("LabelList"):
        labels = sorted({label for value in values if value for label in value})
        filters = [f"array_has_any({column}, [{literal(label)}])" for label in spread(labels)]
    elif kind.startswith("NGram"):
        filters = [f"contains({column}, {literal(str(value)[:6])})" for value in spread(there)]
    else:
        filters = [f"{column} = {literal(value)}" for value in spread(there) if literal(value)]
        filters.append(f"{column} IS NULL")
        bounds = [literal(value) for value in there[len(there) // 2 :][:1]]
        filters += [f"{column} < {bound}" for bound in bounds if bound]
    return problems + by_filters(dataset, filters)


def by_filters(dataset, filters: list[str]) -> list[str]:
    """What of `filters` the index answers differently from a scan."""
    problems: list[str] = []
    for query in filters:
        by_index = found_by(dataset, filter=query)
        problems += compare(query, by_index, found_by(dataset, filter=query, use_scalar_index=False))
    return problems


def ask_vector(dataset, column: str, hidden: float) -> list[str]:
    """Each sampled vector finds its own row, and a query for everything finds every vector."""
    import numpy as np

    table = dataset.to_table(columns=[column], with_row_id=True)
    rows = [(row, v) for row, v in zip(table["_rowid"].to_pylist(), table[column].to_pylist()) if v is not None]
    problems = []
    total = len(rows)
    for row, vector in spread(rows)[:5]:
        query = {"column": column, "q": np.array(vector, dtype=np.float32), "nprobes": 10_000}
        near = dataset.to_table(columns=[], with_row_id=True, nearest={**query, "k": 10, "refine_factor": 10})
        if not hidden and row not in near["_rowid"].to_pylist():
            problems.append(f"vector of row {row}: not among its own ten nearest")
        every = dataset.to_table(columns=[], with_row_id=True, nearest={**query, "k": total, "ef": total})
        missing = {r for r, _ in rows} - set(every["_rowid"].to_pylist())
        if len(missing) > hidden * total:
            problems.append(f"{len(missing)} of {total} vectors are not found")
            break
    return problems


# ---- comparison --------------------------------------------------------------------------------


def differences(before: View, after: View) -> list[tuple[str, str]]:
    """What `after` lacks: (check, detail)."""
    if before.error:
        return [] if after.error == before.error or not after.error else [("read", f"other error: {after.error}")]
    if after.error:
        return [("read", after.error)]
    found: list[tuple[str, str]] = []
    # As a multiset: a rewrite may move fragments behind those that it left alone.
    lost, new = Counter(before.rows) - Counter(after.rows), Counter(after.rows) - Counter(before.rows)
    if lost or new:
        found.append(("rows", f"{lost.total()} lost, {new.total()} new"))
    if before.row_ids is not None and before.row_ids != after.row_ids:
        found.append(("row ids", "rows have other ids"))
    if before.schema != after.schema or str(before.schema) != str(after.schema):
        found.append(("schema", f"{after.schema}".replace("\n", "; ")[:200]))
    if before.config != after.config:
        found.append(("config", f"{after.config}"[:200]))
    for name, wrong in before.indexes.items():
        now = after.indexes.get(name)
        if now is None:
            found.append(("index", f"{name} is gone"))
        elif now and not wrong:
            found.append(("index", f"{name}: {'; '.join(now)}"[:300]))
    for name, content in before.references.items():
        if after.references.get(name) != content and not isinstance(content, str):
            found.append(("references", f"{name}: {after.references.get(name)}"[:200]))
    return found


def tables_below(root: Path) -> list[Path]:
    """Every directory below `root` that holds versions, without Squire's own and branches."""
    found = []
    for directory, children, _ in os.walk(root):
        if "_versions" in children:
            found.append(Path(directory))
            children.clear()
        elif "_squire" in children:
            children.remove("_squire")
    return sorted(found)


def files_below(root: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and modification time of every file, links not followed."""
    found = {}
    for directory, _, files in os.walk(root):
        for name in files:
            path = os.path.join(directory, name)
            stat = os.lstat(path)
            found[os.path.relpath(path, root)] = (stat.st_size, stat.st_mtime_ns)
    return found


def garbage(table: Path, before: set[str]) -> list[str]:
    """Files of `table`, below it, that no version refers to and that were not there `before`."""
    tracked: set[str] = set()
    dataset = lance.dataset(str(table))
    for handle in [dataset] + [dataset.checkout_version((name, None)) for name in dataset.branches.list()]:
        for row in handle.tracked_files().read_all().to_pylist():
            tracked.add(os.path.normpath(os.path.join(row["base_uri"].removeprefix("file://"), row["path"])))
    kinds = ("data", "_deletions", "_indices")

    def is_tracked(path: str) -> bool:
        # Blobs that lie in files of their own stand in a folder named as the data file that refers to them.
        of_blob = os.path.dirname(path) + ".lance"
        return any(os.path.normpath(table / p) in tracked for p in (path, of_blob))

    new = set(files_below(table)) - before
    return sorted(path for path in new if any(part in kinds for part in path.split("/")) and not is_tracked(path))
