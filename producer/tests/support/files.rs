//! Inputs and outputs of backfills.

use std::path::{Path, PathBuf};

use embed_backfill::{self as backfill, Error, Pace, Parameters, Summary};
use embed_client::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PATIENCE, slug, worker::vector};

/// The files of one backfill, gone when dropped.
pub(crate) struct Files {
    _folder: TempDir,
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
}

pub(crate) fn text(n: usize) -> String {
    format!("row {n} {}", "x".repeat(n % 17))
}

impl Files {
    pub(crate) fn new(rows: usize) -> Self {
        let lines = (0..rows).map(|n| json!({"id": format!("doc-{n}"), "text": text(n)}).to_string() + "\n");
        Self::with(&lines.collect::<String>())
    }

    pub(crate) fn with(input: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, input).unwrap();
        Self { input: path, output: folder.path().join("out.jsonl"), _folder: folder }
    }

    pub(crate) fn parameters(&self, chunk: usize) -> Parameters {
        let input = self.input.to_str().unwrap().to_owned();
        let (text_field, id_field) = ("text".into(), "id".into());
        Parameters { chunk, text_field, id_field, ..Parameters::new(slug("m"), vec![input]) }
    }

    pub(crate) async fn run(&self, client: &Client, chunk: usize, pace: &Pace) -> Result<Summary, Error> {
        backfill::run(client, self.parameters(chunk), &self.output, false, pace, std::future::pending(), |_| {}).await
    }

    pub(crate) async fn resume(&self, client: &Client) -> Result<Summary, Error> {
        backfill::resume(client, &self.output, &pace(), std::future::pending(), |_| {}).await
    }
}

pub(crate) fn pace() -> Pace {
    Pace { stall_timeout: PATIENCE, ..Pace::default() }
}

pub(crate) fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every row of [`Files::new`] once, in order, with its own vector.
pub(crate) fn assert_complete(files: &Files, count: usize) {
    let rows = rows(&files.output);
    assert_eq!(rows.len(), count);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row["id"], json!(format!("doc-{n}")));
        assert_eq!(row["embedding"], json!(vector(&text(n))), "row {n}");
        assert_eq!(row["truncated"], json!(false));
    }
}
