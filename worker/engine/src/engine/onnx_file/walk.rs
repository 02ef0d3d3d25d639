//! The way through the messages of an ONNX file: model, graph, nodes, attributes, tensors, however deep. Numbers are those of `onnx.proto`.

use std::ops::Range;

use embed_kernels::DOMAIN;

use super::{
    error::{DEEPEST, FileError, MOST_BESIDES, NAME, SESSION_OPTIONS},
    own::{self, OwnNodes},
    wire::{Source, Value, WireError, next, numbers, text},
};

/// Dimensions of a tensor that are looked at: a table has two.
const DIMENSIONS: usize = 8;

/// Nodes that read files or run what they are given: compiled engines, Python, and operators of another library.
const NODES: [&str; 4] = ["EPContext", "PythonOp", "PythonOpGrad", "ATen"];
/// Nodes that take the scale of what they quantize from all of it, and so from whatever texts are in a run.
/// `deploy/models/embed_models/batch_dependence.py` has the same.
const BATCH_DEPENDENT: [&str; 3] = ["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"];
/// At byte 4 of a file: ONNX Runtime's own format, which it tells by this alone.
const OTHER_FORMAT: &[u8; 4] = b"ORTM";

/// What a graph says of itself. `None`: it is not to be found by the usual names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Rows of its table of positions.
    pub positions: Option<u64>,
    /// Rows of its table of words.
    pub vocabulary: Option<u64>,
    /// Whether a text's vector depends on the texts that are in a run with it.
    pub batch_dependent: bool,
    /// Whether it has nodes of the worker's own operators.
    pub own_operators: bool,
}

/// Looks at all of a file that can lead elsewhere.
///
/// # Errors
/// If it is no ONNX file, or holds what is refused.
pub fn inspect(source: &mut impl Source) -> Result<Facts, FileError> {
    let size = source.size();
    let mut mark = [0; 4];
    if size >= 8 {
        source.read_at(4, &mut mark).map_err(WireError::from)?;
    }
    if &mark == OTHER_FORMAT {
        return Err(FileError::OtherFormat);
    }
    let mut walk = Walk { source, facts: Facts::default(), own: OwnNodes::default(), numbers: 0 };
    walk.model(0..size)?;
    walk.own.check()?;
    walk.facts.own_operators = !walk.own.is_empty();
    if size.saturating_sub(walk.numbers) > MOST_BESIDES {
        return Err(FileError::TooMuch);
    }
    Ok(walk.facts)
}

struct Walk<'a, S> {
    source: &'a mut S,
    facts: Facts,
    own: OwnNodes,
    /// Bytes of tensors' numbers.
    numbers: u64,
}

