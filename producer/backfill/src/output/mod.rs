//! Where rows go.
//!
//! | module | does |
//! |---|---|
//! | `target` | what an output is, from how it is called |
//! | `lines_file` | a file that is appended to, or standard output |
//! | `line` | a row -> its lines of JSON |
//! | `parts` | files of bounded size, each visible when it is complete |
//! | `layout` | what all parts are like, and what is known of one |
//! | `rows` | rows that wait to be encoded |
//! | `columns` | rows -> columns |
//! | `encode`, `npy`, `parquet_file` | rows -> the bytes of a file |
//! | `vector_pages` | the column of vectors of a Parquet file, whole pages at a time |
//! | `place`, `upload` | a folder or a prefix of an object store, and a file on its way there |
//! | `names` | what files are called |
//! | `manifest` | what an output in parts is |
//! | `read` | the rows of parts |
//! | `postgres` | a table of PostgreSQL with pgvector |

mod columns;
mod encode;
mod layout;
mod line;
mod lines_file;
mod manifest;
mod names;
mod npy;
mod parquet_file;
mod parts;
mod place;
mod postgres;
mod read;
mod rows;
mod sink;
mod target;
mod upload;
mod vector_pages;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use layout::{PartFile, StoredFile};
pub(crate) use line::Files;
pub use manifest::{Column, Counts, Manifest};
pub(crate) use names::MANIFEST;
pub(crate) use postgres::is_table;
pub use read::{PartRows, StoredRow};
pub use target::{PartFormat, VectorType, Writing};
pub(crate) use target::{Target, is_remote, location};

use self::{layout::Layout, lines_file::LinesFile, names::Run, parts::Parts, place::Place, postgres::Postgres};
use crate::{Error, LongMode, Parameters, Plan, State, row::Done};

/// What is durable of an output: where a run goes on after any kind of end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Bytes of a file that is appended to. What comes after is written again.
    #[serde(default)]
    pub bytes: u64,
    /// Parts that are complete, in the order of the input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartFile>,
    /// Files of rows that have no vector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<PartFile>,
    /// The number of the next part.
    #[serde(default)]
    pub next_part: u32,
    /// Numbers of a vector in parts, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
}

/// Where rows go, in the order of the input, whole groups at a time.
#[derive(Debug)]
pub(crate) enum Output {
    /// JSON lines, appended to a file or standard output.
    Lines(LinesFile, Files),
    /// Files of bounded size.
    Parts(Box<Parts>),
    /// Rows of a table.
    Postgres(Box<Postgres>),
}

impl Output {
    /// Opens the output of a new backfill, and locks it against others. What is there stays until [`Output::go_on`].
    ///
    /// # Errors
    /// If it cannot be opened, or something is there that is not to be overwritten.
    pub(crate) async fn create(
        target: &Target,
        parameters: &Parameters,
        plan: &Plan,
        force: bool,
    ) -> Result<Self, Error> {
        match target {
            Target::Stream => LinesFile::stream().map(|file| Self::Lines(file, Files::of(plan))),
            Target::Lines(path) => LinesFile::create(path, force).map(|file| Self::Lines(file, Files::of(plan))),
            Target::Postgres(location) => {
                let failed = parameters.writing.failed.as_ref();
                let failed = failed.map(|path| LinesFile::create(path, force)).transpose()?;
                postgres(location, parameters, plan, failed).await
            }
            Target::Parts { location, format } => {
                let parts = Parts::new(Place::claim(location)?, layout(parameters, location, *format, plan), plan)?;
                if !force {
                    parts.refuse_overwriting().await?;
                }
                Ok(Self::Parts(Box::new(parts)))
            }
        }
    }

