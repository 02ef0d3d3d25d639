//! The HTTP endpoints of every binary. Whoever may connect to one may do so often and slowly: it costs a bounded number of descriptors,
//! each for a bounded time, and whoever comes next is answered all the same.

mod connection;
mod slots;
#[cfg(feature = "tls")]
mod tls;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::Router;
use connection::{Serving, serve_one};
use slots::Slots;
use tokio::{net::TcpListener, sync::watch, time::sleep};

#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError};

/// Without the feature `tls` there is none.
#[cfg(not(feature = "tls"))]
type Tls = Infallible;

/// How long to wait before connections are taken again, after the system had no descriptor for one.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time, at least 1. One more takes the place of another: of the address that has the most, one that keeps
    /// waiting for its client rather than one whose request is being answered, and of those the oldest.
    pub connections: usize,
    /// How long a connection may wait for its client: for the head of its first request, or until an answer has been read and the next
    /// request's head is there.
    pub wait: Duration,
    /// How long a request may take from its head to its answer, its body included.
    pub request: Duration,
}

impl Default for Limits {
    /// For metrics and health: a scraper, a few probes, and somebody who looks.
    fn default() -> Self {
        Self { connections: 64, wait: Duration::from_secs(10), request: Duration::from_secs(30) }
    }
}

/// Serves these routes until the future is dropped, which closes what is open.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits) -> Infallible {
    let slots = Slots::new(limits.connections);
    let (_stop, stopping) = watch::channel(false);
    accept(&listener, &slots, &Arc::new(Serving { routes, limits, tls: None, stopping })).await
}

/// Serves these routes until `stop` is done. Then nobody is taken any more, connections that only wait are closed, and requests that have
/// begun are answered, unless that takes longer than `patience`. Whether all were.
pub async fn serve_until(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    tls: Option<Tls>,
    stop: impl Future<Output = ()>,
    patience: Duration,
) -> bool {
    let slots = Slots::new(limits.connections);
    let (stopped, stopping) = watch::channel(false);
    let serving = Arc::new(Serving { routes, limits, tls, stopping });
    tokio::select! {
        never = accept(&listener, &slots, &serving) => match never {},
        () = stop => {}
    }
    drop(listener);
    let _ = stopped.send(true);
    tokio::time::timeout(patience, slots.all_free()).await.is_ok()
}

async fn accept(listener: &TcpListener, slots: &Slots, serving: &Arc<Serving>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let slot = slots.take(peer.ip()).await;
                let served = serve_one(stream, Arc::clone(serving), slot.clone());
                slot.is_held_by(&tokio::spawn(served));
            }
            // A client that is gone before it was taken is its own affair.
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no HTTP connection can be taken");
                slots.free_one();
                sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests;
