//! Files of tokenizers that were written to take all memory, or all time; and those that are not.

use embed_schemas::{ErrorCode, ModelMetadata};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::{TextTokenizer, outline};

const MAX_BYTES: usize = 1 << 18;

/// The real model's file and metadata.
fn real() -> (Value, ModelMetadata) {
    let version = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
    let read = |file| std::fs::read(version.join(file)).unwrap();
    (serde_json::from_slice(&read("tokenizer.json")).unwrap(), serde_json::from_slice(&read("metadata.json")).unwrap())
}

/// A small tokenizer, changed.
fn small(change: impl FnOnce(&mut Value)) -> Result<TextTokenizer, String> {
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "decoder": null, "normalizer": null, "post_processor": null,
        "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "b": 2, "##a": 3}},
    });
    change(&mut file);
    TextTokenizer::new(file.to_string().as_bytes(), &real().1, MAX_BYTES).map_err(|error| error.to_string())
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    small(change).err().unwrap_or_else(|| "taken".to_owned())
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn sequence(normalizers: Value) -> Value {
    json!({"type": "Sequence", "normalizers": normalizers})
}

#[test]
fn what_is_out_of_proportion_is_refused_with_its_name_and_its_bound() {
    assert!(small(|_| {}).is_ok());
    let (normalizer, template) = ("normalizer", "post_processor");
    let many = |count: usize, one: &Value| Value::from(vec![one.clone(); count]);
    let lower = json!({"type": "Lowercase"});
    let token = |content: String| json!({"id": 9, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let processing = |pieces: usize, ids: usize| {
        json!({"type": "TemplateProcessing", "single": many(pieces, &json!({"SpecialToken": {"id": "x", "type_id": 0}})),
            "pair": [], "special_tokens": {"x": {"id": "x", "ids": vec![1; ids], "tokens": vec!["a"; ids]}}})
    };
    let deep = (0..40).fold(lower.clone(), |inner, _| sequence(json!([inner])));
    for (part, value, named, limit) in [
        // Three of them make 8 bytes of one, and each eight thousand: 8.7 GB of a text of 256 KiB.
        (normalizer, sequence(many(3, &replace(json!({"String": "a"}), &"a".repeat(32)))), "replacements", "64"),
        (normalizer, replace(json!({"Regex": ""}), &"a".repeat(64)), "replacements", "64"),
        (normalizer, replace(json!({"String": "a"}), &"a".repeat(2000)), "`content`", "1024"),
        // Before each piece between added tokens.
        (normalizer, json!({"type": "Prepend", "prepend": "x".repeat(1020)}), "what it prepends", "64"),
        (normalizer, sequence(many(33, &lower)), "number of components", "32"),
        (normalizer, deep, "number of components", "32"),
        (normalizer, json!({"type": "Prepend", "prepend": "x".repeat(1025)}), "`prepend`", "1024"),
        (normalizer, sequence(many(3, &json!({"type": "ByteLevel"}))), "ByteLevel", "2"),
        (
            normalizer,
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
            "`precompiled_charsmap`",
            "table",
        ),
        (normalizer, json!({"strip_left": true, "strip_right": true}), "no `type`", "save the file again"),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(?:(?:(?=a)a){1000}){1000}"}, "behavior": "Isolated", "invert": false}),
            "repeats",
            "1000",
        ),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "`length` is 0", "at least 1"),
        (template, processing(1000, 1), "`single`", "32"),
        (template, processing(1, 1000), "the length of", "32"),
        ("added_tokens", many(20_000, &token("[X]".to_owned())), "`added_tokens`: the number", "16384"),
        ("added_tokens", json!([token("x".repeat(2000))]), "`added_tokens`: the length", "1024"),
    ] {
        let said = refusal(|file| file[part] = value);
        assert!(said.contains(named) && said.contains(limit), "{part}: {said}");
    }
    let said = refusal(|file| file["model"]["max_input_chars_per_word"] = json!(1_000_000_000));
    assert!(said.contains("`model.max_input_chars_per_word`") && said.contains("256"), "{said}");
    for name in ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
        let said = refusal(|file| file["model"][name] = json!("x".repeat(1025)));
        assert!(said.contains(&format!("`model.{name}`: the length is 1025, at most 1024")), "{said}");
    }
    let said = refusal(|file| file["model"]["vocab"]["x".repeat(2000)] = json!(4));
    assert!(said.contains("`model.vocab`: the length of an entry"), "{said}");
    let said = refusal(|file| {
        file["model"]["vocab"] =
            (0..=(1 << 20)).map(|n: u32| (n.to_string(), json!(n))).collect::<serde_json::Map<_, _>>().into();
    });
    assert!(said.contains("the number of entries is 1048577, at most 1048576"), "{said}");
}

