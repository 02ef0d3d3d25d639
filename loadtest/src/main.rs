//! `embed-loadtest`: parses its command line and runs.

use std::process::ExitCode;

use clap::Parser;
use embed_loadtest::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
