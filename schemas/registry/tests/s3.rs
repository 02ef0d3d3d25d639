//! A registry in a bucket of a real S3 server.

use crate::support::{Version, at, bucket, content, made, raw, slug};
use embed_testkit::S3Server;
use object_store::ObjectStoreExt;

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_for_every_registry() {
    let server = S3Server::start();
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", server.id())).unwrap();
    assert!(environment.split('\0').any(|variable| variable.starts_with("GOMEMLIMIT=")), "its memory has no bound");
    crate::support::publishing(&made(&server, "publishing")).await;
    crate::support::promoting(&made(&server, "promoting")).await;

    let store = raw(&server, "resuming");
    let delete = async |path: &str| store.delete(&at(path)).await.unwrap();
    let put = async |path: &str, bytes: Vec<u8>| drop(store.put(&at(path), bytes.into()).await.unwrap());
    crate::support::resuming(&made(&server, "resuming"), delete, put).await;

    let store = raw(&server, "collecting");
    let put = async |path: &str, bytes: Vec<u8>| drop(store.put(&at(path), bytes.into()).await.unwrap());
    crate::support::collecting(&made(&server, "collecting"), put).await;

    let error = bucket(&server.address(), "nowhere").models().await.unwrap_err();
    assert!(error.to_string().contains("no such bucket") && !error.retryable(), "{error}");

    // Large enough for several parts.
    let registry = made(&server, "parts");
    let large = content(9, 40 << 20);
    let version = Version::new("large", "v1", &[&large]);
    registry.publish(version.path(), &()).await.unwrap();
    assert!(registry.verify(&slug("large"), "v1", &()).await.unwrap().iter().all(|check| check.problem.is_none()));
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    // Nothing listens on port 1.
    let registry = bucket("127.0.0.1:1", "nowhere");
    let error = registry.models().await.unwrap_err();
    assert!(error.retryable(), "{error}");
    assert!(error.to_string().contains("s3://nowhere/some/prefix"), "{error}");
}
