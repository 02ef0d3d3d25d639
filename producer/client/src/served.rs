//! Whether anybody serves what jobs are for. A stream takes them all the same, and they would wait in it for ever.

use std::time::Duration;

use embed_schemas::{Lane, Slug, streams};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Client,
    discovery::{Info, names, served_by, target},
};
use crate::{
    Error,
    nats::api::{self, CONSUMER_NOT_FOUND, STREAM_NOT_FOUND},
};

/// How long a worker that is being restarted may be missed: about as long as it takes to load its models.
pub const RESTART: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// For one question about the stream.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether jobs would be taken, as far as the stream tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Provisioned {
    /// Somebody is meant to take them.
    Yes,
    /// There is no stream.
    NoStream,
    /// The stream has no consumer for the variant.
    NoConsumer,
    /// The server does not say.
    Unknown,
}

impl Client {
    /// Makes sure that a worker serves the variant, or, without one, the model. At once if one does. If none does and none is meant to
    /// (there is no consumer for it), that is said at once; if one is meant to, it may be being restarted, and is waited for as long as `patience`.
    ///
    /// A client that may not ask workers gets to know nothing, and no error.
    ///
    /// # Errors
    /// [`Error::Unserved`]; [`Error::NoStream`] if there is no stream either, and no worker at all; [`Error::Nats`] if the connection is gone.
    pub async fn check_served(&self, model: &Slug, variant: Option<&Slug>, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        loop {
            let answers = self.ask_all("INFO", |info: &Info| info.serves(model, variant)).await?;
            if answers.given.iter().any(|info| info.serves(model, variant)) {
                return Ok(());
            }
            let provisioned = self.provisioned(model, variant).await;
            let served = names(served_by(&answers.given));
            match provisioned {
                Provisioned::NoStream if served.is_empty() => {
                    return Err(Error::NoStream { model: model.clone(), stream: streams::jobs_stream(model) });
                }
                Provisioned::NoStream | Provisioned::NoConsumer => {}
                Provisioned::Yes | Provisioned::Unknown if !answers.known => return Ok(()),
                Provisioned::Yes | Provisioned::Unknown if Instant::now() + PAUSE < deadline => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Provisioned::Yes | Provisioned::Unknown => {}
            }
            return Err(Error::Unserved { target: target(model, variant), served });
        }
    }

    async fn provisioned(&self, model: &Slug, variant: Option<&Slug>) -> Provisioned {
        let stream = streams::jobs_stream(model);
        let subject = match variant {
            None => format!("STREAM.INFO.{stream}"),
            Some(variant) => format!("CONSUMER.INFO.{stream}.{}", streams::consumer(variant, Lane::Job)),
        };
        match api::call(&self.nats, &subject, &Value::Null, LOOK_TIMEOUT).await {
            Ok(_) => Provisioned::Yes,
            Err(error) if error.is(STREAM_NOT_FOUND) => Provisioned::NoStream,
            Err(error) if error.is(CONSUMER_NOT_FOUND) => Provisioned::NoConsumer,
            Err(_) => Provisioned::Unknown,
        }
    }
}
