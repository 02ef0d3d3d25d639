//! The tokenizers of the BERT family, without the library's bookkeeping.
//!
//! The library keeps a string and the offsets of every character of every token, and needs most of its time for that. Here
//! a text is read once, from characters to words to ids. The ids are those of the library, to the bit: what a character
//! becomes is asked of the library (see [`characters`]), the search for pieces is the same (see [`pieces`]), and where
//! neither is certain the caller is sent to the library. It knows no limits of a model and no requests.

mod characters;
mod components;
mod pieces;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;

use tokenizers::{Normalizer, NormalizerWrapper, PreTokenizer, PreTokenizerWrapper};

use self::{
    characters::{Characters, Kind},
    components::{Components, Parts},
    pieces::Pieces,
};

/// A tokenizer whose parts are all known.
#[derive(Debug)]
pub(super) struct Bert {
    characters: Characters,
    pieces: Pieces,
    ascii: Box<[Ascii; 128]>,
    /// Contents of the added tokens, such as `[SEP]`. A text that holds one is the library's.
    added: Vec<Box<str>>,
    opening: Vec<u32>,
    closing: Vec<u32>,
}

/// What an ASCII character is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ascii {
    /// Part of a word, and what it becomes there.
    Letter(u8),
    /// Between words.
    Space,
    /// A word of its own.
    Alone(u32),
    /// The same, and an added token begins with it.
    Opens(u32),
    /// Nothing.
    Dropped,
    /// Something else: see [`Characters`].
    Other,
}

impl Bert {
    /// Takes a tokenizer's parts over.
    ///
    /// # Errors
    /// Which part is not known well enough to do its work.
    pub(super) fn new<N, P>(tokenizer: &Parts<N, P>) -> Result<Self, String>
    where
        N: Normalizer + Borrow<NormalizerWrapper>,
        P: PreTokenizer + Borrow<PreTokenizerWrapper>,
    {
        let Components { normalizer, pre_tokenizer, model, added, opening, closing } = Components::of(tokenizer)?;
        let pieces = Pieces::new(model)?;
        let characters = Characters::new(normalizer, pre_tokenizer);
        let mut word = pieces.new_word();
        let mut ascii = Box::new([Ascii::Other; 128]);
        for (byte, c) in (0u8..).zip(&mut *ascii) {
            *c = match characters.kind(char::from(byte)) {
                Kind::Letters([letter]) => Ascii::Letter(*letter),
                Kind::Letters(_) | Kind::Unproven => Ascii::Other,
                Kind::Space => Ascii::Space,
                Kind::Dropped => Ascii::Dropped,
                Kind::Alone(letters) => {
                    let mut ids = Vec::new();
                    word.extend(letters);
                    pieces.take(&mut word, &mut ids);
                    match ids[..] {
                        [id] => Ascii::Alone(id),
                        _ => Ascii::Other,
                    }
                }
            };
        }
        // What stands before an added token must end where the token begins, whether the token is seen or not: that is what
        // lets a text be read only as far as it counts.
        for token in &added {
            let first = token.bytes().next().and_then(|byte| ascii.get_mut(usize::from(byte)));
            match first {
                Some(first @ &mut (Ascii::Alone(id) | Ascii::Opens(id))) => *first = Ascii::Opens(id),
                _ => return Err(format!("the added token {token:?} does not begin with ASCII punctuation")),
            }
        }
        Ok(Self { characters, pieces, ascii, added, opening, closing })
    }

    /// The ids of a text, special tokens included. With `enough`, a text that has more ids than that may be read only so far
    /// that there are more: then all but the last of the first `enough` are those of the whole, and so is the very last.
    ///
    /// `None`: the text holds something that only the library treats as the library does.
    pub(super) fn encode(&self, text: &str, enough: Option<usize>) -> Option<Vec<u32>> {
        // The last id of a text that is cut is that of the whole: to be known beforehand, it must be a closing one.
        let stop = enough.filter(|_| !self.closing.is_empty()).unwrap_or(usize::MAX);
        let bytes = text.as_bytes();
        // English has about one token for four bytes.
        let likely = (bytes.len() / 4 + 8).min(stop.saturating_add(8));
        let mut ids = Vec::with_capacity(likely);
        ids.extend_from_slice(&self.opening);
        let mut word = self.pieces.new_word();
        let mut at = 0;
        while at < bytes.len() && ids.len() < stop {
            let byte = bytes[at];
            match self.ascii.get(usize::from(byte)).copied().unwrap_or(Ascii::Other) {
                Ascii::Letter(letter) => {
                    word.push(letter);
                    at += 1;
                }
                Ascii::Space => {
                    self.pieces.take(&mut word, &mut ids);
                    at += 1;
                }
                Ascii::Alone(id) => {
                    self.pieces.take(&mut word, &mut ids);
                    ids.push(id);
                    at += 1;
                }
                Ascii::Opens(id) => {
                    if self.added.iter().any(|token| bytes[at..].starts_with(token.as_bytes())) {
                        return None;
                    }
                    self.pieces.take(&mut word, &mut ids);
                    ids.push(id);
                    at += 1;
                }
                Ascii::Dropped => at += 1,
                Ascii::Other => {
                    let c = text[at..].chars().next()?;
                    match self.characters.kind(c) {
                        Kind::Letters(letters) => word.extend(letters),
                        Kind::Space => self.pieces.take(&mut word, &mut ids),
                        Kind::Alone(letters) => {
                            self.pieces.take(&mut word, &mut ids);
                            word.extend(letters);
                            self.pieces.take(&mut word, &mut ids);
                        }
                        Kind::Dropped => {}
                        Kind::Unproven => return None,
                    }
                    at += c.len_utf8();
                }
            }
        }
        self.pieces.take(&mut word, &mut ids);
        ids.extend_from_slice(&self.closing);
        Some(ids)
    }
}
