//! What a vector is of, as one digest: its name within its embedding space. Pure.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

/// What stood before a text. A prompt's name is not enough: another version may give another text to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// What the model has as its default, which the space stands for.
    Default,
    /// This text; none at all, if it is empty.
    Text(String),
}

/// The SHA-256 of `v1`, the prompt, the number of dimensions and the text, with a line feed between each two. The prompt is empty where it is the
/// model's default, else `=`, the number of its bytes, `:`, and its text. The dimensions are empty where all are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

/// Makes the digests of texts: what is common to them is read once.
#[derive(Debug, Clone)]
pub(crate) struct Digests(Sha256);

impl Digests {
    pub(crate) fn new(prompt: &Prompt, dimensions: Option<u32>) -> Self {
        let prompt = match prompt {
            Prompt::Default => String::new(),
            Prompt::Text(text) => format!("={}:{text}", text.len()),
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
        let plain = Digests::new(&Prompt::Default, None).of("hello world");
        assert_eq!(plain.to_string(), "ae02e7a2d23b8b4a0289849542213b8dd5866edda1dae501877d0bbdb8ae8a38");
        assert_eq!(plain.to_string().parse(), Ok(plain));
        // printf 'v1\n=7:query: \n128\nhello world' | sha256sum
        let other = Digests::new(&Prompt::Text("query: ".into()), Some(128)).of("hello world");
        assert_eq!(other.to_string(), "de658dd86b50b2befed7d3cbc9374bb787c1f9647554aac3ea7741e6e5743902");
        for wrong in ["", "ab", &"g".repeat(64), &plain.to_string().to_uppercase(), &format!("{plain}0")] {
            assert_eq!(wrong.parse::<Digest>(), Err(NoDigest), "{wrong}");
        }
    }

    #[test]
    fn whatever_changes_a_vector_changes_its_digest() {
        let prompts =
            [Prompt::Default, Prompt::Text(String::new()), Prompt::Text("q\n".into()), Prompt::Text("q".into())];
        let mut all = HashSet::new();
        for prompt in &prompts {
            for dimensions in [None, Some(1), Some(12)] {
                let digests = Digests::new(prompt, dimensions);
                all.extend(["", "a", "\na", "1\na", "=0:\n\na"].map(|text| digests.of(text)));
            }
        }
        assert_eq!(all.len(), 4 * 3 * 5);
    }
}
