//! Where something was measured: figures of two machines cannot be compared.

use std::fs;

use serde::{Deserialize, Serialize};

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// The cores that this process may use.
    pub cores: usize,
    /// Megabytes of memory.
    pub memory_mb: u64,
    /// The kernel's version.
    pub kernel: String,
}

impl Machine {
    /// This one. What the system does not tell is empty.
    #[must_use]
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mb: field(&read("/proc/meminfo"), "MemTotal").map_or(0, |total| megabytes(&total)),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }

    /// Name and value of each.
    #[must_use]
    pub fn facts(&self) -> Vec<(String, String)> {
        let memory = if self.memory_mb == 0 { String::new() } else { format!("{} MB", self.memory_mb) };
        [("cpu", &self.cpu), ("cores", &self.cores.to_string()), ("memory", &memory), ("kernel", &self.kernel)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into()
    }
}

/// The first `name : value` of a file of the kernel's.
fn field(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn megabytes(total: &str) -> u64 {
    total.trim_end_matches("kB").trim().parse::<u64>().map_or(0, |kib| kib * 1024 / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(field(text, "model name").as_deref(), Some("AMD EPYC"));
        assert_eq!(field(text, "model"), None);
        assert_eq!(megabytes("8000000 kB"), 8192);
        assert!(Machine::here().cores > 0);
    }
}
