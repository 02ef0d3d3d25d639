//! Shadows: texts that one variant has served are given to another as well, and the vectors are compared. Nothing of it reaches a caller.
//!
//! ```text
//! controller ── ShadowWish, again and again ──► all workers                embed.control.shadow
//! a worker of the baseline ── ShadowTexts ────► a worker of the candidate  embed.shadow.<model>.<candidate>
//! a worker of the candidate ── ShadowStats ───► the stream of statistics   embed.stats.<model>.<candidate>.shadow
//! ```
//!
//! A wish holds for as long as it says, and is repeated: a shadow ends by itself when nobody carries it on any more.

use std::collections::BTreeMap;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "schema")]
use crate::EmbedResult;
use crate::{EmbedRequest, ErrorCode, Lane, LatencySketch, MAX_TEXTS, Outcome, Slug, WireError};

/// `embed.control.shadow`: what is to be shadowed, a [`ShadowWish`]. Core NATS, no answer.
pub const SHADOW_SUBJECT: &str = "embed.control.shadow";

/// Most texts of [`ShadowCounts::worst`].
pub const MOST_WORST: usize = 10;
/// Characters of a text that are kept there.
pub const MOST_CHARACTERS: usize = 120;
/// Bytes of a shadow's id, and of a version.
const MAX_NAME: usize = 128;
/// The shortest texts are one length: with fewer tokens than this there is little to tell apart.
const SHORTEST: u32 = 8;
/// Units of a distance in 1: distances are counted in millionths.
const UNITS: f64 = 1e6;

/// A shadow that somebody wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct ShadowWish {
    /// Unlike that of any other shadow.
    pub id: String,
    /// The model.
    pub model: Slug,
    /// The variant that serves the texts.
    pub from: Slug,
    /// The variant that they are given to as well.
    pub to: Slug,
    /// Texts of these lanes.
    pub lanes: Vec<Lane>,
    /// Share of the texts, 0 to 1.
    pub share: f64,
    /// Whether the beginnings of the worst texts may be told. Otherwise only their digests are.
    pub tell_texts: bool,
    /// For so many milliseconds, unless it is said again.
    pub ttl_ms: u64,
}

/// Texts that were served, with their vectors. Published on [`crate::subjects::shadow`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct ShadowTexts {
    /// The shadow's id.
    pub id: String,
    /// How the texts came.
    pub lane: Lane,
    /// The texts, and what was asked of them.
    pub request: EmbedRequest,
    /// What came of them, in 16 bits.
    #[cfg_attr(feature = "schema", schemars(with = "EmbedResult"))]
    pub served: Outcome,
    /// Requests of which the worker had texts to give and dropped them, since its last message.
    #[serde(default)]
    pub dropped: u64,
    /// See [`ShadowWish::tell_texts`].
    #[serde(default)]
    pub tell_texts: bool,
}

/// What a candidate's worker found within a window. Published on [`crate::subjects::shadow_stats`] if there is anything to tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct ShadowStats {
    /// The shadow's id.
    pub id: String,
    /// The model.
    pub model: Slug,
    /// The variant that was compared: the candidate.
    pub variant: Slug,
    /// Its version at the window's end.
    pub version: String,
    /// The worker's id.
    pub worker: String,
    /// Beginning of the window: Unix time in milliseconds.
    pub start_ms: u64,
    /// Length of the window in milliseconds.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub length_ms: u32,
    /// What happened in it.
    #[serde(flatten)]
    pub counts: ShadowCounts,
}

/// What was compared. All of it adds up: over workers and windows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct ShadowCounts {
    /// Requests of which texts were compared.
    pub requests: u64,
    /// Requests of which texts were to be compared and were not, for want of time or room. Nothing is to be concluded from them.
    pub dropped: u64,
    /// The baseline's versions that served the texts, and the number of requests that each served.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, u64>,
    /// By lane and length, in rising order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<ShadowCell>,
    /// Engine time in microseconds of texts that ran alone at the baseline and at the candidate: the baseline's,
    #[serde(default, skip_serializing_if = "LatencySketch::is_empty")]
    pub baseline_us: LatencySketch,
    /// and the candidate's.
    #[serde(default, skip_serializing_if = "LatencySketch::is_empty")]
    pub candidate_us: LatencySketch,
    /// Those with the smallest cosines, smallest first, at most [`MOST_WORST`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worst: Vec<ShadowText>,
}

