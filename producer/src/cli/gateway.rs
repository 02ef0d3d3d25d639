//! The arguments of `embed gateway`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use embed_schemas::Slug;

use super::{parse_bytes, parse_duration, parse_name};

#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// Where to answer
    #[arg(long, env = "EMBED_GATEWAY_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Serve /metrics here, without a key, instead of among the rest
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// The model of requests that name none [default: the only one that is served, if there is only one]
    #[arg(long, env = "EMBED_GATEWAY_MODEL", value_parser = parse_name, value_name = "MODEL")]
    pub(crate) default_model: Option<Slug>,
    /// A name that clients use, and the model that they mean by it; may be repeated
    #[arg(long, value_parser = parse_alias, value_name = "NAME=MODEL")]
    pub(crate) alias: Vec<(String, Slug)>,
    /// The registry of models, for their dimensions, lengths and golden vectors
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    pub(crate) registry: Option<String>,
    /// A TOML file of keys; read anew when it changes. Without it, and without EMBED_GATEWAY_KEYS (NAME=sha256:HEX or NAME=KEY, separated by
    /// commas), anybody may ask
    #[arg(long, env = "EMBED_GATEWAY_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Make a key, print it and its entry for the file, and do nothing else
    #[arg(long, value_name = "NAME")]
    pub(crate) new_key: Option<String>,
    /// Print the OpenAPI document, and do nothing else
    #[arg(long)]
    pub(crate) openapi: bool,
    /// Serve HTTPS with this certificate, PEM, and those that lead from it to one that clients trust
    #[arg(long, requires = "https_key", value_name = "FILE")]
    pub(crate) https_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, requires = "https_cert", value_name = "FILE")]
    pub(crate) https_key: Option<PathBuf>,
    /// An origin whose pages may ask, such as https://app.example.com; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// Keep as many bytes of vectors, for whoever asks for the same texts again [default: none]
    #[arg(long, env = "EMBED_GATEWAY_CACHE", value_parser = parse_bytes::<u64>, value_name = "BYTES")]
    pub(crate) cache: Option<u64>,
    /// Where vectors are kept for good, each under its space and the digest of what it is of: a folder, which is made if it is missing, or s3://…, gs://…,
    /// az://… [default: nowhere]
    #[arg(long, env = "EMBED_GATEWAY_VECTORS", value_name = "URL")]
    pub(crate) vectors: Option<String>,
    /// Give kept vectors to whoever knows their text, without a key, and let caches that serve many keep them
    #[arg(long, requires = "vectors")]
    pub(crate) vectors_public: bool,
    /// How long a call waits for kept vectors before it asks workers
    #[arg(long, default_value = "100ms", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) vectors_wait: Duration,
    /// Where files and batches are kept: a folder, which is made if it is missing, or s3://…, gs://…, az://…. Without it, /v1/files and /v1/batches
    /// are not served
    #[arg(long, env = "EMBED_GATEWAY_FILES", value_name = "URL")]
    pub(crate) files: Option<String>,
    /// Largest file
    #[arg(long, default_value = "200MiB", value_parser = parse_bytes::<u64>, value_name = "BYTES")]
    pub(crate) max_file: u64,
    /// Most requests of a batch
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    pub(crate) max_batch_lines: u64,
    /// How long files are kept
    #[arg(long, default_value = "30d", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) files_max_age: Duration,
    /// After so long, what is not done of a batch is given up
    #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) batch_window: Duration,
    /// After so long without a sign of life, another gateway goes on with a batch of the same bucket. All gateways of a bucket need the same
    /// value, 2s or more
    #[arg(long, default_value = "3m", value_parser = parse_takeover, value_name = "DURATION")]
    pub(crate) batch_takeover: Duration,
    /// Largest body of a request
    #[arg(long, default_value = "16MiB", value_parser = parse_bytes::<usize>, value_name = "BYTES")]
    pub(crate) max_body: usize,
    /// Most texts of a request
    #[arg(long, default_value_t = 2048, value_parser = parse_inputs, value_name = "N")]
    pub(crate) max_inputs: usize,
    /// What all bodies that are being read or answered may take, with what is read of them
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes::<usize>, value_name = "BYTES")]
    pub(crate) max_bodies: usize,
    /// Most texts under way, of all requests
    #[arg(long, default_value_t = 16_384, value_name = "N")]
    pub(crate) max_texts: usize,
    /// Most connections
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) max_connections: usize,
    /// How long an answer may take, for each 512 texts of a request
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
    /// How long a body may take to arrive
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) body_timeout: Duration,
    /// How long requests that have begun are waited for at the end
    #[arg(long, default_value = "25s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) drain_timeout: Duration,
}

fn parse_inputs(text: &str) -> Result<usize, String> {
    let is_possible = |inputs: &usize| (1..=embed_gateway::MOST_INPUTS).contains(inputs);
    text.parse().ok().filter(is_possible).ok_or_else(|| format!("write 1 to {}", embed_gateway::MOST_INPUTS))
}

/// Signs of life are told apart by whole seconds: with less, everybody would be taken for gone.
fn parse_takeover(text: &str) -> Result<Duration, String> {
    let least = Duration::from_secs(2);
    let takeover = parse_duration(text)?;
    if takeover >= least { Ok(takeover) } else { Err("write at least 2s, well above what clocks differ by".to_owned()) }
}

fn parse_alias(text: &str) -> Result<(String, Slug), String> {
    let (name, model) =
        text.split_once('=').ok_or("write it as NAME=MODEL, such as text-embedding-3-small=all-minilm-l6-v2")?;
    Ok((name.to_owned(), parse_name(model)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_taken_for_gone_at_once() {
        assert_eq!(parse_takeover("2s"), Ok(Duration::from_secs(2)));
        for short in ["1999ms", "1s", "0s"] {
            assert!(parse_takeover(short).unwrap_err().contains("at least 2s"), "{short}");
        }
    }
}
