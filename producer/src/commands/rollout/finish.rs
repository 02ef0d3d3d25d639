//! `embed rollout finish`

use std::time::Duration;

use embed_control::{rollout, route::Router};
use embed_rollout::Rollout;
use serde_json::json;

use super::super::{Status, print, route::Connected};

/// Does what is left to do after a promotion, or only says what that is.
pub(super) async fn run(
    connected: &Connected,
    rollout: &Rollout,
    who: &str,
    dry_run: bool,
    timeout: Duration,
    json: bool,
) -> anyhow::Result<Status> {
    let client = &connected.client;
    let router = Router::connect(client, &connected.connect, &connected.settings).await?;
    let mut finished = Vec::new();
    for ending in rollout::endings(client, &router, rollout).await? {
        let what = ending.describe(rollout);
        let note = match dry_run {
            true => None,
            false => rollout::end(client, &router, rollout, ending, who, timeout).await?,
        };
        if !json {
            let state = if dry_run { "would" } else { "done:" };
            print::line(format_args!("{state} {what}"))?;
            note.iter().for_each(print::note);
        }
        finished.push(json!({ "what": what, "note": note }));
    }
    if json {
        print::json_line(&json!({ "id": rollout.id, "dry_run": dry_run, "finished": finished }))?;
    } else if finished.is_empty() {
        print::line("nothing is left to do")?;
    }
    Ok(Status::Done)
}
