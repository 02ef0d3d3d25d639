//! The contract as documents: JSON Schema for every type, AsyncAPI for the subjects. Generated from the Rust types,
//! checked in under `schemas/generated`, and compared by a test.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::{
    CurrentPointer, EmbedFailure, EmbedRequest, EmbedResult, Format, Lane, MAX_TEXTS, ModelMetadata, VariantStats,
    control::{self, WorkerStatus},
    headers, job_id,
    model::GoldenSet,
    removal::{self, Removal, Removed},
    serving::{self, DesiredVariant, VariantStatus},
    shadow::{SHADOW_SUBJECT, ShadowStats, ShadowTexts, ShadowWish},
    slug, streams, subjects,
};

/// All generated documents: file name and content.
#[must_use]
pub fn documents() -> Vec<(&'static str, Value)> {
    vec![
        ("embed-request.schema.json", schema::<EmbedRequest>()),
        ("embed-result.schema.json", schema::<EmbedResult>()),
        ("embed-failure.schema.json", schema::<EmbedFailure>()),
        ("variant-stats.schema.json", schema::<VariantStats>()),
        ("model-metadata.schema.json", schema::<ModelMetadata>()),
        ("current-pointer.schema.json", schema::<CurrentPointer>()),
        ("golden-set.schema.json", schema::<GoldenSet>()),
        ("desired-variant.schema.json", schema::<DesiredVariant>()),
        ("variant-status.schema.json", schema::<VariantStatus>()),
        ("worker-status.schema.json", schema::<WorkerStatus>()),
        ("shadow-wish.schema.json", schema::<ShadowWish>()),
        ("shadow-texts.schema.json", schema::<ShadowTexts>()),
        ("shadow-stats.schema.json", schema::<ShadowStats>()),
        ("asyncapi.json", asyncapi()),
    ]
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

fn schema<T: JsonSchema>() -> Value {
    generator().into_root_schema_for::<T>().into()
}

/// The same schema with its definitions moved to the document's `components/schemas`.
fn components() -> Value {
    let mut generator =
        SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into()).into_generator();
    generator.subschema_for::<EmbedRequest>();
    generator.subschema_for::<EmbedResult>();
    generator.subschema_for::<EmbedFailure>();
    generator.subschema_for::<VariantStats>();
    generator.subschema_for::<Removal>();
    generator.subschema_for::<Removed>();
    generator.subschema_for::<WorkerStatus>();
    generator.subschema_for::<ShadowWish>();
    generator.subschema_for::<ShadowTexts>();
    generator.subschema_for::<ShadowStats>();
    generator.take_definitions(true).into()
}

