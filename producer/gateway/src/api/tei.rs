//! The paths of Hugging Face's text-embeddings-inference, for its clients and for load balancers that know it: `/embed`, `/info`, `/health`.

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{openai::Input, ops, write};
use crate::{
    Gateway,
    access::Caller,
    body,
    call::{self, Ask},
    error::ApiError,
    request_id::RequestId,
};

pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/", post(embed))
        .route("/embed", post(embed))
        .route("/info", get(info))
        .route("/health", get(health))
}

/// What is asked of `/embed`. Which model: the header `x-embed-model`, or the gateway's default.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TeiRequest {
    /// One text, or texts.
    inputs: Input,
    /// A text that is longer than the model takes is cut, unless this is `false`.
    truncate: Option<bool>,
    /// Where it is cut.
    #[serde(rename = "truncation_direction")]
    _direction: Option<Direction>,
    /// The name of one of the model's prompts.
    #[serde(default, deserialize_with = "body::name")]
    #[schemars(length(max = 1024))]
    prompt_name: Option<String>,
    /// Vectors have the length 1, where the model makes them so. Anything else cannot be asked for.
    normalize: Option<bool>,
    /// A smaller number of dimensions, where the model allows it.
    #[schemars(range(min = 1))]
    dimensions: Option<u32>,
}

/// Where a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
enum Direction {
    /// At its end.
    #[serde(alias = "right")]
    Right,
}

/// An error as TEI writes it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TeiError {
    /// What is wrong.
    error: String,
    /// The kind.
    error_type: &'static str,
}

/// Where errors have the shape that TEI gives them.
pub(crate) const PATHS: [&str; 4] = ["/", "/embed", "/info", "/health"];

/// An error on its way to a client of TEI.
pub(crate) struct Failed(pub(crate) ApiError);

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(mut error) = self;
        if error.status == StatusCode::BAD_REQUEST {
            error.status = StatusCode::UNPROCESSABLE_ENTITY;
        }
        let error_type = match error.status.as_u16() {
            429 => "Overloaded",
            503 => "Unhealthy",
            400..=499 => "Validation",
            _ => "Backend",
        };
        // Their field for what is `input` with OpenAI.
        let message = match error.message.strip_prefix("input") {
            Some(rest) if !rest.starts_with('s') => format!("inputs{rest}"),
            _ => error.message.clone(),
        };
        let body = serde_json::to_vec(&TeiError { error: message, error_type }).unwrap_or_default();
        error.response(body)
    }
}

async fn embed(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, Failed> {
    let headers = request.headers().clone();
    let content = body::read(&gateway, &caller, request).await?;
    let asked: TeiRequest = body::json(&content.bytes)?;
    if asked.normalize == Some(false) {
        return Err(
            ApiError::invalid("normalize", "normalize: vectors come as the model makes them; leave it out").into()
        );
    }
    let model = headers.get(call::MODEL).and_then(|model| model.to_str().ok()).map(str::to_owned);
    let ask = Ask {
        model,
        texts: asked.inputs.into_texts(),
        prompt: asked.prompt_name,
        truncate: asked.truncate.unwrap_or(true),
        dimensions: asked.dimensions,
    };
    let answer = call::embed(&gateway, &caller, &id, &headers, ask).await?;
    let mut out = write::room_for(&answer.result);
    out.push(b'[');
    for row in 0..answer.result.items.len() {
        if row > 0 {
            out.push(b',');
        }
        write::numbers(&answer.result, row, &mut out);
    }
    out.push(b']');
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json)], out).into_response();
    answer.tell(response.headers_mut());
    Ok(response)
}

/// What `/info` answers: what there is of TEI's own fields. Of the model: only what the registry says, if the gateway was told it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Info {
    /// The default model.
    model_id: String,
    /// Its live version.
    model_sha: Option<String>,
    /// The number format of its graph.
    model_dtype: Option<String>,
    /// What it is for.
    model_type: ModelType,
    /// Tokens that are taken of a text.
    max_input_length: Option<u32>,
    /// Texts that are taken in one request.
    max_client_batch_size: usize,
    /// Whether longer texts are cut unless a request says otherwise.
    auto_truncate: bool,
    /// Of the gateway.
    version: &'static str,
}

/// What a model is for.
#[derive(Serialize, JsonSchema)]
struct ModelType {
    /// Vectors.
    embedding: EmbeddingModel,
}

/// How vectors are made.
#[derive(Serialize, JsonSchema)]
struct EmbeddingModel {
    /// How token states become one vector.
    pooling: Option<embed_schemas::model::Pooling>,
}

async fn info(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Json<Info>, Failed> {
    gateway.link().check()?;
    let named = headers.get(call::MODEL).and_then(|model| model.to_str().ok());
    let model = gateway.models().find(&caller, named, None).await?.model;
    let served = gateway.models().served();
    let variants = served.get(&model).into_iter().flat_map(|variants| variants.values());
    // The default first.
    let live = variants.filter(|variant| variant.live.is_some()).min_by_key(|variant| !variant.is_default);
    let live = live.and_then(|variant| variant.live.as_ref());
    let metadata = match live {
        Some(live) => gateway.models().metadata(&model, &live.version).await,
        None => None,
    };
    Ok(Json(Info {
        model_id: metadata.as_ref().map_or_else(|| model.to_string(), |metadata| metadata.model_id.clone()),
        model_sha: live.map(|live| live.version.clone()),
        model_dtype: live.map(|live| live.precision.to_string()),
        model_type: ModelType {
            embedding: EmbeddingModel { pooling: metadata.as_ref().map(|metadata| metadata.pooling) },
        },
        max_input_length: metadata.as_ref().map(|metadata| metadata.max_seq_length),
        max_client_batch_size: caller.max_inputs(&gateway.settings().bounds),
        auto_truncate: true,
        version: env!("CARGO_PKG_VERSION"),
    }))
}

async fn health(State(gateway): State<Gateway>) -> Result<(), Failed> {
    let reasons = ops::why_not_ready(&gateway);
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Failed(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reasons.join("; "))))
}
