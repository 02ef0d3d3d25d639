//! All ways to ask, but for those of the Batch API.

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::{JSON, Operation, Request, schema};
use crate::{
    api::{openai, own, tei, validate, vectors},
    call,
    error::ErrorBody,
};

/// The model of examples.
const EXAMPLE: &str = "all-MiniLM-L6-v2";

/// What can go wrong with a question to workers, beside what is said of each.
const OF_CALLS: [(u16, &str); 11] = [
    (400, "The request is not what it should be; `param` names the field"),
    (404, "No such model or variant is served"),
    (408, "The body did not arrive in time"),
    (409, "The vectors would be of another embedding space than was asked for"),
    (413, "The body, or a text, is too large"),
    (415, "The body is compressed"),
    (429, "The key's limit is used up, or everybody is busy: `Retry-After` says when to come again"),
    (500, "The engine failed"),
    (502, "The worker's answer makes no sense"),
    (503, "No connection to NATS, or no worker"),
    (504, "No answer in time"),
];

/// The same of a vector that was kept.
const OF_VECTORS: [(u16, &str); 6] = [
    (304, "It is the one that `If-None-Match` names"),
    (403, "The key takes no part in kept vectors"),
    (404, "None is kept of this space and digest"),
    (429, "The key's limit is used up"),
    (501, "The gateway keeps none"),
    (503, "The store does not answer as it should"),
];

pub(super) fn operations(types: &mut SchemaGenerator) -> Vec<Operation> {
    let error = schema::<ErrorBody<'_>>(types);
    let tei_error = schema::<tei::TeiError>(types);
    let ask = |path, id, summary, tag, (schema, example), response| Operation {
        method: "post",
        path,
        id,
        summary,
        tag,
        request: Some(Request { kind: JSON, schema, example: Some(example) }),
        response: vec![(JSON, response)],
        parameters: of_calls(),
        errors: OF_CALLS.to_vec(),
        error: error.clone(),
        is_open: false,
    };
    let look = |path, id, summary, tag, response| Operation {
        method: "get",
        path,
        id,
        summary,
        tag,
        request: None,
        response: vec![(JSON, response)],
        parameters: Vec::new(),
        errors: Vec::new(),
        error: error.clone(),
        is_open: false,
    };
    let text = || vec![("text/plain", json!({"type": "string"}))];
    let open = |path, id, summary, response| Operation {
        is_open: true,
        response,
        ..look(path, id, summary, "health", Value::Null)
    };
    let embed = schema::<Vec<Vec<f32>>>(types);
    let in_tei = |operation: Operation| {
        let errors =
            operation.errors.into_iter().map(|(status, what)| (if status == 400 { 422 } else { status }, what));
        Operation { errors: errors.collect(), error: tei_error.clone(), ..operation }
    };
    let named = |name: &str, what: &str| json!({"name": name, "in": "header", "required": false, "description": what, "schema": {"type": "string"}});
    let model_header = named(call::MODEL.as_str(), "The model. Left out: the gateway's default");
    let tei_embed = |path, id| {
        let mut operation = in_tei(ask(
            path,
            id,
            "Vectors of one text or of several, as TEI answers",
            "tei",
            (json!({"$ref": "#/components/schemas/TeiRequest"}), json!({"inputs": ["hello", "world"]})),
            embed.clone(),
        ));
        operation.parameters.push(model_header.clone());
        operation
    };
    schema::<tei::TeiRequest>(types);
    let away = (503, "No connection to NATS, or no worker could be asked yet");
    let not_there =
        [(404, "No such model is served"), (503, "No connection to NATS, or no worker serves any model")].to_vec();
    let model = json!({"name": "model", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}});
    vec![
        ask(
            "/v1/embeddings",
            "createEmbedding",
            "Vectors of one text or of several, as OpenAI answers",
            "openai",
            (schema::<openai::EmbeddingsRequest>(types), json!({"model": EXAMPLE, "input": ["hello", "world"]})),
            schema::<openai::EmbeddingsResponse>(types),
        ),
        Operation {
            errors: vec![away],
            ..look(
                "/v1/models",
                "listModels",
                "The models that may be asked",
                "openai",
                schema::<openai::ModelList>(types),
            )
        },
        Operation {
            parameters: vec![model],
            errors: not_there.clone(),
            ..look("/v1/models/{model}", "retrieveModel", "One model", "openai", schema::<openai::Model>(types))
        },
        ask(
            "/api/v1/embed",
            "embedText",
            "The vector of one text",
            "akidb",
            (schema::<own::EmbedText>(types), json!({"text": "hello world", "model": EXAMPLE})),
            schema::<own::EmbeddedText>(types),
        ),
        Operation {
            errors: vec![away],
            ..look(
                "/api/v1/models",
                "listVariants",
                "Models and their variants",
                "akidb",
                schema::<own::OwnModels>(types),
            )
        },
        Operation {
            parameters: of_vectors(),
            response: vec![
                (JSON, schema::<vectors::StoredVector>(types)),
                ("application/octet-stream", json!({"type": "string", "contentMediaType": "application/octet-stream"})),
            ],
            errors: OF_VECTORS.to_vec(),
            ..look(
                "/v1/vectors/{space}/{digest}",
                "getVector",
                "A vector that was kept, by what it is of",
                "akidb",
                Value::Null,
            )
        },
        Operation {
            errors: OF_CALLS.to_vec(),
            ..look(
                "/api/v1/validate",
                "validate",
                "How close each variant comes to FP32, found out now",
                "akidb",
                schema::<validate::Validated>(types),
            )
        },
        tei_embed("/embed", "embed"),
        tei_embed("/", "embedAtRoot"),
        Operation {
            parameters: vec![model_header.clone()],
            errors: [(422, "More than one model is served, and none is named")].into_iter().chain(not_there).collect(),
            error: tei_error.clone(),
            ..look("/info", "info", "The default model, as TEI tells of it", "tei", schema::<tei::Info>(types))
        },
        Operation {
            errors: vec![(503, "It is not")],
            error: tei_error.clone(),
            ..open("/health", "health", "Whether the gateway is of use, as TEI tells it", Vec::new())
        },
        open("/healthz", "healthz", "Whether the gateway lives", text()),
        Operation {
            errors: vec![(503, "It is not, and why, as text")],
            error: Value::Null,
            ..open("/readyz", "readyz", "Whether the gateway is of use", text())
        },
        open("/openapi.json", "openapi", "This document", vec![(JSON, json!({"type": "object"}))]),
        Operation { response: text(), ..look("/metrics", "metrics", "Figures, for Prometheus", "health", Value::Null) },
    ]
}

