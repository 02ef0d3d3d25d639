//! A slow disk, as a server sees it: strace holds every write to a place in a file and every sync up for a while, in the system
//! call. It needs no device, no mount and no privilege beyond tracing processes of one's own. What a real slow disk has beside
//! that, such as a page cache that fills and then blocks everything, it has not.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

/// What is held up. nats-server appends to its files with `pwrite64`; sockets are written to with others.
const CALLS: &str = "pwrite64,fsync,fdatasync";
/// By how much, microseconds.
const DELAY: &str = "20000";
/// strace that has not refused by then is at work.
const SETTLING: Duration = Duration::from_millis(500);

/// The tracers at work.
#[derive(Debug, Default)]
pub(super) struct SlowDisk(Vec<Child>);

impl SlowDisk {
    /// Holds these processes up.
    pub(super) async fn begin(&mut self, processes: &[u32]) -> anyhow::Result<()> {
        for process in processes {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={CALLS}"), "-e"]);
            command.arg(format!("inject={CALLS}:delay_enter={DELAY}")).args(["-p", &process.to_string()]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.0.push(command.spawn().context("strace")?);
        }
        let begun = Instant::now();
        while begun.elapsed() < SETTLING {
            let refused = self.0.iter_mut().any(|child| !matches!(child.try_wait(), Ok(None)));
            ensure!(!refused, "strace may not trace nats-server here");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Lets them go.
    pub(super) fn end(&mut self) {
        for mut child in self.0.drain(..) {
            // SIGTERM, on which strace lets go of what it traces; after SIGKILL, threads could stay where they are.
            if let Ok(id) = i32::try_from(child.id())
                && matches!(child.try_wait(), Ok(None))
            {
                // SAFETY: `kill` only takes integers, and the child has not been waited for, so the id is still its own.
                unsafe { libc::kill(id, libc::SIGTERM) };
            }
            let _ = child.wait();
        }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.end();
    }
}
