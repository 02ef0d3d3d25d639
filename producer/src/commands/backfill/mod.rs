//! `embed backfill`

mod estimate;
mod list;
mod meter;
mod metrics;
mod status;
mod wishes;

use std::path::Path;

use embed_backfill::{self as backfill, Failures, Pace, Parameters, Progress, Skipped, Summary, Wish};
use embed_client::{Client, RESTART};
use embed_connect::ConnectSettings;
use embed_otlp::Recorder;

use self::meter::{Begun, Meter};
use super::{Status, asked_to_stop, print, registry};
use crate::cli::backfill::{BackfillCommand, PaceArgs};

pub(super) async fn run(
    command: BackfillCommand,
    connect: &ConnectSettings,
    json: bool,
    recorder: &Recorder,
) -> anyhow::Result<Status> {
    let is_stream = |path: &Path| path.as_os_str() == "-";
    let to_stream = matches!(&command, BackfillCommand::Run(args) if is_stream(&args.output));
    let from_stream =
        matches!(&command, BackfillCommand::Run(args) if args.inputs.iter().any(|input| is_stream(Path::new(input))));
    let summary = match command {
        BackfillCommand::List(args) => return list::run(&args, connect, json).await,
        BackfillCommand::Status(args) => return status::run(&args, connect, json).await,
        BackfillCommand::Pause(args) => return wishes::pause(&args, connect, json).await,
        BackfillCommand::Cancel(args) => return wishes::cancel(&args, connect, json).await,
        BackfillCommand::Run(args) => {
            let args = *args;
            let parameters = Parameters {
                inputs: args.inputs,
                model: args.model.model,
                variant: args.model.variant,
                tenant: args.tenant,
                prompt: args.model.prompt,
                truncate: !args.model.no_truncate,
                dimensions: args.model.dimensions,
                space: args.space,
                reading: args.input.reading(args.pace.skip_bad_files),
                text_field: args.input.text_field.unwrap_or_default(),
                id_field: args.input.id_field.unwrap_or_default(),
                keep: args.keep,
                chunk: usize::from(args.chunk),
                reuse: args.reuse.into(),
                writing: args.writing.writing(),
                long: args.long.long(!args.model.no_truncate)?,
                retry: args.retry.retry(),
                encoding: None,
            };
            let client = Client::connect(connect).await?;
            check_served(&client, &parameters, &args.pace).await?;
            if args.estimate.dry_run {
                return estimate(&client, parameters, &args.pace, args.estimate.price_per_hour, json).await;
            }
            let mut told = Told::new(&args.pace).await?;
            let progress = |progress: &Progress| told.hear(progress);
            let pace = Pace { recorder: recorder.clone(), ..pace(&args.pace) };
            let run =
                backfill::run(&client, parameters, &args.output, args.force, &pace, asked_to_stop(), progress).await;
            told.end();
            run
        }
        BackfillCommand::Resume(args) => {
            let client = Client::connect(connect).await?;
            let state = backfill::look(Some(&client), &args.name.name).await?.state;
            if !state.finished && !state.cancelled {
                check_served(&client, &state.parameters, &args.pace).await?;
            }
            let mut told = Told::new(&args.pace).await?;
            let progress = |progress: &Progress| told.hear(progress);
            let pace = Pace { recorder: recorder.clone(), ..pace(&args.pace) };
            let run = backfill::resume(&client, &args.name.name, &pace, asked_to_stop(), progress).await;
            told.end();
            run
        }
    };
    let summary = summary?;
    let told = if json { serde_json::to_string(&summary)? } else { describe(&summary, !to_stream && !from_stream) };
    if to_stream {
        // Standard output is for rows.
        print::note(told);
    } else {
        print::line(told)?;
    }
    Ok(match (summary.finished, summary.failed) {
        (true, 0) => Status::Done,
        (true, _) => Status::Failures,
        (false, _) => Status::Unsuccessful,
    })
}

/// Says what a backfill would take.
async fn estimate(
    client: &Client,
    parameters: Parameters,
    args: &PaceArgs,
    price: Option<f64>,
    json: bool,
) -> anyhow::Result<Status> {
    let pace = pace(args);
    let found = backfill::estimate(client, parameters, &pace, price);
    let found = tokio::select! {
        found = found => found?,
        () = asked_to_stop() => return Ok(Status::Unsuccessful),
    };
    if json {
        print::json_line(&found)?;
    } else {
        print::line(estimate::describe(&found))?;
    }
    Ok(Status::Done)
}

