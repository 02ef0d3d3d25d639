//! The target that `FUZZ_TARGET` names, for libFuzzer; see `fuzz.sh`.
#![no_main]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::abort,
    sync::LazyLock,
};

use embed_fuzz::{Target, runner::regressions, target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    target(&name).unwrap_or_else(|| panic!("FUZZ_TARGET: there is no target {name:?}"))
});

libfuzzer_sys::fuzz_target!(
    init: {
        // A panic ends the process by itself, unless that is taken back: what catches its panics may have them.
        drop(std::panic::take_hook());
        let target = *LazyLock::force(&TARGET);
        // What libFuzzer begins with. It reads its corpus after this.
        if let Some(corpus) = std::env::var_os("FUZZ_CORPUS").map(std::path::PathBuf::from) {
            let seeds = (target.seeds)().into_iter().chain(regressions(target));
            for (n, seed) in seeds.enumerate() {
                fs::write(corpus.join(format!("seed-{n}")), seed).expect("FUZZ_CORPUS: it can be written to");
            }
        }
    },
    |bytes: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| (TARGET.run)(bytes))).is_err() {
            abort();
        }
    }
);
