//! Slugs: the form in which model and variant names appear in subjects, stream names and registry paths.

use std::{borrow::Borrow, fmt, str::FromStr};

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest slug, in bytes.
pub const MAX_SLUG_LEN: usize = 64;

/// A model or variant name that is safe in a NATS subject token, a stream name and a file name:
/// `[a-z0-9][a-z0-9-]*`, at most [`MAX_SLUG_LEN`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Slug(#[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[a-z0-9][a-z0-9-]{0,63}$")))] String);

/// Why a string is not a slug, or has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlugError {
    /// Nothing of the name is left after removing what a slug cannot hold.
    #[error("the name {0:?} has no letter or digit in [a-z0-9], so it has no slug: choose another name")]
    Empty(String),
    /// Longer than [`MAX_SLUG_LEN`].
    #[error("the slug {0:?} is longer than {MAX_SLUG_LEN} characters: choose a shorter name")]
    TooLong(String),
    /// The string is not in the form of a slug.
    #[error(
        "{0:?} is not a slug ([a-z0-9][a-z0-9-]*, at most {MAX_SLUG_LEN} characters); the slug of that name is {1:?}"
    )]
    NotASlug(String, String),
}

impl Slug {
    /// Makes the slug of any name: lower case, every run of other characters than `[a-z0-9]` becomes one `-`,
    /// none at either end. `bge-small-en-v1.5` becomes `bge-small-en-v1-5`.
    ///
    /// # Errors
    /// If nothing is left, or if the slug is longer than [`MAX_SLUG_LEN`].
    pub fn from_name(name: &str) -> Result<Self, SlugError> {
        let mut slug = String::with_capacity(name.len());
        for c in name.chars() {
            let c = c.to_ascii_lowercase();
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                slug.push(c);
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        if slug.ends_with('-') {
            slug.pop();
        }
        if slug.is_empty() {
            return Err(SlugError::Empty(name.to_owned()));
        }
        if slug.len() > MAX_SLUG_LEN {
            return Err(SlugError::TooLong(slug));
        }
        Ok(Self(slug))
    }

    /// The slug as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_slug(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= MAX_SLUG_LEN && text.bytes().next().is_some_and(byte) && text.bytes().all(|b| byte(b) || b == b'-')
}

impl FromStr for Slug {
    type Err = SlugError;

    fn from_str(text: &str) -> Result<Self, SlugError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Slug {
    type Error = SlugError;

    fn try_from(text: String) -> Result<Self, SlugError> {
        if is_slug(&text) {
            return Ok(Self(text));
        }
        let slug = Self::from_name(&text)?;
        Err(SlugError::NotASlug(text, slug.0))
    }
}

impl From<Slug> for String {
    fn from(slug: Slug) -> Self {
        slug.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Slug {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Slug {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_five_models() {
        for (name, slug) in [
            ("all-MiniLM-L6-v2", "all-minilm-l6-v2"),
            ("bge-small-en-v1.5", "bge-small-en-v1-5"),
            ("UAE-Large-V1", "uae-large-v1"),
            ("bert_base uncased", "bert-base-uncased"),
            ("--x--", "x"),
        ] {
            assert_eq!(Slug::from_name(name).unwrap().as_str(), slug);
        }
    }

    #[test]
    fn refusals_name_the_fix() {
        assert_eq!(Slug::from_name("日本"), Err(SlugError::Empty("日本".into())));
        assert!(matches!(Slug::from_name(&"a".repeat(65)), Err(SlugError::TooLong(_))));
        let error = "A.b".parse::<Slug>().unwrap_err().to_string();
        assert!(error.contains("\"a-b\""), "{error}");
    }

    proptest! {
        #[test]
        fn every_name_gives_a_slug_or_a_reason(name in "\\PC{0,80}") {
            if let Ok(slug) = Slug::from_name(&name) {
                prop_assert_eq!(slug.as_str().parse::<Slug>().unwrap(), slug.clone());
                prop_assert_eq!(Slug::from_name(slug.as_str()).unwrap(), slug);
            }
        }
    }
}
