//! A gateway on its listener, from the first request to the last.

use embed_http::{Limits, Tls};
use tokio::net::TcpListener;

use crate::{Gateway, OpenError, api::ops, batches::Batches, routes::routes};

/// Beside the time for an answer: for a body to come, and for whoever reads slowly.
const MORE: std::time::Duration = std::time::Duration::from_secs(60);

/// How long connections are kept that nobody uses: longer than clients and proxies keep theirs, so that none asks on one that is being closed.
const IDLE: std::time::Duration = std::time::Duration::from_secs(75);
/// Between two times at which figures are summed up.
const UPKEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// Serves until `stop` is done, and then answers what has begun, for as long as the settings say. Whether all of it was answered.
///
/// # Errors
/// If an origin of the settings is none.
pub async fn serve(
    gateway: Gateway,
    listener: TcpListener,
    tls: Option<Tls>,
    stop: impl Future<Output = ()>,
) -> Result<bool, OpenError> {
    let bounds = gateway.settings().bounds;
    let batches = Batches::open(&gateway)?;
    let routes = routes(&gateway, batches.as_ref())?;
    let longest = bounds.timeout_for(bounds.inputs).saturating_add(bounds.body_time).saturating_add(MORE);
    let limits = Limits { connections: bounds.connections, wait: IDLE, request: longest };
    let stop = async {
        stop.await;
        gateway.drain();
    };
    let served = async {
        let all = embed_http::serve_until(listener, routes, limits, tls, stop, bounds.drain).await;
        if let Some(vectors) = gateway.vectors() {
            vectors.finish().await;
        }
        all
    };
    let beside = async {
        tokio::join!(gateway.link().follow(), gateway.models().follow(), gateway.keys().follow(), upkeep(&gateway))
    };
    tokio::select! {
        all = served => Ok(all),
        // It goes on for ever.
        _ = beside => Ok(true),
    }
}

/// What was counted is summed up, whether anybody asks for it or not: it would fill memory.
async fn upkeep(gateway: &Gateway) {
    let Some(figures) = gateway.metrics() else { return };
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        figures.run_upkeep();
    }
}

/// `/metrics` alone, without a key, for a listener of its own.
pub fn metrics_alone(gateway: &Gateway) -> axum::Router {
    ops::figures_alone(gateway.clone())
}
