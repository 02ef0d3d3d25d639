//! Against the library: the same ids for every text, whatever is in it and however the tokenizer is configured.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::Bert;

/// The settings of the parts of a tokenizer.
#[derive(Debug, Clone, Copy)]
struct Settings {
    clean_text: bool,
    chinese: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
    max_chars: usize,
}

const USUAL: Settings =
    Settings { clean_text: true, chinese: true, strip_accents: None, lowercase: true, max_chars: 100 };

const SETTINGS: [Settings; 6] = [
    USUAL,
    Settings { lowercase: false, ..USUAL },
    Settings { strip_accents: Some(false), chinese: false, ..USUAL },
    Settings { strip_accents: Some(true), lowercase: false, max_chars: 5, ..USUAL },
    Settings { clean_text: false, ..USUAL },
    Settings { clean_text: false, chinese: false, strip_accents: Some(false), lowercase: false, max_chars: 0 },
];

/// Pieces of many scripts, on purpose ambiguous: longer ones begin with shorter ones, and some words cannot be ended.
const WORDS: &str = "a b c s x ab abc abcabcabcabcabcabcabc the this é e A THE 中 文 日本 я нет ß ss 한 \u{1112} 🙂 1 12 2024 un i i\u{307} \u{302E} ² ' . , [ ] - ab' ##";
const ENDINGS: &str =
    "a b c s ing ed able abcabcabcabcabcabcabc é 文 я \u{1161} \u{11AB} 1 24 \u{301} \u{1D165} 😀 x #";

fn configuration(settings: Settings) -> Value {
    let mut vocab = serde_json::Map::new();
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].into_iter().chain(WORDS.split(' ')).map(str::to_owned);
    for piece in words.chain(ENDINGS.split(' ').map(|ending| format!("##{ending}"))) {
        let id = vocab.len();
        vocab.insert(piece, json!(id));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": content == "[MASK]", "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "decoder": null,
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]"), special(4, "[MASK]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": settings.clean_text, "handle_chinese_chars": settings.chinese,
            "strip_accents": settings.strip_accents, "lowercase": settings.lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": settings.max_chars, "vocab": vocab},
    })
}

fn tokenizer(configuration: &Value) -> Tokenizer {
    Tokenizer::from_bytes(serde_json::to_vec(configuration).unwrap()).unwrap()
}

/// Both ways, for each of [`SETTINGS`], and for the real vocabulary.
static PAIRS: LazyLock<Vec<(Tokenizer, Bert)>> = LazyLock::new(|| {
    let made = SETTINGS.iter().map(|settings| tokenizer(&configuration(*settings)));
    let pair = |library: Tokenizer| {
        let bert = Bert::new(&library).unwrap();
        (library, bert)
    };
    made.chain([real()]).map(pair).collect()
});

fn real() -> Tokenizer {
    let versions = embed_testkit::registry().join("models/all-minilm-l6-v2");
    let json = std::fs::read(versions.join("v1.0.0/tokenizer.json")).unwrap();
    let mut tokenizer = Tokenizer::from_bytes(json).unwrap();
    tokenizer.with_truncation(None).unwrap();
    tokenizer.with_padding(None);
    tokenizer
}

/// Compares the ids of a text, whole and read only as far as needed. Says whether the library was left out.
fn same((library, bert): &(Tokenizer, Bert), text: &str) -> bool {
    let expected = library.encode_fast(text, true).unwrap().get_ids().to_vec();
    for enough in [0, 1, 2, 5, 17, 256] {
        if let Some(ids) = bert.encode(text, Some(enough)) {
            assert_eq!(
                ids.len() > enough,
                expected.len() > enough,
                "{text:?} with {enough}: {ids:?}, not {expected:?}"
            );
            let kept = if ids.len() > enough { enough.saturating_sub(1) } else { ids.len() };
            assert_eq!(ids[..kept], expected[..kept], "{text:?} with {enough}");
            assert_eq!(ids.last(), expected.last(), "{text:?} with {enough}");
        }
    }
    let ids = bert.encode(text, None);
    ids.inspect(|ids| assert_eq!(*ids, expected, "{text:?}")).is_some()
}

fn same_everywhere(text: &str) {
    for pair in PAIRS.iter() {
        same(pair, text);
    }
}

/// Combining marks: some are removed with the accents, some are not, and they are sorted by several classes.
const MARKS: &str =
    "\u{300}\u{301}\u{302E}\u{302F}\u{1D165}\u{1D16D}\u{1D15E}\u{345}\u{5B0}\u{93C}\u{1AB0}\u{1E2EC}\u{FE0F}\u{20DD}";

/// Spaces, controls, and characters that become others, or several.
const ODD: &str = " \t\n\r\u{B}\u{A0}\u{2003}\u{2028}\u{3000}\u{200B}\u{200D}\u{FEFF}\0\u{7F}\u{85}\u{FFFD}\u{AD}\u{E000}\u{10FFFF}\u{37E}\u{1FEF}\u{2260}\u{F900}\
    \u{2F800}\u{212B}\u{344}İẞΣﬁ½¿«…각";

