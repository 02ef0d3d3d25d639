//! `embed backfill status`

use std::time::Duration;

use embed_backfill::{self as backfill, Known, KnownEntry, State};
use embed_client::Client;
use embed_connect::ConnectSettings;
use serde_json::json;

use super::{reasons, reused_rows};
use crate::{
    cli::backfill::ledger::NameArgs,
    commands::{Status, print},
};

/// What stands beside an output is told without a server, too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn run(args: &NameArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let known = match backfill::look(None, &args.name).await {
        Ok(beside) => {
            let asked = async {
                let client = Client::connect(connect).await?;
                Ok::<_, anyhow::Error>(backfill::look(Some(&client), &args.name).await?)
            };
            // Without a server, or the right to ask it.
            match tokio::time::timeout(CONNECT_TIMEOUT, asked).await {
                Ok(Ok(known)) => known,
                _ => beside,
            }
        }
        Err(unknown) => match Client::connect(connect).await {
            Ok(client) => backfill::look(Some(&client), &args.name).await?,
            Err(_) => return Err(unknown.into()),
        },
    };
    if json {
        print::json_line(&as_json(known)?)?;
    } else {
        print::line(describe(&known))?;
    }
    Ok(Status::Done)
}

/// The state without its key, a secret: whoever has that can remove the results.
fn as_json(known: Known) -> anyhow::Result<serde_json::Value> {
    let Known { state, output, entry } = known;
    let mut value = serde_json::to_value(State { removal_key: None, ..state })?;
    value["output"] = output.into();
    if let Some(KnownEntry { phase, wish, runner, lease_left, progress }) = entry {
        value["entry"] = json!({
            "phase": phase, "wish": wish, "runner": runner, "lease_left_ms": lease_left.as_millis() as u64, "progress": progress,
        });
    }
    Ok(value)
}

fn describe(known: &Known) -> String {
    let State { id, parameters, plan, stored, reused, failed, failures, finished, cancelled, .. } = &known.state;
    let (done, bytes) = (known.state.done, plan.bytes_before(known.state.done));
    let of = match plan.bytes() {
        None => format!("{bytes} bytes"),
        Some(0) => "0 bytes, 100 %".to_owned(),
        Some(size) => format!("{bytes} of {size} bytes, {} %", bytes * 100 / size),
    };
    let phase = match (&known.entry, cancelled, finished) {
        (_, true, _) => "cancelled".to_owned(),
        (_, _, true) => "finished".to_owned(),
        (Some(entry), ..) => format!("unfinished, {}", entry.phase),
        (None, ..) => "unfinished".to_owned(),
    };
    let runner = known.entry.as_ref().and_then(|entry| {
        let runner = entry.runner.as_ref().filter(|_| !entry.lease_left.is_zero())?;
        let left = Duration::from_secs(entry.lease_left.as_secs() + 1);
        Some(format!("\n  runner   {runner}, for {} if it is not heard of", humantime::format_duration(left)))
    });
    format!(
        "backfill {id}: {phase}\n  input    {} ({of})\n  output   {}\n  model    {}{}\n  rows     {} done, {stored} stored{}, {failed} failed{}{}",
        parameters.inputs.join(", "),
        known.output,
        parameters.model,
        parameters.variant.as_ref().map(|v| format!(", variant {v}")).unwrap_or_default(),
        done.rows,
        reused_rows(*reused),
        runner.unwrap_or_default(),
        reasons(failures),
    )
}
