//! What need not be embedded: rows that are equal to one before them, or to one of a previous output.
//!
//! Whoever reads rows asks; whoever writes them tells what came, and takes what is known. Rows are written in the order in which they were
//! asked about, so that of two equal rows the first has its vectors when the second is written. What is remembered is bounded: a
//! row whose equal is forgotten is embedded once more.
//!
//! | module | does |
//! |---|---|
//! | `digest` | tells equal rows |
//! | `index` | which of them are known, or still coming |
//! | `vectors` | their vectors, in a file |
//! | `before` | a row that was done before |
//! | `previous` | what a previous output holds, and whether it is of use |
//! | `lines` | rows of an output of JSON lines, with the texts of its input |
//! | `begin` | what is known when a run begins |

mod before;
mod begin;
mod digest;
mod index;
mod lines;
mod previous;
mod vectors;

use std::{
    borrow::Cow,
    collections::HashSet,
    fs::File,
    hash::BuildHasher,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use embed_schemas::WireError;
use foldhash::fast::RandomState;

pub(crate) use self::begin::begin;
use self::{
    before::Before,
    digest::Digests,
    index::{Asked, Index},
    vectors::Vectors,
};
use crate::{
    Error, Parameters,
    row::{Digest, Done, Found, Label, Row, Vector},
};

/// What is remembered.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Texts, and ids: 25 bytes of memory each, and 9. As many as fit into a table before it grows.
    texts: usize,
    /// Bytes of the file of their vectors.
    bytes: u64,
}

const LIMITS: Limits = Limits { texts: (1 << 23) / 8 * 7, bytes: 32 << 30 };

/// What is known of rows.
#[derive(Debug)]
pub(crate) struct Known {
    limits: Limits,
    digests: Digests,
    index: Mutex<Index>,
    vectors: Mutex<Vectors>,
    ids: Mutex<Ids>,
}

/// Ids of a previous output that have not come again, by their hash.
#[derive(Debug, Default)]
struct Ids {
    hasher: RandomState,
    left: HashSet<u64, RandomState>,
    /// How many there were; `None` if they are not known.
    all: Option<u64>,
}

impl Known {
    /// Nothing yet. `equal`: whether rows of this run are remembered.
    fn new(parameters: &Parameters, equal: bool, limits: Limits) -> io::Result<Self> {
        vectors::file().map(|file| Self::on(file, parameters, equal, limits))
    }

    /// The same, with vectors in a file.
    fn on(file: File, parameters: &Parameters, equal: bool, limits: Limits) -> Self {
        Self {
            limits,
            digests: Digests::of(parameters),
            index: Mutex::new(Index::new(equal, limits.texts)),
            vectors: Mutex::new(Vectors::on(file, parameters.writing.vector_type, limits.bytes)),
            ids: Mutex::default(),
        }
    }

    /// Nothing, and room for all that tests have.
    #[cfg(test)]
    pub(crate) fn empty(parameters: &Parameters) -> Self {
        Self::new(parameters, true, LIMITS).expect("there is room")
    }

    /// Remembers rows: those that the backfill has written, or with `ids` those of a previous output, and what they are called. Returns how
    /// many texts there are, and how many are remembered.
    ///
    /// # Errors
    /// If a row cannot be read; if one of a previous output cannot be kept. Of its own, a backfill does without.
    fn load(&self, rows: impl Iterator<Item = Result<Before, Error>>, ids: bool) -> Result<(u64, u64), Error> {
        let (mut texts, mut remembered) = (0, 0);
        let mut all = ids.then(Ids::default);
        for row in rows {
            let Before { id, content } = row?;
            if let (Some(Ids { hasher, left, .. }), Some(id)) = (&mut all, id) {
                left.insert(hasher.hash_one(normal(&id)));
                if left.len() > self.limits.texts {
                    all = None;
                }
            }
            let Some((digest, vectors)) = content else { continue };
            texts += 1;
            // Kept once, however often it comes.
            if lock(&self.index).knows(digest) {
                remembered += 1;
                continue;
            }
            let place = match lock(&self.vectors).add(&vectors) {
                Err(error) if !ids => {
                    self.give_up(&error);
                    break;
                }
                place => place.map_err(unusable)?,
            };
            if lock(&self.index).load(digest, place) {
                remembered += 1;
            }
        }
        if let Some(all) = all {
            *lock(&self.ids) = Ids { all: Some(all.left.len() as u64), ..all };
        }
        Ok((texts, remembered))
    }

