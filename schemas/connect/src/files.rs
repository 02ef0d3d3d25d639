//! Files that are replaced whole: whoever reads one finds the old text or the new one, and nobody who should not.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone: there are secrets in it.
    Owner,
    /// Everybody: a program that runs as somebody else reads it.
    All,
}

impl Readers {
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::All => 0o644,
        }
    }
}

/// Writes a file whole or not at all: beside it, synced, and moved over it. Who may read it does not depend on what was there before, nor
/// on the process's mask.
///
/// # Errors
/// If it cannot be written.
pub fn replace_file(path: &Path, text: &str, readers: Readers) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let written = (|| {
        // One that was left behind may be readable for others, or lead elsewhere.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Until all of it is there, it is nobody else's business.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(readers.mode()))?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The new name is durable only once its folder is.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn who_may_read_a_file_does_not_depend_on_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for readers in [Readers::Owner, Readers::All] {
            for before in [0o600, 0o644, 0o666] {
                std::fs::write(&path, "old and long").unwrap();
                std::fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
                replace_file(&path, "new", readers).unwrap();
                assert_eq!(mode(&path), readers.mode());
                assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(replace_file(&folder.path().join("no/such"), "x", Readers::Owner).is_err());
    }

    #[test]
    fn what_was_left_beside_it_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("f"), folder.path().join("elsewhere"));
        std::fs::write(&elsewhere, "theirs").unwrap();
        let beside = folder.path().join(format!("f.{}.new", std::process::id()));
        for readers in [Readers::Owner, Readers::All] {
            std::os::unix::fs::symlink(&elsewhere, &beside).unwrap();
            replace_file(&path, "new", readers).unwrap();
            assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "theirs");
            assert!(path.symlink_metadata().unwrap().is_file());
        }
    }
}
