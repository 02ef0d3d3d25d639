//! A panic anywhere ends the worker, and what is in it goes to others at once.
//!
//! The worker is this file again, in a process of its own, with a subscriber for its log that panics at a line of our choice, in the thread
//! or task that writes it.

use std::{
    env, fmt,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::support::{Stack, model, provision, worker_command};
use async_nats::HeaderMap;
use clap::Parser;
use embed_schemas::{
    EmbedRequest, Format, Lane,
    streams::{self, StreamSettings},
};
use embed_testkit::{Daemon, NatsServer, wait_for};
use embed_worker::cli::Cli;
use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{Layer, filter::LevelFilter, layer::Context, layer::SubscriberExt, util::SubscriberInitExt};

/// Set in the worker's process: the line at which it panics.
const LINE: &str = "EMBED_TEST_PANIC_AT";
/// Set in the worker's process: its server.
const SERVER: &str = "EMBED_TEST_SERVER";
/// Longer than anything is waited for: what is not given back is never seen again.
const ACK_WAIT_MS: u64 = 600_000;
const JOBS: u64 = 30;

/// Panics at a line, once the worker has jobs.
struct Bomb {
    line: String,
    is_armed: AtomicBool,
    went_off: AtomicBool,
}

impl<S: Subscriber> Layer<S> for Bomb {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        if message.0 == "take a job" {
            self.is_armed.store(true, Ordering::SeqCst);
        }
        // Of any lane, or of one: the worker's calls to itself are no jobs.
        let line = self.line.strip_suffix(" of a job").unwrap_or(&self.line);
        let is_it = message.0 == line && (line == self.line || message.1 == "Job");
        if is_it && self.is_armed.load(Ordering::SeqCst) && !self.went_off.swap(true, Ordering::SeqCst) {
            panic!("a bomb at {:?}", self.line);
        }
    }
}

#[derive(Default)]
struct Message(String, String);

impl Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.0 = format!("{value:?}"),
            "lane" => self.1 = format!("{value:?}"),
            _ => {}
        }
    }
}

/// The worker. As a test, it is none.
#[test]
fn worker() {
    let (Ok(line), Ok(server)) = (env::var(LINE), env::var(SERVER)) else { return };
    let bomb = Bomb { line, is_armed: AtomicBool::new(false), went_off: AtomicBool::new(false) };
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(log).with(bomb.with_filter(LevelFilter::TRACE)).init();
    let arguments = ["embed-worker", "run", "--server", &server, "--metrics-addr", "127.0.0.1:0"];
    Cli::parse_from(arguments).run();
}

fn spawn(nats: &NatsServer, line: &str, environment: &[(&str, &str)]) -> Daemon {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["panics::worker", "--exact", "--nocapture"]).env(LINE, line).env(SERVER, nats.url());
    command.envs(environment.iter().copied());
    Daemon::spawn(command.env("EMBED_REGISTRY", embed_testkit::registry()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_anywhere_ends_the_worker_and_its_jobs_go_to_others_at_once() {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    provision(&client, &StreamSettings { ack_wait_ms: ACK_WAIT_MS, ..StreamSettings::default() }).await;
    let places = [
        ("tokenize", "a tokenizer's thread"),
        ("run of a job", "an engine's thread"),
        ("take a job", "an intake of jobs"),
        ("publish", "publishing"),
        ("acknowledged", "the listener for acknowledgements"),
        ("acknowledge", "the keeper of leases"),
    ];
    let text = "a sentence of a job that somebody wants to have ".repeat(10);
    let texts = vec![text; 8];
    for (round, (line, what)) in (0..).zip(places) {
        for n in 0..JOBS {
            let id = Some(format!("job-{round}-{n}").parse().unwrap());
            let request = EmbedRequest { id, ..EmbedRequest::new(texts.iter().cloned()) };
            let payload = Format::MessagePack.encode(&request);
            let subject = embed_schemas::subjects::bare(Lane::Job, &model());
            client.publish_with_headers(subject, HeaderMap::new(), payload).await.unwrap();
        }
        // It may take the first of them before it is ready.
        let mut worker = spawn(&nats, line, &[]);
        worker.wait_for_log("a bomb");
        let begun = Instant::now();
        let status = wait_for("the worker to end", || (!worker.is_running()).then(|| worker.wait()));
        let (took, (status, log)) = (begun.elapsed(), status);
        // Far from what it would have to drain, on a machine that is busy.
        assert!(took < Duration::from_secs(15), "{line}: {took:?}\n{log}");
        assert_eq!(status.code(), Some(1), "{line}: {log}");
        assert!(log.contains(&format!("{what} panicked: a bomb")), "{line}: {log}");
    }
    // Whatever was not done in one of them is done by the next.
    let worker = Daemon::spawn(&mut worker_command(&nats, &[]));
    let stack = Stack { ready: worker.json_line(), worker, nats, client };
    stack.wait_for_messages(&streams::results_stream(&model()), JOBS * places.len() as u64).await;
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    assert_eq!(stack.messages_in(&streams::dead_stream(&model())).await, 0);
}

/// It panics wherever it is computed. So it is found alone, and is a dead letter after the attempts that it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_makes_its_worker_panic_is_a_dead_letter_in_the_end() {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    provision(&client, &StreamSettings { ack_wait_ms: ACK_WAIT_MS, ..StreamSettings::default() }).await;
    // More texts than one batch takes: when one of them runs, others wait.
    let text = "a sentence of a job that harms whoever computes it ".repeat(10);
    let request = EmbedRequest { id: Some("harmful".parse().unwrap()), ..EmbedRequest::new(vec![text; 100]) };
    let payload = Format::MessagePack.encode(&request);
    client.publish(embed_schemas::subjects::bare(Lane::Job, &model()), payload).await.unwrap();
    let attempts = 2;
    let mut deaths = 0;
    loop {
        let mut worker =
            spawn(&nats, "run of a job", &[("EMBED_WORKER__LIMITS__MAX_DELIVERIES", &attempts.to_string())]);
        let context = async_nats::jetstream::new(client.clone());
        let dead =
            async || context.get_stream(streams::dead_stream(&model())).await.unwrap().cached_info().state.messages;
        let results =
            async || context.get_stream(streams::results_stream(&model())).await.unwrap().cached_info().state.messages;
        while worker.is_running() && dead().await == 0 {
            assert!(results().await == 0 || deaths > 0, "it was computed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if dead().await == 1 {
            break;
        }
        deaths += 1;
        let (_, log) = worker.wait();
        assert!(log.contains("an engine's thread panicked: a bomb"), "{log}");
        assert!(deaths <= attempts, "it has died {deaths} times");
    }
    assert_eq!(deaths, attempts, "once in company, and then alone");
}
