//! One batch, from its file to the files of what became of it. Whatever ends a run, the next goes on where the last durable part ends.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use embed_client::new_id;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    asking::Asking,
    input::lines,
    lines::{Line, read},
    now,
    objects::{BatchError, Status},
    plan::{Group, Grouping},
    state::{MAX_ERRORS, State, Stop},
    store::{Failure, Owner, StoredFile},
    writer::Writer,
};
use crate::access::Caller;

/// What is done is durable, and counted, so long after it is at most.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// Between two runs if the store fails.
const PAUSE: Duration = Duration::from_secs(5);

/// Runs a batch until it is over, as often as the store fails.
pub(super) async fn run(shared: &Shared, owner: Owner, id: String, cancelled: CancellationToken) {
    let mut is_first = true;
    loop {
        match attempt(shared, &owner, &id, &cancelled, is_first).await {
            Ok(()) => return,
            Err(error @ Failure::TakenOver) => return tracing::warn!(batch = id, %error, "the batch is left to it"),
            Err(error) => {
                tracing::warn!(batch = id, %error, "the batch is held up, and begun again where it was");
                tokio::time::sleep(PAUSE).await;
                is_first = false;
            }
        }
    }
}

async fn attempt(
    shared: &Shared,
    owner: &Owner,
    id: &str,
    cancelled: &CancellationToken,
    is_first: bool,
) -> Result<(), Failure> {
    let store = &shared.store;
    let Some(mut state) = store.batch(owner, id).await? else { return store.close(owner, id).await };
    if state.batch.status.is_over() {
        return store.close(owner, id).await;
    }
    if is_first {
        state.run.clone_from(&shared.run);
    } else if state.run != shared.run {
        return Err(Failure::TakenOver);
    }
    store.put_batch(owner, &state).await?;
    store.open(owner, id).await?;
    if store.cancelled_at(owner, id).await?.is_some() {
        cancelled.cancel();
    }
    // What it may ask is what it may ask now.
    let caller = match &state.key_name {
        None => Some(Caller::new(None)),
        Some(name) => shared.gateway.keys().now().named(name).map(|account| Caller::new(Some(account))),
    };
    let file = store.file(owner, &state.batch.input_file_id).await?;
    let (Some(caller), Some(file)) = (caller, file) else {
        let message = "the key that this batch was sent with, or its file, was removed before it was done";
        let errors = vec![reason("gone", message.to_owned(), None, None)];
        return fail(shared, owner, state, errors).await;
    };
    let run = Run { shared, owner, max_texts: caller.max_inputs(&shared.gateway.settings().bounds), file };
    if state.batch.status == Status::Validating {
        match run.validate().await? {
            Ok(total) => state.begin(total, now()),
            Err(errors) => return fail(shared, owner, state, errors).await,
        }
        store.put_batch(owner, &state).await?;
    }
    run.process(caller, state, cancelled).await
}

async fn fail(shared: &Shared, owner: &Owner, mut state: State, errors: Vec<BatchError>) -> Result<(), Failure> {
    state.fail(errors, now());
    shared.store.put_batch(owner, &state).await?;
    shared.store.close(owner, &state.batch.id).await
}

fn reason(code: &str, message: String, param: Option<&str>, line: Option<u64>) -> BatchError {
    BatchError { code: code.to_owned(), message, param: param.map(str::to_owned), line }
}

/// What is the same from a batch's first line to its last.
struct Run<'a> {
    shared: &'a Shared,
    owner: &'a Owner,
    file: StoredFile,
    /// Texts of one request.
    max_texts: usize,
}

