//! Properties of the latency sketch, and the windows that are refused.

use embed_schemas::{
    Earlier, ErrorCode, Format, Lane, LatencyRecorder, LatencySketch, VariantStats, WindowCounts,
    latency::{BUCKETS, RELATIVE_ERROR, bucket_bounds, bucket_of},
    wire::decode_stats,
};
use hdrhistogram::Histogram;
use proptest::prelude::*;

/// Latencies from microseconds to an hour, all orders of magnitude alike.
fn latency() -> impl Strategy<Value = u64> {
    (0u32..32, any::<u32>()).prop_map(|(bits, x)| u64::from(x >> bits))
}

fn latencies() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(latency(), 0..200)
}

fn sketch(latencies: &[u64]) -> LatencySketch {
    latencies.iter().copied().collect()
}

fn merged(a: &LatencySketch, b: &LatencySketch) -> LatencySketch {
    let mut sum = a.clone();
    sum.merge(b);
    sum
}

proptest! {
    #[test]
    fn the_grid_is_that_of_hdrhistogram(us in latency()) {
        let histogram = Histogram::<u64>::new_with_bounds(1, u64::from(u32::MAX), 2).unwrap();
        let (lower, width) = bucket_bounds(bucket_of(us as u32));
        prop_assert_eq!(u64::from(lower), histogram.lowest_equivalent(us));
        prop_assert_eq!(u64::from(lower) + u64::from(width), histogram.next_non_equivalent(us));
    }

    #[test]
    fn merging_is_exact_in_any_order(a in latencies(), b in latencies(), c in latencies()) {
        let (x, y, z) = (sketch(&a), sketch(&b), sketch(&c));
        prop_assert_eq!(merged(&x, &y), merged(&y, &x));
        prop_assert_eq!(merged(&merged(&x, &y), &z), merged(&x, &merged(&y, &z)));
        prop_assert_eq!(merged(&x, &LatencySketch::default()), x.clone());
        prop_assert_eq!(merged(&x, &y), sketch(&[a, b].concat()));
    }

    #[test]
    fn quantiles_are_within_the_bound(values in prop::collection::vec(latency(), 1..300), q in 0.0f64..=1.0) {
        let estimate = sketch(&values).quantile(q).unwrap();
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
        let exact = sorted[rank - 1] as f64;
        prop_assert!((estimate - exact).abs() <= (exact * RELATIVE_ERROR).max(1.0), "{estimate} for {exact}");
    }

    #[test]
    fn ranks_and_quantiles_agree(values in prop::collection::vec(latency(), 1..300), us in latency()) {
        let sketch = sketch(&values);
        let (lower, width) = bucket_bounds(bucket_of(us as u32));
        let below = values.iter().filter(|v| **v < u64::from(lower) + u64::from(width)).count() as u64;
        prop_assert_eq!(sketch.rank(us), below);
        prop_assert_eq!(sketch.rank(u64::MAX), sketch.count());
    }

    #[test]
    fn the_recorder_makes_the_same_sketch(a in latencies(), b in latencies()) {
        let mut recorder = LatencyRecorder::default();
        for window in [&a, &b] {
            window.iter().for_each(|us| recorder.record(*us));
            prop_assert_eq!(recorder.take(), sketch(window));
        }
        prop_assert!(recorder.take().is_empty());
    }

    #[test]
    fn any_window_survives(latencies in latencies(), failed in 0u64..9, texts in any::<u64>()) {
        let counts = WindowCounts {
            requests: latencies.len() as u64 + failed,
            errors: [(ErrorCode::EngineFailed, failed)].into(),
            latency_us: sketch(&latencies),
            texts,
            ..WindowCounts::default()
        };
        let stats = window(counts);
        for format in [Format::Json, Format::MessagePack] {
            prop_assert_eq!(decode_stats(&format.encode(&stats)), Ok(stats.clone()));
        }
    }

    /// Whatever was published when: what is left and what is left out are the whole, and what is left is what it would have been
    /// without the other.
    #[test]
    fn what_was_published_before_can_be_left_out(parts in prop::collection::vec((0u64..9, latencies(), 0u64..5), 1..20), since in 0u64..10) {
        let (mut all, mut wanted, mut left_out) = (WindowCounts::default(), WindowCounts::default(), 0);
        for (published, latencies, failed) in parts {
            let errors: std::collections::BTreeMap<_, _> = [(ErrorCode::Overloaded, failed)].into_iter().filter(|e| e.1 > 0).collect();
            let part = Earlier {
                published_ms: published,
                requests: latencies.len() as u64 + failed,
                errors: errors.clone(),
                by_caller: errors.clone(),
                latency_us: sketch(&latencies),
            };
            let counts = WindowCounts {
                requests: part.requests,
                errors: errors.clone(),
                by_caller: errors,
                latency_us: part.latency_us.clone(),
                earlier: vec![part],
                ..WindowCounts::default()
            };
            if published >= since { wanted.merge(&counts) } else { left_out += counts.requests }
            all.merge(&counts);
        }
        prop_assert_eq!(all.published_since(since), (wanted, left_out));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), first in prop::sample::select(&b"{\x80\x8d\xde"[..])) {
        let _ = decode_stats(&[&[first][..], &bytes].concat());
    }
}

