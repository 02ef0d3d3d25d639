//! Bytes of a file that is being made, until they are sent.

use std::io::{self, Write};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Where encoded bytes wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Sink {
    waiting: Vec<u8>,
    hash: Sha256,
    /// Of the whole file.
    bytes: u64,
}

impl Sink {
    /// What has come since the last time.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.waiting).into()
    }

    /// Makes room for so many bytes and no more.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.waiting.reserve_exact(bytes);
    }

    /// Bytes of the whole file, and their SHA-256.
    pub(super) fn sum(self) -> (u64, String) {
        (self.bytes, format!("{:x}", self.hash.finalize()))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.waiting.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
