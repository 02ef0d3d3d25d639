//! Names in subjects, headers and buckets: what is taken for one can be used as one.

use async_nats::header::HeaderBlock;
use embed_schemas::{Encoding, Format, JobId, Lane, Slug, Weights, headers, inbox, serving, subjects, trace};

/// A valid trace context.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(super) fn blocks() -> Vec<Vec<u8>> {
    let block = |lines: &str| format!("NATS/1.0{lines}\r\n\r\n").into_bytes();
    vec![
        block(&format!(
            "\r\ntraceparent: {TRACE}\r\nNats-Msg-Id: a-1\r\nContent-Type: application/json; charset=utf-8"
        )),
        block("\r\nReply-To: _INBOX.abc.def\r\nEmbed-Subject: embed.job.m\r\nEmbed-Request-Digest: SHA-256=abc"),
        block("\r\nReply-To: _GR_.abcdef.ghijkl._INBOX.x\r\nX: a\r\n  b\r\nX:c \r\nY:"),
        block(" 503"),
        block(" 404 No Messages\r\nNats-Last-Consumer: 3"),
        block(" 409 Message Size Exceeds MaxBytes"),
    ]
}

/// A block is read whatever it is, and nothing that is published on somebody's behalf is anything but an inbox.
pub(super) fn headers(bytes: &[u8]) {
    let block = HeaderBlock::parse(bytes);
    let _ = (block.status, block.description);
    for (name, values) in block.headers.iter() {
        assert!(!name.to_string().is_empty());
        for value in values {
            read(value.as_str());
        }
    }
    let text = |name| block.headers.get(name).map(async_nats::HeaderValue::as_str);
    let _ = text(headers::CONTENT_TYPE).and_then(Format::from_content_type);
    let _ = text(headers::MSG_ID).map(str::parse::<JobId>);
    read(&String::from_utf8_lossy(bytes));
}

fn read(value: &str) {
    if let Some(trace) = trace::traceparent(value) {
        assert!(trace.len() == TRACE.len() && trace.is_ascii(), "{trace}");
        assert_eq!(trace::traceparent(&trace).as_deref(), Some(trace.as_str()));
    }
    for prefixes in [&[][..], &["mine"]] {
        if inbox::check(value, prefixes).is_ok() {
            assert!(value.len() <= inbox::MAX_INBOX_LEN && !value.contains(char::is_whitespace), "{value:?}");
            assert!(!value.starts_with('$') && !value.starts_with("embed."), "{value:?}");
            assert!(value.split('.').all(|token| !matches!(token, "" | "*" | ">")), "{value:?}");
        }
    }
}

pub(super) fn all() -> Vec<Vec<u8>> {
    let names = [
        "embed.job.all-minilm-l6-v2",
        "embed.rpc.m.fp32",
        "embed.bulk.m.v",
        "all-MiniLM-L6-v2",
        "bge-small-en-v1.5",
        "m.fp32",
        "fp32=95 int8=5",
        "a=100%",
        "base64",
        "backfill-01-17",
        "_INBOX_mine.",
    ];
    names.map(|name| name.as_bytes().to_vec()).into()
}

/// What is read as a name is written as it was read.
pub(super) fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(target) = subjects::parse(text) {
        let (lane, model) = (target.lane, &target.model);
        assert_eq!(subjects::job(lane, model, target.variant.as_ref(), target.tenant.as_ref()), text);
        assert_eq!(subjects::is_job_of(text, model), Lane::STORED.contains(&lane));
    }
    if let Ok(id) = text.parse::<JobId>() {
        assert_eq!(id.as_str(), text);
        let model: Slug = "m".parse().expect("a slug");
        assert_eq!(subjects::result(&model, &id).split('.').count(), 4, "an id is one token");
    }
    if let Ok(slug) = text.parse::<Slug>() {
        assert_eq!(slug.as_str(), text);
        assert!(text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'));
    }
    if let Ok(slug) = Slug::from_name(text) {
        assert_eq!(slug.as_str().parse::<Slug>().as_ref(), Ok(&slug));
        assert_eq!(Slug::from_name(slug.as_str()).as_ref(), Ok(&slug));
    }
    if let Some((model, variant)) = serving::parse_models_key(text) {
        assert_eq!(serving::models_key(&model, &variant), text);
    }
    if let Ok(weights) = Weights::parse(&text.split(' ').collect::<Vec<_>>()) {
        assert_eq!(weights.iter().map(|(_, weight)| u32::from(weight)).sum::<u32>(), 100);
        assert_eq!(Weights::parse(&weights.to_string().split(' ').collect::<Vec<_>>()).as_ref(), Ok(&weights));
    }
    if let Ok(lane) = text.parse::<Lane>() {
        assert_eq!(lane.as_str(), text);
    }
    if let Ok(encoding) = text.parse::<Encoding>() {
        assert_eq!(encoding.as_str(), text);
    }
    if inbox::check_prefix(text).is_ok() {
        let inbox = format!("{}.x", text.trim_end_matches('.'));
        assert_eq!(inbox::check(&inbox, &[text]), Ok(()), "what is a prefix has inboxes");
    }
}
