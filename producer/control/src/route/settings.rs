//! How routes get onto the servers: the system account, and files of mappings or a key that signs claims. Given once, and
//! remembered in a file.

use std::path::{Path, PathBuf};

use embed_connect::{ConnectSettings, Readers, replace_file};
use serde::{Deserialize, Serialize};

use super::RouteError;
use crate::Error;

/// What `embed route` has to know. Also the form of the file in which it is remembered.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "clap", command(next_help_heading = "Routes"))]
pub struct RouteSettings {
    /// The servers, for those who name none. Part of the file only.
    #[cfg_attr(feature = "clap", arg(skip))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// User of the system account
    #[cfg_attr(feature = "clap", arg(long, global = true, env = "EMBED_SYS_USER", value_name = "USER"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_user: Option<String>,
    /// Password of that user. Other users of this machine see it in a command line: --sys-password-file or the variable keep it from them
    #[cfg_attr(
        feature = "clap",
        arg(long, global = true, env = "EMBED_SYS_PASSWORD", hide_env_values = true, value_name = "PASSWORD")
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_password: Option<String>,
    /// File with that password
    #[cfg_attr(feature = "clap", arg(long, global = true, env = "EMBED_SYS_PASSWORD_FILE", value_name = "FILE"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_password_file: Option<PathBuf>,
    /// File with the seed of the key of a user of the system account
    #[cfg_attr(feature = "clap", arg(long, global = true, env = "EMBED_SYS_NKEY", value_name = "FILE"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_nkey: Option<PathBuf>,
    /// Credentials file of a user of the system account
    #[cfg_attr(feature = "clap", arg(long, global = true, env = "EMBED_SYS_CREDS", value_name = "FILE"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_creds: Option<PathBuf>,
    /// Context made with `nats context` that connects to the system account
    #[cfg_attr(feature = "clap", arg(long, global = true, env = "EMBED_SYS_CONTEXT", value_name = "NAME"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_context: Option<String>,
    /// File of mappings that a server includes in `mappings { include … }`; may be repeated, one for each server on this
    /// machine. Without any, files are distributed by other means: see --render
    #[cfg_attr(
        feature = "clap",
        arg(
            long = "mappings-file",
            global = true,
            env = "EMBED_MAPPINGS_FILES",
            value_delimiter = ',',
            value_name = "FILE"
        )
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mappings_files: Vec<PathBuf>,
    /// File with the seed of the operator, or of one of its signing keys, where accounts are JWTs
    #[cfg_attr(feature = "clap", arg(long, global = true, env = "EMBED_ROUTE_SIGNING_SEED_FILE", value_name = "FILE"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_seed_file: Option<PathBuf>,
    /// That seed itself; from the environment only, since a command line can be seen by others.
    #[cfg_attr(feature = "clap", arg(skip))]
    #[serde(skip)]
    pub signing_seed: Option<String>,
}

/// Where the seed may stand.
const SEED_VARIABLE: &str = "EMBED_ROUTE_SIGNING_SEED";
/// In the data folder of `embed dev`.
pub const DEV_FILE: &str = "route.toml";
/// The data folder that `embed dev` has by default.
const DEV_FOLDER: &str = ".embed-dev";

impl RouteSettings {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, or has a key that is not known.
    pub fn read(path: &Path) -> Result<Self, RouteError> {
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        toml::from_str(&text).map_err(|error| {
            // Without the line that it quotes, and without what it has found there: a password may stand in it.
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            let what =
                if error.message().starts_with("invalid type") { "a value of the wrong type" } else { error.message() };
            RouteError::Settings(format!("{}, line {line}: {what}", path.display()))
        })
    }