/// Who is told how it goes.
struct Told {
    meter: Meter,
    begun: Begun,
    last: Option<Progress>,
}

impl Told {
    async fn new(args: &PaceArgs) -> anyhow::Result<Self> {
        if let Some(address) = args.manners.metrics_listen {
            super::metrics::serve(address).await?;
        }
        Ok(Self { meter: Meter::new(args.manners.progress), begun: Begun::default(), last: None })
    }

    fn hear(&mut self, progress: &Progress) {
        self.begun.hear(progress);
        self.meter.show(progress, &self.begun);
        self.last = Some(*progress);
    }

    fn end(&mut self) {
        self.meter.end(self.last.as_ref());
    }
}

/// Jobs that nobody takes would be waited for until the stall time-out.
async fn check_served(client: &Client, parameters: &Parameters, args: &PaceArgs) -> anyhow::Result<()> {
    if !args.allow_unserved {
        client.check_served(&parameters.model, parameters.variant.as_ref(), RESTART).await?;
    }
    Ok(())
}

fn pace(args: &PaceArgs) -> Pace {
    Pace {
        window: usize::from(args.window),
        stall_timeout: args.stall_timeout,
        keep_results: args.keep_results,
        // Who cuts no texts needs none.
        registry: registry(args.tokenizer.registry.clone()).ok(),
        skip_bad_files: args.skip_bad_files,
        manners: args.manners.manners(),
        ..Pace::default()
    }
}

fn describe(summary: &Summary, can_go_on: bool) -> String {
    let Summary { rows, stored, reused, removed, failed, failures, seconds, rows_per_second, asked, id, .. } = summary;
    let (finished, output) = (summary.finished, summary.output.display());
    let reused = reused_rows(*reused);
    let removed = removed.map(|removed| format!(", {removed} removed")).unwrap_or_default();
    let numbers = format!(
        "{rows} rows, {stored} stored{reused}{removed}, {failed} failed; {seconds:.1} s, {rows_per_second:.0} rows/s"
    );
    let numbers = numbers + &long(summary);
    let reasons = skipped(&summary.skipped) + &reasons(failures);
    match (finished, can_go_on) {
        _ if *asked == Some(Wish::Cancel) => format!("{output}: cancelled after {numbers}{reasons}"),
        (false, true) if *asked == Some(Wish::Pause) => {
            format!(
                "{output}: paused after {numbers}. Go on with `embed backfill resume {output}`, or from elsewhere {id}{reasons}"
            )
        }
        (true, _) => format!("{output}: {numbers}{reasons}"),
        (false, true) => {
            format!("{output}: stopped after {numbers}. Go on with `embed backfill resume {output}`{reasons}")
        }
        (false, false) => format!("{output}: stopped after {numbers}{reasons}"),
    }
}

/// Where there are none, nothing is said of them.
fn reused_rows(reused: u64) -> String {
    if reused == 0 { String::new() } else { format!(", {reused} reused") }
}

/// What became of long texts, if there were any.
fn long(summary: &Summary) -> String {
    let Summary { truncated, split, windows, .. } = summary;
    let cut = if *truncated > 0 { format!("; {truncated} cut off") } else { String::new() };
    if *split > 0 { format!("{cut}; {split} in {windows} windows") } else { cut }
}

/// Which files could not be read, if there are any.
fn skipped(skipped: &Skipped) -> String {
    let Skipped { files, first } = skipped;
    if *files == 0 {
        return String::new();
    }
    let more = if *files > first.len() as u64 { ", …" } else { "" };
    format!("\n  files left out, wholly or in part ({files}): {}{more}", first.join(", "))
}

/// Why rows have no vector: a line for each code, with the first rows below it.
fn reasons(failures: &Failures) -> String {
    let mut text = String::new();
    for (code, reason) in failures {
        text += &format!("\n  {} failed with {code}:", reason.rows);
        for example in &reason.first {
            // Some messages name their line themselves.
            let line = format!("line {}: ", example.line);
            let message = example.message.strip_prefix(&line).unwrap_or(&example.message);
            text += &format!("\n    {}: {message}", example.place());
        }
        if reason.rows > reason.first.len() as u64 {
            text += "\n    …";
        }
    }
    text
}
