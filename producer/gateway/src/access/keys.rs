//! Keys: which there are, what each may, and whose one is that was shown.
//!
//! What is kept of a key is its SHA-256. Keys are made by [`new_key`] of 256 random bits, so nothing can be found out by trying.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use embed_schemas::Slug;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::bucket::{Bucket, PerMinute};

/// What keys of ours begin with, so that programs that look for leaked ones find them.
const PREFIX: &str = "akidb-";
/// Most keys: each is compared with what was shown.
const MOST_KEYS: u32 = 10_000;

/// A shorter one can be found out by trying, and may be the end of another that was cut.
const SHORTEST_KEY: usize = 12;

/// Of a minute's worth, what can wait takes this part at once: more would need a bucket that is nearly full, and one that calls use never is.
const PIECE: PerMinute = 8;

/// The SHA-256 of a key.
pub(crate) type KeyDigest = [u8; 32];

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file, or the environment, says something that cannot be.
    #[error("{of}: {reason}")]
    Content {
        /// The file, or the variable.
        of: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The file of keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    /// The keys.
    #[serde(default)]
    key: Vec<KeyEntry>,
}

/// One key, and what it may.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    sha256: String,
    #[serde(default, deserialize_with = "slugs")]
    models: Option<BTreeSet<Slug>>,
    max_body_bytes: Option<usize>,
    max_inputs: Option<usize>,
    requests_per_minute: Option<PerMinute>,
    tokens_per_minute: Option<PerMinute>,
    #[serde(default)]
    vectors: bool,
}

/// What a key may. What is left out is not bounded beyond what holds for all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KeyLimits {
    /// The models that it may ask, by name or slug.
    pub(crate) models: Option<BTreeSet<Slug>>,
    /// Bytes of a request's body.
    pub(crate) max_body_bytes: Option<usize>,
    /// Texts of one request.
    pub(crate) max_inputs: Option<usize>,
    pub(crate) requests_per_minute: Option<PerMinute>,
    pub(crate) tokens_per_minute: Option<PerMinute>,
    /// Whether its vectors are kept where all keys find them that have this, and it finds theirs.
    pub(crate) vectors: bool,
}

impl KeyEntry {
    fn limits(self) -> KeyLimits {
        KeyLimits {
            models: self.models,
            max_body_bytes: self.max_body_bytes,
            max_inputs: self.max_inputs,
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            vectors: self.vectors,
        }
    }
}

fn slugs<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeSet<Slug>>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let slugs = names.iter().map(|name| Slug::from_name(name)).collect::<Result<_, _>>();
    slugs.map(Some).map_err(serde::de::Error::custom)
}

/// Whoever a key belongs to, with what was used.
#[derive(Debug)]
pub(crate) struct Account {
    /// As it stands in metrics, and in what workers are told.
    pub(crate) name: Arc<str>,
    pub(crate) limits: KeyLimits,
    /// What is left of this minute's requests and tokens. It outlives a change of the file.
    usage: Arc<Mutex<Usage>>,
}

#[derive(Debug, Default)]
struct Usage {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// What of its limits a key has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedUp {
    pub(crate) what: &'static str,
    pub(crate) limit: PerMinute,
    pub(crate) again: Duration,
}

impl Account {
    /// Takes a request from what is left.
    pub(crate) fn take_request(&self, now: Duration) -> Result<(), UsedUp> {
        let Some(limit) = self.limits.requests_per_minute else { return Ok(()) };
        let requests = &mut self.usage.lock().requests;
        let bucket = requests.get_or_insert_with(|| Bucket::full(limit, now));
        bucket.take(1, limit, now).map_err(|again| UsedUp { what: "requests", limit, again })
    }

    /// Takes so many tokens, by estimate, from what is left.
    pub(crate) fn take_tokens(&self, tokens: u64, now: Duration) -> Result<(), UsedUp> {
        let Some(limit) = self.limits.tokens_per_minute else { return Ok(()) };
        let bucket = &mut self.usage.lock().tokens;
        let bucket = bucket.get_or_insert_with(|| Bucket::full(limit, now));
        bucket.take(tokens, limit, now).map_err(|again| UsedUp { what: "tokens", limit, again })
    }

