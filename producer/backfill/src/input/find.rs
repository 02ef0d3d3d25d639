//! From what the user names to files: one, those that match a pattern, or those of a folder or prefix, in the order of their names.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use embed_registry::{masked, open_store, store_error};
use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as ObjectPath};

use super::{format, in_a_thread};
use crate::Error;

/// As shells match: a `*` ends at a `/`, and files that are hidden are not meant.
const AS_SHELLS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
/// Names that are mentioned of files that are left out.
const MENTIONED: usize = 3;

/// Object stores, each opened once.
#[derive(Clone, Default)]
pub(super) struct Stores(Arc<Mutex<HashMap<String, Arc<dyn ObjectStore>>>>);

impl Stores {
    /// One that is open already.
    #[cfg(test)]
    pub(super) fn of(root: &str, store: Arc<dyn ObjectStore>) -> Self {
        Self(Arc::new(Mutex::new(HashMap::from([(root.to_owned(), store)]))))
    }

    /// The store of a location, and the path in it.
    pub(super) fn open(&self, location: &str) -> Result<(Arc<dyn ObjectStore>, ObjectPath), Error> {
        let wrong = |reason: String| Error::Backfill(format!("{}: {reason}", masked(location)));
        let (scheme, rest) = location.split_once("://").unwrap_or_default();
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let path = ObjectPath::parse(key.trim_end_matches('/')).map_err(|error| wrong(error.to_string()))?;
        let root = format!("{scheme}://{bucket}");
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match stores.get(&root) {
            Some(store) => store.clone(),
            None => {
                let store = open_store(&root).map_err(wrong)?;
                stores.insert(root, store.clone());
                store
            }
        };
        Ok((store, path))
    }

    /// What a store says of a file.
    pub(super) async fn look(&self, location: &str) -> Result<ObjectMeta, Error> {
        let (store, path) = self.open(location)?;
        store.head(&path).await.map_err(|error| refused(location, &error))
    }
}

/// Whether a location is in an object store.
pub(crate) fn is_remote(location: &str) -> bool {
    location.contains("://") && !location.starts_with("file://")
}

/// The path of a location that is not in an object store.
pub(super) fn local_path(location: &str) -> PathBuf {
    location.strip_prefix("file://").unwrap_or(location).into()
}

/// A file that was found.
pub(super) enum Found {
    Local(PathBuf),
    Remote(String, ObjectMeta),
}

impl Found {
    pub(super) fn location(&self) -> String {
        match self {
            Self::Local(path) => path.to_string_lossy().into_owned(),
            Self::Remote(location, _) => location.clone(),
        }
    }
}

