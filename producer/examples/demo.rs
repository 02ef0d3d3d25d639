//! The whole way in one go, as a person would walk it: a local stack, a backfill of 2,000 sentences, a question, the
//! sentences nearest to it. `make demo` runs it; with `--stay`, the stack goes on until Ctrl-C.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use embed_client::{CallOptions, Client};
use embed_connect::ConnectSettings;
use embed_schemas::{EmbedRequest, Slug};
use serde::Deserialize;

const SENTENCES: &str = "deploy/samples/wordnet/sentences.jsonl";
const QUESTION: &str = "Where can I see the ocean?";
const NEAREST: usize = 5;
/// Calls over which the latency is measured, one after the other.
const CALLS: usize = 200;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut out = std::io::stdout();
    let started = Instant::now();

    writeln!(out, "$ embed dev --port 0")?;
    let mut stack = Stack::start(&folder.path().join("dev"))?;
    writeln!(
        out,
        "  ready in {:.1} s: {}, metrics at {}/metrics, status page at {}",
        started.elapsed().as_secs_f64(),
        stack.ready.nats_url,
        stack.ready.metrics_url,
        stack.ready.status_url
    )?;

    let vectors = folder.path().join("vectors.jsonl");
    writeln!(out, "\n$ embed backfill run {SENTENCES} vectors.jsonl")?;
    let status = command("embed")?
        .args(["backfill", "run"])
        .arg(repository().join(SENTENCES))
        .arg("vectors.jsonl")
        .current_dir(folder.path())
        .args(["--server", &stack.ready.nats_url])
        .status()?;
    ensure!(status.success(), "the backfill failed");

    writeln!(out, "\n$ embed ask {QUESTION:?}")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let settings = ConnectSettings { server: Some(stack.ready.nats_url.clone()), ..ConnectSettings::default() };
    let (question, latencies) = runtime.block_on(ask(&settings))?;
    for (score, text) in nearest(&question, &vectors)? {
        writeln!(out, "  {score:.3}  {text}")?;
    }
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    writeln!(
        out,
        "\n  one call at a time, {CALLS} calls: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms",
        at(0.5),
        at(0.95),
        at(0.99)
    )?;
    let (server, worker) = (resident(stack.ready.pids.nats_server)?, resident(stack.ready.pids.worker)?);
    writeln!(
        out,
        "  resident memory: nats-server {server} MB, embed-worker {worker} MB, together {} MB",
        server + worker
    )?;

    if std::env::args().any(|argument| argument == "--stay") {
        writeln!(out, "\n  what has happened: {}; Ctrl-C ends it", stack.ready.status_url)?;
        runtime.block_on(tokio::signal::ctrl_c())?;
    }
    stack.stop()?;
    writeln!(out, "  stopped; {:.1} s in all", started.elapsed().as_secs_f64())?;
    Ok(())
}

/// The question's vector, and how long each of many calls took, sorted.
async fn ask(settings: &ConnectSettings) -> anyhow::Result<(Vec<f32>, Vec<Duration>)> {
    let client = Client::connect(settings).await?;
    let model = Slug::from_name("all-MiniLM-L6-v2")?;
    let options = CallOptions::default();
    let question = client.embed(&model, EmbedRequest::new([QUESTION]), &options).await?.vector(0)?;
    let mut latencies = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let before = Instant::now();
        client.embed(&model, EmbedRequest::new([QUESTION]), &options).await?;
        latencies.push(before.elapsed());
    }
    latencies.sort_unstable();
    Ok((question, latencies))
}

/// The sentences with the largest cosine. Vectors have unit length, so it is the dot product.
fn nearest(question: &[f32], vectors: &Path) -> anyhow::Result<Vec<(f32, String)>> {
    #[derive(Deserialize)]
    struct Sentence {
        id: String,
        text: String,
    }
    #[derive(Deserialize)]
    struct Row {
        id: String,
        embedding: Vec<f32>,
    }
    let sentences: Vec<Sentence> = json_lines(&repository().join(SENTENCES))?;
    let rows: Vec<Row> = json_lines(vectors)?;
    ensure!(rows.len() == sentences.len(), "{} sentences, {} vectors", sentences.len(), rows.len());
    let mut scored = Vec::with_capacity(rows.len());
    for (sentence, row) in sentences.into_iter().zip(rows) {
        // The output has the order of the input.
        ensure!(sentence.id == row.id, "{} came where {} was expected", row.id, sentence.id);
        let score: f32 = question.iter().zip(&row.embedding).map(|(a, b)| a * b).sum();
        scored.push((score, sentence.text));
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.truncate(NEAREST);
    Ok(scored)
}

fn json_lines<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines().map(|line| serde_json::from_str(line).map_err(Into::into)).collect()
}

#[derive(Deserialize)]
struct Ready {
    nats_url: String,
    metrics_url: String,
    status_url: String,
    pids: Pids,
}

#[derive(Deserialize)]
struct Pids {
    nats_server: u32,
    worker: u32,
}

/// `embed dev` as a child.
struct Stack {
    child: Child,
    ready: Ready,
}

impl Stack {
    fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let mut child = command("embed")?
            .args(["dev", "--json", "--port", "0", "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::piped())
            // Its log is of interest only if it fails.
            .env("RUST_LOG", "error")
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("it is piped")?).read_line(&mut line)?;
        let ready = serde_json::from_str(&line).context("`embed dev` did not become ready; its message is above")?;
        Ok(Self { child, ready })
    }

    /// As Ctrl-C does.
    fn stop(&mut self) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id())?;
        // SAFETY: `kill` only takes integers, and the child has not been waited for, so the id is still its own.
        ensure!(unsafe { libc::kill(id, libc::SIGTERM) } == 0, "`embed dev` cannot be signalled");
        ensure!(self.child.wait()?.success(), "`embed dev` did not stop cleanly");
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // An error on the way here matters more than one in cleaning up.
            let _ = self.stop();
        }
    }
}

/// A binary of the workspace: cargo puts it one folder above the examples.
fn command(name: &str) -> anyhow::Result<Command> {
    let example = std::env::current_exe()?;
    let folder = example.ancestors().nth(2).context("examples are in target/<profile>/examples")?;
    Ok(Command::new(folder.join(name)))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder below the root").to_owned()
}

/// Resident memory of a process, megabytes.
fn resident(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1000)
}
