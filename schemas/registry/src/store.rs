//! From a location to an object store.

#[cfg(feature = "remote")]
mod remote;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use object_store::{ObjectStore, local::LocalFileSystem, path::Path as ObjectPath, prefix::PrefixStore};
#[cfg(feature = "remote")]
use remote::open as remote;

use crate::{RegistryOptions, location::has_secrets};

/// An opened store.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The folder, if it is one.
    pub(crate) folder: Option<Folder>,
    /// Whose store it is, beside what the location says: the address that the environment or the options name.
    pub(crate) endpoint: Option<String>,
}

/// A folder.
#[derive(Debug)]
pub(crate) struct Folder {
    /// As it was given.
    pub(crate) given: PathBuf,
    /// The same without links on the way.
    pub(crate) root: PathBuf,
}

/// Opens what a location names as a store of any objects, with credentials from the environment. Nothing is asked of a server yet.
///
/// # Errors
/// If there is no such folder, or the location or the environment is not understood. The text says what is wrong.
pub fn open_store(location: &str) -> Result<Arc<dyn ObjectStore>, String> {
    Ok(open(location, &RegistryOptions::default())?.store)
}

/// Opens what a location names. Nothing is asked of a server yet.
pub(crate) fn open(location: &str, options: &RegistryOptions) -> Result<Opened, String> {
    let (scheme, rest) = location.split_once("://").unwrap_or(("file", location));
    if scheme == "file" {
        return open_folder(Path::new(rest));
    }
    if !["s3", "gs", "az"].contains(&scheme) {
        return Err(format!("unknown scheme `{scheme}`; use file:///… or a path, s3://…, gs://… or az://…"));
    }
    if has_secrets(scheme, rest) {
        return Err(format!(
            "there are credentials or a query in it, which are not read; write {scheme}://BUCKET/PREFIX, and set {} in the environment",
            match scheme {
                "s3" => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                "gs" => "GOOGLE_SERVICE_ACCOUNT",
                _ => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_SAS_TOKEN",
            }
        ));
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(format!("the bucket is missing; write {scheme}://BUCKET/PREFIX"));
    }
    let prefix = ObjectPath::parse(prefix.trim_end_matches('/')).map_err(|error| error.to_string())?;
    let (store, endpoint) = remote(scheme, bucket, options)?;
    let store = if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix)) };
    Ok(Opened { store, folder: None, endpoint })
}

fn open_folder(path: &Path) -> Result<Opened, String> {
    if !path.is_dir() {
        return Err("there is no such folder; make it with `embed-models import … --registry`".into());
    }
    // The store removes folders that it empties, and what it says is written is on the disk.
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|error| error.to_string())?
        .with_automatic_cleanup(true)
        .with_fsync(true);
    let root = path.canonicalize().map_err(|error| error.to_string())?;
    Ok(Opened { store: Arc::new(store), folder: Some(Folder { given: path.to_owned(), root }), endpoint: None })
}

#[cfg(not(feature = "remote"))]
fn remote(scheme: &str, _: &str, _: &RegistryOptions) -> Result<(Arc<dyn ObjectStore>, Option<String>), String> {
    Err(format!(
        "this program was built without registries in buckets; use a folder, or build it with the feature `remote` of \
         `embed-registry` for {scheme}://"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(location: &str) -> String {
        open(location, &RegistryOptions::default()).err().unwrap_or_else(|| panic!("{location} was opened"))
    }

    #[test]
    fn locations() {
        assert!(refusal("ftp://host").contains("unknown scheme `ftp`"));
        assert!(refusal("/nowhere/at/all").contains("no such folder"));
        assert!(refusal("s3:///prefix").contains("bucket is missing"));
        for location in ["s3://KEY:s3/cret@bucket/prefix", "gs://s3cret@bucket", "az://c/p?sv=1&sig=s3cret"] {
            let reason = refusal(location);
            assert!(reason.contains("credentials or a query") && !reason.contains("cret"), "{reason}");
            let error = crate::Registry::open(location).unwrap_err();
            assert!(!format!("{error}{error:?}").contains("cret"), "{error:?}");
        }
    }

    #[cfg(not(feature = "remote"))]
    #[test]
    fn without_buckets_the_feature_is_named() {
        for location in ["s3://bucket", "gs://bucket/prefix", "az://container"] {
            let reason = refusal(location);
            assert!(reason.contains("feature `remote`") && reason.contains(&location[..5]), "{reason}");
        }
    }

    #[cfg(feature = "remote")]
    #[test]
    fn locations_in_buckets() {
        for location in ["s3://bucket", "s3://bucket/some/prefix/", "gs://bucket/prefix"] {
            assert!(open(location, &RegistryOptions::default()).is_ok(), "{location}");
        }
        let account = RegistryOptions {
            settings: vec![("azure_storage_account_name".into(), "account".into())],
            ..RegistryOptions::default()
        };
        assert!(open("az://container/prefix", &account).is_ok());
    }

    #[cfg(feature = "remote")]
    #[test]
    fn stores_behind_different_endpoints_are_told_apart() {
        let endpoint = |location: &str, settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let options = RegistryOptions { settings, ..RegistryOptions::default() };
            open(location, &options).unwrap().endpoint
        };
        let at = |address| [("aws_endpoint", address), ("aws_allow_http", "true")];
        let first = endpoint("s3://bucket/prefix", &at("http://one:9000"));
        assert!(first.as_deref().is_some_and(|endpoint| endpoint.contains("http://one:9000")), "{first:?}");
        assert_ne!(first, endpoint("s3://bucket/prefix", &at("http://two:9000")));
        assert_eq!(first, endpoint("s3://bucket/other", &at("http://one:9000")), "the location says the rest");
        let account = |name| endpoint("az://container", &[("azure_storage_account_name", name)]);
        assert_ne!(account("one"), account("two"), "an account has containers of its own");
    }
}
