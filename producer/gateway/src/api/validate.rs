//! How close each variant comes to FP32, found out now: golden texts are sent to it as calls, and their vectors compared.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use embed_client::EmbedResult;
use embed_schemas::{ModelMetadata, Precision, Slug, encoding::cosine, model::GoldenSet};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    Gateway,
    access::{Caller, estimate},
    call::{self, Ask},
    error::ApiError,
    models::{Variant, Variants},
    request_id::RequestId,
};

/// For so long, what was found out is told again: whoever asks often costs the workers no more than who asks once in a while.
const FRESH: std::time::Duration = std::time::Duration::from_secs(5);

/// Texts of many kinds, where no registry says which are golden.
const TEXTS: &str = include_str!("validate.txt");

/// What was found out last, or is being found out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Validation(Arc<Mutex<Option<Finding>>>);

/// When it was done, and what was found, or why nothing.
type Finding = Shared<BoxFuture<'static, (Instant, Result<Arc<Validated>, ApiError>)>>;

/// What `/api/v1/validate` answers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Validated {
    /// The least of all variants' mean cosines to FP32.
    cosine_similarity: f64,
    /// Each variant of each model.
    variants: Vec<ValidatedVariant>,
}

/// A variant, compared with FP32.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct ValidatedVariant {
    model: Slug,
    variant: Slug,
    version: Option<String>,
    precision: Option<Precision>,
    /// What it was compared with: `golden` vectors of the registry, or a `variant` that is FP32 and live. Null: nothing was there.
    reference: Option<&'static str>,
    /// Texts that were compared.
    texts: usize,
    /// Mean cosine to FP32.
    cosine_similarity: Option<f64>,
    /// Least cosine to FP32.
    cosine_min: Option<f64>,
    /// Why nothing was compared.
    error: Option<String>,
}

pub(super) async fn validate(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    Extension(validation): Extension<Validation>,
) -> Result<Json<Validated>, ApiError> {
    caller.begin()?;
    gateway.link().check()?;
    let (_, found) = validation.last_or(&gateway, &caller, id)?.await;
    Ok(Json(only_for(&caller, &*found?)))
}

impl Validation {
    /// What was found out a moment ago, or is being found out; else whoever asks has it found out, and pays for it.
    fn last_or(&self, gateway: &Gateway, caller: &Caller, id: RequestId) -> Result<Finding, ApiError> {
        let mut last = self.0.lock();
        let is_of_use = |finding: &&Finding| finding.peek().is_none_or(|(when, _)| when.elapsed() < FRESH);
        if let Some(finding) = last.as_ref().filter(is_of_use) {
            return Ok(finding.clone());
        }
        let texts: Vec<String> = TEXTS.lines().map(str::to_owned).collect();
        let variants = gateway.models().served().values().map(BTreeMap::len).sum::<usize>();
        // What comes of it is told to all who ask meanwhile; that it was less is not settled.
        caller.take(estimate(&texts) * variants as u64)?;
        let gateway = gateway.clone();
        let finding = async move {
            let found = find_out(&gateway, &id).await.map(Arc::new);
            (Instant::now(), found)
        };
        let finding = finding.boxed().shared();
        // Also if whoever asked goes away: what nobody goes on with would be told to the next who asks, hours later.
        tokio::spawn(finding.clone());
        Ok(last.insert(finding).clone())
    }
}

/// What of it is about models that the caller may ask.
fn only_for(caller: &Caller, all: &Validated) -> Validated {
    summary(all.variants.iter().filter(|variant| caller.may_ask(&variant.model)).cloned().collect())
}

fn summary(variants: Vec<ValidatedVariant>) -> Validated {
    let cosines = variants.iter().filter_map(|variant| variant.cosine_similarity);
    let least = cosines.fold(f64::INFINITY, f64::min);
    Validated { cosine_similarity: if least.is_finite() { least } else { 0.0 }, variants }
}

async fn find_out(gateway: &Gateway, id: &RequestId) -> Result<Validated, ApiError> {
    let served = gateway.models().served();
    let mut all = Vec::new();
    for (model, variants) in served.iter() {
        all.extend(of_model(gateway, id, model, variants).await);
    }
    if all.iter().all(|variant| variant.cosine_similarity.is_none()) {
        let why = all.iter().find_map(|variant| variant.error.clone());
        let message = why.unwrap_or_else(|| "no worker serves a variant by name".to_owned());
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).after(FRESH));
    }
    Ok(summary(all))
}

