//! Who is asked.

use std::{sync::Arc, time::Duration};

use embed_client::{CallOptions, Client};
use embed_schemas::{EmbedRequest, Slug};

use super::{http::HttpPeer, python::SentenceTransformers};
use crate::bulk::{self, BulkLoad};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// One that embeds texts.
#[derive(Debug, Clone)]
pub enum Peer {
    /// This project, by request-reply.
    Calls(Ours),
    /// This project, by bulk jobs through JetStream, until their results are stored and read.
    Jobs(Ours),
    /// An HTTP server.
    Http(HttpPeer),
    /// A library in a process of its own. What is settled for it is texts in a batch; it has all texts at once.
    Library(Arc<SentenceTransformers>),
}

/// This project's workers.
#[derive(Debug, Clone)]
pub struct Ours {
    /// The connection.
    pub client: Client,
    /// The model.
    pub model: Slug,
    /// The variant; left to the route if `None`.
    pub variant: Option<Slug>,
}

impl Peer {
    /// What it is called in a report.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Calls(_) => "ours, calls through NATS".to_owned(),
            Self::Jobs(_) => "ours, jobs through JetStream".to_owned(),
            Self::Http(peer) => peer.name(),
            Self::Library(peer) => peer.name(),
        }
    }

    /// Whether it is this project.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        matches!(self, Self::Calls(_) | Self::Jobs(_))
    }

    /// Embeds texts.
    ///
    /// # Errors
    /// If a text has no vector.
    pub async fn embed(&self, texts: Vec<String>) -> anyhow::Result<()> {
        match self {
            Self::Calls(ours) => {
                let options = CallOptions::default().variant(ours.variant.clone()).timeout(PATIENCE);
                let result = ours.client.embed(&ours.model, EmbedRequest::new(texts), &options).await?;
                match result.items.into_iter().find_map(|item| item.error) {
                    Some(error) => Err(error.into()),
                    None => Ok(()),
                }
            }
            Self::Jobs(ours) => {
                let count = texts.len() as u64;
                let (model, variant) = (ours.model.clone(), ours.variant.clone());
                let load = BulkLoad { model, variant, texts: Arc::from([]), texts_per_job: texts.len(), window: 1 };
                let stored = bulk::job(&ours.client, &load, texts).await?;
                anyhow::ensure!(stored == count, "{stored} of {count} texts of a job have vectors");
                Ok(())
            }
            Self::Http(peer) => peer.embed(&texts).await,
            Self::Library(peer) => peer.vectors(&texts).await.map(drop),
        }
    }

    /// The vectors of texts.
    ///
    /// # Errors
    /// If a text has none.
    pub async fn vectors(&self, texts: &[String]) -> anyhow::Result<Vec<Vec<f32>>> {
        match self {
            Self::Calls(ours) | Self::Jobs(ours) => {
                let options = CallOptions::default().variant(ours.variant.clone()).timeout(PATIENCE);
                let request = EmbedRequest::new(texts.iter().cloned());
                let result = ours.client.embed(&ours.model, request, &options).await?;
                Ok((0..texts.len()).map(|row| result.vector(row)).collect::<Result<_, _>>()?)
            }
            Self::Http(peer) => peer.vectors(texts).await,
            Self::Library(peer) => peer.vectors(texts).await,
        }
    }
}
