//! Inputs that are nearly right: what is right, changed a little. Decoders refuse random bytes at the first of them; these get further.
//! Chance is an argument, so that a seed says which inputs there are.

use fastrand::Rng;

/// Most changes of one input.
const MOST_CHANGES: usize = 6;
/// Longest run of one byte that is put in. Beyond what recursion can bear if it were to follow brackets, and no larger than a message is.
const LONGEST_RUN: usize = 200_000;

/// What parsers look for: pieces of JSON, MessagePack, headers, subjects, Unicode; lengths that are not there; numbers at their limits.
const PIECES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"-1e-999",
    b"0.1",
    b"NaN",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"4294967295",
    b"\x80",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"\x81\xa1a",
    b"\xc0",
    b"\xc1",
    b"\xca\x7f\xc0\x00\x00",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b".",
    b"*",
    b">",
    b"..",
    b"../",
    b"$JS.API.",
    b"_INBOX.",
    b"embed.",
    b"NATS/1.0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    "\u{feff}".as_bytes(),
    "\u{301}".as_bytes(),
    "\u{1112}\u{1161}\u{11ab}".as_bytes(),
    "\u{fdfa}".as_bytes(),
    "\u{10ffff}".as_bytes(),
    "\u{2028}".as_bytes(),
    "İẞΣﬁ".as_bytes(),
];

/// An input made of one of the seeds, at most `longest` bytes of it.
///
/// # Panics
/// If there are no seeds.
pub fn mutated(rng: &mut Rng, seeds: &[Vec<u8>], longest: usize) -> Vec<u8> {
    let mut bytes = seed(rng, seeds).clone();
    for _ in 0..rng.usize(1..=MOST_CHANGES) {
        change(rng, &mut bytes, seeds);
    }
    bytes.truncate(longest);
    bytes
}

fn seed<'a>(rng: &mut Rng, seeds: &'a [Vec<u8>]) -> &'a Vec<u8> {
    &seeds[rng.usize(..seeds.len())]
}

/// A stretch of something of this length. Short ones are likelier.
fn stretch(rng: &mut Rng, length: usize) -> std::ops::Range<usize> {
    let from = rng.usize(..=length);
    let most = if rng.u8(..4) == 0 { length - from } else { (length - from).min(8) };
    from..from + rng.usize(..=most)
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = rng.usize(..=bytes.len());
    match rng.u8(..12) {
        0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
        2 if at < bytes.len() => bytes[at] = rng.u8(..),
        3 => insert(bytes, at, &rng.u64(..).to_le_bytes()[..rng.usize(1..=8)]),
        4 | 5 => insert(bytes, at, PIECES[rng.usize(..PIECES.len())]),
        6 => {
            let piece = PIECES[rng.usize(..PIECES.len())];
            let to = (at + piece.len()).min(bytes.len());
            bytes.splice(at..to, piece.iter().copied());
        }
        7 => {
            let gone = stretch(rng, bytes.len());
            bytes.drain(gone);
        }
        8 => {
            let piece = bytes[stretch(rng, bytes.len())].to_vec();
            insert(bytes, at, &piece);
        }
        9 => {
            let other = seed(rng, seeds);
            let piece = other[stretch(rng, other.len())].to_vec();
            insert(bytes, at, &piece);
        }
        10 => bytes.truncate(at),
        // Rarely, since it is slow: something very long, or very deep.
        11 if rng.u8(..16) == 0 => {
            let piece = PIECES[rng.usize(..PIECES.len())];
            let times = rng.usize(1..=LONGEST_RUN / piece.len());
            insert(bytes, at, &piece.repeat(times));
        }
        _ => bytes.push(rng.u8(..)),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_which_inputs_there_are() {
        let seeds = [b"{\"a\":[1,2]}".to_vec(), Vec::new()];
        let all = |seed| {
            let mut rng = Rng::with_seed(seed);
            (0..500).map(|_| mutated(&mut rng, &seeds, 100)).collect::<Vec<_>>()
        };
        let first = all(1);
        assert_eq!(first, all(1));
        assert_ne!(first, all(2));
        assert!(first.iter().all(|bytes| bytes.len() <= 100));
        assert!(first.iter().any(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).is_ok()));
    }
}