async fn of_model(gateway: &Gateway, id: &RequestId, model: &Slug, variants: &Variants) -> Vec<ValidatedVariant> {
    let mut all = Vec::new();
    let fp32 = variants
        .iter()
        .find(|(_, variant)| variant.live.as_ref().is_some_and(|live| live.precision == Precision::Fp32));
    for (name, variant) in variants {
        let compared = compare(gateway, id, model, (name, variant), fp32).await;
        let (reference, cosines, error) = match compared {
            Ok((reference, cosines)) => (Some(reference), cosines, None),
            Err(error) => (None, Vec::new(), Some(error.message)),
        };
        let live = variant.live.as_ref();
        all.push(ValidatedVariant {
            model: model.clone(),
            variant: name.clone(),
            version: live.map(|live| live.version.clone()),
            precision: live.map(|live| live.precision),
            reference,
            texts: cosines.len(),
            cosine_similarity: mean(&cosines),
            cosine_min: cosines.iter().copied().reduce(f64::min),
            error,
        });
    }
    all
}

fn mean(cosines: &[f64]) -> Option<f64> {
    (!cosines.is_empty()).then(|| cosines.iter().sum::<f64>() / cosines.len() as f64)
}

/// The cosines of a variant's vectors to those of FP32.
async fn compare(
    gateway: &Gateway,
    id: &RequestId,
    model: &Slug,
    (name, variant): (&Slug, &Variant),
    fp32: Option<(&Slug, &Variant)>,
) -> Result<(&'static str, Vec<f64>), ApiError> {
    if let Some(golden) = golden(gateway, model, variant).await {
        let mut cosines = Vec::new();
        for (prompt, items) in golden {
            let (texts, vectors): (Vec<String>, Vec<Vec<f32>>) = items.into_iter().unzip();
            let result = ask(gateway, id, model, name, texts, prompt).await?;
            cosines.extend(rows(&result).iter().zip(&vectors).map(|(row, golden)| cosine(row, golden)));
        }
        return Ok(("golden", cosines));
    }
    let Some((other, reference)) = fp32 else {
        let message = format!("no FP32 variant of {model} is live, and no registry says what its vectors are");
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message));
    };
    let space = |variant: &Variant| variant.live.as_ref().map(|live| live.space.clone());
    if space(variant) != space(reference) {
        let message = format!("{name} is in another embedding space than {other}: their vectors cannot be compared");
        return Err(ApiError::new(StatusCode::CONFLICT, "other_space", message));
    }
    let texts: Vec<String> = TEXTS.lines().map(str::to_owned).collect();
    let (found, wanted) = tokio::try_join!(
        ask(gateway, id, model, name, texts.clone(), None),
        ask(gateway, id, model, other, texts, None)
    )?;
    Ok(("variant", rows(&found).iter().zip(rows(&wanted)).map(|(a, b)| cosine(a, &b)).collect()))
}

async fn ask(
    gateway: &Gateway,
    id: &RequestId,
    model: &Slug,
    variant: &Slug,
    texts: Vec<String>,
    prompt: Option<String>,
) -> Result<EmbedResult, ApiError> {
    let mut headers = HeaderMap::new();
    if let Ok(name) = HeaderValue::from_str(variant.as_str()) {
        headers.insert(call::PINNED, name);
    }
    let ask = Ask { model: Some(model.to_string()), texts, prompt, truncate: true, dimensions: None };
    Ok(call::embed(gateway, &Caller::new(None), id, &headers, ask).await?.result)
}

fn rows(result: &EmbedResult) -> Vec<Vec<f32>> {
    (0..result.items.len()).map(|row| result.vector(row).unwrap_or_default()).collect()
}

/// Texts with their FP32 vectors, by prompt.
type Golden = Vec<(Option<String>, Vec<(String, Vec<f32>)>)>;

/// What the registry holds for the version that is live.
async fn golden(gateway: &Gateway, model: &Slug, variant: &Variant) -> Option<Golden> {
    let version = &variant.live.as_ref()?.version;
    let metadata: Arc<ModelMetadata> = gateway.models().metadata(model, version).await?;
    let registry = gateway.models().registry()?;
    let bytes = registry.read_verified(model, version, &metadata.golden).await.ok()?;
    let set: GoldenSet = serde_json::from_slice(&bytes).ok()?;
    let mut by_prompt: Golden = Vec::new();
    for item in set.items {
        let bytes = BASE64_STANDARD.decode(&item.vector_f32_base64).ok()?;
        let vector = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        // None stands for none at all here, and not for the default.
        let prompt = Some(item.prompt.unwrap_or_default());
        match by_prompt.iter_mut().find(|(of, _)| *of == prompt) {
            Some((_, items)) => items.push((item.text, vector)),
            None => by_prompt.push((prompt, vec![(item.text, vector)])),
        }
    }
    Some(by_prompt)
}
