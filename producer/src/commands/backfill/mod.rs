//! `embed backfill`

mod list;
mod status;
mod wishes;

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::Duration,
};

use embed_backfill::{self as backfill, Failures, Pace, Parameters, Progress, Summary, Wish};
use embed_client::{Client, RESTART};
use embed_connect::ConnectSettings;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{Status, asked_to_stop, print, registry};
use crate::cli::backfill::{BackfillCommand, PaceArgs};

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(command: BackfillCommand, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let mut meter = Meter::new();
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
            };
            let client = Client::connect(connect).await?;
            check_served(&client, &parameters, &args.pace).await?;
            let progress = |progress: &Progress| meter.show(progress);
            backfill::run(&client, parameters, &args.output, args.force, &pace(&args.pace), asked_to_stop(), progress)
                .await
        }
        BackfillCommand::Resume(args) => {
            let client = Client::connect(connect).await?;
            let state = backfill::look(Some(&client), &args.name.name).await?.state;
            if !state.finished && !state.cancelled {
                check_served(&client, &state.parameters, &args.pace).await?;
            }
            let progress = |progress: &Progress| meter.show(progress);
            backfill::resume(&client, &args.name.name, &pace(&args.pace), asked_to_stop(), progress).await
        }
    };
    meter.end();
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
    let reasons = reasons(failures);
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
        let Progress { rows, reused, failed, input_bytes, input_size, .. } = *progress;
        let message = format!(
            "{rows} rows{}, {failed} failed, {:.0} rows/s",
            reused_rows(reused),
            progress.rows_now as f64 / seconds
        );
        match self {
            Self::Bar(bar) => {
                if let (None, Some(size)) = (bar.length(), input_size) {
                    // What earlier runs did must not count as this run's speed.
                    bar.set_length(size);
                    bar.set_position(input_bytes);
                    bar.reset_eta();
                }
                bar.set_position(input_bytes);
                bar.set_message(message);
            }
            Self::Lines(last) if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let of = input_size.map_or(String::new(), |size| format!(" of {size}"));
                // Nobody may be reading; that is no reason to stop.
                let _ = writeln!(std::io::stderr(), "{message}, {input_bytes}{of} bytes");
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
