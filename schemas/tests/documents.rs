//! The checked-in documents and golden messages are what the code says.
//!
//! `UPDATE_GOLDEN=1 cargo test -p embed-schemas` writes them anew.

use std::{fs, path::PathBuf};

use embed_schemas::{
    Earlier, EmbedFailure, EmbedRequest, EmbedResult, Encoding, ErrorCode, Format, Item, Lane, Outcome, Timing,
    VariantStats, WindowCounts, WireError, metrics, schema,
    shadow::{ShadowCounts, ShadowStats, ShadowText, ShadowTexts, ShadowWish},
    wire::{
        decode_outcome, decode_request, decode_shadow_stats, decode_shadow_texts, decode_shadow_wish, decode_stats,
    },
};

fn check(folder: &str, file: &str, content: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder).join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    }
    let stored = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        stored == content,
        "{} is not what the code says; if the change is meant, run the tests with UPDATE_GOLDEN=1 and commit it",
        path.display()
    );
}

#[test]
fn generated_documents() {
    for (file, document) in schema::documents() {
        let mut text = serde_json::to_string_pretty(&document).unwrap();
        text.push('\n');
        check("generated", file, text.as_bytes());
    }
}

/// The codes of errors, with what is said of each where it is declared.
fn codes() -> String {
    let documents = schema::documents();
    let (_, failure) = documents.iter().find(|(file, _)| *file == "embed-failure.schema.json").unwrap();
    let said = failure["$defs"]["ErrorCode"]["anyOf"].as_array().unwrap();
    let mut table = "| code | status | again? | meaning |\n|---|---|---|---|\n".to_owned();
    for code in ErrorCode::ALL {
        let known = said.iter().find(|one| one["const"] == code.as_str()).unwrap();
        let again = if code.retryable() { "yes" } else { "no" };
        table += &format!("| `{code}` | {} | {again} | {} |\n", code.status(), known["description"].as_str().unwrap());
    }
    table
}

#[test]
fn the_page_for_plain_clients() {
    const BEGIN: &str = "<!-- codes: made by `UPDATE_GOLDEN=1 cargo test -p embed-schemas` -->\n";
    let page = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    check("", "README.md", format!("{before}{BEGIN}{}<!-- end -->{after}", codes()).as_bytes());
    // Every header that there is has its place there.
    let headers = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/headers.rs")).unwrap();
    let names: Vec<_> = headers.lines().filter_map(|line| line.split_once("&str = \"")?.1.split('"').next()).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "README.md does not say what {name} is");
    }
}

#[test]
fn the_table_of_metrics() {
    check("../deploy", "metrics.md", metrics_page().as_bytes());
}

