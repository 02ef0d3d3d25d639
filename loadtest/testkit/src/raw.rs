//! A client of NATS that sends whatever bytes it is given: what client libraries refuse to send, servers hand on all the same.

use std::{
    collections::VecDeque,
    io::{Error, ErrorKind, Read, Result, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::PATIENCE;

/// What is said of the client, unless something else is.
const CONNECT: &str = r#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"name":"raw"}"#;

/// A connection on which nothing is checked. Blocking.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    /// What has come and is not read.
    buffer: Vec<u8>,
    /// Messages that came while something else was waited for.
    messages: VecDeque<RawMessage>,
}

/// A message as the server sends it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawMessage {
    /// Its subject.
    pub subject: Vec<u8>,
    /// The number of the subscription.
    pub sid: u64,
    /// Where an answer goes.
    pub reply: Option<Vec<u8>>,
    /// The header block with its version and empty line; empty if there is none.
    pub headers: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// What a server says.
enum Said {
    Message(RawMessage),
    Pong,
    /// `INFO`, `+OK`, or a `PING` that has been answered.
    Other,
}

impl RawClient {
    /// Connects to `host:port`, and waits until the server takes the client for one.
    ///
    /// # Errors
    /// If there is no server, or it refuses.
    pub fn connect(address: &str) -> Result<Self> {
        Self::connect_with(address, CONNECT)
    }

    /// The same with options of its own, such as user and password, as JSON.
    ///
    /// # Errors
    /// If there is no server, or it refuses.
    pub fn connect_with(address: &str, options: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, buffer: Vec::new(), messages: VecDeque::new() };
        client.send(format!("CONNECT {options}\r\n").as_bytes())?;
        client.flush()?;
        Ok(client)
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// Publishes. `headers` is the whole block, such as `NATS/1.0\r\nName: value\r\n\r\n`, and need not be one.
    ///
    /// # Errors
    /// If the connection is gone. What the server has against it comes with the next [`RawClient::flush`].
    pub fn publish(
        &mut self,
        subject: &[u8],
        reply: Option<&[u8]>,
        headers: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<()> {
        self.send(&publication(subject, reply, headers, payload))
    }

    /// Subscribes, under a number of one's own choice.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn subscribe(&mut self, subject: &str, sid: u64) -> Result<()> {
        self.send(format!("SUB {subject} {sid}\r\n").as_bytes())
    }

    /// Waits until the server has taken everything that was sent. Messages that come meanwhile are kept.
    ///
    /// # Errors
    /// What the server says against it, or that the connection is gone.
    pub fn flush(&mut self) -> Result<()> {
        self.send(b"PING\r\n")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.said(deadline)? {
                Some(Said::Pong) => return Ok(()),
                Some(Said::Message(message)) => self.messages.push_back(message),
                Some(Said::Other) => {}
                None => return Err(Error::new(ErrorKind::TimedOut, "the server does not answer")),
            }
        }
    }

    /// The next message. `None` if none comes within this time.
    ///
    /// # Errors
    /// What the server says against the client, or that the connection is gone.
    pub fn next(&mut self, within: Duration) -> Result<Option<RawMessage>> {
        if let Some(message) = self.messages.pop_front() {
            return Ok(Some(message));
        }
        let deadline = Instant::now() + within;
        loop {
            match self.said(deadline)? {
                Some(Said::Message(message)) => return Ok(Some(message)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next thing that the server says, until then.
    fn said(&mut self, deadline: Instant) -> Result<Option<Said>> {
        loop {
            if let Some((said, length)) = parse(&self.buffer)? {
                self.buffer.drain(..length);
                return match said {
                    Line::Message(message) => Ok(Some(Said::Message(message))),
                    Line::Pong => Ok(Some(Said::Pong)),
                    Line::Error(error) => Err(Error::other(error)),
                    Line::Ping => {
                        self.send(b"PONG\r\n")?;
                        Ok(Some(Said::Other))
                    }
                    Line::Other => Ok(Some(Said::Other)),
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut piece = [0; 16 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The bytes of a publication, so that many can be sent at once.
pub fn publication(subject: &[u8], reply: Option<&[u8]>, headers: Option<&[u8]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = if headers.is_some() { b"HPUB ".to_vec() } else { b"PUB ".to_vec() };
    for part in [Some(subject), reply].into_iter().flatten() {
        bytes.extend_from_slice(part);
        bytes.push(b' ');
    }
    let block = headers.unwrap_or_default();
    if headers.is_some() {
        bytes.extend_from_slice(format!("{} ", block.len()).as_bytes());
    }
    bytes.extend_from_slice(format!("{}\r\n", block.len() + payload.len()).as_bytes());
    bytes.extend_from_slice(block);
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

enum Line {
    Message(RawMessage),
    Ping,
    Pong,
    Error(String),
    Other,
}

/// What the bytes begin with, and how many of them it takes. `None`: there have to be more.
fn parse(bytes: &[u8]) -> Result<Option<(Line, usize)>> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let (line, begin) = (&bytes[..end], end + 2);
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let verb = words.next().unwrap_or_default();
    let line = match verb {
        b"PING" => Line::Ping,
        b"PONG" => Line::Pong,
        b"-ERR" => Line::Error(String::from_utf8_lossy(line).into_owned()),
        b"MSG" | b"HMSG" => {
            let words: Vec<&[u8]> = words.collect();
            let numbers = if verb == b"HMSG" { 2 } else { 1 };
            if words.len() < 2 + numbers {
                return Err(Error::new(ErrorKind::InvalidData, String::from_utf8_lossy(line)));
            }
            let total = number(words[words.len() - 1])?;
            let block = if numbers == 2 { number(words[words.len() - 2])? } else { 0 };
            let all = begin + total + 2;
            if bytes.len() < all {
                return Ok(None);
            }
            let message = RawMessage {
                subject: words[0].to_vec(),
                sid: number(words[1])? as u64,
                reply: (words.len() > 2 + numbers).then(|| words[2].to_vec()),
                headers: bytes[begin..begin + block].to_vec(),
                payload: bytes[begin + block..begin + total].to_vec(),
            };
            return Ok(Some((Line::Message(message), all)));
        }
        _ => Line::Other,
    };
    Ok(Some((line, begin)))
}

fn number(word: &[u8]) -> Result<usize> {
    let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
    number.ok_or_else(|| Error::new(ErrorKind::InvalidData, String::from_utf8_lossy(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NatsServer;

    #[test]
    fn what_a_raw_client_sends_comes_as_it_was_sent() {
        let server = NatsServer::start();
        let mut client = RawClient::connect(&server.address()).unwrap();
        client.subscribe("odd", 7).unwrap();
        let headers = b"NATS/1.0\r\nno colon, no UTF-8: \xff\r\n\r\n";
        client.publish(b"odd", Some(b"re\xffply"), Some(headers), b"payload").unwrap();
        client.publish(b"odd", None, None, b"").unwrap();
        client.flush().unwrap();
        let message = client.next(PATIENCE).unwrap().unwrap();
        let expected = RawMessage {
            subject: b"odd".to_vec(),
            sid: 7,
            reply: Some(b"re\xffply".to_vec()),
            headers: headers.to_vec(),
            payload: b"payload".to_vec(),
        };
        assert_eq!(message, expected);
        let message = client.next(PATIENCE).unwrap().unwrap();
        assert_eq!(message, RawMessage { subject: b"odd".to_vec(), sid: 7, ..RawMessage::default() });
        assert_eq!(client.next(Duration::from_millis(1)).unwrap(), None);
        client.publish(&b"x".repeat(5_000), None, None, b"").unwrap();
        let error = client.flush().unwrap_err();
        assert!(error.to_string().contains("control line") || error.kind() != ErrorKind::TimedOut, "{error}");
    }
}