    /// Opens the output of a backfill that was begun, and locks it against others. What is there stays until [`Output::go_on`].
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) async fn reopen(output: &Path, parameters: &Parameters, plan: &Plan) -> Result<Self, Error> {
        match Target::recorded(output, &parameters.writing) {
            Target::Stream => LinesFile::stream().map(|file| Self::Lines(file, Files::of(plan))),
            Target::Lines(path) => LinesFile::reopen(&path).map(|file| Self::Lines(file, Files::of(plan))),
            Target::Postgres(location) => {
                let failed = parameters.writing.failed.as_ref().map(|path| LinesFile::reopen(path)).transpose()?;
                postgres(&location, parameters, plan, failed).await
            }
            Target::Parts { location, format } => {
                let parts = Parts::new(Place::claim(&location)?, layout(parameters, &location, format, plan), plan)?;
                Ok(Self::Parts(Box::new(parts)))
            }
        }
    }

    /// Goes on after what was recorded; what is there beyond it is dropped, once `may_write` allows it.
    ///
    /// # Errors
    /// If something that was recorded is not there as it was.
    pub(crate) async fn go_on(
        &mut self,
        mark: &Mark,
        may_write: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        if let Self::Parts(parts) = self {
            return parts.go_on(mark, may_write).await;
        }
        may_write.await?;
        match self {
            Self::Lines(file, _) if file.is_stream() => Ok(()),
            Self::Lines(file, _) => file.cut(mark.bytes),
            Self::Postgres(table) => table.go_on(mark.bytes),
            Self::Parts(_) => Ok(()),
        }
    }

    /// Takes the rows of a group. One that it cannot hold gets the reason instead of its vectors.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) async fn write(&mut self, rows: &mut [Done]) -> Result<(), Error> {
        match self {
            Self::Lines(file, files) => {
                let mut lines = Vec::new();
                rows.iter().for_each(|row| line::write(&mut lines, row, files));
                file.append(&lines)
            }
            Self::Parts(parts) => parts.write(rows).await,
            Self::Postgres(table) => table.write(rows).await,
        }
    }

    /// Whether it should be settled at once, rather than when it is next time for it.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Lines(..) | Self::Postgres(_) => false,
            Self::Parts(parts) => parts.is_full(),
        }
    }

    /// Holds no more than so many bytes before they are durable: the results are in their stream for so long, and must not fill it.
    pub(crate) fn hold_at_most(&mut self, bytes: u64) {
        match self {
            Self::Lines(..) | Self::Postgres(_) => {}
            Self::Parts(parts) => parts.hold_at_most(bytes),
        }
    }

    /// Makes what was written durable, if this is a moment for it; always if `now`. Returns whether all that was written is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn settle(&mut self, now: bool) -> Result<bool, Error> {
        match self {
            Self::Lines(file, _) => file.sync().map(|()| true),
            Self::Parts(parts) => parts.settle(now).await,
            Self::Postgres(table) => table.settle().await.map(|()| true),
        }
    }

    /// Has what was written made durable while more is written, where that takes long. Returns whether it is on its way: [`Output::closed`]
    /// waits for it, and so does this for what was on its way before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn close(&mut self) -> Result<bool, Error> {
        match self {
            Self::Lines(..) | Self::Postgres(_) => Ok(false),
            Self::Parts(parts) => parts.close().await.map(|()| true),
        }
    }

    /// Whether [`Output::closed`] would not wait.
    pub(crate) fn has_closed(&self) -> bool {
        match self {
            Self::Lines(..) | Self::Postgres(_) => true,
            Self::Parts(parts) => parts.has_closed(),
        }
    }

    /// Waits until what is on its way is durable.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn closed(&mut self) -> Result<(), Error> {
        match self {
            Self::Lines(..) | Self::Postgres(_) => Ok(()),
            Self::Parts(parts) => parts.closed().await,
        }
    }

    /// Bytes of a file that is appended to.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub(crate) fn length(&self) -> Result<Option<u64>, Error> {
        match self {
            Self::Lines(file, _) => file.length().map(Some),
            Self::Parts(_) | Self::Postgres(_) => Ok(None),
        }
    }

    /// What is durable, once all that was written is, or all that was on its way.
    pub(crate) fn mark(&self) -> Mark {
        match self {
            Self::Lines(file, _) => Mark { bytes: file.bytes(), ..Mark::default() },
            Self::Parts(parts) => parts.mark(),
            Self::Postgres(table) => Mark { bytes: table.failed_bytes(), ..Mark::default() },
        }
    }

    /// Ends an output of which everything is durable: it becomes visible as a whole, where that is not so before, once `may_write` allows it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn finish(
        &mut self,
        state: &State,
        may_write: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        match self {
            Self::Lines(..) => {}
            Self::Parts(parts) => parts.finish(state, may_write).await?,
            Self::Postgres(table) => table.finish(),
        }
        Ok(())
    }

    /// Whether a run can go on with it. What is written to standard output is gone.
    pub(crate) fn can_go_on(&self) -> bool {
        match self {
            Self::Lines(file, _) => !file.is_stream(),
            Self::Parts(_) | Self::Postgres(_) => true,
        }
    }
}

/// A table.
async fn postgres(
    location: &str,
    parameters: &Parameters,
    plan: &Plan,
    failed: Option<LinesFile>,
) -> Result<Output, Error> {
    let windows = parameters.long.mode == LongMode::Split;
    let failed = failed.map(|file| (file, Files::of(plan)));
    let table = Postgres::open(location, plan.columns.as_deref(), &parameters.id_field, windows, failed).await?;
    Ok(Output::Postgres(Box::new(table)))
}

/// What parts are like.
fn layout(parameters: &Parameters, location: &str, format: PartFormat, plan: &Plan) -> Layout {
    let layout = Layout::of(parameters, format, plan.columns.clone(), parameters.long.mode == LongMode::Split);
    // A folder is locked.
    let run = if is_remote(location) { Run::new(rand::random()) } else { Run::default() };
    Layout { run, ..layout }
}
