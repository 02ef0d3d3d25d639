//! Completions and man pages of every binary, made of the command line that it has: they cannot say anything else than `--help` does.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Subcommand, ValueHint};
use clap_complete::Shell;

/// Commands that every binary has beside its own.
#[derive(Debug, Subcommand)]
pub enum ShellCommand {
    /// Print what lets a shell complete this command
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the man pages of this command and its subcommands
    Man {
        /// A folder, made if it is missing
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

impl ShellCommand {
    /// Does it, for a program with this command line. A reader of completions that has gone away is no failure.
    ///
    /// # Errors
    /// If standard output, or a file, cannot be written.
    pub fn run(self, mut command: clap::Command) -> io::Result<()> {
        match self {
            Self::Completions { shell } => {
                let (name, mut script) = (command.get_name().to_owned(), Vec::new());
                clap_complete::generate(shell, &mut command, name, &mut script);
                match io::stdout().lock().write_all(&script) {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                    _ => Ok(()),
                }
            }
            Self::Man { dir } => {
                let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
                fs::create_dir_all(&dir).map_err(named)?;
                clap_mangen::generate_to(command, &dir).map_err(named)
            }
        }
    }
}
