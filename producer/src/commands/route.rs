//! `embed route`

use anyhow::bail;
use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::route::{Applied, Change, Entry, OnFailure, Report, RouteError, RouteSettings, Router, ServerState};
use embed_schemas::{Lane, RouteState, Slug, Weights, routes::describe};
use serde_json::json;

use super::{Status, print};
use crate::cli::route::{ChangeArgs, RouteAccess, RouteArgs, RouteCommand, SetArgs, ShowArgs, SyncArgs};

pub(super) async fn run(args: RouteArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    // A mistake in the shares is told before anything is connected to.
    let command = args.command;
    let weights = match &command {
        RouteCommand::Set(SetArgs { all_to: None, weights, .. }) => {
            Some(Weights::parse(weights).map_err(RouteError::from)?)
        }
        _ => None,
    };
    let Connected { client, connect, settings } = connected(args.access, connect).await?;
    let router = Router::connect(&client, &connect, &settings).await?;
    match command {
        RouteCommand::Set(args) => {
            let who = who(args.change.who.clone());
            let change = match (args.all_to, weights) {
                (Some(variant), _) => Change::all_to(variant, &who),
                (None, Some(weights)) => Change::to(weights, &who),
                (None, None) => bail!("no shares"),
            };
            let change = Change { force: args.force, ..change };
            change_route(&router, &args.model, change, args.change, json).await
        }
        RouteCommand::Clear(args) => {
            let change = Change::clear(&who(args.change.who.clone()));
            change_route(&router, &args.model, change, args.change, json).await
        }
        RouteCommand::Show(args) => show(&router, args, json).await,
        RouteCommand::Sync(args) => sync(&router, args, json).await,
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
    let client = Client::connect(&connect).await?;
    Ok(Connected { client, connect, settings })
}

async fn change_route(
    router: &Router,
    model: &Slug,
    change: Change,
    args: ChangeArgs,
    json: bool,
) -> anyhow::Result<Status> {
    let lanes = if args.lane.is_empty() { Lane::ALL.to_vec() } else { args.lane };
    let change = Change { lanes, note: args.note, ..change };
    if args.render {
        print::line(router.prepare(model, &change).await?.trim_end())?;
        return Ok(Status::Done);
    }
    let emergency = change.on_failure == OnFailure::Keep;
    let applied = router.set(model, &change).await?;
    if json {
        print::json_line(&applied)?;
    } else {
        show_applied(&applied)?;
    }
    // In an emergency, a server that is down gets no traffic either.
    Ok(if applied.missing.is_empty() || emergency { Status::Done } else { Status::Unsuccessful })
}

fn show_applied(applied: &Applied) -> anyhow::Result<()> {
    let Applied { model, record, servers, missing, took } = applied;
    let holding = servers.len() - missing.len();
    print::line(format_args!(
        "{model}: {} (before: {}), on {holding} of {} servers, in {} ms",
        describe(&record.lanes),
        describe(&record.from),
        servers.len(),
        took.as_millis()
    ))?;
    for name in missing {
        print::line(format_args!("  server {name} does not answer: run `embed route sync` when it is back"))?;
    }
    Ok(())
}

async fn show(router: &Router, args: ShowArgs, json: bool) -> anyhow::Result<Status> {
    if args.render {
        print::line(router.render().await?.trim_end())?;
        return Ok(Status::Done);
    }
    if let (true, Some(model)) = (args.history, &args.model) {
        for entry in router.history(model).await? {
            if json { print::json_line(&entry) } else { print::line(past(&entry)) }?;
        }
        return Ok(Status::Done);
    }
    let report = router.actual().await?;
    let report = match &args.model {
        Some(model) => report.of(model),
        None => report,
    };
    show_report(&report, json)
}

async fn sync(router: &Router, args: SyncArgs, json: bool) -> anyhow::Result<Status> {
    let report = router.sync(args.undo, &who(args.who), &args.forget).await?;
    show_report(&report, json)
}

fn show_report(report: &Report, json: bool) -> anyhow::Result<Status> {
    let well = report.is_as_wanted();
    if json {
        let problems: Vec<_> = report.unfinished().chain(report.trouble()).collect();
        print::json_line(&json!({
            "account": report.account, "routes": report.routes, "servers": report.servers,
            "as_wanted": well, "problems": problems,
        }))?;
    } else {
        show_people(report)?;
    }
    Ok(if well { Status::Done } else { Status::Unsuccessful })
}

fn show_people(report: &Report) -> anyhow::Result<()> {
    if report.routes.is_empty() {
        print::line("no routes: everything goes to the models' default variants")?;
    }
    for (model, entry) in &report.routes {
        let record = &entry.record;
        print::line(format_args!("{model}: {}  {}", describe(&record.lanes), past(entry)))?;
    }
    for server in &report.servers {
        let state = match server.state {
            ServerState::AsWanted => "as wanted",
            ServerState::Differs => "DIFFERS",
            ServerState::Refused => "REFUSED",
            ServerState::Silent => "NO ANSWER",
        };
        let since = server.since.as_ref().map(|since| format!(", reloaded {since}")).unwrap_or_default();
        print::line(format_args!("  server {}: {state}{since}", server.name))?;
        if let (Some(problem), Some(_)) = (&server.problem, &server.id) {
            print::line(format_args!("    {problem}"))?;
        }
        for difference in &server.differences {
            print::line(format_args!("    {difference}"))?;
        }
    }
    for problem in &report.problems {
        print::line(format_args!("not written: {problem}"))?;
    }
    for sentence in report.unfinished() {
        print::line(format_args!("unfinished: {sentence}"))?;
    }
    let repairable = report.servers.iter().any(|s| matches!(s.state, ServerState::Differs | ServerState::Silent));
    if repairable && report.unfinished().next().is_none() {
        print::line("`embed route sync` brings the servers to what is wanted")?;
    }
    Ok(())
}

fn past(entry: &Entry) -> String {
    let record = &entry.record;
    let state = match record.state {
        RouteState::Applying => "applying",
        RouteState::Applied => "applied",
        RouteState::Incomplete => "incomplete",
    };
    let note = record.note.as_ref().map(|note| format!(", {note:?}")).unwrap_or_default();
    let problem = record.problem.as_ref().map(|problem| format!("; {problem}")).unwrap_or_default();
    let (from, to) = (describe(&record.from), describe(&record.lanes));
    format!("[{} {} {state}: {from} -> {to}{note}{problem}]", record.when, record.who)
}

/// Who was named, or whoever runs this, as `user@host`.
pub(super) fn who(named: Option<String>) -> String {
    named.unwrap_or_else(|| {
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
        format!("{user}@{}", host.as_deref().map_or("localhost", str::trim))
    })
}
