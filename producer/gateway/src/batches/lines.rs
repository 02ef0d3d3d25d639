//! The lines of a batch's file: what is asked for in each. Pure.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::objects::ENDPOINT;
use crate::{
    api::openai::{EmbeddingsRequest, EncodingFormat},
    body,
    error::ApiError,
};

/// Characters of a `custom_id`.
const MAX_CUSTOM_ID: usize = 512;

/// A line that says whose it is.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) custom_id: String,
    /// What is asked for, or why it is not.
    pub(super) request: Result<Request, ApiError>,
}

/// What a line asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) target: Target,
    pub(super) texts: Vec<String>,
    /// Vectors as base64 of their bytes.
    pub(super) base64: bool,
}

/// What lines have to agree on to be asked for together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// The name of the model, as the caller has it.
    pub(super) model: Option<String>,
    pub(super) prompt: Option<String>,
    pub(super) truncate: bool,
    pub(super) dimensions: Option<u32>,
}

/// A line that does not say whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
}

#[derive(Deserialize)]
struct Outline<'a> {
    custom_id: Option<Value>,
    #[serde(default)]
    method: Value,
    #[serde(default)]
    url: Value,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

impl Line {
    /// Texts that it asks for.
    pub(super) fn texts(&self) -> usize {
        self.request.as_ref().map_or(0, |request| request.texts.len())
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.request.as_ref().map_or(0, |request| request.texts.iter().map(String::len).sum())
    }
}

/// Reads a line.
///
/// # Errors
/// If it is not JSON, or has no `custom_id` under which an error could be reported.
pub(super) fn read(line: &[u8], max_texts: usize) -> Result<Line, Unreadable> {
    let outline: Outline<'_> = serde_json::from_slice(line).map_err(|error| Unreadable {
        code: "invalid_json_line",
        message: format!("this line is not a JSON object: {error}"),
        param: None,
    })?;
    let custom_id = |message: &str| Unreadable {
        code: "invalid_custom_id",
        message: format!("custom_id: {message}"),
        param: Some("custom_id"),
    };
    match &outline.custom_id {
        None => Err(custom_id("is missing; give each line one of its own")),
        Some(Value::String(id)) if id.is_empty() => Err(custom_id("is empty; give each line one of its own")),
        Some(Value::String(id)) if id.chars().count() > MAX_CUSTOM_ID => {
            Err(custom_id(&format!("has more than {MAX_CUSTOM_ID} characters")))
        }
        Some(Value::String(id)) => {
            let custom_id = id.clone();
            Ok(Line { custom_id, request: request(&outline, max_texts) })
        }
        Some(_) => Err(custom_id("must be a string")),
    }
}

/// What a line asks for: read as the body of a call is.
fn request(outline: &Outline<'_>, max_texts: usize) -> Result<Request, ApiError> {
    if outline.method != "POST" {
        return Err(ApiError::invalid("method", "method: must be \"POST\""));
    }
    if outline.url != ENDPOINT {
        return Err(ApiError::invalid("url", format!("url: must be \"{ENDPOINT}\", the endpoint of the batch")));
    }
    let Some(body) = outline.body else {
        return Err(ApiError::invalid("body", "body: is missing; it is what a call would have sent"));
    };
    let request: EmbeddingsRequest = body::json(body.get().as_bytes())?;
    let texts = request.input.into_texts();
    if texts.is_empty() || texts.len() > max_texts {
        let message = format!("input: {} texts; 1 to {max_texts} are taken in one request", texts.len());
        return Err(ApiError::invalid("input", message));
    }
    if request.dimensions == Some(0) {
        return Err(ApiError::invalid(
            "dimensions",
            "dimensions: must be at least 1; leave it out for the model's own",
        ));
    }
    let target = Target {
        model: request.model,
        prompt: request.prompt,
        truncate: request.truncate.unwrap_or(true),
        dimensions: request.dimensions,
    };
    Ok(Request { target, texts, base64: request.encoding_format == EncodingFormat::Base64 })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(body: Value) -> Result<Request, ApiError> {
        let line = json!({"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": body});
        let line = read(line.to_string().as_bytes(), 8).unwrap();
        assert_eq!(line.custom_id, "a");
        line.request
    }

    #[test]
    fn a_line_is_read_as_a_call_would_be() {
        let target = |dimensions| Target { model: Some("m".into()), prompt: None, truncate: true, dimensions };
        let one = body(json!({"model": "m", "input": "x", "user": "me", "dimensions": null})).unwrap();
        assert_eq!(one, Request { target: target(None), texts: vec!["x".into()], base64: false });
        let many = json!({"model": "m", "input": ["x", "y"], "encoding_format": "base64", "dimensions": 8});
        let many = body(many).unwrap();
        assert_eq!(many, Request { target: target(Some(8)), texts: vec!["x".into(), "y".into()], base64: true });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, param) in [
            (json!({"model": "m", "input": []}), "input"),
            (json!({"model": "m", "input": [1, 2]}), "input"),
            (json!({"model": "m", "input": vec!["x"; 9]}), "input"),
            (json!({"model": "m", "input": "x", "encoding_format": "f16"}), "encoding_format"),
            (json!({"model": "m", "input": "x", "dimensions": 0}), "dimensions"),
            (json!({"model": 7, "input": "x"}), "model"),
        ] {
            let error = body(wrong.clone()).unwrap_err();
            let param_of = error.param.unwrap_or_default();
            assert!(error.status == 400 && param_of.starts_with(param), "{wrong}: {param_of}");
        }
        assert_eq!(body(json!({"model": "m"})).unwrap_err().status, 400);
        let refused = |line: Value| read(line.to_string().as_bytes(), 8).unwrap().request.unwrap_err().param.unwrap();
        assert_eq!(refused(json!({"custom_id": "a", "method": "GET", "url": ENDPOINT, "body": {}})), "method");
        assert_eq!(refused(json!({"custom_id": "a", "method": "POST", "url": "/v1/chat", "body": {}})), "url");
        assert_eq!(refused(json!({"custom_id": "a", "method": "POST", "url": ENDPOINT})), "body");
    }

    #[test]
    fn a_line_without_an_id_cannot_be_reported() {
        for (line, code) in [
            (r#"{"custom_id": "a""#, "invalid_json_line"),
            ("[]", "invalid_json_line"),
            ("{}", "invalid_custom_id"),
            (r#"{"custom_id": 7}"#, "invalid_custom_id"),
            (r#"{"custom_id": ""}"#, "invalid_custom_id"),
        ] {
            assert_eq!(read(line.as_bytes(), 8).unwrap_err().code, code, "{line}");
        }
        assert_eq!(read(b"\xff", 8).unwrap_err().code, "invalid_json_line");
    }
}
