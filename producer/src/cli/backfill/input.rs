//! What is read, and which rows of it.

use clap::Args;
use embed_backfill::{Filter, Format, Reading, Sample, Shard};

#[derive(Debug, Args)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputArgs {
    /// The field that holds the text; a path such as doc.body for one within others [default: text, or what looks like it]
    #[arg(long, value_name = "NAME", conflicts_with = "template")]
    pub(crate) text_field: Option<String>,
    /// A text made of several fields, such as '{title}\n\n{body}'; those that are missing are empty
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,
    /// The field that holds the row's id; rows without one get `line`, counted from 1, instead [default: id, or what looks like it]
    #[arg(long, value_name = "NAME")]
    pub(crate) id_field: Option<String>,
    /// The format of all INPUTs: jsonl, csv, tsv, parquet or arrow [default: by their names or first bytes]
    #[arg(long, value_name = "FORMAT")]
    input_format: Option<Format>,
    /// Rows with this value only; `!=` for those without it. Once for each condition
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    filters: Vec<Filter>,
    /// No more rows than this
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// This fraction of the rows, always the same ones
    #[arg(long, value_name = "FRACTION")]
    sample: Option<Sample>,
    /// Another number, other rows of --sample
    #[arg(long, default_value_t = 0, value_name = "NUMBER", requires = "sample")]
    seed: u64,
    /// One of several parts of the INPUTs, such as 3/16, so that several machines share them
    #[arg(long, value_name = "PART/PARTS")]
    shard: Option<Shard>,
}

impl InputArgs {
    /// How the input is read.
    pub(crate) fn reading(&self, skip_bad_files: bool) -> Reading {
        Reading {
            format: self.input_format,
            template: self.template.clone(),
            filters: self.filters.clone(),
            limit: self.limit,
            sample: self.sample.map(|sample| Sample { seed: self.seed, ..sample }),
            shard: self.shard,
            skip_bad_files,
        }
    }
}
