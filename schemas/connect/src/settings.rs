//! Where the server is and who we are: the options of natscli.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Used when nothing else says where the server is.
pub const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";

/// NATS connection settings, named as natscli names them.
///
/// If more than one says who we are: `creds`, then `user_jwt`, `nkey`, `user`, `token`, then what stands in a URL.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "clap", command(next_help_heading = "NATS connection"))]
pub struct ConnectSettings {
    /// Server URLs, separated by commas [default: those of the context that `nats context select` has chosen, or nats://127.0.0.1:4222]
    #[cfg_attr(
        feature = "clap",
        arg(long, short = 's', env = "NATS_URL", hide_env_values = true, global = true, value_name = "URLS")
    )]
    pub server: Option<String>,
    /// User name
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_USER", hide_env_values = true, global = true))]
    pub user: Option<String>,
    /// Password. Other users of this machine see it in a command line: --password-file or the variable keep it from them
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_PASSWORD", hide_env_values = true, global = true))]
    pub password: Option<String>,
    /// File with the password
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_PASSWORD_FILE", global = true, value_name = "FILE"))]
    pub password_file: Option<PathBuf>,
    /// Token. As with the password, --token-file or the variable keep it from others
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_TOKEN", hide_env_values = true, global = true))]
    pub token: Option<String>,
    /// File with the token
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_TOKEN_FILE", global = true, value_name = "FILE"))]
    pub token_file: Option<PathBuf>,
    /// Credentials file (JWT and seed)
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_CREDS", global = true, value_name = "FILE"))]
    pub creds: Option<PathBuf>,
    /// File with the seed of the user's key
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_NKEY", global = true, value_name = "FILE"))]
    pub nkey: Option<PathBuf>,
    /// File with the user's JWT, beside --nkey; alone, it must be a bearer's
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_USER_JWT_FILE", global = true, value_name = "FILE"))]
    pub user_jwt_file: Option<PathBuf>,
    /// The user's JWT itself, as it stands in a context.
    #[cfg_attr(feature = "clap", arg(skip))]
    #[serde(skip)]
    pub user_jwt: Option<String>,
    /// The seed that goes with it, as it stands in a context.
    #[cfg_attr(feature = "clap", arg(skip))]
    #[serde(skip)]
    pub user_seed: Option<String>,
    /// Client certificate, PEM
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_CERT", global = true, value_name = "FILE"))]
    pub tlscert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_KEY", global = true, value_name = "FILE"))]
    pub tlskey: Option<PathBuf>,
    /// Certificate authority to trust, PEM
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_CA", global = true, value_name = "FILE"))]
    pub tlsca: Option<PathBuf>,
    /// Begin with TLS, as servers with `handshake_first` want it
    #[cfg_attr(feature = "clap", arg(long, global = true))]
    pub tlsfirst: bool,
    /// JetStream domain
    #[cfg_attr(feature = "clap", arg(long, global = true, value_name = "DOMAIN"))]
    pub js_domain: Option<String>,
    /// Subject prefix of JetStream's API, where it is imported from another account
    #[cfg_attr(feature = "clap", arg(long, global = true, conflicts_with = "js_domain", value_name = "PREFIX"))]
    pub js_api_prefix: Option<String>,
    /// Subject prefix of inboxes, where permissions want another than _INBOX, such as _INBOX.mine; for one that does not begin so, workers
    /// need it among their worker.reply_prefixes
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_INBOX_PREFIX", global = true, value_name = "PREFIX"))]
    pub inbox_prefix: Option<String>,
    /// A context made with `nats context`; options given here override it [default: the selected one, if no --server is given]
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_CONTEXT", global = true, value_name = "NAME"))]
    pub context: Option<String>,
}

impl ConnectSettings {
    /// The servers to try.
    #[must_use]
    pub fn servers(&self) -> Vec<String> {
        let urls = self.server.as_deref().unwrap_or(DEFAULT_SERVER);
        urls.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
    }

    /// The server URLs without user names and passwords, for logs and messages.
    #[must_use]
    pub fn describe(&self) -> String {
        self.servers().iter().map(|url| split_credentials(url).0).collect::<Vec<_>>().join(", ")
    }

