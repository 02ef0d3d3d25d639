//! `embed route set | clear | apply | diff`: one change, or those that a file declares.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, bail};
use embed_client::Client;
use embed_control::route::{
    self, Applied, Change, Entry, OnFailure, Outcome, Plan, RouteError, Router,
    declared::{self, Declarations, Declared},
};
use embed_schemas::{Lane, RouteState, Slug, Weights, routes::describe};
use serde_json::json;

use super::super::{Status, print, who::who};
use crate::cli::route::{ApplyArgs, ChangeArgs, ClearArgs, SetArgs};

pub(super) async fn set(
    router: &Router,
    args: SetArgs,
    weights: Option<Weights>,
    json: bool,
) -> anyhow::Result<Status> {
    let who = who(args.change.record.who.clone());
    let change = match (args.all_to, weights) {
        (Some(variant), _) => Change::all_to(variant, &who),
        (None, Some(weights)) => Change::to(weights, &who),
        (None, None) => bail!("no shares"),
    };
    let change = Change { force: args.force, ..change };
    one(router, &args.model, change, args.change, args.write_within, json).await
}

pub(super) async fn clear(router: &Router, args: ClearArgs, json: bool) -> anyhow::Result<Status> {
    let change = Change::clear(&who(args.change.record.who.clone()));
    one(router, &args.model, change, args.change, Duration::ZERO, json).await
}

async fn one(
    router: &Router,
    model: &Slug,
    change: Change,
    args: ChangeArgs,
    write_within: Duration,
    json: bool,
) -> anyhow::Result<Status> {
    let lanes = if args.lane.is_empty() { Lane::ALL.to_vec() } else { args.lane };
    let change = Change { lanes, note: args.record.note, ..change };
    if args.record.dry_run {
        planned(&router.plan(model, &change).await?, json)?;
        return Ok(Status::Done);
    }
    if args.render {
        print::line(router.prepare(model, &change).await?.trim_end())?;
        return Ok(Status::Done);
    }
    match router.set(model, &change).await? {
        Outcome::Applied(applied) => {
            told(router, &applied, json).await?;
            // In an emergency, a server that is down gets no traffic either.
            let emergency = change.on_failure == OnFailure::Keep;
            Ok(if applied.missing.is_empty() || emergency { Status::Done } else { Status::Unsuccessful })
        }
        Outcome::Unwritten { applied, reason } => unwritten(router, &change, applied, reason, write_within, json).await,
        end @ (Outcome::HalfApplied { .. } | Outcome::Undone { .. } | Outcome::Superseded { .. }) => {
            Err(RouteError::ended(end).into())
        }
    }
}

/// The servers know it, and the bucket does not. Says so at once, and goes on trying to write it down.
async fn unwritten(
    router: &Router,
    change: &Change,
    applied: Applied,
    reason: String,
    within: Duration,
    json: bool,
) -> anyhow::Result<Status> {
    let model = applied.model.clone();
    if json {
        print::json_line(&json!({
            "model": model, "written": false, "servers": applied.holding().collect::<Vec<_>>(),
            "missing": applied.missing, "reason": reason,
        }))?;
    }
    warn(&Outcome::Unwritten { applied: applied.clone(), reason }, json);
    if within.is_zero() {
        return Ok(Status::Failures);
    }
    if !json {
        let within = humantime::format_duration(within);
        print::note(format_args!(
            "trying to write it down for another {within}; to stop that changes nothing on the servers"
        ));
    }
    match router.reconcile(&model, change, &applied, within).await {
        Ok(Outcome::Applied(applied)) => {
            told(router, &applied, json).await?;
            Ok(Status::Done)
        }
        Ok(
            end @ (Outcome::Unwritten { .. }
            | Outcome::HalfApplied { .. }
            | Outcome::Undone { .. }
            | Outcome::Superseded { .. }),
        ) => {
            warn(&end, json);
            Ok(Status::Failures)
        }
        Err(error) => {
            print::warning(error.code(), &format!("{error}: run `embed route sync` later"), json);
            Ok(Status::Failures)
        }
    }
}

fn warn(end: &Outcome, json: bool) {
    print::warning(end.code(), &end.to_string(), json);
}

async fn told(router: &Router, applied: &Applied, json: bool) -> anyhow::Result<()> {
    if json {
        print::json_line(applied)?;
    } else {
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
        if record.state == RouteState::Applying {
            print::line("  it is not written down how it ended: run `embed route sync`")?;
        }
    }
    let new = route::newly_mapped(&applied.model, &applied.record);
    if new.is_empty() {
        return Ok(());
    }
    let mut message = format!(
        "{}: messages go to {} now. A client that may publish on the subject without a variant alone sees nothing but time-outs from \
         here on: NATS checks the subject that a message is mapped to. Allow embed.<lane>.{}.*",
        applied.model,
        new.join(", "),
        applied.model
    );
    let lacking = router.lacking(&new).await;
    if lacking.is_empty() && !json {
        print::note(format_args!("note: {message}"));
        return Ok(());
    }
    if !lacking.is_empty() {
        message.push_str(&format!(". That concerns {}", lacking.join(", ")));
    }
    print::warning("permissions", &message, json);
    Ok(())
}

