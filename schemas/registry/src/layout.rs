//! Names in a registry: what is a version, what is a file of one.

use std::collections::BTreeMap;

use embed_schemas::{
    ModelMetadata, Slug,
    model::{CURRENT_FILE, FileRef, METADATA_FILE},
};

/// While a version is being published, and not seen by anybody: which content it will have.
pub(crate) const UPLOAD_FILE: &str = ".upload.json";
/// What a configuration says to follow the pointer.
const CURRENT: &str = "current";
const MAX_NAME_LEN: usize = 64;
/// Most bytes of `metadata.json`, `current.json`, and what else of JSON a registry keeps for itself.
pub(crate) const MAX_JSON_BYTES: u64 = 4 << 20;

/// Whether a version may be called so: letters, digits, `.`, `_` and `-`, at most 64, the first a letter or digit.
///
/// # Errors
/// What is wrong, and what to choose.
pub fn check_version(version: &str) -> Result<(), String> {
    if is_name(version, MAX_NAME_LEN) && ![CURRENT, CURRENT_FILE].contains(&version) {
        return Ok(());
    }
    Err(format!(
        "{version:?} cannot be a version; it takes letters, digits, '.', '_' and '-', at most {MAX_NAME_LEN} of them, such as v1.0.0"
    ))
}

pub(crate) fn is_name(name: &str, longest: usize) -> bool {
    name.len() <= longest
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// That a file is not read because of its size.
pub(crate) fn too_large(most: u64) -> String {
    format!("it has more than {most} bytes, which is more than any has that was published in earnest")
}

/// Checks what every reader relies on: names that agree with the place, and sizes that make sense.
pub(crate) fn check_metadata(metadata: &ModelMetadata, model: &Slug, version: &str) -> Result<(), String> {
    let named = Slug::from_name(&metadata.model_name).map_err(|error| format!("`model_name`: {error}"))?;
    if metadata.slug != *model || named != *model {
        return Err(format!(
            "the folder is {model}, `slug` is {}, and the slug of the `model_name` {:?} is {named}; all three must agree",
            metadata.slug, metadata.model_name
        ));
    }
    if metadata.version != version {
        return Err(format!("`version` is `{}`, but it stands under `{version}`", metadata.version));
    }
    if metadata.artefacts.is_empty() || metadata.dimension == 0 || metadata.max_seq_length < 2 {
        return Err("`artefacts` must not be empty, `dimension` not 0, `max_seq_length` at least 2".into());
    }
    metadata.check_limits()?;
    files(metadata).map(|_| ())
}

/// All files of a version, without the metadata, by name.
pub(crate) fn files(metadata: &ModelMetadata) -> Result<Vec<FileRef>, String> {
    let named = [&metadata.tokenizer, &metadata.golden];
    let mut files: BTreeMap<&str, &FileRef> = BTreeMap::new();
    for file in named.into_iter().chain(metadata.artefacts.iter().map(|artefact| &artefact.file)) {
        // A name must not lead out of the folder, nor to what the registry itself keeps there.
        if !is_name(&file.file, 255) || file.file == METADATA_FILE {
            return Err(format!(
                "{:?} cannot be a file of a version; it takes letters, digits, '.', '_' and '-'",
                file.file
            ));
        }
        if !is_sha256(&file.sha256) {
            return Err(format!("{}: `sha256` must be 64 hexadecimal digits in lower case", file.file));
        }
        if files.insert(&file.file, file).is_some_and(|other| other != file) {
            return Err(format!("{} is listed twice, with different sizes or checksums", file.file));
        }
    }
    Ok(files.into_values().cloned().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_version_leads_elsewhere(version in "[.a-z/\\\\]{0,8}") {
            if check_version(&version).is_ok() {
                prop_assert!(!version.contains(['/', '\\']) && !version.starts_with('.'));
            }
        }
    }

    #[test]
    fn what_the_pipeline_accepts() {
        for good in ["v1.0.0", "2024-01-01_a", "1"] {
            assert_eq!(check_version(good), Ok(()));
        }
        for bad in ["", "current", "current.json", "-1", "..", "a b", &"v".repeat(65)] {
            assert!(check_version(bad).is_err(), "{bad:?}");
        }
    }
}