    /// The same with every secret replaced, to be shown.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***".to_owned());
        Self {
            server: self.server.as_ref().map(|_| self.describe()),
            password: hidden(&self.password),
            token: hidden(&self.token),
            user_jwt: hidden(&self.user_jwt),
            user_seed: hidden(&self.user_seed),
            ..self.clone()
        }
    }

    /// These settings, and another's for what is not set. Where the server is, and who we are, is taken from one of them, not from both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let place = if self.server.is_some() || self.context.is_some() { &self } else { &other };
        let (server, context) = (place.server.clone(), place.context.clone());
        // Without a name, a password alone goes with the other's.
        let who = if self.says_who() { self.clone() } else { other.clone() };
        let alone = !self.says_who() && (self.password.is_some() || self.password_file.is_some());
        let password = if alone { &self } else { &who };
        let (password, password_file) = (password.password.clone(), password.password_file.clone());
        let domain = if self.js_domain.is_some() || self.js_api_prefix.is_some() { &self } else { &other };
        let (js_domain, js_api_prefix) = (domain.js_domain.clone(), domain.js_api_prefix.clone());
        Self {
            server,
            context,
            password,
            password_file,
            js_domain,
            js_api_prefix,
            tlscert: self.tlscert.or(other.tlscert),
            tlskey: self.tlskey.or(other.tlskey),
            tlsca: self.tlsca.or(other.tlsca),
            tlsfirst: self.tlsfirst || other.tlsfirst,
            inbox_prefix: self.inbox_prefix.or(other.inbox_prefix),
            ..who
        }
    }

    /// Whether anything but a URL says who we are.
    #[must_use]
    pub const fn says_who(&self) -> bool {
        self.user.is_some()
            || self.token.is_some()
            || self.token_file.is_some()
            || self.creds.is_some()
            || self.nkey.is_some()
            || self.user_jwt_file.is_some()
            || self.user_jwt.is_some()
    }
}

/// Without secrets: settings end up in logs.
impl std::fmt::Debug for ConnectSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = serde_json::to_value(self.redacted()).unwrap_or_default();
        let set = shown.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        f.debug_map().entries(set).finish()
    }
}

/// `nats://user:password@host` -> `nats://host` and what stood before the `@`.
pub(crate) fn split_credentials(url: &str) -> (String, Option<&str>) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    match rest.rsplit_once('@') {
        Some((credentials, host)) => (format!("{scheme}://{host}"), Some(credentials)),
        None => (url.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_and_who_are_not_mixed() {
        let text = |text: &str| Some(text.to_owned());
        let file = ConnectSettings {
            server: text("nats://file"),
            user: text("u"),
            password: text("p"),
            tlsca: Some("/ca".into()),
            js_domain: text("d"),
            ..ConnectSettings::default()
        };
        assert_eq!(ConnectSettings::default().or(file.clone()), file);
        let given = ConnectSettings { context: text("c"), creds: Some("/creds".into()), ..ConnectSettings::default() };
        let both = given.or(file.clone());
        assert_eq!((both.server, both.context), (None, text("c")));
        assert_eq!((both.user, both.password, both.creds), (None, None, Some("/creds".into())));
        assert_eq!((both.tlsca, both.js_domain), (Some("/ca".into()), text("d")));
        let given = ConnectSettings { password_file: Some("/pw".into()), ..ConnectSettings::default() };
        let both = given.or(file);
        assert_eq!((both.user, both.password, both.password_file), (text("u"), None, Some("/pw".into())));
    }

    #[test]
    fn secrets_stay_out_of_messages() {
        let settings = ConnectSettings {
            server: Some("nats://u:s3cret@h:4222, tls://h2".into()),
            password: Some("s3cret".into()),
            token: Some("s3cret".into()),
            user_jwt: Some("s3cret".into()),
            user_seed: Some("s3cret".into()),
            user: Some("me".into()),
            ..ConnectSettings::default()
        };
        assert_eq!(settings.describe(), "nats://h:4222, tls://h2");
        for shown in [format!("{settings:?}"), serde_json::to_string(&settings.redacted()).unwrap()] {
            assert!(!shown.contains("s3cret") && shown.contains("me") && shown.contains("h:4222"), "{shown}");
        }
    }
}
