//! How far an upload or a check is, on standard error: a bar on a terminal, else a line for each file.

use std::io::{self, IsTerminal, Write};

use embed_registry::{Progress, Step};
use indicatif::{ProgressBar, ProgressStyle};

/// The current file.
pub(super) struct Files {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Files {
    pub(super) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{msg}  {bar:30} {binary_bytes} of {binary_total_bytes}  ETA {eta}");
        let bar = if is_terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        Self { bar: bar.with_style(style.expect("the template is valid")), is_terminal }
    }
}

impl Progress for Files {
    fn begin(&self, step: Step, file: &str, bytes: u64) {
        let what = match step {
            Step::Verify => "verifying",
            Step::Upload => "uploading",
            Step::Download => "downloading",
            Step::Skip => "already there",
            Step::Wait => "waiting for another process",
        };
        if !self.is_terminal {
            // Nobody may be reading; that is no reason to stop.
            let _ = writeln!(io::stderr(), "{what}: {file}, {bytes} bytes");
        }
        self.bar.reset();
        self.bar.set_length(bytes);
        self.bar.set_message(format!("{what} {file}"));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
