//! What is written in parts is what is read of them, whatever happens on the way.

mod books;
mod flaky;

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use embed_schemas::{ErrorCode, WireError, removal::RemovalKey};
use half::f16;
use object_store::ObjectStore;
use proptest::prelude::*;

use self::flaky::{Fault, Flaky};
use super::{layout::Layout, parts::Parts, place::Place, *};
use crate::{
    InputFile, Position,
    row::{Along, Digest, Label, Origin, Row, Vector, Window},
    tests::parameters,
};

const DIMENSIONS: usize = 3;

fn plan() -> Plan {
    let file =
        |location: &str| InputFile { location: location.into(), bytes: Some(10), sha256: None, ..InputFile::default() };
    Plan { files: vec![file("/in.jsonl")], ..Plan::default() }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("lang", DataType::Utf8, true)]))
}

fn layout(format: PartFormat, vector_type: VectorType, windows: bool) -> Layout {
    let writing = Writing { format: Some(format), vector_type, part_bytes: 400, failed: None };
    let columns = format.is_columnar().then(schema);
    let layout = Layout::of(&Parameters { writing, ..parameters() }, format, columns, windows);
    // Several row groups in a part, several requests for a file.
    Layout { group_bytes: 100, chunk_bytes: 512, ..layout }
}

/// Nobody else is there.
async fn ok() -> Result<(), Error> {
    Ok(())
}

/// How many vectors each row has. None: it has failed.
fn rows(counts: &[usize], windows: bool, columnar: bool) -> Vec<Done> {
    let ids: Int64Array = (0..counts.len() as i64).map(Some).collect();
    let langs: StringArray = (0..counts.len()).map(|n| (n % 3 > 0).then(|| format!("l{n}"))).collect();
    let batch = Arc::new(RecordBatch::try_new(schema(), vec![Arc::new(ids) as ArrayRef, Arc::new(langs)]).unwrap());
    let row = |(n, count): (usize, &usize)| {
        let vector = |k: usize| Vector {
            // Halves are exact in both types.
            values: (0..DIMENSIONS).map(|d| (n * 7 + k * 3 + d) as f32 / 2.0).collect(),
            tokens: (n + k) as u32,
            truncated: n.is_multiple_of(4),
            window: windows.then(|| Window { index: k as u32, start: 10 * k as u64, end: 10 * k as u64 + 12 }),
        };
        let content = match count {
            0 => Err(WireError::new(ErrorCode::TextTooLong, format!("row {n}"))),
            count => Ok((0..*count).map(vector).collect()),
        };
        let along =
            if columnar { Along::Columns(batch.clone(), n) } else { Along::Json(format!(",\"lang\":\"l{n}\"")) };
        let number = n as u64;
        let end = Position { lines: number + 1, rows: number + 1, ..Position::default() };
        let digest = Some(Digest((n as u128).to_be_bytes()));
        let origin = Origin { file: 0, line: number + 1 };
        Row { number, label: Label::Id(n.to_string()), content, along, digest, origin, end, reused: false }
    };
    counts.iter().enumerate().map(row).collect()
}

/// What is expected to be read: rows with vectors first.
fn expected(rows: &[Done]) -> Vec<StoredRow> {
    let stored = |row: &Done| {
        let Label::Id(id) = &row.label else { unreachable!() };
        let vectors = row.content.clone().unwrap_or_default();
        StoredRow { id: Some(id.clone()), digest: row.digest.filter(|_| !vectors.is_empty()), vectors }
    };
    let (some, none): (Vec<_>, Vec<_>) = rows.iter().map(stored).partition(|row| !row.vectors.is_empty());
    some.into_iter().chain(none).collect()
}

async fn read(store: Arc<dyn ObjectStore>, vector_type: VectorType, mark: &Mark) -> Vec<StoredRow> {
    let rows = PartRows::of(Place::on("memory://", store), vector_type, Some("id".into()), mark);
    tokio::task::spawn_blocking(|| rows.map(Result::unwrap).collect()).await.unwrap()
}

fn state(mark: Mark, rows: &[Done]) -> State {
    let mut state = State::new(RemovalKey::from_random([7; 32]), parameters(), plan());
    state.stored = rows.iter().filter(|row| row.content.is_ok()).count() as u64;
    state.failed = rows.len() as u64 - state.stored;
    state.done.rows = rows.len() as u64;
    State { mark, ..state }
}

