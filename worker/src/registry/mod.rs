//! `embed-worker models`: the registry, by hand. Tables for people or JSON on standard output, progress on standard error.

mod change;
mod describe;
mod output;
mod progress;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use embed_registry::{Keep, Registry};

use output::Output;

/// What is done to the registry.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Model registry: a path, file://, s3://, gs:// or az://
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL", global = true)]
    registry: Option<String>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All models, with the current version of each
    List,
    /// A version's metadata and files, and how the current version came to be
    Show(ModelVersion),
    /// Upload the version in a folder; others see it when it is whole, and it never changes again
    Publish {
        /// The folder with its metadata.json
        dir: PathBuf,
    },
    /// Read every file of a version, and compare sizes and checksums with the metadata
    Verify(ModelVersion),
    /// Make a version the current one
    Promote {
        /// The model, by its name or slug
        model: String,
        /// The version
        version: String,
        /// Only if this version is current now
        #[arg(long, value_name = "VERSION")]
        from: Option<String>,
        #[command(flatten)]
        who: Who,
    },
    /// Make the version current again that was so before the last move
    Rollback {
        /// The model, by its name or slug
        model: String,
        #[command(flatten)]
        who: Who,
    },
    /// Remove old versions, and uploads that nobody finished
    Gc(GcArgs),
}

#[derive(Debug, Args)]
struct ModelVersion {
    /// The model, by its name or slug; its current version if none is named
    #[arg(value_name = "MODEL[@VERSION]")]
    model: String,
}

#[derive(Debug, Args)]
struct Who {
    /// Who does it, for the history [default: the user and host]
    #[arg(long)]
    who: Option<String>,
}

#[derive(Debug, Args)]
struct GcArgs {
    /// Keep the newest versions of each model, so many
    #[arg(long, default_value_t = Keep::default().newest, value_name = "N")]
    keep: usize,
    /// Keep what the last moves of the pointer came from or led to, so many of them (at least 1)
    #[arg(long, default_value_t = Keep::default().moves, value_name = "N")]
    keep_moves: usize,
    /// Remove unfinished uploads of this age
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    uploads_older_than: Duration,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

impl ModelsArgs {
    /// The registry, if one is named.
    pub(crate) fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }
}

/// Runs the command.
///
/// # Errors
/// If it fails, or `verify` finds something.
pub async fn run(args: &ModelsArgs) -> anyhow::Result<()> {
    let registry = Registry::open(args.registry().unwrap_or_default())?;
    let out = Output { json: args.json };
    match &args.command {
        Command::List => describe::list(&registry, out).await,
        Command::Show(wanted) => describe::show(&registry, &wanted.model, out).await,
        Command::Publish { dir } => change::publish(&registry, dir, out).await,
        Command::Verify(wanted) => describe::verify(&registry, &wanted.model, out).await,
        Command::Promote { model, version, from, who } => {
            change::promote(&registry, model, version, from.as_deref(), &who.name(), out).await
        }
        Command::Rollback { model, who } => change::rollback(&registry, model, &who.name(), out).await,
        Command::Gc(gc) => change::gc(&registry, gc, out).await,
    }
}

impl Who {
    fn name(&self) -> String {
        self.who.clone().unwrap_or_else(embed_registry::who)
    }
}
