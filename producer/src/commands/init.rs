//! `embed init`

use std::time::Duration;

use anyhow::bail;
use embed_client::{Client, nats};
use embed_connect::ConnectSettings;
use embed_control::{
    models,
    provision::{self, Given, Retention},
    registry,
};
use embed_schemas::{Slug, streams::StreamSettings};
use serde_json::json;

use super::{Status, hint, permissions, print, worker_config::WorkerConfig};
use crate::cli::InitArgs;

pub(super) async fn run(args: InitArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    if args.permissions.is_wanted() {
        return permissions::run(args.permissions, connect, json);
    }
    let config = args.config.as_deref().map(WorkerConfig::read).transpose()?.unwrap_or_default();
    let location = super::registry(args.registry.clone().or_else(|| config.registry.clone()))?;
    let mut asked = config.models()?;
    asked.extend(args.variant.iter().map(|(model, _)| model.clone()));
    let warn_of = |warning: &str| print::warning("model_left_out", warning, json);
    let registered = registry::list(&location, &asked, warn_of).await?;
    let named: Vec<_> = args.variant.iter().cloned().chain(config.variants(&registered)?).collect();
    let variants = provision::variants(&registered, &named)?;
    let registered = config.served(registered)?;
    let is_served = |model: &Slug| {
        registered.iter().any(|one| one.slug() == model) || args.variant.iter().any(|(named, _)| named == model)
    };
    let variants: Vec<_> = variants.into_iter().filter(|one| is_served(&one.model)).collect();
    let settings = settings(&args);
    let client = nats::connect(&connect.clone().or(config.nats.clone()), "embed init").await?;
    let largest = i64::try_from(client.server_info().max_payload).unwrap_or(i64::MAX);
    if let Some(bytes) = args.dead_max_bytes.filter(|bytes| *bytes < largest) {
        bail!(
            "--dead-max-bytes: {bytes} has no room for the largest message that this server takes ({largest} bytes): a dead letter of it \
             would be lost at once"
        );
    }
    // Workers serve the variants of the bucket too, and need their consumers.
    let asking = Client::new(client.clone());
    let variants = provision::with_desired(variants, &models::desired(&asking).await?);
    if args.check {
        let differences = provision::check_given(&client, &variants, &settings, given(&args)).await?;
        let results = provision::retention(&asking, &registered).await;
        let hint = (!differences.is_empty()).then(|| hint::command(arguments(), &["--check", "--json"], &[]));
        if json {
            print::json_line(&json!({ "differences": differences, "results": results, "mend": hint }))?;
        } else {
            for difference in &differences {
                print::line(difference)?;
            }
            match hint {
                Some(command) => print::line(format_args!("mended by\n  {command}"))?,
                None => print::line("all streams, buckets and consumers are as they should be")?,
            }
            tell(&results)?;
        }
        warn(&results, json);
        return Ok(if differences.is_empty() { Status::Done } else { Status::Unsuccessful });
    }
    let report = provision::apply_given(&client, &variants, &settings, given(&args)).await?;
    let results = provision::retention(&asking, &registered).await;
    if json {
        let provision::Report { created, updated, unchanged } = report;
        print::json_line(
            &json!({ "created": created, "updated": updated, "unchanged": unchanged, "results": results }),
        )?;
    } else {
        for name in &report.created {
            print::line(format_args!("created    {name}"))?;
        }
        for change in &report.updated {
            print::line(format_args!(
                "updated    {}: {} from {} to {}",
                change.name, change.field, change.found, change.wanted
            ))?;
        }
        for name in &report.unchanged {
            print::line(format_args!("unchanged  {name}"))?;
        }
        tell(&results)?;
    }
    warn(&results, json);
    Ok(Status::Done)
}

/// The command line. What is no text is shown as well as it can be.
fn arguments() -> impl Iterator<Item = String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned())
}

/// How long results are kept, and how many fit.
fn tell(results: &[Retention]) -> anyhow::Result<()> {
    results.iter().try_for_each(|one| print::line(format_args!("results    {one}")))
}

/// Streams of results that are nearly full, with the command that makes room.
fn warn(results: &[Retention], json: bool) {
    for one in results {
        let Retention { warning: Some(warning), max_bytes: Some(limit), .. } = one else { continue };
        let twice = limit.saturating_mul(2).to_string();
        let command = hint::command(arguments(), &["--check", "--json"], &["--results-max-bytes", &twice]);
        print::warning("results_nearly_full", &format!("{warning}. In full: {command}"), json);
    }
}

fn settings(args: &InitArgs) -> StreamSettings {
    let default = StreamSettings::default();
    StreamSettings {
        replicas: args.replicas.unwrap_or(default.replicas),
        jobs_max_bytes: args.jobs_max_bytes.unwrap_or(default.jobs_max_bytes),
        results_max_bytes: args.results_max_bytes.unwrap_or(default.results_max_bytes),
        results_max_age_s: args.results_max_age.map_or(default.results_max_age_s, |age| age.as_secs()),
        dead_max_bytes: args.dead_max_bytes.unwrap_or(default.dead_max_bytes),
        dead_max_age_s: args.dead_max_age.map_or(default.dead_max_age_s, |age| age.as_secs()),
        ack_wait_ms: args.ack_wait.map_or(default.ack_wait_ms, milliseconds),
        ..default
    }
}

/// The limits that were named. What is there already keeps the others.
const fn given(args: &InitArgs) -> Given {
    Given {
        replicas: args.replicas.is_some(),
        jobs_max_bytes: args.jobs_max_bytes.is_some(),
        results_max_bytes: args.results_max_bytes.is_some(),
        results_max_age: args.results_max_age.is_some(),
        dead_max_bytes: args.dead_max_bytes.is_some(),
        dead_max_age: args.dead_max_age.is_some(),
        ack_wait: args.ack_wait.is_some(),
        others: false,
    }
}

/// Whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
