//! Fuzz targets: for everything in the project that reads what somebody else has written, what must hold whatever it is.
//!
//! A target is a function of bytes that panics if something does not hold. There are two ways to run them, see the `README.md`: the tests of
//! this crate, which change seeds at random for seconds, on any compiler; and libFuzzer, which looks at what each input reaches, for hours.

pub mod runner;
mod targets;

pub use targets::TARGETS;

/// Something that reads what others have written.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folders.
    pub name: &'static str,
    /// Reads this, and panics if what must hold does not.
    pub run: fn(&[u8]),
    /// Inputs that are as they should be, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
