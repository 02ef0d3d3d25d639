//! What the files of an output in parts are called, so that a later run knows which of them are its own.

use super::PartFormat;

/// Written last: the output is complete when it is there.
pub(crate) const MANIFEST: &str = "manifest.json";

const PART: &str = "part-";
const FAILED: &str = "failed-";
/// With so many digits at least, names sort as their numbers do.
const DIGITS: usize = 5;

/// Hexadecimal digits that tell a run from others.
const RUN_DIGITS: usize = 12;

/// Part of the names of a run's files, where nothing keeps a run from writing that has lost its lease: so it writes to no file of another's.
#[derive(Debug, Clone, Default)]
pub(super) struct Run(Option<String>);

impl Run {
    /// One that no other has.
    pub(super) fn new(random: u64) -> Self {
        let mut digits = format!("{random:016x}");
        digits.truncate(RUN_DIGITS);
        Self(Some(digits))
    }

    fn name(&self, prefix: &str, number: u32, ending: &str) -> String {
        let run = self.0.as_ref().map(|run| format!("-{run}")).unwrap_or_default();
        format!("{prefix}{number:0DIGITS$}{run}.{ending}")
    }

    /// Of the vectors.
    pub(super) fn part(&self, number: u32, format: PartFormat) -> String {
        self.name(PART, number, format.ending())
    }

    /// Of what belongs to the rows of a part that holds nothing but vectors.
    pub(super) fn ids(&self, number: u32) -> String {
        self.name(PART, number, "ids.jsonl")
    }

    /// Of the rows that have no vector.
    pub(super) fn failed(&self, number: u32) -> String {
        self.name(FAILED, number, "jsonl")
    }
}

/// Whether a file may be one of ours: nothing else is ever deleted.
pub(super) fn is_ours(name: &str) -> bool {
    let numbered = |prefix: &str, endings: &[&str]| {
        let rest = name.strip_prefix(prefix)?;
        let (stem, ending) = rest.split_once('.')?;
        let (digits, run) = stem.split_once('-').map_or((stem, None), |(digits, run)| (digits, Some(run)));
        let is_number = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_hex = |run: &str| run.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_run = run.is_none_or(|run| run.len() == RUN_DIGITS && is_hex(run));
        (is_number && is_run && endings.contains(&ending)).then_some(())
    };
    let mut parts = PartFormat::ALL.map(PartFormat::ending).to_vec();
    parts.push("ids.jsonl");
    name == MANIFEST || numbered(PART, &parts).or_else(|| numbered(FAILED, &["jsonl"])).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_are_known_and_no_others() {
        let runs = [Run::default(), Run::new(0), Run::new(u64::MAX)];
        for format in PartFormat::ALL {
            for (number, run) in [0, 99_999, 100_000].into_iter().flat_map(|n| runs.iter().map(move |run| (n, run))) {
                for name in [run.part(number, format), run.ids(number), run.failed(number)] {
                    assert!(is_ours(&name), "{name}");
                }
            }
        }
        assert_eq!(Run::default().part(7, PartFormat::Parquet), "part-00007.parquet");
        assert_eq!(Run::new(0xabc_def0).ids(7), "part-00007-000000000abc.ids.jsonl");
        for name in [
            "part-0001.parquet",
            "part-00001.csv",
            "part-x0001.arrow",
            "part-00001-mine.arrow",
            "part-00001-00000000000g.arrow",
            "part-00001-0123456789ab-0.arrow",
            "failed-00000.parquet",
            "in/manifest.json",
            "part-00000",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
