//! Messages: calls, jobs, outcomes, statistics.

use embed_schemas::{
    EmbedRequest, Encoding, Format, JobId, Outcome, WindowCounts,
    shadow::{ShadowCounts, ShadowStats},
    wire,
};

use super::golden;

const FORMATS: [Format; 2] = [Format::Json, Format::MessagePack];
/// Rows of an outcome that are asked for, whatever it says it has.
const ROWS: [usize; 4] = [0, 1, 300, usize::MAX];

/// A request is refused with words, or is the same however it is sent on. Its id is readable whenever it is.
pub(super) fn request(bytes: &[u8]) {
    for content_type in [None, Some("application/json"), Some("application/msgpack"), Some("text/plain")] {
        let id = wire::readable_id(bytes, content_type);
        match wire::decode_request(bytes, content_type) {
            Err(error) => assert!(!error.error.message.is_empty()),
            Ok((request, _)) => {
                if let (Some(own), Some(found)) = (&request.id, &id) {
                    assert_eq!(own, found);
                }
                assert!(request.id.is_none() || id.is_some(), "an id that the request has is readable");
                is_the_same(&request);
            }
        }
    }
}

fn is_the_same(request: &EmbedRequest) {
    let digest = request.digest();
    for format in FORMATS {
        if format == Format::MessagePack && request.encoding == Some(Encoding::Base64) {
            continue;
        }
        let again = wire::decode_request(&format.encode(request), Some(format.content_type()));
        let (again, found) = again.unwrap_or_else(|error| panic!("{request:?} is refused as {format:?}: {error}"));
        assert_eq!((&again, found), (request, format));
        assert_eq!(again.digest(), digest);
    }
    let named = EmbedRequest { id: Some("another".parse::<JobId>().expect("an id")), ..request.clone() };
    assert_eq!(named.digest(), digest, "an id does not change what is asked for");
}

pub(super) fn outcomes() -> Vec<Vec<u8>> {
    [golden("result"), golden("failure")].concat()
}

/// Whatever an outcome says of itself, its rows are there or are not.
pub(super) fn outcome(bytes: &[u8]) {
    let Ok(outcome) = wire::decode_outcome(bytes) else { return };
    let _ = outcome.id();
    if let Outcome::Result(result) = &outcome {
        for row in ROWS {
            let _ = result.row_bytes(row);
            if let Ok(vector) = result.vector(row) {
                assert!(vector.len() <= result.dim as usize);
            }
        }
    }
    // What is stored is stored again: the same bytes.
    let stored = Format::MessagePack.encode(&outcome);
    let again = wire::decode_outcome(&stored).unwrap_or_else(|error| panic!("{outcome:?}: {error}"));
    assert_eq!(Format::MessagePack.encode(&again), stored);
    let _ = Format::Json.encode(&outcome);
}

/// Windows are refused with words, or add up, however large their numbers are.
pub(super) fn statistics(bytes: &[u8]) {
    if let Ok(stats) = wire::decode_stats(bytes) {
        for format in FORMATS {
            let again = wire::decode_stats(&format.encode(&stats));
            assert_eq!(again.expect("what was written is read"), stats);
        }
        let _ = stats.end_ms();
        adds_up(&stats.counts);
    }
    if let Ok(wish) = wire::decode_shadow_wish(bytes) {
        assert!(wish.share > 0.0 && wish.share <= 1.0);
    }
    if let Ok(texts) = wire::decode_shadow_texts(bytes) {
        let _ = texts.request.digest();
        if let Outcome::Result(result) = &texts.served {
            for row in 0..texts.request.texts.len() {
                let _ = result.vector(row);
            }
        }
    }
    if let Ok(ShadowStats { counts, .. }) = wire::decode_shadow_stats(bytes) {
        let mut sum = ShadowCounts::default();
        (0..3).for_each(|_| sum.merge(&counts));
        for cell in &sum.cells {
            std::hint::black_box((cell.failed(), cell.distance.quantile(0.5)));
        }
        assert!(sum.requests >= counts.requests);
    }
}

fn adds_up(counts: &WindowCounts) {
    let mut sum = counts.clone();
    (0..3).for_each(|_| sum.merge(counts));
    assert!(sum.requests >= counts.requests && sum.latency_us.count() >= counts.latency_us.count());
    for quantile in [0.0, 0.5, 0.99, 1.0] {
        assert_eq!(sum.latency_us.quantile(quantile).is_some(), !sum.latency_us.is_empty());
    }
    assert!(sum.latency_us.quantile(0.9).is_none_or(f64::is_finite));
    let _ = (sum.latency_us.mean_variance(), sum.batch_mean());
    for part in &counts.earlier {
        let (left, out) = counts.published_since(part.published_ms.saturating_add(1));
        assert!(left.requests <= counts.requests && out <= counts.requests);
    }
}
