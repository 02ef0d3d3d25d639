//! Routes: how the traffic of a model is split between its variants, by weighted subject mappings in NATS itself.
//!
//! What is wanted stands in the bucket `embed_routes`, with its history. [`Router::set`] writes down what it is about to do,
//! does it on every server, asks each of them what it holds, and writes down the end: whoever finds a change without an end
//! can finish it or take it back ([`Router::sync`]). [`Router::actual`] compares what is wanted with what the servers hold.
//!
//! Two back-ends: a file of mappings that the servers' configurations include, and the claims of the account where accounts
//! are JWTs. Which one it is, the account's name tells.
//!
//! ```no_run
//! use embed_client::Client;
//! use embed_connect::ConnectSettings;
//! use embed_control::route::{Change, Outcome, RouteError, RouteSettings, Router};
//! use embed_schemas::Weights;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let connect = ConnectSettings::default();
//! let client = Client::connect(&connect).await?;
//! let settings = RouteSettings { sys_user: Some("sys".into()), sys_password: Some("…".into()), ..Default::default() };
//! let router = Router::connect(&client, &connect, &settings).await?;
//! match router.set(&"m".parse()?, &Change::to(Weights::parse(&["fp32=95", "int8=5"])?, "me")).await? {
//!     Outcome::Applied(applied) => assert!(applied.missing.is_empty(), "a server is down: {:?}", applied.missing),
//!     // In effect all the same: only the bucket does not know.
//!     Outcome::Unwritten { applied, reason } => eprintln!("{} keeps its route: {reason}", applied.model),
//!     other @ (Outcome::HalfApplied { .. } | Outcome::Undone { .. } | Outcome::Superseded { .. }) => {
//!         return Err(RouteError::ended(other).into());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod apply;
mod checks;
mod claims;
mod concerned;
pub mod declared;
mod emergency;
mod error;
mod files;
mod held;
mod mapping;
mod outcome;
mod record;
mod report;
mod set;
mod settings;
mod store;
mod subject;
mod system;
mod wish;

use std::{collections::BTreeMap, path::PathBuf};

use async_nats::HeaderMap;
use embed_connect::ConnectSettings;
use embed_schemas::{RouteRecord, Slug};
use nkeys::KeyPair;
use serde_json::Value;

pub use claims::{Claims, ClaimsError};
pub use concerned::newly_mapped;
pub use error::RouteError;
pub use mapping::{Destination, MappingDifference, Mappings};
pub use outcome::{Applied, Outcome};
pub(crate) use record::taken_back;
pub use report::{Report, ServerState, ServerView};
pub use set::{Change, OnFailure, Plan};
pub use settings::{DEV_FILE, RouteSettings};
pub use store::Entry;
pub use system::SyncPolicy;

use embed_client::{Client, nats};
pub(crate) use store::Store as RouteStore;
use store::Store;
#[cfg(test)]
pub(crate) use subject::overlap;
use system::System;

/// How mappings get to the servers.
#[derive(Debug)]
enum Backend {
    /// Files that the servers include. None: they are distributed by other means.
    Files(Vec<PathBuf>),
    /// The account's claims, signed with this key; without it, they can only be read.
    Claims(Option<Box<KeyPair>>),
}

/// The servers, as the system account sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// Those that answer, by name, and when each syncs what it acknowledges.
    pub syncs: BTreeMap<String, SyncPolicy>,
    /// The names of those that the cluster knows, and that do not answer.
    pub missing: Vec<String>,
    /// How many more do not answer, whose names nobody knows that does: a server that has just started has not heard them yet.
    pub unnamed: usize,
}

/// Asks which servers there are, and how they sync, over a connection to the system account.
///
/// # Errors
/// If none answers.
pub async fn servers(system: async_nats::Client) -> Result<Servers, RouteError> {
    let system = System::new(system);
    let call = system.roll_call(&[]).await?;
    let syncs = system.syncs(call.present.len()).await?;
    Ok(Servers { syncs, missing: call.missing, unnamed: call.unnamed })
}

/// Reads, changes and repairs routes.
#[derive(Debug)]
pub struct Router {
    client: Client,
    store: Store,
    system: System,
    backend: Backend,
    account: String,
}

impl Router {
    /// Connects to the system account, and finds out which account `client` is in. `connect` says where the servers are, and
    /// how TLS is done.
    ///
    /// # Errors
    /// If the system account cannot be reached, or the settings say not how.
    pub async fn connect(
        client: &Client,
        connect: &ConnectSettings,
        settings: &RouteSettings,
    ) -> Result<Self, RouteError> {
        let system = nats::connect(&settings.system(connect)?, "embed route").await?;
        Self::over(client, system, settings).await
    }

