//! The file of mappings that a server includes: replaced whole, so that a server never reads half of one.

use std::{io::ErrorKind, path::Path};

use embed_connect::{Readers, replace_file};

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
    // The server may run as somebody else.
    replace_file(path, text, Readers::All).map_err(Error::file(path))?;
    Ok(())
}

/// Whether a file says this.
pub(super) fn says(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|now| now == text)
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
        assert!(says(&path, &text) && !says(&path, "") && !says(&folder.path().join("no"), ""));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        std::fs::write(&path, "listen: 4222\n").unwrap();
        assert!(matches!(write(&path, &text), Err(RouteError::NotOurs { .. })));
        std::fs::write(&path, "\n").unwrap();
        write(&path, &text).unwrap();
        assert!(matches!(write(&folder.path().join("no/such"), &text), Err(RouteError::Common(_))));
    }
}
