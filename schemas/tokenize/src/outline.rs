//! What a `tokenizer.json` may hold, looked at before the library makes anything of it: numbers and sizes of its parts.
//!
//! The library trusts its file. What it would make of one that was written to that end takes all memory (replacements that multiply a text,
//! templates, vocabularies), or time without end (words of any length, patterns), or is a panic. The bounds are far above those of known models.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use embed_schemas::model_limits::MAX_TOKENIZER_BYTES;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::{patterns, prefixes, unique::Unique};

/// Most bytes of a normalizer, a pre-tokenizer, a post-processor or a decoder. Tables of characters have up to a third of a million.
const MAX_PART_BYTES: usize = 2 << 20;
/// Most components of one of these, sequences within sequences included.
const MAX_COMPONENTS: usize = 32;
/// Most components that write each byte as a character, which is two bytes for half of them: one after the other they double a text.
const MAX_BYTE_LEVELS: usize = 2;
/// Most entries of a list in a post-processor.
const MAX_TEMPLATE: usize = 32;
/// By how much all replacements, and what is put before a text, may together multiply a text's length.
const MAX_GROWTH: u64 = 64;
/// Most bytes that take the place of one character in a table of characters. Unicode's own longest have 33.
const MAX_REPLACEMENT: usize = 64;
/// Most bytes of what is put before a text, or is looked for in it.
const MAX_TEXT: usize = 1024;
const MAX_ADDED_TOKENS: usize = 16_384;
const MAX_ADDED_TOKENS_BYTES: usize = 8 << 20;
const MAX_VOCABULARY: usize = 1 << 20;
const MAX_VOCABULARY_BYTES: usize = 16 << 20;
/// Most beginnings that a Unigram model's entries have, see [`prefixes`]: 1.4 GB. As many entries as XLM-R has (250,002), made of syllables in
/// ten scripts, have 1.1 million, and the library takes 0.4 GB for them; as many as XLM-V has (901,629) have 3.8 million, and take 1.3 GB.
const MAX_PREFIXES: usize = 4 << 20;
const MAX_MERGES: usize = 1 << 21;
/// Most characters of a word. The work for a word that is in no vocabulary grows with the third power.
const MAX_WORD: u64 = 256;

/// Parts of a tokenizer, and the types that their components may have. The library reads what it does not know by its fields alone.
const PARTS: [(&str, &[&str]); 4] = [
    (
        "normalizer",
        &[
            "Bert",
            "BertNormalizer",
            "ByteLevel",
            "Lowercase",
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Nmt",
            "Precompiled",
            "Prepend",
            "Replace",
            "Sequence",
            "Strip",
            "StripAccents",
        ],
    ),
    (
        "pre_tokenizer",
        &[
            "BertPreTokenizer",
            "ByteLevel",
            "CharDelimiterSplit",
            "Delimiter",
            "Digits",
            "FixedLength",
            "Metaspace",
            "Punctuation",
            "Sequence",
            "Split",
            "UnicodeScripts",
            "Whitespace",
            "WhitespaceSplit",
        ],
    ),
    ("post_processor", &["BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"]),
    (
        "decoder",
        &[
            "BPEDecoder",
            "ByteFallback",
            "ByteLevel",
            "CTC",
            "Fuse",
            "Metaspace",
            "Replace",
            "Sequence",
            "Strip",
            "WordPiece",
        ],
    ),
];
const MODELS: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];

#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow, default)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow, default)]
    decoder: Option<&'a RawValue>,
    #[serde(borrow, default)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Model<'a> {
    /// Old files of known models have none. What is checked here does not depend on it.
    #[serde(borrow, rename = "type", default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    vocab: Option<&'a RawValue>,
    #[serde(borrow, default)]
    merges: Option<&'a RawValue>,
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
    #[serde(default)]
    unk_token: Option<Text>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<Text>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair((String, String)),
    /// With a space between.
    Text(String),
}

