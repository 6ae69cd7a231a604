"""What other programs do with a store: pylance, LanceDB and boto3. Prints one JSON document.

client.py create URI                    make an empty table (id, value) with pylance
client.py append URI START STOP TAG     append the rows (id, "TAG-id") with pylance
client.py compact URI                   compact_files with pylance
client.py delete URI PREDICATE          delete with pylance
client.py index URI COLUMN              build a btree index with pylance
client.py head URI                      the latest version and its tags
client.py read < {"root": URI, "tables": {NAME: {"uri": URI, "version": V or null}}}
                                        the rows of every table, as pylance and as LanceDB see them
client.py whole URI VERSION             every column with its type, and every row, at a version with pylance
client.py bucket NAME                   make an S3 bucket
client.py objects BUCKET PREFIX         the JSON documents that lie there
client.py serve PORT SECONDS            an S3 server whose clock is so many seconds late
"""

import json
import os
import sys


def version(uri):
    import lance

    return {"version": lance.dataset(uri).version}


def create(uri):
    import lance
    import pyarrow as pa

    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("value", pa.string())])
    lance.write_dataset(schema.empty_table(), uri)
    return version(uri)


def append(uri, start, stop, tag):
    import lance
    import pyarrow as pa

    ids = list(range(int(start), int(stop)))
    columns = {"id": ids, "value": [f"{tag}-{i}" for i in ids]}
    lance.write_dataset(pa.table(columns, schema=lance.dataset(uri).schema), uri, mode="append")
    return version(uri)


def compact(uri):
    import lance

    metrics = lance.dataset(uri).optimize.compact_files()
    return {"removed": metrics.fragments_removed, **version(uri)}


def delete(uri, predicate):
    import lance

    lance.dataset(uri).delete(predicate)
    return version(uri)


def index(uri, column):
    import lance

    lance.dataset(uri).create_scalar_index(column, "BTREE")
    return version(uri)


def head(uri):
    import lance

    dataset = lance.dataset(uri)
    tags = {name: tag["version"] for name, tag in dataset.tags.list().items()}
    return {"version": dataset.version, "tags": tags, "rows": rows(dataset.to_table())}


def rows(table):
    return sorted([row["id"], row["value"]] for row in table.to_pylist())


def read():
    import lance
    import lancedb

    wanted = json.load(sys.stdin)
    database = lancedb.connect(wanted["root"])
    seen = {"names": sorted(database.table_names()), "lance": {}, "lancedb": {}}
    for name, at in wanted["tables"].items():
        dataset = lance.dataset(at["uri"], version=at["version"])
        seen["lance"][name] = {"version": dataset.version, "rows": rows(dataset.to_table())}
        table = database.open_table(name)
        if at["version"] is not None:
            table.checkout(at["version"])
        seen["lancedb"][name] = {"version": table.version, "rows": rows(table.to_arrow())}
    return seen


def whole(uri, version):
    import lance

    table = lance.dataset(uri, version=int(version)).to_table()
    columns = {field.name: str(field.type) for field in table.schema}
    return {"columns": columns, "rows": sorted(table.to_pylist(), key=lambda row: row["id"])}


def s3():
    import boto3

    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def bucket(name):
    s3().create_bucket(Bucket=name)
    return {}


def objects(bucket, prefix):
    client, documents = s3(), []
    for found in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
        try:
            documents.append(json.load(client.get_object(Bucket=bucket, Key=found["Key"])["Body"]))
        except client.exceptions.NoSuchKey:
            pass
    return documents


def serve(port, late):
    from datetime import timedelta

    import moto.s3.models
    import moto.server

    now = moto.s3.models.utcnow
    moto.s3.models.utcnow = lambda: now() - timedelta(seconds=int(late))
    moto.server.main(["-H", "127.0.0.1", "-p", port])


COMMANDS = [create, append, compact, delete, index, head, read, whole, bucket, objects, serve]

if __name__ == "__main__":
    command = next(c for c in COMMANDS if c.__name__ == sys.argv[1])
    print(json.dumps(command(*sys.argv[2:])))
