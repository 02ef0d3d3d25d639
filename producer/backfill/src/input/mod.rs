//! What is read: files, one after another, as rows.
//!
//! | module | does |
//! |---|---|
//! | `options` | what the user can say of how it is read |
//! | `find` | names, patterns, folders and prefixes -> files |
//! | `format` | what a file is, by its name or its first bytes |
//! | `identity` | what a file held when the backfill began, and whether it is still the same |
//! | `check` | the same of all files, and what was mended |
//! | `look` | what a file has, and what is taken for text and id |
//! | `plan` | all of that, decided once |
//! | `source`, `remote` | the bytes of a file |
//! | `lines`, `csv` | lines of text -> rows |
//! | `varints`, `deltas`, `footer`, `ipc`, `pages`, `tables`, `cells` | Parquet and Arrow -> batches -> rows |
//! | `count` | how many rows there are, where a file says so |
//! | `fields`, `template` | which fields of a row are the text, the id, and what comes along |
//! | `columns` | what comes along into outputs that have columns |
//! | `select` | which rows are taken |
//! | `rows` | all of it, file after file |

mod cells;
mod check;
mod columns;
mod count;
mod csv;
mod deltas;
mod fields;
mod find;
mod footer;
mod format;
mod identity;
mod ipc;
mod lines;
mod look;
mod options;
mod pages;
mod plan;
mod remote;
mod rows;
mod select;
mod source;
mod tables;
mod template;
#[cfg(test)]
mod tests;
mod varints;

pub(crate) use self::{
    fields::Fields,
    find::is_remote,
    plan::Carry,
    rows::{REST_OF_A_FILE, Rows},
    source::is_stream,
};
pub use self::{
    format::{Compression, Format},
    options::{Filter, Reading, Sample, Shard},
    plan::{InputFile, Plan},
    rows::{ReadRow, read_rows},
};
use crate::Error;

/// For what reads a whole file.
async fn in_a_thread<T: Send + 'static>(read: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| Error::Backfill(format!("a task failed: {error}")))?
}
