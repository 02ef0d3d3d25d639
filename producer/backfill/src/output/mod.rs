//! Where rows go.
//!
//! | module | does |
//! |---|---|
//! | `lines_file` | a file that is appended to, or standard output |
//! | `line` | a row -> its lines of JSON |

mod line;
mod lines_file;

use serde::{Deserialize, Serialize};

pub(crate) use lines_file::LinesFile;

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
}

impl Output {
    /// Takes the rows of a group.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) async fn write(&mut self, rows: &[Done]) -> Result<(), Error> {
        match self {
            Self::Lines(file) => {
                let mut lines = Vec::new();
                rows.iter().for_each(|row| line::write(&mut lines, row));
                file.append(&lines)
            }
        }
    }

    /// Makes what was written durable, if this is a moment for it; always if `now`. Returns whether all that was written is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn settle(&mut self, _now: bool) -> Result<bool, Error> {
        match self {
            Self::Lines(file) => file.sync().map(|()| true),
        }
    }

    /// What is durable, once all that was written is.
    pub(crate) fn mark(&self) -> Mark {
        match self {
            Self::Lines(file) => Mark { bytes: file.bytes() },
        }
    }

    /// Ends an output of which everything is durable: it becomes visible as a whole, where that is not so before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn finish(&mut self, _state: &State) -> Result<(), Error> {
        match self {
            Self::Lines(_) => Ok(()),
        }
    }

    /// Whether a run can go on with it. What is written to standard output is gone.
    pub(crate) fn can_go_on(&self) -> bool {
        match self {
            Self::Lines(file) => !file.is_stream(),
        }
    }
}
