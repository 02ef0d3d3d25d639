//! What is in the registry: `list`, `show`, `verify`.

use embed_registry::{Registry, RegistryError};
use embed_schemas::{CurrentPointer, ModelMetadata, Precision, Slug, model::FileRef};
use serde::Serialize;

use super::{
    output::{Output, size, time},
    progress::Files,
};
use crate::table::Table;

/// What stands in a table where there is nothing.
const NOTHING: &str = "-";

/// A model of the list.
#[derive(Debug, Serialize)]
struct Model {
    model: Slug,
    /// As its authors write it; of the current version.
    name: Option<String>,
    /// The current version.
    current: Option<String>,
    /// When it became current, RFC 3339.
    since: Option<String>,
    /// Who made it so.
    by: Option<String>,
    /// The graphs of the current version.
    precisions: Vec<String>,
    /// All versions, in the order in which they were published.
    versions: Vec<String>,
    /// What is wrong with the model, if it cannot be read.
    problem: Option<String>,
}

pub(super) async fn list(registry: &Registry, out: Output) -> anyhow::Result<()> {
    let mut models = Vec::new();
    for model in registry.all_models().await? {
        models.push(describe(registry, model).await?);
    }
    out.print(&models, || {
        if models.is_empty() {
            return format!("{} has no model; publish one with `embed-worker models publish DIR`", registry.location());
        }
        let mut table = Table::new("", &["MODEL", "CURRENT", "SINCE", "BY", "PRECISIONS", "VERSIONS"]);
        for model in &models {
            let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| NOTHING.to_owned());
            table.row([
                model.model.to_string(),
                or_nothing(&model.current),
                or_nothing(&model.since),
                or_nothing(&model.by),
                model.problem.clone().unwrap_or_else(|| model.precisions.join(" ")),
                model.versions.join(" "),
            ]);
        }
        table.aligned()
    })
}

/// A model that is broken must not hide the others.
async fn describe(registry: &Registry, model: Slug) -> Result<Model, RegistryError> {
    let versions = registry.versions(&model).await?;
    let pointer = match registry.current(&model).await {
        Err(RegistryError::NoCurrent { .. }) => Ok(None),
        other => other.map(Some),
    };
    let metadata = match &pointer {
        Ok(Some(pointer)) => registry.metadata(&model, &pointer.version).await.map(Some),
        _ => Ok(None),
    };
    let problem = pointer.as_ref().err().or(metadata.as_ref().err()).map(ToString::to_string);
    let (pointer, metadata) = (pointer.ok().flatten(), metadata.ok().flatten());
    let last = pointer.as_ref().and_then(|pointer| pointer.history.last());
    Ok(Model {
        name: metadata.as_ref().map(|metadata| metadata.model_name.clone()),
        since: last.map(|last| last.when.clone()),
        by: last.map(|last| last.who.clone()),
        current: pointer.as_ref().map(|pointer| pointer.version.clone()),
        precisions: metadata.as_ref().map(precisions).unwrap_or_default(),
        model,
        versions,
        problem,
    })
}

/// A version, and the pointer of its model.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    is_current: bool,
    published: Option<String>,
    metadata: &'a ModelMetadata,
    pointer: Option<&'a CurrentPointer>,
}

pub(super) async fn show(registry: &Registry, wanted: &str, out: Output) -> anyhow::Result<()> {
    let (model, version) = find(registry, wanted).await?;
    let metadata = registry.metadata(&model, &version).await?;
    let pointer = match registry.current(&model).await {
        Err(RegistryError::NoCurrent { .. }) => None,
        other => Some(other?),
    };
    let published = registry.published(&model).await?.into_iter().find(|info| info.version == version);
    let shown = Shown {
        is_current: pointer.as_ref().is_some_and(|pointer| pointer.version == version),
        published: published.map(|info| time(info.published)),
        metadata: &metadata,
        pointer: pointer.as_ref(),
    };
    out.print(&shown, || text(&shown))
}

