//! What the normalizer and the pre-tokenizer make of a character.
//!
//! Both treat every character by itself, so the library is asked once for each and the answer kept: a page of 256 characters
//! at a time, when the first of them is met. All 4,352 pages would take about 9 MB; texts in one language need a handful.
//!
//! There is one exception to "by itself". Where accents are stripped, the text is decomposed first, which sorts neighbouring
//! combining marks. That changes nothing if all of them are removed afterwards. The few that are not are
//! [`Kind::Unproven`].

use std::sync::OnceLock;

use tokenizers::{
    Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, normalizers::BertNormalizer,
    pre_tokenizers::bert::BertPreTokenizer,
};
use unicode_normalization_alignments::char::{canonical_combining_class, decompose_canonical};

const PAGE: usize = 256;
const PAGES: usize = 0x11_0000 / PAGE;

/// What becomes of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// Nothing: it is as if it were not there.
    Dropped,
    /// It separates words.
    Space,
    /// It is a word of its own, of these bytes.
    Alone(&'a [u8]),
    /// These bytes of a word.
    Letters(&'a [u8]),
    /// That depends on its neighbours, or is nothing of the above.
    Unproven,
}

/// All characters.
#[derive(Debug)]
pub(super) struct Characters {
    normalizer: BertNormalizer,
    pre_tokenizer: BertPreTokenizer,
    pages: Box<[OnceLock<Page>]>,
}

/// 256 neighbours.
#[derive(Debug)]
struct Page {
    entries: [Entry; PAGE],
    /// What they become, one after the other.
    letters: Box<[u8]>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    what: What,
    length: u8,
    start: u16,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Dropped,
    Space,
    Alone,
    Letters,
    Unproven,
}

impl Characters {
    pub(super) fn new(normalizer: BertNormalizer, pre_tokenizer: BertPreTokenizer) -> Self {
        Self { normalizer, pre_tokenizer, pages: std::iter::repeat_with(OnceLock::new).take(PAGES).collect() }
    }

    /// What becomes of a character.
    pub(super) fn kind(&self, c: char) -> Kind<'_> {
        let c = c as usize;
        let page = self.pages[c / PAGE].get_or_init(|| self.page(c / PAGE));
        let Entry { what, length, start } = page.entries[c % PAGE];
        let letters = || &page.letters[usize::from(start)..][..usize::from(length)];
        match what {
            What::Dropped => Kind::Dropped,
            What::Space => Kind::Space,
            What::Alone => Kind::Alone(letters()),
            What::Letters => Kind::Letters(letters()),
            What::Unproven => Kind::Unproven,
        }
    }

    fn page(&self, page: usize) -> Page {
        let mut entries = [Entry { what: What::Unproven, length: 0, start: 0 }; PAGE];
        let mut letters = Vec::new();
        for (i, entry) in entries.iter_mut().enumerate() {
            // Surrogates are no characters.
            let Some(c) = u32::try_from(page * PAGE + i).ok().and_then(char::from_u32) else { continue };
            let (what, becomes) = self.look(c);
            if let (Ok(start), Ok(length)) = (u16::try_from(letters.len()), u8::try_from(becomes.len())) {
                *entry = Entry { what, length, start };
                letters.extend_from_slice(becomes.as_bytes());
            }
        }
        Page { entries, letters: letters.into() }
    }

    /// Asks the library.
    fn look(&self, c: char) -> (What, String) {
        let Some(words) = self.words_between_letters(c) else { return (What::Unproven, String::new()) };
        match &words[..] {
            [all] if all == "aa" => (What::Dropped, String::new()),
            [first, last] if first == "a" && last == "a" => (What::Space, String::new()),
            _ if self.is_sorted_among_neighbours(c) => (What::Unproven, String::new()),
            [first, alone, last] if first == "a" && last == "a" => (What::Alone, alone.clone()),
            [all] => match all.strip_prefix('a').and_then(|all| all.strip_suffix('a')) {
                Some(letters) => (What::Letters, letters.to_owned()),
                None => (What::Unproven, String::new()),
            },
            _ => (What::Unproven, String::new()),
        }
    }

    /// The words that `a`, the character, and `a` give.
    fn words_between_letters(&self, c: char) -> Option<Vec<String>> {
        let mut text = PreTokenizedString::from(format!("a{c}a"));
        text.normalize(|piece| self.normalizer.normalize(piece)).ok()?;
        self.pre_tokenizer.pre_tokenize(&mut text).ok()?;
        let words = text.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Some(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
    }

    /// Whether a combining mark is left of it that decomposition may have moved.
    fn is_sorted_among_neighbours(&self, c: char) -> bool {
        if !self.normalizer.strip_accents.unwrap_or(self.normalizer.lowercase) {
            return false;
        }
        let mut moved = false;
        decompose_canonical(c, |part| {
            let stays = || self.words_between_letters(part).is_none_or(|words| words != ["aa"]);
            moved |= canonical_combining_class(part) != 0 && stays();
        });
        moved
    }
}
