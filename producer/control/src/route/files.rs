//! The file of mappings that a server includes: replaced whole, so that a server never reads half of one.

use std::{
    io::{ErrorKind, Write},
    path::Path,
};

use super::{RouteError, mapping::FILE_MARK};
use crate::Error;

/// Writes a file of mappings, unless it is so already.
///
/// # Errors
/// [`RouteError::NotOurs`] if the file holds something that we have not written; or if it cannot be written.
pub(super) fn write(path: &Path, text: &str) -> Result<(), RouteError> {
    let before = match std::fs::read_to_string(path) {
        Ok(before) if before == text => return Ok(()),
        Ok(before) => Some(before),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(Error::file(path)(error).into()),
    };
    if before.is_some_and(|before| !before.trim().is_empty() && !before.starts_with(FILE_MARK)) {
        return Err(RouteError::NotOurs { path: path.display().to_string() });
    }
    replace(path, text).map_err(Error::file(path))?;
    Ok(())
}

/// Written beside it, synced, and moved over it. Readable for all: the server may run as somebody else.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let written = (|| {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_ours_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("embed-mappings.conf");
        let text = format!("{FILE_MARK}\n");
        write(&path, &text).unwrap();
        write(&path, &format!("{text}x")).unwrap();
        write(&path, &text).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        std::fs::write(&path, "listen: 4222\n").unwrap();
        assert!(matches!(write(&path, &text), Err(RouteError::NotOurs { .. })));
        std::fs::write(&path, "\n").unwrap();
        write(&path, &text).unwrap();
        assert!(matches!(write(&folder.path().join("no/such"), &text), Err(RouteError::Common(_))));
    }
}
