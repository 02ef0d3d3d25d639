//! The workers, as processes that hold some of them each.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, ensure};

use super::host::Order;

/// Workers of one process. More processes would take more of the machine than of the design.
const OF_A_PROCESS: usize = 16;
/// The hidden command that hosts workers.
pub const HOST_COMMAND: &str = "simulated-workers";

/// Running workers. Killed when dropped.
#[derive(Debug)]
pub(super) struct Fleet {
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Fleet {
    /// Starts as many workers as are ordered, and waits until all are ready.
    pub(super) fn start(order: &Order) -> anyhow::Result<Self> {
        let firsts = (order.first..order.first + order.workers).step_by(OF_A_PROCESS);
        let end = order.first + order.workers;
        let hosts =
            firsts.map(|first| Host::start(&Order { first, workers: OF_A_PROCESS.min(end - first), ..order.clone() }));
        // All start at the same time.
        let mut hosts = hosts.collect::<anyhow::Result<Vec<_>>>()?;
        for host in &mut hosts {
            host.read().context("the workers did not become ready")?;
        }
        Ok(Self { hosts })
    }

    /// None.
    pub(super) const fn none() -> Self {
        Self { hosts: Vec::new() }
    }

    /// The processes.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.hosts.iter().map(|host| host.child.id()).collect()
    }

    /// Texts that each worker's devices have embedded so far.
    pub(super) fn embedded(&mut self) -> anyhow::Result<Vec<Vec<u64>>> {
        for host in &mut self.hosts {
            host.input.write_all(b"\n").context("a process of workers ended")?;
        }
        let mut all = Vec::new();
        for host in &mut self.hosts {
            all.extend(host.read().context("a process of workers ended")?);
        }
        Ok(all)
    }
}

impl Host {
    fn start(order: &Order) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(HOST_COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("a process of workers")?;
        let input = child.stdin.take().context("its input is piped")?;
        let output = BufReader::new(child.stdout.take().context("its output is piped")?);
        let mut host = Self { child, input, output };
        writeln!(host.input, "{}", serde_json::to_string(order)?)?;
        Ok(host)
    }

    fn read(&mut self) -> anyhow::Result<Vec<Vec<u64>>> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "it said nothing more");
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It serves nobody any more, and what it has taken is of a stream that goes as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
