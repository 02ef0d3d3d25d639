//! Rows in groups, each of which fits into one message. Which rows form a group depends on nothing but the rows and the
//! limits, so that a resumed run makes the same groups under the same ids.

use std::{panic::AssertUnwindSafe, sync::Arc};

use embed_client::{MessageBudget, text_bytes};
use embed_schemas::{ErrorCode, WireError};
use tokio::sync::mpsc;

use crate::{
    Error,
    known::Known,
    row::{Piece, Position, Row, Work},
    windows::Cutter,
};

/// What a text takes in a message beside its bytes.
const TEXT_OVERHEAD: usize = text_bytes("");
/// Groups that are read before they are asked for.
const READ_AHEAD: usize = 2;
/// Rows of a group that need not be embedded: its vectors are in memory at once when it is written.
const KNOWN_ROWS: usize = 2048;
/// What such rows may take.
const KNOWN_BYTES: usize = 1 << 20;

/// A group of rows; never empty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) rows: Vec<Row<Work>>,
}

impl Chunk {
    /// The number of the first row: what the job is called after.
    pub(crate) fn first(&self) -> u64 {
        self.rows.first().map_or(0, |row| row.number)
    }

    /// The input after this group.
    pub(crate) fn end(&self) -> Position {
        self.rows.last().map_or_else(Position::default, |row| row.end)
    }
}

/// Groups rows. A row stays whole; one whose pieces fit into no message together is a group by itself.
pub(crate) struct Chunks<I> {
    rows: I,
    budget: MessageBudget,
    /// What need not be embedded.
    known: Option<Arc<Known>>,
    /// A row that did not fit into the group before.
    held: Option<Row<Work>>,
    /// Cuts long texts; the worker does, if `None`.
    cutter: Option<Cutter>,
    /// Most rows of a group that need not be embedded.
    known_rows: usize,
}

impl<I: Iterator<Item = Result<Row, Error>>> Chunks<I> {
    pub(crate) const fn new(rows: I, budget: MessageBudget, known: Option<Arc<Known>>) -> Self {
        Self { rows, budget, known, held: None, cutter: None, known_rows: KNOWN_ROWS }
    }

    /// The same, with texts cut into windows.
    pub(crate) fn with_cutter(self, cutter: Option<Cutter>) -> Self {
        Self { cutter, ..self }
    }

    /// The same, for rows that somebody writes while they are read, and waits for: none waits for more than a job has.
    pub(crate) fn one_by_one(self) -> Self {
        Self { known_rows: 0, ..self }
    }

    /// The next row, and what is to be done for it.
    fn planned(&mut self) -> Result<Option<Row<Work>>, Error> {
        let Some(row) = self.rows.next().transpose()? else { return Ok(None) };
        let MessageBudget { bytes: room, max_payload, .. } = self.budget;
        let line = row.origin.line;
        let cutter = self.cutter.as_ref();
        let mut digest = None;
        let row = row.with(|text| {
            let text = text?;
            if let Some(known) = &self.known {
                let (of_text, is_known) = known.ask(&text);
                digest = Some(of_text);
                if is_known {
                    return Ok(Work::Known);
                }
            }
            let pieces = match cutter {
                Some(cutter) => cutter.pieces(text, room - room.min(TEXT_OVERHEAD))?,
                None => vec![Piece { text, window: None }],
            };
            match pieces.iter().map(|piece| text_bytes(&piece.text)).max() {
                Some(size) if size > room => Err(too_large(line, size, max_payload)),
                _ => Ok(Work::Embed(pieces)),
            }
        });
        Ok(Some(Row { digest, ..row }))
    }
}

