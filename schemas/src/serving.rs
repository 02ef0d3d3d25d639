//! What workers are to serve, and what they say that they serve.

use std::collections::BTreeMap;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Precision, Slug, WireError};

/// Key-value bucket of the variants that are to be served, beside those of the workers' configuration. Watched by all
/// workers. The key is `<model>.<variant>`, the value a [`DesiredVariant`] in JSON.
pub const MODELS_BUCKET: &str = "embed_models";

/// What a version is called that follows the registry's pointer.
pub const CURRENT_VERSION: &str = "current";

/// `embed.control.refresh`: asks all workers to look at the registry now. The payload is the model's slug, or empty for
/// all models. Core NATS, no answer.
pub const REFRESH_SUBJECT: &str = "embed.control.refresh";

/// A caller whose variant cannot be loaded is told to come back after this.
const RETRY_UNAVAILABLE_MS: u64 = 5_000;

/// The key of a variant in [`MODELS_BUCKET`].
#[must_use]
pub fn models_key(model: &Slug, variant: &Slug) -> String {
    format!("{model}.{variant}")
}

/// Reads a key of [`MODELS_BUCKET`] back.
#[must_use]
pub fn parse_models_key(key: &str) -> Option<(Slug, Slug)> {
    let (model, variant) = key.split_once('.')?;
    Some((model.parse().ok()?, variant.parse().ok()?))
}

/// A variant that workers are to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DesiredVariant {
    /// A version of the registry, or `current`.
    #[serde(default = "current")]
    pub version: String,
    /// The precision. The version's first artefact if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Whether this is the variant that answers on subjects that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// Whether it stays loaded whatever else needs memory.
    #[serde(default)]
    pub pinned: bool,
    /// Who wants it.
    #[serde(default)]
    pub who: String,
    /// Since when, RFC 3339.
    #[serde(default)]
    pub when: String,
}

fn current() -> String {
    CURRENT_VERSION.to_owned()
}

/// The part of a micro service's metadata in which a worker says what it serves: for each variant, under
/// `variant.<model>.<variant>`, a [`VariantStatus`] in JSON.
pub const STATUS_PREFIX: &str = "variant.";

/// What a worker says of one variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct VariantStatus {
    /// Whether it can answer at once.
    pub state: VariantState,
    /// Whether it answers on subjects that name no variant.
    pub default: bool,
    /// What it is to serve: a version, or `current`.
    pub wanted: String,
    /// What it serves. Left out while nothing is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveVersion>,
    /// The version before, if it is kept warm for a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The last version that could not go live, if none has since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedVersion>,
}

/// Whether a variant can answer at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum VariantState {
    /// A version is loaded.
    Live,
    /// The first version is being loaded.
    Loading,
    /// It is loaded when somebody asks for it.
    Cold,
    /// Nothing can be loaded: see [`VariantStatus::failed`].
    Failed,
}

impl VariantState {
    /// The state's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Loading => "loading",
            Self::Cold => "cold",
            Self::Failed => "failed",
        }
    }
}

/// A version that is being served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct LiveVersion {
    /// The version.
    pub version: String,
    /// Its precision.
    pub precision: Precision,
    /// The execution provider that it runs on.
    pub provider: String,
    /// Its embedding space.
    pub space: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// The devices that it runs on, by number. Left out on the CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<u32>,
    /// Providers that were to be tried before this one, and why they do not run it. Left out if it runs where it should.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedProvider>,
    /// Nodes of the graph that another provider runs. Left out if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes_elsewhere: Option<u32>,
    /// The longest run while online calls come in, which a call may have to wait for, in microseconds. Left out by workers before this was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online_run_us: Option<u64>,
}

/// An execution provider that does not run a variant although it was to be tried first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct SkippedProvider {
    /// The provider.
    pub provider: String,
    /// Why not, for a person.
    pub reason: String,
}

/// A version that could not go live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct FailedVersion {
    /// The version.
    pub version: String,
    /// Why.
    pub reason: String,
    /// When, RFC 3339.
    pub when: String,
}

impl FailedVersion {
    /// What a call hears that nothing can answer.
    #[must_use]
    pub fn unavailable(&self, model: &Slug, variant: &Slug) -> WireError {
        let Self { version, reason, .. } = self;
        let message = format!("variant {variant} of model {model} cannot be served now: version {version}: {reason}");
        let retry_after_ms = Some(RETRY_UNAVAILABLE_MS);
        WireError { retry_after_ms, ..WireError::new(ErrorCode::ModelUnavailable, message) }
    }
}