fn asyncapi() -> Value {
    let reference = |section: &str, name: &str| json!({"$ref": format!("#/{section}/{name}")});
    let payload = |name: &str| reference("components/schemas", name);
    let formats = [Format::Json, Format::MessagePack].map(Format::content_type).join(" or ");
    let outcome = json!({"oneOf": [payload("EmbedResult"), payload("EmbedFailure")]});
    let message = |name: &str, payload: Value, header_names: &[&str]| {
        json!({
            "name": name,
            "contentType": Format::Json.content_type(),
            "summary": format!("{formats}, told apart by the first byte"),
            "headers": {
                "type": "object",
                "properties": header_names.iter().map(|h| ((*h).to_owned(), json!({"type": "string"})))
                    .collect::<serde_json::Map<_, _>>(),
            },
            "payload": payload,
        })
    };
    let channel = |address: &str, description: &str, message: &str| {
        let parameters: serde_json::Map<String, Value> = address
            .split('.')
            .filter_map(|token| token.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| (name.to_owned(), json!({"description": parameter(name)})))
            .collect();
        json!({
            "address": address,
            "description": description,
            "parameters": parameters,
            "messages": {message: reference("components/messages", message)},
        })
    };
    let asked = |name: &str| {
        json!({
            "action": "receive",
            "channel": reference("channels", name),
            "reply": {
                "address": {"location": "$message.header#/reply"},
                "messages": [reference("components/messages", "workerStatus")],
            },
        })
    };
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "akidb-embed",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Text embeddings over NATS: online calls, jobs and backfills. Calls and jobs may be pinned to \
                a variant by appending `.{variant}` to their subject; a tenant's jobs are published on \
                `embed.job.{model}.{variant}.{tenant}`, with `_` where no variant is chosen, and their outcomes stored as \
                `embed.result.{model}.{tenant}.{id}`.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": Format::Json.content_type(),
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {
            "rpc": channel("embed.rpc.{model}", "Online calls: core request-reply", "request"),
            "job": channel("embed.job.{model}", "Jobs, stored in the stream EMBED_{model}", "job"),
            "bulk": channel("embed.bulk.{model}", "Backfill chunks, in the same stream at a lower priority", "job"),
            "result": channel("embed.result.{model}.{id}", "Outcomes, stored once in EMBED_RESULTS_{model}", "outcome"),
            "store": channel("embed.store.{model}.{id}", "Where workers publish outcomes; stored, and then heard, as embed.result.{model}.{id}", "outcome"),
            "remove": channel("embed.remove.{model}", "Asks a worker to remove results, by the key that their ids prove", "removal"),
            "dead": channel("embed.dead.{model}.{variant}", "Jobs that could not be served, stored in EMBED_DEAD_{model}", "deadLetter"),
            "stats": channel("embed.stats.{model}.{variant}", "What each worker says of a variant, once a window and lane", "stats"),
            "workerStatus": channel(control::STATUS_SUBJECT, "Asks all workers how they stand; with `.{worker}`, one", "question"),
            "reload": channel(control::RELOAD_SUBJECT, "Asks all workers to look at the registry now; with `.{worker}`, one", "question"),
            "drain": channel(&control::drain("{worker}"), "Has a worker finish what it has, and end", "question"),
            "shadowWish": channel(SHADOW_SUBJECT, "What is to be shadowed: said again and again while it is", "shadowWish"),
            "shadow": channel("embed.shadow.{model}.{variant}", "Texts that another variant has served, for this one to be compared with", "shadowTexts"),
            "shadowStats": channel("embed.stats.{model}.{variant}.shadow", "What a worker of a shadow's candidate has found in a window", "shadowStats"),
        },
        "operations": {
            "answerCall": {
                "action": "receive",
                "channel": reference("channels", "rpc"),
                "description": format!("Answered by one worker of the queue group `{}`", subjects::RPC_QUEUE_GROUP),
                "reply": {"address": {"location": "$message.header#/reply"}},
            },
            "takeJob": {"action": "receive", "channel": reference("channels", "job")},
            "takeChunk": {"action": "receive", "channel": reference("channels", "bulk")},
            "storeOutcome": {"action": "send", "channel": reference("channels", "store")},
            "removeResults": {
                "action": "receive",
                "channel": reference("channels", "remove"),
                "description": format!("Answered by one worker of the queue group `{}`", subjects::RPC_QUEUE_GROUP),
                "reply": {
                    "address": {"location": "$message.header#/reply"},
                    "messages": [reference("components/messages", "removed")],
                },
            },
            "tellStatus": asked("workerStatus"),
            "reload": asked("reload"),
            "drain": asked("drain"),
            "buryJob": {"action": "send", "channel": reference("channels", "dead")},
            "reportWindow": {"action": "send", "channel": reference("channels", "stats")},
            "hearWish": {"action": "receive", "channel": reference("channels", "shadowWish")},
            "giveToShadow": {"action": "send", "channel": reference("channels", "shadow")},
            "takeForShadow": {
                "action": "receive",
                "channel": reference("channels", "shadow"),
                "description": format!("Taken by one worker of the queue group `{}`, if it has time", subjects::RPC_QUEUE_GROUP),
            },
            "reportShadow": {"action": "send", "channel": reference("channels", "shadowStats")},
        },
        "components": {
            "messages": {
                "request": message("request", payload("EmbedRequest"), &[headers::CONTENT_TYPE, headers::TRACEPARENT]),
                "job": message("job", payload("EmbedRequest"),
                    &[headers::CONTENT_TYPE, headers::TRACEPARENT, headers::MSG_ID, headers::REPLY_TO, headers::SUBJECT]),
                "outcome": message("outcome", outcome,
                    &[headers::CONTENT_TYPE, headers::TRACEPARENT, headers::SERVICE_ERROR, headers::SERVICE_ERROR_CODE, headers::REQUEST_DIGEST,
                      headers::COPY_REFUSED]),
                "removal": message("removal", payload("Removal"), &[]),
                "removed": message("removed", payload("Removed"), &[]),
                "question": message("question", json!({}), &[]),
                "workerStatus": message("workerStatus", payload("WorkerStatus"), &[]),
                "deadLetter": message("deadLetter", payload("EmbedRequest"),
                    &[headers::DEAD_CODE, headers::DEAD_REASON, headers::DEAD_SUBJECT, headers::DEAD_SEQUENCE, headers::DEAD_DELIVERIES]),
                "stats": message("stats", payload("VariantStats"), &[headers::CONTENT_TYPE]),
                "shadowWish": message("shadowWish", payload("ShadowWish"), &[headers::CONTENT_TYPE]),
                "shadowTexts": message("shadowTexts", payload("ShadowTexts"), &[headers::CONTENT_TYPE]),
                "shadowStats": message("shadowStats", payload("ShadowStats"), &[headers::CONTENT_TYPE]),
            },
            "schemas": components(),
        },
        "x-embed": names(),
    })
}

