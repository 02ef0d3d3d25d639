//! Backfill: rows in, vectors out, through the queue.
//!
//! Rows are grouped into jobs on the bulk lane, a bounded number of them in flight, and written in the order of the
//! input. What is written is recorded, so that a run that was stopped, however it was stopped, goes
//! on where it was: every row is written exactly once.
//!
//! | module | does |
//! |---|---|
//! | `parameters` | what a backfill does, and how it is run |
//! | `input` | files -> rows, with their position |
//! | `row` | a row on its way |
//! | `known` | rows that need not be embedded |
//! | `windows` | long texts -> pieces that the model takes whole, and the mean of their vectors |
//! | `chunk` | rows -> groups that fit into one message |
//! | `queue` | groups -> their vectors |
//! | `output` | vectors -> where they are wanted |
//! | `writer` | takes groups in order, and records what is durable |
//! | `driver` | the loop over all of it |
//! | `state` | what is recorded of a backfill |
//! | `ledger` | the same in the bucket: who runs it, and what is wanted of it |
//! | `failures` | why rows have no vector, for the summary |
//! | `progress` | how far it is, how it ended |
//! | `manners` | how fast a run goes, when it waits or gives up, what it would take |
//! | `run` | begun, resumed, looked at |

mod chunk;
mod driver;
mod error;
mod failures;
mod input;
mod known;
mod ledger;
mod manners;
mod output;
mod parameters;
mod progress;
mod queue;
mod row;
mod run;
mod state;
mod windows;
mod writer;

pub use error::Error;
pub use failures::{Example, Failures, Reason, Skipped};
pub use input::{Compression, Filter, Format, InputFile, Plan, ReadRow, Reading, Sample, Shard, read_rows};
pub use ledger::{Asked, Known, KnownEntry, Listed, Live, Phase, Runner, Wish, cancel, list, look, pause, remove_old};
pub use manners::{Estimate, Extent, Manners, MaxErrors, Retry, Sampled, estimate};
pub use output::{
    Column, Counts, Manifest, Mark, PartFile, PartFormat, PartRows, StoredFile, StoredRow, VectorType, Writing,
};
pub use parameters::{Pace, Parameters, Reuse};
pub use progress::{Progress, Summary};
pub use row::{Digest, Position, Vector, Window};
pub use run::{resume, run, status};
pub use state::{Served, State, state_path};
pub use windows::{Long, LongMode};

#[cfg(test)]
mod tests {
    use crate::Parameters;

    pub(crate) fn parameters() -> Parameters {
        let (text_field, id_field) = ("text".into(), "id".into());
        Parameters { text_field, id_field, ..Parameters::new("m".parse().unwrap(), vec!["/in.jsonl".into()]) }
    }
}
