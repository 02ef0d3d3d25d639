use std::collections::{HashMap, VecDeque};

use embed_schemas::ErrorCode;
use proptest::prelude::*;

use super::*;
use crate::{
    row::{Along, Origin, Position},
    tests::parameters,
};

fn limits(texts: usize, rows: u64) -> Limits {
    // Two values and what stands before them.
    Limits { texts, bytes: rows * 36 }
}

fn known(limits: Limits) -> Known {
    Known::new(&parameters(), true, limits).unwrap()
}

fn vector(value: u8) -> Vector {
    Vector { values: vec![f32::from(value), 1.0], tokens: 1, truncated: false, window: None }
}

fn row(digest: Digest, content: Result<Found, WireError>) -> Row<Found> {
    Row {
        number: 0,
        label: Label::Line(1),
        content,
        along: Along::Nothing,
        origin: Origin::default(),
        end: Position::default(),
        digest: Some(digest),
        reused: false,
    }
}

fn error(n: usize) -> WireError {
    WireError::new(ErrorCode::TextTooLong, n.to_string())
}

/// A row that was asked about, and what will come of it if it is new.
struct Asked {
    text: u8,
    digest: Digest,
    known: bool,
}

proptest! {
    /// As a run does: rows are asked about in order, and written in order, some later. Whatever is remembered, a row gets what its own text
    /// comes to: that of the last row before it that was embedded.
    #[test]
    fn rows_get_what_their_equals_got(
        // Text, whether it fails if it is embedded, whether a row is asked about or written.
        steps in prop::collection::vec((0u8..6, any::<bool>(), any::<bool>()), 1..120),
        texts in 0usize..8,
        rows in 0u64..8,
    ) {
        let known = known(limits(texts, rows));
        let mut last: HashMap<u8, Result<Vec<Vector>, WireError>> = HashMap::new();
        let mut queue: VecDeque<Asked> = VecDeque::new();
        let count = steps.len();
        let rest = std::iter::repeat_n((0, false, false), count);
        for (n, (text, fails, asks)) in steps.into_iter().chain(rest).enumerate() {
            if asks {
                let (digest, known) = known.ask(&text.to_string());
                queue.push_back(Asked { text, digest, known });
                continue;
            }
            let Some(Asked { text, digest, known: is_known }) = queue.pop_front() else { continue };
            let content = if is_known {
                Ok(Found::Known)
            } else {
                // Which attempt it was can be told.
                let vector = Vector { tokens: n as u32, ..vector(text) };
                if fails { Err(error(n)) } else { Ok(Found::Vectors(vec![vector])) }
            };
            let done = known.resolve(vec![row(digest, content.clone())]).unwrap().remove(0);
            match content {
                Ok(Found::Known) => prop_assert_eq!(&done.content, &last[&text]),
                Ok(Found::Vectors(vectors)) => prop_assert_eq!(&done.content, &Ok(vectors)),
                Err(error) => prop_assert_eq!(&done.content, &Err(error)),
            }
            prop_assert_eq!(done.reused, is_known && done.content.is_ok());
            last.insert(text, done.content);
        }
        prop_assert!(queue.is_empty());
        let index = known.index.lock().unwrap();
        prop_assert!(index.is_settled(), "{:?}", index);
    }
}

#[test]
fn equal_texts_are_embedded_once() {
    let known = known(limits(10, 10));
    let (digest, first) = known.ask("a");
    assert!(!first && known.ask("a") == (digest, true));
    let came = vec![row(digest, Ok(Found::Vectors(vec![vector(1)]))), row(digest, Ok(Found::Known))];
    let done = known.resolve(came).unwrap();
    assert_eq!(done[0].content, done[1].content);
    assert_eq!([done[0].reused, done[1].reused], [false, true]);
    assert!(known.ask("a").1 && !known.ask("b").1);
}