impl Merge {
    fn second(&self) -> Option<&str> {
        match self {
            Self::Pair((_, second)) => Some(second),
            Self::Text(both) => both.split(' ').nth(1),
        }
    }
}

#[derive(Deserialize)]
struct AddedToken<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
}

/// Checks a file.
///
/// # Errors
/// Which part of it is out of proportion, and how much it may be.
pub(super) fn check(json: &[u8]) -> Result<(), String> {
    at_most("the file's length", json.len(), usize::try_from(MAX_TOKENIZER_BYTES).unwrap_or(usize::MAX))?;
    let outline: Outline<'_> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    check_model(&outline.model)?;
    check_added_tokens(outline.added_tokens)?;
    let (mut growth, mut byte_levels) = (1_u64, 0);
    let parts = [outline.normalizer, outline.pre_tokenizer, outline.post_processor, outline.decoder];
    for ((name, known), part) in PARTS.into_iter().zip(parts) {
        let Some(part) = part else { continue };
        at_most(&format!("the length of `{name}`"), part.get().len(), MAX_PART_BYTES)?;
        let Unique(part) = serde_json::from_str(part.get()).map_err(|e| format!("`{name}`: {e}"))?;
        let components = components(&part, known).map_err(|reason| format!("`{name}`: {reason}"))?;
        for component in components {
            let kind = component["type"].as_str().unwrap_or_default();
            check_component(name, component).map_err(|reason| format!("`{name}`, {kind}: {reason}"))?;
            if name == "normalizer" {
                growth = growth.saturating_mul(factor(component));
            }
            byte_levels += usize::from(kind == "ByteLevel" && matches!(name, "normalizer" | "pre_tokenizer"));
        }
    }
    if growth > MAX_GROWTH {
        return Err(format!(
            "`normalizer`: its replacements, and what it prepends, can make a text {growth} times as long, at most {MAX_GROWTH} times is taken"
        ));
    }
    at_most("the number of ByteLevel components", byte_levels, MAX_BYTE_LEVELS)
}

fn check_model(model: &Model<'_>) -> Result<(), String> {
    if let Some(kind) = &model.kind {
        known_type(kind, &MODELS).map_err(|reason| format!("`model`: {reason}"))?;
    }
    if let Some(vocab) = model.vocab {
        check_vocabulary(vocab).map_err(|reason| format!("`model.vocab`: {reason}"))?;
    }
    let length = |text: &Option<Text>| text.as_ref().map_or(0, |Text(length)| *length);
    let prefix = model.continuing_subword_prefix.as_deref().unwrap_or_default();
    at_most("`model.unk_token`: the length", length(&model.unk_token), MAX_TEXT)?;
    at_most("`model.continuing_subword_prefix`: the length", prefix.len(), MAX_TEXT)?;
    at_most("`model.end_of_word_suffix`: the length", length(&model.end_of_word_suffix), MAX_TEXT)?;
    if let Some(merges) = model.merges {
        check_merges(merges, prefix).map_err(|reason| format!("`model.merges`: {reason}"))?;
    }
    match model.max_input_chars_per_word {
        Some(most) if most > MAX_WORD => {
            Err(format!("`model.max_input_chars_per_word` is {most}, at most {MAX_WORD} is taken"))
        }
        _ => Ok(()),
    }
}

fn check_vocabulary(vocab: &RawValue) -> Result<(), String> {
    let entries: Entries = serde_json::from_str(vocab.get()).map_err(|e| e.to_string())?;
    at_most("the number of entries", entries.number, MAX_VOCABULARY)?;
    at_most("the length of all entries", entries.bytes, MAX_VOCABULARY_BYTES)?;
    at_most("the length of an entry", entries.longest, MAX_TEXT)?;
    // Other models than Unigram have a map. There are no more beginnings than bytes.
    if entries.is_list && entries.bytes > MAX_PREFIXES {
        at_most("the number of beginnings that its entries have", prefixes::count(vocab)?, MAX_PREFIXES)?;
    }
    Ok(())
}

