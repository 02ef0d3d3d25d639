//! The streams of jobs and of results, looked at from time to time: a run begins nothing new while one of them is nearly full. Then
//! whoever else uses them still can, and what is in flight comes to its end and makes room.
//!
//! The role of backfills may not look at everybody's results: there, a worker says how full their stream is.

use std::time::Duration;

use embed_client::{Client, Fill};
use embed_schemas::Slug;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often, while a run waits.
const WAITING_LOOK_EVERY: Duration = Duration::from_millis(200);
/// Percent of its bytes from which on nothing new is begun.
const FULL: u64 = 90;
/// Percent below which it goes on.
const ROOM: u64 = 80;

/// How long what was said of the results counts while nobody says anything new.
const KEPT: Duration = Duration::from_secs(60);

/// What was seen of the streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Jobs that wait in their stream, everybody's. `None` where that may not be asked.
    pub(crate) waiting: Option<u64>,
    /// Whether one of the streams is nearly full.
    pub(crate) is_full: bool,
}

/// Looks at them, as long as it lives.
#[derive(Debug)]
pub(crate) struct Streams {
    seen: watch::Receiver<Seen>,
    results_max_bytes: Option<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Streams {
    /// Looks once, and from then on from time to time.
    pub(crate) async fn watch(client: &Client, model: &Slug, tenant: Option<&Slug>) -> Self {
        let mut look = Look {
            client: client.clone(),
            model: model.clone(),
            tenant: tenant.cloned(),
            may_ask: [true; 3],
            results: None,
            is_warned: false,
        };
        let (sender, seen) = watch::channel(look.again(&Seen::default()).await);
        let results_max_bytes = look.results.as_ref().and_then(|(fill, _)| fill.max_bytes);
        let task = tokio::spawn(async move {
            loop {
                let before = sender.borrow().clone();
                tokio::time::sleep(if before.is_full { WAITING_LOOK_EVERY } else { LOOK_EVERY }).await;
                let now = look.again(&before).await;
                sender.send_if_modified(|seen| std::mem::replace(seen, now.clone()) != now);
            }
        });
        Self { seen, results_max_bytes, _task: AbortOnDropHandle::new(task) }
    }

    /// Bytes that the stream of results may hold. `None` if it has no limit, or nobody says.
    pub(crate) const fn results_max_bytes(&self) -> Option<u64> {
        self.results_max_bytes
    }

    /// What was last seen, and from now on.
    pub(crate) fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }
}

/// How it is looked.
struct Look {
    client: Client,
    model: Slug,
    tenant: Option<Slug>,
    /// Whether the server may be asked for jobs and for results, and a worker for results. What a run has there itself is bounded by what
    /// it has in flight.
    may_ask: [bool; 3],
    /// What was last said of the results, and when.
    results: Option<(Fill, Instant)>,
    /// Whether it was said that results fill their stream.
    is_warned: bool,
}

impl Look {
    async fn again(&mut self, before: &Seen) -> Seen {
        let jobs = match self.may_ask[0] {
            true => self.told(0, self.client.jobs_fill(&self.model).await),
            false => None,
        };
        if let Some(fill) = self.ask_for_results().await {
            self.results = Some((fill, Instant::now()));
        }
        self.results.take_if(|(_, said)| said.elapsed() >= KEPT);
        let results = self.results.as_ref().map(|(fill, _)| fill.clone());
        if !self.is_warned
            && let Some(warning) = results.as_ref().and_then(Fill::warning)
        {
            tracing::warn!("{warning}");
            self.is_warned = true;
        }
        let fullest = [&jobs, &results].into_iter().flatten().max_by_key(|fill| percent(fill));
        let is_full = fullest.map_or(before.is_full, |fill| stays_full(before.is_full, percent(fill)));
        match (before.is_full, is_full, fullest) {
            (false, true, Some(fill)) => tracing::warn!(
                "the stream {} is {} % full: nothing new is begun until it is below {ROOM} %",
                fill.stream,
                percent(fill)
            ),
            (true, false, _) => tracing::warn!("there is room in the streams again: it goes on"),
            _ => {}
        }
        Seen { waiting: jobs.map(|fill| fill.messages), is_full }
    }

    /// Asks the server, or a worker if that may not be, or is not answered.
    async fn ask_for_results(&mut self) -> Option<Fill> {
        if self.may_ask[1]
            && let Some(fill) = self.told(1, self.client.results_fill(&self.model).await)
        {
            return Some(fill);
        }
        if !self.may_ask[2] {
            return None;
        }
        let said = self.client.results_fill_by_worker(&self.model, self.tenant.as_ref()).await;
        self.told(2, said.transpose()?)
    }

    /// An answer, if there is one. Whoever was refused does not ask again.
    fn told(&mut self, which: usize, answer: Result<Fill, embed_client::Error>) -> Option<Fill> {
        match answer {
            Ok(fill) => Some(fill),
            Err(error) => {
                self.may_ask[which] = error.retryable();
                None
            }
        }
    }
}

/// How full a stream is.
fn percent(fill: &Fill) -> u64 {
    fill.max_bytes.map_or(0, |most| fill.bytes.saturating_mul(100) / most.max(1))
}

/// Between the two bounds, it is as it was.
const fn stays_full(before: bool, percent: u64) -> bool {
    percent >= FULL || before && percent >= ROOM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_well_below_where_it_stopped() {
        let path = [89, 90, 85, 80, 79, 85, 89, 100];
        let mut is_full = false;
        let seen = path.map(|percent| {
            is_full = stays_full(is_full, percent);
            is_full
        });
        assert_eq!(seen, [false, true, true, true, false, false, false, true]);
    }
}
