//! The OpenAPI document, made of the types that are read and written.

mod batches;
mod operations;

use std::sync::LazyLock;

use axum::{http::header, response::IntoResponse};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::call;

const JSON: &str = "application/json";

/// One way to ask.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    tag: &'static str,
    request: Option<Request>,
    /// What an answer may be, by its kind; nothing at all, if it is empty.
    response: Vec<(&'static str, Value)>,
    parameters: Vec<Value>,
    errors: Vec<(u16, &'static str)>,
    /// What an error looks like; null for text.
    error: Value,
    is_open: bool,
}

/// What is sent.
struct Request {
    kind: &'static str,
    schema: Value,
    example: Option<Value>,
}

/// The document.
#[must_use]
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(made);
    &DOCUMENT
}

pub(crate) async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, JSON)], document().to_string())
}

fn made() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut types = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations::operations(&mut types).into_iter().chain(batches::operations(&mut types)) {
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

impl Operation {
    fn described(self) -> Value {
        let mut responses: Map<String, Value> = Map::new();
        let ok: Map<String, Value> =
            self.response.into_iter().map(|(kind, schema)| (kind.to_owned(), json!({"schema": schema}))).collect();
        let mut answer = json!({"description": "The answer", "content": ok});
        if self.parameters.iter().any(|parameter| parameter["name"] == call::SPACE.as_str()) {
            answer["headers"] = answer_headers();
        }
        responses.insert("200".to_owned(), answer);
        let unknown_key = (401, "No valid key");
        for (status, what) in self.errors.into_iter().chain((!self.is_open).then_some(unknown_key)) {
            let content = match &self.error {
                // Nothing follows what is known already.
                _ if status == 304 => json!({}),
                Value::Null => json!({"text/plain": {"schema": {"type": "string"}}}),
                schema => json!({JSON: {"schema": schema}}),
            };
            responses.insert(status.to_string(), json!({"description": what, "content": content}));
        }
        let mut described = json!({
            "operationId": self.id, "summary": self.summary, "tags": [self.tag], "parameters": self.parameters, "responses": responses,
        });
        if let Some(Request { kind, schema, example }) = self.request {
            let mut content = json!({"schema": schema});
            if let Some(example) = example {
                content["example"] = example;
            }
            described["requestBody"] = json!({"required": true, "content": {kind: content}});
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
