//! Properties of the wire format, and the refusals that a person sees.

use embed_schemas::{
    EmbedFailure, EmbedRequest, EmbedResult, Encoding, ErrorCode, Format, Item, JobId, MAX_TEXTS, Outcome, Slug,
    Timing, WireError,
    wire::{decode_outcome, decode_request, readable_id},
};
use proptest::prelude::*;

const FORMATS: [Format; 2] = [Format::Json, Format::MessagePack];

fn id() -> impl Strategy<Value = JobId> {
    "[A-Za-z0-9_-]{1,128}".prop_map(|id| id.parse().unwrap())
}

fn slug() -> impl Strategy<Value = Slug> {
    "[a-z0-9][a-z0-9-]{0,63}".prop_map(|slug| slug.parse().unwrap())
}

fn error() -> impl Strategy<Value = WireError> {
    (prop::sample::select(&ErrorCode::ALL[..]), any::<String>(), any::<bool>(), any::<Option<u64>>())
        .prop_map(|(code, message, retryable, retry_after_ms)| WireError { code, message, retryable, retry_after_ms })
}

prop_compose! {
    fn request()(
        id in prop::option::of(id()),
        texts in prop::collection::vec(any::<String>(), 1..20),
        prompt in any::<Option<String>>(),
        truncate in any::<bool>(),
        encoding in prop::option::of(prop::sample::select(&Encoding::ALL[..5])),
        dimensions in prop::option::of(1u32..),
        deadline_ms in any::<Option<u64>>(),
    ) -> EmbedRequest {
        EmbedRequest { id, texts, prompt, truncate, encoding, dimensions, deadline_ms }
    }
}

prop_compose! {
    fn result()(
        dim in 1usize..40,
        encoding in prop::sample::select(&Encoding::ALL[..]),
        items in prop::collection::vec((any::<u32>(), any::<bool>(), prop::option::weighted(0.2, error())), 0..8),
        (id, model, variant, version, space) in (id(), slug(), slug(), any::<String>(), any::<String>()),
        numbers in prop::collection::vec(-1e30f32..1e30f32, 8 * 40),
        (queue_us, tokenize_us, infer_us, total_us, batch_size) in any::<(u64, u64, u64, u64, u32)>(),
    ) -> EmbedResult {
        let mut vectors = Vec::new();
        for (i, (_, _, error)) in items.iter().enumerate() {
            let before = vectors.len();
            // Half precision reaches 65504; beyond it there is infinity, which JSON cannot say.
            let scale = if encoding == Encoding::F16 { 1e-26 } else { 1.0 };
            let row: Vec<f32> = numbers[i * dim..][..dim].iter().map(|x| x * scale).collect();
            encoding.storage().encode_row(&row, &mut vectors);
            if error.is_some() {
                vectors[before..].fill(0);
            }
        }
        EmbedResult {
            id, model, variant, version, space, dim: dim as u32, encoding, vectors: vectors.into(),
            items: items.into_iter().map(|(tokens, truncated, error)| Item { tokens, truncated, error }).collect(),
            timing: Timing { queue_us, tokenize_us, infer_us, total_us, batch_size },
        }
    }
}

