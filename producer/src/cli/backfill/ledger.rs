//! `embed backfill list`, `status`, `pause`, `cancel`: which backfill is meant.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::parse_duration;

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The output of the backfill, or its id, as `embed backfill list` shows it
    #[arg(value_name = "OUTPUT|ID")]
    pub(crate) name: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// First forget those that finished or were cancelled so long ago [without AGE: all of these]. What they have written stays
    #[arg(long, value_parser = parse_duration, value_name = "AGE", num_args = 0..=1, default_missing_value = "0s")]
    pub(crate) purge: Option<Duration>,
}
