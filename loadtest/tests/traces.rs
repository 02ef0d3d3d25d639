//! One trace shows what happened to a call, a job, and a chunk of a backfill, from the command that sent it to its result: collected by a
//! receiver of OTLP from both programs.

use std::{collections::BTreeSet, fs, process::Command};

use crate::support::{Stack, embed};
use embed_testkit::{NatsServer, OtlpReceiver, ReceivedSpan};

const MODEL: &str = "all-minilm-l6-v2";

/// Runs a command whose traces go to the collector.
fn run(nats: &NatsServer, collector: &OtlpReceiver, arguments: &[&str], environment: &[(&str, &str)]) {
    let mut command: Command = embed(nats);
    command.args(arguments).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).envs(environment.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The spans of a trace, when the worker's span is there: it comes last.
fn trace(collector: &OtlpReceiver, id: &str) -> Vec<ReceivedSpan> {
    collector.wait_for("a whole trace", |spans| {
        let of_trace: Vec<_> = spans.iter().filter(|span| span.trace == id).cloned().collect();
        let (mut worker, mut producer) = (false, false);
        for span in &of_trace {
            worker |= span.name.starts_with("process ");
            producer |= span.name.starts_with("call ") || span.name.starts_with("publish ");
        }
        (worker && producer).then_some(of_trace)
    })
}

fn named<'a>(spans: &'a [ReceivedSpan], name: &str) -> &'a ReceivedSpan {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

/// What every request has: its stages are parts of what the worker did, in their order, and what ran is linked to it and back.
fn check(collector: &OtlpReceiver, spans: &[ReceivedSpan], lane: &str, stages: &[&str]) {
    let process = named(spans, &format!("process embed.{lane}.{MODEL}"));
    assert_eq!((process.service.as_str(), &process.error), ("embed-worker", &None));
    let mut before = process.start;
    for stage in stages {
        let stage = named(spans, stage);
        assert_eq!(stage.parent, process.span, "{stage:?}");
        assert!(
            before <= stage.start && stage.start <= stage.end && stage.end <= process.end,
            "{stage:?} in {process:?}"
        );
        before = stage.start;
    }
    let infer = named(spans, "infer");
    let [(run_trace, run_span)] = &infer.links[..] else { panic!("{infer:?}") };
    let run = collector.wait_for("the run", |all| all.iter().find(|span| span.span == *run_span).cloned());
    assert_eq!((&run.trace, run.name.as_str(), run.parent.as_str()), (run_trace, "run a batch", ""));
    assert!(run.links.contains(&(process.trace.clone(), process.span.clone())), "{run:?}");
    assert_eq!(run.attributes["embed.lane"], lane);
    assert_eq!((run.end - run.start) / 1_000, (infer.end - infer.start) / 1_000);
}

#[test]
fn a_trace_goes_from_the_command_to_the_result() {
    let collector = OtlpReceiver::start();
    let Stack { worker, nats } = Stack::start();
    drop(worker);
    let url = collector.url();
    let _worker = Stack::start_worker_with(&nats, &[("EMBED_WORKER__TELEMETRY__OTLP_ENDPOINT", url.as_str())]);
    let id = |n: u8| format!("{n:032x}");
    let parent = |n: u8| format!("00-{}-00000000000000aa-01", id(n));

    // A call, in the trace of whoever started the command.
    run(&nats, &collector, &["ask", "hello world"], &[("TRACEPARENT", parent(1).as_str())]);
    let spans = trace(&collector, &id(1));
    let (root, call) = (named(&spans, "embed ask"), named(&spans, &format!("call embed.rpc.{MODEL}")));
    assert_eq!((root.parent.as_str(), &call.parent, call.kind), ("00000000000000aa", &root.span, "SPAN_KIND_CLIENT"));
    let process = named(&spans, &format!("process embed.rpc.{MODEL}"));
    assert_eq!((&process.parent, process.kind), (&call.span, "SPAN_KIND_SERVER"));
    assert_eq!(
        (process.attributes["embed.variant"].as_str(), process.attributes["embed.texts"].as_str()),
        ("fp32", "1")
    );
    check(&collector, &spans, "rpc", &["tokenize", "wait for a batch", "infer", "answer"]);

    // A job, from being published, through its stream, to its stored result, and to who waited for it.
    run(&nats, &collector, &["publish", "--wait", "--id", "traced", "hello"], &[("TRACEPARENT", parent(2).as_str())]);
    let spans = trace(&collector, &id(2));
    let publish = named(&spans, &format!("publish embed.job.{MODEL}"));
    assert_eq!((&publish.parent, publish.kind), (&named(&spans, "embed publish").span, "SPAN_KIND_PRODUCER"));
    let (queue, result) = (named(&spans, "queue"), named(&spans, "wait for the result"));
    assert_eq!((&queue.parent, &result.parent), (&publish.span, &publish.span));
    let process = named(&spans, &format!("process embed.job.{MODEL}"));
    assert_eq!((&process.parent, process.kind), (&publish.span, "SPAN_KIND_CONSUMER"));
    assert_eq!(queue.end, process.start, "what it waited for ends when the worker has it");
    assert_eq!(process.attributes["messaging.message.id"], "traced");
    assert_eq!(process.attributes["embed.end"], "acknowledged");
    check(&collector, &spans, "job", &["tokenize", "wait for a batch", "infer", "store the result"]);

    // Chunks of a backfill: traces of their own, of a share of them, linked to the command.
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("rows.jsonl"), folder.path().join("vectors.jsonl"));
    let rows: String = (0..9).map(|n| format!("{{\"id\": {n}, \"text\": \"row {n}\"}}\n")).collect();
    fs::write(&input, rows).unwrap();
    let paths = [input.to_str().unwrap(), output.to_str().unwrap()];
    let arguments = ["backfill", "run", paths[0], paths[1], "--chunk", "3"];
    let third = parent(3);
    let environment = [("TRACEPARENT", third.as_str()), ("OTEL_TRACES_SAMPLER_ARG", "1")];
    run(&nats, &collector, &arguments, &environment);
    let root = collector.wait_for("the command", |all| all.iter().find(|span| span.trace == id(3)).cloned());
    assert_eq!(root.name, "embed backfill run");
    let chunks = |all: &[ReceivedSpan]| -> BTreeSet<String> {
        let link = (root.trace.clone(), root.span.clone());
        all.iter().filter(|span| span.links.contains(&link)).map(|span| span.trace.clone()).collect()
    };
    let chunks = collector.wait_for("all chunks", |all| Some(chunks(all)).filter(|chunks| chunks.len() == 3));
    for chunk in &chunks {
        let spans = trace(&collector, chunk);
        let publish = named(&spans, &format!("publish embed.bulk.{MODEL}"));
        let process = named(&spans, &format!("process embed.bulk.{MODEL}"));
        assert_eq!((&process.parent, process.attributes["embed.texts"].as_str()), (&publish.span, "3"));
        named(&spans, "queue");
        named(&spans, "wait for the result");
        for stage in ["tokenize", "store the result"] {
            assert_eq!(named(&spans, stage).parent, process.span);
        }
        let linked = spans.iter().filter(|span| span.name == "infer" && span.links.len() == 1).count();
        assert!((1..=3).contains(&linked), "{spans:#?}");
    }
}

