//! The OpenAPI document, made of the types that are read and written.

use std::sync::LazyLock;

use axum::{http::header, response::IntoResponse};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{openai, own, tei, validate};
use crate::{call, error::ErrorBody};

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

/// One way to ask.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    tag: &'static str,
    /// Its schema, and an example.
    request: Option<(Value, Value)>,
    /// A schema of JSON, null for nothing at all, or `None` for text.
    response: Option<Value>,
    parameters: Vec<Value>,
    errors: Vec<(u16, &'static str)>,
    /// What an error looks like.
    error: Value,
    is_open: bool,
}

/// The document.
#[must_use]
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(made);
    &DOCUMENT
}

pub(super) async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document().to_string())
}

fn made() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut types = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations(&mut types) {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        let method = operation.method;
        path[method] = operation.described();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "akidb-embed",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Text embeddings. Where the gateway has keys, each request but those for health and this document needs one.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": types.take_definitions(true),
        },
    })
}

fn schema<T: JsonSchema>(types: &mut SchemaGenerator) -> Value {
    types.subschema_for::<T>().to_value()
}

fn operations(types: &mut SchemaGenerator) -> Vec<Operation> {
    let error = schema::<ErrorBody<'_>>(types);
    let tei_error = schema::<tei::TeiError>(types);
    let ask = |path, id, summary, tag, request, response| Operation {
        method: "post",
        path,
        id,
        summary,
        tag,
        request: Some(request),
        response: Some(response),
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
        response: Some(response),
        parameters: Vec::new(),
        errors: Vec::new(),
        error: error.clone(),
        is_open: false,
    };
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
    let not_there = [(404, "No such model is served"), (503, "No worker serves any model")].to_vec();
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
        look("/v1/models", "listModels", "The models that may be asked", "openai", schema::<openai::ModelList>(types)),
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
        look("/api/v1/models", "listVariants", "Models and their variants", "akidb", schema::<own::OwnModels>(types)),
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
            ..open("/health", "health", "Whether the gateway is of use, as TEI tells it", Some(Value::Null))
        },
        open("/healthz", "healthz", "Whether the gateway lives", None),
        Operation {
            errors: vec![(503, "It is not, and why, as text")],
            error: Value::Null,
            ..open("/readyz", "readyz", "Whether the gateway is of use", None)
        },
        open("/openapi.json", "openapi", "This document", Some(json!({"type": "object"}))),
        Operation { response: None, ..look("/metrics", "metrics", "Figures, for Prometheus", "health", Value::Null) },
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

impl Operation {
    fn described(self) -> Value {
        let mut responses: Map<String, Value> = Map::new();
        let ok = match self.response {
            Some(Value::Null) => json!({}),
            Some(schema) => json!({"application/json": {"schema": schema}}),
            None => json!({"text/plain": {"schema": {"type": "string"}}}),
        };
        let ok = match self.request {
            Some(_) => json!({"description": "The answer", "content": ok, "headers": answer_headers()}),
            None => json!({"description": "The answer", "content": ok}),
        };
        responses.insert("200".to_owned(), ok);
        let unknown_key = (401, "No valid key");
        for (status, what) in self.errors.into_iter().chain((!self.is_open).then_some(unknown_key)) {
            let content = match &self.error {
                Value::Null => json!({"text/plain": {"schema": {"type": "string"}}}),
                schema => json!({"application/json": {"schema": schema}}),
            };
            responses.insert(status.to_string(), json!({"description": what, "content": content}));
        }
        let mut described = json!({
            "operationId": self.id, "summary": self.summary, "tags": [self.tag], "parameters": self.parameters, "responses": responses,
        });
        if let Some((schema, example)) = self.request {
            let content = json!({"application/json": {"schema": schema, "example": example}});
            described["requestBody"] = json!({"required": true, "content": content});
        }
        if self.is_open {
            described["security"] = json!([]);
        }
        described
    }
}

/// What every answer with vectors says in its headers.
fn answer_headers() -> Value {
    let text = |what: &str| json!({"description": what, "schema": {"type": "string"}});
    json!({
        (call::MODEL.as_str()): text("The model that answered"),
        (call::VARIANT.as_str()): text("The variant that answered"),
        (call::VERSION.as_str()): text("The version of the model"),
        (call::SPACE.as_str()): text("The embedding space: only vectors of one space may be compared"),
    })
}
