//! Rows in groups, each of which fits into one message. Which rows form a group depends on nothing but the rows and the
//! limits, so that a resumed run makes the same groups under the same ids.

use std::io::{self, BufRead};

use embed_schemas::{ErrorCode, WireError};

use super::{
    Position,
    input::{Input, Row},
};
use embed_client::{MessageBudget, text_bytes};

/// A group of rows; never empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chunk {
    pub(super) rows: Vec<Row>,
}

impl Chunk {
    /// The number of the first row: what the job is called after.
    pub(super) fn first(&self) -> u64 {
        self.rows.first().map_or(0, |row| row.number)
    }

    /// The input after this group.
    pub(super) fn end(&self) -> Position {
        self.rows.last().map_or_else(Position::default, |row| row.end)
    }
}

/// Groups the rows of an input.
#[derive(Debug)]
pub(super) struct Chunks<R> {
    input: Input<R>,
    budget: MessageBudget,
    /// A row that did not fit into the group before.
    held: Option<Row>,
}

impl<R: BufRead> Chunks<R> {
    pub(super) fn new(input: Input<R>, budget: MessageBudget) -> Self {
        Self { input, budget, held: None }
    }

    /// What is read from.
    pub(super) const fn reader(&self) -> &R {
        self.input.reader()
    }

    /// The next group; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Chunk>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while rows.len() < self.budget.texts {
            let Some(mut row) = (match self.held.take() {
                Some(row) => Some(row),
                None => self.input.next()?,
            }) else {
                break;
            };
            let size = row.text.as_deref().map_or(0, text_bytes);
            if size > self.budget.bytes {
                row.text = Err(too_large(row.end.lines, size, self.budget.max_payload));
            } else if bytes + size > self.budget.bytes {
                self.held = Some(row);
                break;
            } else {
                bytes += size;
            }
            rows.push(row);
        }
        Ok((!rows.is_empty()).then_some(Chunk { rows }))
    }
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
    use crate::backfill::input::Fields;

    fn chunks(text: &str, at: Position, texts: usize, bytes: usize) -> Vec<Chunk> {
        let budget = MessageBudget { texts, bytes, max_payload: bytes };
        let fields = Fields::of(&crate::backfill::tests::parameters()).unwrap();
        let input = Input::new(&text.as_bytes()[at.bytes as usize..], at, fields);
        let mut chunks = Chunks::new(input, budget);
        std::iter::from_fn(|| chunks.next().unwrap()).collect()
    }

    #[test]
    fn a_text_that_fits_into_no_message_is_a_bad_row() {
        let text = format!("{{\"text\":\"a\"}}\n{{\"text\":\"{}\"}}\n{{\"text\":\"b\"}}", "x".repeat(50));
        let chunks = chunks(&text, Position::default(), 64, 20);
        assert_eq!(chunks.len(), 1);
        let error = chunks[0].rows[1].text.clone().unwrap_err();
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
        assert!(error.message.starts_with("line 2"), "{}", error.message);
    }

    proptest! {
        #[test]
        fn groups_fit_and_are_the_same_after_a_resume(
            lines in prop::collection::vec("nonsense|\\{\"text\":\"[a-z]{0,30}\"\\}", 1..40),
            texts in 1usize..8,
            bytes in 20usize..80,
            cut in 0usize..40,
        ) {
            let text = lines.join("\n");
            let all = chunks(&text, Position::default(), texts, bytes);
            let numbers: Vec<u64> = all.iter().flat_map(|c| c.rows.iter().map(|r| r.number)).collect();
            prop_assert_eq!(numbers, (0..lines.len() as u64).collect::<Vec<_>>());
            for chunk in &all {
                prop_assert!(!chunk.rows.is_empty() && chunk.rows.len() <= texts);
                let sizes = chunk.rows.iter().filter_map(|r| r.text.as_deref().ok()).map(text_bytes);
                prop_assert!(sizes.sum::<usize>() <= bytes);
            }
            if let Some(chunk) = all.get(cut) {
                prop_assert_eq!(&chunks(&text, chunk.end(), texts, bytes)[..], &all[cut + 1..]);
            }
        }
    }
}