impl Run<'_> {
    /// Reads the file through: how many requests it has, or why it cannot be a batch.
    async fn validate(&self) -> Result<Result<u64, Vec<BatchError>>, Failure> {
        let most = self.shared.settings.max_lines;
        let mut input = pin!(self.input());
        let (mut total, mut ids, mut errors) = (0, HashSet::new(), Vec::new());
        while let Some((number, line)) = input.try_next().await? {
            total += 1;
            if total > most {
                let message = format!("the file has more than {most} requests; send several batches");
                errors.push(reason("too_many_requests", message, None, Some(number)));
            } else {
                match read(&line, self.max_texts) {
                    Ok(line) if ids.contains(&line.custom_id) => {
                        let id = line.custom_id;
                        let message = format!("custom_id: another line has {id:?} as well; give each one of its own");
                        errors.push(reason("duplicate_custom_id", message, Some("custom_id"), Some(number)));
                    }
                    Ok(line) => {
                        ids.insert(line.custom_id);
                    }
                    Err(bad) => errors.push(reason(bad.code, bad.message, bad.param, Some(number))),
                }
            }
            if total > most || errors.len() >= MAX_ERRORS {
                break;
            }
        }
        if total == 0 {
            errors.push(reason("empty_file", "the file has no requests".to_owned(), None, None));
        }
        Ok(if errors.is_empty() { Ok(total) } else { Err(errors) })
    }

    fn input(&self) -> impl Stream<Item = Result<(u64, Bytes), Failure>> + Send + use<> {
        lines(self.shared.store.content(self.owner, &self.file), self.shared.settings.max_line_bytes)
    }

    /// Requests of the file from this line on. That they can be read was seen before.
    fn requests(&self, from: u64) -> impl Stream<Item = Result<Line, Failure>> + Send + use<> {
        let (skip, max_texts) = (usize::try_from(from).unwrap_or(usize::MAX), self.max_texts);
        let line = move |(_, line): (u64, Bytes)| std::future::ready(Ok(read(&line, max_texts).ok()));
        self.input().skip(skip).try_filter_map(line)
    }

    /// The same in groups.
    fn groups(&self, from: u64) -> impl Stream<Item = Result<Group, Failure>> + Send + use<> {
        let mut grouping = Some(Grouping::at(from));
        let lines = self.requests(from).map_ok(Some).chain(stream::once(std::future::ready(Ok(None))));
        lines.try_filter_map(move |line| {
            let whole = match line {
                Some(line) => grouping.as_mut().and_then(|grouping| grouping.push(line)),
                None => grouping.take().and_then(Grouping::finish),
            };
            std::future::ready(Ok(whole))
        })
    }

    /// Asks for everything that is left, and writes what comes.
    async fn process(&self, caller: Caller, state: State, cancelled: &CancellationToken) -> Result<(), Failure> {
        let Shared { gateway, store, settings, .. } = self.shared;
        let asking = Arc::new(Asking {
            gateway: gateway.clone(),
            caller,
            job: state.job.clone(),
            expires_at: state.batch.expires_at,
            run: new_id().to_string(),
            queues: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        });
        let ask = move |group| {
            let asking = Arc::clone(&asking);
            async move { Ok::<_, Failure>(asking.group(group).await) }
        };
        let left = Duration::from_secs(state.batch.expires_at.saturating_sub(now()));
        let groups = self.groups(state.lines);
        let mut writer = Writer::new(store.clone(), gateway.client().clone(), self.owner.clone(), state);
        let done = groups.map_ok(ask).try_buffered(settings.in_flight);
        let stop = {
            let mut done = pin!(done);
            let mut expired = pin!(tokio::time::sleep(left));
            let mut flush = tokio::time::interval(FLUSH_EVERY);
            loop {
                tokio::select! {
                    biased;
                    () = cancelled.cancelled() => break Some(Stop::Cancelled),
                    () = &mut expired => break Some(Stop::Expired),
                    _ = flush.tick() => if writer.is_behind() {
                        writer.flush().await?;
                    },
                    next = done.next() => match next {
                        Some(next) => writer.take(next?),
                        None => break None,
                    },
                }
                if writer.is_due() {
                    writer.flush().await?;
                }
            }
        };
        match stop {
            None => writer.state.batch.status = Status::Finalizing,
            Some(Stop::Cancelled) => writer.state.cancel(now()),
            Some(Stop::Expired) => {}
        }
        if stop.is_none() {
            writer.state.batch.finalizing_at = Some(now());
        }
        writer.flush().await?;
        if let Some(stop) = stop {
            let mut rest = pin!(self.requests(writer.state.lines));
            while let Some(line) = rest.try_next().await? {
                writer.undone(&line, stop);
                if writer.is_due() {
                    writer.flush().await?;
                }
            }
        }
        let batch = writer.finish(stop, settings.file_age.as_secs()).await?;
        let counts = batch.request_counts;
        tracing::info!(batch = batch.id, completed = counts.completed, failed = counts.failed, "the batch is over");
        Ok(())
    }
}
