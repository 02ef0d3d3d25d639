//! Context files of natscli: the one that is named, or the one that is selected, laid under the settings that were given.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{ConnectError, secret, settings::ConnectSettings};

/// A context file of natscli.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct NatsContext {
    url: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    user_jwt: String,
    user_seed: String,
    cert: String,
    key: String,
    ca: String,
    tls_first: bool,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    inbox_prefix: String,
    // What cannot be honoured here.
    nsc: String,
    socks_proxy: String,
    windows_cert_store: String,
    windows_cert_match: String,
    windows_ca_certs_match: Vec<String>,
}

impl ConnectSettings {
    /// The same with what its context says filled in, and without the context. Without one, and without a server, that is the context
    /// that `nats context select` has chosen, if there is one.
    ///
    /// # Errors
    /// [`ConnectError::Settings`] if there is no such context, it cannot be read, or it holds what cannot be honoured.
    pub fn resolved(self) -> Result<Self, ConnectError> {
        self.resolved_in(folder().as_deref())
    }

    /// As [`ConnectSettings::resolved`], with the contexts below this folder.
    pub(crate) fn resolved_in(mut self, folder: Option<&Path>) -> Result<Self, ConnectError> {
        let (name, what) = match self.context.take() {
            Some(name) => (name, "--context"),
            None if self.server.is_some() => return Ok(self),
            None => match folder.and_then(selected) {
                Some(name) => (name, "the context that is selected"),
                None => return Ok(self),
            },
        };
        let Some(folder) = folder else {
            return Err(ConnectError::Settings(
                "--context: neither XDG_CONFIG_HOME nor HOME says where contexts are".into(),
            ));
        };
        if name.is_empty() || name.contains("..") || name.contains('/') {
            return Err(ConnectError::Settings(format!("{what}: {name:?} is no name of a context")));
        }
        let path = folder.join("nats/context").join(format!("{name}.json"));
        let failed =
            |reason: &dyn std::fmt::Display| ConnectError::Settings(format!("{what}: {}: {reason}", path.display()));
        let text = std::fs::read_to_string(&path)
            .map_err(|error| failed(&format_args!("{error}; `nats context ls` lists what there is")))?;
        let settings = self.under(&text).map_err(|error| match error {
            ConnectError::Settings(reason) => failed(&reason),
            other => other,
        })?;
        tracing::info!("NATS settings are from {what}, {name}, where nothing else is given");
        Ok(settings)
    }

    /// The same with what a context file of natscli says filled in where nothing is set.
    ///
    /// # Errors
    /// What is wrong with the file, without anything that stands in it: that may be a password. Or that a file cannot be read which it names.
    pub fn under(self, context: &str) -> Result<Self, ConnectError> {
        let context: NatsContext = serde_json::from_str(context).map_err(|error| {
            let what = if error.is_data() { "a value of the wrong type, or a name twice" } else { "no JSON" };
            ConnectError::Settings(format!("line {}, column {}: {what}", error.line(), error.column()))
        })?;
        context.check().map_err(ConnectError::Settings)?;
        self.over(context)
    }

    /// Fills what is not set from a context. Ways to say who we are are not mixed.
    fn over(mut self, context: NatsContext) -> Result<Self, ConnectError> {
        let text = |value: String| (!value.is_empty()).then_some(value);
        let path = |value: String| text(value).map(|value| expanded(&value));
        if !self.says_who() {
            let literal = |field, value| text(value).map(|value| secret::literal(field, value)).transpose();
            self.user = text(context.user);
            if self.password.is_none() && self.password_file.is_none() {
                self.password = literal("password", context.password)?;
            }
            self.token = literal("token", context.token)?;
            self.creds = path(context.creds);
            self.nkey = path(context.nkey);
            self.user_jwt = literal("user_jwt", context.user_jwt)?;
            self.user_seed = literal("user_seed", context.user_seed)?;
        }
        let domain = self.js_domain.is_some() || self.js_api_prefix.is_some();
        let (js_domain, js_api_prefix) = match domain {
            true => (self.js_domain, self.js_api_prefix),
            false => (text(context.jetstream_domain), text(context.jetstream_api_prefix)),
        };
        Ok(Self {
            server: self.server.or_else(|| text(context.url)),
            tlscert: self.tlscert.or_else(|| path(context.cert)),
            tlskey: self.tlskey.or_else(|| path(context.key)),
            tlsca: self.tlsca.or_else(|| path(context.ca)),
            tlsfirst: self.tlsfirst || context.tls_first,
            js_domain,
            js_api_prefix,
            inbox_prefix: self.inbox_prefix.or_else(|| text(context.inbox_prefix)),
            ..self
        })
    }
}

