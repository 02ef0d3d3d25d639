//! The command line of `embed doctor`.

use clap::Args;
use embed_control::{permissions::Role, route::RouteSettings};
use embed_schemas::Slug;

use super::{parse_name, parse_tenant};

/// What is looked at. Without anything, what can be told of the server and the workers.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// What this user is to do: caller, producer, backfill, gateway, worker, metrics, status, jobs, models, routes, rollouts, init or operator; may be
    /// repeated. Its permissions are compared with what that needs
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Vec<Role>,
    /// A model that this is about, by name or slug; may be repeated [default: those of the registry that is named, or those that workers serve]
    #[arg(short, long, value_parser = parse_name, value_name = "MODEL")]
    pub(crate) model: Vec<Slug>,
    /// On behalf of whom jobs are published
    #[arg(long, env = "EMBED_TENANT", value_parser = parse_tenant)]
    pub(crate) tenant: Option<Slug>,
    /// The registry of models: a path, file://, s3://, gs:// or az://
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    pub(crate) registry: Option<String>,
    /// The address of a gateway, such as http://localhost:8080
    #[arg(long, value_name = "URL")]
    pub(crate) gateway: Option<String>,
    #[command(flatten)]
    pub(crate) system: RouteSettings,
}
