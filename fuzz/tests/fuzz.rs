//! Every target for a few seconds: on its seeds, on what once failed, and on what chance makes of both.
//!
//! The seed is the same each time, so that nothing fails that nobody has changed; `FUZZ_SEED` is for another one, `FUZZ_SECONDS` for longer.
//! `FUZZ_LAST` names a file that holds the input while it runs, for one that ends the process.

use std::{path::PathBuf, time::Duration};

use embed_fuzz::{runner, target};

/// Of each target, on one thread.
const SECONDS: u64 = 5;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn fuzz(name: &str) {
    let target = target(name).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let seconds = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS));
    let last = std::env::var_os("FUZZ_LAST").map(PathBuf::from);
    match runner::run(target, seed, seconds, last.as_deref()) {
        Ok(inputs) => eprintln!("{name}: {inputs} inputs"),
        Err(failure) => panic!("{failure}"),
    }
}

macro_rules! targets {
    ($($function:ident $name:literal),* $(,)?) => {
        $(#[test] fn $function() { fuzz($name); })*

        #[test]
        fn every_target_has_a_test() {
            let names: Vec<_> = embed_fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

targets! {
    requests "requests",
    outcomes "outcomes",
    statistics "statistics",
    headers "headers",
    names "names",
    documents "documents",
    golden_texts "golden-texts",
    graphs "graphs",
    tokenizers "tokenizers",
    tokens "tokens",
    contexts "contexts",
    rows "rows",
    tables "tables",
    parquet "parquet",
    arrow "arrow",
}
