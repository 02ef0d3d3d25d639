//! From settings to what the client library takes: secrets that stand in files, and credentials that stand in URLs.

use async_nats::{ConnectOptions, ServerAddr};
use nkeys::KeyPair;
use percent_encoding::percent_decode_str;

use crate::{
    ConnectError, secret,
    settings::{ConnectSettings, split_credentials as split},
};

/// How to prove who we are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Auth {
    None,
    Token(String),
    Password(String, String),
    /// JWT and seed, as they stand in a file of them.
    Credentials(String),
    /// A seed.
    Key(String),
    /// A JWT, and the seed that proves that it is ours; a bearer's needs none.
    Jwt(String, Option<String>),
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
    let auth = match given(settings)? {
        Auth::None => in_url,
        given => given,
    };
    Ok((servers, auth))
}

/// Who we are, if anything but a URL says it.
fn given(settings: &ConnectSettings) -> Result<Auth, ConnectError> {
    if let Some(file) = &settings.creds {
        return Ok(Auth::Credentials(secret::read("--creds", file)?));
    }
    let key = settings.nkey.as_deref().map(|file| secret::read("--nkey", file)).transpose()?;
    let jwt = match (&settings.user_jwt_file, &settings.user_jwt) {
        (Some(file), _) => Some(secret::read("--user-jwt-file", file)?),
        (None, jwt) => jwt.clone(),
    };
    match (jwt, key) {
        (Some(jwt), key) => {
            let seed = key.or_else(|| settings.user_seed.clone());
            return Ok(Auth::Jwt(jwt.trim().to_owned(), seed.map(|text| seed_in("--nkey", &text)).transpose()?));
        }
        (None, Some(key)) => return Ok(Auth::Key(seed_in("--nkey", &key)?)),
        (None, None) => {}
    }
    if let Some(user) = &settings.user {
        // A file is named on purpose; a password may be in the environment by chance.
        let password = match (&settings.password, &settings.password_file) {
            (_, Some(file)) => secret::read("--password-file", file)?,
            (Some(password), None) => password.clone(),
            (None, None) => String::new(),
        };
        return Ok(Auth::Password(user.clone(), password));
    }
    Ok(match (&settings.token, &settings.token_file) {
        (_, Some(file)) => Auth::Token(secret::read("--token-file", file)?),
        (Some(token), None) => Auth::Token(token.clone()),
        (None, None) => Auth::None,
    })
}

/// The seed in a text, alone or in the frame that the NATS tools put round it.
fn seed_in(field: &str, text: &str) -> Result<String, ConnectError> {
    let line = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    let seed = line.filter(|seed| KeyPair::from_seed(seed).is_ok());
    seed.map(str::to_owned)
        .ok_or_else(|| ConnectError::Settings(format!("{field}: there is no seed of a user (SU…) in it")))
}

impl Auth {
    /// Tells the client library.
    pub(super) fn apply(self, options: ConnectOptions) -> Result<ConnectOptions, ConnectError> {
        Ok(match self {
            Self::None => options,
            Self::Token(token) => options.token(token),
            Self::Password(user, password) => options.user_and_password(user, password),
            // The library looks for the end of the last line.
            Self::Credentials(text) => options.credentials(&format!("{text}\n")).map_err(|_| {
                ConnectError::Settings(
                    "--creds: there is no JWT with a seed in it, as `nsc generate creds` writes them".into(),
                )
            })?,
            Self::Key(seed) => options.nkey(seed),
            Self::Jwt(jwt, seed) => {
                let key = seed.map(|seed| KeyPair::from_seed(&seed).expect("checked when it was read"));
                let key = std::sync::Arc::new(key);
                options.jwt(jwt, move |nonce| {
                    let key = key.clone();
                    async move {
                        match key.as_ref() {
                            Some(key) => key.sign(&nonce).map_err(async_nats::AuthError::new),
                            // The server asks a bearer for no proof.
                            None => Ok(Vec::new()),
                        }
                    }
                })
            }
        })
    }
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
    fn secrets_come_from_files_in_one_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let auth =
            |settings: ConnectSettings| servers(&settings).map(|(_, auth)| auth).map_err(|error| error.to_string());
        let seed = KeyPair::new_user().seed().unwrap();
        let mut all = ConnectSettings { token_file: file("t", "tok\n"), ..settings("nats://x:y@a") };
        assert_eq!(auth(all.clone()), Ok(Auth::Token("tok".into())));
        all = ConnectSettings { user: Some("me".into()), password_file: file("p", "pa ss\n"), ..all };
        assert_eq!(auth(all.clone()), Ok(Auth::Password("me".into(), "pa ss".into())));
        let framed = format!("-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n");
        all.nkey = file("n", &framed);
        assert_eq!(auth(all.clone()), Ok(Auth::Key(seed.clone())));
        all.user_jwt_file = file("j", "e.y.J\n");
        assert_eq!(auth(all.clone()), Ok(Auth::Jwt("e.y.J".into(), Some(seed))));
        all.creds = file("c", "creds");
        assert_eq!(auth(all.clone()), Ok(Auth::Credentials("creds".into())));
        // What is wrong is named by its option, without what it says.
        all.creds = None;
        all.nkey = file("n", "SUSECRET");
        let error = auth(all).unwrap_err();
        assert!(error.contains("--nkey") && !error.contains("SECRET"), "{error}");
        let gone = ConnectSettings { user: Some("me".into()), password_file: Some("/no/such".into()), ..settings("a") };
        assert!(auth(gone).unwrap_err().contains("/no/such"));
    }

    #[test]
    fn a_broken_url_is_named() {
        let error = servers(&settings("http://a")).unwrap_err().to_string();
        assert!(error.contains("http://a"), "{error}");
    }
}
