//! Tokenizing: texts in, token ids out, on threads of its own. Knows no NATS and no engine.

mod bert;
mod bounded;
mod budget;
mod outline;
mod patterns;
mod pool;
#[cfg(test)]
mod tests;
mod tokenizer;
mod unique;

pub use pool::{Outcome, Pool, Sink, Task};
pub use tokenizer::{TextTokenizer, TokenizeError, Tokens};
