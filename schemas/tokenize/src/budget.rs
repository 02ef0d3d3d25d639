//! What one text may use while it is tokenized. The library takes a text apart and has each piece normalized and split by itself, so what
//! bounds a text is kept beside it: on the thread, which has one text at a time.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

/// By how much a text may grow while it is normalized. Unicode's longest decomposition is eleven times as long as what it takes the place of.
const MAX_GROWTH: usize = 16;
/// Even the shortest text may grow to this.
const ALWAYS: usize = 4096;
/// For all matches of expressions in a text: thousands of times what any text takes, since a machine may be busy.
const MAX_TIME: Duration = Duration::from_secs(10);

/// A text grew beyond all proportion.
#[derive(Debug, Clone, thiserror::Error)]
#[error("normalizing makes the text more than {MAX_GROWTH} times as long ({bytes} bytes)")]
pub(super) struct Grown {
    bytes: usize,
}

/// Matching in a text took too long.
#[derive(Debug, Clone, thiserror::Error)]
#[error("more than {MAX_TIME:?}")]
pub(super) struct Late;

thread_local! {
    /// Bytes that the normalized pieces of the text may have, together.
    static MOST: Cell<usize> = const { Cell::new(ALWAYS) };
    /// Bytes that those have which are done.
    static DONE: Cell<usize> = const { Cell::new(0) };
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Why a piece could not be normalized: the library asks for normalizing, and goes on whatever the answer is.
    static FAILED: RefCell<Option<tokenizers::Error>> = const { RefCell::new(None) };
}

/// A text of so many bytes begins on this thread.
pub(super) fn begin(bytes: usize) {
    begin_until(bytes, Instant::now() + MAX_TIME);
}

/// The same, with a time of one's own.
pub(super) fn begin_until(bytes: usize, deadline: Instant) {
    MOST.set(bytes.saturating_mul(MAX_GROWTH).max(ALWAYS));
    DONE.set(0);
    DEADLINE.set(Some(deadline));
    drop(FAILED.take());
}

/// Whether a piece may have so many bytes, after those that are done.
pub(super) fn within(bytes: usize) -> Result<(), Grown> {
    let bytes = DONE.get().saturating_add(bytes);
    if bytes <= MOST.get() { Ok(()) } else { Err(Grown { bytes }) }
}

/// A piece is normalized and has so many bytes.
pub(super) fn done(bytes: usize) {
    DONE.set(DONE.get().saturating_add(bytes));
}

/// Whether there is time for one more match.
pub(super) fn in_time() -> Result<(), Late> {
    match DEADLINE.get() {
        Some(deadline) if Instant::now() > deadline => Err(Late),
        _ => Ok(()),
    }
}

/// A piece could not be normalized, so that the text cannot be.
pub(super) fn fail(error: tokenizers::Error) {
    FAILED.replace(Some(error));
}

/// Whether a piece of the text could not be normalized.
pub(super) fn has_failed() -> bool {
    FAILED.with_borrow(Option::is_some)
}

/// What the text failed on in normalizing, if it did.
pub(super) fn take_failure() -> Option<tokenizers::Error> {
    FAILED.take()
}
