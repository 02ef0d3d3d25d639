//! Stores in buckets, reached over HTTP.

use std::{str::FromStr, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
};

use crate::RegistryOptions;

/// A bucket, and whose it is beside what its location says. `None`: there is only one that can be meant.
type Bucket = (Arc<dyn ObjectStore>, Option<String>);

/// Opens a bucket: `s3`, `gs`, or else Azure's. Nothing is asked of a server yet.
pub(super) fn open(scheme: &str, bucket: &str, options: &RegistryOptions) -> Result<Bucket, String> {
    // The TLS library asks for a process-wide provider. It is there already if NATS was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = match scheme {
        "s3" => s3(bucket, options),
        "gs" => gcs(bucket, options),
        _ => azure(bucket, options),
    };
    store.map_err(|error| error.to_string())
}

type Store = object_store::Result<Bucket>;

fn s3(bucket: &str, options: &RegistryOptions) -> Store {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry(options));
    for (key, value) in client_defaults("AWS") {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    for (key, value) in settings::<AmazonS3ConfigKey>(options)? {
        builder = builder.with_config(key, value);
    }
    let keys = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = keys.iter().find_map(|key| builder.get_config_value(key));
    Ok((Arc::new(builder.build()?), endpoint))
}

fn gcs(bucket: &str, options: &RegistryOptions) -> Store {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry(options));
    for (key, value) in client_defaults("GOOGLE") {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    for (key, value) in settings::<GoogleConfigKey>(options)? {
        builder = builder.with_config(key, value);
    }
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    Ok((Arc::new(builder.build()?), endpoint))
}

fn azure(container: &str, options: &RegistryOptions) -> Store {
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(retry(options));
    for (key, value) in client_defaults("AZURE") {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    for (key, value) in settings::<AzureConfigKey>(options)? {
        builder = builder.with_config(key, value);
    }
    // Containers are an account's own, and the location names no account.
    let keys = [AzureConfigKey::AccountName, AzureConfigKey::Endpoint, AzureConfigKey::UseEmulator];
    let parts = keys.iter().map(|key| builder.get_config_value(key).unwrap_or_default());
    let endpoint = parts.collect::<Vec<_>>().join(" ");
    Ok((Arc::new(builder.build()?), Some(endpoint)))
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
