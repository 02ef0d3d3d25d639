//! The Batch API, as OpenAI has it.

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::{JSON, Operation, Request, schema};
use crate::{
    batches::{Batch, Create, DeletedFile, FileObject, Page, Purpose},
    error::ErrorBody,
};

/// What can go wrong with all of it.
const OF_ALL: [(u16, &str); 2] =
    [(501, "The gateway keeps no files"), (503, "The store of files and batches does not answer as it should")];

const BAD: (u16, &str) = (400, "The request is not what it should be; `param` names the field");
const MISSING: (u16, &str) = (404, "There is none of this id, or it is another key's");
const FULL: (u16, &str) = (409, "There are as many already as there may be");
const BUSY: (u16, &str) = (429, "The key's limit is used up, or everybody is busy");

pub(super) fn operations(types: &mut SchemaGenerator) -> Vec<Operation> {
    let error = schema::<ErrorBody<'_>>(types);
    let operation =
        |method, path, id, summary, parameters: Vec<Value>, response, errors: &[(u16, &'static str)]| Operation {
            method,
            path,
            id,
            summary,
            tag: "batch",
            request: None,
            response: vec![(JSON, response)],
            parameters,
            errors: [errors, &OF_ALL].concat(),
            error: error.clone(),
            is_open: false,
        };
    let (file, files) = (schema::<FileObject>(types), schema::<Page<FileObject>>(types));
    let (batch, batches) = (schema::<Batch>(types), schema::<Page<Batch>>(types));
    let id =
        || vec![json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})];
    let form = json!({
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/jsonl", "description": "Lines, each a request"},
            "purpose": {"const": "batch"},
            "expires_after[seconds]": {"type": "integer", "minimum": 3600},
        },
    });
    let form = Request { kind: "multipart/form-data", schema: form, example: None };
    let create = json!({"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"});
    let create = Request { kind: JSON, schema: schema::<Create>(types), example: Some(create) };
    let large = (413, "The file is too large");
    let over = (409, "It is over already");
    let of_bodies =
        [(408, "The body did not arrive in time"), (413, "The body is too large"), (415, "The body is compressed")];
    vec![
        Operation {
            request: Some(form),
            ..operation(
                "post",
                "/v1/files",
                "createFile",
                "A file of requests",
                Vec::new(),
                file.clone(),
                &[BAD, FULL, large, BUSY],
            )
        },
        operation("get", "/v1/files", "listFiles", "Files", listing(Some(schema::<Purpose>(types))), files, &[BAD]),
        operation("get", "/v1/files/{id}", "retrieveFile", "One file", id(), file, &[MISSING]),
        operation(
            "delete",
            "/v1/files/{id}",
            "deleteFile",
            "Removes a file",
            id(),
            schema::<DeletedFile>(types),
            &[MISSING],
        ),
        Operation {
            response: vec![("application/jsonl", json!({"type": "string"}))],
            ..operation("get", "/v1/files/{id}/content", "downloadFile", "What is in it", id(), Value::Null, &[MISSING])
        },
        Operation {
            request: Some(create),
            ..operation(
                "post",
                "/v1/batches",
                "createBatch",
                "Has the requests of a file done",
                Vec::new(),
                batch.clone(),
                &[&[BAD, FULL, BUSY], &of_bodies[..]].concat(),
            )
        },
        operation("get", "/v1/batches", "listBatches", "Batches", listing(None), batches, &[BAD]),
        operation("get", "/v1/batches/{id}", "retrieveBatch", "One batch", id(), batch.clone(), &[MISSING]),
        operation(
            "post",
            "/v1/batches/{id}/cancel",
            "cancelBatch",
            "Has the rest of it left undone",
            id(),
            batch,
            &[MISSING, over],
        ),
    ]
}

/// Which of many.
fn listing(purpose: Option<Value>) -> Vec<Value> {
    let query = |name: &str, what: &str, schema: Value| json!({"name": name, "in": "query", "required": false, "description": what, "schema": schema});
    let mut parameters = vec![
        query(
            "limit",
            "How many, 1000 at most",
            json!({"type": "integer", "minimum": 1, "maximum": 10_000, "default": 20}),
        ),
        query("order", "By the time at which they were made", json!({"enum": ["asc", "desc"], "default": "desc"})),
        query("after", "Those after the one of this id", json!({"type": "string"})),
    ];
    parameters.extend(purpose.map(|schema| query("purpose", "Those for this", schema)));
    parameters
}
