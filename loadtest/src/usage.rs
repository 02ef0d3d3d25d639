//! What processes and folders take of the machine: processor time, and disk.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// Of a file on disk, in [`MetadataExt::blocks`].
const BLOCK: u64 = 512;
/// The 14th and 15th field of `/proc/<pid>/stat`, counted from behind the command's name.
const TIMES: [usize; 2] = [11, 12];

/// The processor time of a process so far, of all its threads. `None` for what is no process.
#[must_use]
pub fn cpu_time(id: u32) -> Option<Duration> {
    let ticks = ticks_of(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?;
    // SAFETY: it takes a number and reads nothing of ours.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Some(Duration::from_secs_f64(ticks as f64 / per_second.max(1) as f64))
}

/// The clock ticks in user and system mode. The command's name may have spaces and parentheses in it.
fn ticks_of(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    TIMES.into_iter().map(|field| fields.get(field)?.parse::<u64>().ok()).sum()
}

/// Bytes on disk below a folder. What vanishes meanwhile takes none.
#[must_use]
pub fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => on_disk(&entry.path()),
        Ok(data) => data.blocks() * BLOCK,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_format_is_read() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 100 1000 10";
        assert_eq!(ticks_of(stat), Some(300));
        assert_eq!(ticks_of("nonsense"), None);
        let before = cpu_time(std::process::id()).unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(50) || cpu_time(std::process::id()).unwrap() == before {
            std::hint::black_box(0);
        }
        assert_eq!(cpu_time(u32::MAX), None);
    }

    #[test]
    fn folders_are_added_up() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(folder.path().join("below/file"), vec![1; 100_000]).unwrap();
        assert!(on_disk(folder.path()) >= 100_000);
    }
}
