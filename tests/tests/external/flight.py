"""Rows by Arrow Flight, as other programs send them: the unmodified drivers of PyPI. Prints one JSON document per line.

flight.py PORT SCENARIO [ARG...]      the environment has TOKEN, CERT (a path) where the agent asks for them
"""

import json
import os
import sys

import adbc_driver_flightsql.dbapi as flightsql
import pyarrow as pa
import pyarrow.flight as flight

HEADER = "adbc.flight.sql.rpc.call_header."
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("value", pa.string())])

port = sys.argv[1]
token, cert = os.environ.get("TOKEN"), os.environ.get("CERT")
uri = f"grpc{'+tls' if cert else ''}://127.0.0.1:{port}"


def say(**document):
    print(json.dumps(document), flush=True)


def rows(tag, start, stop):
    ids = list(range(start, stop))
    return pa.table([ids, [f"{tag}-{i}" for i in ids]], schema=SCHEMA)


def connect(autocommit=False):
    options = {}
    if token:
        options["adbc.flight.sql.authorization_header"] = f"Bearer {token}"
    if cert:
        with open(cert) as pem:
            options["adbc.flight.sql.client_option.tls_root_certs"] = pem.read()
    return flightsql.connect(uri, db_kwargs=options, autocommit=autocommit)


def ingest(connection, table, data, how, /, **options):
    """What `adbc_ingest` gives, by a cursor of its own."""
    with connection.cursor() as cursor:
        named = {HEADER + "squire." + name: value for name, value in options.items()}
        if named:
            cursor.adbc_statement.set_options(**named)
        return cursor.adbc_ingest(table, data, mode=how)


def refusal(call):
    try:
        call()
    except Exception as error:  # every driver has classes of its own
        say(error=type(error).__name__, text=str(error))
    else:
        say(error=None)


def client():
    options = {}
    if cert:
        with open(cert, "rb") as pem:
            options["tls_root_certs"] = pem.read()
    return flight.FlightClient(uri, **options)


class Seen(flight.ClientMiddleware):
    """Keeps what stands in the headers of answers."""

    headers = {}

    def received_headers(self, headers):
        Seen.headers.update({k: v[0] for k, v in headers.items() if k.startswith("squire-")})


class SeenFactory(flight.ClientMiddlewareFactory):
    def start_call(self, info):
        return Seen()


def headers(**options):
    named = [(b"squire." + k.encode(), v.encode()) for k, v in options.items()]
    if token:
        named.append((b"authorization", b"Bearer " + token.encode()))
    return flight.FlightCallOptions(headers=named, timeout=300)


def put(client, path, data, chunk=None, **options):
    """The document that a plain put is answered with."""
    descriptor = flight.FlightDescriptor.for_path(*path)
    writer, results = client.do_put(descriptor, data.schema, headers(**options))
    writer.write_table(data, max_chunksize=chunk)
    writer.done_writing()
    answer = results.read()
    writer.close()  # raises what was refused
    return json.loads(answer.to_pybytes())


def modes():
    with connect(autocommit=True) as connection:
        say(rows=ingest(connection, "t", rows("a", 0, 3), "append"))
        say(rows=ingest(connection, "new", rows("b", 0, 2).to_reader(), "create"))
        refusal(lambda: ingest(connection, "new", rows("b", 0, 2), "create"))
        say(rows=ingest(connection, "new", rows("c", 2, 4).to_reader(), "create_append"))
        say(rows=ingest(connection, "other", rows("c", 0, 1), "create_append"))
        say(rows=ingest(connection, "other", rows("d", 5, 9), "replace"))
        say(rows=ingest(connection, "third", rows("e", 0, 1), "replace"))
        say(rows=ingest(connection, "t", rows("m", 2, 5), "append", mode="merge"))
        say(rows=ingest(connection, "third", rows("f", 0, 2), "append", mode="merge", key="id"))


def refusals():
    wrong = pa.table({"id": pa.array([1], pa.int64()), "wrong": ["x"]})
    with connect(autocommit=True) as connection:
        refusal(lambda: ingest(connection, "t", wrong, "append"))
        refusal(lambda: ingest(connection, "missing", rows("a", 0, 1), "append"))
        refusal(lambda: ingest(connection, "no name", rows("a", 0, 1), "create"))
        refusal(lambda: ingest(connection, "t", rows("a", 0, 1), "append", modus="merge"))
        refusal(lambda: ingest(connection, "t", rows("a", 0, 1), "append", mode="merge", key="value"))
        refusal(lambda: ingest(connection, "t", rows("a", 0, 0), "replace"))
        refusal(lambda: connection.cursor().execute("SELECT 1"))
    to = client()
    refusal(lambda: put(to, ["t"], rows("a", 0, 0), mode="overwrite"))
    refusal(lambda: put(to, ["t"], wrong))
    refusal(lambda: put(to, ["missing"], rows("a", 0, 1)))
    refusal(lambda: put(to, ["a", "b"], rows("a", 0, 1)))
    refusal(lambda: put(to, ["t"], rows("a", 0, 1), transaction="01JD2Q3V5W6X7Y8Z9A0B1C2D3E"))


