//! Streams from standard input: each row once, whatever is killed, and acknowledgements that stay true.

use arrow_array::RecordBatch;
use serde_json::Value;
use squire_tests::{Done, Lake, PATIENCE, armed};

/// A table `t` (id, value).
fn lake() -> Lake {
    Lake::with_tables(&["t"])
}

fn lines(ids: std::ops::Range<i64>) -> String {
    ids.map(|id| format!("{{\"id\":{id},\"value\":\"v{id}\"}}\n"))
        .collect()
}

fn args<'a>(lake: &'a Lake, more: &[&'a str]) -> Vec<&'a str> {
    let head = ["ingest", &lake.uri, "t", "--producer", "p", "--age", "1h"];
    [&head[..], more].concat()
}

/// The offset that it was told first, and those that it was acknowledged.
fn told(done: &Done) -> (u64, Vec<u64>) {
    let lines = done.stdout.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>().expect("JSON lines");
    let number = |line: &Value, name: &str| line[name].as_u64().expect("an offset");
    let (first, acks) = lines.split_first().expect("an answer");
    let acks = acks.iter().map(|ack| number(ack, "offset"));
    (number(first, "resume"), acks.collect())
}

pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited for {what}");
    }
}

async fn holds(lake: &Lake, ids: std::ops::Range<i64>) {
    assert_eq!(lake.ids("t").await, ids.collect::<Vec<_>>());
}

#[test]
fn packed_input_is_refused_at_once() {
    let lake = lake();
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let done = lake.feed(&args(&lake, &[]), &packed);
    done.failed(2, "standard input is gzip data; unpack it");
}

#[tokio::test]
async fn a_stream_is_committed_by_pieces_and_resumed() {
    let lake = lake();
    let args = args(&lake, &["--rows", "10"]);
    let done = lake.feed(&args, lines(0..25).as_bytes()).ok();
    assert_eq!(told(&done), (0, vec![10, 20, 25]));
    // The same rows again, and more; an empty line is no row, and the last one needs no end.
    let more = format!("{}\n\n{}", lines(0..30), lines(30..36).trim_end());
    let done = lake.feed(&args, more.as_bytes()).ok();
    assert_eq!(told(&done), (25, vec![35, 36]));
    let from = [&args[..], &["--from", "30"]].concat();
    let done = lake.feed(&from, lines(30..40).as_bytes()).ok();
    assert_eq!(told(&done), (36, vec![40]));
    holds(&lake, 0..40).await;
    let gap = [&args[..], &["--from", "41"]].concat();
    lake.feed(&gap, b"")
        .failed(2, "only 40 rows of p are committed");
    // Another producer has an offset of its own.
    let other = ["ingest", &lake.uri, "t", "--producer", "p:2"];
    let done = lake.feed(&other, lines(40..41).as_bytes()).ok();
    assert_eq!(told(&done), (0, vec![1]));
    holds(&lake, 0..41).await;
    lake.assert_at_rest();
}

/// Killed at its second commit: before anything of it is put, when its table has landed, and when it is visible but not told.
#[tokio::test]
async fn a_stream_that_is_killed_is_there_once() {
    for (seam, nth, resume) in [
        ("write.after_stage", 2, Some(10)),
        ("write.after_phase_b", 2, None),
        ("publish.after_commit", 2, Some(20)),
    ] {
        let lake = lake();
        let mut child = lake.start_fed(&armed(seam, nth, "kill"), &args(&lake, &["--rows", "10"]));
        child.say(lines(0..35).as_bytes());
        let died = child.wait();
        assert_eq!(died.code, None, "{seam}: {died:?}");
        assert_eq!(told(&died), (0, vec![10]), "{seam}");
        // Other pieces than before.
        let again = args(&lake, &["--rows", "7", "--grace", "0s"]);
        let done = lake.feed(&again, lines(0..35).as_bytes()).ok();
        let (from, acks) = told(&done);
        if let Some(resume) = resume {
            assert_eq!(from, resume, "{seam}");
        }
        assert_eq!(acks.last(), Some(&35), "{seam}");
        assert!(acks.is_sorted(), "{seam}: {acks:?}");
        holds(&lake, 0..35).await;
        lake.run(&["recover", &lake.uri, "--force"]).ok();
        lake.assert_at_rest();
    }
}

#[tokio::test]
async fn a_row_that_does_not_fit_ends_the_stream_behind_what_was_acknowledged() {
    let lake = lake();
    let args = args(&lake, &["--rows", "10"]);
    let rows = format!("{}{{\"id\":\"x\"}}\n{}", lines(0..14), lines(15..30));
    let done = lake.feed(&args, rows.as_bytes());
    let done = done.failed(2, "standard input, behind row 10:5");
    assert!(
        done.stderr.contains("10 rows of the stream are committed"),
        "{done:?}"
    );
    assert_eq!(told(&done), (0, vec![10]));
    holds(&lake, 0..10).await;
    let done = lake.feed(&args, lines(0..30).as_bytes()).ok();
    assert_eq!(told(&done).0, 10);
    holds(&lake, 0..30).await;
}

/// Rows that wait are committed when it is asked to stop.
#[tokio::test]
async fn a_stop_commits_what_has_come() {
    let lake = lake();
    let args = args(&lake, &["--rows", "10"]);
    let mut child = lake.start_fed("", &args);
    let pipe = child.tell(lines(0..14).as_bytes());
    let ten = || {
        lake.log()
            .iter()
            .any(|entry| entry["batch"] == "t.lance/p:0")
    };
    eventually("the first piece", ten);
    child.signal(nix::sys::signal::Signal::SIGTERM);
    let done = child.wait().ok();
    drop(pipe);
    assert_eq!(told(&done).0, 0);
    assert_eq!(told(&done).1.first(), Some(&10));
    let stood = *told(&done).1.last().expect("one");
    holds(&lake, 0..i64::try_from(stood).expect("few")).await;
}

