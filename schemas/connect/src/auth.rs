//! From settings to what the client library takes: context files, and credentials that stand in URLs.

use std::path::PathBuf;

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;

use crate::{
    ConnectError,
    settings::{ConnectSettings, NatsContext, split_credentials as split},
};

/// How to prove who we are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Auth {
    None,
    Token(String),
    Password(String, String),
    Credentials(PathBuf),
}

impl ConnectSettings {
    /// The same with what its context says filled in, and without the context.
    ///
    /// # Errors
    /// [`ConnectError::Settings`] if there is no such context, or it cannot be read.
    pub fn resolved(self) -> Result<Self, ConnectError> {
        Ok(Self { context: None, ..with_context(self)? })
    }
}

/// Fills settings from the context file that they name, if they name one.
pub(super) fn with_context(settings: ConnectSettings) -> Result<ConnectSettings, ConnectError> {
    let Some(below) = settings.context_file() else { return Ok(settings) };
    let folder = match (std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME")) {
        (Some(folder), _) if !folder.is_empty() => PathBuf::from(folder),
        (_, Some(home)) => PathBuf::from(home).join(".config"),
        _ => {
            return Err(ConnectError::Settings(
                "--context: neither XDG_CONFIG_HOME nor HOME says where contexts are".into(),
            ));
        }
    };
    let path = folder.join(below);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        ConnectError::Settings(format!("--context: {}: {error}; `nats context ls` lists what there is", path.display()))
    })?;
    let context: NatsContext = serde_json::from_str(&text)
        .map_err(|error| ConnectError::Settings(format!("--context: {}: {error}", path.display())))?;
    Ok(settings.or_context(context))
}

/// The servers without credentials, and the credentials. The client ignores those in URLs, so they are taken out and
/// handed over as options; options given beside them win.
pub(super) fn servers(settings: &ConnectSettings) -> Result<(Vec<ServerAddr>, Auth), ConnectError> {
    let mut in_url = Auth::None;
    let mut servers = Vec::new();
    for text in settings.servers() {
        let (bare, auth) = split_credentials(&text);
        if auth != Auth::None {
            in_url = auth;
        }
        let server: ServerAddr =
            bare.parse().map_err(|error| ConnectError::Settings(format!("--server: {bare:?}: {error}")))?;
        servers.push(server);
    }
    if servers.is_empty() {
        return Err(ConnectError::Settings("--server: the list of servers is empty".into()));
    }
    let auth = match (&settings.creds, &settings.user) {
        (Some(file), _) => Auth::Credentials(file.clone()),
        (None, Some(user)) => Auth::Password(user.clone(), settings.password.clone().unwrap_or_default()),
        (None, None) => in_url,
    };
    Ok((servers, auth))
}

/// `nats://user:password@host` -> `nats://host` and the credentials. A user name alone is a token, as in natscli.
fn split_credentials(url: &str) -> (String, Auth) {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (bare, credentials) = split(url);
    let auth = match credentials.map(|credentials| credentials.split_once(':').ok_or(credentials)) {
        None => Auth::None,
        Some(Ok((user, password))) => Auth::Password(decode(user), decode(password)),
        Some(Err(token)) => Auth::Token(decode(token)),
    };
    (bare, auth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(server: &str) -> ConnectSettings {
        ConnectSettings { server: Some(server.into()), ..ConnectSettings::default() }
    }

    #[test]
    fn credentials_leave_the_url() {
        let (servers, auth) = servers(&settings("nats://me:p%40ss@a:4333, b")).unwrap();
        assert_eq!(servers.iter().map(ServerAddr::as_url_str).collect::<Vec<_>>(), ["nats://a:4333", "nats://b"]);
        assert_eq!(auth, Auth::Password("me".into(), "p@ss".into()));
        assert_eq!(split_credentials("tls://secret@h").1, Auth::Token("secret".into()));
    }

    #[test]
    fn options_win_over_the_url() {
        let settings = ConnectSettings { user: Some("you".into()), ..settings("nats://me:x@a") };
        assert_eq!(servers(&settings).unwrap().1, Auth::Password("you".into(), String::new()));
    }

    #[test]
    fn a_broken_url_is_named() {
        let error = servers(&settings("http://a")).unwrap_err().to_string();
        assert!(error.contains("http://a"), "{error}");
    }
}
