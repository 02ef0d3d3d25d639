//! How much room a disk has.

use std::{io, path::Path};

/// Bytes of the disk that a folder lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// What an ordinary user may still write.
    pub free: u64,
    /// All of it.
    pub size: u64,
}

/// The disk of a folder; of the nearest folder above it, if it is not there yet.
///
/// # Errors
/// If the system does not tell.
pub fn disk(folder: &Path) -> io::Result<Disk> {
    let there = folder.ancestors().find(|path| path.is_dir()).unwrap_or_else(|| Path::new("."));
    let found = rustix::fs::statvfs(there)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Disk { free: bytes(found.f_bavail), size: bytes(found.f_blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_yet_to_come_is_on_the_disk_of_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let to_come = disk(&folder.path().join("a/b")).unwrap();
        assert!(to_come.size > 0 && to_come.free <= to_come.size);
        assert_eq!(to_come.size, disk(folder.path()).unwrap().size);
    }
}
