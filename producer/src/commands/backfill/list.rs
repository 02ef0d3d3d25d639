//! `embed backfill list`

use embed_backfill::{self as backfill, Listed};
use embed_client::Client;
use embed_connect::ConnectSettings;

use crate::{
    cli::backfill::ledger::ListArgs,
    commands::{Status, print, table},
};

pub(super) async fn run(args: &ListArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let client = Client::connect(connect).await?;
    if let Some(age) = args.purge {
        let removed = backfill::remove_old(&client, age).await?;
        print::note(format_args!("{} forgotten", removed.len()));
    }
    let all = backfill::list(&client).await?;
    if json {
        for one in &all {
            print::json_line(one)?;
        }
        return Ok(Status::Done);
    }
    if all.is_empty() {
        print::note("no backfills: those of tenants, and of standard input or output, are not recorded");
        return Ok(Status::Done);
    }
    let rows: Vec<[String; 8]> = all.iter().map(row).collect();
    for line in table::lines(["ID", "PHASE", "ROWS", "FAILED", "DONE", "ROWS/S", "RUNNER", "OUTPUT"], &rows) {
        print::line(line)?;
    }
    Ok(Status::Done)
}

fn row(one: &Listed) -> [String; 8] {
    let progress = &one.progress;
    let done = match progress.input_size {
        Some(size) if size > 0 => format!("{} %", progress.input_bytes * 100 / size),
        _ => "-".to_owned(),
    };
    let runner = one.runner.as_ref().map_or_else(|| "-".to_owned(), |runner| format!("{}/{}", runner.host, runner.pid));
    [
        one.id.to_string(),
        one.phase.to_string(),
        progress.rows.to_string(),
        progress.failed.to_string(),
        done,
        if one.runner.is_some() { format!("{:.0}", progress.rows_per_second) } else { "-".to_owned() },
        runner,
        one.output.clone(),
    ]
}