proptest! {
    #[test]
    fn any_request_survives(request in request()) {
        for format in FORMATS {
            let bytes = format.encode(&request);
            prop_assert_eq!(Format::sniff(&bytes), Some(format));
            prop_assert_eq!(decode_request(&bytes, None), Ok((request.clone(), format)));
        }
    }

    #[test]
    fn any_outcome_survives(result in result(), failure in (prop::option::of(id()), error())) {
        let failure = EmbedFailure { id: failure.0, error: failure.1 };
        for format in FORMATS {
            for outcome in [Outcome::Result(result.clone()), Outcome::Failure(failure.clone())] {
                let bytes = format.encode(&outcome);
                prop_assert_eq!(Format::sniff(&bytes), Some(format));
                prop_assert_eq!(decode_outcome(&bytes).unwrap(), outcome);
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), first in prop::sample::select(&b"{\x80\x81\x84\x8a\xde\xdf "[..])) {
        let _ = decode_request(&bytes, None);
        let _ = decode_outcome(&bytes);
        let mut bytes = bytes;
        bytes.insert(0, first);
        let _ = decode_request(&bytes, None);
        let _ = decode_outcome(&bytes);
    }

    #[test]
    fn no_damaged_message_panics(result in result(), cut in any::<prop::sample::Index>(), flip in any::<(prop::sample::Index, u8)>()) {
        for format in FORMATS {
            let mut bytes = format.encode(&Outcome::Result(result.clone())).to_vec();
            let at = flip.0.index(bytes.len());
            bytes[at] ^= flip.1;
            let _ = decode_outcome(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(decode_outcome(&bytes).is_err());
        }
    }
}

/// The refusal of a request, in its own words.
fn refusal(payload: &[u8]) -> String {
    let error = decode_request(payload, None).unwrap_err();
    assert_eq!(error.error.code, ErrorCode::InvalidRequest);
    error.error.message
}

#[test]
fn refusals_name_the_field_and_the_fix() {
    for (payload, words) in [
        (&br#"{"texts":[]}"#[..], &["texts", "empty", "1 to 256"][..]),
        (br#"{"texts":["a",5]}"#, &["texts[1]", "integer `5`", "expected a string"]),
        (br#"{"texts":"a"}"#, &["texts", "expected a sequence"]),
        (br#"{"text":["a"]}"#, &["unknown field `text`", "did you mean `texts`?"]),
        (br#"{"id":"a.b c","texts":["a"]}"#, &["id", "'.'", "use letters, digits"]),
        (br#"{"texts":["a"],"encoding":"f64"}"#, &["encoding", "unknown variant `f64`", "`f32`"]),
        (br#"{"texts":["a"],"dimensions":0}"#, &["dimensions", "at least 1"]),
        (br#"{"texts":["a"],"deadline_ms":-1}"#, &["deadline_ms", "-1"]),
        (br#"{"texts":["a"]"#, &["EOF while parsing"]),
        (br#"{"texts":["a"]} x"#, &["broken JSON", "trailing characters"]),
        (b"", &["empty", r#"{"texts":["hello"]}"#]),
        (b"hello", &["neither a JSON object nor a MessagePack map", "0x68"]),
        (b"\x81\xa5texts\x91", &["texts"]),
        (b"\x81\xa5texts\x91\xa1a\x00", &["1 bytes after the end"]),
    ] {
        let message = refusal(payload);
        for word in words {
            assert!(message.contains(word), "{payload:?}: {message:?} lacks {word:?}");
        }
    }
}

#[test]
fn the_number_of_texts_is_bounded() {
    for format in FORMATS {
        let request = EmbedRequest::new(vec!["a"; MAX_TEXTS]);
        assert!(decode_request(&format.encode(&request), None).is_ok());
        let message = refusal(&format.encode(&EmbedRequest::new(vec!["a"; MAX_TEXTS + 1])));
        assert!(message.contains("257") && message.contains("256"), "{message}");
    }
}

#[test]
fn base64_is_for_json() {
    let request = EmbedRequest { encoding: Some(Encoding::Base64), ..EmbedRequest::new(["a"]) };
    assert!(decode_request(&Format::Json.encode(&request), None).is_ok());
    assert!(refusal(&Format::MessagePack.encode(&request)).contains("use `f32`"));
}

#[test]
fn a_content_type_must_be_true_if_it_is_known() {
    let json = Format::Json.encode(&EmbedRequest::new(["a"]));
    for fine in ["application/json", "application/json; charset=utf-8", "text/plain"] {
        assert!(decode_request(&json, Some(fine)).is_ok());
    }
    let error = decode_request(&json, Some("application/msgpack")).unwrap_err();
    assert_eq!(error.format, Format::MessagePack);
    assert!(error.error.message.contains("Content-Type"));
}

#[test]
fn what_is_nested_deeply_is_refused_before_the_stack_is_used_up() {
    // In a field that is read, and in one that is passed over on the way to the id.
    let deep = |name: &str, level: &[u8]| {
        [&[0x81, 0xa0 + name.len() as u8][..], name.as_bytes(), &level.repeat(5_000)].concat()
    };
    for message in [deep("texts", &[0x91]), deep("other", &[0x91]), deep("other", b"\x81\xa1a")] {
        // Less than any thread of a worker has.
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
            assert_eq!(readable_id(&message, None), None);
            decode_request(&message, None).unwrap_err().error.message
        });
        assert!(!thread.unwrap().join().unwrap().is_empty());
    }
}
