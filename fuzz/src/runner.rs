//! Runs a target on its regressions, and then on changed seeds until the time is over. Knows nothing of what is reached; needs no special
//! compiler.

use std::{
    fmt, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use embed_testkit::mutate::mutated;
use fastrand::Rng;

use crate::Target;

/// Longest input. A message is at most 1 MiB; what is in it repeats long before.
const LONGEST: usize = 256 << 10;
/// An input that takes longer holds everybody else up, on any machine.
const SLOW: Duration = Duration::from_secs(20);

/// An input with which something does not hold.
#[derive(Debug)]
pub struct Failure {
    /// Which target.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
    /// Where it is kept, if it could be.
    pub file: Option<PathBuf>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, input, file } = self;
        write!(f, "{target} panics, or takes more than {SLOW:?}, with {} bytes", input.len())?;
        match file {
            Some(file) => write!(f, ", kept as {}: it belongs into fuzz/regressions/{target}", file.display()),
            None => write!(f, ": {}", input.escape_ascii()),
        }
    }
}

/// Inputs on which the target once failed, and seeds that are files.
#[must_use]
pub fn regressions(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target.name);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files.into_iter().filter_map(|file| fs::read(file).ok()).collect()
}

/// Runs it, and says on how many inputs.
///
/// `last` is a file that holds each input while it runs: what ends the process leaves nothing else behind.
///
/// # Errors
/// The first input with which something does not hold.
pub fn run(target: &Target, seed: u64, how_long: Duration, last: Option<&Path>) -> Result<u64, Box<Failure>> {
    let mut seeds = (target.seeds)();
    seeds.extend(regressions(target));
    let begun = Instant::now();
    for input in &seeds {
        run_one(target, input, last)?;
    }
    let mut rng = Rng::with_seed(seed);
    let mut inputs = seeds.len() as u64;
    while begun.elapsed() < how_long {
        run_one(target, &mutated(&mut rng, &seeds, LONGEST), last)?;
        inputs += 1;
    }
    Ok(inputs)
}

fn run_one(target: &Target, input: &[u8], last: Option<&Path>) -> Result<(), Box<Failure>> {
    if let Some(last) = last {
        // Without it, an input that ends the process is found again with the same seed.
        let _ = fs::write(last, input);
    }
    let begun = Instant::now();
    let is_fine = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok();
    if is_fine && begun.elapsed() < SLOW {
        return Ok(());
    }
    let file = std::env::temp_dir().join(format!("fuzz-{}-{:x}", target.name, Rng::new().u64(..)));
    let kept = fs::write(&file, input).is_ok();
    Err(Box::new(Failure { target: target.name, input: input.to_vec(), file: kept.then_some(file) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_fails_is_found_and_kept() {
        let target = Target {
            name: "no-such",
            run: |bytes| assert!(!bytes.contains(&b'['), "a bracket"),
            seeds: || vec![b"{}".to_vec()],
        };
        let failure = run(&target, 1, Duration::from_secs(60), None).unwrap_err();
        assert!(failure.input.contains(&b'['));
        let file = failure.file.as_deref().unwrap();
        assert_eq!(fs::read(file).unwrap(), failure.input);
        assert!(failure.to_string().contains("fuzz/regressions/no-such"), "{failure}");
        fs::remove_file(file).unwrap();
        let fine = Target { run: |_| {}, ..target };
        assert!(run(&fine, 1, Duration::from_millis(5), None).unwrap() > 1);
    }
}
