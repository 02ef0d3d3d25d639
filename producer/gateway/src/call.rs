//! From texts to a worker's answer: what is taken from the caller's limits, the call, and what is said of it.

use std::time::Duration;

use axum::http::{HeaderMap as HttpHeaders, HeaderName, HeaderValue, StatusCode};
use embed_client::{CallOptions, EmbedRequest, EmbedResult, HeaderMap, Retry};
use embed_schemas::{headers, trace};

use crate::{
    access::{Caller, estimate},
    error::ApiError,
    gateway::Gateway,
    metrics,
    models::Target,
    request_id::RequestId,
    vectors::Prompt,
};

/// Names the variant that is to answer.
pub(crate) const PINNED: HeaderName = HeaderName::from_static("x-model-version");
/// Names the only embedding space whose vectors are of use; tells the space of an answer.
pub(crate) const SPACE: HeaderName = HeaderName::from_static("x-embed-space");
/// How many milliseconds the answer may take, if that is less than the gateway allows.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("x-embed-timeout-ms");
/// Which model answered.
pub(crate) const MODEL: HeaderName = HeaderName::from_static("x-embed-model");
/// Which variant answered.
pub(crate) const VARIANT: HeaderName = HeaderName::from_static("x-embed-variant");
/// Which version of the model answered.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-embed-version");

/// Texts of one message; see [`embed_client`].
const TEXTS_PER_CALL: usize = 64;
/// How often a call of one message is made again because the worker that took it is stopping.
const OTHERS: u32 = 5;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    /// The name of the model, as the caller has it.
    pub(crate) model: Option<String>,
    pub(crate) texts: Vec<String>,
    pub(crate) prompt: Option<String>,
    pub(crate) truncate: bool,
    pub(crate) dimensions: Option<u32>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Every text has a vector.
    pub(crate) result: EmbedResult,
    /// The model's name, as the caller has it.
    pub(crate) model: String,
    /// Tokens of all texts.
    pub(crate) tokens: u64,
    caller: Caller,
}

impl Answer {
    /// Says which model, variant, version and space answered, and what is left of the caller's limits.
    pub(crate) fn tell(&self, headers: &mut HttpHeaders) {
        tell_source(&self.result, headers);
        self.caller.tell_limits(headers);
    }
}

/// Says which model, variant, version and space made vectors.
pub(crate) fn tell_source(result: &EmbedResult, headers: &mut HttpHeaders) {
    let EmbedResult { model, variant, version, space, .. } = result;
    for (name, value) in
        [(MODEL, model.as_str()), (VARIANT, variant.as_str()), (VERSION, version.as_str()), (SPACE, space.as_str())]
    {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

/// Asks a worker, on behalf of a caller whose request had these headers.
///
/// # Errors
/// What is wrong with the question, or why there is no answer.
pub(crate) async fn embed(
    gateway: &Gateway,
    caller: &Caller,
    id: &RequestId,
    headers: &HttpHeaders,
    ask: Ask,
) -> Result<Answer, ApiError> {
    let bounds = &gateway.settings().bounds;
    let Ask { model, texts, prompt, truncate, dimensions } = ask;
    let most = caller.max_inputs(bounds);
    if texts.is_empty() {
        return Err(ApiError::invalid("input", format!("input: there is no text in it; send 1 to {most}")));
    }
    if texts.len() > most {
        let message = format!("input: {} texts, at most {most} are taken in one request; send several", texts.len());
        return Err(ApiError::invalid("input", message));
    }
    if dimensions == Some(0) {
        return Err(ApiError::invalid(
            "dimensions",
            "dimensions: must be at least 1; leave it out for the model's own",
        ));
    }
    let options = options(bounds.timeout_for(texts.len()), caller, headers, texts.len())?;
    gateway.link().check()?;
    let pinned = text_of(headers, &PINNED)?;
    let Target { model: slug, variant } = gateway.models().find(caller, model.as_deref(), pinned).await?;
    let options = options.variant(variant);
    let _place = gateway.room().enter(caller, texts.len())?;
    let charge = caller.take(estimate(&texts))?;
    let count = texts.len();
    let request = EmbedRequest { id: Some(id.0.clone()), prompt, truncate, dimensions, ..EmbedRequest::new(texts) };
    let result = tokio::select! {
        result = again(gateway, caller, &slug, request, &options) => result,
        () = gateway.link().lost() => Err(ApiError::disconnected()),
    };
    let result = match result {
        Ok(result) => result,
        Err(error) => {
            // What is refused costs nothing. What comes too late may have been computed.
            if error.status != StatusCode::GATEWAY_TIMEOUT {
                charge.settle(0);
            }
            return Err(error);
        }
    };
    let tokens = result.items.iter().map(|item| u64::from(item.tokens)).sum();
    charge.settle(tokens);
    metrics::embedded(&caller.name(), slug.as_str(), count, tokens, &result.timing);
    let failed = result.items.iter().enumerate().find_map(|(index, item)| Some((index, item.error.as_ref()?)));
    if let Some((index, error)) = failed {
        let place = format!("input[{index}]");
        let error = ApiError::from(error);
        let message = format!("{place}: {}", error.message);
        return Err(ApiError { message, ..error }.about(place));
    }
    let model = model.unwrap_or_else(|| slug.to_string());
    Ok(Answer { result, model, tokens, caller: caller.clone() })
}

/// Makes the call, and once more where the worker that took it is stopping: another one will take it at once.
async fn again(
    gateway: &Gateway,
    caller: &Caller,
    model: &embed_schemas::Slug,
    request: EmbedRequest,
    options: &CallOptions,
) -> Result<EmbedResult, ApiError> {
    if request.texts.len() > TEXTS_PER_CALL {
        return Ok(once(gateway, caller, model, request, options).await?);
    }
    let mut tries = 0;
    loop {
        match once(gateway, caller, model, request.clone(), options).await {
            Err(embed_client::Error::Wire(error))
                if error.code == embed_client::ErrorCode::ShuttingDown && tries < OTHERS =>
            {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20) * tries).await;
            }
            result => return Ok(result?),
        }
    }
}

