//! A large backfill on a stack of its own: Parquet on an S3 server to Parquet there, as fast as the engine alone, in bounded memory, with every
//! row there once, whatever is killed on the way; and again after a few of the rows have changed.
//!
//! | module | does |
//! |---|---|
//! | `corpus`, `files`, `bucket` | rows, as Parquet files, where they are read from and written to |
//! | `stack` | the processes |
//! | `engine` | the engine alone on the same texts |
//! | `kills` | which process is killed when |
//! | `play` | one backfill, watched |
//! | `watch` | memory of the processes, and JetStream's disk |
//! | `cpu` | processor time of the processes |
//! | `verify` | whether an output is what it should be |
//! | `summary` | what it came to |

mod bucket;
mod corpus;
mod cpu;
mod engine;
mod files;
mod kills;
mod play;
mod stack;
mod summary;
mod verify;
mod watch;

use std::{fs, path::PathBuf, time::Instant};

use anyhow::Context;
use embed_client::Client;
use tempfile::TempDir;

use self::{
    bucket::Bucket,
    corpus::{Corpus, Counts, Row},
    engine::Sample,
    kills::{Kill, plan},
    play::{Order, check_counts, options, play},
    stack::Stack,
    verify::Verified,
    watch::Watch,
};
use crate::texts;

pub use self::{corpus::MOST_ROWS, kills::Party, play::Played, stack::Setting, summary::fill};

/// What the corpora and outputs are called in their bucket.
const CORPUS: &str = "corpus";
const CHANGED: &str = "changed";

/// What to do on the stack.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Decides the texts, and what is killed when.
    pub seed: u64,
    /// Rows of the corpus.
    pub rows: u64,
    /// How often it is backfilled.
    pub runs: usize,
    /// Processes that are killed in each run.
    pub kills: usize,
    /// The share of rows that are changed for one more run; 0: there is none.
    pub changed: f64,
    /// Texts for the engine alone; 0: it is not measured.
    pub engine_texts: u64,
    /// Rows in a job.
    pub chunk: u64,
    /// More options for `embed backfill run`.
    pub options: Vec<String>,
    /// A Python that may have DuckDB.
    pub python: PathBuf,
    /// Whether times are judged, and not only counts, ids and memory.
    pub timed: bool,
}

/// What was seen.
#[derive(Debug)]
pub struct Observed {
    orders: Orders,
    /// Rows a second of the engine alone: before the first run, and after each.
    engine: Vec<f64>,
    runs: Vec<(Played, Verified)>,
    changed: Option<Changed>,
    watch: Watch,
}

/// What was seen of a corpus that is mostly as before.
#[derive(Debug)]
struct Changed {
    counts: Counts,
    run: (Played, Verified),
    /// The same once more, with nothing changed: what reading and writing take.
    idle: Played,
}

/// What runs meanwhile, and what is known of it.
struct Scene {
    setting: Setting,
    orders: Orders,
    say: fn(&str),
    stack: Stack,
    bucket: Bucket,
    watch: Watch,
    folder: TempDir,
}

/// Runs everything; tells on the way how far it is.
///
/// # Errors
/// If something cannot be done at all. What is not as it should be is in what is returned.
pub async fn run(setting: Setting, orders: Orders, say: fn(&str)) -> anyhow::Result<Observed> {
    let corpus = Corpus::new(orders.seed, orders.rows, &texts::load(None, orders.seed)?);
    let folder = tempfile::tempdir()?;
    let sample = Sample::take(&corpus, orders.engine_texts, folder.path())?;
    let measure = |when: &str| -> anyhow::Result<Option<f64>> {
        if orders.engine_texts == 0 {
            return Ok(None);
        }
        let rate = sample.measure(&setting)?;
        say(&format!("the engine alone, {when}: {rate:.0} rows/s"));
        Ok(Some(rate))
    };
    let mut engine = Vec::from_iter(measure("before")?);
    let stack = Stack::start(setting.clone()).await?;
    let bucket = Bucket::make(stack.s3())?;
    let watch = Watch::new(Instant::now());
    let mut scene = Scene { setting: setting.clone(), orders: orders.clone(), say, stack, bucket, watch, folder };
    scene.watch.ready(&scene.stack.processes());
    scene.upload(&corpus, CORPUS).await?;
    let mut runs = Vec::new();
    for n in 1..=orders.runs {
        let name = format!("run {n}");
        let run = scene
            .backfill(&name, (&corpus, CORPUS), &output(n), plan(orders.seed + n as u64, orders.kills), &[])
            .await?;
        let verified = scene.verify(&corpus, &output(n), &run).await?;
        runs.push((run, verified));
        engine.extend(measure(&format!("after {name}"))?);
    }
    let changed = if orders.changed > 0.0 { Some(scene.change(&corpus).await?) } else { None };
    Ok(Observed { orders, engine, runs, changed, watch: scene.watch })
}

