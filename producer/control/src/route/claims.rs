//! The claims of an account, as a signed JWT: decoded, given other mappings, and signed again. Pure.
//!
//! Claims are kept as the JSON that they are, so that limits, exports and whatever a later server adds go through unchanged;
//! a typed model of them, as libraries have it, would drop what it does not know.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512_256};

use super::mapping::{self, Mappings};

/// Why claims or a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// It is no JWT of an account.
    #[error("the claims of the account cannot be read: {0}")]
    Broken(String),
    /// The seed cannot sign accounts.
    #[error(
        "the signing seed cannot be used: {0}; it must be that of the operator, or of one of its signing keys (SO…)"
    )]
    Seed(String),
    /// The seed is that of another operator. Servers trust their own operators alone, so this is refused before anything is sent.
    #[error(
        "the signing seed is that of {key}, which the server does not trust: it trusts {trusted}, and the account's claims were \
         issued by {issuer}"
    )]
    Untrusted {
        /// The public key of the seed.
        key: String,
        /// The keys of the server's operators.
        trusted: String,
        /// Who has issued the claims as they are.
        issuer: String,
    },
}

/// An account's claims.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Takes claims as they are.
    ///
    /// # Errors
    /// If this is no JSON object.
    pub fn new(claims: Value) -> Result<Self, ClaimsError> {
        match claims {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(ClaimsError::Broken("no JSON object".to_owned())),
        }
    }

    /// Reads a token. Its signature is the server's business, which has given it to us.
    ///
    /// # Errors
    /// If this is no JWT with a JSON object in it.
    pub fn decode(token: &str) -> Result<Self, ClaimsError> {
        let broken = |reason: &dyn std::fmt::Display| ClaimsError::Broken(reason.to_string());
        let mut parts = token.trim().split('.');
        let (Some(_), Some(body), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(broken(&"not three parts"));
        };
        let body = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|e| broken(&e))?;
        Self::new(serde_json::from_slice(&body).map_err(|e| broken(&e))?)
    }

    /// The key that has issued them.
    #[must_use]
    pub fn issuer(&self) -> &str {
        self.0.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    /// When they were issued, in seconds since 1970.
    pub(super) fn issued_at(&self) -> u64 {
        self.0.get("iat").and_then(Value::as_u64).unwrap_or_default()
    }

    /// Their mappings.
    pub(super) fn mappings(&self) -> Mappings {
        self.0.get("nats").map(|nats| mapping::from_claims(&nats["mappings"])).unwrap_or_default()
    }

    /// What a user may publish.
    pub(super) fn publish(&self) -> &Value {
        self.0.get("nats").map_or(&Value::Null, |nats| &nats["pub"])
    }

    /// An operator's keys: its own, and those that sign for it.
    pub(super) fn operator_keys(&self) -> Vec<String> {
        let signing = self.0.get("nats").and_then(|nats| nats["signing_keys"].as_array()).into_iter().flatten();
        let all = self.0.get("sub").into_iter().chain(signing);
        all.filter_map(|key| key.as_str().map(str::to_owned)).collect()
    }

    /// The mappings of routes become these; those of other subjects stay. `false` if they were so already.
    pub fn set_mappings(&mut self, wanted: &Mappings) -> bool {
        let nats = self.0.entry("nats").or_insert_with(|| json!({}));
        let Some(nats) = nats.as_object_mut() else { return false };
        let before = nats.get("mappings").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut after: Map<String, Value> = before
            .iter()
            .filter(|(source, _)| !mapping::is_ours(source))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        after.extend(wanted.iter().map(|(source, to)| (source.clone(), mapping::to_claims(to))));
        if after == before {
            return false;
        }
        if after.is_empty() {
            nats.remove("mappings");
        } else {
            nats.insert("mappings".to_owned(), after.into());
        }
        true
    }

    /// Signs the claims. `now`: seconds since 1970, the time of issue.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub fn encode(&self, key: &KeyPair, now: u64) -> Result<String, ClaimsError> {
        let mut claims = self.0.clone();
        claims.insert("iss".to_owned(), key.public_key().into());
        claims.insert("iat".to_owned(), now.into());
        claims.remove("jti");
        claims.insert("jti".to_owned(), identifier(&claims).into());
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims.into()));
        let signature = key.sign(signed.as_bytes()).map_err(|e| ClaimsError::Seed(e.to_string()))?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
    }
}

/// A hash of the registered claims, in the order in which the NATS tools write them.
fn identifier(claims: &Map<String, Value>) -> String {
    let names = ["aud", "exp", "iat", "iss", "name", "nbf", "sub"];
    let members: Vec<_> = names.iter().filter_map(|name| Some(format!("{name:?}:{}", claims.get(*name)?))).collect();
    BASE32_NOPAD.encode(&Sha512_256::digest(format!("{{{}}}", members.join(","))))
}

