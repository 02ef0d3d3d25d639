//! `embed init`

use std::time::Duration;

use embed_client::{Client, nats};
use embed_connect::ConnectSettings;
use embed_control::{
    models,
    provision::{self, Given},
    registry,
};
use embed_schemas::streams::StreamSettings;
use serde_json::json;

use super::{Status, print};
use crate::cli::InitArgs;

pub(super) async fn run(args: InitArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let registered = registry::list(&super::registry(args.registry.clone())?).await?;
    let variants = provision::variants(&registered, &args.variant)?;
    let settings = settings(&args);
    let client = nats::connect(connect, "embed init").await?;
    // Workers serve the variants of the bucket too, and need their consumers.
    let desired = models::desired(&Client::new(client.clone())).await?;
    let variants = provision::with_desired(variants, &desired);
    if args.check {
        let differences = provision::check_given(&client, &variants, &settings, given(&args)).await?;
        if json {
            print::json_line(&json!({ "differences": differences }))?;
        } else {
            for difference in &differences {
                print::line(difference)?;
            }
            if differences.is_empty() {
                print::line("all streams, buckets and consumers are as they should be")?;
            }
        }
        return Ok(if differences.is_empty() { Status::Done } else { Status::Unsuccessful });
    }
    let report = provision::apply_given(&client, &variants, &settings, given(&args)).await?;
    if json {
        print::json_line(&report)?;
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
    }
    Ok(Status::Done)
}

fn settings(args: &InitArgs) -> StreamSettings {
    let default = StreamSettings::default();
    StreamSettings {
        replicas: args.replicas.unwrap_or(default.replicas),
        jobs_max_bytes: args.jobs_max_bytes.unwrap_or(default.jobs_max_bytes),
        results_max_bytes: args.results_max_bytes.unwrap_or(default.results_max_bytes),
        results_max_age_s: args.results_max_age.map_or(default.results_max_age_s, |age| age.as_secs()),
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
        ack_wait: args.ack_wait.is_some(),
        others: false,
    }
}

/// Whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
