//! The status page of the local stack.

use std::net::SocketAddr;

use embed_client::Client;
use embed_http::Limits;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Error,
    status::{Watch, routes},
};

/// Where it will be answered.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    pub(super) async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |error: std::io::Error| {
            Error::Dev(format!("the status page cannot be at {address}: {error}; choose another address with --status"))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Answers until what it returns is dropped; and where that is.
    pub(super) fn serve(self, client: &async_nats::Client) -> (String, AbortOnDropHandle<()>) {
        let Self { listener, address } = self;
        let routes = routes(Watch::new(&Client::new(client.clone())), address.ip().is_loopback());
        let serving = async move { match embed_http::serve(listener, routes, Limits::default()).await {} };
        (format!("http://{address}/"), AbortOnDropHandle::new(tokio::spawn(serving)))
    }
}
