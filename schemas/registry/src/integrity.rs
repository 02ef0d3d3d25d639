//! A file is what the metadata says, or it is not used.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
};

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
    let mut sum = Sum::default();
    // The size is compared first: it says more, and costs nothing.
    check_size(file, content.len() as u64)?;
    sum.update(content);
    sum.check(file)
}

pub(crate) fn check_size(file: &FileRef, found: u64) -> Result<(), IntegrityError> {
    if found == file.bytes {
        return Ok(());
    }
    Err(IntegrityError::Size { file: file.file.clone(), found, expected: file.bytes })
}

/// Size and SHA-256 of what passes through.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sum {
    sha256: Sha256,
    bytes: u64,
}

impl Sum {
    pub(crate) fn update(&mut self, content: &[u8]) {
        self.sha256.update(content);
        self.bytes += content.len() as u64;
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn hex(self) -> String {
        self.sha256.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string");
            text
        })
    }

    pub(crate) fn check(self, file: &FileRef) -> Result<(), IntegrityError> {
        check_size(file, self.bytes)?;
        let found = self.hex();
        if found == file.sha256 {
            return Ok(());
        }
        Err(IntegrityError::Checksum { file: file.file.clone(), found, expected: file.sha256.clone() })
    }
}

/// Sums a local file. Blocks; `advance` hears of the bytes of each piece.
pub(crate) fn sum_file(mut file: File, mut advance: impl FnMut(u64)) -> io::Result<Sum> {
    let mut sum = Sum::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum),
            read => {
                sum.update(&buffer[..read]);
                advance(read as u64);
            }
        }
    }
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
