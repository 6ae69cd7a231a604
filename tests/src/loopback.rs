//! Servers on this machine.

use crate::PATIENCE;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};

/// A free port on loopback.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// What answers on `port`: the status code and the body. `headers` are whole lines.
///
/// # Errors
/// Those of the connection; `InvalidData` for what is no answer.
pub fn ask(port: u16, method: &str, path: &str, headers: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let no_answer = || Error::new(ErrorKind::InvalidData, "no head and body");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_answer)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or_else(no_answer)?, body.to_owned()))
}
