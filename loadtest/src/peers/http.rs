//! The three shapes of HTTP that servers of embeddings speak.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Value, json};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Characters of an error's body that are told.
const MOST_SAID: usize = 300;

/// How a server is asked, and how it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// text-embeddings-inference: `POST /embed`.
    Tei,
    /// `OpenAI`: `POST /v1/embeddings`.
    OpenAi,
    /// infinity: as `OpenAI`, without the `/v1`.
    Infinity,
}

/// A server.
#[derive(Debug, Clone)]
pub struct HttpPeer {
    shape: Shape,
    base: String,
    model: String,
    client: reqwest::Client,
}

#[derive(Deserialize)]
struct Rows<T> {
    data: Vec<Row<T>>,
}

#[derive(Deserialize)]
struct Row<T> {
    index: Option<usize>,
    embedding: T,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl HttpPeer {
    /// Finds the server, and which model it has, if it is one that wants to be told.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn connect(shape: Shape, url: &str, model: Option<&str>) -> anyhow::Result<Self> {
        // It says no more than that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let mut base = url.trim_end_matches('/').to_owned();
        if shape == Shape::OpenAi && !base.ends_with("/v1") {
            base += "/v1";
        }
        let mut this = Self { shape, base, model: model.unwrap_or_default().to_owned(), client };
        if shape != Shape::Tei && model.is_none() {
            let models = this.client.get(format!("{}/models", this.base)).send().await;
            let models = models.with_context(|| format!("{url}: no answer"))?.error_for_status()?.bytes().await?;
            let models: Models =
                serde_json::from_slice(&models).with_context(|| format!("{url}: its list of models"))?;
            this.model = models.data.into_iter().next().with_context(|| format!("{url}: it has no model"))?.id;
        }
        Ok(this)
    }

    /// What it is called in a report.
    #[must_use]
    pub fn name(&self) -> String {
        let shape = match self.shape {
            Shape::Tei => "text-embeddings-inference",
            Shape::OpenAi => "OpenAI's shape",
            Shape::Infinity => "infinity",
        };
        format!("{shape}, {}", self.base)
    }

    fn request(&self, texts: &[String]) -> (String, Value) {
        match self.shape {
            Shape::Tei => {
                (format!("{}/embed", self.base), json!({ "inputs": texts, "truncate": true, "normalize": true }))
            }
            Shape::OpenAi | Shape::Infinity => {
                (format!("{}/embeddings", self.base), json!({ "model": self.model, "input": texts }))
            }
        }
    }

    async fn post(&self, texts: &[String]) -> anyhow::Result<Vec<u8>> {
        let (url, body) = self.request(texts);
        let request = self.client.post(&url).header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.with_context(|| url.clone())?;
        let status = answer.status();
        let bytes = answer.bytes().await.with_context(|| url.clone())?;
        if !status.is_success() {
            let said: String = String::from_utf8_lossy(&bytes).chars().take(MOST_SAID).collect();
            bail!("{url}: {status}: {said}");
        }
        Ok(bytes.to_vec())
    }

    /// Embeds texts; their numbers are looked at no more than it takes to count the vectors.
    ///
    /// # Errors
    /// If there is no vector for each.
    pub async fn embed(&self, texts: &[String]) -> anyhow::Result<()> {
        let answer = self.post(texts).await?;
        let rows = match self.shape {
            Shape::Tei => serde_json::from_slice::<Vec<IgnoredAny>>(&answer).map(|rows| rows.len()),
            _ => serde_json::from_slice::<Rows<IgnoredAny>>(&answer).map(|rows| rows.data.len()),
        };
        let rows = rows.with_context(|| format!("{}: not an answer of this shape", self.name()))?;
        ensure!(rows == texts.len(), "{}: {rows} vectors for {} texts", self.name(), texts.len());
        Ok(())
    }

    /// The vectors of texts, in their order.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub async fn vectors(&self, texts: &[String]) -> anyhow::Result<Vec<Vec<f32>>> {
        let answer = self.post(texts).await?;
        let rows = match self.shape {
            Shape::Tei => serde_json::from_slice::<Vec<Vec<f32>>>(&answer)?,
            _ => {
                let mut rows = serde_json::from_slice::<Rows<Vec<f32>>>(&answer)?.data;
                rows.sort_by_key(|row| row.index);
                rows.into_iter().map(|row| row.embedding).collect()
            }
        };
        ensure!(rows.len() == texts.len(), "{}: {} vectors for {} texts", self.name(), rows.len(), texts.len());
        Ok(rows)
    }
}
