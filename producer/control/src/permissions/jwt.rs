//! The same where accounts and users are JWTs: an operator, the system account, the account of the streams, and credentials for each role.
//! Pure, but for making keys.

use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use super::{Permissions, Role, render::scope};
use crate::route::{Claims, ClaimsError};
use embed_schemas::Slug;

/// What signs: to be kept, since whoever has it may make any user.
pub struct Keys {
    /// The operator's: signs accounts. `embed route` wants its seed (`--signing-seed-file`).
    pub operator: KeyPair,
    /// The system account's: signs its users.
    pub system: KeyPair,
    /// That of the account of the streams: signs its users.
    pub account: KeyPair,
}

/// What is issued with such keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// What a server includes in place of accounts of its own.
    pub accounts: String,
    /// Credentials for each role, by its name: what `--creds` takes.
    pub credentials: Vec<(Role, String)>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("operator", &self.operator.public_key()).finish_non_exhaustive()
    }
}

impl Keys {
    /// New ones.
    #[must_use]
    pub fn new() -> Self {
        Self { operator: KeyPair::new_operator(), system: KeyPair::new_account(), account: KeyPair::new_account() }
    }

    /// Those of seeds that were kept, in the order of the fields.
    ///
    /// # Errors
    /// Which one is not of its kind.
    pub fn from_seeds([operator, system, account]: [&str; 3]) -> Result<Self, ClaimsError> {
        let key = |what: &str, seed: &str, kind: KeyPairType| match KeyPair::from_seed(seed.trim()) {
            Ok(key) if key.key_pair_type() == kind => Ok(key),
            _ => Err(ClaimsError::Broken(format!("the seed of the {what} is none"))),
        };
        Ok(Self {
            operator: key("operator", operator, KeyPairType::Operator)?,
            system: key("system account", system, KeyPairType::Account)?,
            account: key("account", account, KeyPairType::Account)?,
        })
    }

    /// The operator, both accounts, and a new user for each role, with permissions for these models. `now`: seconds since 1970.
    ///
    /// # Errors
    /// If a key cannot sign.
    pub fn issue(&self, models: &[Slug], now: u64) -> Result<Issued, ClaimsError> {
        let sign = |by: &KeyPair, subject: &KeyPair, name: &str, nats: Value| {
            Claims::new(json!({"sub": subject.public_key(), "name": name, "nats": nats}))?.encode(by, now)
        };
        let operator = json!({"type": "operator", "version": 2, "system_account": self.system.public_key()});
        let operator = sign(&self.operator, &self.operator, "embed", operator)?;
        let system = sign(&self.operator, &self.system, "SYS", account(false))?;
        let streams = sign(&self.operator, &self.account, "EMBED", account(true))?;
        let (system_key, account_key) = (self.system.public_key(), self.account.public_key());
        let accounts = format!(
            "# Made by `embed init --write-jwts`. Included by a server's configuration in place of accounts of its own.\n\
             operator: {operator}\nsystem_account: {system_key}\n\
             # Where the server keeps accounts as they are changed, such as by `embed route`.\n\
             resolver {{ type: full, dir: $JWT_DIR, allow_delete: false, interval: \"2m\" }}\n\
             resolver_preload {{\n  {system_key}: {system}\n  {account_key}: {streams}\n}}\n"
        );
        let mut credentials = Vec::new();
        for role in Role::ALL {
            let user = KeyPair::new_user();
            let by = if role.is_in_system_account() { &self.system } else { &self.account };
            let Permissions { publish, subscribe } = Permissions::of(&[role], &scope(role, models));
            let claims = json!({
                "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": publish, "sub": subscribe,
            });
            let token = sign(by, &user, role.as_str(), claims)?;
            let seed = user.seed().map_err(|error| ClaimsError::Broken(error.to_string()))?;
            credentials.push((
                role,
                format!(
                    "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
                ),
            ));
        }
        Ok(Issued { accounts, credentials })
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

/// An account without limits.
fn account(jetstream: bool) -> Value {
    let storage = if jetstream { -1 } else { 0 };
    json!({
        "type": "account", "version": 2,
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
        },
    })
}
