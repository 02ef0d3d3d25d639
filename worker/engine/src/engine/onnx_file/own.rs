//! Nodes of the worker's own operators. Their kernels read memory where a tensor of places says, so that it has to be one that `Embed` has made,
//! for the states that they read: this is held to here, before a graph is loaded.

use std::{collections::HashMap, ops::Range};

use embed_kernels::DOMAIN;

use super::{
    error::{FileError, NAME},
    wire::{Source, WireError, text},
};

/// Most inputs or outputs of a node that are looked at: no operator has more.
pub(super) const NAMES: usize = 8;
/// Most nodes. Seven make a layer.
const NODES: usize = 4096;

/// What a value of a graph is to these operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Where texts begin, and behind the last.
    Starts,
    /// What blocks of threads attention is computed in.
    Tiles,
    /// A row for each token of the batch.
    States,
    /// Weights, or whatever else is only as large as its shape says.
    Other,
}

use Kind::{Other, Starts, States, Tiles};

/// What an operator takes and gives, in the order of `worker/kernels`. `None` if there is no such operator.
fn operator(name: &str) -> Option<(&'static [Kind], &'static [Kind])> {
    Some(match name {
        "Embed" => (&[], &[States, Starts, Tiles]),
        "EmbedQuantize" => (&[], &[States, Starts, Tiles, States]),
        "AddNorm" => (&[States, States], &[States]),
        "AddNormQuantize" => (&[States, States], &[States, States]),
        "Attend" | "AttendQuantize" => (&[States, Tiles], &[States]),
        "Linear" | "LinearFromQuantized" | "LinearQuantized" => (&[States], &[States]),
        "Pool" => (&[States, Starts], &[Other]),
        _ => return None,
    })
}

/// Those of a graph.
#[derive(Debug, Default)]
pub(super) struct OwnNodes {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    operator: String,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl OwnNodes {
    /// Whether there are any.
    pub(super) const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// There is one in the graph itself.
    pub(super) fn note(
        &mut self,
        source: &mut impl Source,
        operator: String,
        inputs: &[Range<u64>],
        outputs: &[Range<u64>],
    ) -> Result<(), FileError> {
        if self.nodes.len() == NODES {
            return Err(refused(&operator, format!("is one of more than {NODES}")));
        }
        let mut names = |all: &[Range<u64>]| -> Result<Vec<Vec<u8>>, FileError> {
            all.iter().map(|at| whole(source, &operator, at)).collect()
        };
        let (inputs, outputs) = (names(inputs)?, names(outputs)?);
        self.nodes.push(Node { operator, inputs, outputs });
        Ok(())
    }

    /// Holds all of them to what they read. With one `Embed` in a graph, all states have a row for each token that it counted. ONNX Runtime refuses a graph in
    /// which anything else gives out a value of the same name.
    pub(super) fn check(&self) -> Result<(), FileError> {
        let mut values: HashMap<&[u8], Kind> = HashMap::new();
        let mut embeds = 0;
        for Node { operator: name, outputs, .. } in &self.nodes {
            let (_, gives) = operator(name).ok_or_else(|| refused(name, "is not known".to_owned()))?;
            embeds += usize::from(gives.contains(&Starts));
            if embeds > 1 {
                return Err(refused(name, "is the second that says where texts are".to_owned()));
            }
            for (value, kind) in outputs.iter().zip(gives).filter(|(value, _)| !value.is_empty()) {
                if values.insert(value, *kind).is_some() {
                    return Err(refused(name, format!("gives out {:?} again", shown(value))));
                }
            }
        }
        for Node { operator: name, inputs, .. } in &self.nodes {
            let takes = operator(name).map_or(&[][..], |(takes, _)| takes);
            for (i, kind) in takes.iter().enumerate() {
                let value = inputs.get(i).map_or(&[][..], Vec::as_slice);
                if values.get(value) == Some(kind) {
                    continue;
                }
                let wanted = match kind {
                    Starts => "the starts that `Embed` gives out",
                    Tiles => "the tiles that `Embed` gives out",
                    States | Other => "states that an operator of this domain gives out",
                };
                return Err(refused(name, format!("takes {:?} as input {i}, which has to be {wanted}", shown(value))));
            }
        }
        Ok(())
    }
}

/// A node, or what is called like one, that is not to be.
pub(super) fn refused(operator: &str, reason: String) -> FileError {
    FileError::Own { operator: operator.to_owned(), domain: DOMAIN, reason }
}

/// A name to its last byte: names that only begin alike are different ones.
fn whole(source: &mut impl Source, operator: &str, at: &Range<u64>) -> Result<Vec<u8>, FileError> {
    if at.end - at.start > NAME {
        let begins = text(source, at, 32)?;
        return Err(refused(operator, format!("has a value with a name of more than {NAME} bytes, {begins:?}…")));
    }
    let mut name = vec![0; usize::try_from(at.end - at.start).unwrap_or_default()];
    source.read_at(at.start, &mut name).map_err(WireError::from)?;
    Ok(name)
}

fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