fn formats() -> impl Strategy<Value = (PartFormat, VectorType)> {
    use PartFormat::{Arrow, Jsonl, Npy, Parquet};
    use VectorType::{F16, F32};
    prop::sample::select(vec![
        (Parquet, F32),
        (Parquet, F16),
        (Arrow, F32),
        (Arrow, F16),
        (Jsonl, F32),
        (Npy, F32),
        (Npy, F16),
    ])
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        (format, vector_type) in formats(),
        counts in prop::collection::vec(0usize..4, 0..120),
        group in 1usize..20,
        windows: bool,
    ) {
        let counts: Vec<usize> = counts.into_iter().map(|count| if windows { count } else { count.min(1) }).collect();
        let rows = rows(&counts, windows, format.is_columnar());
        let (manifest, read, names) = block_on(async {
            let store = Flaky::new(None);
            let place = Place::on("memory://", Arc::new(store.clone()));
            let mut parts = Parts::new(place, layout(format, vector_type, windows), &plan()).unwrap();
            for group in rows.chunks(group) {
                parts.write(group).await.unwrap();
                parts.settle(false).await.unwrap();
            }
            assert!(parts.settle(true).await.unwrap());
            let state = state(parts.mark(), &rows);
            parts.finish(&state, ok()).await.unwrap();
            let bytes = Place::on("memory://", Arc::new(store.clone())).get("manifest.json").await.unwrap();
            let manifest: Manifest = serde_json::from_slice(&bytes).unwrap();
            let names = store.names().await;
            (manifest, read(Arc::new(store), vector_type, &parts.mark()).await, names)
        });
        prop_assert_eq!(read, expected(&rows));
        let Manifest { counts, parts, failed, .. } = &manifest;
        prop_assert_eq!(counts.read, counts.stored + counts.failed);
        prop_assert_eq!(counts.vectors, rows.iter().flat_map(|row| &row.content).map(Vec::len).sum::<usize>() as u64);
        prop_assert_eq!(failed.iter().map(|file| file.rows).sum::<u64>(), counts.failed);
        // Nothing is there but what the manifest names, and itself.
        let mut named: Vec<&str> = parts.iter().chain(failed).flat_map(PartFile::files).map(|file| &*file.name).collect();
        named.push("manifest.json");
        named.sort_unstable();
        prop_assert_eq!(names, named);
    }
}

/// Writes as a backfill does, begun anew after each failure from what was recorded. `lose`: the first record of a closed part is lost. `aside`:
/// parts are closed while the next is written.
async fn run(store: &Flaky, format: PartFormat, rows: &[Done], lose: bool, aside: bool) -> (Mark, usize) {
    let (mut mark, mut done, mut lose, mut failures) = (Mark::default(), 0, lose, 0);
    loop {
        let attempt = async {
            let place = Place::on("memory://", Arc::new(store.clone()));
            let mut parts = Parts::new(place, layout(format, VectorType::F32, false), &plan())?;
            parts.go_on(&mark, ok()).await?;
            let mut written = done;
            let mut result = Ok(());
            let mut closing = None;
            while written < rows.len() && result.is_ok() {
                let end = (written + 5).min(rows.len());
                result = parts.write(&rows[written..end]).await;
                if result.is_err() {
                    break;
                }
                written = end;
                if aside && parts.is_full() {
                    let closed = closing.take();
                    result = parts.closed().await;
                    if let (Ok(()), Some(closed)) = (&result, closed) {
                        if std::mem::take(&mut lose) {
                            return Err(Error::Backfill("killed".into()));
                        }
                        (mark, done) = (parts.mark(), closed);
                    }
                    if result.is_ok() {
                        result = parts.close().await;
                        closing = Some(written);
                    }
                    continue;
                }
                match parts.settle(written == rows.len()).await {
                    Ok(true) if std::mem::take(&mut lose) => return Err(Error::Backfill("killed".into())),
                    Ok(true) => (mark, done) = (parts.mark(), written),
                    Ok(false) => {}
                    Err(error) => result = Err(error),
                }
            }
            if aside && result.is_ok() {
                result = parts.settle(true).await.map(|settled| assert!(settled));
                (mark, done) = if result.is_ok() { (parts.mark(), written) } else { (mark.clone(), done) };
            }
            if result.is_err() {
                // As the writer does whatever happened: what is not whole must not be taken for that.
                if parts.settle(true).await? {
                    (mark, done) = (parts.mark(), written);
                }
                return result;
            }
            parts.finish(&state(mark.clone(), rows), ok()).await
        };
        match attempt.await {
            Ok(()) => return (mark, failures),
            Err(error) => {
                failures += 1;
                assert!(failures < 3, "only one step fails: {error}");
            }
        }
    }
}

