//! A file is what the metadata says, or it is not used.

use std::fmt::Write;

use embed_schemas::model::FileRef;
use sha2::{Digest, Sha256};

/// A file is not what the metadata says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntegrityError {
    /// The size differs.
    #[error(
        "{file}: {found} bytes, the metadata says {expected}: the file is damaged or incomplete; publish the version again"
    )]
    Size {
        /// The file's name.
        file: String,
        /// Bytes it has.
        found: u64,
        /// Bytes it should have.
        expected: u64,
    },
    /// The content differs.
    #[error(
        "{file}: its SHA-256 is {found}, the metadata says {expected}: the file is damaged; publish the version again"
    )]
    Checksum {
        /// The file's name.
        file: String,
        /// What was computed.
        found: String,
        /// What the metadata says.
        expected: String,
    },
}

/// Compares the content of a file with what the metadata says of it.
///
/// # Errors
/// If the size or the checksum differs.
pub fn verify(file: &FileRef, content: &[u8]) -> Result<(), IntegrityError> {
    let bytes = content.len() as u64;
    if bytes != file.bytes {
        return Err(IntegrityError::Size { file: file.file.clone(), found: bytes, expected: file.bytes });
    }
    let found = Sha256::digest(content).iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string");
        text
    });
    if found != file.sha256 {
        return Err(IntegrityError::Checksum { file: file.file.clone(), found, expected: file.sha256.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_content_count() {
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let file = FileRef { file: "f".into(), bytes: 3, sha256: sha256.into() };
        assert_eq!(verify(&file, b"abc"), Ok(()));
        assert!(matches!(verify(&file, b"ab"), Err(IntegrityError::Size { found: 2, expected: 3, .. })));
        assert!(matches!(verify(&file, b"abd"), Err(IntegrityError::Checksum { .. })));
    }
}