/// Makes the call, unless the vectors are there. A key finds what it has asked for itself: an answer that comes at once would tell it what others have.
async fn once(
    gateway: &Gateway,
    caller: &Caller,
    model: &embed_schemas::Slug,
    request: EmbedRequest,
    options: &CallOptions,
) -> Result<EmbedResult, embed_client::Error> {
    let Some(cache) = gateway.cache() else { return gateway.client().embed(model, request, options).await };
    let cache = cache.scoped(&caller.name());
    let vectors = gateway.vectors().filter(|_| caller.shares_vectors() && options.variant.is_none());
    let cache = match vectors.zip(Prompt::of(request.prompt.as_deref())) {
        Some((vectors, prompt)) => cache.above(vectors.level(prompt)),
        None => cache,
    };
    cache.embed(model, request, options).await
}

fn options(timeout: Duration, caller: &Caller, headers: &HttpHeaders, texts: usize) -> Result<CallOptions, ApiError> {
    let timeout = match text_of(headers, &TIMEOUT)? {
        None => timeout,
        // Signs and zero are numbers, and no times.
        Some(text) => match text.parse().ok().filter(|millis| *millis > 0 && !text.starts_with('+')) {
            Some(millis) => timeout.min(Duration::from_millis(millis)),
            None => {
                let message = "x-embed-timeout-ms: must be whole milliseconds, at least 1";
                return Err(ApiError::invalid(TIMEOUT.as_str(), message));
            }
        },
    };
    let mut sent = HeaderMap::new();
    if let Some(key) = caller.key() {
        sent.insert(headers::SENDER, key);
    }
    // A worker that has too much to do tells a short call at once, and its sender decides. What takes many calls would never get through so.
    let retry = if texts > TEXTS_PER_CALL { Retry::Refused } else { Retry::Never };
    let mut options = CallOptions::default()
        .timeout(timeout)
        .retry(retry)
        .headers(sent)
        .space(text_of(headers, &SPACE)?.map(str::to_owned));
    let parent = headers.get(headers::TRACEPARENT).and_then(|value| value.to_str().ok());
    if let Some(parent) = parent.and_then(trace::traceparent) {
        options = options.traceparent(parent);
    }
    Ok(options)
}

fn text_of<'a>(headers: &'a HttpHeaders, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    headers.get(name).map(|value| value.to_str()).transpose().map_err(|_| {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", format!("{name}: is no text"));
        error.about(name.as_str())
    })
}
