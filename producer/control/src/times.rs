//! Times as they stand in records, for people and programs.

use std::time::{Duration, SystemTime};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Now, RFC 3339, in UTC, with milliseconds.
#[must_use]
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Now, but later than all of these, whatever the clocks of those say who wrote them.
pub(crate) fn now_after<'a>(others: impl IntoIterator<Item = &'a str>) -> String {
    let next = others.into_iter().filter_map(|other| parse(other)?.checked_add(Duration::from_millis(1))).max();
    let now = SystemTime::now();
    humantime::format_rfc3339_millis(next.map_or(now, |next| next.max(now))).to_string()
}

/// The moment that a record names, if it can be read.
pub(crate) fn parse(when: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(when).ok()
}

/// A server's timestamp as Unix time in milliseconds, if it can be read.
pub(crate) fn parse_ms(when: &str) -> Option<u64> {
    let nanoseconds = OffsetDateTime::parse(when, &Rfc3339).ok()?.unix_timestamp_nanos();
    u64::try_from(nanoseconds / 1_000_000).ok()
}

/// Now, by this machine's clock: Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_is_later_whatever_the_clock_says() {
        let far = "2999-01-01T00:00:00.5009Z";
        assert_eq!(now_after(["then", far, "2998-01-01T00:00:00Z"]), "2999-01-01T00:00:00.501Z");
        let now = SystemTime::now() - Duration::from_secs(1);
        assert!(parse(&now_after(["2020-01-01T00:00:00Z"])) > Some(now) && parse(&now_after([])) > Some(now));
    }
}
