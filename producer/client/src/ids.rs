//! Job ids: new ones, and those of the parts of a job.

use std::time::{SystemTime, UNIX_EPOCH};

use embed_schemas::{
    JobId,
    job_id::JobIdError,
    removal::{RemovalKey, TIME_CHARACTERS},
};

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A new id: unique, and sorted by time. 10 characters of time (milliseconds) and 13 of randomness (64 bits).
#[must_use]
pub fn new_id() -> JobId {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    id_from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), rand::random())
}

/// A new id, unique and sorted by time as well, that a key belongs to: whoever has the key can have results removed whose ids begin with it
/// (see [`part_id`]), and nobody else can.
#[must_use]
pub fn id_with_key(key: &RemovalKey) -> JobId {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = digits(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), TIME_CHARACTERS);
    format!("{time}{}", key.id_part()).parse().expect("base 32 digits make an id")
}

fn id_from(time_ms: u64, random: u64) -> JobId {
    let text = digits(time_ms, TIME_CHARACTERS) + &digits(random, 13);
    text.parse().expect("base 32 digits make an id")
}

/// The last so many digits.
fn digits(value: u64, count: usize) -> String {
    (0..count).rev().map(|place| char::from(DIGITS[(value >> (5 * place) & 31) as usize])).collect()
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

    #[test]
    fn a_key_belongs_to_ids_that_are_made_with_it() {
        let (key, other) = (RemovalKey::from_random([1; 32]), RemovalKey::from_random([2; 32]));
        let id = id_with_key(&key);
        let part = part_id(&part_id(&id, 17).unwrap(), "r1").unwrap();
        assert!(key.proves(&id) && key.proves(&part) && !other.proves(&part) && !key.proves(&new_id()));
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