def early():
    """A stream of columns that its table does not have: refused before any row was sent."""
    wrong = pa.schema([("id", pa.int64()), ("wrong", pa.string())])
    writer, results = client().do_put(flight.FlightDescriptor.for_path("t"), wrong, headers())
    say(answer=results.read())
    refusal(writer.close)


def plain():
    to = flight.FlightClient(uri, middleware=[SeenFactory()])
    say(**put(to, ["t"], rows("p", 0, 10), chunk=3, batch_id="one", message="by hand"))
    say(**Seen.headers)
    say(**put(to, ["t"], rows("p", 0, 10), batch_id="one"))
    refusal(lambda: put(to, ["t"], rows("q", 0, 10), batch_id="one"))
    coded = pa.table([pa.array([10, 11]), pa.array(["x", "y"]).dictionary_encode()], names=["id", "value"])
    say(**put(to, ["t"], coded))


def transactions():
    with connect() as connection:
        ingest(connection, "t", rows("a", 0, 3), "append")
        ingest(connection, "made", rows("a", 0, 2), "create")
        ingest(connection, "made", rows("a", 2, 4), "append")
        ingest(connection, "u", rows("a", 0, 3), "append", batch_id="pair")
        say(step="before")
        sys.stdin.readline()
        connection.commit()
        say(step="committed")
        sys.stdin.readline()
        ingest(connection, "t", rows("b", 3, 6), "append")
        connection.rollback()
        refusal(lambda: (ingest(connection, "t", rows("c", 6, 7), "append"),
                         ingest(connection, "t", rows("c", 6, 7), "append", mode="merge")))
        connection.rollback()
        # Again, with the same id: nothing is committed twice.
        ingest(connection, "t", rows("a", 0, 3), "append", batch_id="pair")
        refusal(connection.commit)


def named():
    """A transaction of pyarrow, which names it."""
    to = client()
    begun = list(to.do_action(("BeginTransaction", b""), headers()))[0].body.to_pybytes()
    # An Any with a message of one field, whose bytes come last.
    name = begun[-26:].decode()
    put(to, ["t"], rows("n", 0, 2), transaction=name)
    put(to, ["u"], rows("n", 0, 2), transaction=name)
    put(to, ["t"], rows("alone", 7, 8))
    say(step="before")
    sys.stdin.readline()
    end = b"\n" + bytes([len(name)]) + name.encode() + b"\x10\x01"
    url = b"type.googleapis.com/arrow.flight.protocol.sql.ActionEndTransactionRequest"
    body = b"\n" + bytes([len(url)]) + url + b"\x12" + bytes([len(end)]) + end
    ended = list(to.do_action(("EndTransaction", body), headers()))
    say(**json.loads(ended[0].body.to_pybytes()))
    refusal(lambda: list(to.do_action(("EndTransaction", body), headers())))


def limits():
    to = client()
    refusal(lambda: put(to, ["t"], rows("x" * 2_000, 0, 1_000)))
    say(**put(to, ["t"], rows("x" * 2_000, 0, 1_000), chunk=100))
    refusal(lambda: put(to, ["t"], rows("y" * 2_000, 0, 4_000), chunk=100))
    refusal(lambda: put(to, ["t"], rows("z", 0, 30_000), chunk=10_000))
    # A stream that says nothing more.
    silent, results = to.do_put(flight.FlightDescriptor.for_path("t"), SCHEMA, headers())
    say(answer=results.read())
    refusal(silent.close)


def large():
    """Some 350 MiB in 40 messages, with a batch id, so that they are read three times."""
    writer, results = client().do_put(flight.FlightDescriptor.for_path("t"), SCHEMA, headers(batch_id="large"))
    count = 100_000
    for n in range(40):
        texts = pa.array([os.urandom(40).hex() for _ in range(1_000)] * (count // 1_000))
        ids = pa.array(range(n * count, (n + 1) * count), pa.int64())
        writer.write_batch(pa.record_batch([ids, texts], schema=SCHEMA))
    writer.done_writing()
    answer = results.read()
    writer.close()
    say(**json.loads(answer.to_pybytes()))


def one():
    """One put with a batch id, until it is answered: `flight.py PORT one TABLE START STOP ID`."""
    table, start, stop, batch = sys.argv[3:7]
    data = rows(batch, int(start), int(stop))
    try:
        say(**put(client(), [table], data, batch_id=batch))
    except Exception as error:
        say(outcome=None, error=type(error).__name__, text=str(error))


def held():
    """A put of which one part is sent, and the rest when a line comes."""
    data = rows("held", 0, 2)
    writer, results = client().do_put(flight.FlightDescriptor.for_path("t"), SCHEMA, headers())
    writer.write_table(data)
    say(step="begun")
    sys.stdin.readline()
    writer.write_table(rows("held", 2, 4))
    writer.done_writing()
    say(**json.loads(results.read().to_pybytes()))
    writer.close()
    refusal(lambda: put(client(), ["t"], data))


def open_transaction():
    """Rows in a transaction of a connection, which then goes on when a line comes."""
    connection = connect()
    ingest(connection, "t", rows("old", 0, 2), "append")
    say(step="put")
    sys.stdin.readline()
    refusal(lambda: ingest(connection, "t", rows("late", 2, 4), "append"))
    connection.rollback()
    say(rows=ingest(connection, "t", rows("new", 4, 6), "append"))
    connection.commit()


globals()[sys.argv[2]]()
