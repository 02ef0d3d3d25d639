//! `embed jobs`

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::{
    jobs::{self, Cancelled, JobState, Jobs, QueuedJob},
    outcomes::{self, StoredOutcome},
};
use embed_schemas::{JobId, Outcome, Slug};
use serde_json::{Value, json};

use super::{Status, print, table};
use crate::cli::jobs::{JobsArgs, JobsCommand};

const HEAD: [&str; 8] = ["SEQUENCE", "PUBLISHED", "LANE", "VARIANT", "TENANT", "TEXTS", "HELD BY", "JOB"];
/// Jobs after which it is told how far it is.
const TELL: u64 = 10_000;

pub(super) async fn run(args: JobsArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let client = Client::connect(connect).await?;
    let (model, tenant) = (args.model, args.tenant.as_ref());
    match args.command {
        JobsCommand::Show { id } => show(&client, &model, tenant, &id, json).await,
        JobsCommand::Result { id } => result(&client, &model, tenant, &id, json).await,
        JobsCommand::Cancel { ids } => cancel(&client, &model, tenant, &ids, json).await,
        JobsCommand::List { lane, variant, limit } => {
            let is_wanted = |job: &QueuedJob| {
                lane.is_none_or(|lane| lane == job.lane)
                    && variant.as_ref().is_none_or(|variant| job.variant.as_ref() == Some(variant))
                    && tenant.is_none_or(|tenant| job.tenant.as_ref() == Some(tenant))
            };
            list(&client, &model, is_wanted, limit, json).await
        }
    }
}

async fn show(client: &Client, model: &Slug, tenant: Option<&Slug>, id: &JobId, json: bool) -> anyhow::Result<Status> {
    let state = jobs::find_for(client, model, tenant, id, progress()).await?;
    if json {
        print::json_line(&described(id, &state))?;
    } else {
        print::line(format_args!("job {id}: {}", sentence(&state)))?;
    }
    Ok(if matches!(state, JobState::Unknown) { Status::Unsuccessful } else { Status::Done })
}

fn described(id: &JobId, state: &JobState) -> Value {
    match state {
        JobState::Ended(StoredOutcome { outcome, time, .. }) => match outcome {
            Outcome::Result(result) => {
                let errors = result.items.iter().filter(|item| item.error.is_some()).count();
                json!({
                    "id": id, "state": "done", "time": time, "model": result.model, "variant": result.variant,
                    "version": result.version, "texts": result.items.len(), "failed_texts": errors,
                })
            }
            Outcome::Failure(failure) => json!({"id": id, "state": "failed", "time": time, "error": failure.error}),
        },
        JobState::Queued(job) => {
            let state = if job.held_by.is_empty() { "queued" } else { "held" };
            json!({"id": id, "state": state, "job": job})
        }
        JobState::Dead(letter) => json!({"id": id, "state": "dead", "letter": letter}),
        JobState::Unknown => json!({"id": id, "state": "unknown"}),
    }
}

fn sentence(state: &JobState) -> String {
    match state {
        JobState::Ended(StoredOutcome { outcome, time, .. }) => match outcome {
            Outcome::Result(result) => {
                let (texts, errors) =
                    (result.items.len(), result.items.iter().filter(|item| item.error.is_some()).count());
                let failed = if errors > 0 { format!(", {errors} of them without a vector") } else { String::new() };
                format!("done, {time}, by {} {}: {texts} texts{failed}", result.variant, result.version)
            }
            Outcome::Failure(failure) => format!("failed, {time}: {}", failure.error),
        },
        JobState::Queued(QueuedJob { published, sequence, held_by, lane, .. }) => match held_by.as_slice() {
            [] => format!("queued since {published}, #{sequence}, lane {lane}"),
            held => format!("held by {} (published {published}, #{sequence}, lane {lane})", held.join(" and ")),
        },
        JobState::Dead(letter) => format!("dead letter {}: {}: {}", letter.sequence, letter.code, letter.reason),
        JobState::Unknown => "nothing is known of it: it was never published, or its result has expired".to_owned(),
    }
}