/// Added tokens and what looks like them; a final sigma; a syllable in parts.
const ODD_WORDS: &str = "[SEP] [MASK] [CLS] [UNK [[SEP] [sep] SEP] ΑΣ \u{1100}\u{1161}\u{11A8}";

/// Fragments that interact: pieces, marks, spaces, controls, scripts, added tokens and what almost is one.
fn fragment() -> impl Strategy<Value = String> {
    let known = WORDS.split(' ').chain(ENDINGS.split(' ')).map(str::to_owned).collect::<Vec<_>>();
    let odd = MARKS.chars().chain(ODD.chars()).map(String::from).collect::<Vec<_>>();
    let odd_words = ODD_WORDS.split(' ').map(str::to_owned).collect::<Vec<_>>();
    prop_oneof![
        4 => proptest::sample::select(known),
        4 => proptest::sample::select(odd),
        2 => proptest::sample::select(odd_words),
        2 => "[a-zA-Z0-9 .,'-]{1,12}",
        1 => any::<char>().prop_map(String::from),
        1 => "\\PC{1,4}",
        1 => (0x300u32..0x2100).prop_map(|c| char::from_u32(c).map_or_else(String::new, String::from)),
        1 => (1usize..130, proptest::sample::select(&["a", "é", "z", "中", "я"][..])).prop_map(|(n, c)| c.repeat(n)),
    ]
}

/// A second or two; many more are tried by hand with `PROPTEST_CASES=1000000`.
fn cases() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(1000), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn texts_of_fragments_have_the_ids_of_the_library(text in proptest::collection::vec(fragment(), 0..24)) {
        same_everywhere(&text.concat());
    }

    #[test]
    fn any_text_has_the_ids_of_the_library(text in any::<String>()) {
        same_everywhere(&text);
    }
}

/// Texts that have a character beside letters, marks that are removed and marks that are not.
fn around(c: char) -> [String; 4] {
    [
        format!("a{c}b {c}"),
        format!("{c}{c}\u{301}the"),
        format!("\u{1D165}{c}\u{302E}"),
        format!("x\u{302E}{c}\u{1D165}"),
    ]
}

#[test]
fn characters_among_others_have_the_ids_of_the_library() {
    // A prime step, so that every block has its turn; all of the first blocks.
    for c in (0..0x500).chain((0x500..0x11_0000).step_by(997)).filter_map(char::from_u32) {
        around(c).iter().for_each(|text| same_everywhere(text));
    }
}

#[test]
fn real_sentences_need_no_library() {
    let sample = include_str!("../../../../deploy/samples/wordnet/sentences.jsonl");
    let usual = PAIRS.last().unwrap();
    for line in sample.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert!(same(usual, row["text"].as_str().unwrap()), "{line}");
    }
    for text in ["naïve café", "Straße", "日本語", "привет", "🙂", "a\u{301}", "", " "] {
        assert!(same(usual, text), "{text}");
    }
    for text in ["a [SEP] b", "\u{1D165}"] {
        assert!(!same(usual, text), "{text}");
    }
}

#[test]
fn what_is_not_known_is_left_to_the_library() {
    let made = |path: &str, value: Value| {
        let mut changed = configuration(USUAL);
        *changed.pointer_mut(path).unwrap() = value;
        Bert::new(&tokenizer(&changed)).map(|_| ()).unwrap_err()
    };
    for (path, value, word) in [
        ("/normalizer", json!({"type": "Lowercase"}), "normalizer"),
        ("/normalizer", Value::Null, "normalizer"),
        ("/pre_tokenizer", json!({"type": "Whitespace"}), "pre-tokenizer"),
        ("/post_processor", Value::Null, "post-processor"),
        ("/added_tokens/4/normalized", json!(true), "[MASK]"),
        ("/added_tokens/4/content", json!("mask"), "mask"),
        ("/model/unk_token", json!("<unk>"), "<unk>"),
        ("/model/max_input_chars_per_word", json!(1_000_000), "1000000"),
        (
            "/padding",
            json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]"}),
            "pads",
        ),
    ] {
        let reason = made(path, value);
        assert!(reason.contains(word), "{path}: {reason}");
    }
}

#[test]
fn templates_are_read() {
    let mut changed = configuration(USUAL);
    let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
    let mut template = json!({"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "single": [special("[CLS]"), special("two"), sequence, special("[SEP]")],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            "two": {"id": "two", "ids": [4, 0], "tokens": ["[MASK]", "[PAD]"]}}});
    for single in [template["single"].clone(), json!([sequence]), json!([special("two"), sequence])] {
        template["single"] = single;
        changed["post_processor"] = template.clone();
        let library = tokenizer(&changed);
        let bert = Bert::new(&library).unwrap();
        let pair = (library, bert);
        for text in ["", "a", "abc ab's the unable 2024 x"] {
            assert!(same(&pair, text), "{text}");
        }
    }
    template["single"] = json!([sequence, special("[SEP]"), sequence]);
    changed["post_processor"] = template;
    assert!(Bert::new(&tokenizer(&changed)).unwrap_err().contains("template"));
}
