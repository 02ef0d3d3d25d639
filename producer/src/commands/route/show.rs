//! What `embed route` shows: what is wanted, what servers hold, and how they differ.

use std::{collections::BTreeMap, time::Duration};

use embed_client::Client;
use embed_control::route::{self, Entry, Report, Router, ServerState};
use embed_schemas::{RouteState, Slug, routes::describe};
use serde_json::json;

use super::super::{Status, asked_to_stop, print, who::who};
use crate::cli::route::{ShowArgs, SyncArgs};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait for what is wanted, before only what servers hold is shown.
const WANTED: Duration = Duration::from_secs(5);

/// What is written down, for those who cannot ask the servers.
pub(super) async fn written(client: &Client, args: &ShowArgs, json: bool) -> anyhow::Result<Status> {
    if let (true, Some(model)) = (args.history, &args.model) {
        return history(client, model, json).await;
    }
    if args.render || args.watch {
        anyhow::bail!(
            "--render and --watch ask the servers: pass --sys-user and --sys-password, --sys-creds, or --sys-context of the system account"
        );
    }
    let mut routes = route::written(client).await?;
    routes.retain(|model, _| args.model.as_ref().is_none_or(|wanted| wanted == model));
    let well = routes.values().all(|entry| entry.record.state == RouteState::Applied);
    if json {
        print::json_line(&json!({ "routes": routes, "servers": null }))?;
    } else {
        wanted(&routes)?;
        print::line(
            "  what the servers hold is not known: that takes a user of the system account (--sys-user, --sys-creds, --sys-context)",
        )?;
    }
    Ok(if well { Status::Done } else { Status::Unsuccessful })
}

pub(super) async fn show(router: &Router, client: &Client, args: ShowArgs, json: bool) -> anyhow::Result<Status> {
    if args.render {
        print::line(router.render().await?.trim_end())?;
        return Ok(Status::Done);
    }
    if let (true, Some(model)) = (args.history, &args.model) {
        return history(client, model, json).await;
    }
    let of = |report: Report| match &args.model {
        Some(model) => report.of(model),
        None => report,
    };
    if args.watch {
        tokio::select! {
            ended = watch(router, of, json) => return ended,
            () = asked_to_stop() => return Ok(Status::Done),
        }
    }
    let why = match tokio::time::timeout(WANTED, router.actual()).await {
        Ok(Ok(found)) => return report(&of(found), json),
        Ok(Err(error)) if !error.retryable() => return Err(error.into()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the bucket of routes has not answered within {} s", WANTED.as_secs()),
    };
    held(router, args.model.as_ref(), &why, json).await
}

/// What servers hold, where nobody can say what they are to hold.
async fn held(router: &Router, model: Option<&Slug>, why: &str, json: bool) -> anyhow::Result<Status> {
    let mut servers = router.held().await?;
    servers.retain(|server| server.id.is_some());
    if json {
        print::json_line(&json!({ "routes": null, "servers": servers, "as_wanted": false, "problems": [why] }))?;
        return Ok(Status::Unsuccessful);
    }
    print::line(format_args!("what is wanted is not known: {why}"))?;
    for server in &servers {
        print::line(format_args!("  server {} holds", server.name))?;
        for (model, lanes) in server.holds.iter().filter(|(held, _)| model.is_none_or(|model| model == *held)) {
            print::line(format_args!("    {model}: {}", describe(lanes)))?;
        }
    }
    Ok(Status::Unsuccessful)
}

/// Shows it whenever it is another. A server, or the bucket, that does not answer for a while is no end.
async fn watch(router: &Router, of: impl Fn(Report) -> Report, json: bool) -> anyhow::Result<Status> {
    let mut last = None;
    loop {
        match router.actual().await {
            Ok(found) => {
                let found = of(found);
                if last.as_ref() != Some(&found) {
                    if !json {
                        print::line(format_args!("-- {}", embed_control::now()))?;
                    }
                    report(&found, json)?;
                    last = Some(found);
                }
            }
            Err(error) => print::warning(error.code(), &error.to_string(), json),
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn history(client: &Client, model: &Slug, json: bool) -> anyhow::Result<Status> {
    for entry in route::history(client, model).await? {
        if json { print::json_line(&entry) } else { print::line(past(&entry)) }?;
    }
    Ok(Status::Done)
}

pub(super) async fn sync(router: &Router, args: SyncArgs, json: bool) -> anyhow::Result<Status> {
    report(&router.sync(args.undo, &who(args.who), &args.forget).await?, json)
}

/// Only what servers hold that is not as wanted.
pub(super) async fn differences(router: &Router, json: bool) -> anyhow::Result<Status> {
    let found = router.actual().await?;
    let problems: Vec<_> = found.unfinished().chain(found.trouble()).collect();
    if json {
        print::json_line(&json!({ "as_wanted": found.is_as_wanted(), "problems": problems }))?;
    } else {
        problems.iter().try_for_each(print::line)?;
        if problems.is_empty() {
            print::line("every server holds what is wanted")?;
        }
    }
    Ok(if found.is_as_wanted() { Status::Done } else { Status::Unsuccessful })
}

pub(super) fn report(report: &Report, json: bool) -> anyhow::Result<Status> {
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

fn wanted(routes: &BTreeMap<Slug, Entry>) -> anyhow::Result<()> {
    if routes.is_empty() {
        print::line("no routes: everything goes to the models' default variants")?;
    }
    for (model, entry) in routes {
        print::line(format_args!("{model}: {}  {}", describe(&entry.record.lanes), past(entry)))?;
    }
    Ok(())
}

fn show_people(report: &Report) -> anyhow::Result<()> {
    wanted(&report.routes)?;
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