impl<I: Iterator<Item = Result<Row, Error>>> Iterator for Chunks<I> {
    type Item = Result<Chunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rows = Vec::new();
        let (mut texts, mut bytes) = (0, 0);
        let (mut known_rows, mut known_bytes) = (0, 0);
        let most = self.known_rows.max(self.budget.texts);
        while rows.len() - known_rows.min(self.known_rows) < self.budget.texts
            && known_rows < most
            && known_bytes < KNOWN_BYTES
        {
            let row = match self.held.take() {
                Some(row) => row,
                None => match self.planned().transpose() {
                    Some(Ok(row)) => row,
                    Some(Err(error)) => return Some(Err(error)),
                    None => break,
                },
            };
            let (more_texts, more_bytes) = cost(&row);
            if !rows.is_empty() && (texts + more_texts > self.budget.texts || bytes + more_bytes > self.budget.bytes) {
                self.held = Some(row);
                break;
            }
            texts += more_texts;
            bytes += more_bytes;
            if row.content == Ok(Work::Known) {
                known_rows += 1;
                known_bytes += row.weight();
            }
            rows.push(row);
        }
        (!rows.is_empty()).then_some(Ok(Chunk { rows }))
    }
}

/// Texts and bytes that a row puts into a message.
fn cost(row: &Row<Work>) -> (usize, usize) {
    match &row.content {
        Ok(Work::Embed(pieces)) => (pieces.len(), pieces.iter().map(|piece| text_bytes(&piece.text)).sum()),
        Ok(Work::Known) | Err(_) => (0, 0),
    }
}

/// Groups of rows as they are read, by a thread of its own: who writes to standard input may take long. It ends with the receiver, or when it
/// next has something for it.
pub(crate) fn read(
    chunks: impl Iterator<Item = Result<Chunk, Error>> + Send + 'static,
) -> mpsc::Receiver<Result<Chunk, Error>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let all = sender.clone();
        let read = AssertUnwindSafe(move || {
            for chunk in chunks {
                let failed = chunk.is_err();
                if all.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        });
        // Or else what is behind it would be taken for the end of the input.
        if std::panic::catch_unwind(read).is_err() {
            let what = "the input cannot be read on: what reads it has failed in a way that nobody expected; what was read by then is done";
            let _ = sender.blocking_send(Err(Error::Backfill(what.into())));
        }
    });
    receiver
}