    /// The digest of a text, and whether its vectors are known, or are when it is written. If not, what came of it has to be told.
    pub(crate) fn ask(&self, text: &str) -> (Digest, bool) {
        let digest = self.digests.digest(text);
        (digest, lock(&self.index).ask(digest) == Asked::Known)
    }

    /// Rows that came, in order, with the vectors that are known.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn resolve(&self, rows: Vec<Row<Found>>) -> Result<Vec<Done>, Error> {
        rows.into_iter().map(|row| self.resolve_row(row)).collect()
    }

    fn resolve_row(&self, row: Row<Found>) -> Result<Done, Error> {
        let digest = row.digest;
        let mut reused = false;
        let mut failed = None;
        let mut row = row.with(|content| match (content, digest) {
            (Ok(Found::Vectors(vectors)), Some(digest)) => {
                self.tell(digest, Ok(&vectors));
                Ok(vectors)
            }
            (Err(error), Some(digest)) => {
                self.tell(digest, Err(&error));
                Err(error)
            }
            (Ok(Found::Known), Some(digest)) => match self.take(digest) {
                Ok(content) => {
                    reused = content.is_ok();
                    content
                }
                Err(error) => {
                    failed = Some(error);
                    Ok(Vec::new())
                }
            },
            (Ok(Found::Vectors(vectors)), None) => Ok(vectors),
            (Ok(Found::Known), None) => unreachable!("a row is known by its digest"),
            (Err(error), None) => Err(error),
        });
        row.reused = reused;
        failed.map_or(Ok(row), Err)
    }

    /// What came of a text.
    fn tell(&self, digest: Digest, content: Result<&[Vector], &WireError>) {
        if !lock(&self.index).awaits(digest) {
            return;
        }
        let place = match content {
            Ok(vectors) => {
                let added = lock(&self.vectors).add(vectors);
                added.unwrap_or_else(|error| {
                    self.give_up(&error);
                    None
                })
            }
            Err(_) => None,
        };
        lock(&self.index).tell(digest, place, || content.map(<[Vector]>::to_vec).map_err(Clone::clone));
    }

    /// Remembers nothing more.
    fn give_up(&self, error: &io::Error) {
        lock(&self.index).close();
        dispensed_with(error);
    }

    /// What is known of a text that was asked about.
    fn take(&self, digest: Digest) -> Result<Result<Vec<Vector>, WireError>, Error> {
        let found = lock(&self.index).take(digest);
        match found {
            Some(index::Held::Content(content)) => Ok(content),
            Some(index::Held::Place(place)) => lock(&self.vectors).get(place).map(Ok).map_err(unusable),
            None => {
                Err(Error::Backfill(format!("the vectors of the text {digest:?} were known, and are not any more")))
            }
        }
    }

    /// Whether a row is called as one of the previous output, for the first time.
    pub(crate) fn came_again(&self, label: &Label) -> bool {
        let mut ids = lock(&self.ids);
        match label {
            Label::Id(id) if !ids.left.is_empty() => {
                let hash = ids.hasher.hash_one(normal(id));
                ids.left.remove(&hash)
            }
            _ => false,
        }
    }

    /// How many ids the previous output has, if that is known.
    pub(crate) fn ids_before(&self) -> Option<u64> {
        lock(&self.ids).all
    }
}

/// One of the ways to write an id: strings can be written in several.
fn normal(id: &str) -> Cow<'_, str> {
    let escaped = id.contains('\\').then(|| serde_json::from_str::<String>(id).ok()).flatten();
    escaped.map_or(Cow::Borrowed(id), |text| serde_json::Value::from(text).to_string().into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that a run does without what it would like to remember.
fn dispensed_with(error: &io::Error) {
    tracing::warn!(
        "equal texts are embedded again from here on: their vectors cannot be kept in a temporary file in {} ({error}). Make room there, or set \
         TMPDIR to a folder with more of it",
        vectors::folder().display()
    );
}

fn unusable(error: io::Error) -> Error {
    Error::Backfill(format!(
        "a temporary file for vectors in {} cannot be used ({error}): make room there, or set TMPDIR to a folder with more of it; or do \
         without, with --no-dedupe and without --reuse",
        vectors::folder().display()
    ))
}

#[cfg(test)]
mod tests;
