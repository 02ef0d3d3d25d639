//! Rows that have no vector yet: only those that an output, or a file of failed rows, has without one.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    Error, InputFile, State,
    input::REST_OF_A_FILE,
    row::{Label, Origin, Row},
};

/// Where it says which rows failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// JSON lines, of which those with an `error` count: by their `id`, or else by their `line`.
    pub file: PathBuf,
    /// SHA-256 of what it holds, in hexadecimal digits. Groups of rows follow from it.
    #[serde(default)]
    pub sha256: String,
}

impl Retry {
    /// Looks at what it holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn look(mut self) -> Result<Self, Error> {
        self.file = std::path::absolute(&self.file).map_err(Error::file(&self.file))?;
        let digest = || -> io::Result<String> {
            let mut hash = Sha256::new();
            io::copy(&mut BufReader::with_capacity(1 << 18, File::open(&self.file)?), &mut hash)?;
            Ok(format!("{:x}", hash.finalize()))
        };
        self.sha256 = digest().map_err(Error::file(&self.file))?;
        Ok(self)
    }

    /// The rows that failed.
    fn failed(&self, files: &[InputFile]) -> Result<HashSet<Named>, Error> {
        let now = self.clone().look()?;
        if now.sha256 != self.sha256 {
            return Err(Error::Backfill(format!(
                "{} holds something else than when the backfill began: put back what it held, or begin anew with --force",
                self.file.display()
            )));
        }
        let file = File::open(&self.file).map_err(Error::file(&self.file))?;
        let mut failed = HashSet::new();
        for (line, number) in BufReader::new(file).lines().zip(1..) {
            let line = line.map_err(Error::file(&self.file))?;
            let wrong = |reason: &str| Error::Backfill(format!("{}: line {number}: {reason}", self.file.display()));
            let Some((file, label)) = named(&line).map_err(|reason| wrong(&reason))? else { continue };
            // What is not called as one of the inputs may be a field that came along.
            failed.insert((file.and_then(|file| files.iter().position(|known| known.location == file)), label));
        }
        Ok(failed)
    }
}

/// A row: the number of the file in which it is, if that is known, and what it is called.
type Named = (Option<usize>, Label);

/// In which file a row is that failed, if that is said, and what it is called; nothing of others.
fn named(line: &str) -> Result<Option<(Option<String>, Label)>, String> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    // An output has `error`, and a file of failed rows what is in it.
    if !fields.contains_key("error") && (fields.contains_key("embedding") || !fields.contains_key("code")) {
        return Ok(None);
    }
    if fields.get("message").or(fields.get("error")).is_some_and(|why| why.get().contains(REST_OF_A_FILE)) {
        return Err(
            "this stands for the rest of a file, which was left out: embed that file again, in a backfill of its own"
                .into(),
        );
    }
    let label = match (fields.get("id"), fields.get("line")) {
        (Some(id), _) => Label::Id(id.get().to_owned()),
        (None, Some(line)) => Label::Line(serde_json::from_str(line.get()).map_err(|error| error.to_string())?),
        (None, None) => return Err("a row without a vector has neither `id` nor `line`".into()),
    };
    let file = fields.get("file").and_then(|file| serde_json::from_str(file.get()).ok());
    Ok(Some((file, label)))
}

/// Of the rows that are read, those that a backfill is about, counted anew.
pub(crate) struct Selected<I> {
    rows: I,
    failed: Option<HashSet<Named>>,
    /// The number of the next.
    next: u64,
}

impl<I: Iterator<Item = Result<Row, Error>>> Selected<I> {
    /// Of what is read from where a backfill stands.
    ///
    /// # Errors
    /// If the file of failed rows is not as it was, or says too little.
    pub(crate) fn of(rows: I, state: &State) -> Result<Self, Error> {
        let files = &state.plan.files;
        let failed = state.parameters.retry.as_ref().map(|retry| retry.failed(files)).transpose()?;
        let has_lines = |failed: &HashSet<Named>| failed.iter().any(|row| matches!(row, (None, Label::Line(_))));
        if files.len() > 1 && failed.as_ref().is_some_and(has_lines) {
            return Err(Error::Backfill(
                "--retry-failed: rows without ids are known by their lines, which several inputs have, and it is not said in which of the inputs \
                 they are (`file`): retry one input at a time"
                    .into(),
            ));
        }
        Ok(Self { rows, failed, next: state.done.rows })
    }
}