fn window(counts: WindowCounts) -> VariantStats {
    VariantStats {
        model: "m".parse().unwrap(),
        variant: "v1".parse().unwrap(),
        version: "1".into(),
        lane: Lane::Job,
        worker: "w".into(),
        start_ms: 10_000,
        length_ms: 5_000,
        counts,
    }
}

#[test]
fn every_bucket_follows_the_one_before() {
    let mut next = 0;
    for bucket in 0..BUCKETS {
        let (lower, width) = bucket_bounds(bucket as u16);
        assert_eq!((u64::from(lower), usize::from(bucket_of(lower))), (next, bucket));
        next = u64::from(lower) + u64::from(width);
    }
    assert_eq!(next, 1 << 32);
}

#[test]
fn moments_of_a_known_sample() {
    let (mean, variance) = sketch(&[10, 20, 30, 40]).mean_variance().unwrap();
    assert!((mean - 25.0).abs() < 1e-9 && (variance - 500.0 / 3.0).abs() < 1e-9, "{mean} {variance}");
    assert_eq!(LatencySketch::default().mean_variance(), None);
    assert_eq!(LatencySketch::default().quantile(0.5), None);
}

#[test]
fn a_second_of_heavy_traffic_is_a_small_message() {
    // 5,000 latencies around 8 ms, spread over a factor of ten.
    let mut recorder = LatencyRecorder::default();
    (0..5_000u64).for_each(|i| recorder.record(3_000 + i * i / 900));
    let stats = window(WindowCounts { requests: 5_000, latency_us: recorder.take(), ..WindowCounts::default() });
    let bytes = Format::MessagePack.encode(&stats).len();
    assert!(bytes < 4_096, "{bytes} bytes");
}

#[test]
fn refusals_name_the_field() {
    let good = Format::Json.encode(&window(WindowCounts { requests: 1, ..WindowCounts::default() }));
    let good = std::str::from_utf8(&good).unwrap();
    assert!(decode_stats(good.as_bytes()).is_ok());
    for (from, to, words) in [
        (r#""start_ms":10000"#, r#""start_ms":10001"#, &["start_ms", "multiple of length_ms"][..]),
        (r#""length_ms":5000"#, r#""length_ms":0"#, &["length_ms"]),
        (r#""requests":1"#, r#""requests":1,"errors":{"overloaded":2}"#, &["errors", "2 of 1"]),
        (r#""requests":1"#, r#""requests":1,"latency_us":[[5,2]]"#, &["latency_us", "2 latencies for 1"]),
        (r#""requests":1"#, r#""requests":1,"latency_us":[[257,1]]"#, &["257", "begins at 256"]),
        (r#""requests":1"#, r#""requests":1,"latency_us":[[5,0]]"#, &["empty"]),
        (r#""requests":1"#, r#""requests":9,"latency_us":[[5,1],[4,1]]"#, &["out of order"]),
        (r#""requests":1"#, r#""requests":-1"#, &["-1"]),
        (r#""requests":1"#, r#""requests":1,"by_caller":{"invalid_request":1}"#, &["by_caller", "invalid_request"]),
        (r#""requests":1"#, r#""requests":1,"earlier":[{"published_ms":1,"requests":2}]"#, &["earlier: 2", "of 1"]),
        (
            r#""requests":1"#,
            r#""requests":1,"earlier":[{"published_ms":2,"requests":0},{"published_ms":1,"requests":0}]"#,
            &["published_ms", "sort"],
        ),
        (r#""model":"m""#, r#""model":"M""#, &["slug"]),
    ] {
        assert!(good.contains(from), "{good}");
        let message = decode_stats(good.replace(from, to).as_bytes()).unwrap_err().error.message;
        for word in words {
            assert!(message.contains(word), "{to}: {message:?} lacks {word:?}");
        }
    }
}

#[test]
fn what_the_engine_did_is_divided_by_requests() {
    let earlier = Earlier { published_ms: 5, requests: 3, ..Earlier::default() };
    let all = WindowCounts {
        requests: 4,
        texts: 8,
        tokens: 400,
        batches: 2,
        batch_texts: 8,
        busy_us: 1_000,
        earlier: vec![earlier],
        ..WindowCounts::default()
    };
    let (left, out) = all.published_since(6);
    assert_eq!((out, left.requests, left.texts, left.tokens, left.busy_us), (3, 1, 2, 100, 250));
    assert_eq!(all.published_since(5), (all.clone(), 0));
}
