//! The same texts through this project and through others, in turns, on one machine.
//!
//! | module | does |
//! |---|---|
//! | `peer` | who is asked: one of this project's ways, an HTTP server, or a library in a process of its own |
//! | `http` | the three shapes of HTTP that servers of embeddings speak |
//! | `python` | sentence-transformers, as a child process |
//! | `drive` | keeps so many requests under way for a time |
//! | `compare` | finds everybody's best settings, and then measures in turns |

mod compare;
mod drive;
mod http;
mod peer;
mod python;

pub use compare::{Found, Plan, Tried, compare};
pub use drive::Setting;
pub use http::{HttpPeer, Shape};
pub use peer::{Ours, Peer};
pub use python::SentenceTransformers;