    /// Takes some of these requests and tokens of what can wait: a small part of a minute's worth, and only where half of one stays for calls. How many it
    /// took of both; otherwise, when to come again.
    pub(crate) fn take_spare(&self, requests: u64, tokens: u64, now: Duration) -> Result<[u64; 2], Duration> {
        let piece =
            |amount: u64, limit: Option<PerMinute>| limit.map_or(amount, |limit| amount.min((limit / PIECE).max(1)));
        let requests = piece(requests, self.limits.requests_per_minute);
        let tokens = piece(tokens, self.limits.tokens_per_minute);
        let Usage { requests: request_bucket, tokens: token_bucket } = &mut *self.usage.lock();
        let mut wanted = Vec::new();
        for (limit, bucket, amount) in [
            (self.limits.requests_per_minute, request_bucket, requests),
            (self.limits.tokens_per_minute, token_bucket, tokens),
        ] {
            if let Some(limit) = limit.filter(|_| amount > 0) {
                wanted.push((bucket.get_or_insert_with(|| Bucket::full(limit, now)), amount, limit));
            }
        }
        let waits =
            wanted.iter_mut().filter_map(|(bucket, amount, limit)| bucket.wait_for(*amount, *limit / 2, *limit, now));
        if let Some(longest) = waits.max() {
            return Err(longest);
        }
        for (bucket, amount, limit) in wanted {
            // It was seen to be there.
            let _ = bucket.take(amount, limit, now);
        }
        Ok([requests, tokens])
    }

    /// So many tokens it were indeed.
    pub(crate) fn settle(&self, taken: u64, used: u64) {
        if let (Some(limit), Some(bucket)) = (self.limits.tokens_per_minute, &mut self.usage.lock().tokens) {
            bucket.settle(taken, used, limit);
        }
    }

    /// What is left of this minute's requests and tokens, where they are bounded.
    pub(crate) fn left(&self) -> [Option<u64>; 2] {
        let usage = self.usage.lock();
        let left = |limit: Option<u64>, bucket: &Option<Bucket>| {
            limit.map(|limit| bucket.as_ref().map_or(limit, |bucket| bucket.left().min(limit)))
        };
        [left(self.limits.requests_per_minute, &usage.requests), left(self.limits.tokens_per_minute, &usage.tokens)]
    }
}

/// All keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    digests: Vec<KeyDigest>,
    accounts: Vec<Arc<Account>>,
}

