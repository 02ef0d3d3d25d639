//! The command line of `embed init --print-permissions` and `--write-jwts`.

use std::path::PathBuf;

use clap::Args;
use embed_control::permissions::Role;
use embed_schemas::Slug;

use super::parse_name;

/// What is said of permissions, without a server.
#[derive(Debug, Args)]
pub(crate) struct PermissionArgs {
    /// Do nothing but print what a user in this role may do, as the `permissions` of nats-server's configuration: caller, producer, backfill,
    /// gateway, worker, metrics, status, jobs, models, routes, routes-sys, rollouts, init or operator; may be repeated, for a user who has several. `all`
    /// prints accounts with a user for each. Its inboxes are those of --inbox-prefix [default: _INBOX.ROLE]
    #[arg(long, value_parser = parse_printed, requires = "model", value_name = "ROLE")]
    pub(crate) print_permissions: Vec<Printed>,
    /// A model that permissions are for; may be repeated
    #[arg(long, value_parser = parse_name, value_name = "MODEL")]
    pub(crate) model: Vec<Slug>,
    /// With `--print-permissions all`: an account for this tenant, into which calls and its jobs are exported; may be repeated. With a role: of
    /// jobs and results, this tenant's alone (`--tenant tenant-a` of the other commands for TENANT_A)
    #[arg(long, requires = "print_permissions", value_parser = parse_tenant, value_name = "ACCOUNT")]
    pub(crate) tenant: Vec<String>,
    /// Do nothing but write accounts that are JWTs into this folder: for a server's configuration, and credentials for each role. Keys that are
    /// there are used again
    #[arg(long, requires = "model", conflicts_with = "print_permissions", value_name = "DIR")]
    pub(crate) write_jwts: Option<PathBuf>,
}

/// What is to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Printed {
    /// Accounts with all roles.
    All,
    /// The permissions of one role.
    Role(Role),
}

impl PermissionArgs {
    /// Whether this is all that is to be done.
    pub(crate) const fn is_wanted(&self) -> bool {
        !self.print_permissions.is_empty() || self.write_jwts.is_some()
    }
}

fn parse_printed(text: &str) -> Result<Printed, String> {
    match text {
        "all" => Ok(Printed::All),
        role => role.parse().map(Printed::Role).map_err(|error| format!("{error}, or all")),
    }
}

/// The name of an account is also that of a variable with its password.
fn parse_tenant(text: &str) -> Result<String, String> {
    let is_name = text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    match is_name && text != "EMBED" {
        true => Ok(text.to_owned()),
        false => Err("write it in capitals, digits and _, such as TENANT_A, and other than EMBED".to_owned()),
    }
}
