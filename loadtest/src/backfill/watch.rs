//! The memory of all processes, and the disk that JetStream takes, while backfills run.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{memory::now_and_most, usage::on_disk};

/// How often something is looked at for the plots.
const EVERY: Duration = Duration::from_secs(1);

/// What was seen of a process, and of those that took its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Process {
    /// What it is called.
    pub name: String,
    /// What it had when it was ready, before there was anything to do: megabytes.
    pub ready: Option<f64>,
    /// The most that it had: megabytes, 10^6 bytes.
    pub peak: f64,
    /// Seconds from the start, and megabytes.
    pub samples: Vec<(f64, f64)>,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Watch {
    start: Instant,
    last: Option<Instant>,
    /// The processes.
    pub processes: Vec<Process>,
    /// Seconds from the start, and megabytes on disk.
    pub disk: Vec<(f64, f64)>,
}

impl Watch {
    /// Nothing yet.
    #[must_use]
    pub(super) const fn new(start: Instant) -> Self {
        Self { start, last: None, processes: Vec::new(), disk: Vec::new() }
    }

    /// Notes what processes have that are ready and have nothing to do.
    pub(super) fn ready(&mut self, processes: &[(String, u32)]) {
        for (name, id) in processes {
            let now = now_and_most(*id).map(|(now, _)| now);
            self.process(name).ready = now;
        }
    }

    /// Looks at the processes that run, and at JetStream's folder.
    pub(super) fn look(&mut self, processes: &[(String, u32)], store: &Path) {
        let at = self.start.elapsed().as_secs_f64();
        let is_due = self.last.is_none_or(|last| last.elapsed() >= EVERY);
        for (name, id) in processes {
            // One that has just ended has nothing more to tell.
            let Some((now, most)) = now_and_most(*id) else { continue };
            let process = self.process(name);
            process.peak = process.peak.max(most);
            if is_due {
                process.samples.push((at, now));
            }
        }
        if is_due {
            self.last = Some(Instant::now());
            self.disk.push((at, on_disk(store) as f64 / 1e6));
        }
    }

    /// The most that JetStream had on disk: megabytes.
    #[must_use]
    pub(super) fn disk_peak(&self) -> f64 {
        self.disk.iter().map(|(_, megabytes)| *megabytes).fold(0.0, f64::max)
    }

    fn process(&mut self, name: &str) -> &mut Process {
        let known = self.processes.iter().position(|process| process.name == name);
        let place = known.unwrap_or_else(|| {
            let name = name.to_owned();
            self.processes.push(Process { name, ready: None, peak: 0.0, samples: Vec::new() });
            self.processes.len() - 1
        });
        &mut self.processes[place]
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn processes_are_known_by_name_and_the_disk_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(folder.path().join("below/file"), vec![1; 100_000]).unwrap();
        let mut watch = Watch::new(Instant::now());
        let processes = [("a test".to_owned(), std::process::id()), ("gone".to_owned(), u32::MAX)];
        watch.ready(&processes[..1]);
        watch.look(&processes, folder.path());
        watch.look(&processes, folder.path());
        let [process] = &watch.processes[..] else { panic!("{watch:?}") };
        assert!(process.ready.is_some() && process.peak > 0.0 && process.samples.len() == 1);
        assert!(watch.disk_peak() >= 0.1);
    }
}
