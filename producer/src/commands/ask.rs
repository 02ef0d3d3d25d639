//! `embed ask`

use embed_client::{CallOptions, Client};
use embed_connect::ConnectSettings;
use embed_otlp::{Kind, Open, Recorder};
use embed_schemas::{EmbedRequest, Encoding, Lane, subjects};

use super::{Status, print};
use crate::cli::AskArgs;

pub(super) async fn run(
    args: AskArgs,
    connect: &ConnectSettings,
    json: bool,
    recorder: &Recorder,
) -> anyhow::Result<Status> {
    let texts = print::texts(args.texts).await?;
    let client = Client::connect(connect).await?;
    // `base64` and `float` are forms of JSON; on the wire we use the bytes that they stand for.
    let shown = args.encoding.unwrap_or(Encoding::Float);
    let asked = match shown {
        Encoding::Base64 | Encoding::Float => Encoding::F32,
        other => other,
    };
    let request = EmbedRequest {
        prompt: args.model.prompt,
        truncate: !args.model.no_truncate,
        encoding: Some(asked),
        dimensions: args.model.dimensions,
        ..EmbedRequest::new(texts.iter().cloned())
    };
    let mut open = recorder.part(Kind::Client, || format!("call {}", subjects::bare(Lane::Rpc, &args.model.model)));
    let options = CallOptions::default()
        .variant(args.model.variant)
        .space(args.space)
        .timeout(args.timeout)
        .traceparent(open.as_ref().map(Open::traceparent));
    let result = client.embed(&args.model.model, request, &options).await;
    if let (Some(open), Err(error)) = (&mut open, &result) {
        open.failed(error);
    }
    drop(open);
    let mut result = result?;
    result.encoding = shown;
    if json {
        print::json_line(&result)?;
    } else {
        print::vectors(&result, &texts)?;
    }
    Ok(if print::complete(&result) { Status::Done } else { Status::Unsuccessful })
}
