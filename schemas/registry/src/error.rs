//! What can go wrong with a registry or a cache: what, where, the fix, and whether trying again can help.

use std::{
    io,
    path::{Path, PathBuf},
};

use embed_schemas::{Slug, model::PointerMove, slug::SlugError};

use crate::{IntegrityError, local::OpenError, location::masked_addresses};

/// The registry, or the cache, could not do what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The location is not one that can be opened.
    #[error("registry {location}: {reason}")]
    Location {
        /// As configured.
        location: String,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// A model's name has no slug.
    #[error("model: {0}")]
    Name(#[from] SlugError),
    /// There is no such model.
    #[error("registry {location}: there is no model `{model}`; there {}{}: import it, for example with `embed-models import`", list(.known), did_you_mean(.model, .known))]
    UnknownModel {
        /// The registry.
        location: String,
        /// What was asked for.
        model: String,
        /// What is there.
        known: Vec<Slug>,
    },
    /// The model has versions, but none is current.
    #[error("registry {location}: no version of `{model}` is current; make one so with `embed-worker models promote`")]
    NoCurrent {
        /// The registry.
        location: String,
        /// The model.
        model: Slug,
    },
    /// There is no such version.
    #[error("registry {location}: `{model}` has no version {version}; it has {}", versions(.known))]
    UnknownVersion {
        /// The registry.
        location: String,
        /// The model.
        model: Slug,
        /// What was asked for.
        version: String,
        /// What is there.
        known: Vec<String>,
    },
    /// A file is missing.
    #[error("registry {location}: there is no {path}")]
    Missing {
        /// The registry.
        location: String,
        /// Below its root.
        path: String,
    },
    /// A file is there but cannot be understood.
    #[error("registry {location}: {path}: {reason}")]
    Invalid {
        /// The registry.
        location: String,
        /// Below its root.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Something in a registry that is a folder is not a regular file.
    #[error(
        "{}: this is {what}, and is not opened: below its root, a registry has regular files and folders alone. Put the file itself there: \
         copied, as a hard link, or by a bind mount", .path.display()
    )]
    Irregular {
        /// What is not.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The store failed, or cannot be reached.
    #[error("registry {location}: {path}: {}", store_error(.cause))]
    Store {
        /// The registry.
        location: String,
        /// Below its root.
        path: String,
        /// What it said. It is no `source` of this error: an address in it may hold a secret, which the message does not show.
        cause: object_store::Error,
    },
    /// The store did not answer in time, and what is known from before may do.
    #[error("registry {location}: it did not answer within {waited_s} s")]
    NoAnswer {
        /// The registry.
        location: String,
        /// How long was waited.
        waited_s: u64,
    },
    /// A file is not what the metadata says.
    #[error("{model} {version}: {source}")]
    Integrity {
        /// The model.
        model: Slug,
        /// The version.
        version: String,
        /// What differs.
        source: Box<IntegrityError>,
    },
    /// A folder that was to be published is not a version.
    #[error("{}: {reason}", .path.display())]
    NotAVersion {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// The version is published with other content.
    #[error(
        "registry {location}: {model} {version} is published, and its {differs} differs from the new one; a published version never changes, so publish under another version"
    )]
    Published {
        /// The registry.
        location: String,
        /// The model.
        model: Slug,
        /// The version.
        version: String,
        /// The first file that differs.
        differs: String,
    },
    /// An upload of other content under the same version was begun.
    #[error(
        "registry {location}: an upload of other content as {model} {version} was begun at {since}; wait for it, publish under another version, or remove what is left of it with `embed-worker models gc`"
    )]
    Uploading {
        /// The registry.
        location: String,
        /// The model.
        model: Slug,
        /// The version.
        version: String,
        /// When, RFC 3339.
        since: String,
    },
    /// Another model has the slug.
    #[error(
        "registry {location}: {new:?} and {existing:?}, which is there, share the slug `{model}`; give one of them another name"
    )]
    NameTaken {
        /// The registry.
        location: String,
        /// The slug.
        model: Slug,
        /// The new model's name.
        new: String,
        /// The name of the model that is there.
        existing: String,
    },
    /// Somebody else moved the pointer in the meantime.
    #[error("registry {location}: the current version of `{model}` was not changed: {}", moved(.by, .expected.as_deref()))]
    Conflict {
        /// The registry.
        location: String,
        /// The model.
        model: Slug,
        /// The version that was expected to be current.
        expected: Option<String>,
        /// The move that came first, if the pointer has a history.
        by: Option<Box<PointerMove>>,
    },
    /// There is nothing to go back to.
    #[error("registry {location}: `{model}` cannot be rolled back: {reason}")]
    NoPrevious {
        /// The registry.
        location: String,
        /// The model.
        model: Slug,
        /// Why.
        reason: String,
    },
    /// A lock file is held for too long.
    #[error("{}: another process has held the lock for {waited_s} s; is it stuck?", .path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited_s: u64,
    },
    /// There is no room on the disk.
    #[error("no room in {} for {needed} bytes more ({source}): free some, or choose another folder", .folder.display())]
    DiskFull {
        /// The folder.
        folder: PathBuf,
        /// What was to be written.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The cache is too small for what is in use.
    #[error(
        "the cache {} may hold {max} bytes; {in_use} of them are in use and {needed} more are needed: let it hold more",
        .folder.display()
    )]
    CacheFull {
        /// The cache.
        folder: PathBuf,
        /// Most bytes it may hold.
        max: u64,
        /// Bytes that are in use.
        in_use: u64,
        /// Bytes that are needed besides.
        needed: u64,
    },
    /// A file in the cache is no longer what was put there.
    #[error("{}: the copy in the cache is damaged ({source}); it was removed and is fetched anew the next time", .path.display())]
    DamagedCopy {
        /// The file.
        path: PathBuf,
        /// What differs.
        source: Box<IntegrityError>,
    },
    /// A local file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RegistryError {
    /// Whether the same may succeed later without anybody changing anything.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Store { cause, .. } => !matches!(
                cause,
                object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
                    | object_store::Error::InvalidPath { .. }
                    | object_store::Error::NotImplemented { .. }
                    | object_store::Error::NotSupported { .. }
                    | object_store::Error::UnknownConfigurationKey { .. }
            ),
            Self::NoAnswer { .. }
            | Self::Locked { .. }
            | Self::DiskFull { .. }
            | Self::CacheFull { .. }
            | Self::DamagedCopy { .. } => true,
            _ => false,
        }
    }

    /// Whether it is the store that failed, rather than what stands in it: what was read from it before may still serve.
    #[must_use]
    pub const fn is_store(&self) -> bool {
        matches!(self, Self::Store { .. } | Self::NoAnswer { .. })
    }

    pub(crate) fn integrity(model: &Slug, version: &str) -> impl FnOnce(IntegrityError) -> Self {
        let (model, version) = (model.clone(), version.to_owned());
        move |source| Self::Integrity { model, version, source: Box::new(source) }
    }

    pub(crate) fn open(path: &Path, error: OpenError) -> Self {
        match error {
            OpenError::Io(source) => Self::Io { path: path.to_owned(), source },
            OpenError::Irregular { path, what } => Self::Irregular { path, what },
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Whether a write failed since there is no room: the disk, the quota, or the process's limit.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn list(known: &[Slug]) -> String {
    match known {
        [] => "are none".to_owned(),
        [one] => format!("is `{one}`"),
        many => format!("are {}", many.iter().map(|slug| format!("`{slug}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn versions(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

fn did_you_mean(model: &str, known: &[Slug]) -> String {
    /// Names less alike than this have nothing to do with each other.
    const ALIKE: f64 = 0.8;
    let closest = known
        .iter()
        .map(|slug| (strsim::jaro_winkler(model, slug.as_str()), slug))
        .filter(|(similarity, _)| *similarity >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        // With one model there is nothing to choose from.
        Some((_, slug)) if known.len() > 1 => format!(". Did you mean `{slug}`? If not"),
        _ => String::new(),
    }
}

fn moved(by: &Option<Box<PointerMove>>, expected: Option<&str>) -> String {
    match (by, expected) {
        (Some(by), _) => format!(
            "{} moved it from {} to {} at {}; look at it, and try again if you still want to",
            by.who,
            by.from.as_deref().unwrap_or("none"),
            by.to,
            by.when
        ),
        (None, Some(expected)) => format!("it is no longer {expected}"),
        (None, None) => "somebody else set it first".to_owned(),
    }
}

/// What a store says, with its causes, each only once: the store's own often repeat what they wrap. Secrets in addresses are left out.
#[must_use]
pub fn store_error(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    masked_addresses(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested() {
        let known: Vec<Slug> =
            ["all-minilm-l6-v2", "bge-small-en-v1-5"].iter().map(|slug| slug.parse().unwrap()).collect();
        let error = |model: &str| {
            RegistryError::UnknownModel { location: "/r".into(), model: model.into(), known: known.clone() }.to_string()
        };
        assert!(
            error("all-minilm-l12-v2").contains("Did you mean `all-minilm-l6-v2`"),
            "{}",
            error("all-minilm-l12-v2")
        );
        assert!(!error("uae-large-v1").contains("Did you mean"));
    }

    #[test]
    fn what_a_store_says_is_shown_without_secrets() {
        let source = "error sending request for url (http://me:s3cret@host/b?sig=s3cret)".into();
        let cause = object_store::Error::Generic { store: "S3", source };
        let error = RegistryError::Store { location: "s3://b".into(), path: "models".into(), cause };
        assert!(!error.to_string().contains("s3cret") && error.to_string().contains("***@host/b"), "{error}");
        assert!(std::error::Error::source(&error).is_none(), "whoever prints causes would print it");
    }
}
