//! How full the streams of a model's jobs and results are: results go after an age, and workers wait while there is no room for another.

use std::time::Duration;

use embed_schemas::{Slug, removal::StreamFill, streams};
use serde_json::Value;

use super::Client;
use crate::{
    Error,
    nats::{api, api::ApiError},
};

/// For one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a result takes in its stream beside its vectors, about: names, subject, times.
pub const RESULT_BYTES: usize = 512;
/// Bytes that it takes for what is said of one text, about.
const ITEM_BYTES: u64 = 24;
/// Percent of its bytes from which on a stream is worth a warning.
const NEARLY_FULL: u64 = 80;

/// A stream, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fill {
    /// Its name.
    pub stream: String,
    /// Messages in it.
    pub messages: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may hold. `None`: no limit.
    pub max_bytes: Option<u64>,
    /// How long messages are kept. `None`: for ever.
    pub max_age: Option<Duration>,
}

/// A stream, as its server tells of it, with what is oldest in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamState {
    /// How full it is.
    pub fill: Fill,
    /// When its oldest message was stored, RFC 3339, by the server's clock. `None`: it is empty.
    pub oldest: Option<String>,
    /// The sequence of its last message; 0 if there never was one.
    pub last: u64,
}

impl Client {
    /// Looks at the stream of a model's results.
    ///
    /// # Errors
    /// [`Error::Nats`] if the server does not say: there is no such stream; [`Error::Rejected`] if it may not be asked.
    pub async fn results_fill(&self, model: &Slug) -> Result<Fill, Error> {
        self.fill(streams::results_stream(model)).await
    }

    /// Looks at the stream of a model's jobs.
    ///
    /// # Errors
    /// As [`Client::results_fill`].
    pub async fn jobs_fill(&self, model: &Slug) -> Result<Fill, Error> {
        self.fill(streams::jobs_stream(model)).await
    }

    async fn fill(&self, stream: String) -> Result<Fill, Error> {
        Ok(self.stream_state(stream).await?.fill)
    }

    /// Looks at a stream, by its name.
    ///
    /// # Errors
    /// As [`Client::results_fill`].
    pub async fn stream_state(&self, stream: String) -> Result<StreamState, Error> {
        let info = api::call(&self.nats, &format!("STREAM.INFO.{stream}"), &Value::Null, LOOK_TIMEOUT).await;
        let info = info.map_err(|error| {
            let what = format!("cannot look at the stream {stream}");
            match error {
                // It may not be asked, now or later.
                ApiError::Refused { code: 0, description } => Error::Rejected { what, reason: description },
                error => Error::nats(what, error),
            }
        })?;
        let state = &info["state"];
        let fill = Fill::read(stream, &info);
        // Of an empty stream it is year 1.
        let oldest = state["first_ts"].as_str().filter(|_| fill.messages > 0).map(str::to_owned);
        Ok(StreamState { oldest, last: state["last_seq"].as_u64().unwrap_or_default(), fill })
    }
}

impl Fill {
    fn read(stream: String, info: &Value) -> Self {
        // The server writes -1 for no limit of bytes, and 0 for no limit of age.
        Self {
            stream,
            messages: info["state"]["messages"].as_u64().unwrap_or_default(),
            bytes: info["state"]["bytes"].as_u64().unwrap_or_default(),
            max_bytes: info["config"]["max_bytes"].as_u64(),
            max_age: info["config"]["max_age"].as_u64().filter(|age| *age > 0).map(Duration::from_nanos),
        }
    }

    /// What a worker says of a stream.
    pub(crate) fn said(stream: String, said: StreamFill) -> Self {
        let StreamFill { messages, bytes, max_bytes, max_age_ms } = said;
        Self { stream, messages, bytes, max_bytes, max_age: max_age_ms.map(Duration::from_millis) }
    }

    /// How many results of so many texts fit in all, about, with vectors of this dimension in `f32`. `None`: any number.
    #[must_use]
    pub fn room_for(&self, dimension: u64, texts: u64) -> Option<u64> {
        let one = texts.saturating_mul(dimension.saturating_mul(4).saturating_add(ITEM_BYTES));
        self.max_bytes.map(|limit| limit / one.saturating_add(RESULT_BYTES as u64))
    }

    /// What is to be said of a stream that is nearly full.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Self { stream, bytes, max_bytes, max_age, .. } = self;
        let limit = max_bytes.filter(|limit| bytes.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL))?;
        let percent = bytes.saturating_mul(100) / limit.max(1);
        let until =
            max_age.map_or(String::new(), |age| format!(", or until they are {} old", humantime::format_duration(age)));
        Some(format!(
            "the stream {stream} is {percent} % full ({bytes} of {limit} bytes), and when it is full, workers wait. Results stay until they are \
             removed{until}: raise its limit with `embed init --results-max-bytes`, or purge what nobody needs"
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stream_that_is_nearly_full_is_worth_a_warning() {
        let warning = |bytes: u64, limit: i64| {
            let info =
                json!({"config": {"max_bytes": limit, "max_age": 3_600_000_000_000_u64}, "state": {"bytes": bytes}});
            Fill::read("S".into(), &info).warning()
        };
        assert_eq!((warning(799, 1000), warning(800, -1)), (None, None));
        let text = warning(800, 1000).unwrap();
        assert!(
            text.contains("S is 80 % full (800 of 1000 bytes)") && text.contains("until they are 1h old"),
            "{text}"
        );
    }
}