/// The library reads a component of another type by its fields, and takes the last of two keys.
#[test]
fn what_the_library_would_read_by_its_fields_alone_is_refused() {
    let lower = json!({"type": "Lowercase"});
    let growing = replace(json!({"Regex": ""}), &"a".repeat(64));
    for (part, value, named) in [
        ("normalizer", json!({"type": "X", "normalizers": [lower.clone()]}), "\"X\" is not known; known are Bert,"),
        ("normalizer", sequence(json!([{"type": "Whitespace"}])), "\"Whitespace\" is not known"),
        ("pre_tokenizer", json!({"type": "X", "pretokenizers": []}), "known are BertPreTokenizer,"),
        ("post_processor", json!({"type": "X", "processors": []}), "known are BertProcessing,"),
        ("decoder", json!({"type": "X", "decoders": []}), "known are BPEDecoder,"),
        // Known, but to the library only by what they hold.
        ("normalizer", json!({"type": "BertNormalizer", "normalizers": vec![lower; 33]}), "number of components"),
        ("normalizer", json!({"type": "BertNormalizer", "normalizers": [growing]}), "replacements"),
        (
            "normalizer",
            json!({"type": "BertNormalizer", "pattern": {"Regex": ""}, "content": "a".repeat(64)}),
            "replacements",
        ),
    ] {
        let said = refusal(|file| file[part] = value);
        assert!(said.contains(&format!("`{part}`")) && said.contains(named), "{part}: {said}");
    }
    let said = refusal(|file| file["model"]["type"] = json!("X"));
    assert!(said.contains("`model`: the type \"X\" is not known; known are BPE,"), "{said}");
    let twice = r#"{"model": {}, "normalizer": {"type": "Lowercase", "type": "Sequence", "normalizers": []}}"#;
    let said = TextTokenizer::new(twice.as_bytes(), &real().1, MAX_BYTES).unwrap_err().to_string();
    assert!(said.contains("`normalizer`: the key \"type\" stands twice"), "{said}");
    // Files of the time before there were several types of models.
    assert!(small(|file| drop(file["model"].as_object_mut().unwrap().remove("type"))).is_ok());
}

#[test]
fn what_the_library_panics_on_is_refused_in_words() {
    let said = refusal(|file| file["normalizer"] = json!({"type": "Precompiled"}));
    assert!(said.contains("`normalizer`, Precompiled: `precompiled_charsmap` is missing"), "{said}");
    for merges in [json!([["a", "b"]]), json!(["a b"]), json!([["a", "\u{E9}"]])] {
        let said = refusal(|file| {
            file["model"] = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u{E9}": 3},
                "merges": merges, "continuing_subword_prefix": "##"});
        });
        assert!(said.contains("`model.merges`") && said.contains("`model.continuing_subword_prefix`"), "{said}");
    }
    // A tree of a word and a quarter: the last byte is read as text, which it is not.
    let said =
        refusal(|file| file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "BQAAAAAAAAD/AA=="}));
    assert!(said.contains("tokenizer.json: `tokenizers` panics on it"), "{said}");
}

