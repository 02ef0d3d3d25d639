//! Tokenizers: files that say how, and texts.

use std::sync::LazyLock;

use embed_engine::tokenize::TextTokenizer;
use embed_schemas::ModelMetadata;
use serde_json::{Value, json};

/// Longest text.
const LONGEST: usize = 64 << 10;

static MODEL: LazyLock<ModelMetadata> =
    LazyLock::new(|| serde_json::from_slice(&real("metadata.json")).expect("the model's metadata"));

fn real(file: &str) -> Vec<u8> {
    let version = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
    std::fs::read(version.join(file)).expect("a file of the model; run `make setup`")
}

/// The real vocabulary with the model's own settings, and with others.
static TOKENIZERS: LazyLock<Vec<TextTokenizer>> = LazyLock::new(|| {
    let file: Value = serde_json::from_slice(&real("tokenizer.json")).expect("JSON");
    let others = [
        json!({}),
        json!({"lowercase": false, "strip_accents": null}),
        json!({"lowercase": true, "strip_accents": false, "handle_chinese_chars": false}),
        json!({"clean_text": false, "strip_accents": true, "lowercase": false}),
    ];
    let made = others.map(|other| {
        let mut file = file.clone();
        let settings = other.as_object().expect("an object").clone();
        file["normalizer"].as_object_mut().expect("a normalizer").extend(settings);
        let json = serde_json::to_vec(&file).expect("JSON");
        let tokenizer = TextTokenizer::new(&json, &MODEL, LONGEST).expect("a tokenizer");
        assert_eq!(tokenizer.slow_because(), None, "otherwise the library is compared with itself");
        tokenizer
    });
    made.into()
});

pub(super) fn texts() -> Vec<Vec<u8>> {
    let texts = [
        "The quick brown fox jumps over the lazy dog.",
        "naïve café, Straße: 100 €!",
        "日本語 中文 한국어 \u{1112}\u{1161}\u{11ab}",
        "[CLS] a [SEP] b [MASK] [UNK] [PAD]",
        "a\u{301}\u{302e}\u{1d165}\u{345} ΑΣ İẞ",
        "\u{200b}\u{feff}\0\u{7f}\u{ad}\u{fffd} \u{3000}\u{2028}x",
        "antidisestablishmentarianism unaffable",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// The same tokens as the library's, or the same error.
pub(super) fn tokens(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for tokenizer in TOKENIZERS.iter() {
        for truncate in [true, false] {
            let expected = tokenizer.encode_by_library(None, &text, truncate);
            assert_eq!(tokenizer.encode(None, &text, truncate), expected, "{text:?}");
        }
    }
}

pub(super) fn tokenizers() -> Vec<Vec<u8>> {
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let file = |normalizer: Value, pre_tokenizer: Value, post_processor: Value, model: Value| {
        json!({"version": "1.0", "truncation": null, "padding": null, "decoder": null,
            "added_tokens": [special(0, "[UNK]"), special(1, "[CLS]"), special(2, "[SEP]")],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "model": model})
    };
    let vocabulary =
        json!({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "hello": 3, "world": 4, "##s": 5, "h": 6, "e": 7, "he": 8, "a": 9});
    let ends = json!({"type": "BertProcessing", "cls": ["[CLS]", 1], "sep": ["[SEP]", 2]});
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}}});
    let files = [
        file(
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
            ends.clone(),
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                "vocab": vocabulary.clone()}),
        ),
        file(
            json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"},
                {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}, {"type": "Prepend", "prepend": "a"}]}),
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
            template,
            json!({"type": "Unigram", "unk_id": 0, "vocab": [["[UNK]", 0.0], ["h", -1.0], ["hello", -2.5], ["▁", -3.0]], "byte_fallback": false}),
        ),
        file(
            Value::Null,
            json!({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]}),
            ends,
            json!({"type": "BPE", "dropout": null, "unk_token": "[UNK]", "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": [["h", "e"]]}),
        ),
        file(
            Value::Null,
            json!({"type": "Whitespace"}),
            Value::Null,
            json!({"type": "WordLevel", "vocab": {"hello": 3, "[UNK]": 0}, "unk_token": "[UNK]"}),
        ),
    ];
    files.map(|file| serde_json::to_vec(&file).expect("JSON")).into()
}

/// A file is refused, or makes a tokenizer that fails on a text at most.
pub(super) fn tokenizer(bytes: &[u8]) {
    let Ok(tokenizer) = TextTokenizer::new(bytes, &MODEL, LONGEST) else { return };
    for text in ["", "hello worlds", "he [SEP] wörld 中 \u{301}a"] {
        let _ = tokenizer.encode(None, text, true);
    }
}
