//! `embed models`

mod list;
mod progress;

use std::time::SystemTime;

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::models::{self, Serve, Unserve, Unserved};
use embed_schemas::serving::DesiredVariant;
use futures::TryFutureExt;
use serde_json::json;

use super::{Status, print};
use crate::cli::{ModelsCommand, ServeArgs};

pub(super) async fn run(command: ModelsCommand, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let client = Client::connect(connect).await?;
    match command {
        ModelsCommand::List => {
            let (workers, desired) =
                tokio::try_join!(client.workers().map_err(embed_control::Error::from), models::desired(&client))?;
            if json {
                print::json_line(&list::json(&workers, &desired))?;
            } else {
                list::lines(&workers, &desired, SystemTime::now()).iter().try_for_each(print::line)?;
            }
        }
        ModelsCommand::Serve(args) => serve(&client, args, json).await?,
        ModelsCommand::Unserve { target, default, force } => {
            let what = Unserve { model: target.model, variant: target.variant, default, force };
            let done = models::unserve(&client, &what).await?;
            let Unserve { model, variant, .. } = &what;
            let Unserved { was_wanted, waiting } = done;
            if json {
                let answer =
                    json!({"model": model, "variant": variant, "was_wanted": was_wanted, "jobs_waiting": waiting});
                print::json_line(&answer)?;
                return Ok(Status::Done);
            }
            match was_wanted {
                true => print::line(format_args!("{model}: {variant} is not wanted any more"))?,
                false => print::line(format_args!("{model}: {variant} was not wanted anyway"))?,
            }
            if waiting > 0 {
                print::line(format_args!(
                    "{waiting} jobs for it are not done: a worker whose configuration serves it does them; otherwise they wait \
                     until `embed models serve {model} {variant}`"
                ))?;
            }
        }
        ModelsCommand::Refresh { model } => {
            models::refresh(&client, model.as_ref()).await?;
            let workers = client.workers().await?.len();
            if json {
                print::json_line(&json!({ "workers": workers }))?;
            } else {
                print::line(format_args!("{workers} workers have been asked to look at the registry"))?;
            }
        }
    }
    Ok(Status::Done)
}

async fn serve(client: &Client, args: ServeArgs, json: bool) -> anyhow::Result<()> {
    let (model, variant) = (args.target.model, args.target.variant);
    let desired = DesiredVariant {
        version: args.version,
        precision: args.precision,
        default: args.default.then_some(true),
        pinned: args.pinned,
        who: args.who,
        when: embed_control::now(),
    };
    let serve = Serve { model, variant, desired };
    let serving = models::serve(client, &serve).await?;
    let Serve { model, variant, .. } = &serve;
    if !json {
        serving.consumers.created.iter().try_for_each(|name| print::line(format_args!("created    {name}")))?;
        print::line(format_args!("{model}: {variant} is wanted at version {}", serving.desired.version))?;
    }
    let mut workers = None;
    if args.wait {
        let mut meter = progress::Meter::new();
        let done = serving.wait(client, args.timeout, |workers| meter.show(workers)).await;
        meter.end();
        workers = Some(done?);
    }
    if json {
        let answer = json!({
            "model": model, "variant": variant, "desired": serving.desired, "consumers": serving.consumers,
            "workers": workers,
        });
        print::json_line(&answer)?;
    } else {
        workers.iter().flatten().try_for_each(|one| print::line(progress::describe(one)))?;
    }
    Ok(())
}
