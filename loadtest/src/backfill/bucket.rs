//! The bucket that corpora are read from and vectors are written to.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use embed_testkit::S3Server;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    path::Path as ObjectPath,
};

/// Its name.
const NAME: &str = "backfill";
/// For one file, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(300);

/// The bucket.
#[derive(Debug)]
pub(super) struct Bucket(AmazonS3);

impl Bucket {
    /// Makes the bucket on this server.
    pub(super) fn make(server: &S3Server) -> anyhow::Result<Self> {
        server.make_bucket(NAME);
        // The TLS library asks for a process-wide provider. It is there already if NATS was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let retry = RetryConfig { retry_timeout: PATIENCE, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new().with_bucket_name(NAME).with_retry(retry);
        for (key, value) in S3Server::settings(&server.address()) {
            builder = builder.with_config(key.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()?, value);
        }
        Ok(Self(builder.build()?))
    }

    /// What a prefix in it is called on a command line.
    pub(super) fn url(prefix: &str) -> String {
        format!("s3://{NAME}/{prefix}/")
    }

    /// Puts a file there.
    pub(super) async fn put(&self, path: &str, content: Vec<u8>) -> anyhow::Result<()> {
        self.0.put(&ObjectPath::parse(path)?, content.into()).await.with_context(|| path.to_owned())?;
        Ok(())
    }

    /// Copies what is below a prefix into a folder, one file after the other.
    pub(super) async fn fetch(&self, prefix: &str, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let prefix = ObjectPath::parse(prefix)?;
        let objects: Vec<_> = self.0.list(Some(&prefix)).try_collect().await.context("the output cannot be listed")?;
        let mut files = Vec::new();
        for object in objects {
            let name = object.location.filename().context("an object has a name")?;
            let path = folder.join(name);
            let mut file = File::create(&path).with_context(|| path.display().to_string())?;
            let mut content = self.0.get(&object.location).await?.into_stream();
            while let Some(bytes) = content.next().await {
                file.write_all(&bytes.with_context(|| object.location.to_string())?)?;
            }
            files.push(path);
        }
        files.sort();
        Ok(files)
    }
}
