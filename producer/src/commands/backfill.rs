//! `embed backfill`

mod estimate;
mod meter;
mod metrics;

use std::path::Path;

use embed_backfill::{self as backfill, Failures, Pace, Parameters, Progress, State, Summary};
use embed_client::{Client, RESTART};
use embed_connect::ConnectSettings;

use self::meter::{Begun, Meter};
use super::{Status, asked_to_stop, print};
use crate::cli::backfill::{BackfillCommand, PaceArgs};

pub(super) async fn run(command: BackfillCommand, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let is_stream = |path: &Path| path.as_os_str() == "-";
    let to_stream = matches!(&command, BackfillCommand::Run(args) if is_stream(&args.output));
    let from_stream =
        matches!(&command, BackfillCommand::Run(args) if args.inputs.iter().any(|input| is_stream(Path::new(input))));
    let summary = match command {
        BackfillCommand::Status { output } => return status(&backfill::status(&output)?, json),
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
                text_field: args.text_field,
                id_field: args.id_field,
                keep: args.keep,
                chunk: usize::from(args.chunk),
                retry: args.retry.retry(),
            };
            let client = Client::connect(connect).await?;
            check_served(&client, &parameters, &args.pace).await?;
            if args.estimate.dry_run {
                return estimate(&client, parameters, &args.pace, args.estimate.price_per_hour, json).await;
            }
            let mut told = Told::new(&args.pace).await?;
            let progress = |progress: &Progress| told.hear(progress);
            let pace = pace(&args.pace);
            let run =
                backfill::run(&client, parameters, &args.output, args.force, &pace, asked_to_stop(), progress).await;
            told.end();
            run
        }
        BackfillCommand::Resume(args) => {
            let state = backfill::status(&args.output)?;
            let client = Client::connect(connect).await?;
            if !state.finished {
                check_served(&client, &state.parameters, &args.pace).await?;
            }
            let mut told = Told::new(&args.pace).await?;
            let progress = |progress: &Progress| told.hear(progress);
            let run = backfill::resume(&client, &args.output, &pace(&args.pace), asked_to_stop(), progress).await;
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
            metrics::serve(address).await?;
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
        manners: args.manners.manners(),
        ..Pace::default()
    }
}

fn describe(summary: &Summary, can_go_on: bool) -> String {
    let Summary { rows, stored, failed, failures, seconds, rows_per_second, finished, output, .. } = summary;
    let output = output.display();
    let numbers = format!("{rows} rows, {stored} stored, {failed} failed; {seconds:.1} s, {rows_per_second:.0} rows/s");
    let reasons = reasons(failures);
    match (finished, can_go_on) {
        (true, _) => format!("{output}: {numbers}{reasons}"),
        (false, true) => {
            format!("{output}: stopped after {numbers}. Go on with `embed backfill resume {output}`{reasons}")
        }
        (false, false) => format!("{output}: stopped after {numbers}{reasons}"),
    }
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
            text += &format!("\n    {line}{message}");
        }
        if reason.rows > reason.first.len() as u64 {
            text += "\n    …";
        }
    }
    text
}

fn status(state: &State, json: bool) -> anyhow::Result<Status> {
    if json {
        // A secret: whoever has it can remove the results.
        print::json_line(&State { removal_key: None, ..state.clone() })?;
        return Ok(Status::Done);
    }
    let State { id, parameters, plan, stored, failed, failures, finished, .. } = state;
    let (done, bytes) = (state.done, plan.bytes_before(state.done));
    let of = match plan.bytes() {
        None => format!("{bytes} bytes"),
        Some(0) => "0 bytes, 100 %".to_owned(),
        Some(size) => format!("{bytes} of {size} bytes, {} %", bytes * 100 / size),
    };
    print::line(format_args!(
        "backfill {id}: {}\n  input    {} ({of})\n  model    {}{}\n  rows     {} done, {stored} stored, {failed} failed{}",
        if *finished { "finished" } else { "unfinished" },
        parameters.inputs.join(", "),
        parameters.model,
        parameters.variant.as_ref().map(|v| format!(", variant {v}")).unwrap_or_default(),
        done.rows,
        reasons(failures),
    ))?;
    Ok(Status::Done)
}
