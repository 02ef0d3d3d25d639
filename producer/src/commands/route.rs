//! `embed route`

mod change;
mod show;

use anyhow::bail;
use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::route::{RouteError, RouteSettings, Router};
use embed_schemas::Weights;

pub(super) use super::who::who;
use super::{Status, print};
use crate::cli::route::{DiffArgs, RouteAccess, RouteArgs, RouteCommand, SetArgs};

pub(super) async fn run(args: RouteArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    // A mistake in the shares or the file is told before anything is connected to.
    let command = args.command;
    let weights = match &command {
        RouteCommand::Set(SetArgs { all_to: None, weights, .. }) => {
            Some(Weights::parse(weights).map_err(RouteError::from)?)
        }
        _ => None,
    };
    let declared = match &command {
        RouteCommand::Apply(args) => Some(change::declared(&args.file)?),
        RouteCommand::Diff(DiffArgs { file: Some(file), .. }) => Some(change::declared(file)?),
        _ => None,
    };
    let (connect, settings) = prepared(args.access, connect)?;
    if !settings.has_system() {
        match (&command, &declared) {
            (RouteCommand::Show(args), _) => return show::written(&Client::connect(&connect).await?, args, json).await,
            (RouteCommand::Diff(args), Some(declared)) => {
                return change::diff(&Client::connect(&connect).await?, declared, args.prune, json).await;
            }
            _ => {}
        }
    }
    let (client, router) = Router::dial(&connect, &settings).await?;
    match command {
        RouteCommand::Set(args) => change::set(&router, args, weights, json).await,
        RouteCommand::Clear(args) => change::clear(&router, args, json).await,
        RouteCommand::Show(args) => show::show(&router, &client, args, json).await,
        RouteCommand::Sync(args) => show::sync(&router, args, json).await,
        RouteCommand::Apply(args) => change::apply(&router, &client, args, declared.unwrap_or_default(), json).await,
        RouteCommand::Diff(args) => match declared {
            Some(declared) => change::diff(&client, &declared, args.prune, json).await,
            None => show::differences(&router, json).await,
        },
    }
}

/// A connection, and how routes get onto its servers.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) connect: ConnectSettings,
    pub(super) settings: RouteSettings,
}

/// Connects to the server that was named, or to the one that goes with the settings.
pub(super) async fn connected(access: RouteAccess, connect: &ConnectSettings) -> anyhow::Result<Connected> {
    let (connect, settings) = prepared(access, connect)?;
    let client = Client::connect(&connect).await?;
    Ok(Connected { client, connect, settings })
}

/// Fills in what is remembered, and remembers what was given, if that was asked for.
fn prepared(access: RouteAccess, connect: &ConnectSettings) -> anyhow::Result<(ConnectSettings, RouteSettings)> {
    let (settings, file) = access.settings.complete(access.route_config.as_deref(), connect)?;
    if access.remember {
        let Some(file) = &file else {
            bail!("--remember: neither XDG_CONFIG_HOME nor HOME says where; use --route-config")
        };
        settings.write(file)?;
        print::note(format_args!("remembered in {}", file.display()));
    }
    let mut connect = connect.clone();
    if connect.context.is_none() {
        connect.server = connect.server.or_else(|| settings.server.clone());
    }
    Ok((connect, settings))
}