#[tokio::test]
async fn killed_at_any_step_each_row_is_there_once() {
    let counts: Vec<usize> = (0..90).map(|n| usize::from(n % 11 > 0)).collect();
    for format in PartFormat::ALL {
        let rows = rows(&counts, false, format.is_columnar());
        let whole = Flaky::new(None);
        run(&whole, format, &rows, false, false).await;
        let (steps, names) = (whole.steps(), whole.names().await);
        assert!(steps > 10 && names.len() > 4, "{steps} {names:?}");
        for step in 0..=steps {
            for (after, lose, aside) in [
                (false, false, false),
                (true, false, false),
                (true, true, false),
                (false, false, true),
                (true, false, true),
                (true, true, true),
            ] {
                let store = Flaky::new(Some(Fault { step, after }));
                let (mark, failures) = run(&store, format, &rows, lose, aside).await;
                assert!(failures > 0 || step == steps && !lose, "{format:?}: step {step} did not fail");
                let read = read(Arc::new(store.clone()), VectorType::F32, &mark).await;
                assert_eq!(read, expected(&rows), "{format:?}, step {step}, after: {after}, lost: {lose}");
                let named = mark.parts.iter().chain(&mark.failed).flat_map(PartFile::files).count();
                assert_eq!(store.names().await.len(), named + 1, "{format:?}, step {step}: {:?}", store.names().await);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_taken_over_while_it_wrote_writes_to_no_file_of_others() {
    let counts: Vec<usize> = (0..90).map(|n| usize::from(n % 11 > 0)).collect();
    for format in PartFormat::ALL {
        let rows = rows(&counts, false, format.is_columnar());
        let store = Flaky::new(None);
        let (held, gate) = store.held();
        let open = |store: &Flaky, run| {
            let layout = Layout { run: Run::new(run), ..layout(format, VectorType::F32, false) };
            Parts::new(Place::on("memory://", Arc::new(store.clone())), layout, &plan()).unwrap()
        };
        let first = async {
            let mut parts = open(&held, 1 << 32);
            parts.go_on(&Mark::default(), ok()).await.unwrap();
            parts.write(&rows[..20]).await.unwrap();
            assert!(parts.settle(true).await.unwrap());
            parts.mark()
        };
        let second = async {
            let mut parts = open(&store, 2 << 32);
            parts.go_on(&Mark::default(), ok()).await.unwrap();
            parts.write(&rows[..30]).await.unwrap();
            assert!(parts.settle(true).await.unwrap());
            // What the first has sent long ago is done now.
            gate.add_permits(1);
            parts
        };
        let (late, mut parts) = tokio::join!(first, second);
        assert_eq!(read(Arc::new(store.clone()), VectorType::F32, &late).await, expected(&rows[..20]), "{format:?}");
        parts.write(&rows[30..]).await.unwrap();
        assert!(parts.settle(true).await.unwrap());
        let mark = parts.mark();
        assert_eq!(read(Arc::new(store.clone()), VectorType::F32, &mark).await, expected(&rows), "{format:?}");
        // Whoever has lost the lease by the end removes nothing, and says nothing of the whole.
        let before = store.names().await;
        let lost = async { Err(Error::Backfill("lost".into())) };
        parts.finish(&state(mark.clone(), &rows), lost).await.unwrap_err();
        assert_eq!(store.names().await, before);
        parts.finish(&state(mark.clone(), &rows), ok()).await.unwrap();
        let named = mark.parts.iter().chain(&mark.failed).flat_map(PartFile::files).count();
        assert_eq!(store.names().await.len(), named + 1, "{format:?}: {:?}", store.names().await);
    }
}

#[tokio::test]
async fn parts_are_bounded_and_closed_at_once_when_asked() {
    let rows = rows(&[1; 100], false, true);
    let store = Flaky::new(None);
    let place = Place::on("memory://", Arc::new(store.clone()));
    let mut parts = Parts::new(place, layout(PartFormat::Parquet, VectorType::F32, false), &plan()).unwrap();
    assert!(parts.settle(true).await.unwrap() && store.names().await.is_empty(), "nothing makes no part");
    for group in rows.chunks(10) {
        parts.write(group).await.unwrap();
        assert_eq!(
            parts.settle(false).await.unwrap(),
            parts.mark().parts.iter().map(|part| part.rows).sum::<u64>() == group[9].end.rows
        );
    }
    // 400 bytes of vectors are 34 rows of 12 bytes, and a group is 10.
    let sizes = |parts: &Parts| parts.mark().parts.iter().map(|part| part.rows).collect::<Vec<_>>();
    assert_eq!(sizes(&parts), [40, 40]);
    assert!(parts.settle(true).await.unwrap());
    assert_eq!(sizes(&parts), [40, 40, 20]);
    assert_eq!(store.names().await, ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]);
    // Results must not fill their stream, whatever was asked for.
    parts.hold_at_most(100);
    parts.write(&rows[..10]).await.unwrap();
    assert!(parts.is_full());
}

#[tokio::test]
async fn what_cannot_be_written_is_refused_and_nothing_of_it_is_recorded() {
    let rows = rows(&[1; 10], false, true);
    let new = |vector_type| {
        let place = Place::on("memory://", Arc::new(Flaky::new(None)));
        Parts::new(place, layout(PartFormat::Parquet, vector_type, false), &plan()).unwrap()
    };
    let with = |values: Vec<f32>| {
        let vector = Vector { values, tokens: 1, truncated: false, window: None };
        vec![rows[0].clone().with(|_| Ok(vec![vector]))]
    };
    let mut parts = new(VectorType::F32);
    parts.write(&rows).await.unwrap();
    let error = parts.write(&with(vec![1.0])).await.unwrap_err().to_string();
    assert!(error.contains("vectors of 3 and of 1 numbers") && error.contains("--force"), "{error}");
    assert!(!parts.settle(true).await.unwrap() && parts.mark().parts.is_empty());

    // What is too large came as infinite, if the worker has rounded it.
    for (value, told) in [(70_000.0, "70000"), (f32::INFINITY, "inf")] {
        let mut parts = new(VectorType::F16);
        parts.write(&with(vec![f16::MAX.to_f32(), f16::MIN.to_f32(), 1e-9])).await.unwrap();
        assert!(parts.settle(true).await.unwrap());
        parts.write(&with(vec![value, 0.0, 0.0])).await.unwrap();
        let error = parts.settle(true).await.unwrap_err().to_string();
        let expected = format!("{told} does not fit into f16: ");
        assert!(error.contains(&expected) && error.contains("--vector-type f32"), "{error}");
        assert!(!parts.settle(true).await.unwrap());
        assert_eq!(parts.mark().parts.len(), 1);
    }

    for name in ["embedding", "window", "digest"] {
        let columns = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)]));
        let layout = Layout { columns: Some(columns), ..layout(PartFormat::Arrow, VectorType::F32, false) };
        let place = Place::on("memory://", Arc::new(Flaky::new(None)));
        let error = Parts::new(place, layout, &plan()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("--keep"), "{error}");
    }
}