impl<S: Source> Walk<'_, S> {
    fn model(&mut self, mut at: Range<u64>) -> Result<(), FileError> {
        while let Some(field) = next(self.source, &mut at)? {
            match field {
                (7, Value::Bytes(graph)) => self.graph(graph, 0)?,
                (14, Value::Bytes(property)) => self.property(property)?,
                (20, Value::Bytes(mut training)) => {
                    while let Some(field) = next(self.source, &mut training)? {
                        if let (1 | 2, Value::Bytes(graph)) = field {
                            self.graph(graph, 1)?;
                        }
                    }
                }
                (25, Value::Bytes(mut function)) => {
                    while let Some(field) = next(self.source, &mut function)? {
                        match field {
                            (7, Value::Bytes(node)) => self.node(node, 1)?,
                            // It would be taken for the operator of its name.
                            (10, Value::Bytes(domain)) if text(self.source, &domain, NAME)? == DOMAIN => {
                                return Err(own::refused("", "is a function of the graph's".to_owned()));
                            }
                            (11, Value::Bytes(attribute)) => self.attribute(attribute, 1)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn property(&mut self, mut at: Range<u64>) -> Result<(), FileError> {
        while let Some(field) = next(self.source, &mut at)? {
            if let (1, Value::Bytes(key)) = field
                && text(self.source, &key, NAME)? == SESSION_OPTIONS
            {
                return Err(FileError::Options);
            }
        }
        Ok(())
    }

    fn graph(&mut self, mut at: Range<u64>, depth: usize) -> Result<(), FileError> {
        if depth > DEEPEST {
            return Err(FileError::TooDeep);
        }
        while let Some(field) = next(self.source, &mut at)? {
            match field {
                (1, Value::Bytes(node)) => self.node(node, depth)?,
                (5, Value::Bytes(tensor)) => {
                    let tensor = self.tensor(tensor)?;
                    self.facts.note(&tensor);
                }
                (15, Value::Bytes(sparse)) => self.sparse(sparse)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, mut at: Range<u64>, depth: usize) -> Result<(), FileError> {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let (mut operator, mut domain) = (String::new(), String::new());
        while let Some(field) = next(self.source, &mut at)? {
            match field {
                (1, Value::Bytes(name)) if inputs.len() < own::NAMES => inputs.push(name),
                (2, Value::Bytes(name)) if outputs.len() < own::NAMES => outputs.push(name),
                (7, Value::Bytes(name)) => domain = text(self.source, &name, NAME)?,
                (4, Value::Bytes(name)) => {
                    operator = text(self.source, &name, NAME)?;
                    if NODES.contains(&operator.as_str()) {
                        return Err(FileError::Node(operator));
                    }
                    self.facts.batch_dependent |= BATCH_DEPENDENT.contains(&operator.as_str());
                }
                (5, Value::Bytes(attribute)) => self.attribute(attribute, depth)?,
                _ => {}
            }
        }
        if domain != DOMAIN {
            return Ok(());
        }
        if depth > 0 {
            let reason = "is in a function, or in a graph within the graph, where it is not held to what it reads";
            return Err(own::refused(&operator, reason.to_owned()));
        }
        self.own.note(self.source, operator, &inputs, &outputs)
    }

    fn attribute(&mut self, mut at: Range<u64>, depth: usize) -> Result<(), FileError> {
        while let Some(field) = next(self.source, &mut at)? {
            match field {
                (5 | 10, Value::Bytes(tensor)) => drop(self.tensor(tensor)?),
                (6 | 11, Value::Bytes(graph)) => self.graph(graph, depth + 1)?,
                (22 | 23, Value::Bytes(sparse)) => self.sparse(sparse)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn sparse(&mut self, mut at: Range<u64>) -> Result<(), FileError> {
        while let Some(field) = next(self.source, &mut at)? {
            if let (1 | 2, Value::Bytes(tensor)) = field {
                self.tensor(tensor)?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self, mut at: Range<u64>) -> Result<Tensor, FileError> {
        let (mut tensor, mut external) = (Tensor::default(), false);
        while let Some(field) = next(self.source, &mut at)? {
            match field {
                (1, Value::Number(dimension)) if tensor.dimensions.len() < DIMENSIONS => {
                    tensor.dimensions.push(dimension);
                }
                (1, Value::Bytes(packed)) => tensor.dimensions.extend(numbers(self.source, packed, DIMENSIONS)?),
                (4 | 5 | 7 | 9 | 10 | 11, Value::Bytes(data)) => self.numbers += data.end - data.start,
                (8, Value::Bytes(name)) => tensor.name = text(self.source, &name, NAME)?,
                // Where it lies, and that it does: either is enough, whatever else is said, before or after.
                (13, Value::Bytes(_)) => external = true,
                (14, Value::Number(location)) => external |= location != 0,
                _ => {}
            }
        }
        if external { Err(FileError::External(tensor.name)) } else { Ok(tensor) }
    }
}

#[derive(Debug, Default)]
struct Tensor {
    name: String,
    dimensions: Vec<u64>,
}

impl Facts {
    /// Whether the graph has a row for every id of a tokenizer.
    ///
    /// # Errors
    /// If not: texts with such an id would fail.
    pub fn check_vocabulary(self, largest: Option<u32>) -> Result<(), FileError> {
        match (self.vocabulary, largest.map(u64::from)) {
            (Some(words), Some(largest)) if largest >= words => Err(FileError::Vocabulary { largest, words }),
            _ => Ok(()),
        }
    }

    /// Tables are told by the names that BERT's checkpoints, exporters, and the project's own pipeline give them.
    fn note(&mut self, tensor: &Tensor) {
        let [rows, _] = tensor.dimensions[..] else { return };
        let is = |names: [&str; 2]| names.iter().any(|name| tensor.name.contains(name));
        let least = |known: Option<u64>| Some(known.map_or(rows, |known| known.min(rows)));
        if is(["position_embeddings.weight", "embeddings/position.weight"]) {
            self.positions = least(self.positions);
        } else if is(["word_embeddings.weight", "embeddings/word.weight"]) {
            self.vocabulary = least(self.vocabulary);
        }
    }
}
