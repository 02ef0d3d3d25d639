//! One HTTP request, for what has no client here.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Longer, and it does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The answer to a request without a body, such as `GET /healthz`.
pub(crate) fn ask(address: &str, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!("{request} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Whether `/healthz` says that all is well.
pub(crate) fn is_healthy(address: &str) -> bool {
    ask(address, "GET /healthz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
