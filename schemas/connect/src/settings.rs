//! Where the server is and who we are: the options of natscli, and its context files.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Used when nothing else says where the server is.
pub const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";

/// NATS connection settings, named as natscli names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "clap", command(next_help_heading = "NATS connection"))]
pub struct ConnectSettings {
    /// Server URLs, separated by commas [default: nats://127.0.0.1:4222]
    #[cfg_attr(feature = "clap", arg(long, short = 's', env = "NATS_URL", global = true, value_name = "URLS"))]
    pub server: Option<String>,
    /// User name
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_USER", global = true))]
    pub user: Option<String>,
    /// Password
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_PASSWORD", global = true, hide_env_values = true))]
    pub password: Option<String>,
    /// Credentials file (JWT and seed)
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_CREDS", global = true, value_name = "FILE"))]
    pub creds: Option<PathBuf>,
    /// Client certificate, PEM
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_CERT", global = true, value_name = "FILE"))]
    pub tlscert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_KEY", global = true, value_name = "FILE"))]
    pub tlskey: Option<PathBuf>,
    /// Certificate authority to trust, PEM
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_CA", global = true, value_name = "FILE"))]
    pub tlsca: Option<PathBuf>,
    /// A context made with `nats context`; options given here override it
    #[cfg_attr(feature = "clap", arg(long, env = "NATS_CONTEXT", global = true, value_name = "NAME"))]
    pub context: Option<String>,
}

/// A context file of natscli, as far as it says how to connect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NatsContext {
    url: String,
    user: String,
    password: String,
    creds: String,
    cert: String,
    key: String,
    ca: String,
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

    /// Where natscli keeps this context, below the configuration folder (`$XDG_CONFIG_HOME` or `~/.config`).
    #[must_use]
    pub(crate) fn context_file(&self) -> Option<PathBuf> {
        self.context.as_ref().map(|name| PathBuf::from("nats/context").join(format!("{name}.json")))
    }

    /// Fills what is not set from a context.
    #[must_use]
    pub(crate) fn or_context(self, context: NatsContext) -> Self {
        let text = |value: String| (!value.is_empty()).then_some(value);
        let path = |value: String| text(value).map(PathBuf::from);
        Self {
            server: self.server.or_else(|| text(context.url)),
            user: self.user.or_else(|| text(context.user)),
            password: self.password.or_else(|| text(context.password)),
            creds: self.creds.or_else(|| path(context.creds)),
            tlscert: self.tlscert.or_else(|| path(context.cert)),
            tlskey: self.tlskey.or_else(|| path(context.key)),
            tlsca: self.tlsca.or_else(|| path(context.ca)),
            context: self.context,
        }
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
    fn options_override_the_context() {
        let context: NatsContext =
            serde_json::from_str(r#"{"url":"nats://a:1","user":"u","creds":"","description":"x"}"#).unwrap();
        let settings = ConnectSettings { user: Some("me".into()), ..ConnectSettings::default() }.or_context(context);
        assert_eq!(settings.servers(), ["nats://a:1"]);
        assert_eq!(settings.user.as_deref(), Some("me"));
        assert_eq!(settings.creds, None);
    }

    #[test]
    fn passwords_stay_out_of_messages() {
        let settings =
            ConnectSettings { server: Some("nats://u:p@h:4222, tls://h2".into()), ..ConnectSettings::default() };
        assert_eq!(settings.describe(), "nats://h:4222, tls://h2");
    }
}
