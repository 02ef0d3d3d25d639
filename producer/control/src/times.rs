//! Times as they stand in records, for people and programs.

use std::time::{Duration, SystemTime};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Now, RFC 3339, in UTC, with milliseconds.
#[must_use]
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// How long before `now` something was, for people, coarsely: `2m ago`. What cannot be read is shown as it is.
#[must_use]
pub fn ago(when: &str, now: SystemTime) -> String {
    let Ok(then) = humantime::parse_rfc3339_weak(when) else { return when.to_owned() };
    // Clocks of two machines differ a little.
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    let coarse = match seconds {
        0..60 => seconds,
        60..3600 => seconds - seconds % 60,
        3600..86400 => seconds - seconds % 3600,
        _ => seconds - seconds % 86400,
    };
    format!("{} ago", humantime::format_duration(Duration::from_secs(coarse)))
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

/// Unix time in milliseconds, as RFC 3339.
pub(crate) fn rfc3339(ms: u64) -> String {
    let time =
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
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
    fn ages_are_coarse() {
        let now = humantime::parse_rfc3339("2026-01-03T11:00:07Z").unwrap();
        let ages =
            ["2026-01-03T11:00:00Z", "2026-01-03T10:10:00Z", "2026-01-01T01:00:00Z", "2026-01-03T12:00:00Z", "?"];
        assert_eq!(ages.map(|when| ago(when, now)), ["7s ago", "50m ago", "2days ago", "0s ago", "?"]);
    }

    #[test]
    fn what_comes_after_is_later_whatever_the_clock_says() {
        let far = "2999-01-01T00:00:00.5009Z";
        assert_eq!(now_after(["then", far, "2998-01-01T00:00:00Z"]), "2999-01-01T00:00:00.501Z");
        let now = SystemTime::now() - Duration::from_secs(1);
        assert!(parse(&now_after(["2020-01-01T00:00:00Z"])) > Some(now) && parse(&now_after([])) > Some(now));
    }
}
