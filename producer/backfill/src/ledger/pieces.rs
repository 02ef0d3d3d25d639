//! What an entry would grow with is kept in pieces beside it, each written once: the entry stays small however many parts an output has. Pure.
//!
//! A piece is called after what it holds. So two runners that write one of the same name write the same, and whoever reads one knows whether it
//! is the one that was meant.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Mark, PartFile};

/// Hexadecimal digits of a digest: half of SHA-256.
const DIGITS: usize = 32;

/// A piece that is written, and how many parts and files of failed rows it holds: those behind the pieces before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) digest: String,
    pub(super) parts: usize,
    pub(super) failed: usize,
}

/// What a piece holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    parts: Vec<PartFile>,
    failed: Vec<PartFile>,
}

/// The digest of what is written.
pub(super) fn digest(text: &str) -> String {
    let mut digest = format!("{:x}", Sha256::digest(text));
    digest.truncate(DIGITS);
    digest
}

/// How many parts and files of failed rows pieces hold.
fn counts(pieces: &[Piece]) -> (usize, usize) {
    pieces.iter().fold((0, 0), |(parts, failed), piece| (parts + piece.parts, failed + piece.failed))
}

/// What is in no piece.
pub(super) fn rest(mark: &Mark, pieces: &[Piece]) -> Mark {
    let (parts, failed) = counts(pieces);
    let behind = |all: &[PartFile], n: usize| all.get(n..).unwrap_or_default().to_vec();
    Mark { parts: behind(&mark.parts, parts), failed: behind(&mark.failed, failed), ..*mark }
}

/// The pieces that are to be written so that no more than so many bytes are in none. Each has no more either, or one part only.
pub(super) fn cut(mark: &Mark, pieces: &[Piece], bytes: usize) -> Vec<(Piece, String)> {
    let Mark { parts, failed, .. } = rest(mark, pieces);
    let size = |file: &PartFile| serde_json::to_string(file).map_or(0, |text| text.len() + 1);
    let sizes: Vec<usize> = parts.iter().chain(&failed).map(size).collect();
    let mut left: usize = sizes.iter().sum();
    let count = parts.len();
    let mut files = parts.into_iter().chain(failed).zip(sizes).enumerate().peekable();
    let mut cut = Vec::new();
    while left > bytes {
        let (mut held, mut size) = (Held::default(), 0);
        while let Some((n, (file, more))) =
            files.next_if(|(_, (_, more))| size == 0 || size + more <= bytes.saturating_sub(OVERHEAD))
        {
            size += more;
            if n < count { held.parts.push(file) } else { held.failed.push(file) }
        }
        left -= size;
        let (parts, failed) = (held.parts.len(), held.failed.len());
        let text = serde_json::to_string(&held).expect("parts have string keys");
        cut.push((Piece { digest: digest(&text), parts, failed }, text));
    }
    cut
}

/// What a piece has beside its parts.
const OVERHEAD: usize = r#"{"parts":[],"failed":[]}"#.len();

/// Of the pieces that are written, those that hold what a state says: the states of two runners may go apart.
pub(super) fn of_mark(mark: &Mark, pieces: Vec<Piece>) -> Vec<Piece> {
    let (mut parts, mut failed) = (0, 0);
    let is_held = |piece: &Piece| {
        let of = |all: &[PartFile], from: usize, n: usize| all.get(from..from + n).map(<[PartFile]>::to_vec);
        let held = of(&mark.parts, parts, piece.parts).zip(of(&mark.failed, failed, piece.failed));
        (parts, failed) = (parts + piece.parts, failed + piece.failed);
        held.is_some_and(|(parts, failed)| {
            serde_json::to_string(&Held { parts, failed }).is_ok_and(|text| digest(&text) == piece.digest)
        })
    };
    pieces.into_iter().take_while(is_held).collect()
}

/// Puts what a piece holds before what comes behind it; the last piece first. The error says what is wrong.
pub(super) fn put_before(mark: &mut Mark, piece: &Piece, text: &str) -> Result<(), String> {
    if digest(text) != piece.digest {
        return Err("it holds something else than what was written".into());
    }
    let Held { parts, failed } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    mark.parts.splice(0..0, parts);
    mark.failed.splice(0..0, failed);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::StoredFile;

    /// A part as it is called in an object store.
    pub(in super::super) fn part(number: usize) -> PartFile {
        let name = format!("part-{number:05}-0123456789ab.parquet");
        let file = StoredFile { name, bytes: 67_000_000 + number as u64, sha256: format!("{number:064x}") };
        PartFile { file, rows: 40_000, truncated: 0, ids: None }
    }

    proptest! {
        #[test]
        fn all_parts_are_kept_and_neither_entry_nor_piece_grows(
            grows in prop::collection::vec((0usize..40, 0usize..3), 1..30),
            bytes in 400usize..3_000,
        ) {
            let mut mark = Mark { bytes: 7, next_part: 9, dimensions: Some(3), ..Mark::default() };
            let (mut pieces, mut texts) = (Vec::new(), Vec::new());
            for (parts, failed) in grows {
                let numbers = mark.parts.len()..mark.parts.len() + parts;
                mark.parts.extend(numbers.map(part));
                let numbers = mark.failed.len()..mark.failed.len() + failed;
                mark.failed.extend(numbers.map(|n| part(1_000_000 + n)));
                for (piece, text) in cut(&mark, &pieces, bytes) {
                    prop_assert!(text.len() <= bytes && piece.parts + piece.failed > 0, "{}", text.len());
                    pieces.push(piece);
                    texts.push(text);
                }
                let rest = rest(&mark, &pieces);
                let written = serde_json::to_string(&(&rest.parts, &rest.failed)).unwrap().len();
                prop_assert!(written <= bytes + 10, "{} of {}", written, bytes);
                prop_assert_eq!(&of_mark(&mark, pieces.clone()), &pieces);
                let mut whole = rest;
                for (piece, text) in pieces.iter().zip(&texts).rev() {
                    put_before(&mut whole, piece, text).unwrap();
                }
                prop_assert_eq!(&whole, &mark);
            }
        }
    }

    #[test]
    fn pieces_of_another_history_are_not_taken() {
        let of = |numbers: std::ops::Range<usize>| Mark { parts: numbers.map(part).collect(), ..Mark::default() };
        let written = cut(&of(0..20), &[], 1_000);
        let pieces: Vec<Piece> = written.iter().map(|(piece, _)| piece.clone()).collect();
        assert!(pieces.len() > 2, "{pieces:?}");
        let mut other = of(0..20);
        other.parts[pieces[0].parts] = part(77);
        assert_eq!(of_mark(&other, pieces.clone()), pieces[..1]);
        assert_eq!(of_mark(&of(0..2), pieces.clone()), []);
        let error = put_before(&mut Mark::default(), &pieces[0], &written[1].1).unwrap_err();
        assert!(error.contains("something else"), "{error}");
    }
}
