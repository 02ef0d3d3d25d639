//! `embed backfill`

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_producer::backfill::{self, Pace, Parameters, Progress, State, Summary};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{Status, asked_to_stop, print};
use crate::cli::{BackfillCommand, PaceArgs};

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(command: BackfillCommand, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let mut meter = Meter::new();
    let summary = match command {
        BackfillCommand::Status { output } => return status(&backfill::status(&output)?, json),
        BackfillCommand::Run(args) => {
            let parameters = Parameters {
                input: args.input,
                model: args.model.model,
                variant: args.model.variant,
                prompt: args.model.prompt,
                truncate: !args.model.no_truncate,
                dimensions: args.model.dimensions,
                space: args.space,
                text_field: args.text_field,
                id_field: args.id_field,
                chunk: usize::from(args.chunk),
            };
            let client = Client::connect(connect).await?;
            let progress = |progress: &Progress| meter.show(progress);
            backfill::run(&client, parameters, &args.output, args.force, &pace(&args.pace), asked_to_stop(), progress)
                .await
        }
        BackfillCommand::Resume(args) => {
            let client = Client::connect(connect).await?;
            let progress = |progress: &Progress| meter.show(progress);
            backfill::resume(&client, &args.output, &pace(&args.pace), asked_to_stop(), progress).await
        }
    };
    meter.end();
    let summary = summary?;
    if json {
        print::json_line(&summary)?;
    } else {
        print::line(describe(&summary))?;
    }
    Ok(if summary.finished && summary.failed == 0 { Status::Done } else { Status::Unsuccessful })
}

fn pace(args: &PaceArgs) -> Pace {
    Pace {
        window: usize::from(args.window),
        stall_timeout: args.stall_timeout,
        keep_results: args.keep_results,
        ..Pace::default()
    }
}

fn describe(summary: &Summary) -> String {
    let Summary { rows, stored, failed, seconds, rows_per_second, finished, output, .. } = summary;
    let output = output.display();
    let numbers = format!("{rows} rows, {stored} stored, {failed} failed; {seconds:.1} s, {rows_per_second:.0} rows/s");
    match finished {
        true => format!("{output}: {numbers}"),
        false => format!("{output}: stopped after {numbers}. Go on with `embed backfill resume {output}`"),
    }
}

fn status(state: &State, json: bool) -> anyhow::Result<Status> {
    if json {
        print::json_line(state)?;
        return Ok(Status::Done);
    }
    let State { id, parameters, done, stored, failed, input_size, finished, .. } = state;
    let percent = if *input_size == 0 { 100 } else { done.bytes * 100 / input_size };
    print::line(format_args!(
        "backfill {id}: {}\n  input    {} ({} of {input_size} bytes, {percent} %)\n  model    {}{}\n  rows     {} done, \
         {stored} stored, {failed} failed",
        if *finished { "finished" } else { "unfinished" },
        parameters.input.display(),
        done.bytes,
        parameters.model,
        parameters.variant.as_ref().map(|v| format!(", variant {v}")).unwrap_or_default(),
        done.rows,
    ))?;
    Ok(Status::Done)
}

/// Progress on standard error: a bar on a terminal, else a line every few seconds.
enum Meter {
    Bar(ProgressBar),
    Lines(Instant),
}

impl Meter {
    fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Instant::now());
        }
        let bar = ProgressBar::no_length();
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  ETA {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bar(bar)
    }

    fn show(&mut self, progress: &Progress) {
        let seconds = progress.elapsed.as_secs_f64().max(0.001);
        let Progress { rows, failed, input_bytes, input_size, .. } = *progress;
        let message = format!("{rows} rows, {failed} failed, {:.0} rows/s", progress.rows_now as f64 / seconds);
        match self {
            Self::Bar(bar) => {
                if bar.length().is_none() {
                    // What earlier runs did must not count as this run's speed.
                    bar.set_length(input_size);
                    bar.set_position(input_bytes);
                    bar.reset_eta();
                }
                bar.set_position(input_bytes);
                bar.set_message(message);
            }
            Self::Lines(last) if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                // Nobody may be reading; that is no reason to stop.
                let _ = writeln!(std::io::stderr(), "{message}, {input_bytes} of {input_size} bytes");
            }
            Self::Lines(_) => {}
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