fn too_large(line: u64, bytes: usize, limit: usize) -> WireError {
    WireError::new(
        ErrorCode::PayloadTooLarge,
        format!("line {line}: the text has {bytes} bytes, and a message may have {limit} on this server: cut the text"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::row::{Along, Found, Label, Origin};

    /// A row for each of them: a text of so many letters, or a bad row.
    fn rows(lengths: &[Option<usize>], from: u64) -> impl Iterator<Item = Result<Row, Error>> {
        let lengths = lengths.iter().copied().zip(0..).skip(from as usize);
        lengths.map(|(length, number)| {
            let content = length.map(|n| "x".repeat(n)).ok_or_else(|| WireError::invalid("no"));
            let end = Position { lines: number + 1, rows: number + 1, ..Position::default() };
            let label = Label::Line(number + 1);
            let origin = Origin { file: 0, line: number + 1 };
            Ok(Row { number, label, content, along: Along::Nothing, digest: None, origin, end, reused: false })
        })
    }

    fn chunks(lengths: &[Option<usize>], from: u64, texts: usize, bytes: usize) -> Vec<Chunk> {
        let budget = MessageBudget { texts, bytes, max_payload: bytes };
        Chunks::new(rows(lengths, from), budget, None).map(Result::unwrap).collect()
    }

    #[test]
    fn rows_that_are_known_cost_no_message_and_are_bounded() {
        let known = Known::empty(&crate::tests::parameters());
        let budget = MessageBudget { texts: 2, bytes: 1000, max_payload: 1000 };
        let mut lengths = vec![Some(0); 2 * KNOWN_ROWS];
        lengths.extend([Some(1), Some(2), None, Some(1), Some(3)]);
        let chunks = Chunks::new(rows(&lengths, 0), budget, Some(Arc::new(known)));
        let chunks: Vec<Chunk> = chunks.map(Result::unwrap).collect();
        let sizes = |chunk: &Chunk| {
            let embed = chunk.rows.iter().filter(|row| matches!(row.content, Ok(Work::Embed(_)))).count();
            (chunk.rows.len(), embed)
        };
        let (all, one) = (KNOWN_ROWS + 1, KNOWN_ROWS - 1);
        assert_eq!(chunks.iter().map(sizes).collect::<Vec<_>>(), [(all, 1), (one + 2, 2), (3, 1)]);
        let last = &chunks[2].rows;
        assert_eq!([last[0].digest.is_some(), last[1].digest.is_some()], [false, true]);
        assert_eq!(last[1].content, Ok(Work::Known));
    }

    #[test]
    fn a_text_that_is_refused_is_known_for_what_it_is() {
        let known = Arc::new(Known::empty(&crate::tests::parameters()));
        let budget = MessageBudget { texts: 64, bytes: 20, max_payload: 20 };
        let chunks = Chunks::new(rows(&[Some(50), Some(50)], 0), budget, Some(known.clone()));
        let chunk = chunks.map(Result::unwrap).next().unwrap();
        let found = chunk.rows.into_iter().map(|row| row.with(|work| work.map(|_| Found::Known)));
        let done = known.resolve(found.collect()).unwrap();
        assert_eq!(done[0].content, done[1].content);
        assert_eq!(done[1].content.clone().unwrap_err().code, ErrorCode::PayloadTooLarge);
    }

    #[test]
    fn a_text_that_fits_into_no_message_is_a_bad_row() {
        let chunks = chunks(&[Some(1), Some(50), Some(1)], 0, 64, 20);
        assert_eq!(chunks.len(), 1);
        let error = chunks[0].rows[1].content.clone().unwrap_err();
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
        assert!(error.message.starts_with("line 2"), "{}", error.message);
    }

    /// Who writes two equal rows to standard input, and waits for them, has them before writing others.
    #[test]
    fn rows_that_are_waited_for_wait_for_no_others() {
        let known = Arc::new(Known::empty(&crate::tests::parameters()));
        let budget = MessageBudget { texts: 2, bytes: 1000, max_payload: 1000 };
        let read = std::cell::Cell::new(0);
        let counted = rows(&[Some(5); 6], 0).inspect(|_| read.set(read.get() + 1));
        let mut chunks = Chunks::new(counted, budget, Some(known)).one_by_one();
        for groups in 1..=3 {
            assert_eq!((chunks.next().unwrap().unwrap().rows.len(), read.get()), (2, 2 * groups));
        }
        assert!(chunks.next().is_none());
    }

    #[tokio::test]
    async fn a_reader_that_dies_is_no_end() {
        let one = Chunk { rows: Vec::new() };
        let dying = std::iter::once(Ok(one)).chain(std::iter::from_fn(|| panic!("as a library may")));
        let mut received = super::read(dying);
        assert!(received.recv().await.unwrap().is_ok());
        assert!(received.recv().await.unwrap().unwrap_err().to_string().contains("cannot be read on"));
        assert!(received.recv().await.is_none());
    }

    proptest! {
        #[test]
        fn groups_fit_and_are_the_same_after_a_resume(
            lengths in prop::collection::vec(prop::option::of(0usize..30), 1..40),
            texts in 1usize..8,
            bytes in 20usize..80,
            cut in 0usize..40,
        ) {
            let all = chunks(&lengths, 0, texts, bytes);
            let numbers: Vec<u64> = all.iter().flat_map(|c| c.rows.iter().map(|r| r.number)).collect();
            prop_assert_eq!(numbers, (0..lengths.len() as u64).collect::<Vec<_>>());
            for chunk in &all {
                prop_assert!(!chunk.rows.is_empty() && chunk.rows.len() <= texts);
                prop_assert!(chunk.rows.iter().map(|row| cost(row).1).sum::<usize>() <= bytes);
            }
            if let Some(chunk) = all.get(cut) {
                prop_assert_eq!(&chunks(&lengths, chunk.end().rows, texts, bytes)[..], &all[cut + 1..]);
            }
        }
    }
}