/// Texts of one lane and length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct ShadowCell {
    /// How they came.
    pub lane: Lane,
    /// Their most tokens, see [`length_of`].
    pub tokens: u32,
    /// How far the two vectors of a text are apart: 1 less their cosine, in millionths, on the grid of latencies.
    #[serde(default, skip_serializing_if = "LatencySketch::is_empty")]
    pub distance: LatencySketch,
    /// Texts that the candidate failed on, by code. The baseline served them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<ErrorCode, u64>,
}

/// A text whose two vectors are far apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct ShadowText {
    /// How it came.
    pub lane: Lane,
    /// Its tokens.
    pub tokens: u32,
    /// The cosine of its vectors.
    pub cosine: f64,
    /// The id of its job or call.
    pub request: String,
    /// The first 16 hexadecimal digits of its SHA-256: whoever has the text can find it.
    pub digest: String,
    /// Its beginning, if that may be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The length under which a text with so many tokens is counted: the most tokens of its kind, a power of two.
#[must_use]
pub fn length_of(tokens: u32) -> u32 {
    tokens.clamp(SHORTEST, 1 << 31).next_power_of_two()
}

/// A length in words, as `length_of` gives it.
#[must_use]
pub fn describe_length(tokens: u32) -> String {
    if tokens <= SHORTEST { format!("up to {tokens} tokens") } else { format!("{} to {tokens} tokens", tokens / 2 + 1) }
}

/// A cosine as a distance, in millionths.
#[must_use]
pub fn distance_of(cosine: f64) -> u64 {
    // The cast saturates, and a cosine that is no number is as far away as can be.
    if cosine.is_nan() { (2.0 * UNITS) as u64 } else { ((1.0 - cosine) * UNITS).round() as u64 }
}

/// A distance in millionths as a cosine.
#[must_use]
pub fn cosine_of(distance: f64) -> f64 {
    1.0 - distance / UNITS
}

impl ShadowWish {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`], naming the field.
    pub fn validate(&self) -> Result<(), WireError> {
        check_name("id", &self.id)?;
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(WireError::invalid(format!("share: {} is not in (0, 1]", self.share)));
        }
        if self.from == self.to {
            return Err(WireError::invalid(format!("to: {} is also the variant that serves the texts", self.to)));
        }
        Ok(())
    }
}

impl ShadowTexts {
    /// Checks what the types cannot say: what is told of them is kept, and adds up.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`], naming the field.
    pub fn validate(&self) -> Result<(), WireError> {
        check_name("id", &self.id)?;
        if self.request.texts.len() > MAX_TEXTS {
            return Err(WireError::invalid(format!(
                "request: {} texts, at most {MAX_TEXTS}",
                self.request.texts.len()
            )));
        }
        match &self.served {
            Outcome::Result(result) => check_name("served.version", &result.version),
            Outcome::Failure(_) => Ok(()),
        }
    }
}

/// Of what is repeated in statistics, nothing is long.
fn check_name(field: &str, name: &str) -> Result<(), WireError> {
    if name.len() > MAX_NAME {
        return Err(WireError::invalid(format!("{field}: has {} bytes, at most {MAX_NAME}", name.len())));
    }
    Ok(())
}

impl ShadowCounts {
    /// The cell of a lane and length.
    pub fn cell(&mut self, lane: Lane, tokens: u32) -> &mut ShadowCell {
        let key = (lane, length_of(tokens));
        let at = match self.cells.binary_search_by_key(&key, |cell| (cell.lane, cell.tokens)) {
            Ok(at) => at,
            Err(at) => {
                let cell =
                    ShadowCell { lane, tokens: key.1, distance: LatencySketch::default(), errors: BTreeMap::new() };
                self.cells.insert(at, cell);
                at
            }
        };
        &mut self.cells[at]
    }

    /// A text's two vectors have this cosine. `text` is asked for if it is one of the worst.
    pub fn compared(&mut self, lane: Lane, tokens: u32, cosine: f64, text: impl FnOnce() -> ShadowText) {
        self.cell(lane, tokens).distance.record(distance_of(cosine));
        if self.worst.len() < MOST_WORST || self.worst.last().is_some_and(|last| cosine < last.cosine) {
            self.worst.push(text());
            self.keep_worst();
        }
    }

    /// The candidate failed on a text that the baseline served.
    pub fn failed(&mut self, lane: Lane, tokens: u32, code: ErrorCode) {
        *self.cell(lane, tokens).errors.entry(code).or_default() += 1;
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests == 0 && self.dropped == 0
    }

