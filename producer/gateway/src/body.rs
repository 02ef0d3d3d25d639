//! A request's body: read within bounds of size, of time, and of what all bodies together may take.

use std::sync::Arc;

use axum::{
    body::{Body, BodyDataStream},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{access::Caller, error::ApiError, gateway::Gateway};

/// What bodies are counted in.
pub(crate) const BODY_UNIT: usize = 4 << 10;

/// How much of what is too large is read and thrown away, so that a client that sends it whole before it reads gets to hear why.
const THROWN_AWAY: usize = 64 << 20;

/// A body, and the room that it takes until it is dropped.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Reads a body.
///
/// # Errors
/// 413 if it is too large, 408 if it does not come in time, 429 if there is no room for it now, 415 if it is compressed, 400 if it breaks off.
pub(crate) async fn read(gateway: &Gateway, caller: &Caller, request: Request) -> Result<Content, ApiError> {
    let bounds = &gateway.settings().bounds;
    read_up_to(gateway, caller.max_body(bounds), request).await
}

/// The same with a bound of its own.
pub(crate) async fn read_up_to(gateway: &Gateway, most: usize, request: Request) -> Result<Content, ApiError> {
    let (head, body) = request.into_parts();
    if let Some(coding) = head.headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let message = format!("content-encoding: {coding:?} is not taken; send the body as it is");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message));
    }
    let time = gateway.settings().bounds.body_time;
    let reading = collect(body, announced(&head.headers), most, gateway.bodies());
    tokio::time::timeout(time, reading).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s", time.as_secs_f32());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message))
    })
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(
    body: Body,
    announced: Option<usize>,
    most: usize,
    room: &Arc<Semaphore>,
) -> Result<Content, ApiError> {
    let mut stream = body.into_data_stream();
    if announced.is_some_and(|bytes| bytes > most) {
        return Err(too_large(stream, most).await);
    }
    let mut taken: Option<OwnedSemaphorePermit> = None;
    let mut bytes = BytesMut::new();
    let mut first = None;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("the body breaks off: {error}"))
        })?;
        let length = bytes.len() + first.as_ref().map_or(0, Bytes::len) + chunk.len();
        if length > most {
            return Err(too_large(stream, most).await);
        }
        let needed = length.div_ceil(BODY_UNIT) - taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if let Ok(units) = u32::try_from(needed)
            && units > 0
        {
            let more = Arc::clone(room).try_acquire_many_owned(units).map_err(|_| {
                let message = "the gateway is reading as much as it has room for; try again soon";
                let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message);
                error.after(std::time::Duration::from_secs(1))
            })?;
            match &mut taken {
                Some(taken) => taken.merge(more),
                None => taken = Some(more),
            }
        }
        // Most bodies are one chunk, which need not be copied.
        match (first.take(), bytes.is_empty()) {
            (None, true) => first = Some(chunk),
            (Some(before), _) => {
                bytes.extend_from_slice(&before);
                bytes.extend_from_slice(&chunk);
            }
            (None, false) => bytes.extend_from_slice(&chunk),
        }
    }
    Ok(Content { bytes: first.unwrap_or_else(|| bytes.freeze()), _room: taken })
}

async fn too_large(mut stream: BodyDataStream, most: usize) -> ApiError {
    let mut thrown_away = 0;
    while let Some(Ok(chunk)) = stream.next().await {
        thrown_away += chunk.len();
        if thrown_away > THROWN_AWAY {
            break;
        }
    }
    let message = format!("the body is larger than {most} bytes: send fewer texts at once");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

/// Reads JSON.
///
/// # Errors
/// 400, with the field that is at fault and what is wrong with it.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // The way to the field costs time, so it is asked for only where it is needed.
    serde_json::from_slice(bytes).map_err(|_| {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Ok(_) => ApiError::invalid("body", "the body has more in it than one JSON value"),
            Err(error) => {
                let path = error.path().to_string();
                let reason = error.into_inner().to_string();
                match path.as_str() {
                    "." => ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", format!("the body: {reason}")),
                    field => ApiError::invalid(field, format!("{field}: {reason}")),
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use proptest::prelude::*;

    use super::*;

    async fn of(chunks: &[&[u8]], announced: Option<usize>, most: usize, room: usize) -> Result<Vec<u8>, u16> {
        let chunks: Vec<_> =
            chunks.iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk))).collect();
        let body = Body::from_stream(stream::iter(chunks));
        let room = Arc::new(Semaphore::new(room));
        let content = collect(body, announced, most, &room).await;
        content.map(|content| content.bytes.to_vec()).map_err(|error| error.status.as_u16())
    }

    #[tokio::test]
    async fn bodies_are_bounded_alone_and_together() {
        assert_eq!(of(&[b"ab", b"cd", b"e"], None, 5, 1).await, Ok(b"abcde".to_vec()));
        assert_eq!(of(&[b"ab"], Some(2), 5, 1).await, Ok(b"ab".to_vec()));
        assert_eq!(of(&[], None, 5, 0).await, Ok(Vec::new()));
        assert_eq!(of(&[b"abc", b"def"], None, 5, 1).await, Err(413));
        assert_eq!(of(&[b"abc", b"def"], Some(6), 5, 1).await, Err(413));
        let large = vec![b'x'; BODY_UNIT];
        assert_eq!(of(&[&large, b"y"], None, 2 * BODY_UNIT, 1).await, Err(429));
        assert_eq!(of(&[&large, b"y"], None, 2 * BODY_UNIT, 2).await.map(|bytes| bytes.len()), Ok(BODY_UNIT + 1));
    }

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only errors are looked at")]
    struct Fields {
        texts: Vec<String>,
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let of = |text: &[u8]| json::<Fields>(text).unwrap_err();
        assert_eq!(of(br#"{"texts": ["a", 1]}"#).param.as_deref(), Some("texts[1]"));
        assert!(of(b"{\"texts\": [\"\xff\"]}").message.contains("texts[0]"));
        assert!(of(br#"{"texts": []} x"#).message.contains("more in it"));
        assert!(of(b"").message.contains("EOF"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_harms(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = json::<Fields>(&bytes);
        }
    }
}
