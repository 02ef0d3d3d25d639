//! Who decides what is recorded, what a collector that is gone costs, and that the metrics are those of the table.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{Stack, model, provision, worker_command};
use async_nats::HeaderMap;
use embed_schemas::{
    EmbedRequest, ErrorCode, Format, JobId, Lane, headers, metrics, streams::StreamSettings, subjects,
    trace::TraceContext, wire::decode_outcome,
};
use embed_testkit::{Daemon, NatsServer, OtlpReceiver, PATIENCE};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-11111111111111111111111111111111-b7ad6b7169203331-00";

/// A worker whose traces go to this collector.
async fn traced(endpoint: &str, more: &[(&str, &str)]) -> Stack {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    provision(&client, &StreamSettings::default()).await;
    let mut command = worker_command(&nats, &["--log-format", "json"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).envs(more.iter().copied());
    let worker = Daemon::spawn(&mut command);
    let ready = worker.json_line();
    Stack { client, worker, ready, nats }
}

/// Waits until a series of the worker's metrics is above zero.
async fn counted(stack: &Stack, series: &str) {
    let wait = async {
        loop {
            let (_, metrics) = stack.get("/metrics").await;
            let mut lines = metrics.lines().filter_map(|line| line.strip_prefix(series));
            if lines.any(|value| value.trim().parse::<f64>().is_ok_and(|count| count > 0.0)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it is counted");
}

/// A call with this context, and that of its answer.
async fn call(stack: &Stack, context: Option<&str>, text: &str) -> Option<String> {
    let mut header = HeaderMap::new();
    if let Some(context) = context {
        header.insert(headers::TRACEPARENT, context);
    }
    let request = Format::Json.encode(&EmbedRequest::new([text]));
    let answer = stack.call_raw(subjects::bare(Lane::Rpc, &model()), header, request).await;
    decode_outcome(&answer.payload).unwrap().into_result().unwrap();
    answer.headers?.get(headers::TRACEPARENT).map(|value| value.as_str().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sender_decides_whether_it_is_recorded_and_a_failed_job_says_why() {
    let collector = OtlpReceiver::start();
    let stack = traced(&collector.url(), &[]).await;
    assert_eq!(call(&stack, None, "nobody asked for a trace").await, None);
    assert_eq!(call(&stack, Some(UNSAMPLED), "not this one").await.as_deref(), Some(UNSAMPLED));
    let answered = call(&stack, Some(SAMPLED), "this one").await.unwrap();
    assert!(answered.starts_with(&SAMPLED[..36]) && answered != SAMPLED, "{answered}: the worker's own span");

    // A job that fails, and one that nobody can read: their traces end in the reason, and their lines in the log say which they are.
    let mut header = HeaderMap::new();
    header.insert(headers::TRACEPARENT, "00-22222222222222222222222222222222-b7ad6b7169203331-01");
    let id: JobId = "failing".parse().unwrap();
    let request = EmbedRequest { id: Some(id.clone()), prompt: Some("none-such".into()), ..EmbedRequest::new(["x"]) };
    stack.publish_raw(Lane::Job, header, Format::Json.encode(&request)).await;
    let error = stack.stored(&id).await.into_result().unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownPrompt);

    let found = collector.wait_for("both traces", |spans| {
        let of =
            |trace: &str| spans.iter().find(|span| span.trace == trace && span.name.starts_with("process ")).cloned();
        Some([of(&SAMPLED[3..35])?, of(&"2".repeat(32))?])
    });
    assert_eq!((&found[0].span, &found[0].parent), (&answered[36..52].to_owned(), &SAMPLED[36..52].to_owned()));
    assert_eq!(
        (found[1].error.as_deref(), found[1].attributes["error.type"].as_str()),
        (Some(&*error.message), "unknown_prompt")
    );
    let traces: std::collections::BTreeSet<_> = collector.spans().into_iter().map(|span| span.trace).collect();
    assert!(!traces.contains(&UNSAMPLED[3..35]), "{traces:?}");

    the_metrics_are_those_of_the_table(&stack).await;

    let log = stack.worker.log();
    let line = log.lines().find(|line| line.contains("a job became a dead letter")).expect("a line of the dead letter");
    for part in ["failing", &"2".repeat(32), "unknown_prompt", "fp32"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

/// What a worker on the processor has only after what has not happened here.
const RARE: [&str; 6] = [
    metrics::DEAD_LETTERS_UNWRITTEN_TOTAL,
    metrics::STORE_RETRIES_TOTAL,
    metrics::PROVIDER_FALLBACKS_TOTAL,
    metrics::OUT_OF_MEMORY_TOTAL,
    metrics::BATCH_TOKENS_LIMIT,
    metrics::NODES_ELSEWHERE,
];
/// Other programs', and those of devices.
const OTHERS: [&str; 6] =
    ["akidb_rollout_", "akidb_backfill_", "akidb_gateway_", metrics::GATEWAY_BATCH_SIZE, "akidb_gpu_", "nvidia_gpu_"];

/// Everything that a worker exposes is in the table, with its kind and its labels; and it exposes what is in the table.
async fn the_metrics_are_those_of_the_table(stack: &Stack) {
    let wanted: BTreeSet<&str> = metrics::ALL.iter().map(|metric| metric.name).collect();
    let is_expected = |name: &&&str| !RARE.contains(*name) && !OTHERS.iter().any(|prefix| name.starts_with(prefix));
    let wait = async {
        loop {
            let (_, text) = stack.get("/metrics").await;
            let found = exposed(&text);
            let missing: Vec<_> = wanted.iter().filter(is_expected).filter(|name| !found.contains(**name)).collect();
            if missing.is_empty() {
                return;
            }
            eprintln!("not there yet: {missing:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("all metrics of the table");
}

/// The names of all metrics of ours, each as the table has it.
fn exposed(text: &str) -> BTreeSet<String> {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut found = BTreeSet::new();
    for (name, kind) in kinds.filter(|(name, _)| !name.starts_with("process_")) {
        let metric = metrics::ALL.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table of metrics"));
        assert_eq!(metric.kind.as_str(), kind, "{name}");
        let wanted: BTreeSet<&str> = metric.labels.iter().copied().collect();
        let series = text.lines().filter(|line| line.split(['{', ' ']).next().is_some_and(|of| of.starts_with(name)));
        for line in series.filter(|line| line[name.len()..].starts_with(['{', ' ']) || kind == "histogram") {
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(label, _)| label);
            let names: BTreeSet<&str> = names.filter(|label| *label != "le").collect();
            // Another metric's name may begin with this one's.
            let is_this =
                ["", "_bucket", "_sum", "_count"].contains(&line[name.len()..].split(['{', ' ']).next().unwrap());
            assert!(!is_this || names == wanted, "{line}: {wanted:?}");
        }
        found.insert(name.to_owned());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_recorded_and_a_collector_that_is_gone_costs_nothing_but_spans() {
    // Nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = [("EMBED_WORKER__TELEMETRY__TRACE_RATIO", "1.0"), ("EMBED_WORKER__TELEMETRY__TRACE_QUEUE", "20")];
    let stack = traced(&format!("http://{gone}"), &more).await;
    for n in 0..20 {
        // All are answered, each within a trace that the worker has begun.
        let context = call(&stack, None, &format!("text {n}")).await.unwrap();
        assert!(TraceContext::parse(&context).is_some_and(|context| context.is_sampled()), "{context}");
    }
    for reason in ["queue_full", "not_taken"] {
        counted(&stack, &format!("akidb_spans_dropped_total{{reason=\"{reason}\"}}")).await;
    }
    assert!(stack.worker.log().contains("the collector takes no traces"), "{}", stack.worker.log());
    let (status, log) = stack.worker.terminate();
    assert!(status.success(), "{log}");
}
