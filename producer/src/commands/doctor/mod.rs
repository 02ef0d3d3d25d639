//! `embed doctor`: everything that has to be right before this works, looked at one by one, each with a verdict and what to do next.

mod fleet;
mod gateway;
mod rights;
mod server;

use std::time::Duration;

use embed_client::Client;
use embed_connect::{ConnectSettings, Refusals};
use embed_schemas::{Slug, subjects::SERVICE_NAME};
use futures::FutureExt;
use serde::Serialize;
use serde_json::json;

use super::{Status, print};
use crate::cli::doctor::DoctorArgs;

/// For one question.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What was found of one thing.
#[derive(Debug, Serialize)]
struct Line {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    NotChecked,
    Warning,
    Failed,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotChecked => "not checked",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

impl Line {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), next: None }
    }

    fn but(check: &'static str, verdict: Verdict, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict, found: found.into(), next: Some(next.into()) }
    }

    fn failed(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::but(check, Verdict::Failed, found, next)
    }

    fn warning(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::but(check, Verdict::Warning, found, next)
    }

    fn not_checked(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::but(check, Verdict::NotChecked, found, next)
    }
}

pub(super) async fn run(args: DoctorArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    // What a context says of inboxes and of JetStream's place is looked for, too.
    let connect = &connect.clone().resolved()?;
    let mut lines = Vec::new();
    match server::connected(connect).await {
        Ok(client) => lines = of_server(&args, client, connect).await,
        Err(line) => {
            lines.push(line);
            for check in ["jetstream", "servers", "sync_interval", "clock", "permissions", "workers", "streams"] {
                lines.push(Line::not_checked(check, "there is no connection", "mend the connection first"));
            }
            lines.extend(fleet::registry(args.registry.as_deref()).await.0);
        }
    }
    lines.push(gateway::look(args.gateway.as_deref()).await);
    let worst = lines.iter().map(|line| line.verdict).max().unwrap_or(Verdict::Ok);
    if json {
        print::json_line(
            &json!({ "verdict": if worst == Verdict::NotChecked { Verdict::Ok } else { worst }, "checks": lines }),
        )?;
    } else {
        lines.iter().try_for_each(show)?;
    }
    Ok(if worst == Verdict::Failed { Status::Unsuccessful } else { Status::Done })
}

async fn of_server(args: &DoctorArgs, client: Client, connect: &ConnectSettings) -> Vec<Line> {
    let mut lines = vec![server::version(&client)];
    lines.push(server::limits(&client).await);
    lines.extend(server::system(args.system.clone(), connect).await);
    let (registry, registered) = fleet::registry(args.registry.as_deref()).await;
    let refusals = Refusals::of(client.nats());
    let workers = client.workers().await;
    // Silence may mean that asking is not permitted.
    let may_ask = refusals.concerning(&[&format!("$SRV.INFO.{SERVICE_NAME}")]).now_or_never().is_none();
    let models = models(args, &registered, workers.as_deref().unwrap_or_default());
    let user = rights::user(&client).await;
    lines.push(server::clock(&client, user.as_ref().ok(), &models).await);
    lines.push(rights::look(args, &client, user, &models, connect).await);
    lines.extend(fleet::streams(&client, args, &registered, workers.as_deref().unwrap_or_default()).await);
    lines.extend(fleet::workers(workers, may_ask, &models, args));
    lines.extend(registry);
    lines
}

/// The models that all this is about.
fn models(
    args: &DoctorArgs,
    registered: &[embed_control::registry::RegisteredModel],
    workers: &[embed_client::WorkerInfo],
) -> Vec<Slug> {
    let mut models = args.model.clone();
    if models.is_empty() {
        models.extend(registered.iter().map(|model| model.slug().clone()));
    }
    if models.is_empty() {
        models.extend(workers.iter().flat_map(|worker| worker.variants.keys().map(|(model, _)| model.clone())));
    }
    models.sort();
    models.dedup();
    models
}

fn show(line: &Line) -> anyhow::Result<()> {
    let Line { check, verdict, found, next } = line;
    print::line(format_args!("{:<12} {check:<14} {found}", verdict.as_str()))?;
    next.iter().try_for_each(|next| print::line(format_args!("{:<27} -> {next}", "")))
}
