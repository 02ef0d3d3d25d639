//! A whole local stack: a NATS server, streams and consumers for the registry's models, and a worker.

pub mod binaries;
mod child;
mod config;
mod gateway;
mod server;
mod status;
mod worker;

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use binaries::{EMBED_WORKER, NATS_SERVER, find};
use embed_schemas::{Slug, streams::StreamSettings};
use serde::Serialize;

pub use worker::Served;

use crate::Error;
use embed_client::Client;
use embed_control::{models, provision, registry};

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where the server keeps its streams, its configuration and its log. Made if missing.
    pub data_dir: PathBuf,
    /// The registry: a path, `file://…`, `s3://…`, `gs://…` or `az://…`.
    pub registry: String,
    /// The server's port on 127.0.0.1; 0 for any.
    pub port: u16,
    /// Bytes that a message may have.
    pub max_payload: u32,
    /// Variants by model, and the version that each serves; the first of a model is its default. A model that has none here
    /// is served as one variant, called after its first precision.
    pub variants: Vec<(Slug, Slug, Option<String>)>,
    /// How streams and consumers are made.
    pub streams: StreamSettings,
    /// More arguments for `embed-worker run`.
    pub worker_args: Vec<String>,
    /// Where a gateway is to answer HTTP, if one is to.
    pub gateway: Option<SocketAddr>,
    /// Where it is shown how everything stands; port 0 for any.
    pub status: SocketAddr,
}

/// How to reach a stack that is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// The server.
    pub nats_url: String,
    /// The server's monitoring.
    pub monitor_url: String,
    /// The worker's metrics and health.
    pub metrics_url: String,
    /// Where HTTP is answered, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_url: Option<String>,
    /// Where it is shown how everything stands.
    pub status_url: String,
    /// What `embed route` has to know: pass it with `--route-config`, unless it is in `.embed-dev` where you are.
    pub route_config: PathBuf,
    /// What the worker serves.
    pub models: Vec<Served>,
    /// The processes.
    pub pids: Pids,
}

/// Process ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// Of the server.
    pub nats_server: u32,
    /// Of the worker.
    pub worker: u32,
}

/// Runs a stack until `shutdown` is done: then the worker is drained, and the server stopped after it.
///
/// `on_ready` is called once, when calls and jobs are being served. Await this in the runtime's main task
/// (`block_on`), not in a spawned one: on Linux the children end with the thread that started them.
///
/// # Errors
/// [`Error::Dev`] if a program is missing, a port is taken, another stack uses the data folder, or a process ends;
/// [`embed_control::Error::Registry`] if there is nothing to serve. Whatever was started is stopped again.
pub async fn run(
    options: &Options,
    shutdown: impl Future<Output = ()>,
    on_ready: impl FnOnce(&Ready),
) -> Result<(), Error> {
    tokio::pin!(shutdown);
    let (server_program, worker_program) = (find(NATS_SERVER)?, find(EMBED_WORKER)?);
    let root = registry::absolute(&options.registry)?;
    let named: Vec<_> = options.variants.iter().map(|(model, variant, _)| (model.clone(), variant.clone())).collect();
    let asked: Vec<_> = named.iter().map(|(model, _)| model.clone()).collect();
    let registered = registry::list(&root, &asked, |warning| tracing::warn!("{warning}")).await?;
    let variants = provision::variants(&registered, &named)?;

    // Before anything is started: it can be given another address.
    let status = status::Listener::bind(options.status).await?;
    std::fs::create_dir_all(&options.data_dir).map_err(Error::file(&options.data_dir))?;
    let data_dir = absolute(&options.data_dir)?;
    let _lock = lock(&data_dir)?;
    let mut worker_args = config::worker(options, &registered, &variants, &data_dir)?;
    worker_args.extend(options.worker_args.iter().cloned());
    let mut server = tokio::select! {
        server = server::start(&server_program, &data_dir, options.port, options.max_payload) => server?,
        () = &mut shutdown => return Ok(()),
    };
    let (client, url) = (server.client.clone(), server.url.clone());
    let prepare = async {
        // What was wanted of the stack when it last ran still is.
        let desired = models::desired(&Client::new(client.clone())).await?;
        let variants = provision::with_desired(variants, &desired);
        provision::apply(&client, &variants, &options.streams).await?;
        worker::start(&worker_program, &url, &root, &worker_args).await.map(Some)
    };
    let prepared = tokio::select! {
        prepared = prepare => prepared,
        how = server.process.ended() => Err(Error::Dev(how)),
        () = &mut shutdown => Ok(None),
    };
    let mut worker = match prepared {
        Ok(Some(worker)) => worker,
        Ok(None) => {
            server.stop().await;
            return Ok(());
        }
        Err(error) => {
            server.stop().await;
            return Err(error);
        }
    };
    let mut gateway = match options.gateway {
        None => None,
        Some(listen) => match gateway::start(&server.url, &root, &data_dir.join("files"), listen).await {
            Ok(gateway) => Some(gateway),
            Err(error) => {
                worker.stop().await;
                server.stop().await;
                return Err(error);
            }
        },
    };
    server::warn_of_routes(&server, &worker.ready.variants).await;
    let (status_url, _status) = status.serve(&client);
    on_ready(&Ready {
        nats_url: server.url.clone(),
        monitor_url: server.monitor_url.clone(),
        route_config: server.route_config.clone(),
        metrics_url: worker.ready.metrics_url.clone(),
        status_url,
        gateway_url: gateway.as_ref().map(|gateway| gateway.url.clone()),
        models: worker.ready.variants.clone(),
        pids: Pids { nats_server: server.process.id(), worker: worker.process.id() },
    });
    let result = tokio::select! {
        () = shutdown => Ok(()),
        how = server.process.ended() => Err(Error::Dev(how)),
        how = worker.process.ended() => Err(Error::Dev(how)),
        how = gateway::Gateway::ended(gateway.as_mut()) => Err(Error::Dev(how)),
    };
    if let Some(gateway) = gateway {
        gateway.stop().await;
    }
    worker.stop().await;
    server.stop().await;
    result
}

/// Two servers on one store would destroy it. The lock goes with us, however we end.
fn lock(data_dir: &Path) -> Result<File, Error> {
    let path = data_dir.join("lock");
    let file = File::create(&path).map_err(Error::file(&path))?;
    file.try_lock().map_err(|error| {
        Error::Dev(format!(
            "{} is in use by another `embed dev` ({error}): stop it, or choose another folder with --data-dir",
            data_dir.display()
        ))
    })?;
    Ok(file)
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(Error::file(path))
}

/// The registry that a checkout builds: `build/registry` in `from` or the nearest of its parents that has one.
#[must_use]
pub fn nearby_registry(from: &Path) -> Option<PathBuf> {
    from.ancestors().map(|folder| folder.join("build/registry")).find(|path| path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_found_from_below() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir_all(root.path().join("build/registry")).unwrap();
        assert_eq!(nearby_registry(&deep), Some(root.path().join("build/registry")));
    }

    #[test]
    fn a_data_folder_serves_one_stack() {
        let root = tempfile::tempdir().unwrap();
        let first = lock(root.path()).unwrap();
        assert!(lock(root.path()).unwrap_err().to_string().contains("--data-dir"));
        drop(first);
        lock(root.path()).unwrap();
    }
}
