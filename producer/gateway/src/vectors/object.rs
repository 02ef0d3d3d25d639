//! A vector as it is kept: the SHA-256 of what follows, and an answer with one row, as MessagePack. Pure.

use bytes::Bytes;
use embed_client::{EmbedResult, Encoding, Format, Outcome};
use embed_schemas::{Timing, wire};
use sha2::{Digest as _, Sha256};

use super::digest::Digest;

/// Bytes of the checksum.
const CHECKSUM: usize = 32;

/// A vector that was kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// One row. Its id is the digest.
    pub(crate) result: EmbedResult,
    /// Told from all other objects by this.
    pub(crate) tag: String,
}

/// An object that is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("it is damaged: {0}")]
pub(crate) struct Damaged(&'static str);

/// Writes one row of an answer. `None` for one that is no vector to be kept: an error, or of a text that was cut, which another version may cut
/// elsewhere.
pub(super) fn written(result: &EmbedResult, row: usize, digest: Digest) -> Option<Bytes> {
    let item = result.items.get(row).filter(|item| item.error.is_none() && !item.truncated)?;
    let one = EmbedResult {
        id: digest.to_string().parse().ok()?,
        vectors: Bytes::copy_from_slice(result.row_bytes(row).filter(|_| result.encoding == Encoding::F32)?),
        items: vec![item.clone()],
        timing: Timing::default(),
        model: result.model.clone(),
        variant: result.variant.clone(),
        version: result.version.clone(),
        space: result.space.clone(),
        dim: result.dim,
        encoding: result.encoding,
    };
    let content = Format::MessagePack.encode(&Outcome::Result(one));
    let mut object = Vec::with_capacity(CHECKSUM + content.len());
    object.extend_from_slice(&Sha256::digest(&content));
    object.extend_from_slice(&content);
    Some(object.into())
}

/// Reads what was written of this vector.
pub(super) fn read(object: &[u8], space: &str, digest: Digest) -> Result<Kept, Damaged> {
    let (checksum, content) = object.split_at_checked(CHECKSUM).ok_or(Damaged("it is too short"))?;
    if Sha256::digest(content)[..] != *checksum {
        return Err(Damaged("its checksum is that of something else"));
    }
    let Ok(Outcome::Result(result)) = wire::decode_outcome(content) else {
        return Err(Damaged("it is no answer"));
    };
    let is_it = result.space == space && *result.id.as_str() == *digest.to_string();
    let is_one = result.items.len() == 1 && result.items[0].error.is_none() && result.encoding == Encoding::F32;
    if !is_it || !is_one || result.vectors.len() != result.dim as usize * size_of::<f32>() {
        return Err(Damaged("it is another vector"));
    }
    let tag = checksum[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Kept { result, tag })
}

#[cfg(test)]
mod tests {
    use embed_client::{Item, WireError};

    use super::{
        super::digest::{Digests, Prompt},
        *,
    };

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let [digest, other] = ["a", "b"].map(|text| Digests::new(Prompt::Default, None).of(text));
        let mut vectors = Vec::new();
        Encoding::F32.storage().encode_row(&[0.5, -2.0], &mut vectors);
        Encoding::F32.storage().encode_row(&[1.0, 3.0], &mut vectors);
        let item = |truncated, error| Item { tokens: 3, truncated, error };
        let mut result = EmbedResult {
            id: "some".parse().unwrap(),
            model: "m".parse().unwrap(),
            variant: "v".parse().unwrap(),
            version: "v1".into(),
            space: "s".into(),
            dim: 2,
            encoding: Encoding::F32,
            vectors: vectors.into(),
            items: vec![item(false, None), item(false, None)],
            timing: Timing { infer_us: 7, ..Timing::default() },
        };
        let object = written(&result, 1, digest).unwrap();
        let kept = read(&object, "s", digest).unwrap();
        assert_eq!((kept.result.vector(0).unwrap(), kept.result.items[0].tokens), (vec![1.0, 3.0], 3));
        assert_eq!(written(&result, 1, digest).unwrap(), object, "the same is written of the same");
        assert!(read(&object, "t", digest).is_err() && read(&object, "s", other).is_err());
        for at in 0..object.len() {
            let mut damaged = object.to_vec();
            damaged[at] ^= 1;
            assert!(read(&damaged, "s", digest).is_err() && read(&object[..at], "s", digest).is_err(), "{at}");
        }
        result.items = vec![item(true, None), item(false, Some(WireError::invalid("x")))];
        assert!((0..3).all(|row| written(&result, row, digest).is_none()), "cut, failed, and not there");
    }
}