    /// Adds all of another window.
    pub fn merge(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.dropped = self.dropped.saturating_add(other.dropped);
        for (version, n) in &other.versions {
            let count = self.versions.entry(version.clone()).or_default();
            *count = count.saturating_add(*n);
        }
        for cell in &other.cells {
            let own = self.cell(cell.lane, cell.tokens);
            own.distance.merge(&cell.distance);
            for (code, n) in &cell.errors {
                let count = own.errors.entry(*code).or_default();
                *count = count.saturating_add(*n);
            }
        }
        self.baseline_us.merge(&other.baseline_us);
        self.candidate_us.merge(&other.candidate_us);
        self.worst.extend(other.worst.iter().cloned());
        self.keep_worst();
    }

    fn keep_worst(&mut self) {
        // By digest as well, so that it does not matter in which order windows are added.
        self.worst.sort_by(|a, b| a.cosine.total_cmp(&b.cosine).then_with(|| a.digest.cmp(&b.digest)));
        self.worst.truncate(MOST_WORST);
    }
}

impl ShadowCell {
    /// Texts that the candidate failed on.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().fold(0, |sum: u64, n| sum.saturating_add(*n))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(lane: Lane, tokens: u32, cosine: f64, n: u64) -> ShadowText {
        ShadowText { lane, tokens, cosine, request: "r".into(), digest: format!("{n:016x}"), text: None }
    }

    fn counts() -> impl Strategy<Value = ShadowCounts> {
        let one = (prop::sample::select(&Lane::ALL[..]), 0u32..700, 0.0..1.0f64, any::<u64>(), any::<bool>());
        prop::collection::vec(one, 0..40).prop_map(|texts| {
            let mut counts = ShadowCounts::default();
            for (lane, tokens, cosine, n, fails) in texts {
                counts.requests += 1;
                match fails {
                    true => counts.failed(lane, tokens, ErrorCode::TextTooLong),
                    false => counts.compared(lane, tokens, cosine, || text(lane, tokens, cosine, n)),
                }
            }
            counts
        })
    }

    fn merged(a: &ShadowCounts, b: &ShadowCounts) -> ShadowCounts {
        let mut sum = a.clone();
        sum.merge(b);
        sum
    }

    #[test]
    fn what_is_repeated_is_short() {
        let wish = |id: String| ShadowWish {
            id,
            model: "m".parse().unwrap(),
            from: "a".parse().unwrap(),
            to: "b".parse().unwrap(),
            lanes: vec![Lane::Rpc],
            share: 0.1,
            tell_texts: false,
            ttl_ms: 1,
        };
        assert_eq!(wish("x".repeat(MAX_NAME)).validate(), Ok(()));
        assert!(wish("x".repeat(MAX_NAME + 1)).validate().unwrap_err().message.starts_with("id: "));
    }

    proptest! {
        #[test]
        fn windows_add_up_in_any_order(a in counts(), b in counts(), c in counts()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            let all = merged(&a, &b);
            let texts = |counts: &ShadowCounts| -> u64 { counts.cells.iter().map(|c| c.distance.count() + c.failed()).sum() };
            prop_assert_eq!(texts(&all), texts(&a) + texts(&b));
            prop_assert!(all.worst.len() <= MOST_WORST && all.worst.is_sorted_by(|a, b| a.cosine <= b.cosine));
        }

        #[test]
        fn a_length_holds_its_tokens(tokens in any::<u32>()) {
            let length = length_of(tokens);
            prop_assert!(length >= tokens.min(1 << 31) && length.is_power_of_two());
            prop_assert!(length == SHORTEST || tokens > length / 2);
        }

        #[test]
        fn a_cosine_comes_back_from_its_distance(cosine in -1.0..1.0f64) {
            let back = cosine_of(distance_of(cosine) as f64);
            prop_assert!((back - cosine).abs() <= 0.5001e-6, "{} {}", cosine, back);
        }
    }

    #[test]
    fn what_is_no_number_is_far_away() {
        assert_eq!(distance_of(f64::NAN), 2_000_000);
        assert_eq!(distance_of(1.000_000_2), 0);
        assert_eq!([1, 8, 9, 16, 129].map(length_of), [8, 8, 16, 16, 256]);
        assert_eq!([8, 16, 256].map(describe_length), ["up to 8 tokens", "9 to 16 tokens", "129 to 256 tokens"]);
    }
}
