//! How the queue scales: many workers whose devices are simulated, on one server and on a cluster. What is measured is everything but the model:
//! throughput against the sum of the engines, shares between workers, latency, and what a text costs of each party's processor time.
//!
//! | module | does |
//! |---|---|
//! | `device` | engines that sleep |
//! | `host`, `fleet` | many workers in one process, and the processes |
//! | `stack` | servers, streams, registry, workers; what they use |
//! | `load` | jobs and calls on it |
//! | `play` | the parts of the measurement |
//! | `row` | what was measured of one setting |
//! | `summary` | what it came to |

mod device;
mod fleet;
mod host;
mod load;
mod play;
mod row;
mod stack;
mod summary;

pub use self::{
    fleet::HOST_COMMAND,
    host::host,
    play::{Plan, Take, play},
    row::{Part, Row, merge},
    summary::{fill, rows_of},
};
