//! `embed`: see `embed --help`.

mod cli;
mod commands;

use clap::Parser;

fn main() -> std::process::ExitCode {
    commands::run(cli::Cli::parse())
}