impl<I: Iterator<Item = Result<Row, Error>>> Iterator for Selected<I> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(failed) = &self.failed else { return self.rows.next() };
        let mut row = loop {
            match self.rows.next()? {
                Ok(row) => {
                    // A row may have got its id meanwhile.
                    let Origin { file, line } = row.origin;
                    let labels = [row.label.clone(), Label::Line(line)];
                    let mut names = labels.into_iter().flat_map(|label| [(None, label.clone()), (Some(file), label)]);
                    if names.any(|name| failed.contains(&name)) {
                        break row;
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        };
        row.number = self.next;
        self.next += 1;
        row.end.rows = self.next;
        Some(Ok(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Parameters, Plan, Position, row::Along};
    use embed_schemas::removal::RemovalKey;

    fn row(line: u64, id: Option<&str>) -> Row {
        let label = id.map_or(Label::Line(line), |id| Label::Id(id.into()));
        let end = Position { lines: line, rows: line, ..Position::default() };
        Row {
            number: line - 1,
            label,
            content: Ok(format!("text {line}")),
            along: Along::Nothing,
            digest: None,
            origin: Origin { file: 0, line },
            end,
            reused: false,
        }
    }

    #[test]
    fn rows_without_vectors_are_tried_again_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out.jsonl");
        // As a file of failed rows has it.
        let line = "{\"file\":\"f\",\"line\":3,\"code\":\"x\",\"message\":\"y\"}";
        assert_eq!(named(line), Ok(Some((Some("f".into()), Label::Line(3)))));
        let out = "{\"id\":1,\"embedding\":[1.0]}\n{\"id\":\"a\",\"error\":{}}\n\n{\"line\":3,\"error\":{}}\n{\"id\":1.0,\"error\":{}}\n";
        std::fs::write(&file, out).unwrap();
        let retry = Some(Retry { file: file.clone(), sha256: String::new() }.look().unwrap());
        let parameters = Parameters { retry, ..crate::tests::parameters() };
        let mut state = State::new(RemovalKey::from_random([7; 32]), parameters, Plan::default());
        let rows = || [row(1, Some("1")), row(2, Some("\"a\"")), row(3, None), row(4, Some("1.0"))].into_iter().map(Ok);
        let selected = |state: &State, skip| -> Vec<Row> {
            Selected::of(rows().skip(skip), state).unwrap().map(Result::unwrap).collect()
        };
        let all = selected(&state, 0);
        let seen: Vec<_> = all.iter().map(|row| (row.number, row.end.lines, row.end.rows)).collect();
        assert_eq!(seen, [(0, 2, 1), (1, 3, 2), (2, 4, 3)]);
        // Whoever goes on behind one of them has the same.
        state.done = all[0].end;
        assert_eq!(selected(&state, 2)[..], all[1..]);
        std::fs::write(&file, "{\"id\":2,\"error\":{}}\n").unwrap();
        let error = Selected::of(rows(), &state).err().unwrap().to_string();
        assert!(error.contains("holds something else"), "{error}");
    }

    #[test]
    fn a_line_is_that_of_the_file_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("failed.jsonl");
        let of = |n: usize, line| {
            let row = row(line, None);
            Row { origin: Origin { file: n, line }, ..row }
        };
        let rows = || [of(0, 1), of(0, 2), of(1, 1), of(1, 2)].into_iter().map(Ok);
        let selected = |lines: &str| {
            std::fs::write(&file, lines).unwrap();
            let retry = Some(Retry { file: file.clone(), sha256: String::new() }.look().unwrap());
            let files = ["/a", "/b"].map(|name| InputFile { location: name.into(), ..InputFile::default() }).to_vec();
            let parameters = Parameters { retry, ..crate::tests::parameters() };
            let plan = Plan { files, ..Plan::default() };
            let state = State::new(RemovalKey::from_random([7; 32]), parameters, plan);
            let selected = Selected::of(rows(), &state).map_err(|error| error.to_string())?;
            Ok::<_, String>(selected.map(|row| row.unwrap().origin).collect::<Vec<_>>())
        };
        let failed = "{\"file\":\"/b\",\"line\":1,\"code\":\"x\"}\n{\"file\":\"/a\",\"line\":2,\"error\":{}}\n";
        assert_eq!(selected(failed).unwrap(), [Origin { file: 0, line: 2 }, Origin { file: 1, line: 1 }]);
        for unknown in ["{\"line\":1,\"error\":{}}", "{\"line\":1,\"file\":\"/c\",\"error\":{}}"] {
            let error = selected(unknown).unwrap_err();
            assert!(error.contains("one input at a time"), "{error}");
        }
    }

    #[test]
    fn what_says_too_little_is_refused() {
        assert_eq!(named("{\"embedding\":[1]}"), Ok(None));
        assert_eq!(named("{\"embedding\":[1],\"code\":7}"), Ok(None));
        assert!(named("{\"error\":{}}").unwrap_err().contains("neither"));
        assert!(named("[]").is_err());
    }
}
