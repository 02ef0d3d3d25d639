//! `embed backfill`

pub(crate) mod manners;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use embed_schemas::Slug;

use self::manners::{EstimateArgs, MannersArgs, RetryArgs};
use super::{ModelArgs, parse_duration, parse_tenant};

#[derive(Debug, Subcommand)]
pub(crate) enum BackfillCommand {
    /// Embed every row of the INPUTs into OUTPUT
    Run(Box<BackfillRunArgs>),
    /// Go on with a backfill that was stopped
    Resume(BackfillResumeArgs),
    /// Show how far a backfill is
    Status {
        /// The output of the backfill
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BackfillRunArgs {
    /// Rows such as {"id": 7, "text": "…"}, one JSON object a line; `-` for standard input, which cannot be resumed
    #[arg(required = true, value_name = "INPUT")]
    pub(crate) inputs: Vec<String>,
    /// Rows such as {"id": 7, "embedding": […], "tokens": 3, "truncated": false}, in the order of the input; `-` for standard output, which
    /// cannot be resumed either
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Publish the jobs, and have the results stored, on behalf of this tenant
    #[arg(long, env = "EMBED_TENANT", value_parser = parse_tenant)]
    pub(crate) tenant: Option<Slug>,
    /// The field that holds the text
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub(crate) text_field: String,
    /// The field that holds the row's id, any JSON; rows without one get `line`, counted from 1, instead
    #[arg(long, default_value = "id", value_name = "NAME")]
    pub(crate) id_field: String,
    /// Other fields that come along into OUTPUT as they are, separated by commas; `all` for all but id and text
    #[arg(long, value_delimiter = ',', value_name = "FIELD")]
    pub(crate) keep: Vec<String>,
    /// Take vectors of this embedding space only, and stop at any other [default: that of the first]
    #[arg(long, value_name = "SPACE")]
    pub(crate) space: Option<String>,
    /// Rows in one job
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    pub(crate) chunk: u16,
    /// Overwrite OUTPUT if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) estimate: EstimateArgs,
    #[command(flatten)]
    pub(crate) retry: RetryArgs,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BackfillResumeArgs {
    /// The output of the backfill
    pub(crate) output: PathBuf,
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
    /// Leave the results in their stream until they expire
    #[arg(long)]
    pub(crate) keep_results: bool,
    /// Begin even if no worker serves the model or variant now: the jobs wait for one
    #[arg(long)]
    pub(crate) allow_unserved: bool,
    #[command(flatten)]
    pub(crate) manners: MannersArgs,
}
