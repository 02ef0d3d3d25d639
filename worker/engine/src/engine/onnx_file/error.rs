//! Why a file is refused, and how much of one is looked at.

use super::wire::WireError;

/// Graphs in graphs. What is exported in earnest has two or three.
pub(super) const DEEPEST: usize = 32;
/// Most bytes of a file that are not numbers of a tensor: descriptions take up to a hundred times as much in memory as in the file.
pub(super) const MOST_BESIDES: u64 = 32 << 20;
/// Most bytes of a name that are looked at.
pub(super) const NAME: u64 = 512;
/// A property of the model that may hold options for sessions.
pub(super) const SESSION_OPTIONS: &str = "ort_config";

/// A file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not an ONNX file.
    #[error("it is no ONNX file: {0}")]
    Malformed(#[from] WireError),
    /// It is in ONNX Runtime's own format.
    #[error("it is in ONNX Runtime's own format, of which only ONNX Runtime knows what it leads to; export it as ONNX")]
    OtherFormat,
    /// A tensor is in another file.
    #[error(
        "the tensor {0:?} is in another file (external data), which the graph's SHA-256 does not cover; save the graph as one file, for \
         example with `embed-models import`"
    )]
    External(String),
    /// A node that can read files or run code.
    #[error(
        "it has a node {0:?}, which can read files or run code; export the graph from its source, with ONNX's operators"
    )]
    Node(String),
    /// A node of the worker's own operators that may read memory that is not its own.
    #[error("its node {operator:?} of {domain} {reason}; build the graph with `embed-models build`")]
    Own {
        /// The operator.
        operator: String,
        /// The operators' domain.
        domain: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Options for sessions.
    #[error("its property {SESSION_OPTIONS:?} holds options for sessions; remove it")]
    Options,
    /// Graphs in graphs.
    #[error("it has graphs in graphs in more than {DEEPEST} layers")]
    TooDeep,
    /// There is too much beside the weights.
    #[error("it has more than {MOST_BESIDES} bytes beside its weights")]
    TooMuch,
    /// The metadata says more than the graph can do.
    #[error(
        "`max_seq_length` is {longest}, but the graph has {positions} positions; say at most that in metadata.json"
    )]
    Positions {
        /// Tokens, as the metadata says.
        longest: u64,
        /// Rows of the table.
        positions: u64,
    },
    /// The worker is not to load versions for such texts.
    #[error(
        "`max_seq_length` is {longest}, and this worker loads versions of at most {most}, since memory grows with the square; let it load longer ones \
         with engine.max_seq_length"
    )]
    TooLong {
        /// Tokens, as the metadata says.
        longest: usize,
        /// As the settings say.
        most: usize,
    },
    /// The tokenizer makes ids that the graph has no row for.
    #[error(
        "the tokenizer makes ids up to {largest}, but the graph has {words} words; the two belong to different models"
    )]
    Vocabulary {
        /// The largest id.
        largest: u64,
        /// Rows of the table.
        words: u64,
    },
}
