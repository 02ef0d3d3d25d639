//! A client that subscribes and never reads: what is for it fills the buffers between, and then the server's.

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
};

use embed_schemas::Slug;

/// How often it subscribes to each: every message is sent to it so many times, and buffers are full soon.
const SUBSCRIPTIONS: usize = 200;

/// The client. Gone when dropped.
#[derive(Debug)]
pub(super) struct DeafClient(TcpStream);

impl DeafClient {
    /// Connects and subscribes.
    pub(super) fn connect(address: &str, model: &Slug) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        let mut text = "CONNECT {\"verbose\":false,\"pedantic\":false,\"name\":\"deaf\"}\r\n".to_owned();
        for n in 0..SUBSCRIPTIONS {
            text += &format!("SUB embed.result.{model}.* r{n}\r\nSUB _INBOX.> i{n}\r\n");
        }
        stream.write_all(text.as_bytes())?;
        Ok(Self(stream))
    }
}

impl Drop for DeafClient {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
