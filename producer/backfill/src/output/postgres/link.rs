//! A connection to the database, and what is to be made of its errors.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_postgres::{Client, Config, NoTls, Socket, config::SslMode, error::SqlState, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::target::Target;

/// For one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection; it ends when dropped.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    /// Connects, by TLS if there is any and the server takes it.
    pub(super) async fn open(config: &Config, tls: Option<ClientConfig>) -> Result<Self, tokio_postgres::Error> {
        let mut config = config.clone();
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        match tls {
            None => connect(&config, NoTls).await,
            Some(tls) => connect(&config, MakeRustlsConnect::new(tls)).await,
        }
    }
}

async fn connect<T>(config: &Config, tls: T) -> Result<Link, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    let task = tokio::spawn(async move {
        // Whoever uses the client is told.
        let _ = connection.await;
    });
    Ok(Link { client, _task: AbortOnDropHandle::new(task) })
}

/// How a server shows who it is: by a certificate that somebody has signed whom this machine trusts, or who stands in the file that is named.
/// `None` if it need not. The error says what is wrong with the file.
pub(super) fn tls(target: &Target) -> Result<Option<ClientConfig>, String> {
    if target.config.get_ssl_mode() == SslMode::Disable {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    match &target.roots {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| format!("sslrootcert={}: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(Some(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Whether the same can succeed a moment later: the server was away, or another one was in the way.
pub(super) fn passes(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code() else {
        let source = std::error::Error::source(error);
        return error.is_closed() || source.is_some_and(|source| source.is::<std::io::Error>());
    };
    // Classes: connection exceptions, transaction rollbacks, lack of resources, intervention of an operator.
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "40" | "53") || class == "57" && *code != SqlState::QUERY_CANCELED
}

/// What an error says, with what the server adds to it.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    let Some(database) = error.as_db_error() else {
        return match std::error::Error::source(error) {
            Some(source) if !error.to_string().contains(&source.to_string()) => format!("{error}: {source}"),
            _ => error.to_string(),
        };
    };
    let mut text = database.message().to_owned();
    for more in [database.detail(), database.hint()].into_iter().flatten() {
        text.push_str(". ");
        text.push_str(more);
    }
    text
}
