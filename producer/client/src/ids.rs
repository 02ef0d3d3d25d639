//! Job ids: new ones, and those of the parts of a job.

use std::time::{SystemTime, UNIX_EPOCH};

use embed_schemas::{JobId, job_id::JobIdError};

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A new id: unique, and sorted by time. 10 characters of time (milliseconds) and 13 of randomness (64 bits).
#[must_use]
pub fn new_id() -> JobId {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    id_from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), rand::random())
}

fn id_from(time_ms: u64, random: u64) -> JobId {
    let digit = |value: u64, place: u32| char::from(DIGITS[(value >> (5 * place) & 31) as usize]);
    let text: String = (0..10)
        .rev()
        .map(|place| digit(time_ms, place))
        .chain((0..13).rev().map(|place| digit(random, place)))
        .collect();
    text.parse().expect("base 32 digits make an id")
}

/// The id of part `part` of a job: `<id>-<part>`.
///
/// # Errors
/// If it would be too long.
pub fn part_id(id: &JobId, part: impl std::fmt::Display) -> Result<JobId, JobIdError> {
    format!("{id}-{part}").parse()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_numbered() {
        let id: JobId = "a".parse().unwrap();
        assert_eq!(part_id(&id, 7).unwrap().as_str(), "a-7");
        assert!(part_id(&"x".repeat(128).parse().unwrap(), 0).is_err());
    }

    proptest! {
        #[test]
        fn ids_differ_and_sort_by_time(a in 0u64..1 << 50, b in 0u64..1 << 50, r: u64, s: u64) {
            let (x, y) = (id_from(a, r), id_from(b, s));
            prop_assert_eq!(x == y, (a, r) == (b, s));
            prop_assert!(a == b || (a < b) == (x < y));
        }
    }
}
