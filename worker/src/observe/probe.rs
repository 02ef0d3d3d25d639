//! Asks a running worker how it is: what a container's health check runs, since images have no `curl`.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Why a worker is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answers.
    #[error("no worker answers at {addr}: {source}. Is it running, and is http.addr the same?")]
    Unreachable {
        /// Where it was looked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It answers, but not with HTTP.
    #[error("what listens at {0} is no worker")]
    Foreign(SocketAddr),
    /// It says why it is not ready.
    #[error("not ready: {0}")]
    NotReady(String),
}

/// Asks the worker that serves metrics and health on `addr`; `path` is `/readyz` or `/healthz`. Returns its answer.
///
/// # Errors
/// If it cannot be reached within the time, or says that it is not ready.
pub fn probe(addr: SocketAddr, path: &str, timeout: Duration) -> Result<String, ProbeError> {
    let addr = reachable(addr);
    let answer = get(addr, path, timeout).map_err(|source| ProbeError::Unreachable { addr, source })?;
    let (status, body) = parse(&answer).ok_or(ProbeError::Foreign(addr))?;
    let text = body.trim().replace('\n', "; ");
    if status == 200 { Ok(text) } else { Err(ProbeError::NotReady(text)) }
}

/// A worker that listens on all addresses is asked on the local one.
const fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    addr
}

fn get(addr: SocketAddr, path: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&addr, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // 1.0, so that the answer ends with the connection and is not sent in chunks.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    Some((words.next()?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\na: b\r\n\r\nready\n"), Some((200, "ready\n".to_owned())));
        assert_eq!(parse(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Some((503, String::new())));
        for foreign in [&b"INFO {\"server_id\":1}\r\n\r\n"[..], b"", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 two OK\r\n\r\n"] {
            assert_eq!(parse(foreign), None);
        }
    }

    #[test]
    fn all_addresses_are_reached_locally() {
        for (configured, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")] {
            assert_eq!(reachable(configured.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
