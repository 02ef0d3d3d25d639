//! Backfills whose output is whole files of bounded size beside a manifest.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    Server,
    command::{embed as command, stderr},
    files::{Files, pace, text},
    slug, until,
    worker::{Worker, embed, vector},
};
use embed_backfill::{
    self as backfill, Error, Manifest, Pace, Parameters, PartFormat, PartRows, StoredRow, Summary, VectorType, Writing,
};
use embed_client::Client;
use embed_schemas::streams::StreamSettings;
use embed_testkit::{S3Server, repository};
use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, path::Path as ObjectPath};

const PARQUET: Writing = Writing { format: None, vector_type: VectorType::F32, part_bytes: 200, failed: None };

fn parameters(files: &Files, writing: Writing, chunk: usize) -> Parameters {
    Parameters { writing, ..files.parameters(chunk) }
}

async fn run(client: &Client, files: &Files, output: &Path, writing: Writing) -> Result<Summary, Error> {
    let parameters = parameters(files, writing, 8);
    backfill::run(client, parameters, output, false, &pace(), std::future::pending(), |_| {}).await
}

/// Every row of [`Files::new`] once, in order, with its own vector.
async fn assert_complete(output: &Path, count: usize) -> Manifest {
    let location = output.to_str().unwrap();
    let manifest = Manifest::read(location).await.unwrap();
    let rows = PartRows::open(location, &manifest).unwrap();
    let rows = tokio::task::spawn_blocking(|| rows.map(Result::unwrap).collect::<Vec<StoredRow>>()).await.unwrap();
    assert_eq!(rows.len(), count);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row.id.as_deref(), Some(&*format!("\"doc-{n}\"")));
        assert_eq!(row.vectors[0].values, vector(&text(n)), "row {n}");
    }
    manifest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_backfill_goes_on_after_its_last_complete_part() {
    let server = Server::start();
    let settings = StreamSettings { ack_wait_ms: 1_000, ..Default::default() };
    let client = server.provisioned_with(&settings).await;
    let open = Arc::new(AtomicBool::new(false));
    let answer = {
        let open = open.clone();
        move |r: &embed_schemas::EmbedRequest| {
            let is_late = r.texts[0].starts_with("row 2") || r.texts[0].starts_with("row 3");
            (!is_late || open.load(Ordering::SeqCst)).then(|| embed(r))
        }
    };
    let _worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    let files = Files::new(40);
    let output = files.output.with_file_name("parts");
    let paced = Pace { window: 4, ..pace() };
    // A part of 8 bytes is full with its first row.
    let parameters = parameters(&files, Writing { part_bytes: 8, ..PARQUET }, 1);
    let recorded = async || backfill::status(&output).is_ok_and(|state| state.done.rows >= 2);
    let stop = until("rows are recorded", recorded);
    let summary = backfill::run(&client, parameters, &output, false, &paced, stop, |_| {}).await.unwrap();
    assert!(!summary.finished && summary.rows < 40, "{summary:?}");
    assert!(!output.join("manifest.json").exists(), "it is not complete");
    let recorded = backfill::status(&output).unwrap().mark.parts;
    assert!(recorded.len() >= 2);

    // What a run that was killed leaves behind, and what is somebody else's.
    let next = format!("part-{:05}.parquet", recorded.len());
    for left in [&*next, "part-00001.parquet#1", "failed-00000.jsonl", "notes.txt"] {
        std::fs::write(output.join(left), "left behind").unwrap();
    }
    let never = std::future::pending::<()>;
    let refused = backfill::run(&client, files.parameters(1), &output, false, &pace(), never(), |_| {}).await;
    assert!(refused.unwrap_err().to_string().contains("backfill resume"));
    open.store(true, Ordering::SeqCst);
    // However the folder is called.
    let called = format!("file://{}/", output.display());
    let summary = backfill::resume(&client, Path::new(&called), &pace(), never(), |_| {}).await.unwrap();
    assert!(summary.finished && summary.stored == 40, "{summary:?}");
    let manifest = assert_complete(&output, 40).await;
    assert_eq!(manifest.parts[..recorded.len()], recorded, "what was complete is left as it is");
    assert_eq!((manifest.model, manifest.space.as_deref()), (slug("m"), Some("space")));
    assert_eq!(manifest.served.iter().map(|served| &*served.version).collect::<Vec<_>>(), ["v1"]);
    assert_eq!(manifest.inputs, backfill::status(&output).unwrap().plan.files);
    assert!(output.join("notes.txt").exists() && !output.join("failed-00000.jsonl").exists());

    // Overwritten only if that is asked for; what is read is never overwritten.
    let again = run(&client, &files, &output, PARQUET).await.unwrap_err().to_string();
    assert!(again.contains("finished backfill") && again.contains("--force"), "{again}");
    let inside =
        Parameters { inputs: vec![output.join("notes.txt").to_str().unwrap().to_owned()], ..files.parameters(1) };
    let refused = backfill::run(&client, inside, &output, true, &pace(), never(), |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("choose another output"), "{refused}");
    let parameters = self::parameters(&files, Writing { format: Some(PartFormat::Npy), ..PARQUET }, 8);
    backfill::run(&client, parameters, &output, true, &pace(), never(), |_| {}).await.unwrap();
    let names: Vec<_> = assert_complete(&output, 40).await.parts.into_iter().map(|part| part.file.name).collect();
    assert_eq!(names[0], "part-00000.npy");
    let left = std::fs::read_dir(&output).unwrap().count();
    assert_eq!(left, 2 * names.len() + 2, "vectors and ids, the manifest, and what is not ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_a_vector_are_beside_the_parts() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::with("{\"id\":1,\"text\":\"one\"}\n{\"id\":2}\nnonsense\n{\"id\":4,\"text\":\"four\"}\n");
    let output = files.output.with_file_name("out.arrow");
    let summary = run(&client, &files, &output, Writing::default()).await.unwrap();
    assert_eq!((summary.stored, summary.failed), (2, 2));
    let manifest = Manifest::read(output.to_str().unwrap()).await.unwrap();
    assert_eq!((manifest.parts.len(), manifest.parts[0].rows, manifest.failed[0].rows), (1, 2, 2));
    let failed = crate::support::files::rows(&output.join(&manifest.failed[0].file.name));
    let file = files.input.to_str().unwrap();
    for (row, (id, line)) in failed.iter().zip([(Some(2), 2), (None, 3)]) {
        assert_eq!((row["id"].as_u64(), row["line"].as_u64(), row["file"].as_str()), (id, Some(line), Some(file)));
        assert_eq!(row["code"], "invalid_request");
        assert!(row["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_go_to_an_object_store() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::new(300);
    let s3 = S3Server::start();
    s3.make_bucket("bucket");
    let embed = |arguments: &[&str]| {
        let common = ["--server", &server.url(), "--model", "m", "--allow-unserved"];
        let begin: &[&str] = &["backfill", "run", files.input.to_str().unwrap()];
        let mut command = command(&[begin, arguments, &common].concat());
        command.envs(S3Server::settings(&s3.address())).output().unwrap()
    };
    let done = embed(&["s3://bucket/some/prefix/"]);
    assert!(done.status.success(), "{}", stderr(&done));
    // What opens stores elsewhere chooses how TLS is done, which a client wants to know whether it needs it or not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = AmazonS3Builder::new().with_bucket_name("bucket");
    for (name, value) in S3Server::settings(&s3.address()) {
        builder = builder.with_config(name.to_ascii_lowercase().parse().unwrap(), value);
    }
    let store = builder.build().unwrap();
    let get = async |name: &str| {
        let path = ObjectPath::from(format!("some/prefix/{name}"));
        store.get(&path).await.unwrap().bytes().await.unwrap()
    };
    let manifest: Manifest = serde_json::from_slice(&get("manifest.json").await).unwrap();
    assert_eq!((manifest.counts.read, manifest.counts.stored, manifest.parts.len()), (300, 300, 1));
    let copy = files.output.with_file_name("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["manifest.json", &*manifest.parts[0].file.name] {
        std::fs::write(copy.join(name), get(name).await).unwrap();
    }
    assert_complete(&copy, 300).await;
    let again = embed(&["s3://bucket/some/prefix"]);
    assert!(!again.status.success() && stderr(&again).contains("not empty"), "{}", stderr(&again));
    let done = embed(&["s3://bucket/some/prefix", "--force", "--format", "npy", "--vector-type", "f16"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let names: Vec<_> = store.list_with_delimiter(Some(&ObjectPath::from("some/prefix"))).await.unwrap().objects;
    assert_eq!(names.len(), 3, "{names:?}");
    let refused = embed(&["s3://nowhere/prefix"]);
    assert!(stderr(&refused).contains("s3://nowhere/prefix"), "{}", stderr(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_read_what_is_written() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::new(100);
    let folder = files.output.parent().unwrap();
    let formats = [
        ("parquet", VectorType::F32),
        ("parquet", VectorType::F16),
        ("arrow", VectorType::F32),
        ("arrow", VectorType::F16),
        ("jsonl", VectorType::F32),
        ("npy", VectorType::F32),
        ("npy", VectorType::F16),
    ];
    for (format, vector_type) in formats {
        let part_format = serde_json::from_value(format.into()).unwrap();
        let output = folder.join(format!("{format}-{vector_type:?}"));
        run(
            &client,
            &files,
            &output,
            Writing { format: Some(part_format), vector_type, part_bytes: 200, failed: None },
        )
        .await
        .unwrap();
        assert!(assert_complete(&output, 100).await.parts.len() > 1);
    }
    let python = repository().join(".venv/bin/python");
    let script = repository().join("producer/tests/readers.py");
    let read = Command::new(python).arg(script).arg(folder).output().unwrap();
    assert!(read.status.success(), "{}", stderr(&read));
}
