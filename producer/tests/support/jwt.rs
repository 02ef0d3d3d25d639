//! Operators, accounts and users that are JWTs.

use std::path::Path;

use embed_control::route::Claims;
use nkeys::KeyPair;
use serde_json::{Value, json};

pub(crate) fn sign(key: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let claims = json!({"sub": subject.public_key(), "name": name, "nats": nats});
    Claims::new(claims).unwrap().encode(key, 1_700_000_000).unwrap()
}

pub(crate) fn account(operator: &KeyPair, account: &KeyPair, name: &str, jetstream: bool) -> String {
    let storage = if jetstream { -1 } else { 0 };
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
    });
    // A mapping of somebody else's, and a field that this program has never heard of.
    let mappings = json!({"theirs": [{"subject": "theirs.mapped", "weight": 100}]});
    sign(
        operator,
        account,
        name,
        json!({
            "type": "account", "version": 2, "limits": limits, "mappings": mappings, "unheard_of": {"x": 1},
        }),
    )
}

/// A credentials file.
pub(crate) fn user(folder: &Path, account: &KeyPair, name: &str) -> std::path::PathBuf {
    let user = KeyPair::new_user();
    let limits = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let token = sign(account, &user, name, limits);
    let path = folder.join(format!("{name}.creds"));
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// A server's configuration with this operator, system account and account, each server with a resolver of its own.
pub(crate) fn configuration(operator_claims: &str, system: (&KeyPair, &str), app: (&KeyPair, &str)) -> String {
    format!(
        "operator: {operator_claims}\nsystem_account: {}\nresolver {{ type: full, dir: \"@FOLDER@/jwt\", interval: \"10m\" }}\n\
         resolver_preload {{ {}: {}\n{}: {} }}",
        system.0.public_key(),
        system.0.public_key(),
        system.1,
        app.0.public_key(),
        app.1,
    )
}
