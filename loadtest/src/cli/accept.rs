//! `accept`: what the batch engine promises, each a ratio taken in one run on one machine.
//!
//! It brings a stack of its own: first the engine alone (`embed-loadtest bench`), then, with `embed dev`, the whole way over
//! the same texts.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::{Args, Parser};
use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_report::{Verdict, significant};
use embed_schemas::{EmbedRequest, Format, wire::decode_outcome};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{
    session::{Session, finish, notes},
    target::{Target, TargetArgs, parse_some_time},
};
use crate::{
    lengths::Lengths,
    pattern::Profile,
    report::{Document, Named, call_plots, figures},
    texts,
};

/// A short text, as online calls have.
const SHORT: &str = "hello world";
/// Its tokens.
const SHORT_TOKENS: &str = "4";
/// Calls, one after the other, for the latency of an idle worker.
const IDLE_CALLS: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct AcceptArgs {
    /// Model registry: a path, file://, s3://, gs:// or az://
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    registry: String,
    /// How long each measurement under load takes
    #[arg(long, default_value = "40", value_parser = parse_some_time, value_name = "DURATION")]
    duration: Duration,
    /// Calls a second beside bulk jobs
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Write report.json and report.html into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The options of a measurement, at their defaults.
#[derive(Debug, Parser)]
struct Defaults {
    #[command(flatten)]
    target: TargetArgs,
}

impl AcceptArgs {
    pub(super) fn run(self, json: bool) -> anyhow::Result<bool> {
        let folder = tempfile::tempdir()?;
        let rows = folder.path().join("mixed.jsonl");
        write_texts(&rows)?;
        let parameters = json!({ "duration, s": self.duration.as_secs_f64(), "rate, calls/s": self.rate });
        let parameters = parameters.as_object().cloned().unwrap_or_default();
        let mut document = Document::begin("accept", "What the batch engine promises".to_owned(), parameters);

        let engine = self
            .bench(&["--mix", "none", "--mix-rounds", "1", "--batch", "1", "--length", "16", "--texts"], Some(&rows))?;
        let short = self.bench(
            &["--runners", "1", "--mix", "none", "--batch", "1", "--length", SHORT_TOKENS, "--seconds-per-cell", "3"],
            None,
        )?;
        let stack = Stack::start(&self.registry, &folder.path().join("dev"))?;
        let backfill = stack.backfill(&rows, &folder.path().join("vectors.jsonl"))?;

        let mix = &engine["mixes"][0];
        let arm = |order: usize| mix["arms"][order]["texts_per_second"].as_f64().context("the bench lacks an order");
        let (sorted, planner, arrival) = (arm(0)?, arm(1)?, arm(2)?);
        let verdicts = &mut document.verdicts;
        verdicts.push(at_least("Planner against arrival order, 32 a batch", planner / arrival, 4.0, " x"));
        for cost in engine["planner"].as_array().into_iter().flatten() {
            let (waiting, time) = (&cost["waiting"], cost["us_per_text"].as_f64().unwrap_or(f64::NAN));
            verdicts.push(at_most(&format!("Planner's own time per text, {waiting} waiting"), time, 2.0, " µs"));
        }
        verdicts.push(at_least(
            "Backfill, end to end, against the engine alone perfectly sorted",
            backfill / sorted * 100.0,
            85.0,
            " %",
        ));
        verdicts.push(told("Backfill, end to end", backfill, " texts/s"));
        verdicts.push(told("Engine alone, perfectly sorted", sorted, " texts/s"));

        let session = Session::open(&stack.settings())?;
        let budget = session.wait_for(online_run_ms(&session.client, &stack.target()?))?;
        let added = session.wait_for(one_at_a_time(session.client.nats(), &stack.target()?))?;
        let bare = short["matrix"][0]["p50_ms"].as_f64().context("the bench lacks the short run")?;
        let ms = |quantile: f64| added.value_at_quantile(quantile) as f64 / 1000.0;
        verdicts.push(told("Engine alone, a short text, run after run, median", bare, " ms"));
        verdicts.push(at_most(
            "Call of a short text, idle: time added to its own run in the engine, p50",
            ms(0.5),
            1.0,
            " ms",
        ));
        verdicts.push(at_most("The same, p99", ms(0.99), 3.0, " ms"));

        let target = stack.target()?;
        // So few calls that none falls into the measurement.
        let quiet = Profile::constant(1e-6, self.duration).after(target.load.warm_up);
        let alone = session.play(&target, quiet.clone(), true, self.duration)?;
        let busy = Profile::constant(self.rate, self.duration).after(target.load.warm_up);
        let both = session.play(&target, busy, true, self.duration)?;
        // Before and after: a machine that gets slower or faster meanwhile must not look like a loss or a gain.
        let again = session.play(&target, quiet, true, self.duration)?;
        let p99 = both.tally.latency.value_at_quantile(0.99) as f64 / 1000.0;
        let bulk = |observed: &crate::scenario::Observed| observed.bulk.as_ref().map_or(0.0, |bulk| bulk.per_second());
        verdicts.push(told(&format!("Calls while bulk saturates, {} a second, p99", self.rate), p99, " ms"));
        verdicts.push(at_most(
            &format!("The same, in runs of the worker's budget ({} ms)", significant(budget, 3)),
            p99 / budget,
            3.0,
            " x",
        ));
        verdicts.push(at_least(
            "Bulk beside calls, against bulk alone",
            bulk(&both) / ((bulk(&alone) + bulk(&again)) / 2.0) * 100.0,
            90.0,
            " %",
        ));
        let (first, second) = (Named("bulk alone", &alone), Named("bulk and calls", &both));
        document.figures = figures(&[first, second]);
        document.plots = call_plots(second, 50.0);
        document.notes = notes("beside bulk, ", &both);
        stack.stop()?;
        finish(&document, self.out.as_deref(), json)
    }

    /// `embed-loadtest bench` with these arguments, in a process of its own.
    fn bench(&self, arguments: &[&str], file: Option<&Path>) -> anyhow::Result<Value> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "--json", "--registry", &self.registry]).args(arguments).args(file);
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the bench failed; its message is above");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn at_least(name: &str, value: f64, least: f64, unit: &str) -> Verdict {
    Verdict { target: format!("at least {least}{unit}"), passed: Some(value >= least), ..told(name, value, unit) }
}

