//! A graph whose vectors are off for some texts only. It is put together in protobuf's own form: what is appended to a message is merged with
//! what it has.

use std::f64::consts::PI;

/// Components of the model's vectors.
const DIMENSION: usize = 384;

/// Texts of more than `tokens` tokens get vectors that have this cosine with the right ones, nearly; all others get the right ones.
///
/// # Panics
/// If it is not a graph of the model.
pub(crate) fn off_on_long_texts(mut graph: Vec<u8>, tokens: i64, cosine: f64) -> Vec<u8> {
    // The output of the last node, field 2 of a node, gets another name: the vectors as they were.
    let output = b"\x12\x09embedding";
    let places: Vec<usize> = (0..graph.len() - output.len()).filter(|at| graph[*at..].starts_with(output)).collect();
    assert_eq!(places.len(), 1, "one node makes the vectors");
    graph[places[0] + output.len() - 1] = b'_';
    // What is added to a unit vector is orthogonal to it, nearly: most directions are.
    let length = (1.0 / (cosine * cosine) - 1.0).sqrt() * (2.0 / DIMENSION as f64).sqrt();
    let offset = |at: usize| ((at * at) as f64 * PI / 1.618 + at as f64).sin() * length;
    let offsets: Vec<u8> = (0..DIMENSION).flat_map(|at| (offset(at) as f32).to_le_bytes()).collect();
    let mut added = Vec::new();
    for (operator, inputs, result, attribute) in [
        ("ReduceSum", &["attention_mask", "off_axis"][..], "off_tokens", None),
        ("Greater", &["off_tokens", "off_most"], "off_is_long", None),
        ("Cast", &["off_is_long"], "off_share", Some(("to", FLOAT))),
        ("Mul", &["off_share", "off_offset"], "off_added", None),
        ("Add", &["embeddin_", "off_added"], "off_sum", None),
        ("LpNormalization", &["off_sum"], "embedding", None),
    ] {
        field(&mut added, 1, &node(operator, inputs, result, attribute));
    }
    for (name, dimensions, kind, data) in [
        ("off_axis", &[1][..], INT64, 1i64.to_le_bytes().to_vec()),
        ("off_most", &[1, 1], INT64, tokens.to_le_bytes().to_vec()),
        ("off_offset", &[1, DIMENSION as u64], FLOAT, offsets),
    ] {
        field(&mut added, 5, &tensor(name, dimensions, kind, &data));
    }
    field(&mut graph, 7, &added);
    graph
}

const FLOAT: u64 = 1;
const INT64: u64 = 7;

fn node(operator: &str, inputs: &[&str], output: &str, attribute: Option<(&str, u64)>) -> Vec<u8> {
    let mut node = Vec::new();
    inputs.iter().for_each(|input| field(&mut node, 1, input.as_bytes()));
    field(&mut node, 2, output.as_bytes());
    field(&mut node, 3, output.as_bytes());
    field(&mut node, 4, operator.as_bytes());
    if let Some((name, value)) = attribute {
        let mut attribute = Vec::new();
        field(&mut attribute, 1, name.as_bytes());
        number(&mut attribute, 3, value);
        // It is an integer.
        number(&mut attribute, 20, 2);
        field(&mut node, 5, &attribute);
    }
    node
}

fn tensor(name: &str, dimensions: &[u64], kind: u64, data: &[u8]) -> Vec<u8> {
    let mut tensor = Vec::new();
    dimensions.iter().for_each(|dimension| number(&mut tensor, 1, *dimension));
    number(&mut tensor, 2, kind);
    field(&mut tensor, 8, name.as_bytes());
    field(&mut tensor, 9, data);
    tensor
}

/// A field with a text, bytes or a message.
fn field(message: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(message, number << 3 | 2);
    varint(message, content.len() as u64);
    message.extend(content);
}

/// A field with a number.
fn number(message: &mut Vec<u8>, number: u64, value: u64) {
    varint(message, number << 3);
    varint(message, value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}
