"""How a state is declared and built. Runs under every release of pylance, so it imports nothing newer than Lance.

build.py NAME DIR [in-store]     builds one state in DIR (how states of older releases are made)
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import random
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

os.environ.setdefault("LANCE_LOG", "ERROR")  # before Lance is imported: it warns of each query's columns

CURRENT = "14.0.2"
"""The pylance release whose Lance Squire is built with; the oracle reads with it."""

STATES: dict[str, "State"] = {}


@dataclass
class State:
    """A declared table state: how it is made, and what Squire should say to it."""

    name: str
    make: Callable
    about: str
    release: str = CURRENT
    tables: tuple[str, ...] = ("t",)
    """What `status` has to name, readable or not."""
    expect: dict[str, tuple[int | tuple[int, ...], str]] = field(default_factory=dict)
    """Command -> exit code, or those of one run and another, and a pattern that its output matches. Commands not named end
    with 0; "store cleanup" is about a store alone."""
    known: dict[str, str] = field(default_factory=dict)
    """Check ("optimize rows", "cleanup", ...) -> why it is known to fail. It must fail, or the declaration is stale."""
    store: bool = True
    """Also in a store: what is built before `yield` is published there by `squire repair --force`. Not by default where an old
    release makes it."""
    plain: bool = True
    """Also in a plain directory."""
    broken_index: bool = False
    """The state's index answers wrongly, or not at all, before Squire touches it."""
    kept: int = 3
    """policy.min_versions: the newest so many stay readable."""
    cleanup: bool = True
    """policy.cleanup.enabled"""
    config: str = ""
    """Lines for the end of the configuration's [policy]."""
    quick: bool = False
    """Runs in `make test`."""
    slow: bool = False
    """Reads or writes gigabytes."""


def state(**options):
    """Declares the decorated builder as a state. Its docstring says what is special about it."""

    def declare(make: Callable) -> Callable:
        name = make.__name__
        assert name not in STATES, name
        if options.get("release", CURRENT) != CURRENT:
            options.setdefault("store", False)
        STATES[name] = State(name, make, inspect.getdoc(make) or "", **options)
        return make

    return declare


class Db:
    """The directory that a builder fills."""

    def __init__(self, root: Path, in_store: bool = False, stable: bool = False):
        self.root = root
        self.in_store = in_store
        self.defaults = {"enable_stable_row_ids": True} if stable else {}
        self.rng = random.Random(root.name)
        self._begun: set[str] = set()

    def path(self, name: str = "t") -> str:
        return str(self.root / f"{name}.lance")

    def dir(self, name: str = "t") -> Path:
        return self.root / f"{name}.lance"

    def put(self, table, name: str = "t", **options) -> None:
        """Appends a fragment. A store's table is there already: the first one overwrites it."""
        import lance

        first = name not in self._begun
        self._begun.add(name)
        there = os.path.exists(self.path(name))
        mode = ("overwrite" if self.in_store and there else "create") if first else "append"
        lance.write_dataset(table, self.path(name), mode=mode, **{**self.defaults, **options})

    def fill(self, make: Callable[[int], object], count: int = 20, name: str = "t", **options) -> None:
        """`count` fragments, each from `make(i)`."""
        for i in range(count):
            self.put(make(i), name, **options)

    def open(self, name: str = "t", **options):
        import lance

        return lance.dataset(self.path(name), **options)


def ids(i: int, rows: int = 10):
    """A batch with one column, id, that continues batch `i - 1`."""
    import pyarrow as pa

    return pa.table({"id": range(i * rows, (i + 1) * rows)})


_TIMESTAMP = re.compile(rb"\x3a[\x06-\x0d]\x08([\x80-\xff]{4}[\x00-\x7f])")


def _varint(data: bytes) -> int:
    return sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(data))


def age(root: Path, days: float = 3) -> None:
    """Sets the time of every version below `root` back, in place: a varint of five bytes stays one. Files get older than the
    week that Lance spares those which no version refers to."""
    now, back = int(time.time()), int(days * 86_400)
    for directory, _, files in os.walk(root):
        for name in files:
            os.utime(os.path.join(directory, name), (now - 30 * 86_400,) * 2, follow_symlinks=False)
        if not directory.endswith("_versions"):
            continue
        for name in files:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                data = bytearray(file.read())
            for found in _TIMESTAMP.finditer(bytes(data)):
                at = _varint(found.group(1))
                if abs(at - now) < 7 * 86_400:
                    old = at - back
                    data[found.start(1) : found.end(1)] = bytes(
                        (old >> 7 * i & 0x7F) | (0x80 if i < 4 else 0) for i in range(5)
                    )
            with open(path, "wb") as file:
                file.write(data)
            os.utime(path, (now - back,) * 2)


def load() -> dict[str, State]:
    """Every declared state."""
    import states

    for module in pkgutil.iter_modules(states.__path__):
        importlib.import_module(f"states.{module.name}")
    return STATES


def build(chosen: State, root: Path, publish: Callable[[], None] | None = None, stable: bool = False) -> None:
    """Runs a builder in `root`, where it says nothing else with stable row ids. What follows its `yield` is done after `publish`."""
    steps = chosen.make(Db(root, publish is not None, stable))
    if inspect.isgenerator(steps):
        next(steps)
        (publish or (lambda: None))()
        next(steps, None)
    elif publish:
        publish()


if __name__ == "__main__":
    sys.modules["build"] = sys.modules["__main__"]
    build(load()[sys.argv[1]], Path(sys.argv[2]), (lambda: None) if sys.argv[3:] else None)
