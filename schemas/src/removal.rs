//! Results that their owner has no use for any more: how it asks a worker to remove them, and how it proves that they are its own.
//!
//! NATS has no permission to remove single messages: who may purge a stream of results may purge all of it. So workers do it, for whoever proves
//! that the ids are its own. The proof is in the ids themselves: an owner makes up a key, and ids that hold a digest of it
//! ([`RemovalKey::id_part`]). Nobody else can name the key that belongs to an id, whatever else it may read; and whoever has a key can do
//! nothing to ids that do not follow from it.
//!
//! Whoever has results removed has to know how much room there is for more, and may not look at everybody's: a request that names no ids is
//! answered with how full the stream is ([`StreamFill`]).

use std::fmt;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{JobId, WireError};

/// Most ids in one request.
pub const MAX_REMOVALS: usize = 256;
/// What comes before the digest in an id: ten characters of time, as new ids have them.
pub const TIME_CHARACTERS: usize = 10;
/// Characters of the digest in an id, five bits each.
const DIGEST_CHARACTERS: usize = 26;
/// Characters of a key.
const KEY_CHARACTERS: std::ops::RangeInclusive<usize> = 26..=64;
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What proves that ids are one's own. A secret: whoever has it can remove the results.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct RemovalKey(#[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[0-9a-z]{26,64}$")))] String);

impl RemovalKey {
    /// A key from randomness.
    #[must_use]
    pub fn from_random(random: [u8; 32]) -> Self {
        Self(digits(&random))
    }

    /// What the ids hold that it is the key of, after [`TIME_CHARACTERS`] of time, and before a `-` or the end.
    #[must_use]
    pub fn id_part(&self) -> String {
        let digest = Sha256::new().chain_update(b"akidb-embed removal ").chain_update(self.0.as_bytes()).finalize();
        let mut part = digits(&digest);
        part.truncate(DIGEST_CHARACTERS);
        part
    }

    /// Whether it is the key of this id.
    #[must_use]
    pub fn proves(&self, id: &JobId) -> bool {
        let rest = id.as_str().get(TIME_CHARACTERS..).and_then(|rest| rest.strip_prefix(&self.id_part()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// Five bits a character, those that are left over dropped.
fn digits(bytes: &[u8]) -> String {
    let bit = |n: usize| usize::from(bytes[n / 8] >> (7 - n % 8) & 1);
    let digit = |place: usize| (0..5).fold(0, |value, n| value << 1 | bit(place * 5 + n));
    (0..bytes.len() * 8 / 5).map(|place| char::from(DIGITS[digit(place)])).collect()
}

impl TryFrom<String> for RemovalKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        match KEY_CHARACTERS.contains(&text.len()) && text.chars().all(is_good) {
            true => Ok(Self(text)),
            // Not the text itself: it may be a key that was mistyped.
            false => Err("a key has 26 to 64 characters of a-z and 0-9".to_owned()),
        }
    }
}

impl From<RemovalKey> for String {
    fn from(key: RemovalKey) -> Self {
        key.0
    }
}

impl fmt::Debug for RemovalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemovalKey(***)")
    }
}

/// Asks to remove the results of jobs. Published on [`crate::subjects::remove`], answered by a worker with [`Removed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// What proves that all of the ids are those of whoever asks.
    pub key: RemovalKey,
    /// The jobs, up to [`MAX_REMOVALS`]. None: it is only asked how full the stream of results is.
    #[cfg_attr(feature = "schema", schemars(length(max = 256)))]
    pub ids: Vec<JobId>,
}

/// What became of a [`Removal`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Removed {
    /// Results that were there and are gone. Of the others there was none.
    #[serde(default)]
    pub removed: u64,
    /// Jobs whose results could not be removed, and may still be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<JobId>,
    /// Why not, for a person. Without anything left, the request was refused as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How full the stream of results is, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<StreamFill>,
}

/// How full a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct StreamFill {
    /// Messages in it, everybody's.
    pub messages: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may hold. Left out: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Milliseconds for which messages are kept. Left out: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
}

impl Removal {
    /// Asks for nothing but how full the stream of results is. It proves nothing, and need not.
    #[must_use]
    pub fn none() -> Self {
        Self { key: RemovalKey::from_random([0; 32]), ids: Vec::new() }
    }

    /// Checks what the types cannot say. One id that is not proved, and nothing is removed.
    ///
    /// # Errors
    /// [`crate::ErrorCode::InvalidRequest`], naming the field and the fix.
    pub fn validate(&self) -> Result<(), WireError> {
        if self.ids.len() > MAX_REMOVALS {
            let message = format!("ids: {} in one request; send up to {MAX_REMOVALS}", self.ids.len());
            return Err(WireError::invalid(message));
        }
        match self.ids.iter().find(|id| !self.key.proves(id)) {
            Some(id) => Err(WireError::invalid(format!(
                "key: it is not the one of job {id}; only results whose ids were made with a key can be removed, by whoever has it"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(key: &RemovalKey, suffix: &str) -> JobId {
        format!("0123456789{}{suffix}", key.id_part()).parse().unwrap()
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = RemovalKey::from_random([7; 32]);
        assert_eq!(format!("{key:?}"), "RemovalKey(***)");
        let error = serde_json::from_str::<RemovalKey>("\"S3CRET\"").unwrap_err().to_string();
        assert!(!error.contains("S3CRET"), "{error}");
    }

    #[test]
    fn what_asks_for_no_more_than_the_room_removes_nothing_and_older_answers_are_read() {
        assert!(Removal::none().validate().is_ok() && Removal::none().ids.is_empty());
        let flood = Removal { ids: vec![id(&Removal::none().key, ""); MAX_REMOVALS + 1], ..Removal::none() };
        assert!(flood.validate().unwrap_err().message.contains("up to 256"));
        let older: Removed = serde_json::from_str(r#"{"removed":1}"#).unwrap();
        assert_eq!(older, Removed { removed: 1, ..Removed::default() });
    }

    proptest! {
        #[test]
        fn a_key_proves_its_own_ids_and_no_others(a: [u8; 32], b: [u8; 32], n: u64) {
            let (one, other) = (RemovalKey::from_random(a), RemovalKey::from_random(b));
            for suffix in [String::new(), format!("-{n}"), format!("-{n}-r1")] {
                prop_assert!(one.proves(&id(&one, &suffix)));
                prop_assert_eq!(other.proves(&id(&one, &suffix)), a == b);
            }
            // Another backfill's id, that begins alike.
            prop_assert!(!one.proves(&id(&one, "x-0")));
            let read: RemovalKey = serde_json::from_value(serde_json::to_value(&one).unwrap()).unwrap();
            prop_assert_eq!(read, one);
        }

        #[test]
        fn no_id_is_proved_by_chance(text in "[A-Za-z0-9_-]{1,128}", random: [u8; 32]) {
            prop_assert!(!RemovalKey::from_random(random).proves(&text.parse().unwrap()));
        }

        #[test]
        fn one_foreign_id_and_nothing_is_removed(mine: [u8; 32], theirs: [u8; 32], at in 0usize..4) {
            prop_assume!(mine != theirs);
            let (mine, theirs) = (RemovalKey::from_random(mine), RemovalKey::from_random(theirs));
            let mut ids: Vec<JobId> = (0..4).map(|n| id(&mine, &format!("-{n}"))).collect();
            let removal = Removal { key: mine, ids: ids.clone() };
            prop_assert!(removal.validate().is_ok());
            ids[at] = id(&theirs, "-0");
            let removal = Removal { ids, ..removal };
            prop_assert!(removal.validate().is_err());
        }
    }
}
