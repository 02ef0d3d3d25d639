//! Tokenizing: a text in, token ids out, as every worker does it; whoever cuts texts beforehand counts with the same. Knows no threads, no
//! NATS and no engine.

mod bert;
mod bounded;
mod budget;
mod outline;
mod patterns;
mod prefixes;
mod segments;
#[cfg(test)]
mod tests;
mod tokenizer;
mod unique;

pub use tokenizer::{TextTokenizer, TokenizeError, Tokens};
