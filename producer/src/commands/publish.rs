//! `embed publish`

use std::collections::HashMap;

use anyhow::bail;
use embed_client::{Client, Error, PublishOptions, Published, RESTART, outcomes};
use embed_connect::ConnectSettings;
use embed_otlp::{KeyValue, Kind, Open, Recorder};
use embed_schemas::{EmbedRequest, JobId, Outcome, Slug, subjects};
use futures::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use super::{Status, print, spaces::Spaces};
use crate::cli::PublishArgs;

pub(super) async fn run(
    args: PublishArgs,
    connect: &ConnectSettings,
    json: bool,
    recorder: &Recorder,
) -> anyhow::Result<Status> {
    let texts = print::texts(args.texts).await?;
    let client = Client::connect(connect).await?;
    let model = args.model.model;
    if !args.allow_unserved {
        client.check_served(&model, args.model.variant.as_ref(), RESTART.min(args.timeout)).await?;
    }
    let names_id = args.id.is_some();
    let jobs = client.jobs(EmbedRequest {
        id: args.id,
        prompt: args.model.prompt,
        truncate: !args.model.no_truncate,
        encoding: args.encoding,
        dimensions: args.model.dimensions,
        ..EmbedRequest::new(texts)
    })?;
    let options = PublishOptions::default()
        .variant(args.model.variant)
        .tenant(args.tenant.clone())
        .check_id(names_id)
        .timeout(args.timeout);
    let (mut published, mut expected) = (Vec::new(), Vec::new());
    // What is recorded, until its results are there.
    let mut opened: HashMap<JobId, Open> = HashMap::new();
    for job in &jobs {
        let mut reply_to = args.reply_to.clone();
        if let (true, Some(id)) = (args.wait, &job.id) {
            let one = client.expect_for(&model, args.tenant.as_ref(), id.clone()).await?;
            let one = one.of(job).in_space(args.space.clone());
            // A copy tells of the result at once; without one, it is looked for from time to time.
            reply_to = reply_to.or_else(|| Some(one.reply_to()));
            expected.push(one);
        }
        let mut open = recorder.part(Kind::Producer, || format!("publish {}", subjects::bare(args.lane, &model)));
        let options = options.clone().reply_to(reply_to).traceparent(open.as_ref().map(Open::traceparent));
        match client.publish_job(&model, args.lane, job, &options).await {
            Ok(job) => {
                if let Some(mut open) = open {
                    open.sent();
                    open.note(KeyValue::new("messaging.message.id", job.id.to_string()));
                    opened.insert(job.id.clone(), open);
                }
                published.push(job);
            }
            Err(error) => {
                if let Some(open) = &mut open {
                    open.failed(&error);
                }
                // What is stored will be served, and can be found by its id.
                published.iter().for_each(|job| print::note(format_args!("job {} is stored", job.id)));
                let id = job.id.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(anyhow::Error::new(error).context(format!("job {id} could not be published")));
            }
        }
    }
    warn_of_fill(&client, &model, json).await;
    if !args.wait {
        if json {
            print::json_line(&json!({ "jobs": published }))?;
        } else {
            published.iter().try_for_each(show)?;
        }
        return Ok(Status::Done);
    }
    let mut results = outcomes(expected);

    let mut texts: HashMap<JobId, Vec<String>> =
        jobs.into_iter().filter_map(|job| job.id.map(|id| (id, job.texts))).collect();
    let deadline = Instant::now() + args.timeout;
    let mut status = Status::Done;
    let mut spaces = Spaces::default();
    while !texts.is_empty() {
        match tokio::time::timeout_at(deadline, results.next()).await {
            Ok(Some(outcome)) => {
                let (id, outcome) = outcome?;
                if let Some(mut open) = opened.remove(&id) {
                    open.received("wait for the result");
                }
                let texts = texts.remove(&id).unwrap_or_default();
                if let Outcome::Result(result) = &outcome
                    && let Some(warning) = spaces.see(result)
                {
                    print::warning("mixed_spaces", &warning, json);
                }
                if !show_outcome(&id, &outcome, &texts, json)? {
                    status = Status::Unsuccessful;
                }
            }
            Ok(None) => break,
            Err(_) => return Err(too_late(&client, &model, args.tenant.as_ref(), texts.keys(), &args.timeout).await),
        }
    }
    Ok(status)
}

/// Warns before the results fill their stream.
async fn warn_of_fill(client: &Client, model: &Slug, json: bool) {
    if let Some(warning) = client.results_fill(model).await.ok().and_then(|fill| fill.warning()) {
        print::warning("results_nearly_full", &warning, json);
    }
}

fn show(job: &Published) -> anyhow::Result<()> {
    let note = if job.duplicate { " (was stored before)" } else { "" };
    print::line(format_args!("job {} is stored: {} #{}{note}", job.id, job.stream, job.sequence))
}

/// Prints an outcome. `false` if anything of it failed.
fn show_outcome(id: &JobId, outcome: &Outcome, texts: &[String], json: bool) -> anyhow::Result<bool> {
    if json {
        print::json_line(outcome)?;
    }
    match outcome {
        Outcome::Result(result) if result.items.len() != texts.len() => {
            bail!(Error::BadAnswer {
                from: format!("job {id}"),
                reason: format!("{} rows for {} texts: another job had the same id", result.items.len(), texts.len()),
            })
        }
        Outcome::Result(result) => {
            if !json {
                print::vectors(result, texts)?;
            }
            Ok(print::complete(result))
        }
        Outcome::Failure(failure) => {
            if !json {
                print::line(format_args!("job {id}: error {}", failure.error))?;
            }
            Ok(false)
        }
    }
}

/// The error for the first of the jobs that have no result, with what can be said of the cause.
async fn too_late(
    client: &Client,
    model: &Slug,
    tenant: Option<&Slug>,
    mut missing: impl ExactSizeIterator<Item = &JobId>,
    timeout: &std::time::Duration,
) -> anyhow::Error {
    let more = missing.len() - 1;
    let Some(id) = missing.next() else { return anyhow::anyhow!("no job is missing") };
    let looked = async {
        let expected = client.expect_for(model, tenant, id.clone()).await?;
        match expected.stored().await? {
            Some(outcome) => Ok(outcome),
            None => expected.wait(std::time::Duration::ZERO).await,
        }
    };
    match looked.await {
        Err(Error::Timeout { hint, .. }) => {
            let others = if more > 0 { format!(" and {more} more jobs") } else { String::new() };
            Error::Timeout { what: format!("no result of job {id}{others}"), after: *timeout, hint }.into()
        }
        Err(error) => error.into(),
        Ok(_) => anyhow::anyhow!("the result of job {id} came just now; ask again with the same --id"),
    }
}
