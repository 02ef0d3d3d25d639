//! What a registry and buckets hold: documents, golden texts, graphs.

use embed_backfill::State;
use embed_engine::{engine::onnx_file, model::read_golden};
use embed_schemas::{
    CurrentPointer, ModelMetadata, RouteRecord,
    model::GoldenSet,
    serving::{DesiredVariant, VariantStatus},
};
use serde::{Serialize, de::DeserializeOwned};

const METADATA: &str = r#"{"model_name":"M","slug":"m","model_id":"x/M","version":"v1.0.0","dimension":2,"max_seq_length":8,
    "pooling":"mean","normalized":true,"dimensions":[1],"prompts":{"query":"query: "},"space":"abc",
    "tokenizer":{"file":"tokenizer.json","bytes":10,"sha256":"0000000000000000000000000000000000000000000000000000000000000000"},
    "golden":{"file":"golden.json","bytes":10,"sha256":"0000000000000000000000000000000000000000000000000000000000000000"},
    "artefacts":[{"precision":"fp32","form":"contrib","file":"fp32.onnx","bytes":10,"performance":{"x":1.5},
    "sha256":"0000000000000000000000000000000000000000000000000000000000000000"}],
    "license":"Apache-2.0","created_at":"2026-01-01T00:00:00Z"}"#;

const DOCUMENTS: [&str; 6] = [
    METADATA,
    r#"{"version":"v1.0.0","history":[{"from":null,"to":"v1.0.0","who":"a","when":"2026-01-01T00:00:00Z"}]}"#,
    r#"{"lanes":{"rpc":{"fp32":95,"int8":5}},"from":{},"state":"applied","who":"a","when":"2026-01-01T00:00:00Z","note":"n"}"#,
    r#"{"version":"current","precision":"int8","default":true,"pinned":false,"who":"a","when":"2026-01-01T00:00:00Z"}"#,
    r#"{"state":"live","default":true,"wanted":"v1","live":{"version":"v1","precision":"fp32","provider":"cpu","space":"abc",
        "since":"2026-01-01T00:00:00Z","devices":[0],"skipped":[{"provider":"cuda","reason":"none"}]},
        "failed":{"version":"v2","reason":"r","when":"2026-01-01T00:00:00Z"}}"#,
    r#"{"format":2,"id":"b-1","parameters":{"input":"/in","model":"m","variant":null,"prompt":null,"truncate":true,
        "dimensions":null,"text_field":"text","id_field":"id","chunk":64},"input_size":10,"done":{"bytes":1,"lines":1,"rows":1},
        "output_bytes":5,"stored":1,"failed":0,"space":"abc","finished":false}"#,
];

pub(super) fn all_documents() -> Vec<Vec<u8>> {
    DOCUMENTS.map(|text| text.as_bytes().to_vec()).into()
}

/// What is read can be written, and read again.
pub(super) fn documents(bytes: &[u8]) {
    let metadata = again::<ModelMetadata>(bytes);
    let _ = metadata.map(|metadata| metadata.check_limits());
    again::<CurrentPointer>(bytes);
    again::<RouteRecord>(bytes);
    again::<DesiredVariant>(bytes);
    again::<VariantStatus>(bytes);
    // States of earlier versions are read as this one's.
    if let Ok(state) = State::read(bytes) {
        let written = serde_json::to_vec(&state).expect("documents have names for keys");
        assert!(State::read(&written).is_ok_and(|read| read == state));
    }
}

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let document: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&document).expect("documents have names for keys");
    Some(serde_json::from_slice(&written).expect("what was written is read"))
}

fn metadata() -> ModelMetadata {
    serde_json::from_str(METADATA).expect("metadata")
}

pub(super) fn golden_sets() -> Vec<Vec<u8>> {
    let item = |text: &str, vector: &str| {
        format!(r#"{{"text":"{text}","prompt":null,"tokens":3,"truncated":false,"vector_f32_base64":"{vector}"}}"#)
    };
    // 1 and 0, 0 and 1, 1 and 1.
    let items = [item("a", "AACAPwAAAAA="), item("b", "AAAAAAAAgD8="), item("c", "AACAPwAAgD8=")].join(",");
    vec![format!(r#"{{"tolerance":0.0001,"items":[{items}]}}"#).into_bytes()]
}

/// Golden texts that are taken would not let any vector pass.
pub(super) fn golden_texts(bytes: &[u8]) {
    if let Ok(GoldenSet { tolerance, items }) = read_golden(bytes, &metadata()) {
        assert!((0.0..=0.01).contains(&tolerance) && items.len() >= 3);
    }
}

/// A field of a message, in protobuf's form.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("seeds are short");
    assert!(length < 0x80, "seeds are short");
    [&[number << 3 | 2, length][..], content].concat()
}

pub(super) fn all_graphs() -> Vec<Vec<u8>> {
    let tensor = [&[8, 2, 8, 2, 16, 1][..], &field(8, b"w"), &field(9, &[0; 16])].concat();
    let place = [field(1, b"location"), field(2, b"../x")].concat();
    let external = [tensor.clone(), field(13, &place), vec![14 << 3, 1]].concat();
    let attribute = [field(1, b"value"), field(5, &tensor), vec![20 << 3 & 0x7f | 0x80, 1, 4]].concat();
    let node = [field(1, b"a"), field(2, b"b"), field(4, b"Add"), field(5, &attribute)].concat();
    let graph = |tensor: &[u8]| field(7, &[field(1, &node), field(2, b"g"), field(5, tensor)].concat());
    let model =
        |tensor: &[u8]| [vec![8, 8], graph(tensor), field(14, &[field(1, b"k"), field(2, b"v")].concat())].concat();
    vec![model(&tensor), model(&external), field(7, &field(5, &tensor))]
}

/// A file is looked at to its end or refused, and never says that it lies elsewhere.
pub(super) fn graph(bytes: &[u8]) {
    let found = onnx_file::inspect(&mut &*bytes).map_err(|error| error.to_string());
    let checked = onnx_file::check(bytes, &metadata());
    assert!(found.is_ok() || checked.is_err(), "what is refused is refused");
}
