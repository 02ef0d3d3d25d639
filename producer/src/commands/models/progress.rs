//! How far workers are, on standard error: a spinner on a terminal, else a line for each change.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use embed_control::models::{Progress, WorkerProgress};
use indicatif::{ProgressBar, ProgressStyle};

/// Tells what is being waited for.
pub(super) struct Meter {
    spinner: Option<ProgressBar>,
    said: String,
}

impl Meter {
    pub(super) fn new() -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed}  {msg}");
            let spinner =
                ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self { spinner, said: String::new() }
    }

    pub(super) fn show(&mut self, workers: &[WorkerProgress]) {
        let message = summary(workers);
        match &self.spinner {
            Some(spinner) => spinner.set_message(message),
            None if message != self.said => {
                // Nobody may be reading; that is no reason to stop.
                let _ = writeln!(std::io::stderr(), "{message}");
                self.said = message;
            }
            None => {}
        }
    }

    pub(super) fn end(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

fn summary(workers: &[WorkerProgress]) -> String {
    let count = |of: fn(&Progress) -> bool| workers.iter().filter(|one| of(&one.progress)).count();
    if workers.is_empty() {
        return "no worker answers yet".to_owned();
    }
    let served = count(|progress| matches!(progress, Progress::Live(_) | Progress::Cold));
    let failed = count(|progress| matches!(progress, Progress::Failed(_)));
    let failed = if failed > 0 { format!(", {failed} cannot") } else { String::new() };
    format!("{served} of {} workers serve it{failed}", workers.len())
}

/// What became of it on one worker.
pub(super) fn describe(one: &WorkerProgress) -> String {
    let worker = &one.worker;
    match &one.progress {
        Progress::Live(live) => format!("{worker}: {} is live, {} on {}", live.version, live.precision, live.provider),
        Progress::Cold => format!("{worker}: it is loaded when somebody asks for it"),
        Progress::Failed(failed) => format!("{worker}: {} failed: {}", failed.version, failed.reason),
        Progress::Waiting => format!("{worker}: it is being loaded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_workers() {
        let worker = |progress| WorkerProgress { worker: "w".into(), progress };
        assert_eq!(summary(&[]), "no worker answers yet");
        let all = [worker(Progress::Cold), worker(Progress::Waiting)];
        assert_eq!(summary(&all), "1 of 2 workers serve it");
    }
}
