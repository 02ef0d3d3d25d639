//! What people and programs get to see: results on standard output, errors on standard error.

use std::{
    io::{BufRead, Write},
    process::ExitCode,
};

use anyhow::Context;
use embed_control::{rollout::RolloutError, route::RouteError};
use embed_producer::Error;
use embed_schemas::EmbedResult;
use serde::Serialize;
use serde_json::json;

/// Components of a vector that are shown to people.
const SHOWN: usize = 5;

/// Writes one line to standard output. A reader that has gone away (`| head`) is no failure of ours.
pub(super) fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes one line of JSON to standard output.
pub(super) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value).context("cannot write JSON")?)
}

/// Reports an error on standard error, as one line.
pub(super) fn failure(error: &anyhow::Error, json: bool) -> ExitCode {
    let ours =
        [code::<embed_backfill::Error>, code::<embed_client::Error>, code::<embed_control::Error>, code::<Error>];
    let ours = ours.into_iter().chain([code::<RouteError>, code::<RolloutError>]).find_map(|code| code(error));
    let mut stderr = std::io::stderr().lock();
    let _ = if json {
        let (code, retryable) = ours.unwrap_or(("failed", false));
        let error = json!({"code": code, "message": format!("{error:#}"), "retryable": retryable});
        writeln!(stderr, "{}", json!({ "error": error }))
    } else {
        writeln!(stderr, "error: {error:#}")
    };
    ExitCode::FAILURE
}

/// An error of one of our libraries: a stable code, and whether the same can succeed later.
trait Coded: std::error::Error + Send + Sync + 'static {
    fn coded(&self) -> (&str, bool);
}

macro_rules! coded {
    ($($error:ty),*) => {
        $(impl Coded for $error {
            fn coded(&self) -> (&str, bool) {
                (self.code(), self.retryable())
            }
        })*
    };
}

coded!(embed_backfill::Error, embed_client::Error, embed_control::Error, Error, RouteError, RolloutError);

fn code<E: Coded>(error: &anyhow::Error) -> Option<(&str, bool)> {
    error.downcast_ref::<E>().map(Coded::coded)
}

/// Tells how it goes, on standard error. Nobody may be reading; that is no reason to stop.
pub(super) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Tells of something that is no failure yet, on standard error, as one line.
pub(super) fn warning(code: &str, message: &str, json: bool) {
    let mut stderr = std::io::stderr().lock();
    // Nobody may be reading; that is no reason to stop.
    let _ = if json {
        writeln!(stderr, "{}", json!({ "warning": {"code": code, "message": message} }))
    } else {
        writeln!(stderr, "warning: {message}")
    };
}

/// One line for each text of a result.
pub(super) fn vectors(result: &EmbedResult, texts: &[String]) -> anyhow::Result<()> {
    for (row, text) in texts.iter().enumerate() {
        let head: String = text.chars().take(40).collect();
        let head = if head.len() < text.len() { format!("{head}…") } else { head };
        match result.vector(row) {
            Ok(vector) => line(format_args!(
                "{head:?}  dim {}, {} tokens{}  [{}]",
                result.dim,
                result.items[row].tokens,
                if result.items[row].truncated { " (cut)" } else { "" },
                components(&vector)
            ))?,
            Err(error) => line(format_args!("{head:?}  {}", format_args!("error {error}")))?,
        }
    }
    Ok(())
}

/// Whether every text has a vector.
pub(super) fn complete(result: &EmbedResult) -> bool {
    result.items.iter().all(|item| item.error.is_none())
}

fn components(vector: &[f32]) -> String {
    let mut shown: Vec<String> = vector.iter().take(SHOWN).map(|x| format!("{x:.4}")).collect();
    if vector.len() > SHOWN {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

/// The texts that were given, with `-` replaced by the lines of standard input.
pub(super) async fn texts(given: Vec<String>) -> anyhow::Result<Vec<String>> {
    if !given.iter().any(|text| text == "-") {
        return Ok(given);
    }
    let lines = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().collect::<Result<Vec<_>, _>>());
    let mut lines = Some(lines.await?.context("cannot read standard input")?);
    let expand = |text: String| if text == "-" { lines.take().unwrap_or_default() } else { vec![text] };
    let texts: Vec<String> = given.into_iter().flat_map(expand).collect();
    if texts.is_empty() {
        anyhow::bail!("standard input is empty: there is nothing to embed");
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_vectors_are_abridged() {
        assert_eq!(components(&[0.5, 0.25]), "0.5000, 0.2500");
        assert_eq!(components(&[0.0; 6]), "0.0000, 0.0000, 0.0000, 0.0000, 0.0000, …");
    }
}
