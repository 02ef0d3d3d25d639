//! Options for texts that are longer than the model takes.

use clap::{Args, ValueEnum};
use embed_backfill::{Long, LongMode};

/// What becomes of texts that are longer than the model takes.
#[derive(Debug, Args)]
pub(crate) struct LongArgs {
    /// What becomes of texts that are longer than the model takes [default: truncate]
    #[arg(long, value_name = "HOW")]
    long: Option<How>,
    /// Most tokens of a window [default: what the model takes, beside the prompt]
    #[arg(long, requires = "long", value_name = "TOKENS")]
    long_window: Option<u32>,
    /// Tokens at the end of a window that are in the next one as well, at most [default: a tenth of the window]
    #[arg(long, requires = "long", value_name = "TOKENS")]
    long_overlap: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// Their beginning is embedded
    Truncate,
    /// They are taken apart into windows, at sentences where that can be: a row for each of them
    Split,
    /// The same, with the mean of the windows' vectors, each weighted by its tokens: one row
    Mean,
}

impl LongArgs {
    /// What is asked for. `truncate`: whether texts may be cut.
    pub(crate) fn long(self, truncate: bool) -> anyhow::Result<Long> {
        let Self { long, long_window: window, long_overlap: overlap } = self;
        if long == Some(How::Truncate) && !truncate {
            anyhow::bail!("--long truncate cuts texts, and --no-truncate forbids it: leave out one of the two");
        }
        let mode = match long {
            None | Some(How::Truncate) => LongMode::Truncate,
            Some(How::Split) => LongMode::Split,
            Some(How::Mean) => LongMode::Mean,
        };
        Ok(Long { mode, window, overlap, version: None })
    }
}

/// Where the model's tokenizer is.
#[derive(Debug, Args)]
pub(crate) struct TokenizerArgs {
    /// The registry of models, for --long split and mean: a path, file://, s3://, gs:// or az:// [default: build/registry here or in a parent
    /// folder]
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    pub(crate) registry: Option<String>,
}
