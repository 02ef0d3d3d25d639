//! `embed`: see `embed --help`.

// Whoever was reading may have gone, which must not end a controller: see `print::note`.
#![warn(clippy::print_stderr)]

mod cli;
mod commands;

use clap::Parser;

/// A backfill takes and gives back buffers of megabytes on many threads. By itself glibc keeps them for each of eight threads a core; and if
/// they are all given back at once, a tenth of what it computes goes into having them mapped again (`embed-loadtest backfill`).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_memory_back() {
    /// The largest that glibc takes, but for a little.
    const LARGE: libc::c_int = 32_000_000;
    // SAFETY: it is the first thing that the program does, so no other thread uses the allocator; both are parameters that glibc documents.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

fn main() -> std::process::ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    give_memory_back();
    commands::run(cli::Cli::parse())
}
