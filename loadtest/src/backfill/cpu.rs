//! The processor time of all processes during a backfill, by party.

use std::{collections::BTreeMap, fs};

/// Of the times in `/proc/<pid>/stat`: ticks of a second (`USER_HZ`), on every architecture that the binaries are built for.
const TICKS: f64 = 100.0;

/// What processes have used since it was made.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    /// By process: whose it is, what it had used before, and what by now; seconds.
    seen: BTreeMap<u32, (String, f64, f64)>,
}

impl Cpu {
    /// Nothing yet, of processes that run already.
    pub(super) fn since(processes: &[(String, u32)]) -> Self {
        let mut cpu = Self::default();
        cpu.look(processes);
        cpu.seen.values_mut().for_each(|(_, before, now)| *before = *now);
        cpu
    }

    /// Looks at the processes that run. What one uses between the last look and its end is not seen.
    pub(super) fn look(&mut self, processes: &[(String, u32)]) {
        for (name, id) in processes {
            let Some(now) = used(*id) else { continue };
            self.seen.entry(*id).or_insert_with(|| (name.clone(), 0.0, now)).2 = now;
        }
    }

    /// Seconds by party: of a process and of those that took its place together.
    pub(super) fn seconds(&self) -> BTreeMap<String, f64> {
        let mut seconds = BTreeMap::new();
        for (name, before, now) in self.seen.values() {
            *seconds.entry(name.clone()).or_default() += now - before;
        }
        seconds
    }
}

/// Seconds that a process has used, of all its threads.
fn used(id: u32) -> Option<f64> {
    of_stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// The times in user mode and in the kernel. The name of the program, in parentheses, may hold anything.
fn of_stat(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut time = || fields.next()?.parse::<f64>().ok();
    Some((time()? + time()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_added_up_by_party() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 2 0 0 0 150 50 9 9 20 0 1 0 100 1000 20";
        assert_eq!(of_stat(stat), Some(2.0));
        assert_eq!(of_stat("7 (a) Z 1"), None);
        let own = std::process::id();
        let mut cpu = Cpu::since(&[("a test".to_owned(), own)]);
        cpu.seen.insert(1, ("a test".to_owned(), 1.0, 3.0));
        let begun = std::time::Instant::now();
        while cpu.seconds()["a test"] < 2.0 + 2.0 / TICKS {
            assert!(begun.elapsed().as_secs() < 60, "{cpu:?}");
            cpu.look(&[("a test".to_owned(), own), ("gone".to_owned(), u32::MAX)]);
        }
        assert_eq!(cpu.seconds().len(), 1);
    }
}
