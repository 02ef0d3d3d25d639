//! What the figures were measured on.

use std::{fs, path::Path};

use embed_engine::{
    engine::{driver, library},
    threads::cores,
};
use serde::Serialize;

/// Facts without which a figure means nothing.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    /// The processor's name.
    pub(super) cpu: String,
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// Kernel release.
    pub(super) kernel: String,
    /// The load average of the last minute before the start: where it is not near 0, others used the machine too.
    pub(super) load_average: Option<f64>,
    /// The devices that graphs run on: name and architecture. Empty on the CPU.
    pub(super) devices: Vec<String>,
    /// The ONNX Runtime library's file name, which holds its version.
    pub(super) onnxruntime: String,
}

impl Machine {
    /// Looks at this machine. What it does not tell is `unknown`.
    pub(super) fn look(configured_library: Option<&Path>, devices: &[u32]) -> Self {
        let library = library::find(configured_library).ok().map(|path| fs::canonicalize(&path).unwrap_or(path));
        let name = library.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let unknown = || "unknown".to_owned();
        Self {
            cpu: read("/proc/cpuinfo").as_deref().and_then(cpu_name).unwrap_or_else(unknown),
            cores: cores(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            load_average: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            devices: devices.iter().map(|device| device_name(*device)).collect(),
            onnxruntime: name.unwrap_or_else(unknown),
        }
    }
}

fn device_name(device: u32) -> String {
    let name = driver::name(device).and_then(|name| Ok(format!("{name} ({})", driver::architecture(device)?)));
    name.unwrap_or_else(|reason| format!("device {device}, unknown: {reason}"))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The first processor's name, from the text of `/proc/cpuinfo`.
fn cpu_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_name_is_found() {
        assert_eq!(
            cpu_name("processor\t: 0\nmodel name\t: AMD EPYC 9B45\nflags\t: x").as_deref(),
            Some("AMD EPYC 9B45")
        );
        assert_eq!(cpu_name("processor\t: 0\n"), None);
    }
}
