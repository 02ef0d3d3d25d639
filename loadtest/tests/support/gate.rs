//! A variant that nobody serves, and whose jobs are passed on to one that is served: as many as a test wants, when it wants. So a backfill has a
//! middle, however fast the machine.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use embed_testkit::NatsServer;
use futures::StreamExt;
use tokio::runtime::Runtime;

use super::embed;

/// The model.
const MODEL: &str = "all-minilm-l6-v2";
/// The variant that backfills are to name.
pub(crate) const GATE: &str = "gate";
/// The variant that the worker serves.
const SERVED: &str = "fp32";
/// For how long a request for jobs waits for the first.
const EXPIRES: Duration = Duration::from_millis(500);

/// Passes jobs on. What is dropped passes no more.
pub(crate) struct Gate {
    runtime: Runtime,
    context: jetstream::Context,
}

impl Gate {
    /// Makes the variant on a server that has the model's streams.
    pub(crate) fn new(nats: &NatsServer) -> Self {
        let variants = [SERVED, GATE].map(|variant| format!("--variant={MODEL}={variant}"));
        let init = embed(nats).arg("init").args(variants).output().unwrap();
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let runtime = Runtime::new().unwrap();
        let context = runtime.block_on(async { jetstream::new(async_nats::connect(nats.url()).await.unwrap()) });
        Self { runtime, context }
    }

    /// Passes so many jobs on, and waits until they are.
    pub(crate) fn pass(&self, jobs: usize) {
        let pass = async {
            let mut passed = 0;
            while passed < jobs {
                passed += pass_some(&self.context, jobs - passed).await.unwrap();
            }
        };
        self.runtime.block_on(pass);
    }

    /// Passes all on from now on.
    pub(crate) fn open(&self) {
        let context = self.context.clone();
        self.runtime.spawn(async move {
            loop {
                // The server may be away.
                if pass_some(&context, usize::MAX).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
}

/// Passes those on that are there, at most so many; waits a moment if there is none.
async fn pass_some(context: &jetstream::Context, most: usize) -> Result<usize, async_nats::Error> {
    let consumer: PullConsumer =
        context.get_consumer_from_stream(format!("{GATE}-bulk"), format!("EMBED_{MODEL}")).await?;
    let mut jobs = consumer.batch().max_messages(most.min(16)).expires(EXPIRES).messages().await?;
    let mut passed = 0;
    while let Some(job) = jobs.next().await {
        let job = job?;
        // Without its headers: the stream has a message with this id, the one that is passed on.
        let subject = format!("embed.bulk.{MODEL}.{SERVED}");
        context.publish(subject, job.payload.clone()).await?.await?;
        job.ack().await?;
        passed += 1;
    }
    Ok(passed)
}
