//! Where rows go.
//!
//! | module | does |
//! |---|---|
//! | `lines_file` | a file that is appended to, or standard output |
//! | `line` | a row -> its lines of JSON |
//! | `postgres` | a table of PostgreSQL with pgvector |

mod line;
mod lines_file;
mod postgres;

use serde::{Deserialize, Serialize};

pub(crate) use lines_file::LinesFile;
pub(crate) use postgres::Postgres;

use crate::{Error, State, row::Done};

/// What is durable of an output: where a run goes on after any kind of end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Bytes of a file that is appended to. What comes after is written again.
    #[serde(default)]
    pub bytes: u64,
}

/// Where rows go, in the order of the input, whole groups at a time.
#[derive(Debug)]
pub(crate) enum Output {
    /// JSON lines, appended to a file or standard output.
    Lines(LinesFile),
    /// Rows of a table.
    #[cfg_attr(not(test), expect(dead_code, reason = "rows have columns once the reader plans them"))]
    Postgres(Box<Postgres>),
}

impl Output {
    /// Takes the rows of a group. One that it cannot hold gets the reason instead of its vectors.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) async fn write(&mut self, rows: &mut [Done]) -> Result<(), Error> {
        match self {
            Self::Lines(file) => {
                let mut lines = Vec::new();
                rows.iter().for_each(|row| line::write(&mut lines, row));
                file.append(&lines)
            }
            Self::Postgres(table) => table.write(rows).await,
        }
    }

    /// Makes what was written durable, if this is a moment for it; always if `now`. Returns whether all that was written is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn settle(&mut self, _now: bool) -> Result<bool, Error> {
        match self {
            Self::Lines(file) => file.sync().map(|()| true),
            Self::Postgres(table) => table.settle().await.map(|()| true),
        }
    }

    /// What is durable, once all that was written is.
    pub(crate) fn mark(&self) -> Mark {
        match self {
            Self::Lines(file) => Mark { bytes: file.bytes() },
            Self::Postgres(table) => Mark { bytes: table.failed_bytes() },
        }
    }

    /// Ends an output of which everything is durable: it becomes visible as a whole, where that is not so before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn finish(&mut self, _state: &State) -> Result<(), Error> {
        match self {
            Self::Lines(_) => {}
            Self::Postgres(table) => table.finish(),
        }
        Ok(())
    }

    /// Whether a run can go on with it. What is written to standard output is gone.
    pub(crate) fn can_go_on(&self) -> bool {
        match self {
            Self::Lines(file) => !file.is_stream(),
            Self::Postgres(_) => true,
        }
    }
}