impl Keys {
    /// The account of this name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Account>> {
        self.accounts.iter().find(|account| *account.name == *name).cloned()
    }

    /// Those of a file's text and of the environment's. Whoever has been there before keeps what it has used.
    pub(crate) fn read(
        file: Option<(&Path, &str)>,
        environment: Option<&str>,
        before: &Self,
    ) -> Result<Self, KeysError> {
        let mut entries = Vec::new();
        if let Some((path, text)) = file {
            let content = |reason| KeysError::Content { of: path.display().to_string(), reason };
            // What it quotes of the file may be a key.
            let file: KeyFile = toml::from_str(text).map_err(|error| content(error.message().to_owned()))?;
            for entry in file.key {
                let digest = hexadecimal(&entry.sha256).ok_or_else(|| {
                    content(format!(
                        "key {:?}: sha256 is to be the 64 hexadecimal digits of the key's SHA-256, as `embed gateway --new-key NAME` prints it",
                        entry.name
                    ))
                })?;
                entries.push((entry.name.clone(), digest, entry.limits()));
            }
            if entries.is_empty() {
                return Err(content("there is no [[key]] in it: nobody could ask".to_owned()));
            }
        }
        let of = |reason: &str| KeysError::Content { of: "EMBED_GATEWAY_KEYS".to_owned(), reason: reason.to_owned() };
        let lines = environment.unwrap_or_default().split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
        let before_them = entries.len();
        for entry in lines {
            // What stands there may be the key itself: no message repeats it.
            let (name, key) = entry
                .split_once('=')
                .ok_or_else(|| of("write it as NAME=sha256:HEX or NAME=KEY, separated by commas"))?;
            let digest = match key.trim().strip_prefix("sha256:") {
                Some(hex) => {
                    hexadecimal(hex).ok_or_else(|| of("after sha256: there are to be 64 hexadecimal digits"))?
                }
                // Also what remains of a key that ends in `=` and has no name before it.
                None if key.trim().len() < SHORTEST_KEY => {
                    return Err(of(&format!("a key has at least {SHORTEST_KEY} characters; write it as NAME=KEY")));
                }
                None => digest_of(key.trim().as_bytes()),
            };
            if !is_name(name.trim()) {
                return Err(of("a name has up to 64 letters, digits, `-`, `_` and `.`; write it as NAME=KEY"));
            }
            entries.push((name.trim().to_owned(), digest, KeyLimits::default()));
        }
        if environment.is_some() && entries.len() == before_them {
            return Err(of("there is no key in it: unset it, if everybody may ask"));
        }
        Self::of(entries, before)
    }

    fn of(entries: Vec<(String, KeyDigest, KeyLimits)>, before: &Self) -> Result<Self, KeysError> {
        let content = |reason| KeysError::Content { of: "keys".to_owned(), reason };
        if entries.len() > MOST_KEYS as usize {
            return Err(content(format!("{} keys, at most {MOST_KEYS} are taken", entries.len())));
        }
        let known: HashMap<&str, &Arc<Account>> =
            before.accounts.iter().map(|account| (&*account.name, account)).collect();
        let mut keys = Self::default();
        let (mut names, mut digests) = (BTreeSet::new(), BTreeSet::new());
        for (name, digest, limits) in entries {
            if !is_name(&name) {
                return Err(content(format!("{name:?} is no name: use up to 64 letters, digits, `-`, `_` and `.`")));
            }
            if !names.insert(name.clone()) || !digests.insert(digest) {
                return Err(content(format!("{name:?}: there are two keys of that name, or two names of that key")));
            }
            let usage = known.get(name.as_str()).map(|account| Arc::clone(&account.usage)).unwrap_or_default();
            keys.digests.push(digest);
            keys.accounts.push(Arc::new(Account { name: name.into(), limits, usage }));
        }
        Ok(keys)
    }

    /// Whether there are none, and everybody may ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Whose key this is. It takes the same time whatever was shown: all are compared, and each to its end.
    pub(crate) fn find(&self, shown: &[u8]) -> Option<&Arc<Account>> {
        let shown = digest_of(shown);
        let (mut found, mut place) = (Choice::from(0), 0u32);
        for (index, digest) in (0u32..).zip(&self.digests) {
            let is_it = shown.ct_eq(digest);
            place.conditional_assign(&index, is_it);
            found |= is_it;
        }
        bool::from(found).then(|| self.accounts.get(place as usize)).flatten()
    }
}

fn digest_of(key: &[u8]) -> KeyDigest {
    Sha256::digest(key).into()
}

fn is_name(name: &str) -> bool {
    let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_of_it)
}

