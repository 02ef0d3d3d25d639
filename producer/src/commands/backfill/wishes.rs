//! `embed backfill pause`, `embed backfill cancel`

use embed_backfill::{self as backfill, Asked, Pace, Phase};
use embed_client::Client;
use embed_connect::ConnectSettings;

use crate::{
    cli::backfill::ledger::NameArgs,
    commands::{Status, print},
};

pub(super) async fn pause(args: &NameArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let client = Client::connect(connect).await?;
    tell(&backfill::pause(&client, &args.name).await?, json)
}

pub(super) async fn cancel(args: &NameArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let client = Client::connect(connect).await?;
    tell(&backfill::cancel(&client, &args.name, &Pace::default()).await?, json)
}

/// It may have come to its end before it heard of the wish.
fn tell(asked: &Asked, json: bool) -> anyhow::Result<Status> {
    if json {
        print::json_line(asked)?;
        return Ok(Status::Done);
    }
    let Asked { id, output, phase, rows } = asked;
    let hint = match phase {
        Phase::Finished | Phase::Cancelled => String::new(),
        _ => format!(". Go on with `embed backfill resume {id}`"),
    };
    print::line(format_args!("backfill {id} into {output}: {phase}, {rows} rows are written{hint}"))?;
    Ok(Status::Done)
}