/// Ticks of the clock that a process has had of the processors.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // What the name and its number stand before: user's and system's time are the 14th and the 15th.
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

/// What a worker's time of the processor for a text is with one request of a hundred recorded, and with all, against without: other programs on the same
/// machine take time, and not the worker's. What one of a hundred costs is less than a run differs from the next; a hundredth of what all cost tells it.
/// `cargo test --release --workspace --test all -- --ignored --nocapture what_recording`
#[expect(clippy::print_stdout, reason = "a measurement that is run by hand")]
#[test]
#[ignore = "a measurement, of some minutes"]
fn what_recording_requests_costs() {
    const ROWS: usize = 4_000;
    const ROUNDS: usize = 9;
    const ARMS: [(&str, Option<&str>); 3] = [("none", None), ("one of a hundred", Some("0.01")), ("all", Some("1.0"))];
    let collector = OtlpReceiver::start();
    let url = collector.url();
    let environment = |ratio: Option<&'static str>| {
        let endpoint = ("EMBED_WORKER__TELEMETRY__OTLP_ENDPOINT", url.as_str());
        let ratio = ratio.map(|ratio| [endpoint, ("EMBED_WORKER__TELEMETRY__TRACE_RATIO", ratio)]);
        ratio.into_iter().flatten().collect::<Vec<_>>()
    };
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rows.jsonl");
    let sample = embed_testkit::repository().join("deploy/samples/wordnet/sentences.jsonl");
    let sample = fs::read_to_string(sample).unwrap();
    let texts: Vec<String> = sample
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    let arms = ARMS.map(|(_, ratio)| {
        let Stack { worker, nats } = Stack::start();
        drop(worker);
        let worker = Stack::start_worker_with(&nats, &environment(ratio));
        (nats, worker)
    });
    let run_arm = |arm: usize, round: usize| {
        let (nats, worker) = &arms[arm];
        // No two texts are the same, which would be computed once.
        let row = |n: usize| serde_json::json!({"id": n, "text": format!("{} {round} {n}", texts[n % texts.len()])});
        fs::write(&input, (0..ROWS).map(|n| format!("{}\n", row(n))).collect::<String>()).unwrap();
        let output = folder.path().join(format!("vectors-{arm}-{round}.jsonl"));
        let before = ticks(worker.id());
        let done = embed(nats).args(["backfill", "run"]).args([&input, &output]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // Of a hundredth of a second each.
        (ticks(worker.id()) - before) as f64 * 10_000.0 / ROWS as f64
    };
    let rounds: Vec<[f64; ARMS.len()]> = (0..=ROUNDS)
        .map(|round| {
            let mut took = [0.0; ARMS.len()];
            // Another one first in each round.
            for arm in (0..ARMS.len()).map(|arm| (arm + round) % ARMS.len()) {
                took[arm] = run_arm(arm, round);
            }
            println!("round {round}: us a text {took:.1?}");
            took
        })
        .collect();
    let spans = collector.wait_for("spans", |spans| Some(spans.len()).filter(|count| *count > 0));
    for (arm, (name, _)) in ARMS.iter().enumerate().skip(1) {
        // The first warms up.
        let mut ratios: Vec<f64> = rounds[1..].iter().map(|took| 100.0 * (took[arm] / took[0] - 1.0)).collect();
        ratios.sort_by(f64::total_cmp);
        println!("{name}: median {:+.2} %, from {:+.2} to {:+.2}", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
    }
    println!("{spans} spans");
}
