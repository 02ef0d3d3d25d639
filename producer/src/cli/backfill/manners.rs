//! How a backfill behaves, and how it tells how it goes.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use clap::{Args, ValueEnum};
use embed_backfill::{Manners, MaxErrors, Retry};

/// May be chosen anew when a backfill is resumed.
#[derive(Debug, Args)]
pub(crate) struct MannersArgs {
    /// Embed no more than so many rows a second
    #[arg(long, value_name = "ROWS")]
    rate: Option<NonZeroU32>,
    /// Stop when more rows of this run have failed than N, or than P% of them once there are 100; what is done is kept, and can be resumed
    #[arg(long, value_name = "N|P%")]
    max_errors: Option<MaxErrors>,
    /// How progress is told on standard error
    #[arg(long, value_enum, default_value_t = ProgressForm::Auto, value_name = "FORM")]
    pub(crate) progress: ProgressForm,
    /// Serve metrics for Prometheus on this address
    #[arg(long, visible_alias = "metrics", value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<SocketAddr>,
}

impl MannersArgs {
    pub(crate) const fn manners(&self) -> Manners {
        Manners { rate: self.rate, max_errors: self.max_errors }
    }
}

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressForm {
    /// A bar on a terminal, else a line every few seconds
    Auto,
    /// A JSON object a line, once a second
    Json,
    /// Not at all
    None,
}

/// What a backfill would take.
#[derive(Debug, Args)]
pub(crate) struct EstimateArgs {
    /// Embed the first rows only, write nothing, and say what all of them would take
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// What an hour of the workers costs, for the estimate
    #[arg(long, value_name = "PRICE", requires = "dry_run")]
    pub(crate) price_per_hour: Option<f64>,
}

/// Which rows.
#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// Only rows that have an `error` in FILE, an output of JSON lines or a file of failed rows; OUTPUT is another, or the same table
    #[arg(long, value_name = "FILE", conflicts_with_all = ["limit", "skip_bad_files"])]
    retry_failed: Option<PathBuf>,
}

impl RetryArgs {
    pub(crate) fn retry(self) -> Option<Retry> {
        self.retry_failed.map(|file| Retry { file, sha256: String::new() })
    }
}
