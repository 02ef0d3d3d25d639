//! What is recorded of parts while they are written.

use std::{collections::BTreeSet, path::Path};

use async_nats::ConnectOptions;
use embed_client::Client;
use tokio::sync::mpsc;

use super::*;
use crate::{
    Pace,
    queue::{Finished, Windows},
    row::Found,
    writer::Books,
};

/// Rows of a group, and what such a group is said to hold: a little less than its vectors are, which are 12 bytes each.
const GROUP: usize = 5;
const GROUP_BYTES: usize = 54;
/// What may be held: four groups of vectors.
const MOST: usize = 4 * GROUP * 12;

/// Writes all rows, or as many as the store takes, and returns what is recorded then.
async fn written(store: &Flaky, format: PartFormat, rows: &[Done]) -> (State, Result<(), Error>) {
    // Nobody is asked: results are kept, and there is no bucket.
    let nats = ConnectOptions::new().retry_on_initial_connect().connect("127.0.0.1:1").await.unwrap();
    let pace = Pace { keep_results: true, ..Pace::default() };
    let place = Place::on("memory://", Arc::new(store.clone()));
    let parts = Parts::new(place, layout(format, VectorType::F32, false), &plan()).unwrap();
    let output = Output::Parts(Box::new(parts));
    let state = State::new(RemovalKey::from_random([7; 32]), parameters(), plan());
    let mut books = Books::new(&Client::new(nats), state, Path::new("memory://out"), output, None, None, &pace);
    books.hold_at_most(MOST);
    let groups: Vec<Finished> = rows
        .chunks(GROUP)
        .map(|rows| Finished {
            rows: rows.iter().map(|row| row.clone().with(|content| content.map(Found::Vectors))).collect(),
            end: rows.last().unwrap().end,
            spaces: Vec::new(),
            served: BTreeSet::new(),
            ids: Vec::new(),
            windows: Windows::default(),
            bytes: GROUP_BYTES,
        })
        .collect();
    let (sender, receiver) = mpsc::channel(groups.len());
    groups.into_iter().for_each(|group| sender.try_send(group).unwrap());
    drop(sender);
    let (books, result) = books.write_all(receiver).await;
    (books.state, result)
}

#[tokio::test]
async fn parts_are_of_the_full_size_where_the_stream_of_results_bounds_them() {
    let rows = rows(&[1; 200], false, true);
    let (state, result) = written(&Flaky::new(None), PartFormat::Parquet, &rows).await;
    result.unwrap();
    let sizes: Vec<u64> = state.mark.parts.iter().map(|part| part.rows).collect();
    assert_eq!(sizes.iter().sum::<u64>(), 200);
    let (_, full) = sizes.split_last().unwrap();
    assert!(full.iter().all(|size| *size >= 15), "{sizes:?}");
}

#[tokio::test]
async fn what_is_recorded_is_whole_whatever_fails() {
    let counts: Vec<usize> = (0..60).map(|n| usize::from(n % 11 > 0)).collect();
    for format in [PartFormat::Jsonl, PartFormat::Parquet] {
        let rows = rows(&counts, false, format.is_columnar());
        let whole = Flaky::new(None);
        let (state, result) = written(&whole, format, &rows).await;
        result.unwrap();
        assert_eq!(state.done.rows, 60);
        let steps = whole.steps();
        assert!(steps > 4, "{steps}");
        for step in 0..steps {
            for after in [false, true] {
                let store = Flaky::new(Some(Fault { step, after }));
                let (state, result) = written(&store, format, &rows).await;
                assert!(result.is_err(), "{format:?}: step {step} did not fail");
                state.check_counts().unwrap();
                let done = usize::try_from(state.done.rows).unwrap();
                assert!(done < 60, "{format:?}: step {step}, after: {after}");
                let read = read(Arc::new(store), VectorType::F32, &state.mark).await;
                assert_eq!(read, expected(&rows[..done]), "{format:?}, step {step}, after: {after}");
            }
        }
    }
}
