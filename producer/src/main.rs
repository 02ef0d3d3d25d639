//! `embed`: see `embed --help`.

// Whoever was reading may have gone, which must not end a controller: see `print::note`.
#![warn(clippy::print_stderr)]

mod cli;
mod commands;

use clap::Parser;

fn main() -> std::process::ExitCode {
    commands::run(cli::Cli::parse())
}
