//! Rows of an output of JSON lines, which say nothing of their texts: those are read from its input once more.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Take},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{before::Before, digest::Digests};
use crate::{
    Error, Position, State,
    input::Rows,
    manners::Selected,
    row::{Label, Row, Vector, Window},
};

/// The rows of an input, each with its lines of the output, as far as that was recorded.
pub(super) struct Pairs {
    output: PathBuf,
    digests: Digests,
    rows: Selected<Rows>,
    lines: BufReader<Take<File>>,
    /// A line that is read and belongs to the next row.
    next: Option<Line>,
}

/// What matters of a line.
#[derive(Debug, Deserialize)]
struct Line {
    /// `null` is an id, too.
    id: Option<Box<RawValue>>,
    line: Option<u64>,
    window: Option<Window>,
    embedding: Option<Vec<f32>>,
    #[serde(default)]
    tokens: u32,
    #[serde(default)]
    truncated: bool,
}

impl Pairs {
    /// Those of a backfill into `output`, whose input is as it was.
    pub(super) fn open(state: &State, output: &Path) -> Result<Self, Error> {
        let file = File::open(output).map_err(Error::file(output))?;
        let of_all = State { done: Position::default(), ..state.clone() };
        Ok(Self {
            output: output.to_owned(),
            digests: Digests::of(&state.parameters),
            rows: Selected::of(state.plan.rows(&state.parameters, Position::default())?, &of_all)?,
            lines: BufReader::with_capacity(1 << 18, file.take(state.mark.bytes)),
            next: None,
        })
    }

    fn line(&mut self) -> Result<Option<Line>, Error> {
        if let Some(line) = self.next.take() {
            return Ok(Some(line));
        }
        let mut text = String::new();
        let read = self.lines.read_line(&mut text).and_then(|bytes| match bytes {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_str(&text).map_err(io::Error::from)?)),
        });
        read.map_err(Error::file(&self.output))
    }

    fn pair(&mut self) -> Result<Option<Before>, Error> {
        let Some(line) = self.line()? else { return Ok(None) };
        let row = self.rows.next().transpose()?.filter(|row| line.is_of(row));
        let Some(Row { label, content, .. }) = row else {
            return Err(Error::Backfill(format!(
                "{} does not have the rows of its input: it was changed since",
                self.output.display()
            )));
        };
        let mut vectors = Vec::from_iter(line.vector());
        while let Some(line) = self.line()? {
            if line.window.is_none_or(|window| window.index == 0) {
                self.next = Some(line);
                break;
            }
            vectors.extend(line.vector());
        }
        let id = match label {
            Label::Id(id) => Some(id),
            Label::Line(_) => None,
        };
        let content = content.ok().filter(|_| !vectors.is_empty());
        Ok(Some(Before { id, content: content.map(|text| (self.digests.digest(&text), vectors)) }))
    }
}

impl Iterator for Pairs {
    type Item = Result<Before, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pair().transpose()
    }
}

impl Line {
    fn is_of(&self, row: &Row) -> bool {
        match &row.label {
            Label::Line(line) => self.line == Some(*line),
            Label::Id(id) => self.id.as_ref().map_or("null", |id| id.get()) == id,
        }
    }

    fn vector(self) -> Option<Vector> {
        let Self { window, embedding, tokens, truncated, .. } = self;
        embedding.map(|values| Vector { values, tokens, truncated, window })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use embed_schemas::removal::RemovalKey;

    use super::*;
    use crate::{Mark, Parameters, Plan, input::Carry, tests::parameters};

    #[tokio::test]
    async fn rows_find_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
        let texts = "{\"id\":1,\"text\":\"a\"}\n\nnonsense\n{\"id\":null,\"text\":\"b\"}\n{\"id\":\"x\",\"text\":\"c\"}\n{\"text\":\"d\"}\n";
        fs::write(&input, texts).unwrap();
        let written = "{\"id\":1,\"embedding\":[1.5,0.1],\"tokens\":3,\"truncated\":true}\n{\"line\":3,\"error\":{}}\n\
            {\"id\":null,\"window\":{\"index\":0,\"start\":0,\"end\":1},\"embedding\":[1],\"tokens\":1,\"truncated\":false,\"n\":7}\n\
            {\"id\":null,\"window\":{\"index\":1,\"start\":1,\"end\":2},\"embedding\":[2],\"tokens\":1,\"truncated\":false}\n\
            {\"id\":\"x\",\"error\":{}}\n";
        fs::write(&output, format!("{written}{{\"line\":6,\"embedd")).unwrap();
        let parameters = Parameters { inputs: vec![input.to_str().unwrap().into()], ..parameters() };
        let plan = Plan::make(&parameters, Carry::Json).await.unwrap();
        let mut state = State::new(RemovalKey::from_random([7; 32]), parameters.clone(), plan);
        state.mark = Mark { bytes: written.len() as u64, ..Mark::default() };
        let pairs = |state: &State| Pairs::open(state, &output).unwrap().collect::<Result<Vec<_>, _>>();
        let rows = pairs(&state).unwrap();
        let ids: Vec<_> = rows.iter().map(|row| row.id.as_deref()).collect();
        assert_eq!(ids, [Some("1"), None, Some("null"), Some("\"x\"")]);
        let digests = Digests::of(&parameters);
        let vector = |values: &[f32], window| Vector { values: values.into(), tokens: 1, truncated: false, window };
        let window = |index, start, end| Some(Window { index, start, end });
        let first = Vector { tokens: 3, truncated: true, ..vector(&[1.5, 0.1], None) };
        assert_eq!(rows[0].content, Some((digests.digest("a"), vec![first])));
        let windows = vec![vector(&[1.0], window(0, 0, 1)), vector(&[2.0], window(1, 1, 2))];
        assert_eq!(rows[2].content, Some((digests.digest("b"), windows)));
        assert_eq!((&rows[1].content, &rows[3].content), (&None, &None));

        fs::write(&input, texts.replace("\"x\"", "\"y\"")).unwrap();
        let error = pairs(&state).unwrap_err().to_string();
        assert!(error.contains("does not have the rows of its input"), "{error}");
    }
}