fn text(shown: &Shown<'_>) -> String {
    let Shown { metadata, .. } = shown;
    let mut table = Table::new("", &["", ""]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("model", format!("{} ({})", metadata.model_name, metadata.slug));
    row("version", format!("{}{}", metadata.version, if shown.is_current { ", current" } else { "" }));
    row("published", shown.published.clone().unwrap_or_else(|| NOTHING.to_owned()));
    row("from", metadata.model_id.clone());
    row("licence", metadata.license.clone().unwrap_or_else(|| NOTHING.to_owned()));
    row("vectors", format!("{} dimensions, {:?} pooling", metadata.dimension, metadata.pooling).to_lowercase());
    row("texts", format!("at most {} tokens", metadata.max_seq_length));
    row("space", metadata.space.clone());
    let mut files = Table::new("\nFiles", &["FILE", "PRECISION", "SIZE", "SHA-256"]);
    for graph in &metadata.artefacts {
        files.row(file_row(&graph.file, graph.precision.as_str()));
    }
    for file in [&metadata.tokenizer, &metadata.golden] {
        files.row(file_row(file, NOTHING));
    }
    let mut moves = Table::new("\nMoves of the current version, newest first", &["WHEN", "FROM", "TO", "WHO"]);
    for step in shown.pointer.iter().flat_map(|pointer| pointer.history.iter().rev()) {
        let from = step.from.clone().unwrap_or_else(|| NOTHING.to_owned());
        moves.row([step.when.clone(), from, step.to.clone(), step.who.clone()]);
    }
    let moves = if moves.rows.is_empty() { String::new() } else { moves.aligned() };
    let about = table.aligned();
    format!("{}{}{moves}", about.trim_start_matches('\n'), files.aligned())
}

fn file_row(file: &FileRef, precision: &str) -> [String; 4] {
    [file.file.clone(), precision.to_owned(), size(file.bytes), file.sha256.chars().take(16).collect()]
}

/// What `verify` says of a file.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    bytes: u64,
    ok: bool,
    problem: Option<String>,
}

pub(super) async fn verify(registry: &Registry, wanted: &str, out: Output) -> anyhow::Result<()> {
    let (model, version) = find(registry, wanted).await?;
    let progress = Files::new();
    let checks = registry.verify(&model, &version, &progress).await?;
    drop(progress);
    let checked: Vec<Checked> = checks
        .into_iter()
        .map(|check| Checked {
            ok: check.problem.is_none(),
            problem: check.problem.map(|problem| problem.to_string()),
            file: check.file.file,
            bytes: check.file.bytes,
        })
        .collect();
    out.print(&checked, || {
        let mut table = Table::new("", &["FILE", "SIZE", "STATE"]);
        for check in &checked {
            let state = check.problem.clone().unwrap_or_else(|| "ok".to_owned());
            table.row([check.file.clone(), size(check.bytes), state]);
        }
        table.aligned()
    })?;
    let wrong = checked.iter().filter(|check| !check.ok).count();
    anyhow::ensure!(
        wrong == 0,
        "{model} {version}: {wrong} of {} files are missing or damaged; publish it under another version",
        checked.len()
    );
    Ok(())
}

/// `MODEL` is its current version, `MODEL@VERSION` that one.
async fn find(registry: &Registry, wanted: &str) -> anyhow::Result<(Slug, String)> {
    let (name, version) = wanted.split_once('@').map_or((wanted, None), |(name, version)| (name, Some(version)));
    let model = registry.find(name).await?;
    let version = match version {
        Some(version) => version.to_owned(),
        None => registry.current(&model).await?.version,
    };
    Ok((model, version))
}

/// The precisions of a version, each once: one may have several graphs, for several providers.
fn precisions(metadata: &ModelMetadata) -> Vec<String> {
    let mut known: Vec<Precision> = Vec::new();
    for graph in &metadata.artefacts {
        if !known.contains(&graph.precision) {
            known.push(graph.precision);
        }
    }
    known.iter().map(ToString::to_string).collect()
}
