//! `embed status`

use anyhow::Context;
use embed_client::{Client, nats};
use embed_connect::ConnectSettings;
use embed_control::status::Collector;
use embed_http::Limits;
use embed_producer::status::{self, Watch};
use serde_json::json;
use tokio::net::TcpListener;

use super::{Status, asked_to_stop, print};
use crate::cli::status::StatusArgs;

pub(super) async fn run(args: StatusArgs, connect: &ConnectSettings, as_json: bool) -> anyhow::Result<Status> {
    let client = Client::new(nats::connect(connect, "embed status").await?);
    let Some(address) = args.serve else {
        let status = Collector::new(&client).look().await;
        if as_json {
            print::json_line(&status)?;
        } else {
            print::line(status::text(&status).trim_end())?;
        }
        return Ok(Status::Done);
    };
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("--serve: cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let loopback = address.ip().is_loopback();
    if !loopback {
        print::note(format_args!(
            "whoever reaches {address} sees which models and workers there are, and which jobs have failed: put it behind something that asks \
             for a name, or listen on 127.0.0.1"
        ));
    }
    let url = format!("http://{address}/");
    if as_json {
        print::json_line(&json!({ "url": url }))?;
    } else {
        print::line(format_args!("{url}, and as JSON {url}status.json; Ctrl-C ends it"))?;
    }
    let routes = status::routes(Watch::new(&client), loopback);
    tokio::select! {
        never = embed_http::serve(listener, routes, Limits::default()) => match never {},
        () = asked_to_stop() => Ok(Status::Done),
    }
}
