//! Looks for all who ask at once: once a second at most, and not at all while nobody does.

use std::{sync::Arc, time::Duration};

use embed_client::Client;
use embed_control::status::{Collector, Status};
use tokio::{sync::Mutex, time::Instant};

/// For so long, what was found is good for whoever asks next.
const FRESH: Duration = Duration::from_secs(1);

/// How everything stands, for any number of viewers. Clones are the same.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Mutex<Watched>>);

#[derive(Debug)]
struct Watched {
    collector: Collector,
    last: Option<(Instant, Arc<Status>)>,
}

impl Watch {
    /// On this connection. Looks at nothing yet.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self(Arc::new(Mutex::new(Watched { collector: Collector::new(client), last: None })))
    }

    /// How everything stands now, or did a second ago. Whoever asks while somebody else is waiting for the answer gets the same.
    ///
    /// # Panics
    /// If a look does.
    pub async fn status(&self) -> Arc<Status> {
        let watched = Arc::clone(&self.0);
        let look = async move {
            let mut watched = watched.lock_owned().await;
            if let Some((_, status)) = watched.last.as_ref().filter(|(when, _)| when.elapsed() < FRESH) {
                return Arc::clone(status);
            }
            let status = Arc::new(watched.collector.look().await);
            watched.last = Some((Instant::now(), Arc::clone(&status)));
            status
        };
        // A look that was begun goes on if whoever asked goes away: what it has read already would be missing in the next.
        tokio::spawn(look).await.expect("a look comes to its end")
    }
}
