//! What everything that carries a rollout on works with.

use std::time::Duration;

use embed_client::Client;

use super::{known::Known, server_time::ServerTime, store::Store};
use crate::route::Router;

/// Who watches, and with what.
#[derive(Debug)]
pub(super) struct Means<'a> {
    pub(super) client: &'a Client,
    pub(super) router: &'a Router,
    pub(super) store: &'a Store,
    pub(super) time: &'a ServerTime,
    /// The workers whose reports count.
    pub(super) known: &'a Known,
    /// Without a sign for so long, another takes over.
    pub(super) lease: Duration,
}
