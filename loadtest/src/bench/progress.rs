//! Progress on standard error: a bar with the time left on a terminal, else a line every few seconds.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// How far the whole is.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    last_line: Option<Instant>,
}

impl Progress {
    /// Nothing of `total` is done. Work is counted in milliseconds that it may take: what counts is its proportion.
    pub(super) fn new(total: u64) -> Self {
        if !io::stderr().is_terminal() {
            let bar = ProgressBar::hidden();
            bar.set_length(total);
            return Self { bar, last_line: Some(Instant::now()) };
        }
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  ETA {eta}  {msg}");
        Self { bar: ProgressBar::new(total).with_style(style.expect("the template is valid")), last_line: None }
    }

    /// What begins now.
    pub(super) fn begin(&mut self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
        let Some(last) = &mut self.last_line else { return };
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let percent = self.bar.position() * 100 / self.bar.length().unwrap_or_default().max(1);
            let eta = self.bar.eta().as_secs();
            // Nobody may be reading; that is no reason to stop.
            let _ = writeln!(io::stderr(), "{percent:>3} %  ETA {eta} s  {what}");
        }
    }

    /// Something to know that is not about how far it is.
    pub(super) fn note(&self, what: &str) {
        self.bar.suspend(|| {
            // Nobody may be reading; that is no reason to stop.
            let _ = writeln!(io::stderr(), "{what}");
        });
    }

    /// Work of this size is done.
    pub(super) fn done(&mut self, size: u64) {
        self.bar.inc(size);
    }

    /// All is done: the bar goes.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
