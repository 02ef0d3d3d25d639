//! What a vector is of, as one digest: its name within its embedding space. Pure.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

/// What stood before a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// What the model has as its default, which the space stands for.
    Default,
    /// Nothing at all.
    Nothing,
}

impl Prompt {
    /// What a request means by this. `None` for a name: another version may give another text to it, and of a list it is not known which version has
    /// made which vector.
    pub(crate) fn of(name: Option<&str>) -> Option<Self> {
        match name {
            None => Some(Self::Default),
            Some("") => Some(Self::Nothing),
            Some(_) => None,
        }
    }
}

/// The SHA-256 of `v1`, the prompt, the number of dimensions and the text, with a line feed between each two. The prompt is empty where it is the
/// model's default, and `=0:` where there is none. The dimensions are empty where all are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

/// Makes the digests of texts: what is common to them is read once.
#[derive(Debug, Clone)]
pub(crate) struct Digests(Sha256);

impl Digests {
    pub(crate) fn new(prompt: Prompt, dimensions: Option<u32>) -> Self {
        let prompt = match prompt {
            Prompt::Default => "",
            Prompt::Nothing => "=0:",
        };
        let dimensions = dimensions.map(|dimensions| dimensions.to_string()).unwrap_or_default();
        Self(Sha256::new_with_prefix(format!("v1\n{prompt}\n{dimensions}\n")))
    }

    pub(crate) fn of(&self, text: &str) -> Digest {
        Digest(self.0.clone().chain_update(text).finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// It is no 64 hexadecimal digits in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoDigest;

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        // One vector has one name: what caches keep is not kept twice.
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(NoDigest);
        }
        let mut digest = [0; 32];
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            let digits = str::from_utf8(digits).map_err(|_| NoDigest)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NoDigest)?;
        }
        Ok(Self(digest))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn digests_are_those_that_anybody_can_make() {
        // printf 'v1\n\n\nhello world' | sha256sum
        let plain = Digests::new(Prompt::Default, None).of("hello world");
        assert_eq!(plain.to_string(), "ae02e7a2d23b8b4a0289849542213b8dd5866edda1dae501877d0bbdb8ae8a38");
        assert_eq!(plain.to_string().parse(), Ok(plain));
        // printf 'v1\n=0:\n128\nhello world' | sha256sum
        let other = Digests::new(Prompt::Nothing, Some(128)).of("hello world");
        assert_eq!(other.to_string(), "0a3023cba2f1b4b8026cf956150c58a702fb8ef9db58ca49a632803bba35e776");
        for wrong in ["", "ab", &"g".repeat(64), &plain.to_string().to_uppercase(), &format!("{plain}0")] {
            assert_eq!(wrong.parse::<Digest>(), Err(NoDigest), "{wrong}");
        }
    }

    #[test]
    fn whatever_changes_a_vector_changes_its_digest() {
        let mut all = HashSet::new();
        for prompt in [Prompt::Default, Prompt::Nothing] {
            for dimensions in [None, Some(1), Some(12)] {
                let digests = Digests::new(prompt, dimensions);
                all.extend(["", "a", "\na", "1\na", "=0:\n\na"].map(|text| digests.of(text)));
            }
        }
        assert_eq!(all.len(), 2 * 3 * 5);
    }

    #[test]
    fn a_prompt_that_has_a_name_is_not_known_by_it() {
        assert_eq!(Prompt::of(None), Some(Prompt::Default));
        assert_eq!(Prompt::of(Some("")), Some(Prompt::Nothing));
        assert_eq!(Prompt::of(Some("query")), None);
    }
}
