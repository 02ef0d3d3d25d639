//! `embed gateway`

use std::{collections::BTreeMap, env::VarError};

use anyhow::Context;
use embed_client::{Client, ConnectSettings, nats};
use embed_gateway::{BatchSettings, Bounds, Gateway, Settings, VectorSettings};
use embed_http::{Limits, Tls};
use serde_json::json;
use tokio::net::TcpListener;

use super::{Status, asked_to_stop, print};
use crate::cli::gateway::GatewayArgs;

/// Descriptors for all but connections: NATS, files, the object store, other listeners.
const OTHER_DESCRIPTORS: usize = 256;
/// Keys, beside those of the file.
const KEYS: &str = "EMBED_GATEWAY_KEYS";

pub(super) async fn run(args: GatewayArgs, connect: &ConnectSettings, as_json: bool) -> anyhow::Result<Status> {
    if let Some(name) = &args.new_key {
        let (key, entry) = embed_gateway::new_key(name, rand::random());
        let told = format_args!("{key}\n\nOnly this entry belongs into the file:\n\n{}", entry.trim_end());
        if as_json {
            print::json_line(&json!({"key": key, "entry": entry}))?;
        } else {
            print::line(told)?;
        }
        return Ok(Status::Done);
    }
    if args.openapi {
        print::json_line(embed_gateway::openapi())?;
        return Ok(Status::Done);
    }
    let tls = match (&args.https_cert, &args.https_key) {
        (Some(certificate), Some(key)) => Some(Tls::read(certificate, key).context("--https-cert, --https-key")?),
        _ => None,
    };
    let mut args = args;
    args.max_connections = within_descriptors(args.max_connections);
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("--listen: cannot listen on {}", args.listen))?;
    let recorder = embed_gateway::recorder()?;
    let client = Client::new(nats::connect(connect, "embed gateway").await.map_err(anyhow::Error::from)?);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr()?);
    let metrics_listen = args.metrics_listen;
    if args.key_file.is_none() && std::env::var_os(KEYS).is_none() && !listener.local_addr()?.ip().is_loopback() {
        print::note(format_args!("whoever reaches {url} may ask: --key-file or {KEYS} asks for keys"));
    }
    let keys = match std::env::var(KEYS) {
        Ok(keys) => Some(keys),
        Err(VarError::NotPresent) => None,
        Err(VarError::NotUnicode(_)) => anyhow::bail!("{KEYS}: it is no text in UTF-8"),
    };
    let gateway = Gateway::open(client, settings(args, keys), Some(recorder))?;
    let metrics_url = match metrics_listen {
        None => format!("{url}/metrics"),
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("--metrics-listen: cannot listen on {address}"))?;
            let url = format!("http://{}/metrics", listener.local_addr()?);
            tokio::spawn(embed_http::serve(listener, embed_gateway::metrics_alone(&gateway), Limits::default()));
            url
        }
    };
    if as_json {
        print::json_line(&json!({"url": url, "metrics_url": metrics_url}))?;
    } else {
        print::line(format_args!("{url}: /v1/embeddings, /api/v1/embed, /embed; {url}/openapi.json says the rest"))?;
    }
    match embed_gateway::serve(gateway, listener, tls, asked_to_stop()).await? {
        true => Ok(Status::Done),
        false => {
            print::note("not all requests were answered in time");
            Ok(Status::Failures)
        }
    }
}

fn settings(args: GatewayArgs, keys: Option<String>) -> Settings {
    Settings {
        default_model: args.default_model,
        aliases: args.alias.into_iter().collect::<BTreeMap<_, _>>(),
        key_file: args.key_file,
        keys,
        cors_origins: args.cors_origin,
        registry: args.registry,
        metrics: args.metrics_listen.is_none(),
        cache_bytes: args.cache,
        files: args.files,
        batches: BatchSettings {
            max_file_bytes: args.max_file,
            max_lines: args.max_batch_lines,
            file_age: args.files_max_age,
            window: args.batch_window,
            takeover: args.batch_takeover,
            ..BatchSettings::default()
        },
        vectors: VectorSettings {
            location: args.vectors,
            public: args.vectors_public,
            wait: args.vectors_wait,
            ..VectorSettings::default()
        },
        bounds: Bounds {
            body: args.max_body,
            bodies: args.max_bodies,
            inputs: args.max_inputs,
            texts: args.max_texts,
            body_time: args.body_timeout,
            timeout: args.timeout,
            connections: args.max_connections,
            drain: args.drain_timeout,
        },
    }
}

/// Each connection needs a descriptor, of which programs have fewer than they may unless they ask. What there are not enough for is told, and not taken:
/// without a descriptor, nobody could be answered, and nobody connect to NATS again.
fn within_descriptors(connections: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let mut available = current;
    if current != maximum {
        match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => available = maximum,
            Err(error) => tracing::warn!(%error, "the number of descriptors cannot be raised"),
        }
    }
    // No bound is no reason to take fewer.
    let most = available.map_or(usize::MAX, |all| usize::try_from(all).unwrap_or(usize::MAX));
    let possible = most.saturating_sub(OTHER_DESCRIPTORS).max(1);
    if possible < connections {
        print::note(format_args!(
            "--max-connections: {connections} connections need {} descriptors, and this process may have {most}: {possible} connections are taken. Raise \
             the bound (`ulimit -n`, LimitNOFILE of systemd), or ask for fewer",
            connections + OTHER_DESCRIPTORS
        ));
    }
    connections.min(possible)
}