    /// Writes the file, for its owner alone: a password may stand in it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RouteError> {
        let text = toml::to_string(self).map_err(|error| RouteError::Settings(error.to_string()))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
        }
        replace_file(path, &text, Readers::Owner).map_err(Error::file(path))?;
        Ok(())
    }

    /// These settings, and the other's for what is not set. Ways of authentication are not mixed.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let system = if self.has_system() { self.clone() } else { other.clone() };
        Self {
            server: self.server.or(other.server),
            sys_user: system.sys_user,
            sys_password: system.sys_password,
            sys_password_file: system.sys_password_file,
            sys_nkey: system.sys_nkey,
            sys_creds: system.sys_creds,
            sys_context: system.sys_context,
            mappings_files: if self.mappings_files.is_empty() { other.mappings_files } else { self.mappings_files },
            signing_seed_file: self.signing_seed_file.or(other.signing_seed_file),
            signing_seed: self.signing_seed.or(other.signing_seed),
        }
    }

    /// Fills what is not set from the environment's seed and from the file: the one that is named, or that of an `embed dev`
    /// in this folder, or the user's own. Returns the file that [`RouteSettings::write`] would remember them in.
    ///
    /// # Errors
    /// If the file that is named, or found, cannot be read.
    pub fn complete(
        mut self,
        named: Option<&Path>,
        connect: &ConnectSettings,
    ) -> Result<(Self, Option<PathBuf>), RouteError> {
        self.signing_seed = std::env::var(SEED_VARIABLE).ok().filter(|seed| !seed.is_empty()).or(self.signing_seed);
        if let Some(path) = named {
            let found = if path.exists() { Self::read(path)? } else { Self::default() };
            return Ok((self.or(found), Some(path.to_owned())));
        }
        let dev = Path::new(DEV_FOLDER).join(DEV_FILE);
        if dev.is_file() {
            let found = Self::read(&dev)?;
            // It speaks of that stack alone.
            if connect.context.is_none() && (connect.server.is_none() || connect.server == found.server) {
                return Ok((self.or(found), Some(dev)));
            }
        }
        let own = user_file();
        match &own {
            Some(path) if path.is_file() => Ok((self.or(Self::read(path)?), own)),
            _ => Ok((self, own)),
        }
    }

    /// Whether anything says how to connect to the system account.
    #[must_use]
    pub const fn has_system(&self) -> bool {
        self.sys_user.is_some() || self.sys_creds.is_some() || self.sys_nkey.is_some() || self.sys_context.is_some()
    }

    /// How to connect to the system account.
    ///
    /// # Errors
    /// If nothing says how.
    pub fn system(&self, connect: &ConnectSettings) -> Result<ConnectSettings, RouteError> {
        if !self.has_system() {
            return Err(RouteError::Settings(
                "routes are set through the server's system account: pass --sys-user and --sys-password-file, --sys-creds, \
                 --sys-nkey, or --sys-context (--remember keeps them); `embed dev` writes them to route.toml in its data folder, which \
                 --route-config names"
                    .to_owned(),
            ));
        }
        // The account is another, the servers are the same: those of a context, where one is named or selected.
        let connect = match self.sys_context {
            Some(_) => connect.clone(),
            None => connect.clone().resolved().map_err(Error::from)?,
        };
        Ok(ConnectSettings {
            server: connect.server.clone().or_else(|| self.server.clone()).filter(|_| self.sys_context.is_none()),
            user: self.sys_user.clone(),
            password: self.sys_password.clone(),
            password_file: self.sys_password_file.clone(),
            creds: self.sys_creds.clone(),
            nkey: self.sys_nkey.clone(),
            context: self.sys_context.clone(),
            tlscert: connect.tlscert,
            tlskey: connect.tlskey,
            tlsca: connect.tlsca,
            tlsfirst: connect.tlsfirst,
            // A context has its own.
            inbox_prefix: connect.inbox_prefix.filter(|_| self.sys_context.is_none()),
            ..ConnectSettings::default()
        })
    }

    /// The seed that signs claims.
    pub(super) fn seed(&self) -> Result<Option<String>, RouteError> {
        match (&self.signing_seed, &self.signing_seed_file) {
            (Some(seed), _) => Ok(Some(seed.clone())),
            (None, Some(path)) => Ok(Some(std::fs::read_to_string(path).map_err(Error::file(path))?)),
            (None, None) => Ok(None),
        }
    }
}

/// Without secrets: settings end up in logs.
impl std::fmt::Debug for RouteSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***".to_owned());
        let of = ConnectSettings { server: self.server.clone(), ..ConnectSettings::default() };
        let server = of.redacted().server;
        let shown = Self { server, sys_password: hidden(&self.sys_password), signing_seed: None, ..self.clone() };
        let shown = serde_json::to_value(shown).unwrap_or_default();
        f.debug_map().entries(shown.as_object().into_iter().flatten()).finish()
    }
}

fn user_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(folder.join("embed").join(DEV_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_remembered_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/route.toml");
        let settings = RouteSettings {
            server: Some("nats://h".into()),
            sys_user: Some("u".into()),
            sys_password: Some("p\"".into()),
            mappings_files: vec!["a.conf".into(), "b.conf".into()],
            signing_seed: Some("SOSECRET".into()),
            ..RouteSettings::default()
        };
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        settings.write(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let read = RouteSettings::read(&path).unwrap();
        assert_eq!(read, RouteSettings { signing_seed: None, ..settings });
        std::fs::write(&path, "sys_usr = 1").unwrap();
        let error = RouteSettings::read(&path).unwrap_err().to_string();
        assert!(error.contains("sys_usr") && error.contains("sys_user"), "{error}");
        std::fs::write(&path, "server = \"nats://h\"\nsys_password = \"s3cret\nsys_user = \"u\"\n").unwrap();
        let error = RouteSettings::read(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn what_is_given_wins_over_what_is_remembered() {
        let user = |name: &str| RouteSettings {
            sys_user: Some(name.into()),
            sys_password: Some(name.into()),
            ..RouteSettings::default()
        };
        let creds = RouteSettings { sys_creds: Some("c".into()), ..RouteSettings::default() };
        assert_eq!(user("a").or(user("b")).sys_user.as_deref(), Some("a"));
        assert_eq!(creds.clone().or(user("b")).sys_user, None, "ways of authentication are not mixed");
        assert_eq!(RouteSettings::default().or(user("b")).sys_password.as_deref(), Some("b"));
        let error = RouteSettings::default().system(&ConnectSettings::default()).unwrap_err().to_string();
        assert!(error.contains("--sys-user"), "{error}");
    }
}
