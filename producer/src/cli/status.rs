//! The command line of `embed status`.

use std::net::SocketAddr;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Serve it as a page, and as JSON at /status.json, until Ctrl-C; port 0 takes a free one [without an address: 127.0.0.1:9465]
    #[arg(long, env = "EMBED_STATUS_LISTEN", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:9465", value_name = "ADDRESS")]
    pub(crate) serve: Option<SocketAddr>,
}