impl NatsContext {
    /// What is set and cannot be honoured is refused by name: without it, the connection would be another than the one that is meant.
    fn check(&self) -> Result<(), String> {
        if !self.nsc.is_empty() {
            return Err("nsc: is not asked here. Run `nsc generate creds`, and name the file in creds".to_owned());
        }
        if !self.socks_proxy.is_empty() {
            return Err(
                "socks_proxy: connections through a proxy are not made here. Use a context without it".to_owned()
            );
        }
        let windows = [&self.windows_cert_store, &self.windows_cert_match].into_iter().any(|text| !text.is_empty());
        if windows || !self.windows_ca_certs_match.is_empty() {
            return Err("windows_cert_store: there is none here. Name files in cert, key and ca".to_owned());
        }
        Ok(())
    }
}

/// Where programs keep their configuration.
fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))
}

fn selected(folder: &Path) -> Option<String> {
    let name = std::fs::read_to_string(folder.join("nats/context.txt")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// A path as natscli reads it in a context: `~` is the home folder, `$NAME` and `${NAME}` are variables.
fn expanded(path: &str) -> PathBuf {
    expanded_with(path, |name| std::env::var(name).ok())
}

fn expanded_with(path: &str, variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    let home = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("$HOME{rest}"),
        _ => path.to_owned(),
    };
    let mut out = String::new();
    let mut rest = home.as_str();
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, next) = match after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            Some(split) => split,
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        match variable(name) {
            _ if name.is_empty() => out.push('$'),
            value => out.push_str(&value.unwrap_or_default()),
        }
        rest = next;
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these contexts, the first of which is selected.
    fn contexts(all: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("nats/context")).unwrap();
        for (name, text) in all {
            std::fs::write(folder.path().join(format!("nats/context/{name}.json")), text).unwrap();
        }
        std::fs::write(folder.path().join("nats/context.txt"), format!("{}\n", all[0].0)).unwrap();
        folder
    }

    fn resolved(settings: ConnectSettings, text: &str) -> Result<ConnectSettings, String> {
        let folder = contexts(&[("mine", text)]);
        settings.resolved_in(Some(folder.path())).map_err(|error| error.to_string())
    }

    #[test]
    fn options_override_the_context() {
        let me = ConnectSettings {
            user: Some("me".into()),
            context: Some("mine".into()),
            js_domain: Some("d".into()),
            ..ConnectSettings::default()
        };
        let text = r#"{"url":"nats://a:1","user":"u","password":"p","creds":"","jetstream_api_prefix":"x.API","description":"x"}"#;
        let settings = resolved(me, text).unwrap();
        assert_eq!((settings.servers(), settings.user.as_deref()), (vec!["nats://a:1".to_owned()], Some("me")));
        assert_eq!((settings.creds, settings.password), (None, None), "who we are is not mixed");
        assert_eq!((settings.js_domain.as_deref(), settings.js_api_prefix), (Some("d"), None));
    }

    #[test]
    fn everything_that_a_context_may_hold_is_taken_or_refused() {
        let text = r#"{"description":"d","url":"nats://a","token":"t","user":"u","password":"p","creds":"~/c","nkey":"$HOME/n",
            "cert":"/c","key":"/k","ca":"/ca","jetstream_domain":"d","jetstream_api_prefix":"","jetstream_event_prefix":"e",
            "inbox_prefix":"_I","user_jwt":"j","user_seed":"s","color_scheme":"blue","tls_first":true,"nsc":"","socks_proxy":"",
            "windows_cert_store":"","windows_ca_certs_match":[]}"#;
        let settings = resolved(ConnectSettings::default(), text).unwrap();
        let home = std::env::var("HOME").unwrap();
        let text = |text: &str| Some(text.to_owned());
        let expected = ConnectSettings {
            server: text("nats://a"),
            user: text("u"),
            password: text("p"),
            token: text("t"),
            creds: Some(format!("{home}/c").into()),
            nkey: Some(format!("{home}/n").into()),
            user_jwt: text("j"),
            user_seed: text("s"),
            tlscert: Some("/c".into()),
            tlskey: Some("/k".into()),
            tlsca: Some("/ca".into()),
            tlsfirst: true,
            js_domain: text("d"),
            inbox_prefix: text("_I"),
            ..ConnectSettings::default()
        };
        assert_eq!(settings, expected);
        for text in [
            r#"{"user":"u","password":73737}"#,
            r#"{"password":true}"#,
            r#"{"password":"73737"#,
            r#"{"token":["73737"]}"#,
        ] {
            let error = resolved(ConnectSettings::default(), text).unwrap_err();
            assert!(error.contains("line 1, column") && !error.contains("73737"), "{error}");
        }
        for (text, field) in [
            (r#"{"nsc":"nsc://o/a/u"}"#, "nsc: "),
            (r#"{"socks_proxy":"socks5://h"}"#, "socks_proxy: "),
            (r#"{"windows_cert_store":"user"}"#, "windows_cert_store: "),
            (r#"{"user":"u","password":"op://vault/item"}"#, "password: op: is not read here"),
        ] {
            let error = resolved(ConnectSettings::default(), text).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn the_selected_context_is_the_default() {
        let folder = contexts(&[("mine", r#"{"url":"nats://a:1"}"#), ("other", r#"{"url":"nats://b:1"}"#)]);
        let resolve = |settings: ConnectSettings| settings.resolved_in(Some(folder.path())).unwrap().servers();
        assert_eq!(resolve(ConnectSettings::default()), ["nats://a:1"]);
        let server = ConnectSettings { server: Some("nats://c:1".into()), ..ConnectSettings::default() };
        assert_eq!(resolve(server), ["nats://c:1"]);
        let other = ConnectSettings { context: Some("other".into()), ..ConnectSettings::default() };
        assert_eq!(resolve(other), ["nats://b:1"]);
        let nothing = tempfile::tempdir().unwrap();
        let settings = ConnectSettings::default().resolved_in(Some(nothing.path())).unwrap();
        assert_eq!(settings.servers(), [crate::DEFAULT_SERVER]);
        std::fs::write(folder.path().join("nats/context.txt"), "gone").unwrap();
        let error = ConnectSettings::default().resolved_in(Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("the context that is selected") && error.contains("gone.json"), "{error}");
        let bad = ConnectSettings { context: Some("../x".into()), ..ConnectSettings::default() };
        assert!(bad.resolved_in(Some(folder.path())).unwrap_err().to_string().contains("no name of a context"));
    }

    #[test]
    fn paths_are_expanded_as_natscli_does() {
        let expand = |path: &str| {
            expanded_with(path, |name| (name == "HOME").then(|| "/home/me".to_owned())).display().to_string()
        };
        assert_eq!(expand("~/x"), "/home/me/x");
        assert_eq!(expand("~"), "/home/me");
        assert_eq!(expand("~you/x"), "~you/x");
        assert_eq!(expand("$HOME/x/${HOME}y"), "/home/me/x//home/mey");
        assert_eq!(expand("/a$NOT/b$"), "/a/b$");
    }
}
