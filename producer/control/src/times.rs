//! Times as they stand in records, for people and programs.

use std::time::SystemTime;

/// Now, RFC 3339, in UTC, with milliseconds.
#[must_use]
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// The moment that a record names, if it can be read.
pub(crate) fn parse(when: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(when).ok()
}
