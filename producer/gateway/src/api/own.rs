//! The platform's own: one text in, its vector out; and what there is.

use std::time::Instant;

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use embed_schemas::{Precision, Slug, serving::VariantState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{validate, write};
use crate::{
    Gateway,
    access::Caller,
    body,
    call::{self, Ask},
    error::ApiError,
    models::{Variant, Variants},
    request_id::RequestId,
};

pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/api/v1/embed", post(embed))
        .route("/api/v1/models", get(models))
        .route("/api/v1/validate", get(validate::validate))
        .layer(Extension(validate::Validation::default()))
}

/// What is asked of `/api/v1/embed`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbedText {
    /// The text.
    text: String,
    /// A model's name. Left out: the gateway's default.
    #[serde(default, deserialize_with = "body::name")]
    #[schemars(length(max = 1024))]
    model: Option<String>,
    /// The name of one of the model's prompts, such as `query`; empty for none. Left out: the model's default.
    #[serde(default, deserialize_with = "body::name")]
    #[schemars(length(max = 1024))]
    prompt: Option<String>,
}

/// What `/api/v1/embed` answers. It is written by hand, see `write`; a test compares.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct EmbeddedText {
    /// The vector.
    embedding: Vec<f32>,
    /// The model's name, as it was sent.
    model: String,
    /// Components of the vector.
    dimension: u32,
    /// Milliseconds that it took in the gateway, and beyond.
    latency_ms: u64,
}

async fn embed(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    let headers = request.headers().clone();
    let content = body::read(&gateway, &caller, request).await?;
    let EmbedText { text, model, prompt } = body::json(&content.bytes)?;
    let ask = Ask { model, texts: vec![text], prompt, truncate: true, dimensions: None };
    let answer = call::embed(&gateway, &caller, &id, &headers, ask).await.map_err(ApiError::of_one_text)?;
    let mut out = write::room_for(&answer.result);
    out.extend_from_slice(br#"{"embedding":"#);
    write::numbers(&answer.result, 0, &mut out);
    out.extend_from_slice(br#","model":"#);
    write::string(&answer.model, &mut out);
    out.extend_from_slice(br#","dimension":"#);
    write::number(u64::from(answer.result.dim), &mut out);
    out.extend_from_slice(br#","latency_ms":"#);
    write::number(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX), &mut out);
    out.push(b'}');
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json)], out).into_response();
    answer.tell(response.headers_mut());
    Ok(response)
}

/// What `/api/v1/models` answers.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OwnModels {
    /// The models that may be asked.
    models: Vec<OwnModel>,
}

/// A model.
#[derive(Serialize, JsonSchema)]
struct OwnModel {
    /// Its slug.
    name: Slug,
    /// Its name, if the gateway was told the registry.
    model_name: Option<String>,
    /// Components of a vector, if the gateway was told the registry.
    dimension: Option<u32>,
    /// Tokens that are taken of a text, if the gateway was told the registry.
    max_seq_length: Option<u32>,
    /// What it can be asked by, in the header `x-model-version`.
    variants: Vec<OwnVariant>,
}

/// A variant.
#[derive(Serialize, JsonSchema)]
struct OwnVariant {
    /// Its name.
    name: Slug,
    /// Whether it answers where no variant is named, and no route says otherwise.
    default: bool,
    /// Whether it can answer at once. Null if workers do not say.
    state: Option<VariantState>,
    /// The version that is live.
    version: Option<String>,
    /// The number format of its graph.
    precision: Option<Precision>,
    /// The execution provider that runs it.
    provider: Option<String>,
    /// Its embedding space: only vectors of one space may be compared.
    space: Option<String>,
    /// Workers that have it.
    workers: usize,
}

async fn models(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<OwnModels>, ApiError> {
    gateway.link().check()?;
    let served = gateway.models().all().await?;
    let mut models = Vec::new();
    for (name, variants) in served.iter().filter(|(name, _)| caller.may_ask(name)) {
        models.push(model(&gateway, name, variants).await);
    }
    Ok(Json(OwnModels { models }))
}

async fn model(gateway: &Gateway, name: &Slug, variants: &Variants) -> OwnModel {
    let live = variants.values().filter_map(|variant| variant.live.as_ref()).next();
    let metadata = match live {
        Some(live) => gateway.models().metadata(name, &live.version).await,
        None => None,
    };
    OwnModel {
        name: name.clone(),
        model_name: metadata.as_ref().map(|metadata| metadata.model_name.clone()),
        dimension: metadata.as_ref().map(|metadata| metadata.dimension),
        max_seq_length: metadata.as_ref().map(|metadata| metadata.max_seq_length),
        variants: variants.iter().map(|(name, variant)| of(name, variant)).collect(),
    }
}

fn of(name: &Slug, variant: &Variant) -> OwnVariant {
    let live = variant.live.as_ref();
    OwnVariant {
        name: name.clone(),
        default: variant.is_default,
        state: variant.state,
        version: live.map(|live| live.version.clone()),
        precision: live.map(|live| live.precision),
        provider: live.map(|live| live.provider.clone()),
        space: live.map(|live| live.space.clone()),
        workers: variant.workers,
    }
}
