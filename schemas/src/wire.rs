//! The two encodings of every message, told apart by the first byte.
//!
//! What decodes is `#[inline]`: it is compiled for whoever calls it, and a client, which reads outcomes alone, does not wait for the rest.

use bytes::Bytes;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    EmbedRequest, Outcome, VariantStats, WireError,
    removal::{Removal, Removed},
    shadow::{ShadowStats, ShadowTexts, ShadowWish},
};

/// Deepest nesting of a MessagePack message, the bound that JSON has. What is passed over is followed as well, and the library's own bound, 1024, is
/// more than the stack of a thread can bear.
const MAX_DEPTH: usize = 128;

/// The encoding of a message. An answer uses the encoding of its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object.
    Json,
    /// A MessagePack map with named fields.
    #[default]
    MessagePack,
}

impl Format {
    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/msgpack",
        }
    }

    /// Reads a `Content-Type`. `None` if it is neither of ours.
    #[must_use]
    pub fn from_content_type(value: &str) -> Option<Self> {
        match value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => Some(Self::Json),
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => Some(Self::MessagePack),
            _ => None,
        }
    }

    /// Tells the encodings apart by the first byte: a JSON object begins with `{` or white space, a MessagePack map with
    /// 0x80 to 0x8f, 0xde or 0xdf.
    #[must_use]
    pub fn sniff(payload: &[u8]) -> Option<Self> {
        match payload.first()? {
            b'{' | b' ' | b'\t' | b'\r' | b'\n' => Some(Self::Json),
            0x80..=0x8f | 0xde | 0xdf => Some(Self::MessagePack),
            _ => None,
        }
    }

    /// Encodes a message.
    ///
    /// # Panics
    /// Never for the types of this crate: their maps have string keys and their lengths are known.
    pub fn encode<T: Serialize>(self, message: &T) -> Bytes {
        match self {
            Self::Json => serde_json::to_vec(message).expect("wire types have string keys").into(),
            Self::MessagePack => rmp_serde::to_vec_named(message).expect("wire types have known lengths").into(),
        }
    }
}

/// A message that could not be read, and the encoding in which to say so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct DecodeError {
    /// What is wrong.
    pub error: WireError,
    /// The encoding for the answer: the message's own if it could be told, else JSON.
    pub format: Format,
}

/// Reads and validates a request.
///
/// # Errors
/// [`crate::ErrorCode::InvalidRequest`], naming the field and the fix.
#[inline]
pub fn decode_request(payload: &[u8], content_type: Option<&str>) -> Result<(EmbedRequest, Format), DecodeError> {
    let format = detect(payload, content_type)?;
    let request: EmbedRequest = decode(payload, format)?;
    request.validate(format).map_err(|error| DecodeError { error, format })?;
    Ok((request, format))
}

/// The id of a request that cannot be read as a whole, if that much of it can: there its failure is stored, for whoever waits.
#[must_use]
#[inline]
pub fn readable_id(payload: &[u8], content_type: Option<&str>) -> Option<crate::JobId> {
    #[derive(Deserialize)]
    struct IdAlone {
        id: crate::JobId,
    }
    let format = detect(payload, content_type).ok()?;
    decode::<IdAlone>(payload, format).ok().map(|request| request.id)
}

/// Reads an answer.
///
/// # Errors
/// If the payload is not an outcome.
#[inline]
pub fn decode_outcome(payload: &[u8]) -> Result<Outcome, DecodeError> {
    decode(payload, detect(payload, None)?)
}

/// Reads and validates a window of variant statistics.
///
/// # Errors
/// [`crate::ErrorCode::InvalidRequest`], naming the field.
#[inline]
pub fn decode_stats(payload: &[u8]) -> Result<VariantStats, DecodeError> {
    let format = detect(payload, None)?;
    let stats: VariantStats = decode(payload, format)?;
    stats.validate().map_err(|error| DecodeError { error, format })?;
    Ok(stats)
}

/// Reads and validates what is to be removed.
///
/// # Errors
/// As [`decode_stats`].
pub fn decode_removal(payload: &[u8]) -> Result<Removal, DecodeError> {
    let format = detect(payload, None)?;
    let removal: Removal = decode(payload, format)?;
    removal.validate().map_err(|error| DecodeError { error, format })?;
    Ok(removal)
}

