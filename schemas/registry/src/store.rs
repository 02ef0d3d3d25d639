//! From a location to an object store.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path as ObjectPath,
    prefix::PrefixStore,
};

use crate::RegistryOptions;

/// An opened store, and the folder if it is one.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) folder: Option<PathBuf>,
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
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(format!("the bucket is missing; write {scheme}://BUCKET/PREFIX"));
    }
    let prefix = ObjectPath::parse(prefix.trim_end_matches('/')).map_err(|error| error.to_string())?;
    // The TLS library asks for a process-wide provider. It is there already if NATS was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = match scheme {
        "s3" => s3(bucket, options),
        "gs" => gcs(bucket, options),
        _ => azure(bucket, options),
    };
    let store = store.map_err(|error| error.to_string())?;
    let store = if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix)) };
    Ok(Opened { store, folder: None })
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
    Ok(Opened { store: Arc::new(store), folder: Some(path.to_owned()) })
}

type Store = object_store::Result<Arc<dyn ObjectStore>>;

fn s3(bucket: &str, options: &RegistryOptions) -> Store {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry(options));
    for (key, value) in client_defaults("AWS") {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    for (key, value) in settings::<AmazonS3ConfigKey>(options)? {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build()?))
}

fn gcs(bucket: &str, options: &RegistryOptions) -> Store {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry(options));
    for (key, value) in client_defaults("GOOGLE") {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    for (key, value) in settings::<GoogleConfigKey>(options)? {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build()?))
}

fn azure(container: &str, options: &RegistryOptions) -> Store {
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(retry(options));
    for (key, value) in client_defaults("AZURE") {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    for (key, value) in settings::<AzureConfigKey>(options)? {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build()?))
}

/// What is given beside the environment.
fn settings<K: FromStr<Err = object_store::Error>>(
    options: &RegistryOptions,
) -> object_store::Result<Vec<(K, String)>> {
    options.settings.iter().map(|(key, value)| Ok((key.to_ascii_lowercase().parse()?, value.clone()))).collect()
}

/// The library bounds the time of a whole request, which a large file on a slow line needs; what tells a dead
/// connection from a slow one is that nothing comes. The environment may say otherwise.
fn client_defaults(prefix: &str) -> impl Iterator<Item = (ClientConfigKey, &'static str)> {
    [
        (ClientConfigKey::Timeout, "TIMEOUT", "1 day"),
        (ClientConfigKey::ReadTimeout, "READ_TIMEOUT", "30 s"),
        (ClientConfigKey::ConnectTimeout, "CONNECT_TIMEOUT", "5 s"),
    ]
    .into_iter()
    .filter(move |(_, name, _)| std::env::var_os(format!("{prefix}_{name}")).is_none())
    .map(|(key, _, value)| (key, value))
}

fn retry(options: &RegistryOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.,
        },
        // The time is the bound; nothing is tried this often in it.
        max_retries: 10_000,
        retry_timeout: options.retry_for,
    }
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
        for location in ["s3://bucket", "s3://bucket/some/prefix/", "gs://bucket/prefix"] {
            assert!(open(location, &RegistryOptions::default()).is_ok(), "{location}");
        }
        let account = RegistryOptions {
            settings: vec![("azure_storage_account_name".into(), "account".into())],
            ..RegistryOptions::default()
        };
        assert!(open("az://container/prefix", &account).is_ok());
    }
}
