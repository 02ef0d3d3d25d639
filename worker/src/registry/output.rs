//! What the commands print: text for people, or one JSON value.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use serde::Serialize;

/// How it is printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    /// Prints one of the two.
    pub(super) fn print(self, json: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(json)? } else { text() };
        match writeln!(io::stdout(), "{}", text.trim_end()) {
            // Whoever reads it, such as `head`, has enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

/// RFC 3339, to the second.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
