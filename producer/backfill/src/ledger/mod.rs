//! The bucket `embed_backfills`: how far each backfill has come, who runs it, and what is wanted of it, for whoever looks from elsewhere.
//!
//! | key | holds |
//! |---|---|
//! | `<id>` | the backfill; changed only by whoever has read what it replaces |
//! | `<id>.plan.<digest>.<n>` | what it reads, in pieces that fit into messages, written once |
//! | `<id>.parts.<digest>` | parts that it has written: all but the last of them, in pieces, written once |
//! | `output.<digest>` | the id of the backfill that writes to an output which no lock of this machine guards |
//!
//! | module | does |
//! |---|---|
//! | `lease` | whether a runner may write, and whether another may take over |
//! | `entry` | what is recorded of a backfill |
//! | `pieces` | what of it is kept beside the entry |
//! | `store` | the bucket |
//! | `place` | where a runner runs |
//! | `open` | a runner takes a backfill, or is refused |
//! | `keeper` | keeps the lease, records, and hears what is wanted |
//! | `find` | a backfill by its id or its output |
//! | `wishes` | what people want: a list, a pause, a cancellation |

mod entry;
mod find;
mod keeper;
mod lease;
mod open;
mod pieces;
mod place;
mod store;
mod wishes;

pub use entry::{Live, Phase, Runner, Wish};
pub(crate) use find::recorded;
pub use find::{Known, KnownEntry, look};
pub(crate) use keeper::{Keeper, Patience};
pub(crate) use open::{Target, forget, open};
pub use wishes::{Asked, Listed, cancel, list, pause, remove_old};

#[cfg(test)]
mod tests;