fn hexadecimal(text: &str) -> Option<KeyDigest> {
    let mut digest = KeyDigest::default();
    if text.len() != 2 * digest.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// A new key, and the entry of a file for it. The key is nowhere else.
#[must_use]
pub fn new_key(name: &str, random: [u8; 32]) -> (String, String) {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let key = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    let digest: String = digest_of(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let entry = format!("[[key]]\nname = {name:?}\nsha256 = \"{digest}\"\n");
    (key, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, before: &Keys) -> Result<Keys, KeysError> {
        Keys::read(Some((Path::new("keys.toml"), text)), None, before)
    }

    #[test]
    fn a_key_is_found_by_itself_and_by_nothing_that_is_one_bit_off() {
        let (key, entry) = new_key("search", [7; 32]);
        let (other, more) = new_key("other", [8; 32]);
        assert!(!entry.contains(&key));
        let keys = read(&(entry + &more), &Keys::default()).unwrap();
        assert_eq!(&*keys.find(key.as_bytes()).unwrap().name, "search");
        assert_eq!(&*keys.find(other.as_bytes()).unwrap().name, "other");
        for place in 0..key.len() {
            for bit in 0..8 {
                let mut wrong = key.clone().into_bytes();
                wrong[place] ^= 1 << bit;
                assert!(keys.find(&wrong).is_none());
            }
        }
        assert!(keys.find(b"").is_none());
    }

    #[test]
    fn what_was_used_outlives_a_change_of_the_file() {
        let (key, entry) = new_key("search", [7; 32]);
        let with = |limit: u32| format!("{entry}requests_per_minute = {limit}\n");
        let now = Duration::ZERO;
        let first = read(&with(2), &Keys::default()).unwrap();
        let used = |keys: &Keys| keys.find(key.as_bytes()).unwrap().take_request(now).is_ok();
        assert!(used(&first) && used(&first) && !used(&first));
        let second = read(&with(2), &first).unwrap();
        assert!(!used(&second));
        let account = second.find(key.as_bytes()).unwrap();
        assert_eq!(
            account.take_request(now).unwrap_err(),
            UsedUp { what: "requests", limit: 2, again: Duration::from_secs(30) }
        );
        assert_eq!(account.left(), [Some(0), None]);
    }

    #[test]
    fn what_can_wait_leaves_half_of_a_minute_however_much_it_is() {
        let (key, entry) = new_key("search", [7; 32]);
        let keys = read(&(entry + "requests_per_minute = 80\ntokens_per_minute = 8000\n"), &Keys::default()).unwrap();
        let account = keys.find(key.as_bytes()).unwrap();
        let (mut now, mut left) = (Duration::ZERO, [5, 30_000]);
        while left != [0, 0] {
            match account.take_spare(left[0], left[1], now) {
                Ok(taken) => left = std::array::from_fn(|n| left[n] - taken[n]),
                Err(pause) => now += pause,
            }
            assert!(account.left()[0] >= Some(40) && account.left()[1] >= Some(3_999), "{:?}", account.left());
        }
        // Half of a full bucket, and then what comes in.
        let expected = (30_000.0 - 4_000.0) / 8_000.0 * 60.0;
        assert!((now.as_secs_f64() - expected).abs() < 5.0, "{now:?}");
    }

    #[test]
    fn keys_of_the_environment_are_kept_as_their_digests() {
        let keys = Keys::read(None, Some(" a=a-plain-long-key, b=sha256:".to_owned().as_str()), &Keys::default());
        assert!(keys.unwrap_err().to_string().contains("64 hexadecimal digits"));
        let hex: String = digest_of(b"hashed-key").iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = Keys::read(None, Some(&format!("a=a-plain-long-key,\nb=sha256:{hex}")), &Keys::default()).unwrap();
        assert!(!format!("{keys:?}").contains("a-plain-long-key"));
        assert_eq!(&*keys.find(b"a-plain-long-key").unwrap().name, "a");
        assert_eq!(&*keys.find(b"hashed-key").unwrap().name, "b");
        let error = Keys::read(None, Some("secret-without-name"), &Keys::default()).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        // What was meant to ask for keys and has none does not let everybody in. Nor is the end of a key taken for one.
        for (nothing, says) in [("", "no key in it"), (" , ", "no key in it"), ("c2VjcmV0K2tleQ==", "at least 12")] {
            let error = Keys::read(None, Some(nothing), &Keys::default()).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("c2Vj"), "{error}");
        }
        let error = Keys::read(None, Some("c2Vj+K2tleQ=a-plain-long-key"), &Keys::default()).unwrap_err().to_string();
        assert!(!error.contains("c2Vj"), "{error}");
    }

    #[test]
    fn files_that_say_something_else_are_refused_by_name() {
        let (_, entry) = new_key("search", [7; 32]);
        for (text, says) in [
            (entry.replace("search", "a b"), "no name"),
            (format!("{entry}{entry}"), "two keys of that name"),
            (format!("{entry}rate = 3\n"), "unknown field `rate`"),
            (entry.replace("sha256 = \"", "sha256 = \"x"), "64 hexadecimal digits"),
            (String::new(), "no [[key]]"),
            (format!("{entry}models = [\"--\"]\n"), "no slug"),
        ] {
            let error = read(&text, &Keys::default()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