async fn result(
    client: &Client,
    model: &Slug,
    tenant: Option<&Slug>,
    id: &JobId,
    json: bool,
) -> anyhow::Result<Status> {
    let Some(StoredOutcome { outcome, .. }) = outcomes::outcome(client, model, tenant, id).await? else {
        print::note(format_args!("job {id} has no result; `embed jobs show {id}` says where it is"));
        return Ok(Status::Unsuccessful);
    };
    if json {
        print::json_line(&outcome)?;
    }
    match &outcome {
        Outcome::Result(result) => {
            if !json {
                let numbered: Vec<String> = (0..result.items.len()).map(|row| format!("text {row}")).collect();
                print::vectors(result, &numbered)?;
            }
            Ok(if print::complete(result) { Status::Done } else { Status::Unsuccessful })
        }
        Outcome::Failure(failure) => {
            if !json {
                print::line(format_args!("job {id}: error {}", failure.error))?;
            }
            Ok(Status::Unsuccessful)
        }
    }
}

async fn cancel(
    client: &Client,
    model: &Slug,
    tenant: Option<&Slug>,
    ids: &[JobId],
    json: bool,
) -> anyhow::Result<Status> {
    let mut status = Status::Done;
    for id in ids {
        let cancelled = jobs::cancel_for(client, model, tenant, id, progress()).await?;
        if !matches!(cancelled, Cancelled::Cancelled { .. }) {
            status = Status::Failures;
        }
        if json {
            print::json_line(&json!({"id": id, "cancelled": cancelled}))?;
            continue;
        }
        let what = match cancelled {
            Cancelled::Cancelled { held: false } => "is cancelled",
            Cancelled::Cancelled { held: true } => "is cancelled; a worker has it, and what it computes is thrown away",
            Cancelled::Ended => "has ended before",
            Cancelled::Unknown => "is not in the queue",
        };
        print::line(format_args!("job {id} {what}"))?;
    }
    Ok(status)
}

async fn list(
    client: &Client,
    model: &Slug,
    is_wanted: impl Fn(&QueuedJob) -> bool,
    limit: usize,
    json: bool,
) -> anyhow::Result<Status> {
    let mut jobs = Jobs::new(client, model).await?;
    let mut rows = Vec::new();
    let (mut shown, mut more) = (0, false);
    'pages: loop {
        let page = jobs.page().await?;
        if page.is_empty() {
            break;
        }
        for job in page {
            if !is_wanted(&job) {
                continue;
            }
            if shown == limit {
                more = true;
                break 'pages;
            }
            shown += 1;
            if json {
                print::json_line(&job)?;
            } else {
                rows.push(row(&job));
            }
        }
    }
    if json {
        return Ok(Status::Done);
    }
    if rows.is_empty() {
        print::line(format_args!("no jobs of {model} are waiting"))?;
        return Ok(Status::Done);
    }
    table::lines(HEAD, &rows).into_iter().try_for_each(print::line)?;
    if more {
        print::line(format_args!("the oldest {shown}; --limit shows more"))?;
    }
    Ok(Status::Done)
}

fn row(job: &QueuedJob) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        job.sequence.to_string(),
        // Whole seconds.
        job.published.get(..19).unwrap_or(&job.published).to_owned(),
        job.lane.to_string(),
        or_dash(job.variant.as_ref().map(ToString::to_string)),
        or_dash(job.tenant.as_ref().map(ToString::to_string)),
        or_dash(job.texts.map(|texts| texts.to_string())),
        or_dash((!job.held_by.is_empty()).then(|| job.held_by.join(", "))),
        or_dash(job.id.as_ref().map(ToString::to_string)),
    ]
}

fn progress() -> impl FnMut(u64) {
    let mut told = 0;
    move |looked_at| {
        if looked_at >= told + TELL {
            told = looked_at;
            print::note(format_args!("{looked_at} jobs looked at"));
        }
    }
}
