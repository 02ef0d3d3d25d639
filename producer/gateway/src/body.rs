//! A request's body: read within bounds of size, of time, and of what all bodies together may take.

use axum::{
    body::{Body, BodyDataStream},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};

use crate::{
    access::{Caller, Place, overloaded},
    error::{ApiError, cut},
    gateway::Gateway,
};

/// How often a byte of a body counts: as it came, and as what is read of it.
const COPIES: usize = 2;
/// Bytes of a model's name, or of a prompt's.
const LONGEST_NAME: usize = 1024;
/// Bytes of what is told of a reason, or of the way to a field: both repeat what was sent.
const TOLD: usize = 300;

/// How much of what is too large is read and thrown away, so that a client that sends it whole before it reads gets to hear why.
const THROWN_AWAY: usize = 64 << 20;

/// A body, and the room that it takes until it is dropped.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) bytes: Bytes,
    _room: Place,
}

/// Takes a request from what is left to the caller, and reads its body.
///
/// # Errors
/// 413 if it is too large, 408 if it does not come in time, 429 if nothing is left or there is no room for it now, 415 if it is compressed, 400 if
/// it breaks off.
pub(crate) async fn read(gateway: &Gateway, caller: &Caller, request: Request) -> Result<Content, ApiError> {
    let bounds = &gateway.settings().bounds;
    read_up_to(gateway, caller, caller.max_body(bounds), request).await
}

/// The same with a bound of its own.
pub(crate) async fn read_up_to(
    gateway: &Gateway,
    caller: &Caller,
    most: usize,
    request: Request,
) -> Result<Content, ApiError> {
    caller.begin()?;
    let (head, body) = request.into_parts();
    if let Some(coding) = head.headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let message = format!("content-encoding: {coding:.80?} is not taken; send the body as it is");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message));
    }
    let time = gateway.settings().bounds.body_time;
    let reading = collect(body, announced(&head.headers), most, gateway.bodies().nothing_of(caller));
    tokio::time::timeout(time, reading).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s", time.as_secs_f32());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message))
    })
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(body: Body, announced: Option<usize>, most: usize, mut room: Place) -> Result<Content, ApiError> {
    let mut stream = body.into_data_stream();
    if announced.is_some_and(|bytes| bytes > most) {
        return Err(too_large(stream, most).await);
    }
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
        if !room.grow(COPIES * length - room.taken()) {
            return Err(overloaded("the gateway is reading as much as it has room for; try again soon"));
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
    Ok(Content { bytes: first.unwrap_or_else(|| bytes.freeze()), _room: room })
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
                let reason = cut(&reason, TOLD);
                match cut(&path, TOLD) {
                    "." => ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", format!("the body: {reason}")),
                    field => ApiError::invalid(field, format!("{field}: {reason}")),
                }
            }
        }
    })
}

/// A name of a model or of a prompt, which is repeated in answers.
///
/// # Errors
/// If it is longer than any.
pub(crate) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    match name {
        Some(name) if name.len() > LONGEST_NAME => {
            Err(de::Error::custom(format_args!("has more than {LONGEST_NAME} bytes, and is no name")))
        }
        name => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::access::{Room, keys::Keys};

    async fn of(chunks: &[&[u8]], announced: Option<usize>, most: usize, room: usize) -> Result<Vec<u8>, u16> {
        let chunks: Vec<_> =
            chunks.iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk))).collect();
        let body = Body::from_stream(stream::iter(chunks));
        let room = Room::of_bodies(room);
        let content = collect(body, announced, most, room.nothing_of(&Caller::new(None))).await;
        let read = content.map(|content| content.bytes.to_vec()).map_err(|error| error.status.as_u16());
        assert_eq!(room.taken(), 0, "what was taken is given back");
        read
    }

    #[tokio::test]
    async fn bodies_are_bounded_alone_and_together() {
        assert_eq!(of(&[b"ab", b"cd", b"e"], None, 5, 10).await, Ok(b"abcde".to_vec()));
        assert_eq!(of(&[b"ab"], Some(2), 5, 10).await, Ok(b"ab".to_vec()));
        assert_eq!(of(&[], None, 5, 0).await, Ok(Vec::new()));
        assert_eq!(of(&[b"abc", b"def"], None, 5, 99).await, Err(413));
        assert_eq!(of(&[b"abc", b"def"], Some(6), 5, 99).await, Err(413));
        assert_eq!(of(&[b"abc", b"d"], None, 5, 7).await, Err(429), "what is read of it counts as well");
        assert_eq!(of(&[b"abc", b"d"], None, 5, 8).await, Ok(b"abcd".to_vec()));
    }

    #[tokio::test]
    async fn one_key_does_not_take_all_the_room_for_bodies() {
        let keys = Keys::read(None, Some("a=the-key-of-one,b=the-key-of-two"), &Keys::default()).unwrap();
        let caller = |name: &str| Caller::new(keys.named(name));
        let room = Room::of_bodies(1000);
        let body = |caller: &Caller, length: usize| {
            collect(Body::from(vec![b'x'; length]), None, 1000, room.nothing_of(caller))
        };
        let (a, b) = (caller("a"), caller("b"));
        let _held = [body(&a, 200).await.unwrap(), body(&a, 100).await.unwrap()];
        let _other = body(&b, 100).await.unwrap();
        assert_eq!(body(&a, 10).await.unwrap_err().status, 429, "it has more than half already");
        let _more = body(&b, 80).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_repeated_of_a_body_is_cut() {
        let name = "x".repeat(100_000);
        let error = json::<Fields>(format!("{{\"{name}\": 1}}").as_bytes()).unwrap_err();
        assert!(error.message.contains("unknown field") && error.message.len() < 1000, "{}", error.message.len());
        let error = json::<Fields>(format!("{{\"texts\": \"{name}\"}}").as_bytes()).unwrap_err();
        assert!(error.message.len() < 1000 && error.param.is_some(), "{}", error.message.len());
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
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
