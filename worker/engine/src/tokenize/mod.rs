//! Tokenizing: texts in, token ids out, on threads of its own. Knows no NATS and no engine. What becomes of a single text is
//! `embed-tokenize`'s to say.

mod pool;

pub use embed_tokenize::{TextTokenizer, TokenizeError, Tokens};
pub use pool::{Outcome, Pool, Sink, Task};