#[test]
fn json_without_end_is_refused() {
    let (_, metadata) = real();
    let refusal = |json: String| TextTokenizer::new(json.as_bytes(), &metadata, MAX_BYTES).unwrap_err().to_string();
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    for part in ["normalizer", "model", "other"] {
        let said = refusal(format!(r#"{{"model": {{"vocab": {{}}}}, "{part}": {deep}}}"#));
        assert!(said.starts_with("tokenizer.json: "), "{said}");
    }
    assert!(refusal(r#"{"model": {}, "model": {}}"#.to_owned()).contains("duplicate field"));
}

/// The library has a table for each beginning of a Unigram model's entries.
#[test]
fn a_list_of_entries_may_have_as_many_as_the_largest_models_if_they_begin_alike() {
    let list = |entries: &mut dyn Iterator<Item = String>| {
        let entries: Vec<_> = entries.map(|text| (text, -12.345_678_901_234_567)).collect();
        json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": entries}})
    };
    let refusal = |file: Value| outline::check(file.to_string().as_bytes()).unwrap_err();
    let said = refusal(list(&mut (0..6000).map(|n| format!("{n:x<1000}"))));
    assert!(said.contains("`model.vocab`: the number of beginnings that its entries have is 59"), "{said}");
    assert!(said.ends_with("at most 4194304 is taken"), "{said}");
    let said = refusal(list(&mut (0..17_000).map(|n| format!("{n:01000}"))));
    assert!(said.contains("`model.vocab`: the length of all entries is 17000000, at most 16777216"), "{said}");
    // As many as XLM-V has, with as much around each as a file that is written in lines: of three syllables, the last of three bytes.
    let syllable = |n: usize| char::from_u32(0xAC00 + 71 * (n % 97) as u32).unwrap();
    let word = |n: usize| format!("\u{2581}{}{}{}", syllable(n / 97 / 97), syllable(n / 97), syllable(n));
    let file = serde_json::to_vec_pretty(&list(&mut (0..901_629).map(word))).unwrap();
    outline::check(&file).unwrap();
    assert!(file.len() > 55_000_000);
}

/// Each is within its own bounds; what comes of a text is not.
#[test]
fn a_text_that_grows_is_an_error_of_the_text_and_takes_no_memory() {
    let tokenizer = small(|file| {
        file["normalizer"] = sequence(json!([
            replace(json!({"String": "b"}), &"a".repeat(8)),
            replace(json!({"Regex": "a"}), "aaaaaaa"),
        ]));
    })
    .unwrap();
    let error = tokenizer.encode(None, &"b".repeat(100_000), true).unwrap_err();
    assert_eq!(error.code, ErrorCode::TextTooLarge, "{error:?}");
    assert!(error.message.contains("16 times as long"), "{}", error.message);
    // The text before has failed on this thread; this one is short.
    assert_eq!(tokenizer.encode(None, "b", true).unwrap().ids.len(), 56);
}

/// The library normalizes what lies between added tokens piece by piece.
#[test]
fn the_pieces_of_a_text_grow_together() {
    let tokenizer = small(|file| {
        file["added_tokens"] = json!([{"id": 1, "content": "a", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false}]);
        file["normalizer"] = json!({"type": "Prepend", "prepend": "b".repeat(63)});
    })
    .unwrap();
    let error = tokenizer.encode(None, &"ab".repeat(20_000), true).unwrap_err();
    assert_eq!(error.code, ErrorCode::TextTooLarge, "{error:?}");
    assert!(error.message.contains("16 times as long"), "{}", error.message);
    // Each text has a budget of its own.
    for _ in 0..100 {
        assert!(tokenizer.encode(None, &"ab".repeat(60), true).is_ok());
    }
}

#[test]
fn an_expression_without_end_is_an_error_of_the_text() {
    let pattern = json!({"Regex": r"(?:a+)+(?=b)\b"});
    let split = json!({"type": "Split", "pattern": pattern.clone(), "behavior": "Isolated", "invert": false});
    for (part, value) in [("pre_tokenizer", split), ("normalizer", replace(pattern, "x"))] {
        let tokenizer = small(|file| file[part] = value).unwrap();
        let error = tokenizer.encode(None, &("a".repeat(60) + "c"), true).unwrap_err();
        assert!(error.code == ErrorCode::TextTooLarge && error.message.contains("takes too long"), "{part}: {error:?}");
        assert!(tokenizer.encode(None, "ab", true).is_ok());
    }
}

#[test]
fn a_tokenizer_that_panics_fails_on_the_text() {
    // The search tree has one entry, and a text leads beyond it.
    let table = json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAEAAAA"});
    let tokenizer = small(|file| file["normalizer"] = table);
    // If the library refuses the table itself, so much the better.
    if let Ok(tokenizer) = tokenizer {
        let error = tokenizer.encode(None, "\u{FF}a", true).unwrap_err();
        assert_eq!(error.code, ErrorCode::EngineFailed, "{error:?}");
    }
}

/// Tokenizers with the parts that known models have: the same ids as the library's own.
fn known() -> Vec<Value> {
    let split = |pattern: &str, behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert});
    let base = |normalizer: Value, pre_tokenizer: Value| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "decoder": null, "post_processor": null,
            "added_tokens": [{"id": 1, "content": "a", "single_word": true, "lstrip": false, "rstrip": false, "normalized": true, "special": false}],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "model": {"type": "BPE", "vocab": {"[UNK]": 0, "a": 1, "b": 2, "1": 3, "\u{2581}": 4, "\u{120}": 5, "ab": 6, "\u{E9}": 7},
                "merges": ["a b"], "unk_token": "[UNK]", "dropout": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false},
        })
    };
    let llama = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    vec![
        base(Value::Null, json!({"type": "Sequence", "pretokenizers": [split(llama, "Isolated", false), byte_level]})),
        base(
            sequence(json!([
                {"type": "Prepend", "prepend": "\u{2581}"}, replace(json!({"String": " "}), "\u{2581}"), {"type": "NFKC"},
                replace(json!({"Regex": " {2,}"}), " "),
            ])),
            split(r"\w+|[^\w\s]+", "Removed", true),
        ),
        base(json!({"type": "NFD"}), json!({"type": "Whitespace"})),
    ]
}

