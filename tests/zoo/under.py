"""A rewrite under which rows are deleted and changed: the table then says what a twin says that takes the same and is not
rewritten."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import lance

from oracle import differences, files_below, garbage, observe, readable_columns, short
from seams import run_stopped

LIMIT = 180
"""Seconds for one command."""
MOST = 50
"""Rows that are deleted, and rows that are changed."""


@dataclass
class Under:
    """What came of it."""

    code: int | None = None
    """The exit code; None when nothing could be deleted, or nothing was to be rewritten."""
    said: str = ""
    carried: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    """Check and detail."""


def victims(dataset, key: str) -> tuple[str, str] | None:
    """Predicates of rows to delete and of rows to change. Something is left of each fragment."""
    left = defaultdict(list)
    for fragment in dataset.get_fragments():
        columns = [] if key == "_rowid" else [key]
        for batch in dataset.scanner(columns=columns, with_row_id=True, fragments=[fragment]).to_batches():
            left[fragment.fragment_id] += batch[key].to_pylist()
    deleted, changed = [], []
    for number, rows in enumerate(left.values()):
        if len(rows) > 2 or len(rows) == 2 and number % 2:
            deleted.append(rows[1])
        if len(rows) > 2 or len(rows) == 2 and not number % 2:
            changed.append(rows[-1])
    among = lambda rows: f"{key} IN ({', '.join(map(str, rows))})"  # noqa: E731
    return (among(deleted[:MOST]), among(changed[-MOST:])) if deleted and changed else None


def delete(path: Path) -> tuple[str, str] | None:
    """Deletes rows of the table at `path`; gives the predicate, and one of rows to change. None when there is nothing to delete,
    or Lance refuses. The oldest releases' rows are not found by their row ids."""
    dataset = lance.dataset(str(path))
    for key in ("_rowid", "id"):
        try:
            found = victims(dataset, key)
            if found:
                dataset.delete(found[0])
            return found
        except Exception:
            continue
    return None


def update(path: Path, column: str, where: str) -> None:
    """The rows get new places, and are the same."""
    lance.dataset(str(path)).update({column: f"`{column}`"}, where=where)


def changeable(path: Path, where: str) -> str | None:
    """Updates rows in the first column that Lance updates, and gives its name."""
    for column in readable_columns(lance.dataset(str(path)).schema):
        try:
            update(path, column, where)
            return column
        except Exception:
            continue
    return None


def rewrite(squire: Path, config: Path, path: Path, twin: Path) -> Under:
    """Deletes and updates rows of the table at `path` while its fragments are rewritten, and compares it with `twin`."""
    under = Under()
    shutil.copytree(path, twin, symlinks=True)
    found = delete(twin)
    if not found:
        return under
    deleted, changed = found
    column = changeable(twin, changed)
    before = set(files_below(path))
    # A table with a fragment-reuse index is rewritten once more.
    reuses = any(index.name == "__lance_frag_reuse" for index in lance.dataset(str(path)).describe_indices())
    stops = 0

    def meanwhile() -> None:
        nonlocal stops
        stops += 1
        try:
            lance.dataset(str(path)).delete(deleted)
            if column:
                update(path, column, changed)
        except Exception as error:
            under.faults.append(("carry writer", short(error)))

    line = [str(squire), "optimize", str(path), "--json", "--config", str(config)]
    code, out, err = run_stopped(line, {"maintain.after_rewrite": 1}, meanwhile, LIMIT)
    if not stops:
        return under
    under.code, under.said = code, (out + err).decode(errors="replace")
    if code == 0:
        report = json.loads(out)["tables"][0]["report"]
        under.carried = report["carried"]
        if not under.carried and not reuses:
            under.faults.append(("carry lost", f"a delete and an update: {report}"))
    under.faults += [(f"carry {check}", what) for check, what in differences(observe(twin), observe(path))]
    try:
        lance.dataset(str(path)).validate()
    except Exception as error:
        under.faults.append(("carry validity", short(error)))
    if left := garbage(path, before):
        under.faults.append(("carry garbage", f"{len(left)} files, such as {left[0]}"))
    return under