/// What a client in another language has to know beside the types: the clients of `deploy/clients` are generated from it.
fn names() -> Value {
    // Placeholders have the form of slugs, so that the functions that make the names can make these.
    let placeholder = |name: &str| name.parse().expect("a slug");
    let (model, variant) = (placeholder("model"), placeholder("variant"));
    let stream = |name: String| name.replace("model", "{model}");
    json!({
        "service": subjects::SERVICE_NAME,
        "statusPrefix": serving::STATUS_PREFIX,
        "anyVariant": subjects::ANY_VARIANT,
        "streams": {
            "jobs": stream(streams::jobs_stream(&model)),
            "results": stream(streams::results_stream(&model)),
            "jobConsumer": streams::consumer(&variant, Lane::Job).replace("variant", "{variant}"),
        },
        "headers": {
            "messageId": headers::MSG_ID,
            "contentType": headers::CONTENT_TYPE,
            "replyTo": headers::REPLY_TO,
            "subject": headers::SUBJECT,
            "requestDigest": headers::REQUEST_DIGEST,
            "traceparent": headers::TRACEPARENT,
            "serviceError": headers::SERVICE_ERROR,
            "serviceErrorCode": headers::SERVICE_ERROR_CODE,
        },
        "contentTypes": {"json": Format::Json.content_type(), "messagePack": Format::MessagePack.content_type()},
        "limits": {
            "texts": MAX_TEXTS,
            "removals": removal::MAX_REMOVALS,
            "jobId": job_id::MAX_JOB_ID_LEN,
        },
        "patterns": {
            "jobId": format!("^[A-Za-z0-9_-]{{1,{}}}$", job_id::MAX_JOB_ID_LEN),
            "slug": format!("^[a-z0-9][a-z0-9-]{{0,{}}}$", slug::MAX_SLUG_LEN - 1),
        },
    })
}

fn parameter(name: &str) -> &'static str {
    match name {
        "model" => "The model's slug",
        "variant" => "The variant's name",
        "worker" => "The worker's id",
        _ => "The job's id",
    }
}