/// Where a run writes.
fn output(run: usize) -> String {
    format!("out-{run}")
}

impl Scene {
    /// Puts a corpus into the bucket.
    async fn upload(&self, corpus: &Corpus, prefix: &str) -> anyhow::Result<()> {
        let mut bytes = 0;
        for (n, file) in files::encode(corpus).enumerate() {
            let file = file?;
            bytes += file.len();
            self.bucket.put(&format!("{prefix}/rows-{n:05}.parquet"), file).await?;
        }
        (self.say)(&format!("{prefix}: {} rows in {:.1} MB of Parquet", corpus.ids().count(), bytes as f64 / 1e6));
        Ok(())
    }

    /// One backfill.
    async fn backfill(
        &mut self,
        name: &str,
        (corpus, input): (&Corpus, &str),
        output: &str,
        kills: Vec<Kill>,
        more: &[String],
    ) -> anyhow::Result<Played> {
        let Orders { chunk, options: asked, .. } = &self.orders;
        let order = Order {
            name,
            options: options(self.setting.model.as_str(), *chunk, &[asked, more].concat()),
            input: Bucket::url(input),
            output: Bucket::url(output),
            rows: corpus.ids().count() as u64,
            chunk: *chunk,
            kills,
        };
        let played = play(&mut self.stack, order, &mut self.watch, self.say).await?;
        check_counts(&played)?;
        let cpu: Vec<String> = played.cpu_each().map(|(party, each)| format!("{party} {each:.1}")).collect();
        (self.say)(&format!(
            "{name}: {} rows in {:.1} s, {:.0} rows/s; processor time for a row, µs: {}",
            played.rows,
            played.seconds,
            played.rate(),
            cpu.join(", ")
        ));
        Ok(played)
    }

    /// Brings an output here, and compares it with its corpus.
    async fn verify(&self, corpus: &Corpus, output: &str, played: &Played) -> anyhow::Result<Verified> {
        let folder = self.folder.path().join(output);
        fs::create_dir_all(&folder)?;
        let files = self.bucket.fetch(output, &folder).await?;
        let ids = verify::choose(corpus);
        let rows: Vec<Row> = ids.iter().map(|id| corpus.row(*id)).collect();
        let client = embed_client::nats::connect(&self.stack.connection(), "embed-loadtest").await?;
        let vectors = verify::ask(&Client::new(client), &self.setting.model, &rows).await?;
        let started = Instant::now();
        let (found, reader) =
            verify::read(&self.orders.python, &folder, &files, &ids).with_context(|| played.name.clone())?;
        let verified = verify::judge((&found, reader), corpus, &rows, &vectors, started.elapsed().as_secs_f64());
        // It is as large as all vectors.
        fs::remove_dir_all(&folder)?;
        (self.say)(&format!("{}: verified by {reader}, {} problems", played.name, verified.problems.len()));
        Ok(verified)
    }

    /// A few rows change, and everything is backfilled again.
    async fn change(&mut self, first: &Corpus) -> anyhow::Result<Changed> {
        let corpus = first.changed(self.orders.changed);
        self.upload(&corpus, CHANGED).await?;
        let reuse = |output: &str| ["--reuse".to_owned(), format!("{}manifest.json", Bucket::url(output))];
        let (output, again) = ("out-changed", "out-again");
        let played = self.backfill("changed", (&corpus, CHANGED), output, Vec::new(), &reuse(&self::output(1))).await?;
        let verified = self.verify(&corpus, output, &played).await?;
        let idle = self.backfill("nothing changed", (&corpus, CHANGED), again, Vec::new(), &reuse(output)).await?;
        Ok(Changed { counts: corpus.counts(), run: (played, verified), idle })
    }
}
