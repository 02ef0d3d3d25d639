//! Which rows need not be embedded.

use clap::Args;
use embed_backfill::Reuse;

#[derive(Debug, Args)]
pub(crate) struct ReuseArgs {
    /// The output of a finished backfill: rows whose text, prompt and dimensions are the same as there keep their vector and are not embedded
    /// again, as long as the embedding space is the same
    #[arg(long, value_name = "PREVIOUS")]
    reuse: Option<String>,
    /// Embed equal texts again each time they come. Otherwise vectors are kept in a temporary file until the run ends, see TMPDIR
    #[arg(long)]
    no_dedupe: bool,
}

impl From<ReuseArgs> for Reuse {
    fn from(args: ReuseArgs) -> Self {
        Self { equal: !args.no_dedupe, previous: args.reuse }
    }
}
