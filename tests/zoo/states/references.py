"""References: tags, branches and clones, and what an old version of a table still means to somebody."""

import shutil

from build import Db, ids, state
from states.cases import words


@state(quick=True)
def aged_tags(db: Db):
    """Tags on old versions: they stay readable, and the rest is cleaned."""
    db.fill(ids)
    for version in (2, 7, 12):
        db.open().tags.create(f"v{version}", version)


@state()
def tag_on_head(db: Db):
    """A tag on HEAD."""
    db.fill(ids)
    db.open().tags.create("now", db.open().version)


@state(quick=True)
def branch(db: Db):
    """A branch from an old version, with rows of its own."""
    db.fill(ids)
    branch = db.open().create_branch("b", 5)
    branch.insert(words(0).select(["id"]))


@state()
def branches(db: Db):
    """A branch of a branch, and one that stands still."""
    db.fill(words)
    first = db.open().create_branch("one", 5)
    first.insert(words(30))
    first.create_branch("two")
    db.open().create_branch("three", 9)
    db.open().create_scalar_index("id", "BTREE")
    db.put(words(20))


@state(config="branches = true", expect={"optimize": ((0, 3), "lies in the table|became")})
def branch_maintained(db: Db):
    """A branch with an index of the table and many small fragments, deletions and a branch of its own, under a policy that asks for it."""
    db.fill(words, 5)
    db.open().create_scalar_index("id", "BTREE")
    branch = db.open().create_branch("dev/x")
    for i in range(5, 25):
        branch = branch.checkout_version(("dev/x", None))
        branch.insert(words(i))
        if i == 15:
            branch.create_branch("kid")
    branch.checkout_version(("dev/x", None)).delete("id % 5 = 1")


@state()
def tag_on_branch(db: Db):
    """A tag on a version of a branch."""
    db.fill(ids)
    db.open().create_branch("b", 5).insert(ids(40))
    db.open().tags.create("on-branch", ("b", None))


@state(store=False, kept=1, tables=("t", "clone"))
def shallow_clone_grown(db: Db):
    """A shallow clone with rows and deletions of its own."""
    import lance

    db.fill(ids, 17)
    db.open().shallow_clone(db.path("clone"), db.open().version)
    lance.write_dataset(ids(50), db.path("clone"), mode="append")
    db.open("clone").delete("id % 7 = 1")


@state(store=False, kept=1, tables=("t", "clone"), expect={"optimize --dry-run": ((0, 3), ""), "optimize": ((0, 3), "")})
def shallow_clone_indexed(db: Db):
    """A shallow clone whose index lies in its source."""
    import lance

    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().shallow_clone(db.path("clone"), db.open().version)
    for i in range(20):
        lance.write_dataset(words(20 + i), db.path("clone"), mode="append")


@state(store=False, kept=1, tables=("clone",))
def shallow_clone_from_elsewhere(db: Db):
    """A clone whose source lies outside the watched directory."""
    import lance

    elsewhere = str(db.root.parent / "elsewhere.lance")
    for i in range(20):
        lance.write_dataset(ids(i), elsewhere, mode="append" if i else "create")
    lance.dataset(elsewhere).shallow_clone(db.path("clone"), 20)


@state(store=False, kept=1, tables=("t", "one", "two"))
def clone_of_clone(db: Db):
    """A clone of a clone."""
    db.fill(ids)
    db.open().shallow_clone(db.path("one"), 20)
    db.open("one").shallow_clone(db.path("two"), db.open("one").version)


@state(store=False, kept=1, tables=("t", "clone"), expect={c: (1, "clone") for c in ("status", "plan", "optimize --dry-run", "optimize", "daemon")})
def clone_source_gone(db: Db):
    """A shallow clone whose source was deleted."""
    db.fill(ids, name="source")
    db.fill(ids)
    db.open("source").shallow_clone(db.path("clone"), 20)
    shutil.rmtree(db.dir("source"))


@state(store=False, tables=("t", "copy"))
def deep_clone(db: Db):
    """A deep clone: a table of its own."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    db.open().deep_clone(db.path("copy"), db.open().version)


@state(store=False, tables=("t", "copy"))
def copied_folder(db: Db):
    """A folder copied beside its original."""
    db.fill(words)
    db.open().create_scalar_index("id", "BTREE")
    shutil.copytree(db.dir(), db.dir("copy"))


@state(store=False, tables=("t", "clone"))
def clone_of_branch(db: Db):
    """A shallow clone of a branch: its files stand under the branch, which no cleanup of the table touches."""
    db.fill(ids)
    branch = db.open().create_branch("b", 5)
    branch.insert(ids(40))
    branch.checkout_version(("b", None)).shallow_clone(db.path("clone"), ("b", None))