#[test]
fn a_failure_is_that_of_all_who_waited_and_of_nobody_after_them() {
    let known = known(limits(10, 10));
    let (digest, _) = known.ask("a");
    known.ask("a");
    known.ask("a");
    let done = known.resolve(vec![row(digest, Err(error(1))), row(digest, Ok(Found::Known))]).unwrap();
    assert_eq!((done[1].content.clone(), done[1].reused), (Err(error(1)), false));
    assert!(!known.ask("a").1, "it is tried again");
    let done = known.resolve(vec![row(digest, Ok(Found::Known))]).unwrap();
    assert_eq!(done[0].content, Err(error(1)));
}

#[test]
fn what_nobody_told_is_an_error() {
    let known = known(limits(10, 10));
    let (digest, _) = known.ask("a");
    let error = known.resolve(vec![row(digest, Ok(Found::Known))]).unwrap_err().to_string();
    assert!(error.contains("were known"), "{error}");
}

#[test]
fn without_equal_texts_only_what_was_before_is_known() {
    let known = Known::new(&parameters(), false, limits(10, 10)).unwrap();
    let before = |id: &str, text: &str| {
        let content = Some((known.digests.digest(text), vec![vector(1)]));
        Ok(Before { id: Some(id.to_owned()), content })
    };
    let failed = Ok(Before { id: Some("3".into()), content: None });
    let rows = vec![before("1", "a"), before("\"\\u00e4\"", "b"), before("1", "a"), failed];
    assert_eq!(known.load(rows.into_iter(), true).unwrap(), (3, 3));
    assert!(known.ask("a").1 && !known.ask("c").1 && !known.ask("c").1);
    assert_eq!(known.ids_before(), Some(3));
    let again = |id: &str| known.came_again(&Label::Id(id.into()));
    assert!(again("1") && !again("1") && again("\"ä\"") && !again("2"));
    assert!(!known.came_again(&Label::Line(3)));
}

#[test]
fn what_is_loaded_is_bounded() {
    let known = known(limits(3, 2));
    let before = |n: u8| {
        let content = Some((known.digests.digest(&n.to_string()), vec![vector(n)]));
        Ok(Before { id: Some(n.to_string()), content })
    };
    assert_eq!(known.load((0..4).map(before), true).unwrap(), (4, 2));
    assert!(known.ask("0").1 && known.ask("1").1 && !known.ask("2").1);
    assert_eq!(known.ids_before(), None, "too many to be told");
}

#[test]
fn what_comes_again_is_kept_once() {
    let known = known(limits(10, 2));
    let before = |text: &str| Ok(Before { id: None, content: Some((known.digests.digest(text), vec![vector(1)])) });
    assert_eq!(known.load(["a", "a", "a", "b"].into_iter().map(before), true).unwrap(), (4, 4));
    assert!(known.ask("b").1);
}

#[test]
fn without_room_for_its_own_rows_a_run_embeds_them_again() {
    let full = || {
        let file = File::options().write(true).open("/dev/full").unwrap();
        Known::on(file, &parameters(), true, limits(1_000, u64::from(u32::MAX)))
    };
    let rows = |known: &Known| {
        let digests: Vec<Digest> = (0..600).map(|n| known.digests.digest(&n.to_string())).collect();
        digests.into_iter().map(|digest| {
            let values = vec![0.5; 1_000];
            let vector = Vector { values, tokens: 1, truncated: false, window: None };
            Ok(Before { id: None, content: Some((digest, vec![vector])) })
        })
    };
    let known = full();
    let (texts, remembered) = known.load(rows(&known), false).unwrap();
    assert!(remembered > 100 && remembered < 600 && texts == remembered + 1, "{texts} {remembered}");
    let (digest, is_known) = known.ask("0");
    assert!(is_known && known.resolve(vec![row(digest, Ok(Found::Known))]).unwrap()[0].content.is_ok());
    assert!(!known.ask("new").1 && !known.ask("new").1);
    // What somebody has asked for is not left undone.
    let known = full();
    let error = known.load(rows(&known), true).unwrap_err().to_string();
    let folder = vectors::folder().display().to_string();
    assert!(error.contains(&folder) && error.contains("TMPDIR") && error.contains("--reuse"), "{error}");
}