#[tokio::test]
async fn a_folder_is_written_by_one_backfill_and_only_its_own_files_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/out");
    let location = out.to_str().unwrap();
    let open = || Parts::new(Place::claim(location)?, layout(PartFormat::Npy, VectorType::F32, false), &plan());
    let rows = rows(&[1; 200], false, false);
    let mut parts = open().unwrap();
    assert!(open().unwrap_err().to_string().contains("another backfill"));
    parts.refuse_overwriting().await.unwrap();
    parts.write(&rows[..100]).await.unwrap();
    parts.settle(true).await.unwrap();
    let mark = parts.mark();
    drop(parts);
    for name in [
        "part-00001.npy",
        "part-00001.ids.jsonl",
        "part-00007.parquet#1",
        "failed-00000.jsonl",
        "manifest.json",
        "mine.txt",
    ] {
        std::fs::write(out.join(name), "").unwrap();
    }
    let mut parts = open().unwrap();
    assert!(parts.refuse_overwriting().await.unwrap_err().to_string().contains("--force"));
    parts.go_on(&mark, ok()).await.unwrap();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["mine.txt", "part-00000.ids.jsonl", "part-00000.npy"]);
    parts.write(&rows[100..]).await.unwrap();
    parts.settle(true).await.unwrap();
    let state = state(parts.mark(), &rows);
    parts.finish(&state, ok()).await.unwrap();
    drop(parts);
    for at in [location.to_owned(), format!("file://{location}/manifest.json")] {
        let manifest = Manifest::read(&at).await.unwrap();
        let rows = PartRows::open(&at, &manifest).unwrap();
        let read = tokio::task::spawn_blocking(|| rows.collect::<Result<Vec<_>, _>>()).await.unwrap().unwrap();
        assert_eq!(read.len(), 200);
    }
    // What was recorded has to be there, as it was.
    std::fs::write(out.join("part-00000.npy"), "other").unwrap();
    let manifest = Manifest::read(location).await.unwrap();
    let mut changed = PartRows::open(location, &manifest).unwrap();
    let error = tokio::task::spawn_blocking(move || changed.next().unwrap()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("part-00000.npy: it holds something else"), "{error}");
    let mut parts = open().unwrap();
    assert!(parts.go_on(&mark, ok()).await.unwrap_err().to_string().contains("changed since"));
    std::fs::remove_file(out.join("part-00000.npy")).unwrap();
    assert!(parts.go_on(&mark, ok()).await.unwrap_err().to_string().contains("is gone"));
    // Begun anew: all of ours goes.
    parts.go_on(&Mark::default(), ok()).await.unwrap();
    assert_eq!(names(), ["mine.txt"]);
}
