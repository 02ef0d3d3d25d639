//! Texts that are longer than the model takes: their windows, each of which it does take.
//!
//! | module | does |
//! |---|---|
//! | `options` | what is asked for |
//! | `tokenizer` | the tokenizer of the version that is served, from the registry |
//! | `cutter` | a text -> its pieces |
//! | `cut` | a text and its tokens -> ranges of it |
//! | `ends` | where a window had best begin and end |
//! | `mean` | the vectors of the windows of a text -> one |

mod cut;
mod cutter;
mod ends;
mod mean;
mod options;
mod tokenizer;

pub(crate) use cutter::Cutter;
pub(crate) use mean::mean;
pub use options::{Long, LongMode};
pub(crate) use tokenizer::{cutter, settle};
