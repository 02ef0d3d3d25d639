//! Where JetStream's API is: in a domain, or behind a prefix, as the connection's settings say.

use async_nats::Client;
#[cfg(feature = "jetstream")]
use async_nats::jetstream;

use crate::{
    ConnectError,
    known::{self, API},
    settings::ConnectSettings,
};

/// The subject of a call of JetStream's API, such as `STREAM.INFO.EMBED_m`.
#[must_use]
pub fn api_subject(client: &Client, call: &str) -> String {
    match known::of(client) {
        Some(known) => format!("{}.{call}", known.api),
        None => format!("{API}.{call}"),
    }
}

/// The subject on which an entry of a key-value bucket is written, given the one under which it is stored (`$KV.…`).
#[must_use]
pub fn bucket_subject(client: &Client, stored: &str) -> String {
    match known::of(client) {
        Some(known) if known.api != API => format!("{}.{stored}", known.api),
        _ => stored.to_owned(),
    }
}

/// The client library's way to JetStream.
#[cfg(feature = "jetstream")]
#[must_use]
pub fn jetstream(client: &Client) -> jetstream::Context {
    match known::of(client) {
        Some(known) => jetstream::with_prefix(client.clone(), &known.api),
        None => jetstream::new(client.clone()),
    }
}

/// Where settings say that it is: `$JS.API`, or what a domain or a prefix makes of it.
///
/// # Errors
/// [`ConnectError::Settings`] if they say both, or what cannot begin a subject.
pub fn api(settings: &ConnectSettings) -> Result<String, ConnectError> {
    let (field, prefix) = match (&settings.js_api_prefix, &settings.js_domain) {
        (Some(_), Some(_)) => {
            return Err(ConnectError::Settings("--js-domain and --js-api-prefix: give one, not both".into()));
        }
        (Some(prefix), None) => ("--js-api-prefix", prefix.trim_end_matches('.').to_owned()),
        (None, Some(domain)) => ("--js-domain", format!("$JS.{domain}.API")),
        (None, None) => return Ok(API.to_owned()),
    };
    check(field, &prefix)?;
    Ok(prefix)
}

/// Whether this can begin a subject. `field`: where it stands, for the message.
///
/// # Errors
/// [`ConnectError::Settings`] if it cannot.
pub fn check(field: &str, prefix: &str) -> Result<(), ConnectError> {
    let bad = |token: &str| token.is_empty() || token.contains(['*', '>']) || token.contains(char::is_whitespace);
    if prefix.split('.').any(bad) {
        return Err(ConnectError::Settings(format!("{field}: {prefix:?} is no beginning of a subject")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(domain: Option<&str>, prefix: Option<&str>) -> Result<String, String> {
        let (js_domain, js_api_prefix) = (domain.map(str::to_owned), prefix.map(str::to_owned));
        let settings = ConnectSettings { js_domain, js_api_prefix, ..ConnectSettings::default() };
        api(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn domain_or_prefix_say_where_the_api_is() {
        assert_eq!(of(None, None).unwrap(), "$JS.API");
        assert_eq!(of(Some("hub"), None).unwrap(), "$JS.hub.API");
        assert_eq!(of(None, Some("from.a.")).unwrap(), "from.a");
        assert!(of(Some("hub"), Some("x")).unwrap_err().contains("give one"));
        for bad in ["a..b", "a.*", "a b", ""] {
            assert!(of(None, Some(bad)).unwrap_err().contains("--js-api-prefix"), "{bad}");
        }
    }
}
