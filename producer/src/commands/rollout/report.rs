//! `embed rollout report`

use std::path::{Path, PathBuf};

use anyhow::Context;
use embed_control::Error;
use embed_control::rollout;
use embed_rollout::record::Record;
use serde_json::json;

use super::super::{Status, print};
use crate::cli::rollout::ReportArgs;

/// Of a record in a file.
pub(super) fn saved(path: &Path, args: &ReportArgs, json: bool) -> anyhow::Result<Status> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Settings(format!("{} is no record of a rollout: {error}", path.display())))?;
    write(&record, args, json)
}

/// Of a record that was just read from the bucket.
pub(super) fn fresh(record: &Record, args: &ReportArgs, json: bool) -> anyhow::Result<Status> {
    if let Some(path) = &args.save {
        std::fs::write(path, serde_json::to_vec(record)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    write(record, args, json)
}

fn write(record: &Record, args: &ReportArgs, json: bool) -> anyhow::Result<Status> {
    let replayed = record.replay()?;
    let verdicts = replayed.len() + record.shadows.len();
    let different = replayed.iter().filter(|verdict| !verdict.same).count() + record.different_shadows();
    let default = || PathBuf::from(format!("rollout-{}.html", record.rollout.id));
    let output = args.output.clone().unwrap_or_else(default);
    std::fs::write(&output, rollout::page(record)?.render())
        .with_context(|| format!("cannot write {}", output.display()))?;
    if json {
        let state = record.rollout.phase.as_str();
        print::json_line(&json!({
            "id": record.rollout.id, "state": state, "verdicts": verdicts, "different": different,
            "page": output, "record": args.save,
        }))?;
    } else {
        print::line(super::show::line(&record.rollout))?;
        print::line(format_args!("{verdicts} verdicts made again, {different} came out otherwise"))?;
        print::line(format_args!("page: {}", output.display()))?;
    }
    Ok(if different == 0 { Status::Done } else { Status::Unsuccessful })
}
