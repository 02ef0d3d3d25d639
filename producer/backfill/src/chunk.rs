//! Rows in groups, each of which fits into one message. Which rows form a group depends on nothing but the rows and the
//! limits, so that a resumed run makes the same groups under the same ids.

use embed_client::{MessageBudget, text_bytes};
use embed_schemas::{ErrorCode, WireError};
use tokio::sync::mpsc;

use crate::{
    Error,
    row::{Piece, Position, Row, Work},
    windows::Cutter,
};

/// What a text takes in a message beside its bytes.
const TEXT_OVERHEAD: usize = text_bytes("");
/// Groups that are read before they are asked for.
const READ_AHEAD: usize = 2;

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
    /// A row that did not fit into the group before.
    held: Option<Row<Work>>,
    /// Cuts long texts; the worker does, if `None`.
    cutter: Option<Cutter>,
}

impl<I: Iterator<Item = Result<Row, Error>>> Chunks<I> {
    pub(crate) const fn new(rows: I, budget: MessageBudget) -> Self {
        Self { rows, budget, held: None, cutter: None }
    }

    /// The same, with texts cut into windows.
    pub(crate) fn with_cutter(self, cutter: Option<Cutter>) -> Self {
        Self { cutter, ..self }
    }

    /// The next row, and what is to be done for it.
    fn planned(&mut self) -> Result<Option<Row<Work>>, Error> {
        let Some(row) = self.rows.next().transpose()? else { return Ok(None) };
        let MessageBudget { bytes: room, max_payload, .. } = self.budget;
        let line = row.end.lines;
        let cutter = self.cutter.as_ref();
        Ok(Some(row.with(|text| {
            let pieces = match cutter {
                Some(cutter) => cutter.pieces(text?, room - room.min(TEXT_OVERHEAD))?,
                None => vec![Piece { text: text?, window: None }],
            };
            match pieces.iter().map(|piece| text_bytes(&piece.text)).max() {
                Some(size) if size > room => Err(too_large(line, size, max_payload)),
                _ => Ok(Work::Embed(pieces)),
            }
        })))
    }
}

impl<I: Iterator<Item = Result<Row, Error>>> Iterator for Chunks<I> {
    type Item = Result<Chunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rows = Vec::new();
        let (mut texts, mut bytes) = (0, 0);
        while rows.len() < self.budget.texts {
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
            rows.push(row);
        }
        (!rows.is_empty()).then_some(Ok(Chunk { rows }))
    }
}

/// Texts and bytes that a row puts into a message.
fn cost(row: &Row<Work>) -> (usize, usize) {
    match &row.content {
        Ok(Work::Embed(pieces)) => (pieces.len(), pieces.iter().map(|piece| text_bytes(&piece.text)).sum()),
        Err(_) => (0, 0),
    }
}

/// Groups of rows as they are read, by a thread of its own: who writes to standard input may take long. It ends with the receiver, or when it
/// next has something for it.
pub(crate) fn read(
    chunks: impl Iterator<Item = Result<Chunk, Error>> + Send + 'static,
) -> mpsc::Receiver<Result<Chunk, Error>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        for chunk in chunks {
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
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
    use crate::row::{Along, Label};

    /// A row for each of them: a text of so many letters, or a bad row.
    fn rows(lengths: &[Option<usize>], from: u64) -> impl Iterator<Item = Result<Row, Error>> {
        let lengths = lengths.to_vec().into_iter().zip(0..).skip(from as usize);
        lengths.map(|(length, number)| {
            let content = length.map(|n| "x".repeat(n)).ok_or_else(|| WireError::invalid("no"));
            let end = Position { lines: number + 1, rows: number + 1, ..Position::default() };
            Ok(Row { number, label: Label::Line(number + 1), content, along: Along::Nothing, end })
        })
    }

    fn chunks(lengths: &[Option<usize>], from: u64, texts: usize, bytes: usize) -> Vec<Chunk> {
        let budget = MessageBudget { texts, bytes, max_payload: bytes };
        Chunks::new(rows(lengths, from), budget).map(Result::unwrap).collect()
    }

    #[test]
    fn a_text_that_fits_into_no_message_is_a_bad_row() {
        let chunks = chunks(&[Some(1), Some(50), Some(1)], 0, 64, 20);
        assert_eq!(chunks.len(), 1);
        let error = chunks[0].rows[1].content.clone().unwrap_err();
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
        assert!(error.message.starts_with("line 2"), "{}", error.message);
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
