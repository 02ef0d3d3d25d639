//! `embed dev`

use embed_producer::dev::{self, Options, Ready};
use embed_schemas::streams::StreamSettings;

use super::{Status, asked_to_stop, print, registry};
use crate::cli::DevArgs;

pub(super) async fn run(args: DevArgs, json: bool) -> anyhow::Result<Status> {
    let options = Options {
        data_dir: args.data_dir,
        registry: registry(args.registry)?,
        port: args.port,
        max_payload: args.max_payload,
        variants: args.variant,
        streams: StreamSettings { ack_wait_ms: super::init::milliseconds(args.ack_wait), ..StreamSettings::default() },
        worker_args: args.worker_arg,
        gateway: args.gateway,
        status: args.status,
    };
    let mut printed = Ok(());
    dev::run(&options, asked_to_stop(), |ready| {
        printed = if json { print::json_line(ready) } else { print::line(welcome(ready)) };
    })
    .await?;
    printed?;
    Ok(Status::Done)
}

fn welcome(ready: &Ready) -> String {
    let Ready { nats_url, metrics_url, gateway_url, status_url, models, route_config, .. } = ready;
    let served = models.iter().map(|s| format!("{} ({} {})", s.model, s.variant, s.version)).collect::<Vec<_>>();
    let model = models.first().map_or("MODEL", |served| served.model.as_str());
    // What is the default already needs no option.
    let server = if nats_url.ends_with(":4222") { String::new() } else { format!(" -s {nats_url}") };
    let here = std::env::current_dir().is_ok_and(|here| route_config == &here.join(".embed-dev/route.toml"));
    let routes = if here { String::new() } else { format!(" --route-config {}", route_config.display()) };
    let variants: Vec<_> = models.iter().filter(|s| s.model == model).map(|s| s.variant.as_str()).collect();
    let split = match variants.as_slice() {
        [first, second, ..] => format!("embed route{routes} set {model} {first}=90 {second}=10\n  "),
        _ => String::new(),
    };
    let http = match gateway_url {
        Some(url) => {
            let body = format!("{{\"model\":\"{model}\",\"input\":\"hello\"}}");
            format!("curl {url}/v1/embeddings -d '{body}'\n  ")
        }
        None => String::new(),
    };
    format!(
        "Ready. Serving {}.\n\n  \
         embed ask{server} -m {model} \"hello\"\n  \
         {split}\
         nats req{server} embed.rpc.{model} '{{\"texts\":[\"hello\"]}}'\n  \
         {http}curl {metrics_url}/metrics\n\n\
         How it goes: {status_url}\n\
         Ctrl-C drains and stops everything.",
        served.join(", ")
    )
}
