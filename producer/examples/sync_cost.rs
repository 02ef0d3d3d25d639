//! What `sync_interval: always` costs: jobs published a second, and rows of a backfill a second, on a server with the configuration in
//! `deploy/nats` and on one with the same but for that line. Builds of `embed-worker` and the model have to be there (`make setup build`).

#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::{fmt::Write, path::Path, process::Command, time::Instant};

use embed_backfill::{self as backfill, Pace, Parameters};
use embed_client::{Client, PublishOptions};
use embed_control::provision::{ModelVariants, apply};
use embed_schemas::{EmbedRequest, Lane, Slug, streams::StreamSettings};
use embed_testkit::{Daemon, registry, repository, sibling_binary};
use futures::{StreamExt, TryStreamExt, stream};

#[path = "../tests/support/configured.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod configured;

use configured::Folder;

const ROUNDS: usize = 3;
const SENTENCES: &str = "deploy/samples/wordnet/sentences.jsonl";
const MODEL: &str = "all-minilm-l6-v2";
/// Jobs, and how many of them are published at once.
const PUBLISHES: [(usize, usize); 2] = [(500, 1), (5_000, 32)];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut measured = [vec![], vec![]];
    // In turns, so that what else the machine does hits both.
    for _ in 0..ROUNDS {
        for (sync, figures) in [false, true].into_iter().zip(&mut measured) {
            figures.push(measure(sync, folder.path()).await?);
        }
    }
    for (name, figures) in ["default (two minutes)", "always"].into_iter().zip(&measured) {
        let mut line = format!("sync_interval {name}:");
        for (i, what) in ["jobs/s one at a time", "jobs/s 32 at a time", "rows/s of a backfill"].iter().enumerate() {
            let mut all: Vec<f64> = figures.iter().map(|figures| figures[i]).collect();
            all.sort_by(f64::total_cmp);
            write!(line, " {:.0} {what} ({:.0} to {:.0});", all[ROUNDS / 2], all[0], all[ROUNDS - 1])?;
        }
        println!("{}", line.trim_end_matches(';'));
    }
    Ok(())
}

/// Jobs a second one at a time and many at a time, and rows a second.
async fn measure(sync: bool, folder: &Path) -> anyhow::Result<[f64; 3]> {
    let (model, idle): (Slug, Slug) = (MODEL.parse()?, "idle".parse()?);
    let without = |text: String| text.replace("sync_interval: always", "");
    let configuration = Folder::new().for_models(&[MODEL, idle.as_str()]);
    let server = if sync { configuration } else { configuration.change("single.conf", without) }.start();
    let client = Client::connect(&server.settings("operator")).await?;
    let variants =
        |model: &Slug| ModelVariants { model: model.clone(), variants: vec!["fp32".parse().expect("a slug")] };
    apply(client.nats(), &[variants(&model), variants(&idle)], &StreamSettings::default()).await?;
    let mut figures = [0.0; 3];
    for (figure, (jobs, at_once)) in figures.iter_mut().zip(PUBLISHES) {
        let options = PublishOptions::default();
        let publish =
            |n| client.publish(&idle, Lane::Job, EmbedRequest::new([format!("a sentence, number {n}")]), &options);
        let started = Instant::now();
        stream::iter(0..jobs).map(publish).buffer_unordered(at_once).try_collect::<Vec<_>>().await?;
        *figure = jobs as f64 / started.elapsed().as_secs_f64();
    }
    let mut worker = Command::new(sibling_binary("embed-worker"));
    worker.args(["run", "--json", "--metrics-addr", "127.0.0.1:0"]).env("EMBED_REGISTRY", registry());
    server.connected("worker", &mut worker);
    let worker = Daemon::spawn(&mut worker);
    worker.json_line();
    let parameters = Parameters::new(model, vec![repository().join(SENTENCES).to_string_lossy().into_owned()]);
    let (output, never) = (folder.join("vectors.jsonl"), std::future::pending());
    let summary = backfill::run(&client, parameters, &output, true, &Pace::default(), never, |_| {}).await?;
    figures[2] = summary.rows_per_second;
    worker.terminate();
    Ok(figures)
}
