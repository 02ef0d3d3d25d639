//! The command line of `embed route`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use embed_control::route::RouteSettings;
use embed_schemas::{Lane, Slug};

use super::{parse_duration, parse_name};

#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    #[command(flatten)]
    pub(crate) access: RouteAccess,
    #[command(subcommand)]
    pub(crate) command: RouteCommand,
}

/// How routes get onto the servers.
#[derive(Debug, Args)]
pub(crate) struct RouteAccess {
    /// File with the settings below [default: .embed-dev/route.toml for the server of that stack, or
    /// ~/.config/embed/route.toml]
    #[arg(long, global = true, env = "EMBED_ROUTE_CONFIG", value_name = "FILE")]
    pub(crate) route_config: Option<PathBuf>,
    /// Keep the settings below in that file
    #[arg(long, global = true)]
    pub(crate) remember: bool,
    #[command(flatten)]
    pub(crate) settings: RouteSettings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Split the traffic of MODEL: embed route set MODEL fp32=95 int8=5
    Set(SetArgs),
    /// Send everything of MODEL to its default variant again
    Clear(ClearArgs),
    /// Show what is wanted, and what each server holds; exit with 1 if they differ
    Show(ShowArgs),
    /// Bring routes to what a file declares: change what differs, and say what that is
    Apply(ApplyArgs),
    /// Show what differs: servers from what is wanted, or what is wanted from what a file declares; exit with 1 if anything does
    Diff(DiffArgs),
    /// Finish or undo what was left unfinished, and repair servers that hold something else
    Sync(SyncArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The model, by name or slug
    #[arg(value_parser = parse_name)]
    pub(crate) model: Slug,
    /// Variants and their shares in whole percent, 100 in all
    #[arg(required_unless_present = "all_to", conflicts_with = "all_to", value_name = "VARIANT=PERCENT")]
    pub(crate) weights: Vec<String>,
    /// Everything to this variant, at once, on every server where it can be done
    #[arg(long, value_parser = parse_name, value_name = "VARIANT")]
    pub(crate) all_to: Option<Slug>,
    /// With --all-to, where the bucket of routes cannot be written: how long to go on trying once the servers have been told. `embed route
    /// sync` does it later, too
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) write_within: Duration,
    /// Set it although a variant is not served, or the variants are in different embedding spaces
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ClearArgs {
    /// The model, by name or slug
    #[arg(value_parser = parse_name)]
    pub(crate) model: Slug,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Only this lane: rpc, job or bulk; may be repeated [default: all]
    #[arg(long, value_name = "LANE")]
    pub(crate) lane: Vec<Lane>,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
    /// Write the change down and print the file of mappings, for those who distribute it by other means; `embed route sync`
    /// finishes it
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) render: bool,
}

/// What is said of a change.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Who wants it [default: user@host]
    #[arg(long, env = "EMBED_WHO", value_name = "NAME")]
    pub(crate) who: Option<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Only check it, and say what it would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The file: a table [route.MODEL] for each model, with `weights = { fp32 = 95, int8 = 5 }`, and lanes that differ under their names
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Clear the routes of models that the file does not name
    #[arg(long)]
    pub(crate) prune: bool,
    /// Set routes although a variant is not served, or variants are in different embedding spaces
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Compare what is wanted with what this file declares, instead of the servers with what is wanted
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Routes of models that the file does not name differ, too
    #[arg(long, requires = "file")]
    pub(crate) prune: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Only this model, by name or slug
    #[arg(value_parser = parse_name)]
    pub(crate) model: Option<Slug>,
    /// How its route came to be
    #[arg(long, requires = "model")]
    pub(crate) history: bool,
    /// Print the file of mappings as it should be
    #[arg(long, conflicts_with = "history")]
    pub(crate) render: bool,
    /// Go on, and show it again whenever it changes
    #[arg(long, conflicts_with_all = ["history", "render"])]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// Take back what was left unfinished, instead of finishing it
    #[arg(long)]
    pub(crate) undo: bool,
    /// A server that is gone for good, by name; may be repeated
    #[arg(long, value_name = "SERVER")]
    pub(crate) forget: Vec<String>,
    /// Who wants it [default: user@host]
    #[arg(long, env = "EMBED_WHO", value_name = "NAME")]
    pub(crate) who: Option<String>,
}