/// Reads what became of a removal.
///
/// # Errors
/// As [`decode_stats`].
pub fn decode_removed(payload: &[u8]) -> Result<Removed, DecodeError> {
    decode(payload, detect(payload, None)?)
}

/// Reads and validates what is to be shadowed.
///
/// # Errors
/// As [`decode_stats`].
#[inline]
pub fn decode_shadow_wish(payload: &[u8]) -> Result<ShadowWish, DecodeError> {
    let format = detect(payload, None)?;
    let wish: ShadowWish = decode(payload, format)?;
    wish.validate().map_err(|error| DecodeError { error, format })?;
    Ok(wish)
}

/// Reads texts that were served.
///
/// # Errors
/// As [`decode_stats`].
#[inline]
pub fn decode_shadow_texts(payload: &[u8]) -> Result<ShadowTexts, DecodeError> {
    let format = detect(payload, None)?;
    let texts: ShadowTexts = decode(payload, format)?;
    texts.validate().map_err(|error| DecodeError { error, format })?;
    Ok(texts)
}

/// Reads what a candidate's worker has found.
///
/// # Errors
/// As [`decode_stats`].
#[inline]
pub fn decode_shadow_stats(payload: &[u8]) -> Result<ShadowStats, DecodeError> {
    decode(payload, detect(payload, None)?)
}

fn detect(payload: &[u8], content_type: Option<&str>) -> Result<Format, DecodeError> {
    let declared = content_type.and_then(Format::from_content_type);
    let fail = |message: String| {
        Err(DecodeError { error: WireError::invalid(message), format: declared.unwrap_or(Format::Json) })
    };
    match (Format::sniff(payload), declared) {
        (None, _) if payload.is_empty() => {
            fail(r#"the message is empty: send a JSON object such as {"texts":["hello"]} or a MessagePack map"#.into())
        }
        (None, _) => fail(format!(
            "the message is neither a JSON object nor a MessagePack map: it begins with byte 0x{:02x}",
            payload[0]
        )),
        (Some(found), Some(declared)) if found != declared => fail(format!(
            "{}: says {}, but the message is {}",
            crate::headers::CONTENT_TYPE,
            declared.content_type(),
            found.content_type()
        )),
        (Some(found), _) => Ok(found),
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8], format: Format) -> Result<T, DecodeError> {
    let result = match format {
        Format::Json => {
            let mut deserializer = serde_json::Deserializer::from_slice(payload);
            serde_path_to_error::deserialize(&mut deserializer)
                .map_err(explain)
                .and_then(|value| deserializer.end().map(|()| value).map_err(|e| format!("broken JSON: {e}")))
        }
        Format::MessagePack => {
            let mut rest = payload;
            let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
            deserializer.set_max_depth(MAX_DEPTH);
            let value = serde_path_to_error::deserialize(&mut deserializer).map_err(explain);
            drop(deserializer);
            value.and_then(|value| match rest.len() {
                0 => Ok(value),
                n => Err(format!("broken MessagePack: {n} bytes after the end of the map")),
            })
        }
    };
    result.map_err(|message| DecodeError { error: WireError::invalid(message), format })
}

/// `texts[1]: invalid type: integer ...` with a suggestion where a field's name is misspelt.
fn explain<E: std::fmt::Display>(error: serde_path_to_error::Error<E>) -> String {
    let path = error.path().to_string();
    let message = error.inner().to_string();
    let suggestion = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'))
        .and_then(|(unknown, rest)| {
            let known = rest.split('`').skip(1).step_by(2);
            known.map(|k| (strsim::jaro_winkler(k, unknown), k)).max_by(|a, b| a.0.total_cmp(&b.0))
        })
        .filter(|(similarity, _)| *similarity > 0.7)
        .map(|(_, known)| format!(" (did you mean `{known}`?)"))
        .unwrap_or_default();
    match path.as_str() {
        "." | "?" => format!("{message}{suggestion}"),
        path => format!("{path}: {message}{suggestion}"),
    }
}
