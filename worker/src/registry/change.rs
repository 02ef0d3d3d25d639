//! What changes the registry: `publish`, `promote`, `rollback`, `gc`.

use std::{path::Path, time::SystemTime};

use anyhow::anyhow;
use embed_engine::model::inspect_version;
use embed_registry::{Keep, Registry};
use embed_schemas::{Slug, model::PointerMove};
use serde::Serialize;

use super::{
    GcArgs,
    output::{Output, size, time},
    progress::Files,
};
use crate::table::Table;

#[derive(Debug, Serialize)]
struct Published {
    model: Slug,
    version: String,
    already: bool,
    uploaded: Vec<String>,
    resumed: Vec<String>,
}

pub(super) async fn publish(registry: &Registry, dir: &Path, out: Output) -> anyhow::Result<()> {
    inspect_version(dir).map_err(|error| anyhow!("{}: {error}; no worker would load this version", dir.display()))?;
    let progress = Files::new();
    let published = registry.publish(dir, &progress).await?;
    drop(progress);
    let names = |files: Vec<embed_schemas::model::FileRef>| files.into_iter().map(|file| file.file).collect();
    let published = Published {
        model: published.model,
        version: published.version,
        already: published.already,
        uploaded: names(published.uploaded),
        resumed: names(published.resumed),
    };
    out.print(&published, || {
        let Published { model, version, .. } = &published;
        let what = if published.already { "was published already, with the same content" } else { "is published" };
        format!("{model} {version} {what}; make it current with `embed-worker models promote {model} {version}`")
    })
}

/// A move of the pointer, if there was one.
#[derive(Debug, Serialize)]
struct Moved<'a> {
    model: &'a Slug,
    current: &'a str,
    moved: Option<&'a PointerMove>,
}

pub(super) async fn promote(
    registry: &Registry,
    model: &str,
    version: &str,
    from: Option<&str>,
    who: &str,
    out: Output,
) -> anyhow::Result<()> {
    let (model, when) = (registry.find(model).await?, time(SystemTime::now()));
    let moved = match from {
        Some(from) => registry.promote_from(&model, from, version, who, &when).await?,
        None => registry.promote(&model, version, who, &when).await?,
    };
    print_move(&model, version, moved.as_ref(), out)
}

pub(super) async fn rollback(registry: &Registry, model: &str, who: &str, out: Output) -> anyhow::Result<()> {
    let model = registry.find(model).await?;
    let moved = registry.rollback(&model, who, &time(SystemTime::now())).await?;
    print_move(&model, &moved.to, Some(&moved), out)
}

fn print_move(model: &Slug, current: &str, moved: Option<&PointerMove>, out: Output) -> anyhow::Result<()> {
    out.print(&Moved { model, current, moved }, || match moved {
        None => format!("{model}: {current} is current already"),
        Some(PointerMove { from: None, .. }) => format!("{model}: {current} is current now; none was before"),
        Some(PointerMove { from: Some(from), .. }) => format!("{model}: {current} is current now; {from} was before"),
    })
}

#[derive(Debug, Serialize)]
struct Removed {
    model: Slug,
    name: String,
    reason: &'static str,
    bytes: u64,
    removed: bool,
}

pub(super) async fn gc(registry: &Registry, args: &GcArgs, out: Output) -> anyhow::Result<()> {
    let keep = Keep { newest: args.keep, moves: args.keep_moves, uploads: args.uploads_older_than };
    let garbage = registry.gc(&keep, args.dry_run, SystemTime::now()).await?;
    let removed: Vec<Removed> = garbage
        .into_iter()
        .map(|one| Removed {
            model: one.model,
            name: one.name,
            reason: one.reason,
            bytes: one.bytes,
            removed: !args.dry_run,
        })
        .collect();
    out.print(&removed, || {
        if removed.is_empty() {
            return "there is nothing to remove".to_owned();
        }
        let title = if args.dry_run { "Would be removed" } else { "Removed" };
        let mut table = Table::new(title, &["MODEL", "VERSION", "SIZE", "WHY"]);
        for one in &removed {
            table.row([one.model.to_string(), one.name.clone(), size(one.bytes), one.reason.to_owned()]);
        }
        let total = removed.iter().map(|one| one.bytes).sum();
        format!("{}{} in all", table.aligned(), size(total))
    })
}
