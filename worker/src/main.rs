//! `embed-worker`: parses its command line and runs.

use std::process::ExitCode;

use clap::Parser;
use embed_worker::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