fn at_most(name: &str, value: f64, most: f64, unit: &str) -> Verdict {
    Verdict { target: format!("at most {most}{unit}"), passed: Some(value <= most), ..told(name, value, unit) }
}

fn told(name: &str, value: f64, unit: &str) -> Verdict {
    Verdict { name: name.to_owned(), value: format!("{}{unit}", significant(value, 3)), ..Verdict::default() }
}

/// The longest run while online calls come in, as the worker says, milliseconds.
async fn online_run_ms(client: &Client, target: &Target) -> anyhow::Result<f64> {
    let workers = client.workers().await?;
    let statuses = workers.iter().flat_map(|worker| &worker.variants);
    let mut of_model = statuses.filter(|((model, _), status)| *model == target.bulk.model && status.default);
    let live =
        of_model.find_map(|(_, status)| status.live.as_ref()).context("no worker says that it serves the model")?;
    let budget = live.online_run_us.context("the worker does not tell how long a run may take while calls come in")?;
    Ok(budget as f64 / 1000.0)
}

/// Distinct texts of mixed lengths: the same for the engine alone and for the whole way.
fn write_texts(path: &Path) -> anyhow::Result<()> {
    let rows = Lengths::Mixed.apply(texts::load(None, 1)?, 1);
    let rows: String = rows.into_iter().map(|text| json!({ "text": text }).to_string() + "\n").collect();
    Ok(fs::write(path, rows)?)
}

/// What calls that wait for each other take beyond their own run in the engine, microseconds.
async fn one_at_a_time(client: &async_nats::Client, target: &Target) -> anyhow::Result<Histogram<u64>> {
    let mut added = Histogram::new_with_max(60_000_000, 3)?;
    let payload = Format::MessagePack.encode(&EmbedRequest::new([SHORT]));
    for _ in 0..IDLE_CALLS {
        let before = Instant::now();
        let answer = client.request(target.load.subject.clone(), payload.clone()).await?;
        let took = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
        let result = decode_outcome(&answer.payload)?.into_result()?;
        added.saturating_record(took.saturating_sub(result.timing.infer_us));
    }
    Ok(added)
}

/// `embed dev`, as a child.
struct Stack {
    child: Child,
    ready: Value,
}

impl Stack {
    fn start(registry: &str, data_dir: &Path) -> anyhow::Result<Self> {
        let mut command = sibling("embed")?;
        command.args(["dev", "--json", "--port", "0", "--registry", registry, "--data-dir"]).arg(data_dir);
        let mut child = command.env("RUST_LOG", "error").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("it is piped")?).read_line(&mut line)?;
        let ready = serde_json::from_str(&line).context("`embed dev` did not become ready; its message is above")?;
        Ok(Self { child, ready })
    }

    fn url(&self) -> &str {
        self.ready["nats_url"].as_str().unwrap_or_default()
    }

    fn settings(&self) -> ConnectSettings {
        ConnectSettings { server: Some(self.url().to_owned()), ..ConnectSettings::default() }
    }

    /// Calls and bulk jobs of mixed lengths, everything else at its default.
    fn target(&self) -> anyhow::Result<Target> {
        Defaults::try_parse_from(["accept", "--lengths", "mixed"])?.target.prepare(true, None)
    }

    /// Rows per second of a backfill.
    fn backfill(&self, input: &Path, output: &Path) -> anyhow::Result<f64> {
        let mut command = sibling("embed")?;
        command.args(["backfill", "run", "--json", "--server", self.url()]).args([input, output]);
        let done = command.stderr(Stdio::inherit()).output()?;
        ensure!(done.status.success(), "the backfill failed; its message is above");
        let summary: Value = serde_json::from_slice(&done.stdout)?;
        summary["rows_per_second"].as_f64().context("the summary lacks `rows_per_second`")
    }

    /// As Ctrl-C does.
    fn stop(mut self) -> anyhow::Result<()> {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status()?;
        ensure!(kill.success() && self.child.wait()?.success(), "`embed dev` did not stop cleanly");
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // After an error on the way: the worker and the server end with `embed dev`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that is installed beside this one.
fn sibling(name: &str) -> anyhow::Result<Command> {
    let here = std::env::current_exe()?;
    Ok(Command::new(here.with_file_name(name)))
}
