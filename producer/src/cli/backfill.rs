//! `embed backfill`

mod input;
pub(crate) mod ledger;
mod long;
pub(crate) mod manners;
mod output;
pub(crate) mod reuse;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use embed_schemas::Slug;

use self::{
    input::InputArgs,
    long::{LongArgs, TokenizerArgs},
    manners::{EstimateArgs, MannersArgs, RetryArgs},
    output::OutputArgs,
};
use super::{ModelArgs, parse_duration, parse_tenant};

#[derive(Debug, Subcommand)]
pub(crate) enum BackfillCommand {
    /// Embed every row of the INPUTs into OUTPUT
    Run(Box<BackfillRunArgs>),
    /// Go on with a backfill that was stopped, on this machine or another
    Resume(BackfillResumeArgs),
    /// Show the backfills that the server's bucket knows: who runs them, and how far they are
    List(ledger::ListArgs),
    /// Show how far a backfill is
    Status(ledger::NameArgs),
    /// Have whoever runs a backfill keep what is done and end, so that it can go on later, anywhere
    Pause(ledger::NameArgs),
    /// End a backfill for good, whoever runs it: what is written stays, and results that are left are removed
    Cancel(ledger::NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BackfillRunArgs {
    /// Files of rows such as {"id": 7, "text": "…"}: JSON lines, CSV, TSV, Parquet or Arrow; gzip and zstd. One, several, a pattern, a folder, or
    /// the like in an object store (s3://…, gs://…, az://…); `-` for standard input, which cannot be resumed
    #[arg(required = true, value_name = "INPUT")]
    pub(crate) inputs: Vec<String>,
    /// A file that ends in `.jsonl`: rows such as {"id": 7, "embedding": […], "tokens": 3, "truncated": false}, in the order of the input; `-` for
    /// standard output, which cannot be resumed either. Else a folder, or a prefix such as s3://BUCKET/PREFIX, for files of bounded size
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Publish the jobs, and have the results stored, on behalf of this tenant
    #[arg(long, env = "EMBED_TENANT", value_parser = parse_tenant)]
    pub(crate) tenant: Option<Slug>,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// Other fields that come along into OUTPUT as they are, separated by commas; `all` for all but id and text
    #[arg(long, value_delimiter = ',', value_name = "FIELD")]
    pub(crate) keep: Vec<String>,
    /// Take vectors of this embedding space only, and stop at any other [default: that of the first]
    #[arg(long, value_name = "SPACE")]
    pub(crate) space: Option<String>,
    /// Rows in one job
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    pub(crate) chunk: u16,
    #[command(flatten)]
    pub(crate) long: LongArgs,
    #[command(flatten)]
    pub(crate) reuse: reuse::ReuseArgs,
    /// Overwrite OUTPUT if it exists; of a folder or a prefix, the files that a backfill makes
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) writing: OutputArgs,
    #[command(flatten)]
    pub(crate) estimate: EstimateArgs,
    #[command(flatten)]
    pub(crate) retry: RetryArgs,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BackfillResumeArgs {
    #[command(flatten)]
    pub(crate) name: ledger::NameArgs,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

/// What may be chosen anew when a backfill is resumed.
#[derive(Debug, Args)]
pub(crate) struct PaceArgs {
    /// Jobs in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub(crate) window: u16,
    /// Give up if no result at all comes for so long
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) stall_timeout: Duration,
    /// Go on behind a file that cannot be read; it counts as a failed row
    #[arg(long)]
    pub(crate) skip_bad_files: bool,
    /// Leave the results in their stream until they expire
    #[arg(long)]
    pub(crate) keep_results: bool,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    /// Begin even if no worker serves the model or variant now: the jobs wait for one
    #[arg(long)]
    pub(crate) allow_unserved: bool,
    #[command(flatten)]
    pub(crate) manners: MannersArgs,
}
