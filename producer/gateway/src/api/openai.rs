//! OpenAI's embeddings: `/v1/embeddings`, `/v1/models`.

use std::fmt;

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, Visitor},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::write;
use crate::{
    Gateway,
    access::Caller,
    body,
    call::{self, Answer, Ask},
    error::ApiError,
    models::Variants,
    request_id::RequestId,
    settings::MOST_INPUTS,
};

/// Who owns models, as `/v1/models` has to say.
const OWNER: &str = "akidb-embed";

pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
}

/// What is asked of `/v1/embeddings`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingsRequest {
    /// The texts.
    pub(crate) input: Input,
    /// A model's name. Left out: the gateway's default.
    #[serde(default, deserialize_with = "body::name")]
    #[schemars(length(max = 1024))]
    pub(crate) model: Option<String>,
    /// How vectors are written.
    #[serde(default)]
    pub(crate) encoding_format: EncodingFormat,
    /// A smaller number of dimensions, where the model allows it.
    #[schemars(range(min = 1))]
    pub(crate) dimensions: Option<u32>,
    /// Ignored.
    #[serde(rename = "user")]
    _user: Option<String>,
    /// Beyond OpenAI: the name of one of the model's prompts, such as `query`; empty for none. Left out: the model's default.
    #[serde(default, deserialize_with = "body::name")]
    #[schemars(length(max = 1024))]
    pub(crate) prompt: Option<String>,
    /// Beyond OpenAI: a text that is longer than the model takes is cut; with `false`, it is an error.
    pub(crate) truncate: Option<bool>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    /// Arrays of numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floating point.
    Base64,
}

/// One text, or a list of texts.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Input {
    /// One text.
    One(String),
    /// Texts.
    Many(#[schemars(length(min = 1, max = 2048))] Vec<String>),
}

impl Input {
    pub(crate) fn into_texts(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// Why no token ids are taken.
const TOKEN_IDS: &str = "token ids are not taken: they are those of another model's vocabulary. Send texts (LangChain: \
                         `check_embedding_ctx_length=False`)";

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::One(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Input, E> {
                Ok(Input::One(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
                let mut texts = Vec::new();
                while let Some(Text(text)) = seq.next_element()? {
                    if texts.len() == MOST_INPUTS {
                        return Err(de::Error::custom(format_args!(
                            "more than {MOST_INPUTS} texts; send several requests"
                        )));
                    }
                    texts.push(text);
                }
                Ok(Input::Many(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// A text where a token id may stand.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Text, E> {
                Ok(Text(text))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Text, E> {
                Err(E::custom(TOKEN_IDS))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Text, E> {
                Err(E::custom(TOKEN_IDS))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Text, A::Error> {
                Err(de::Error::custom(TOKEN_IDS))
            }
        }
        deserializer.deserialize_any(One)
    }
}

/// What `/v1/embeddings` answers. It is written by hand, see `write`; a test compares.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct EmbeddingsResponse {
    /// `list`
    object: String,
    /// A vector for each text, in their order.
    data: Vec<Embedding>,
    /// The model's name, as it was sent.
    model: String,
    /// What it took.
    usage: Usage,
}

/// A vector.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Embedding {
    /// `embedding`
    object: String,
    /// Which text's it is.
    index: u32,
    embedding: Vector,
}

/// As `encoding_format` says.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

/// What it took.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Usage {
    /// Tokens of all texts.
    prompt_tokens: u64,
    /// The same.
    total_tokens: u64,
}

async fn embeddings(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers().clone();
    let content = body::read(&gateway, &caller, request).await?;
    let asked: EmbeddingsRequest = body::json(&content.bytes)?;
    let format = asked.encoding_format;
    let ask = Ask {
        model: asked.model,
        texts: asked.input.into_texts(),
        prompt: asked.prompt,
        truncate: asked.truncate.unwrap_or(true),
        dimensions: asked.dimensions,
    };
    let answer = call::embed(&gateway, &caller, &id, &headers, ask).await?;
    let mut response = ([(header::CONTENT_TYPE, JSON)], written(&answer, format)).into_response();
    answer.tell(response.headers_mut());
    Ok(response)
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The answer's body.
pub(crate) fn written(answer: &Answer, format: EncodingFormat) -> Vec<u8> {
    let mut out = write::room_for(&answer.result);
    out.extend_from_slice(br#"{"object":"list","data":["#);
    for row in 0..answer.result.items.len() {
        if row > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"object":"embedding","index":"#);
        write::number(row as u64, &mut out);
        out.extend_from_slice(br#","embedding":"#);
        match format {
            EncodingFormat::Float => write::numbers(&answer.result, row, &mut out),
            EncodingFormat::Base64 => write::base64(&answer.result, row, &mut out),
        }
        out.push(b'}');
    }
    out.extend_from_slice(br#"],"model":"#);
    write::string(&answer.model, &mut out);
    out.extend_from_slice(br#","usage":{"prompt_tokens":"#);
    write::number(answer.tokens, &mut out);
    out.extend_from_slice(br#","total_tokens":"#);
    write::number(answer.tokens, &mut out);
    out.extend_from_slice(b"}}");
    out
}

/// What `/v1/models` answers.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelList {
    /// `list`
    object: &'static str,
    /// The models that may be asked.
    data: Vec<Model>,
}

/// A model.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Model {
    /// Its name, for requests.
    id: String,
    /// `model`
    object: &'static str,
    /// Since when its oldest variant is live, in seconds since 1970. 0 if workers do not say.
    created: i64,
    /// Always the same.
    owned_by: &'static str,
}

fn of(id: String, variants: &Variants) -> Model {
    let since = variants.values().filter_map(|variant| variant.live.as_ref());
    let since = since.filter_map(|live| OffsetDateTime::parse(&live.since, &Rfc3339).ok());
    let created = since.min().map_or(0, OffsetDateTime::unix_timestamp);
    Model { id, object: "model", created, owned_by: OWNER }
}

async fn models(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ModelList>, ApiError> {
    gateway.link().check()?;
    let served = gateway.models().all().await?;
    let may = served.iter().filter(|(model, _)| caller.may_ask(model));
    let data = may.map(|(model, variants)| of(model.to_string(), variants)).collect();
    Ok(Json(ModelList { object: "list", data }))
}

async fn model(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Model>, ApiError> {
    gateway.link().check()?;
    let target = gateway.models().find(&caller, Some(&name), None).await?;
    let served = gateway.models().served();
    Ok(Json(of(target.model.to_string(), served.get(&target.model).unwrap_or(&Variants::new()))))
}