/// What the age says is committed without more rows.
#[tokio::test]
async fn a_row_that_has_waited_is_committed() {
    let lake = lake();
    let args = ["ingest", &lake.uri, "t", "--producer", "p", "--age", "10ms"];
    let mut child = lake.start_fed("", &args);
    let pipe = child.tell(lines(0..3).as_bytes());
    let there = || {
        lake.log()
            .iter()
            .any(|entry| entry["batch"] == "t.lance/p:0")
    };
    eventually("the rows that waited", there);
    drop(pipe);
    child.wait().ok();
    holds(&lake, 0..3).await;
}

#[tokio::test]
async fn an_arrow_stream_is_cut_where_pieces_end() {
    use lance::deps::datafusion::arrow::ipc::writer::StreamWriter;
    let lake = lake();
    let batches = [(0..7), (7..9), (9..30)];
    let batches = batches.map(|ids: std::ops::Range<i64>| {
        squire_tests::batch_of(ids.map(|id| (id, format!("v{id}"))).collect())
    });
    let mut bytes = Vec::new();
    let mut stream = StreamWriter::try_new(&mut bytes, &batches[0].schema()).expect("a stream");
    batches
        .iter()
        .for_each(|batch| stream.write(batch).expect("a batch"));
    stream.finish().expect("its end");
    drop(stream);
    let args = args(&lake, &["--rows", "8", "--format", "arrow"]);
    let done = lake.feed(&args, &bytes).ok();
    assert_eq!(told(&done), (0, vec![9, 30]));
    let done = lake.feed(&args, &bytes).ok();
    assert_eq!(told(&done), (30, vec![]));
    lake.feed(&args, b"no arrow")
        .failed(2, "is no Arrow stream");
    holds(&lake, 0..30).await;
}

/// The schema message of a stream whose one column, i: int64, is big-endian; no writer at hand makes one.
const BIG_ENDIAN: &str = "ffffffff800000001000000000000a000c000a00090004000a000000100000000001040008000c000a000400080000000800000000000100\
    01000000140000001000140010000f000e00080000000400100000001000000018000000000002011c0000000000000008000c0008000700\
    080000000000000140000000010000006900000000000000";

/// Arrow's reader takes the bytes of numbers as they come.
#[test]
fn a_stream_of_another_byte_order_is_refused() {
    let lake = lake();
    let digits = BIG_ENDIAN.as_bytes().chunks(2);
    let bytes = digits.map(|byte| std::str::from_utf8(byte).expect("digits"));
    let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16).expect("a byte"));
    let head: Vec<u8> = bytes.collect();
    lake.feed(&args(&lake, &["--format", "arrow"]), &head)
        .failed(2, "another byte order");
}

/// `cat a.arrows b.arrows | squire ingest`: what stands behind the end of a stream is not passed over.
#[tokio::test]
async fn arrow_streams_behind_one_another_are_all_read() {
    use lance::deps::datafusion::arrow::ipc::writer::StreamWriter;
    let lake = lake();
    let stream = |rows: RecordBatch| {
        let mut bytes = Vec::new();
        let mut stream = StreamWriter::try_new(&mut bytes, &rows.schema()).expect("a stream");
        stream.write(&rows).expect("a batch");
        stream.finish().expect("its end");
        drop(stream);
        bytes
    };
    let rows = |ids: std::ops::Range<i64>| {
        squire_tests::batch_of(ids.map(|id| (id, format!("v{id}"))).collect())
    };
    let args = args(&lake, &["--format", "arrow"]);
    let both = [stream(rows(0..10)), stream(rows(10..15))].concat();
    assert_eq!(told(&lake.feed(&args, &both).ok()), (0, vec![15]));
    let garbage = [&both[..], b"and more"].concat();
    lake.feed(&args, &garbage).failed(2, "is no Arrow stream");
    let other = rows(15..16).project(&[0]).expect("a column");
    let others = [both, stream(other)].concat();
    lake.feed(&args, &others).failed(2, "other columns");
    holds(&lake, 0..15).await;
}

/// What a producer has sent to one table says nothing of another one, nor of one that was made again.
#[tokio::test]
async fn a_producer_counts_for_each_table_anew() {
    let lake = Lake::with_tables(&["t", "u"]);
    let into = |table: &str, rows: std::ops::Range<i64>| {
        let args = ["ingest", &lake.uri, table, "--producer", "p"];
        told(&lake.feed(&args, lines(rows).as_bytes()).ok())
    };
    assert_eq!(into("t", 0..3), (0, vec![3]));
    assert_eq!(into("u", 0..2), (0, vec![2]));
    assert_eq!(into("t", 0..5), (3, vec![5]));
    holds(&lake, 0..5).await;
    assert_eq!(lake.ids("u").await, [0, 1]);
    // An id of somebody's that looks like one of a stream's is none.
    let rows = lake.csv("u.csv", [(7, "x".to_owned())]);
    lake.run(&["write", &lake.uri, "u", &rows, "--batch-id", "p:2"])
        .ok();
    assert_eq!(into("u", 0..3), (2, vec![3]));
    lake.run(&["drop", &lake.uri, "u"]).ok();
    let schema = lake.path("schema.json").to_string_lossy().into_owned();
    lake.run(&["create", &lake.uri, "u", "--schema", &schema])
        .ok();
    assert_eq!(into("u", 0..2), (0, vec![2]));
    assert_eq!(lake.ids("u").await, [0, 1]);
}