/// The metrics of each program, as a page.
fn metrics_page() -> String {
    let programs: [(&str, &str, &[&str]); 4] = [
        (
            "The worker",
            "On `/metrics` of `http.addr` (127.0.0.1:9464), beside what Prometheus' client libraries tell of every process (`process_…`).",
            &[""],
        ),
        (
            "A gateway",
            "On `/metrics` among the rest, or on a listener of its own: `embed gateway --metrics-listen ADDRESS`.",
            &["akidb_gateway_", "akidb_batch_size_answered"],
        ),
        ("A controller of rollouts", "`embed rollout run --metrics-listen ADDRESS`.", &["akidb_rollout_"]),
        ("A backfill", "`embed backfill run --metrics-listen ADDRESS`.", &["akidb_backfill_"]),
    ];
    let mut page = "# Metrics\n\nMade of [schemas/src/metrics.rs](../schemas/src/metrics.rs) by `UPDATE_GOLDEN=1 cargo test -p embed-schemas`. No label has a value that \
                    a client can choose: models and variants are those that are served, codes are those of the contract.\n"
        .to_owned();
    let program_of =
        |name: &str| programs.iter().rposition(|(.., prefixes)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    for (n, (title, whence, _)) in programs.iter().enumerate() {
        page += &format!(
            "\n## {title}\n\n{whence}\n\n| metric | kind | unit | labels | meaning |\n|---|---|---|---|---|\n"
        );
        for metric in metrics::ALL.iter().filter(|metric| program_of(metric.name) == Some(n)) {
            let metrics::Metric { name, kind, unit, labels, meaning } = metric;
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            page += &format!("| `{name}` | {} | {unit} | {} | {meaning} |\n", kind.as_str(), labels.join(", "));
        }
    }
    page
}

#[test]
fn metrics_are_named_as_prometheus_wants_it() {
    let mut names = std::collections::BTreeSet::new();
    for metric in metrics::ALL {
        let metrics::Metric { name, kind, unit, labels, meaning } = metric;
        assert!(names.insert(name), "{name} is there twice");
        assert_eq!(name.ends_with("_total"), *kind == metrics::Kind::Counter, "{name}");
        assert_eq!(name.contains("_seconds"), *unit == "seconds", "{name}");
        assert_eq!(name.contains("_bytes"), *unit == "bytes", "{name}");
        assert!(meaning.ends_with('.') && !meaning.contains('|'), "{name}: {meaning}");
        assert!(labels.iter().all(|label| !["le", "quantile"].contains(label)), "{name}: {labels:?}");
    }
}

#[test]
fn schemas_are_made_only_where_the_feature_is() {
    // Whoever only speaks the contract builds nothing of them, and no other build would notice if that could not be compiled.
    const FEATURE: &str = "feature = \"schema\"";
    for file in fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().is_some_and(|name| name == "schema.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut before = "";
        for line in text.lines() {
            let named = line.contains("JsonSchema for") || line.starts_with("use schemars");
            let derived = line.trim_start().starts_with("#[derive(") && line.contains("JsonSchema");
            let bare = (named || derived) && !line.contains(FEATURE) && !before.contains(FEATURE);
            assert!(!bare, "{}: {line}: put #[cfg_attr(feature = \"schema\", …)] round it", path.display());
            before = line;
        }
    }
}

fn result(encoding: Encoding) -> EmbedResult {
    let rows = [[0.5f32, -0.25, 0.125, -1.0], [0.0; 4]];
    let mut vectors = Vec::new();
    for row in &rows {
        encoding.storage().encode_row(row, &mut vectors);
    }
    if encoding.storage() == embed_schemas::Storage::U1 {
        // A failed row is zero in every encoding.
        *vectors.last_mut().unwrap() = 0;
    }
    EmbedResult {
        id: "job-1".parse().unwrap(),
        model: "all-minilm-l6-v2".parse().unwrap(),
        variant: "fp32".parse().unwrap(),
        version: "v1.0.0".into(),
        space: "sha256:0123456789abcdef".into(),
        dim: 4,
        encoding,
        vectors: vectors.into(),
        items: vec![
            Item { tokens: 4, truncated: true, error: None },
            Item {
                tokens: 300,
                truncated: false,
                error: Some(WireError::new(ErrorCode::TextTooLong, "300 tokens, the model takes 256")),
            },
        ],
        timing: Timing { queue_us: 1, tokenize_us: 2, infer_us: 3, total_us: 70_000, batch_size: 8 },
    }
}

#[test]
fn golden_messages() {
    let request = EmbedRequest {
        id: Some("job-1".parse().unwrap()),
        prompt: Some("query".into()),
        truncate: false,
        encoding: Some(Encoding::F16),
        dimensions: Some(128),
        deadline_ms: Some(500),
        ..EmbedRequest::new(["hello", "naïve \u{1F389}"])
    };
    for (format, suffix) in [(Format::Json, "json"), (Format::MessagePack, "msgpack")] {
        let bytes = format.encode(&request);
        check("golden", &format!("request.{suffix}"), &bytes);
        assert_eq!(decode_request(&bytes, Some(format.content_type())).unwrap(), (request.clone(), format));

        for encoding in Encoding::ALL {
            if (format, encoding) == (Format::MessagePack, Encoding::Base64) {
                continue;
            }
            let outcome = Outcome::Result(result(encoding));
            let bytes = format.encode(&outcome);
            check("golden", &format!("result-{encoding}.{suffix}"), &bytes);
            assert_eq!(decode_outcome(&bytes).unwrap(), outcome);
        }

        let mut error = WireError::new(ErrorCode::Overloaded, "the worker is full");
        error.retry_after_ms = Some(20);
        let outcome = Outcome::Failure(EmbedFailure { id: None, error });
        let bytes = format.encode(&outcome);
        check("golden", &format!("failure.{suffix}"), &bytes);
        assert_eq!(decode_outcome(&bytes).unwrap(), outcome);
    }
}

/// What a job is told from others by, which clients in all languages have to compute alike.
#[test]
fn golden_digests() {
    let odd = "\u{0}\u{1f}\u{7f}\u{80}\u{2028}\"\\/\n\t\u{8}\u{c} naïve \u{1F389}";
    let requests = [
        EmbedRequest::new(["hello"]),
        EmbedRequest { prompt: Some(odd.into()), ..EmbedRequest::new([odd, "", "b"]) },
        EmbedRequest {
            prompt: Some(String::new()),
            truncate: false,
            encoding: Some(Encoding::I8),
            dimensions: Some(64),
            ..EmbedRequest::new(["hello", "you"])
        },
        EmbedRequest {
            id: Some("job-1".parse().unwrap()),
            deadline_ms: Some(500),
            encoding: Some(Encoding::Float),
            ..EmbedRequest::new(["hello"])
        },
    ];
    let lines = requests.iter().map(|request| serde_json::json!({"request": request, "digest": request.digest()}));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    check("golden", "digests.jsonl", text.as_bytes());
}

#[test]
fn golden_statistics() {
    let stats = VariantStats {
        model: "all-minilm-l6-v2".parse().unwrap(),
        variant: "int8".parse().unwrap(),
        version: "v1.0.0".into(),
        lane: Lane::Rpc,
        worker: "w-1".into(),
        start_ms: 1_700_000_000_000,
        length_ms: 5_000,
        counts: WindowCounts {
            requests: 6,
            errors: [(ErrorCode::Overloaded, 1), (ErrorCode::EngineFailed, 1)].into(),
            latency_us: [80, 80, 4_321, 70_000].into_iter().collect(),
            texts: 12,
            tokens: 345,
            batches: 3,
            batch_texts: 12,
            busy_us: 9_876,
            ..WindowCounts::default()
        },
    };
    // With what was published before it, and with what callers did.
    let mut late = stats.clone();
    late.counts.errors.insert(ErrorCode::InvalidRequest, 1);
    late.counts.requests += 1;
    late.counts.by_caller = [(ErrorCode::InvalidRequest, 1)].into();
    late.counts.earlier = vec![
        Earlier {
            published_ms: 1_699_999_900_000,
            requests: 2,
            errors: [(ErrorCode::EngineFailed, 1)].into(),
            latency_us: [80].into_iter().collect(),
            ..Earlier::default()
        },
        Earlier { published_ms: 1_699_999_995_000, requests: 1, ..Earlier::default() },
    ];
    let idle = VariantStats { counts: WindowCounts::default(), ..stats.clone() };
    for (format, suffix) in [(Format::Json, "json"), (Format::MessagePack, "msgpack")] {
        for (name, stats) in [("stats", &stats), ("stats-idle", &idle), ("stats-earlier", &late)] {
            let bytes = format.encode(stats);
            check("golden", &format!("{name}.{suffix}"), &bytes);
            assert_eq!(decode_stats(&bytes).unwrap(), *stats);
        }
    }
}

#[test]
fn golden_shadows() {
    let id = "2026-03-14-092653-1a2b.1".to_owned();
    let wish = ShadowWish {
        id: id.clone(),
        model: "all-minilm-l6-v2".parse().unwrap(),
        from: "fp32".parse().unwrap(),
        to: "int8".parse().unwrap(),
        lanes: vec![Lane::Rpc, Lane::Bulk],
        share: 0.1,
        tell_texts: true,
        ttl_ms: 10_000,
    };
    let texts = ShadowTexts {
        id: id.clone(),
        lane: Lane::Rpc,
        request: EmbedRequest { prompt: Some("query".into()), ..EmbedRequest::new(["hello", "you"]) },
        served: Outcome::Result(result(Encoding::F16)),
        dropped: 3,
        tell_texts: true,
    };
    let mut counts = ShadowCounts { requests: 2, dropped: 1, ..ShadowCounts::default() };
    counts.versions.insert("v1.0.0".into(), 2);
    counts.compared(Lane::Rpc, 4, 0.97, || ShadowText {
        lane: Lane::Rpc,
        tokens: 4,
        cosine: 0.97,
        request: "job-1".into(),
        digest: "2cf24dba5fb0a30e".into(),
        text: Some("hello".into()),
    });
    counts.failed(Lane::Rpc, 300, ErrorCode::TextTooLong);
    counts.baseline_us.record(900);
    counts.candidate_us.record(450);
    let stats = ShadowStats {
        id,
        model: wish.model.clone(),
        variant: wish.to.clone(),
        version: "v1.1.0".into(),
        worker: "w-1".into(),
        start_ms: 1_700_000_000_000,
        length_ms: 5_000,
        counts,
    };
    for (format, suffix) in [(Format::Json, "json"), (Format::MessagePack, "msgpack")] {
        let bytes = format.encode(&wish);
        check("golden", &format!("shadow-wish.{suffix}"), &bytes);
        assert_eq!(decode_shadow_wish(&bytes).unwrap(), wish);
        let bytes = format.encode(&texts);
        check("golden", &format!("shadow-texts.{suffix}"), &bytes);
        assert_eq!(decode_shadow_texts(&bytes).unwrap(), texts);
        let bytes = format.encode(&stats);
        check("golden", &format!("shadow-stats.{suffix}"), &bytes);
        assert_eq!(decode_shadow_stats(&bytes).unwrap(), stats);
        // A program of before takes it for no window of the variant's own.
        assert!(decode_stats(&bytes).is_err());
    }
    for (share, to) in [(0.0, "int8"), (1.1, "int8"), (f64::NAN, "int8"), (0.5, "fp32")] {
        let bad = ShadowWish { share, to: to.parse().unwrap(), ..wish.clone() };
        let field = if to == "fp32" { "to:" } else { "share" };
        let message = decode_shadow_wish(&Format::MessagePack.encode(&bad)).unwrap_err().error.message;
        assert!(message.contains(field), "{message}");
    }
}
