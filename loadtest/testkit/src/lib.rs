//! For tests: a real nats-server, S3 server and PostgreSQL server, and real daemons, on free ports, in temporary folders, gone when dropped.
//!
//! Everything here panics when something goes wrong: in a test, that is the message.

mod cluster;
mod daemon;
mod dependencies;
mod graph;
mod http;
pub mod model_registry;
pub mod mutate;
mod nats_server;
mod otlp;
mod paths;
mod postgres_server;
pub mod raw;
mod relay;
mod s3_server;

use std::time::{Duration, Instant};

pub use cluster::Cluster;
pub use daemon::Daemon;
pub use dependencies::dependencies;
pub use model_registry::{TestRegistry, share};
pub use nats_server::NatsServer;
pub use otlp::{OtlpReceiver, ReceivedSpan};
pub use paths::{nats_server_binary, on_path, registry, repository, s3_server_binary, sibling_binary};
pub use postgres_server::PostgresServer;
pub use raw::{RawClient, RawMessage};
pub use relay::{Relay, Stopped, Way};
pub use s3_server::S3Server;

/// Longest wait for anything. Long, since a busy machine must not fail a test; no test waits for a fixed time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks until the answer is `Some`, and panics with `what` if it never is.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