/// The library cuts the prefix off a merge's second half without a look at it.
fn check_merges(merges: &RawValue, prefix: &str) -> Result<(), String> {
    let number = serde_json::from_str::<Entries>(merges.get()).map_err(|e| e.to_string())?.number;
    at_most("the number of entries", number, MAX_MERGES)?;
    if prefix.is_empty() {
        return Ok(());
    }
    let merges: Vec<Merge> = serde_json::from_str(merges.get()).map_err(|e| e.to_string())?;
    let without = |merge: &Merge| merge.second().is_some_and(|second| !second.starts_with(prefix));
    match merges.iter().position(without) {
        Some(n) => Err(format!("entry {n} does not go on with {prefix:?}, which is `model.continuing_subword_prefix`")),
        None => Ok(()),
    }
}

fn check_added_tokens(added: Option<&RawValue>) -> Result<(), String> {
    let Some(added) = added else { return Ok(()) };
    at_most("the length of `added_tokens`", added.get().len(), MAX_ADDED_TOKENS_BYTES)?;
    let tokens: Vec<AddedToken<'_>> = serde_json::from_str(added.get()).map_err(|e| format!("`added_tokens`: {e}"))?;
    at_most("`added_tokens`: the number of entries", tokens.len(), MAX_ADDED_TOKENS)?;
    let longest = tokens.iter().map(|token| token.content.len()).max().unwrap_or_default();
    at_most("`added_tokens`: the length of an entry", longest, MAX_TEXT)
}

fn known_type(kind: &str, known: &[&str]) -> Result<(), String> {
    if known.contains(&kind) {
        return Ok(());
    }
    Err(format!("the type {kind:?} is not known; known are {}", known.join(", ")))
}

/// The components of a part, one after the other. Lists of components are followed and fields are checked whatever the `type` beside them
/// is: of some the library knows only what they hold.
fn components<'a>(part: &'a Value, known: &[&str]) -> Result<Vec<&'a Map<String, Value>>, String> {
    let (mut found, mut left) = (Vec::new(), vec![part]);
    while let Some(value) = left.pop() {
        if value.is_null() {
            continue;
        }
        let component = value.as_object().ok_or("a component is no object")?;
        let kind = component.get("type").and_then(Value::as_str);
        let kind =
            kind.ok_or("a component has no `type`; save the file again with a current version of `tokenizers`")?;
        known_type(kind, known)?;
        found.push(component);
        at_most("the number of components", found.len() + left.len(), MAX_COMPONENTS)?;
        for list in ["normalizers", "pretokenizers", "processors", "decoders"] {
            let inner = component.get(list).and_then(Value::as_array).into_iter().flatten();
            left.extend(inner);
            at_most("the number of components", found.len() + left.len(), MAX_COMPONENTS)?;
        }
    }
    Ok(found)
}

fn check_component(part: &str, component: &Map<String, Value>) -> Result<(), String> {
    let text = |name: &str| component.get(name).and_then(Value::as_str);
    for name in ["content", "prepend"] {
        at_most(&format!("the length of `{name}`"), text(name).map_or(0, str::len), MAX_TEXT)?;
    }
    if let Some(pattern) = component.get("pattern") {
        let plain = pattern.get("String").and_then(Value::as_str);
        at_most("the length of `pattern`", plain.map_or(0, str::len), MAX_TEXT)?;
        if let Some(regex) = pattern.get("Regex").and_then(Value::as_str) {
            patterns::check(regex)?;
        }
    }
    match text("precompiled_charsmap") {
        Some(table) => check_table(table)?,
        None if component["type"] == "Precompiled" => return Err("`precompiled_charsmap` is missing".into()),
        None => {}
    }
    if component.get("length").and_then(Value::as_u64) == Some(0) {
        return Err("`length` is 0, it must be at least 1".into());
    }
    if part == "post_processor" {
        check_lists(component)?;
    }
    Ok(())
}

