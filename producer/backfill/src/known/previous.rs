//! A previous output: what it was made by, and what it holds.

use std::path::Path;

use embed_schemas::Slug;

use super::{before::Before, lines};
use crate::{
    Error, Long, Manifest, Parameters, PartRows, State, VectorType,
    output::{MANIFEST, is_remote, location as name_of},
};

/// Rows of a previous output. Whoever asks waits until they are read.
pub(super) type Rows = Box<dyn Iterator<Item = Result<Before, Error>> + Send>;

/// What a previous output was made by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) model: Slug,
    pub(super) prompt: Option<String>,
    pub(super) truncate: bool,
    pub(super) dimensions: Option<u32>,
    pub(super) long: Long,
    pub(super) vector_type: VectorType,
    /// The embedding space of its vectors; `None` if it has none.
    pub(super) space: Option<String>,
}

/// A previous output.
pub(super) struct Previous {
    pub(super) made: Made,
    pub(super) rows: Rows,
}

/// The location of a previous output, wherever one is.
pub(super) fn absolute(location: &str) -> Result<String, Error> {
    if location.contains("://") {
        return Ok(location.to_owned());
    }
    let path = std::path::absolute(location).map_err(Error::file(location))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Opens what `--reuse` names, for a backfill into `output`.
pub(super) async fn open(location: &str, output: &Path) -> Result<Previous, Error> {
    let path = Path::new(location);
    if is_remote(location) || path.is_dir() || path.file_name().is_some_and(|name| name == MANIFEST) {
        return of_parts(location, output).await;
    }
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(path).is_some_and(|path| real(output) == Some(path)) {
        return Err(Error::Backfill(format!("--reuse {location} is the output: choose another output")));
    }
    let Some(state) = State::find(path)? else {
        return Err(Error::Backfill(format!(
            "--reuse {location}: it is not known what it was made of; name the output of a backfill that has its state beside it"
        )));
    };
    if !state.finished {
        return Err(Error::Backfill(format!(
            "--reuse {location}: that backfill is unfinished; finish it with `embed backfill resume {location}`"
        )));
    }
    if !state.plan.can_be_read_again() {
        return Err(Error::Backfill(format!(
            "--reuse {location}: its input was standard input, so that it is not known which text each of its rows has"
        )));
    }
    let changed = |error| Error::Backfill(format!("--reuse {location} needs the input that it was made of: {error}"));
    state.plan.check().await.map_err(changed)?;
    Ok(Previous { made: Made::by(&state), rows: Box::new(lines::Pairs::open(&state, path)?) })
}

/// Opens an output in parts.
async fn of_parts(location: &str, output: &Path) -> Result<Previous, Error> {
    let named = name_of(Path::new(location));
    let folder = named.strip_suffix(MANIFEST).unwrap_or(&named).trim_end_matches('/');
    let real = |path: &str| std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    if folder == name_of(output) || real(folder) == real(&name_of(output)) {
        return Err(Error::Backfill(format!("--reuse {location} is the output: choose another output")));
    }
    let manifest = Manifest::read(location).await.map_err(|error| {
        Error::Backfill(format!(
            "--reuse {location}: {error}. Name the output of a finished backfill, or its {MANIFEST}"
        ))
    })?;
    let rows = PartRows::open(location, &manifest)?;
    let Manifest { model, prompt, truncate, long, vector_type, space, dimensions_asked: dimensions, .. } = manifest;
    let made = Made { model, prompt, truncate, dimensions, long, vector_type, space };
    Ok(Previous { made, rows: Box::new(rows.map(|row| row.map(Before::from))) })
}

impl Made {
    /// By a backfill.
    fn by(state: &State) -> Self {
        let Parameters { model, prompt, truncate, dimensions, long, writing, .. } = state.parameters.clone();
        let (vector_type, space) = (writing.vector_type, state.space.clone());
        Self { model, prompt, truncate, dimensions, long, vector_type, space }
    }

    /// Whether rows of it can be equal to rows of a backfill. The error says why not.
    pub(super) fn fits(&self, parameters: &Parameters) -> Result<(), String> {
        let Self { model, prompt, truncate, dimensions, long, vector_type, space: _ } = self;
        let none = || "none".to_owned();
        let differs = |what, before: String, now: String| Err(format!("its {what} is {before}, and now it is {now}"));
        if *model != parameters.model {
            return differs("model", model.to_string(), parameters.model.to_string());
        }
        if *prompt != parameters.prompt {
            let text = |prompt: &Option<String>| prompt.clone().unwrap_or_else(none);
            return differs("prompt", text(prompt), text(&parameters.prompt));
        }
        if *dimensions != parameters.dimensions {
            let text = |number: Option<u32>| number.map_or_else(|| "that of the model".to_owned(), |n| n.to_string());
            return differs("number of dimensions", text(*dimensions), text(parameters.dimensions));
        }
        if *truncate != parameters.truncate {
            let text = |cut| if cut { "to cut them" } else { "to refuse them" };
            return differs("way with long texts", text(*truncate).into(), text(parameters.truncate).into());
        }
        if *long != parameters.long {
            let text = |long: &Long| serde_json::to_string(long).unwrap_or_default();
            return differs("--long", text(long), text(&parameters.long));
        }
        if (vector_type, parameters.writing.vector_type) == (&VectorType::F16, VectorType::F32) {
            return Err("its vectors are rounded to f16: choose --vector-type f16, too".into());
        }
        Ok(())
    }
}

/// Whether vectors of a space are of use where these spaces are: that of the backfill, if it is settled, and those that workers serve, as
/// far as they say. The error says what is in the way.
pub(super) fn usable(before: &str, settled: Option<&str>, served: &[String]) -> Result<(), String> {
    match settled {
        Some(settled) if settled == before => Ok(()),
        Some(settled) => {
            Err(format!("its vectors are of the embedding space {before}, and this backfill's are of {settled}"))
        }
        None if served.is_empty() || served.iter().any(|space| space == before) => Ok(()),
        None => {
            Err(format!("its vectors are of the embedding space {before}, and workers serve {}", served.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LongMode, tests::parameters};

    #[test]
    fn what_was_made_otherwise_does_not_fit() {
        let Parameters { model, prompt, truncate, dimensions, long, .. } = parameters();
        let made = Made { model, prompt, truncate, dimensions, long, vector_type: VectorType::F32, space: None };
        made.fits(&parameters()).unwrap();
        let split = Long { mode: LongMode::Split, ..Long::default() };
        for (other, said) in [
            (Made { model: "n".parse().unwrap(), ..made.clone() }, "its model is n, and now it is m"),
            (Made { prompt: Some("query".into()), ..made.clone() }, "its prompt is query, and now it is none"),
            (Made { dimensions: Some(8), ..made.clone() }, "is 8, and now it is that of the model"),
            (Made { truncate: false, ..made.clone() }, "is to refuse them, and now it is to cut them"),
            (Made { long: split, ..made.clone() }, "its --long is"),
            (Made { vector_type: VectorType::F16, ..made.clone() }, "rounded to f16"),
        ] {
            let error = other.fits(&parameters()).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_space_is_compared_with_the_settled_one_or_else_with_those_served() {
        let served = ["s".to_owned(), "t".to_owned()];
        for (settled, served, expected) in [
            (Some("s"), &[][..], true),
            (Some("t"), &served, false),
            (None, &served, true),
            (None, &served[1..], false),
            (None, &[], true),
        ] {
            assert_eq!(usable("s", settled, served).is_ok(), expected, "{settled:?} {served:?}");
        }
    }
}
