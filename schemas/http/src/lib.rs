//! The HTTP endpoints of every binary. Whoever may connect to one may do so often and slowly: it costs a bounded number of descriptors,
//! each for a bounded time, and whoever comes next is answered all the same.

mod slots;

use std::{convert::Infallible, io, time::Duration};

use axum::{Router, http::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use slots::{Slot, Slots};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until},
};

/// Bytes of one request's head, and of what is buffered of its body.
const BUFFER: usize = 64 << 10;

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
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let slot = slots.take(peer.ip()).await;
                let served = serve_one(stream, routes.clone(), slot.clone(), limits);
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

/// Serves a connection until it ends or its time is up.
async fn serve_one(stream: TcpStream, routes: Router, slot: Slot, limits: Limits) {
    // An answer's last packet does not wait for more.
    let _ = stream.set_nodelay(true);
    let routes = TowerToHyperService::new(routes);
    let state = slot.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        state.answers();
        let answer = routes.call(request);
        let state = state.clone();
        async move {
            let answer = answer.await;
            state.waits();
            answer
        }
    });
    let connection = http1::Builder::new().max_buf_size(BUFFER).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        let (since, answering) = slot.state();
        let deadline = since + if answering { limits.request } else { limits.wait };
        tokio::select! {
            // However it ended, it is over.
            _ = &mut connection => return,
            () = slot.changed() => {}
            () = sleep_until(deadline) => if deadline <= Instant::now() && slot.state() == (since, answering) {
                return;
            },
        }
    }
}

#[cfg(test)]
mod tests;