/// The newest of what servers know of an account.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Newest {
    /// Its claims.
    pub(super) claims: Claims,
    /// As it is signed.
    pub(super) token: String,
    /// Whether some server knows something else.
    pub(super) differ: bool,
}

/// The one of these tokens that was issued last. A server that was away may know an old one; what is signed anew must not rest on it.
///
/// # Errors
/// If none can be read.
pub(super) fn newest(tokens: &[String]) -> Result<Newest, ClaimsError> {
    let mut newest: Option<Newest> = None;
    let mut broken = ClaimsError::Broken("no server knows any".to_owned());
    for token in tokens {
        match Claims::decode(token) {
            Ok(claims) if newest.as_ref().is_none_or(|newest| claims.issued_at() > newest.claims.issued_at()) => {
                newest = Some(Newest { claims, token: token.clone(), differ: false });
            }
            Ok(_) => {}
            Err(error) => broken = error,
        }
    }
    let newest = newest.ok_or(broken)?;
    let differ = tokens.iter().any(|token| *token != newest.token);
    Ok(Newest { differ, ..newest })
}

/// Reads the seed that signs an account's claims.
///
/// # Errors
/// [`ClaimsError::Seed`] if it is no seed, or that of something else than an operator.
pub(super) fn signing_key(seed: &str) -> Result<KeyPair, ClaimsError> {
    let key = KeyPair::from_seed(seed.trim()).map_err(|error| ClaimsError::Seed(error.to_string()))?;
    match key.key_pair_type() {
        KeyPairType::Operator => Ok(key),
        other => Err(ClaimsError::Seed(format!("it is the seed of a key for {}", format!("{other:?}").to_lowercase()))),
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{Lane, Weights, routes::Lanes};

    use super::*;

    fn wanted() -> Mappings {
        let lanes = Lanes::from([(Lane::Rpc, Weights::parse(&["a=95", "b=5"]).unwrap())]);
        mapping::of_routes([(&"m".parse().unwrap(), &lanes)])
    }

    #[test]
    fn only_the_mappings_of_routes_change() {
        let mut claims = Claims::new(json!({
            "sub": "A", "later": {"x": 1},
            "nats": {"limits": {"subs": -1}, "mappings": {"x": [{"subject": "y"}], "embed.job.old": [{"subject": "z"}]}}
        }))
        .unwrap();
        assert!(claims.set_mappings(&wanted()));
        assert!(!claims.set_mappings(&wanted()), "a second time there is nothing to do");
        assert_eq!(claims.0["later"]["x"], 1);
        assert_eq!(
            claims.0["nats"],
            json!({
                "limits": {"subs": -1},
                "mappings": {
                    "x": [{"subject": "y"}],
                    "embed.rpc.m": [{"subject": "embed.rpc.m.a", "weight": 95}, {"subject": "embed.rpc.m.b", "weight": 5}],
                }
            })
        );
    }

    #[test]
    fn a_signed_token_reads_back_and_verifies() {
        let operator = KeyPair::new_operator();
        let mut claims = Claims::new(json!({"sub": "A", "name": "app", "nats": {}})).unwrap();
        claims.set_mappings(&wanted());
        let token = claims.encode(&operator, 1_700_000_000).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        operator.verify(signed.as_bytes(), &BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap()).unwrap();
        let read = Claims::decode(&token).unwrap();
        assert_eq!(read.0["iss"], Value::from(operator.public_key()));
        assert_eq!(read.0["nats"], claims.0["nats"]);
        assert_eq!(read.0["jti"].as_str().unwrap().len(), 52);
        assert!(matches!(Claims::decode("a.b"), Err(ClaimsError::Broken(_))));
        assert!(matches!(Claims::decode("a.!.c"), Err(ClaimsError::Broken(_))));
    }

    #[test]
    fn the_newest_claims_are_those_that_count() {
        let operator = KeyPair::new_operator();
        let token = |issued: u64| {
            Claims::new(json!({"sub": "A", "nats": {"of": issued}})).unwrap().encode(&operator, issued).unwrap()
        };
        let (old, new) = (token(5), token(6));
        for tokens in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
            let found = newest(&tokens).unwrap();
            assert_eq!((found.claims.issued_at(), found.differ, &found.token), (6, true, &new));
        }
        assert!(!newest(&[new.clone(), new.clone()]).unwrap().differ);
        assert!(newest(&[new, "broken".to_owned()]).unwrap().differ);
        assert!(newest(&[]).is_err() && newest(&["a.b".to_owned()]).is_err());
    }

    #[test]
    fn only_an_operator_signs_accounts() {
        let seed = KeyPair::new_operator().seed().unwrap();
        assert!(signing_key(&format!("{seed}\n")).is_ok());
        let error = signing_key(&KeyPair::new_account().seed().unwrap()).unwrap_err().to_string();
        assert!(error.contains("account") && error.contains("SO…"), "{error}");
        assert!(signing_key("nonsense").is_err());
    }
}
