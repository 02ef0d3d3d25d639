//! What the files of an output in parts are called, so that a later run knows which of them are its own.

use super::PartFormat;

/// Written last: the output is complete when it is there.
pub(crate) const MANIFEST: &str = "manifest.json";

const PART: &str = "part-";
const FAILED: &str = "failed-";
/// With so many digits at least, names sort as their numbers do.
const DIGITS: usize = 5;

/// Of the vectors.
pub(super) fn part(number: u32, format: PartFormat) -> String {
    format!("{PART}{number:0DIGITS$}.{}", format.ending())
}

/// Of what belongs to the rows of a part that holds nothing but vectors.
pub(super) fn ids(number: u32) -> String {
    format!("{PART}{number:0DIGITS$}.ids.jsonl")
}

/// Of the rows that have no vector.
pub(super) fn failed(number: u32) -> String {
    format!("{FAILED}{number:0DIGITS$}.jsonl")
}

/// Whether a file may be one of ours: nothing else is ever deleted.
pub(super) fn is_ours(name: &str) -> bool {
    let numbered = |prefix: &str, endings: &[&str]| {
        let rest = name.strip_prefix(prefix)?;
        let (digits, ending) = rest.split_once('.')?;
        let is_number = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && endings.contains(&ending)).then_some(())
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
        for format in PartFormat::ALL {
            for number in [0, 99_999, 100_000] {
                for name in [part(number, format), ids(number), failed(number)] {
                    assert!(is_ours(&name), "{name}");
                }
            }
        }
        assert_eq!(part(7, PartFormat::Parquet), "part-00007.parquet");
        for name in [
            "part-0001.parquet",
            "part-00001.csv",
            "part-x0001.arrow",
            "failed-00000.parquet",
            "in/manifest.json",
            "part-00000",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
