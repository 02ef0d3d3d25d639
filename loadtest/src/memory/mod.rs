//! The resident memory of processes, once a second.

pub mod growth;

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::end::End;

/// How often memory is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What was seen of one process.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// The process.
    pub id: u32,
    /// Its command's name.
    pub name: String,
    /// Seconds from the start of the run, and megabytes (10^6 bytes). They end where the process ended.
    pub samples: Vec<(f64, f64)>,
    /// Whether it was there at the last look.
    pub alive: bool,
}

impl Process {
    /// Looks a process up.
    ///
    /// # Errors
    /// If there is none, or the system does not tell its memory.
    pub fn find(id: u32) -> Result<Self, String> {
        let name = fs::read_to_string(format!("/proc/{id}/comm")).map_err(|error| format!("--pid {id}: {error}"))?;
        let found = Self { id, name: name.trim().to_owned(), samples: Vec::new(), alive: true };
        resident(id).map(|_| found).ok_or_else(|| format!("--pid {id}: its memory cannot be read"))
    }

    /// What it is called in reports.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} ({})", self.name, self.id)
    }

    /// The most that it had, megabytes.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.samples.iter().map(|(_, megabytes)| *megabytes).fold(0.0, f64::max)
    }
}

/// Samples processes from `start` on, until the end.
pub async fn watch(mut processes: Vec<Process>, start: Instant, warm_up: Duration, end: &End) -> Vec<Process> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !processes.is_empty() && !end.is_over(start, warm_up) {
        for process in processes.iter_mut().filter(|process| process.alive) {
            match resident(process.id) {
                Some(megabytes) => process.samples.push((start.elapsed().as_secs_f64(), megabytes)),
                None => process.alive = false,
            }
        }
        ticks.tick().await;
    }
    processes
}

fn resident(id: u32) -> Option<f64> {
    now_and_most(id).map(|(now, _)| now)
}

/// What a process has, and the most that it ever had, which no look can miss: megabytes.
#[must_use]
pub fn now_and_most(id: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    Some((megabytes_of(&status, "VmRSS:")?, megabytes_of(&status, "VmHWM:")?))
}

/// Megabytes, as in `/proc/<pid>/status`. `None` for what is no longer a process, a zombie included.
fn megabytes_of(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_format_is_read() {
        let status = "Name:\tx\nVmHWM:\t  500000 kB\nVmRSS:\t  250000 kB\nThreads: 1\n";
        assert_eq!(megabytes_of(status, "VmRSS:"), Some(256.0));
        assert_eq!(megabytes_of(status, "VmHWM:"), Some(512.0));
        assert_eq!(megabytes_of("Name:\tx\nState:\tZ (zombie)\n", "VmRSS:"), None);
        let (now, most) = now_and_most(std::process::id()).unwrap();
        assert!(now > 0.0 && now <= most * 1.01, "{now} {most}");
        let own = Process::find(std::process::id()).unwrap();
        assert!(own.label().contains(&std::process::id().to_string()));
    }
}