/// Variants of one worker that are read.
pub(crate) const MOST_VARIANTS: usize = 1024;
/// Characters of a reason that are read, and of any other text.
const MOST_REASON: usize = 4096;
const MOST_TEXT: usize = 256;

/// What somebody says, cut to a length, and without what would move the cursor of whoever prints it.
fn cut(text: &mut String, most: usize) {
    *text = text.chars().take(most).map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
}

/// As long as names are.
pub(crate) fn cut_name(text: &mut String) {
    cut(text, MOST_TEXT);
}

/// As long as reasons are.
pub(crate) fn cut_reason(text: &mut String) {
    cut(text, MOST_REASON);
}

impl VariantStatus {
    /// The texts in it, cut to lengths that names and reasons have, and without what would move the cursor of whoever prints them.
    pub(crate) fn clean(mut self) -> Self {
        cut_name(&mut self.wanted);
        self.previous.iter_mut().for_each(cut_name);
        if let Some(live) = &mut self.live {
            for name in [&mut live.version, &mut live.provider, &mut live.space, &mut live.since] {
                cut_name(name);
            }
            live.devices.truncate(MOST_TEXT);
            live.skipped.truncate(MOST_TEXT);
            for SkippedProvider { provider, reason } in &mut live.skipped {
                cut_name(provider);
                cut_reason(reason);
            }
        }
        if let Some(failed) = &mut self.failed {
            cut_name(&mut failed.version);
            cut_name(&mut failed.when);
            cut_reason(&mut failed.reason);
        }
        self
    }
}

/// Reads what a worker says from its micro service's metadata. What cannot be read is from another release and left out. Whoever can answer in
/// a worker's place can say anything, so texts are cut, and their control characters replaced.
#[must_use]
pub fn statuses<'a>(
    metadata: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> BTreeMap<(Slug, Slug), VariantStatus> {
    let read = |(key, value): (&String, &String)| {
        let variant = parse_models_key(key.strip_prefix(STATUS_PREFIX)?)?;
        Some((variant, serde_json::from_str::<VariantStatus>(value).ok()?.clean()))
    };
    metadata.into_iter().filter_map(read).take(MOST_VARIANTS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_desired_variant_may_be_as_short_as_an_empty_object() {
        let desired: DesiredVariant = serde_json::from_str("{}").unwrap();
        assert_eq!(desired.version, "current");
        assert!(serde_json::from_str::<DesiredVariant>(r#"{"versoin":"v1"}"#).is_err());
    }

    #[test]
    fn what_is_said_in_a_workers_place_is_bounded_and_moves_no_cursor() {
        let long = "x".repeat(100_000);
        let status = serde_json::json!({
            "state": "failed", "default": false, "wanted": long, "previous": "\u{1b}[2Jv1",
            "failed": {"version": "v2", "reason": format!("no\n\r{long}"), "when": ""},
        });
        let metadata: BTreeMap<String, String> =
            (0..2_000).map(|n| (format!("variant.m.v{n}"), status.to_string())).collect();
        let read = statuses(&metadata);
        assert_eq!(read.len(), MOST_VARIANTS);
        let (_, one) = read.into_iter().next().unwrap();
        let (wanted, reason) = (one.wanted, one.failed.unwrap().reason);
        assert_eq!((wanted.len(), one.previous.as_deref()), (MOST_TEXT, Some("\u{fffd}[2Jv1")));
        assert!(reason.chars().count() == MOST_REASON && reason.starts_with("no\n\u{fffd}x"), "{reason:.20}");
    }

    #[test]
    fn a_status_reads_back_from_the_metadata() {
        let status = VariantStatus {
            state: VariantState::Cold,
            default: true,
            wanted: "current".to_owned(),
            live: None,
            previous: None,
            failed: None,
        };
        let entry = ("variant.m.v".to_owned(), serde_json::to_string(&status).unwrap());
        let other = ("other".to_owned(), "x".to_owned());
        let read = statuses([&entry, &other].map(|(k, v)| (k, v)));
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [(("m".parse().unwrap(), "v".parse().unwrap()), status)]);
    }
}
