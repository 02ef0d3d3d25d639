//! WordPiece: a word to the ids of its pieces, longest piece first.
//!
//! Nothing is cached: the vocabulary itself, in tables by content, is fast enough for words that it has whole (most of them)
//! and for those that it has not. So memory does not grow with what is asked: 2.5 MB for the 30,522 pieces of BERT.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use tokenizers::{Model, models::wordpiece::WordPiece};

/// Bytes of a piece that fit into a key, beside its length.
const SHORT: usize = 15;

/// Longer words than this are not provided for: a word being read has its memory reserved.
const MOST_CHARS: usize = 1024;

/// The vocabulary.
#[derive(Debug)]
pub(super) struct Pieces {
    /// What a word may begin with, or be.
    first: Table,
    /// What it may go on with, without the prefix that marks these.
    later: Table,
    unknown: u32,
    max_chars: usize,
}

/// Pieces by their bytes.
#[derive(Debug, Default)]
struct Table {
    /// Those of at most [`SHORT`] bytes, by [`Word::key`].
    short: HashMap<u128, u32, FixedState>,
    long: HashMap<Box<[u8]>, u32, FixedState>,
    longest: usize,
}

/// A word that is being read.
#[derive(Debug)]
pub(super) struct Word {
    /// Its bytes, and so many more that a key can be read at once.
    bytes: Box<[u8]>,
    length: usize,
    room: usize,
    too_long: bool,
}

impl Word {
    pub(super) const fn push(&mut self, byte: u8) {
        if self.length < self.room {
            self.bytes[self.length] = byte;
            self.length += 1;
        } else {
            self.too_long = true;
        }
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.push(*byte));
    }

    /// Tells pieces of at most [`SHORT`] bytes apart: the bytes, zeros, and how many there are.
    fn key(&self, start: usize, length: usize) -> u128 {
        let mut window = [0; SHORT + 1];
        window.copy_from_slice(&self.bytes[start..=start + SHORT]);
        let all = u128::from_le_bytes(window);
        (all & ((1 << (8 * length)) - 1)) | ((length as u128) << (8 * SHORT))
    }
}

impl Table {
    fn insert(&mut self, piece: &str, id: u32) {
        let bytes = piece.as_bytes();
        self.longest = self.longest.max(bytes.len());
        if bytes.len() <= SHORT {
            let mut word = Word { bytes: vec![0; 2 * SHORT + 1].into(), length: 0, room: SHORT, too_long: false };
            word.extend(bytes);
            self.short.insert(word.key(0, bytes.len()), id);
        } else {
            self.long.insert(bytes.into(), id);
        }
    }

    fn get(&self, word: &Word, start: usize, length: usize) -> Option<u32> {
        if length <= SHORT {
            self.short.get(&word.key(start, length)).copied()
        } else if length <= self.longest {
            self.long.get(&word.bytes[start..start + length]).copied()
        } else {
            None
        }
    }
}

impl Pieces {
    /// Takes the library's vocabulary over.
    ///
    /// # Errors
    /// If the vocabulary lacks the token for unknown words, or takes words of great length.
    pub(super) fn new(model: &WordPiece) -> Result<Self, String> {
        let max_chars = model.max_input_chars_per_word;
        if max_chars > MOST_CHARS {
            return Err(format!("it takes words of {max_chars} characters"));
        }
        let unknown = model.token_to_id(&model.unk_token);
        let unknown = unknown.ok_or_else(|| format!("the vocabulary lacks {:?}", model.unk_token))?;
        let (mut first, mut later) = (Table::default(), Table::default());
        for (piece, id) in model.get_vocab() {
            first.insert(&piece, id);
            if let Some(piece) = piece.strip_prefix(&model.continuing_subword_prefix) {
                later.insert(piece, id);
            }
        }
        Ok(Self { first, later, unknown, max_chars })
    }

    /// A word without letters, to be filled. It can hold more than any known word may have.
    pub(super) fn new_word(&self) -> Word {
        let room = self.max_chars * 4;
        Word { bytes: vec![0; room + SHORT + 1].into(), length: 0, room, too_long: false }
    }

    /// Adds the ids of a word, if it has letters, and empties it.
    pub(super) fn take(&self, word: &mut Word, ids: &mut Vec<u32>) {
        if word.length > 0 || word.too_long {
            self.tokenize(word, ids);
            word.length = 0;
            word.too_long = false;
        }
    }

    fn tokenize(&self, word: &Word, ids: &mut Vec<u32>) {
        if word.too_long || (word.length > self.max_chars && chars(&word.bytes[..word.length]) > self.max_chars) {
            return ids.push(self.unknown);
        }
        if let Some(id) = self.first.get(word, 0, word.length) {
            return ids.push(id);
        }
        let before = ids.len();
        let (mut start, mut table) = (0, &self.first);
        while start < word.length {
            let longest = (word.length - start).min(table.longest);
            let longest = (1..=longest).rev().find_map(|n| table.get(word, start, n).map(|id| (n, id)));
            let Some((length, id)) = longest else {
                ids.truncate(before);
                return ids.push(self.unknown);
            };
            ids.push(id);
            start += length;
            table = &self.later;
        }
    }
}

/// Characters of valid UTF-8.
fn chars(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| !matches!(byte, 0x80..=0xBF)).count()
}