#[test]
fn the_real_tokenizer_passes() {
    let (file, metadata) = real();
    let tokenizer = TextTokenizer::new(file.to_string().as_bytes(), &metadata, MAX_BYTES).unwrap();
    assert_eq!((tokenizer.slow_because(), tokenizer.largest_id()), (None, Some(30_521)));
}

#[test]
fn ids_that_are_put_around_a_text_count() {
    let template = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"x": {"id": "x", "ids": [1, 500], "tokens": ["a", "z"]}}});
    let bert = json!({"type": "BertProcessing", "sep": ["z", 600], "cls": ["a", 1]});
    let roberta = json!({"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["z", 700], "trim_offsets": true, "add_prefix_space": false});
    let several = json!({"type": "Sequence", "processors": [bert.clone(), template.clone()]});
    for (processor, largest) in [(Value::Null, 3), (template, 500), (bert, 600), (roberta, 700), (several, 600)] {
        let tokenizer = small(|file| file["post_processor"] = processor).unwrap();
        assert_eq!(tokenizer.largest_id(), Some(largest));
    }
}

proptest! {
    #[test]
    fn bounds_change_no_ids(text in "[ab1 '\\n\u{E9}\u{FDFA}\u{4E2D}!]{0,30}") {
        let (_, metadata) = real();
        for file in known() {
            let json = file.to_string();
            let library: Tokenizer = json.parse().unwrap();
            let expected = library.encode_fast(text.as_str(), true).unwrap().get_ids().to_vec();
            let bounded = TextTokenizer::new(json.as_bytes(), &metadata, MAX_BYTES).unwrap();
            prop_assert_eq!(bounded.encode(None, &text, true).unwrap().ids, expected);
        }
    }
}

#[test]
fn tokens_are_counted_and_found_in_a_text_of_any_length() {
    let (file, metadata) = real();
    let tokenizer = TextTokenizer::new(file.to_string().as_bytes(), &metadata, 10).unwrap();
    assert_eq!(tokenizer.count(None, "").unwrap(), 2);
    assert_eq!(tokenizer.count(Some("query: "), "hello world").unwrap(), 6);
    assert_eq!(tokenizer.starts("").unwrap(), [0; 0]);
    assert_eq!(tokenizer.starts(" na\u{EF}ve \u{4E2D}\u{6587}!").unwrap(), [1, 8, 8, 8]);
    assert_eq!(tokenizer.starts("a \u{4E2D}\u{6587}\u{4E2D}\u{6587}\u{4E2D}").unwrap(), [0, 2, 5, 8, 11, 14]);
    // Longer than a stretch, and than any text that may be embedded.
    let text = "hello world ".repeat(10_000);
    let starts = tokenizer.starts(&text).unwrap();
    assert_eq!((starts.len(), tokenizer.count(None, &text).unwrap()), (20_000, 20_002));
    assert!(starts.iter().enumerate().all(|(n, start)| *start == n / 2 * 12 + n % 2 * 6));
}
