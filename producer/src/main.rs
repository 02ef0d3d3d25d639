//! `embed`: see `embed --help`.

// Whoever was reading may have gone, which must not end a controller: see `print::note`.
#![warn(clippy::print_stderr)]

mod cli;
mod commands;

use clap::Parser;

/// A backfill takes and gives back buffers of megabytes on many threads. By itself glibc keeps them for each of eight threads a core; and where
/// they are given back at once, they are mapped anew each time. Of 100,000 rows that had not changed, one took `embed` 12.5 µs like this, and
/// 13.9 with a threshold of 8 MB and the usual one for giving back; it had 230 MB at most instead of 180 (`embed-loadtest backfill`, two runs
/// and one).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn settle_allocator() {
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
    settle_allocator();
    commands::run(cli::Cli::parse())
}
