//! Clients that take a connection and say nothing, or next to nothing, against a running daemon.

use crate::eventually;
use crate::metrics::Served;
use squire_tests::{Lake, PATIENCE};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Connections unless `SQUIRE_CONNECTIONS` says otherwise: six times as many as the daemon has places for, and more than wait in
/// front of it.
const CONNECTIONS: usize = 1_500;

/// How long each connection rests between two bytes.
const BETWEEN: Duration = Duration::from_millis(100);

/// How often each page is asked for meanwhile.
const ROUNDS: usize = 10;

/// Threads that hold them: each waits for one connection at a time.
const HOLDERS: usize = 16;

/// How many files this process may have open.
fn file_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    soft.and_then(|soft| soft.parse().ok()).expect("a limit")
}

fn connections() -> usize {
    // The rest is left to all else.
    let most = file_limit() / 5 * 4;
    let Ok(wanted) = std::env::var("SQUIRE_CONNECTIONS") else {
        return CONNECTIONS.min(most);
    };
    let wanted = wanted.parse().expect("a number");
    assert!(
        wanted <= most,
        "{wanted} connections: raise `ulimit -n` above {most}"
    );
    wanted
}

/// Holds `count` connections until `stop`: each sends a byte of a request that never ends now and then, and one that was closed is
/// opened again. `opened` counts those that were open once.
fn hold(address: SocketAddr, count: usize, opened: &AtomicUsize, stop: &AtomicBool) {
    let open = || {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    };
    let mut places: Vec<(bool, Option<TcpStream>)> = (0..count).map(|_| (false, None)).collect();
    let mut bytes = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: "
        .iter()
        .chain(b"x".iter().cycle());
    while !stop.load(Ordering::Relaxed) {
        let byte = *bytes.next().expect("without end");
        for (was_open, place) in &mut places {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let sent = place.as_mut().map(|stream| stream.write(&[byte]));
            let stands = match sent {
                Some(Err(e)) => e.kind() == ErrorKind::WouldBlock,
                Some(Ok(_)) => true,
                None => false,
            };
            if !stands {
                *place = open();
            }
            if place.is_some() && !std::mem::replace(was_open, true) {
                opened.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(BETWEEN);
    }
}

/// Lets the holders go, also where the test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn slow_connections_keep_nobody_out() {
    let lake = Lake::with_tables(&["t"]);
    let daemon = Served::daemon(&lake, &[]);
    let address: SocketAddr = daemon.address().parse().expect("an address");
    let count = connections();
    let (opened, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..HOLDERS {
            scope.spawn(|| hold(address, count / HOLDERS, &opened, &stop));
        }
        let _stops = Stops(&stop);
        let many = u32::try_from(count / CONNECTIONS + 1).expect("a few");
        eventually("all of them", many * PATIENCE, || {
            let opened = opened.load(Ordering::Relaxed);
            let all = opened >= count / HOLDERS * HOLDERS;
            all.then_some(()).ok_or(format!("{opened} of {count}"))
        });
        let mut tries = 0;
        for path in ["/healthz", "/metrics", "/readyz", "/status"].repeat(ROUNDS) {
            eventually(path, PATIENCE, || {
                tries += 1;
                match daemon.try_request("GET", path, "") {
                    Ok((200, _)) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
        let asked = 4 * ROUNDS;
        println!("{count} slow connections: {asked} requests took {tries} tries");
        assert!(
            tries <= asked + ROUNDS,
            "{asked} requests took {tries} tries"
        );
    });
    // The daemon has gone on with its work.
    let rows = lake.csv("rows.csv", [(1, "x".to_owned())]);
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    eventually("the new row", PATIENCE, || match daemon.table("t") {
        Some(table) if table["rows"] == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    daemon.stop();
}