fn planned(plan: &Plan, json: bool) -> anyhow::Result<()> {
    if json {
        return print::json_line(&json!({
            "model": plan.model, "from": plan.from, "to": plan.to, "changes": plan.changes(), "dry_run": true,
        }));
    }
    let Plan { model, from, to } = plan;
    match plan.changes() {
        true => print::line(format_args!("{model}: {} would become {}", describe(from), describe(to))),
        false => print::line(format_args!("{model}: {}, as it is", describe(from))),
    }
}

/// Reads a file of declarations.
pub(super) fn declared(path: &Path) -> anyhow::Result<Declarations> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--file: {}", path.display()))?;
    Ok(declared::parse(&text, path).map_err(RouteError::Settings)?)
}

/// What differs from the declarations.
fn differing(written: &BTreeMap<Slug, Entry>, declared: &Declarations, prune: bool) -> Vec<(Plan, Option<String>)> {
    let now = |model: &Slug| written.get(model).map(|entry| entry.record.lanes.clone()).unwrap_or_default();
    let named = declared.iter().map(|(model, Declared { lanes, note })| {
        (Plan { model: model.clone(), from: now(model), to: lanes.clone() }, note.clone())
    });
    let others = written.keys().filter(|model| prune && !declared.contains_key(*model));
    let others = others.map(|model| (Plan { model: model.clone(), from: now(model), to: Default::default() }, None));
    named.chain(others).filter(|(plan, _)| plan.changes()).collect()
}

pub(super) async fn diff(client: &Client, declared: &Declarations, prune: bool, json: bool) -> anyhow::Result<Status> {
    let plans = differing(&route::written(client).await?, declared, prune);
    for (plan, _) in &plans {
        planned(plan, json)?;
    }
    if plans.is_empty() && !json {
        print::line("all routes are as the file declares them")?;
    }
    Ok(if plans.is_empty() { Status::Done } else { Status::Unsuccessful })
}

pub(super) async fn apply(
    router: &Router,
    client: &Client,
    args: ApplyArgs,
    declared: Declarations,
    json: bool,
) -> anyhow::Result<Status> {
    let who = who(args.record.who);
    let written = route::written(client).await?;
    let plans = differing(&written, &declared, args.prune);
    let mut status = Status::Done;
    for (plan, note) in &plans {
        let note = note.clone().or_else(|| args.record.note.clone());
        let change = Change { note, force: args.force, ..Change::exactly(plan.to.clone(), &who) };
        let done = match args.record.dry_run {
            true => router.plan(&plan.model, &change).await.map(|_| None),
            false => set_after(router, &plan.model, change, written.get(&plan.model)).await.map(Some),
        };
        match done {
            Ok(Some(Outcome::Applied(applied))) => {
                told(router, &applied, json).await?;
                if !applied.missing.is_empty() {
                    status = Status::Failures;
                }
            }
            Ok(Some(
                end @ (Outcome::Unwritten { .. }
                | Outcome::HalfApplied { .. }
                | Outcome::Undone { .. }
                | Outcome::Superseded { .. }),
            )) => {
                warn(&end, json);
                status = Status::Failures;
            }
            Ok(None) => planned(plan, json)?,
            Err(error) => {
                print::warning(error.code(), &format!("{}: {error}", plan.model), json);
                status = Status::Failures;
            }
        }
    }
    if plans.is_empty() && !json {
        print::line("all routes are as the file declares them")?;
    }
    Ok(status)
}

/// Makes a change if the route is still the one that the declarations were compared with: an emergency meanwhile stays.
async fn set_after(
    router: &Router,
    model: &Slug,
    change: Change,
    compared: Option<&Entry>,
) -> Result<Outcome, RouteError> {
    let (revision, now) = router.current(model).await?;
    // That an older change has ended since is another revision, and no other route.
    let same = match (compared.map(|entry| &entry.record), &now) {
        (Some(then), Some(now)) => (&then.who, &then.when, &then.lanes) == (&now.who, &now.when, &now.lanes),
        (then, now) => then.is_none() && now.is_none(),
    };
    let seen = compared.map_or(0, |entry| entry.revision);
    let only_after = Some(if same { revision } else { seen });
    router.set(model, &Change { only_after, ..change }).await
}