/// Lists of a template, and of the ids of its special tokens.
fn check_lists(component: &Map<String, Value>) -> Result<(), String> {
    let mut left: Vec<(&str, &Value)> = component.iter().map(|(name, value)| (name.as_str(), value)).collect();
    while let Some((name, value)) = left.pop() {
        match value {
            Value::Array(list) => {
                at_most(&format!("the length of `{name}`"), list.len(), MAX_TEMPLATE)?;
                left.extend(list.iter().map(|value| (name, value)));
            }
            Value::Object(map) => left.extend(map.iter().map(|(name, value)| (name.as_str(), value))),
            _ => {}
        }
    }
    Ok(())
}

/// The table of characters of SentencePiece: the length of a search tree, the tree, and what is put in place, each ended by a zero.
fn check_table(table: &str) -> Result<(), String> {
    let wrong = || "`precompiled_charsmap` is no table of characters".to_owned();
    let bytes = BASE64_STANDARD.decode(table).map_err(|_| wrong())?;
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(wrong)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| wrong())?;
    let replacements = rest.get(length..).filter(|_| length > 0).ok_or_else(wrong)?;
    let longest = replacements.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or_default();
    std::str::from_utf8(replacements).map_err(|_| wrong())?;
    at_most("`precompiled_charsmap`: the length of a replacement", longest, MAX_REPLACEMENT)
}

/// By how much a component of a normalizer can multiply the length of a text, if it is one that replaces, or puts something before it: a
/// piece of a text, which is a text for it, may be one character.
fn factor(component: &Map<String, Value>) -> u64 {
    if let Some(prepend) = component.get("prepend").and_then(Value::as_str) {
        return prepend.len() as u64 + 1;
    }
    let Some(pattern) = component.get("pattern") else { return 1 };
    let content = component.get("content").and_then(Value::as_str).map_or(0, str::len) as u64;
    match pattern.get("String").and_then(Value::as_str) {
        Some(pattern) if !pattern.is_empty() => content.div_ceil(pattern.len() as u64).max(1),
        // It may find nothing, between any two characters.
        _ => content + 1,
    }
}

fn at_most(what: &str, found: usize, most: usize) -> Result<(), String> {
    if found <= most { Ok(()) } else { Err(format!("{what} is {found}, at most {most} is taken")) }
}

/// A list or a map of texts, counted and not kept.
#[derive(Debug, Default)]
struct Entries {
    number: usize,
    /// Of all texts that are keys, or the first of their entries.
    bytes: usize,
    longest: usize,
    is_list: bool,
}

impl Entries {
    fn add(&mut self, length: usize) {
        self.number += 1;
        self.bytes = self.bytes.saturating_add(length);
        self.longest = self.longest.max(length);
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Counter)
    }
}

struct Counter;

impl<'de> Visitor<'de> for Counter {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Entries, E> {
        Ok(Entries::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Entries::default();
        while let Some((Text(length), IgnoredAny)) = map.next_entry()? {
            entries.add(length);
        }
        Ok(entries)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
        let mut entries = Entries { is_list: true, ..Entries::default() };
        while let Some(First(length)) = list.next_element()? {
            entries.add(length);
        }
        Ok(entries)
    }
}

/// The length of a text.
struct Text(usize);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        First::deserialize(deserializer).map(|First(length)| Self(length))
    }
}

/// The length of a text, or of the first entry of a list.
struct First(usize);

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Length;
        impl<'de> Visitor<'de> for Length {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list that begins with one")
            }

            fn visit_str<E>(self, text: &str) -> Result<First, E> {
                Ok(First(text.len()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First, A::Error> {
                let first = list.next_element::<First>()?.ok_or_else(|| A::Error::custom("an entry is empty"))?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(first)
            }
        }
        deserializer.deserialize_any(Length)
    }
}