/// Finds the files that an input names. `any_ending`: those of a folder are read whatever their names end in.
pub(super) async fn find(
    stores: &Stores,
    input: &str,
    any_ending: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<Found>, Error> {
    let mut left_out = Vec::new();
    let found = if is_remote(input) {
        remote(stores, input, any_ending, &mut left_out).await?
    } else {
        let input = input.to_owned();
        let (found, rest) = in_a_thread(move || {
            let mut left_out = Vec::new();
            Ok((local(&input, any_ending, &mut left_out)?, left_out))
        })
        .await?;
        left_out = rest;
        found
    };
    if !left_out.is_empty() {
        let names = left_out.iter().take(MENTIONED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if left_out.len() > MENTIONED { ", …" } else { "" };
        notes.push(format!(
            "{input}: {} left out, which are hidden, lead elsewhere or are not called as files of rows are ({names}{more}); name them to have \
             them read",
            left_out.len()
        ));
    }
    if found.is_empty() {
        return Err(Error::Backfill(format!("{}: there is no file to read", masked(input))));
    }
    Ok(found)
}

fn local(input: &str, any_ending: bool, left_out: &mut Vec<String>) -> Result<Vec<Found>, Error> {
    let path = local_path(input);
    let path = std::path::absolute(&path).map_err(Error::file(&path))?;
    if path.is_dir() {
        let mut files = Vec::new();
        walk(&path, any_ending, &mut files, left_out).map_err(Error::file(&path))?;
        files.sort();
        return Ok(files.into_iter().map(Found::Local).collect());
    }
    if path.exists() || !has_pattern(input) {
        return Ok(vec![Found::Local(path)]);
    }
    let pattern = path.to_string_lossy().into_owned();
    let wrong = |reason: String| Error::Backfill(format!("{input}: {reason}"));
    let mut files = Vec::new();
    for path in glob::glob_with(&pattern, AS_SHELLS).map_err(|error| wrong(error.to_string()))? {
        let path = path.map_err(|error| wrong(error.to_string()))?;
        if is_state(&path.to_string_lossy()) {
            left_out.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        } else if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files.into_iter().map(Found::Local).collect())
}

/// The files below a folder. Links to folders are not followed: they may lead back.
fn walk(folder: &Path, any_ending: bool, files: &mut Vec<PathBuf>, left_out: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        match entry.file_type()?.is_dir() {
            true if is_hidden(&name) => left_out.push(name + "/"),
            true => walk(&path, any_ending, files, left_out)?,
            false if path.is_file() && is_read(&name, any_ending) => files.push(path),
            false => left_out.push(name),
        }
    }
    Ok(())
}

async fn remote(
    stores: &Stores,
    input: &str,
    any_ending: bool,
    left_out: &mut Vec<String>,
) -> Result<Vec<Found>, Error> {
    let root = input.split('/').take(3).collect::<Vec<_>>().join("/");
    let key = input.get(root.len() + 1..).unwrap_or_default();
    let refused = |error| refused(input, &error);
    let found = |meta: ObjectMeta| Found::Remote(format!("{root}/{}", meta.location), meta);
    let (store, _) = stores.open(&root)?;
    let parsed = |key: &str| {
        ObjectPath::parse(key.trim_matches('/')).map_err(|error| Error::Backfill(format!("{}: {error}", masked(input))))
    };
    let (prefix, pattern) = if has_pattern(key) {
        let wrong = |error| Error::Backfill(format!("{}: {error}", masked(input)));
        let fixed = key.split_inclusive('/').take_while(|part| !has_pattern(part)).collect::<String>();
        (parsed(&fixed)?, Some(Pattern::new(key).map_err(wrong)?))
    } else {
        (parsed(key)?, None)
    };
    if pattern.is_none() && !prefix.as_ref().is_empty() && !key.ends_with('/') {
        match store.head(&prefix).await {
            Ok(meta) => return Ok(vec![found(meta)]),
            // A prefix is no object.
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    let listed: Vec<ObjectMeta> = store.list(Some(&prefix)).try_collect().await.map_err(refused)?;
    let mut files = Vec::new();
    let mut hidden = BTreeSet::new();
    for meta in listed {
        let path = meta.location.as_ref();
        if let Some(pattern) = &pattern {
            match pattern.matches_with(path, AS_SHELLS) {
                true if is_state(path) => left_out.push(path.to_owned()),
                true => files.push(meta),
                false => {}
            }
            continue;
        }
        let below = path.strip_prefix(prefix.as_ref()).unwrap_or(path).trim_start_matches('/');
        let (folders, name) = below.rsplit_once('/').unwrap_or(("", below));
        match folders.split('/').find(|folder| !folder.is_empty() && is_hidden(folder)) {
            Some(folder) => {
                hidden.insert(format!("{folder}/"));
            }
            None if is_read(name, any_ending) => files.push(meta),
            None => left_out.push(name.to_owned()),
        }
    }
    left_out.extend(hidden);
    files.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(files.into_iter().map(found).collect())
}

fn refused(location: &str, error: &object_store::Error) -> Error {
    Error::Backfill(format!("{}: {}", masked(location), store_error(error)))
}

fn has_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Programs leave such files and folders beside those that hold rows.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// The state of a backfill: its output stands beside it.
fn is_state(name: &str) -> bool {
    name.ends_with(".backfill.json")
}

/// Whether a file of a folder is read.
fn is_read(name: &str, any_ending: bool) -> bool {
    // What backfills write beside rows: what their output is, rows that are not in it, and ids of vectors.
    let is_beside = name == "manifest.json"
        || is_state(name)
        || name.starts_with("failed-") && name.ends_with(".jsonl")
        || name.ends_with(".ids.jsonl");
    let is_known = format::by_ending(name).0.is_some();
    !is_hidden(name) && !name.ends_with(".crc") && !is_beside && (any_ending || is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(input: &str, any_ending: bool) -> (Vec<String>, Vec<String>) {
        let mut notes = Vec::new();
        let found = find(&Stores::default(), input, any_ending, &mut notes).await.unwrap();
        let names = found.into_iter().map(|found| match found {
            Found::Local(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
            Found::Remote(location, _) => location,
        });
        (names.collect(), notes)
    }

    #[tokio::test]
    async fn folders_and_patterns_are_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        fs::create_dir(at("b")).unwrap();
        fs::create_dir(at("_temporary")).unwrap();
        for name in [
            "c.jsonl",
            "a.csv.gz",
            "b/x.parquet",
            "_SUCCESS",
            "manifest.json",
            "failed-00000.jsonl",
            ".a.csv.crc",
            "README.md",
            "out.jsonl.backfill.json",
            "_temporary/a.csv",
        ] {
            fs::write(at(name), "").unwrap();
        }
        std::os::unix::fs::symlink(at("b"), at("link")).unwrap();
        let (names, notes) = found(&at(""), false).await;
        assert_eq!(names, ["a.csv.gz", "x.parquet", "c.jsonl"]);
        assert!(notes[0].contains("8 left out") && notes[0].contains("name them"), "{notes:?}");
        fs::remove_file(at("link")).unwrap();
        assert_eq!(
            found(&format!("file://{}", at("")), true).await.0,
            ["README.md", "a.csv.gz", "x.parquet", "c.jsonl"]
        );
        assert_eq!(found(&at("[ac].[cj]s*"), false).await.0, ["a.csv.gz", "c.jsonl"]);
        assert_eq!(found(&at("**/*.parquet"), false).await.0, ["x.parquet"]);
        let (names, notes) = found(&at("*.json*"), false).await;
        assert_eq!(names, ["c.jsonl", "failed-00000.jsonl", "manifest.json"]);
        assert!(notes[0].contains("1 left out") && notes[0].contains("out.jsonl.backfill.json"), "{notes:?}");
        // Whoever names something means it.
        assert_eq!(found(&at("out.jsonl.backfill.json"), false).await.0, ["out.jsonl.backfill.json"]);
        for nothing in ["_temporary/*.jsonl", "_temporary"] {
            let input = at(nothing);
            fs::remove_file(at("_temporary/a.csv")).ok();
            let error = find(&Stores::default(), &input, false, &mut Vec::new()).await.err().unwrap().to_string();
            assert!(error.contains("no file to read") && error.contains("_temporary"), "{error}");
        }
    }
}
