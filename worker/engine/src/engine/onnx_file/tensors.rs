//! The large tensors of a graph, which several sessions can have in common: where they lie in the file, and who reads them.

use std::{collections::HashSet, ops::Range};

use super::{
    error::{FileError, NAME},
    wire::{Value, WireError, next, numbers, text},
};

/// Operators that bring the weights that they multiply by into an order of their own when a session is made.
const PRODUCTS: [&str; 10] = [
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "FusedGemm",
    "Attention",
    "QAttention",
    "QGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
];
/// Dimensions of a tensor that are looked at.
const DIMENSIONS: usize = 4;

/// What a tensor's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32 bits, floating point.
    F32,
    /// 8 bits.
    I8,
    /// 8 bits without sign.
    U8,
}

/// A tensor of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeTensor {
    /// Its name in the graph.
    pub name: String,
    /// What its numbers are.
    pub element: Element,
    /// Its shape.
    pub dimensions: Vec<usize>,
    /// Where its numbers lie in the file.
    pub at: Range<usize>,
    /// Whether nothing reads it but products, which bring it into an order of their own.
    pub for_products: bool,
}

/// Tensors of `least` bytes and more of a graph that has been inspected. Those that are written down in another way than as plain bytes are left out.
///
/// # Errors
/// If it is no ONNX file.
pub fn large_tensors(mut graph: &[u8], least: usize) -> Result<Vec<LargeTensor>, FileError> {
    let source = &mut graph;
    let mut model = 0..source.len() as u64;
    let (mut tensors, mut readers) = (Vec::new(), Readers::default());
    while let Some(field) = next(source, &mut model)? {
        let (7, Value::Bytes(mut main)) = field else { continue };
        while let Some(field) = next(source, &mut main)? {
            match field {
                (1, Value::Bytes(node)) => readers.note(source, node)?,
                (5, Value::Bytes(tensor)) => tensors.extend(read(source, tensor, least)?),
                // What a graph gives out is read by whoever ran it.
                (12, Value::Bytes(mut output)) => {
                    while let Some(field) = next(source, &mut output)? {
                        if let (1, Value::Bytes(name)) = field {
                            readers.others.insert(text(source, &name, NAME)?);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    for tensor in &mut tensors {
        tensor.for_products = readers.are_products(&tensor.name);
    }
    Ok(tensors)
}

/// Who reads what.
#[derive(Debug, Default)]
struct Readers {
    products: HashSet<String>,
    others: HashSet<String>,
    /// Graphs in graphs read what they like of those around them.
    nested: bool,
}

impl Readers {
    fn note(&mut self, source: &mut &[u8], mut node: Range<u64>) -> Result<(), WireError> {
        let (mut inputs, mut operator) = (Vec::new(), String::new());
        while let Some(field) = next(source, &mut node)? {
            match field {
                (1, Value::Bytes(name)) => inputs.push(text(source, &name, NAME)?),
                (4, Value::Bytes(name)) => operator = text(source, &name, NAME)?,
                (5, Value::Bytes(mut attribute)) => {
                    while let Some(field) = next(source, &mut attribute)? {
                        self.nested |= matches!(field, (6 | 11, Value::Bytes(_)));
                    }
                }
                _ => {}
            }
        }
        let readers = if PRODUCTS.contains(&operator.as_str()) { &mut self.products } else { &mut self.others };
        readers.extend(inputs);
        Ok(())
    }

    fn are_products(&self, tensor: &str) -> bool {
        !self.nested && self.products.contains(tensor) && !self.others.contains(tensor)
    }
}

fn read(source: &mut &[u8], mut at: Range<u64>, least: usize) -> Result<Option<LargeTensor>, WireError> {
    let mut dimensions = Vec::new();
    let (mut element, mut name, mut data) = (None, String::new(), 0..0);
    while let Some(field) = next(source, &mut at)? {
        match field {
            (1, Value::Number(dimension)) => dimensions.push(dimension),
            (1, Value::Bytes(packed)) => dimensions.extend(numbers(source, packed, DIMENSIONS)?),
            (2, Value::Number(1)) => element = Some((Element::F32, 4)),
            (2, Value::Number(2)) => element = Some((Element::U8, 1)),
            (2, Value::Number(3)) => element = Some((Element::I8, 1)),
            (8, Value::Bytes(at)) => name = text(source, &at, NAME)?,
            (9, Value::Bytes(raw)) => data = raw,
            _ => {}
        }
    }
    let size = |n: u64| usize::try_from(n).ok();
    let dimensions: Option<Vec<usize>> = dimensions.into_iter().map(size).collect();
    let (Some((element, bytes)), Some(dimensions)) = (element, dimensions) else { return Ok(None) };
    let (Some(start), Some(end)) = (size(data.start), size(data.end)) else { return Ok(None) };
    let expected = dimensions.iter().try_fold(bytes, |all: usize, one| all.checked_mul(*one));
    let fits = end - start >= least && expected == Some(end - start) && dimensions.len() <= DIMENSIONS;
    Ok(fits.then_some(LargeTensor { name, element, dimensions, at: start..end, for_products: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_a_real_graph_are_found_and_told_from_what_is_multiplied() {
        let graph = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0/fp32.onnx");
        let graph = std::fs::read(graph).unwrap();
        let tensors = large_tensors(&graph, 1 << 16).unwrap();
        let bytes = |tensors: &mut dyn Iterator<Item = &LargeTensor>| tensors.map(|one| one.at.len()).sum::<usize>();
        assert!(bytes(&mut tensors.iter()) > graph.len() * 98 / 100, "nearly all of the file: {tensors:?}");
        let words = tensors.iter().find(|one| one.dimensions == [30_522, 384]).unwrap();
        assert!(!words.for_products && words.element == Element::F32);
        let products = bytes(&mut tensors.iter().filter(|one| one.for_products));
        // Six layers of four products of 384 x 384, and two of 384 x 1536.
        assert_eq!(products, 6 * (4 * 384 * 384 + 2 * 384 * 1536) * 4);
        assert!(large_tensors(&graph, graph.len()).unwrap().is_empty());
        assert!(large_tensors(&graph[..graph.len() / 2], 1).is_err());
    }
}