    /// As [`Router::connect`], and to the account itself at the same time: where a server hangs, each takes a while to go on to the next.
    ///
    /// # Errors
    /// As [`Router::connect`].
    pub async fn dial(connect: &ConnectSettings, settings: &RouteSettings) -> Result<(Client, Self), RouteError> {
        let system = settings.system(connect)?;
        let (client, system) = tokio::join!(Client::connect(connect), nats::connect(&system, "embed route"));
        let client = client?;
        let router = Self::over(&client, system?, settings).await?;
        Ok((client, router))
    }

    async fn over(client: &Client, system: async_nats::Client, settings: &RouteSettings) -> Result<Self, RouteError> {
        let account = account(client).await?;
        let backend = if is_public_key(&account) {
            Backend::Claims(settings.seed()?.map(|seed| claims::signing_key(&seed).map(Box::new)).transpose()?)
        } else {
            Backend::Files(settings.mappings_files.clone())
        };
        let store = Store::new(client.nats().clone());
        Ok(Self { client: client.clone(), store, system: System::new(system), backend, account })
    }

    /// What is wanted, and what each server holds.
    ///
    /// # Errors
    /// If the bucket or the system account cannot be asked. A server that cannot is part of the answer.
    pub async fn actual(&self) -> Result<Report, RouteError> {
        let (routes, seen) = self.see().await?;
        Ok(Report::new(&self.account, routes, &Default::default(), &seen))
    }

    /// What each server that answers holds, by name, without asking what is wanted.
    ///
    /// # Errors
    /// If the system account cannot be asked.
    pub async fn held(&self) -> Result<Vec<ServerView>, RouteError> {
        let roll_call = self.system.roll_call(&[]).await?;
        let seen = self.ask(Vec::new(), roll_call).await;
        Ok(Report::new(&self.account, Default::default(), &Default::default(), &seen).servers)
    }

    /// The route of a model as it is wanted now, with its revision; 0 and `None` if there never was one.
    ///
    /// # Errors
    /// If the bucket cannot be read.
    pub async fn current(&self, model: &Slug) -> Result<(u64, Option<RouteRecord>), RouteError> {
        self.store.get(model).await
    }

    /// How the route of a model came to be, oldest first.
    ///
    /// # Errors
    /// If the bucket cannot be read.
    pub async fn history(&self, model: &Slug) -> Result<Vec<Entry>, RouteError> {
        self.store.history(model).await
    }

    /// The file of mappings as it should be.
    ///
    /// # Errors
    /// If the bucket cannot be read.
    pub async fn render(&self) -> Result<String, RouteError> {
        Ok(mapping::render(&report::wanted(&self.store.all().await?, &Default::default())))
    }
}

/// What is written down of all routes, for those who cannot ask the servers.
///
/// # Errors
/// If the bucket cannot be read.
pub async fn written(client: &Client) -> Result<BTreeMap<Slug, Entry>, RouteError> {
    Store::new(client.nats().clone()).all().await
}

/// How the route of a model came to be, oldest first.
///
/// # Errors
/// If the bucket cannot be read.
pub async fn history(client: &Client, model: &Slug) -> Result<Vec<Entry>, RouteError> {
    Store::new(client.nats().clone()).history(model).await
}

/// What the server says of us.
async fn user_info(client: &Client) -> Result<Value, RouteError> {
    let failed = |reason: String| RouteError::System { what: "cannot find out which account this is".into(), reason };
    let timeout = std::time::Duration::from_secs(2);
    let subject = "$SYS.REQ.USER.INFO".to_owned();
    let answer = nats::request(client.nats(), subject, HeaderMap::new(), bytes::Bytes::new(), timeout).await;
    let payload = answer.map_err(|error| failed(error.to_string()))?.payload;
    serde_json::from_slice(&payload).map_err(|error| failed(error.to_string()))
}

/// The account that a connection is in.
async fn account(client: &Client) -> Result<String, RouteError> {
    let name = user_info(client).await?["data"]["account"].as_str().map(str::to_owned);
    let what = "cannot find out which account this is".to_owned();
    name.ok_or_else(|| RouteError::System { what, reason: "the server does not say".to_owned() })
}

/// Accounts that are JWTs are called after their public keys.
fn is_public_key(account: &str) -> bool {
    account.len() == 56 && account.starts_with('A') && KeyPair::from_public_key(account).is_ok()
}