/// What every question to workers may say in its headers.
fn of_calls() -> Vec<Value> {
    let header = |name: &str, what: &str, schema: Value| json!({"name": name, "in": "header", "required": false, "description": what, "schema": schema});
    vec![
        header(
            call::PINNED.as_str(),
            "The variant that is to answer. Left out: as traffic is routed",
            json!({"type": "string"}),
        ),
        header(call::SPACE.as_str(), "The only embedding space whose vectors are of use", json!({"type": "string"})),
        header(
            call::TIMEOUT.as_str(),
            "Milliseconds that the answer may take, if that is less than the gateway allows",
            json!({"type": "integer", "minimum": 1}),
        ),
    ]
}

/// By which a vector is known.
fn of_vectors() -> Vec<Value> {
    let path = |name: &str, what: &str, pattern: &str| json!({"name": name, "in": "path", "required": true, "description": what, "schema": {"type": "string", "pattern": pattern}});
    let digest = "The SHA-256 of `v1`, the prompt, the dimensions and the text, with a line feed between each two; `.f32` behind it for the bytes of the \
                  vector alone, little-endian. The prompt is empty for the model's default, else `=`, the number of its bytes, `:` and its text; the \
                  dimensions are empty for all";
    vec![
        path("space", "The embedding space", "^[A-Za-z0-9:_-][A-Za-z0-9:._-]{0,127}$"),
        path("digest", digest, "^[0-9a-f]{64}(\\.f32)?$"),
        json!({"name": "if-none-match", "in": "header", "required": false, "description": "The `ETag` of what is known", "schema": {"type": "string"}}),
    ]
}
