//! How a backfill goes, on standard error: a bar on a terminal, a line every few seconds, or a JSON object every second.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use embed_backfill::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::Instant;

use super::metrics;
use crate::cli::backfill::manners::ProgressForm;

/// Between two lines of progress for people.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Between two lines of progress for programs.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// Tells how it goes.
pub(super) struct Meter {
    form: Form,
    /// When a line was written.
    last: Instant,
}

enum Form {
    Bar(ProgressBar),
    Lines,
    Json,
    Nothing,
}

impl Meter {
    pub(super) fn new(form: ProgressForm) -> Self {
        let form = match form {
            ProgressForm::Auto if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::no_length();
                let style = ProgressStyle::with_template("{bar:20} {percent:>3} %  {msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                Form::Bar(bar)
            }
            ProgressForm::Auto => Form::Lines,
            ProgressForm::Json => Form::Json,
            ProgressForm::None => Form::Nothing,
        };
        Self { form, last: Instant::now() }
    }

    pub(super) fn show(&mut self, progress: &Progress, begun: &Begun) {
        metrics::hear(progress);
        let left = begun.left(progress);
        let is_time = self.is_time();
        match &self.form {
            Form::Bar(bar) => {
                if let (None, Some(size)) = (bar.length(), progress.input_size) {
                    bar.set_length(size);
                }
                bar.set_position(progress.input_bytes);
                bar.set_message(line(progress, left));
            }
            Form::Lines if is_time => {
                let of = progress.input_size.map_or(String::new(), |size| format!(" of {size}"));
                // Nobody may be reading; that is no reason to stop.
                let _ = writeln!(std::io::stderr(), "{}, {}{of} bytes", line(progress, left), progress.input_bytes);
            }
            Form::Json if is_time => {
                let _ = writeln!(std::io::stderr(), "{}", object(progress, left));
            }
            Form::Lines | Form::Json | Form::Nothing => {}
        }
    }

    fn is_time(&mut self) -> bool {
        let every = if matches!(self.form, Form::Json) { JSON_EVERY } else { LINE_EVERY };
        let is_time = self.last.elapsed() >= every;
        if is_time {
            self.last = Instant::now();
        }
        is_time
    }

    /// The last that is told of it.
    pub(super) fn end(&mut self, last: Option<&Progress>) {
        match (&self.form, last) {
            (Form::Bar(bar), _) => bar.finish_and_clear(),
            (Form::Json, Some(progress)) => {
                let _ = writeln!(std::io::stderr(), "{}", object(progress, None));
            }
            _ => {}
        }
    }
}

/// Where a run began: what earlier runs did must not count as its speed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Begun {
    bytes: Option<u64>,
}

impl Begun {
    /// Hears how it goes for the first time, or once more.
    pub(super) fn hear(&mut self, progress: &Progress) {
        self.bytes.get_or_insert(progress.input_bytes);
    }

    /// The time that is left, if that can be told.
    fn left(&self, progress: &Progress) -> Option<Duration> {
        let done = progress.input_bytes.checked_sub(self.bytes?).filter(|done| *done > 0)?;
        let left = progress.input_size?.saturating_sub(progress.input_bytes);
        // Precise up to 2^53 bytes, and bounded by what a duration holds.
        let seconds = progress.elapsed.as_secs_f64() * left as f64 / done as f64;
        Duration::try_from_secs_f64(seconds.round()).ok()
    }
}

fn rate(progress: &Progress) -> f64 {
    // Precise up to 2^53 rows.
    progress.rows_now as f64 / progress.elapsed.as_secs_f64().max(0.001)
}

/// For people.
fn line(progress: &Progress, left: Option<Duration>) -> String {
    let Progress { rows, failed, tokens_now, in_flight, waiting, is_held, .. } = progress;
    let mut text = format!("{rows} rows, {failed} failed, {:.0} rows/s, {tokens_now} tokens", rate(progress));
    text += &format!(", {in_flight} jobs in flight");
    if let Some(waiting) = waiting {
        text += &format!(", {waiting} queued");
    }
    if let Some(left) = left {
        text += &format!(", {} left", humantime::format_duration(left));
    }
    if *is_held {
        text += ", waiting for room in a stream";
    }
    text
}

/// For programs.
fn object(progress: &Progress, left: Option<Duration>) -> serde_json::Value {
    let Progress { rows, rows_now, reused, failed, input_bytes, input_size, .. } = progress;
    let Progress { tokens_now, in_flight, waiting, is_held, elapsed, .. } = progress;
    json!({
        "rows": rows,
        "rows_now": rows_now,
        "rows_per_second": rate(progress),
        "reused": reused,
        "failed": failed,
        "tokens_now": tokens_now,
        "input_bytes": input_bytes,
        "input_size": input_size,
        "jobs_in_flight": in_flight,
        "jobs_queued": waiting,
        "waits_for_room": is_held,
        "seconds": elapsed.as_secs_f64(),
        "seconds_left": left.map(|left| left.as_secs()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRESS: Progress = Progress {
        rows: 700,
        rows_now: 200,
        reused: 0,
        failed: 3,
        input_bytes: 7_000,
        input_size: Some(10_000),
        tokens_now: 1_234,
        in_flight: 5,
        waiting: Some(9),
        is_held: false,
        elapsed: Duration::from_secs(4),
    };

    #[test]
    fn the_time_left_is_that_of_this_run() {
        let mut begun = Begun::default();
        begun.hear(&Progress { input_bytes: 5_000, ..PROGRESS });
        begun.hear(&PROGRESS);
        let left = begun.left(&PROGRESS);
        assert_eq!(left, Some(Duration::from_secs(6)));
        assert_eq!(begun.left(&Progress { input_size: None, ..PROGRESS }), None);
        let text = line(&PROGRESS, left);
        assert_eq!(text, "700 rows, 3 failed, 50 rows/s, 1234 tokens, 5 jobs in flight, 9 queued, 6s left");
        let held = line(&Progress { is_held: true, ..PROGRESS }, None);
        assert!(held.ends_with("waiting for room in a stream"), "{held}");
        assert_eq!(object(&PROGRESS, left)["seconds_left"], json!(6));
    }
}
