//! Load tests: they drive workers from outside, as producers do, and measure the engine alone, for comparison.
//!
//! | module | does |
//! |---|---|
//! | `pattern`, `pacing` | how many calls a second, and when each is meant to leave |
//! | `texts`, `lengths` | what is embedded |
//! | `call`, `open_loop`, `closed_loop` | makes online calls |
//! | `bulk` | keeps bulk jobs in flight |
//! | `memory` | looks at the memory of processes, and whether it grows |
//! | `end` | when a run ends |
//! | `scenario` | all of that at once |
//! | `swaps` | other versions of a model take the place of the one that is live, meanwhile |
//! | `repeats` | what was measured several times: median, range, interval |
//! | `acceptance` | the user's criteria, and what of them a live system meets |
//! | `peers` | the same texts through other servers and libraries |
//! | `chaos` | faults on real processes, and whether every job is stored once |
//! | `backfill` | a large backfill: speed, memory, and whether every row is there once |
//! | `scale` | many workers on simulated devices: throughput, shares, latency, what a text costs |
//! | `usage` | what processes and folders take: processor time, disk |
//! | `tally` | counts calls |
//! | `report` | what it came to: JSON, HTML, text, and two of them side by side |
//! | `bench` | how fast the engine is alone |
//! | `cli` | the command line |

pub mod acceptance;
pub mod backfill;
mod bench;
pub mod bulk;
pub mod call;
pub mod chaos;
pub mod cli;
pub mod closed_loop;
pub mod end;
pub mod lengths;
pub mod memory;
pub mod open_loop;
pub mod pacing;
pub mod pattern;
pub mod peers;
pub mod repeats;
pub mod report;
pub mod scale;
pub mod scenario;
pub mod swaps;
pub mod tally;
pub mod texts;
pub mod usage;
