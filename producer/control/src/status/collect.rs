//! Asks everybody, within bounds of time and number.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use async_nats::connection::State;
use embed_client::{Client, Fill, StreamState, nats::api::ApiError};
use embed_schemas::{
    Lane, RouteRecord, RouteState, Slug, control::WorkerStatus, serving::DesiredVariant, streams, wire::decode_stats,
};
use futures::{StreamExt, stream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    QueueLine, RolloutLine, ServerLine, Status, StreamLine, Unknown, VariantLine,
    attention::attention,
    traffic::{ERRORS_MS, RECENT_MS, Windows},
};
use crate::{
    Error,
    dead::{LetterLine, Newest},
    models,
    provision::Consumers,
    rollout::{ReadFrom, Reader, RolloutError, Rollouts},
    route::{self, RouteError},
    stream_names, times,
};

/// What one part may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the looks at all models' streams may take together.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(10);
/// Models that are looked at, and how many at the same time.
const MOST_MODELS: usize = 64;
const AT_ONCE: usize = 8;
/// Answers of the stream of statistics that are read at once. Of more, what is newest is read, and the rest is not.
const MOST_BATCHES: usize = 32;
/// Dead letters that are told of.
const LETTERS: usize = 20;

/// Finds out how everything stands, again and again: what does not change is not read again.
#[derive(Debug)]
pub struct Collector {
    client: Client,
    reports: Reports,
    letters: BTreeMap<Slug, Newest>,
}

/// What workers have published of late, as far as it was read.
#[derive(Debug)]
struct Reports {
    nats: async_nats::Client,
    reader: Reader,
    windows: Windows,
    /// The server's time as it was last told, and when that was.
    clock: Option<(u64, Instant)>,
    /// When it was begun to be read, and how many milliseconds what was then the oldest was old.
    begun: (Instant, u64),
    /// When it was last read.
    last: Instant,
}

/// Why a part is not known.
#[derive(Debug, Clone)]
struct Why {
    code: String,
    reason: String,
}

/// What is known of one model's streams.
struct OfModel {
    model: Slug,
    queues: Result<Vec<QueueLine>, Why>,
    streams: Vec<(&'static str, Result<StreamState, Why>)>,
    letters: Result<Newest, Why>,
}

impl Collector {
    /// On this connection.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        let reports = Reports::of_the_last(ERRORS_MS, client.nats().clone());
        Self { client: client.clone(), reports, letters: BTreeMap::new() }
    }

    /// Looks at everything. Takes some 300 milliseconds, and a few seconds where somebody does not answer. What cannot be looked at leaves a gap.
    pub async fn look(&mut self) -> Status {
        let info = self.client.nats().server_info();
        let connected = self.client.nats().connection_state() == State::Connected;
        let name = if info.server_name.is_empty() { info.server_id } else { info.server_name };
        let mut status = Status {
            taken: times::now(),
            server: ServerLine { name, version: info.version, connected },
            attention: Vec::new(),
            variants: Vec::new(),
            traffic: None,
            queues: None,
            streams: None,
            rollouts: None,
            errors: None,
            dead: None,
            workers: None,
            unknown: Vec::new(),
        };
        let mut routes_said = Vec::new();
        if connected {
            routes_said = self.fill(&mut status).await;
        } else {
            let reason = "there is no connection to NATS".to_owned();
            status.unknown.push(Unknown {
                part: "server",
                reason,
                next: "look at the server, and at the network".to_owned(),
            });
        }
        status.attention = attention(&status, routes_said);
        status
    }

    /// Fills in what is known, and returns what is to be said of routes.
    async fn fill(&mut self, status: &mut Status) -> Vec<String> {
        let client = self.client.clone();
        let rollouts = Rollouts::new(&client);
        let (workers, desired, routes, rollouts, named, traffic) = tokio::join!(
            within(client.worker_statuses()),
            within(models::desired(&client)),
            within(route::written(&client)),
            within(rollouts.all()),
            timeout(PATIENCE, stream_names::models(client.nats())),
            self.reports.read(),
        );
        let mut unknown = Gaps(Vec::new());
        let workers = unknown.take("workers", workers);
        let desired = unknown.take("variants", desired).unwrap_or_default();
        let routes = unknown.take("routes", routes);
        let rollouts = unknown.take("rollouts", rollouts);
        let records: Option<BTreeMap<&Slug, &RouteRecord>> =
            routes.as_ref().map(|routes| routes.iter().map(|(model, entry)| (model, &entry.record)).collect());
        status.variants = variants(workers.as_deref().unwrap_or_default(), &desired, records.as_ref());
        status.rollouts = rollouts.map(|all| all.iter().map(rollout_line).collect());
        if unknown.take("traffic", traffic).is_some() {
            let windows = &self.reports.windows;
            (status.traffic, status.errors) = (Some(windows.traffic()), Some(windows.errors()));
            if let Some(why) = self.reports.missing() {
                unknown.note("traffic", &why);
            }
        }
        let mut models: BTreeSet<Slug> = status.variants.iter().map(|line| line.model.clone()).collect();
        let named = match named.map_err(|_| late()).and_then(|named| named.map_err(Into::into)) {
            Ok(named) => {
                models.extend(named);
                true
            }
            Err(why) => {
                // Who may not ask for names knows models by their workers, if there are any.
                ["queues", "streams", "dead"]
                    .into_iter()
                    .filter(|_| models.is_empty())
                    .for_each(|part| unknown.note(part, &why));
                !models.is_empty()
            }
        };
        models.extend(records.iter().flat_map(|records| records.keys().map(|model| (*model).clone())));
        if models.len() > MOST_MODELS {
            let reason = format!("{MOST_MODELS} of {} models are looked at", models.len());
            unknown.0.push(Unknown {
                part: "streams",
                reason,
                next: "ask for others with `embed jobs` and `nats stream`".to_owned(),
            });
        }
        if named {
            self.of_models(models.into_iter().take(MOST_MODELS), status, &mut unknown).await;
        }
        status.workers = workers;
        status.unknown = unknown.0;
        routes.iter().flatten().filter_map(|(model, entry)| unfinished(model, &entry.record)).collect()
    }

    /// What waits, how full streams are, and the dead letters, of all these models.
    async fn of_models(&mut self, models: impl Iterator<Item = Slug>, status: &mut Status, unknown: &mut Gaps) {
        let client = self.client.clone();
        let mut letters = std::mem::take(&mut self.letters);
        let deadline = Instant::now() + PATIENCE_FOR_ALL;
        let asked = models.map(|model| {
            let before = letters.remove(&model);
            let client = &client;
            async move {
                let none = OfModel::unknown(model.clone(), &late());
                if deadline <= Instant::now() {
                    return none;
                }
                timeout_at(deadline, of_model(client, model, before)).await.unwrap_or(none)
            }
        });
        let mut all: Vec<OfModel> = stream::iter(asked.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
        all.sort_by(|a, b| a.model.cmp(&b.model));
        let (mut queues, mut streams, mut dead) = (Some(Vec::new()), Some(Vec::new()), Some(Vec::new()));
        for OfModel { model, queues: of_queues, streams: of_streams, letters } in all {
            unknown.add("queues", &mut queues, of_queues);
            for (holds, fill) in of_streams {
                unknown.add("streams", &mut streams, fill.map(|state| vec![stream_line(&model, holds, state)]));
            }
            unknown.add("dead", &mut dead, letters.as_ref().map(|newest| newest.letters.clone()).map_err(Why::clone));
            if let Ok(newest) = letters {
                self.letters.insert(model, newest);
            }
        }
        status.queues = queues;
        status.streams = streams;
        status.dead = dead.map(|mut letters: Vec<LetterLine>| {
            letters.sort_by(|a, b| b.time.cmp(&a.time));
            letters.truncate(LETTERS);
            letters
        });
    }
}

impl Reports {
    /// Begins with what was published within so many milliseconds.
    fn of_the_last(ms: u64, nats: async_nats::Client) -> Self {
        let from = ReadFrom::Time(times::now_ms().saturating_sub(ms));
        // Windows of all variants, and not what is found of shadows, whose subjects have a token more.
        let reader = Reader::new(nats.clone(), "embed.stats.*.*".to_owned(), from);
        let now = Instant::now();
        Self { nats, reader, windows: Windows::default(), clock: None, begun: (now, ms), last: now }
    }

    /// Reads what workers have published since it was last read: all of it, so that the last minute is the last one, or else the newest alone.
    async fn read(&mut self) -> Result<(), Why> {
        if ms(self.last.elapsed()) > ERRORS_MS {
            *self = Self::of_the_last(ERRORS_MS, self.nats.clone());
        }
        self.last = Instant::now();
        if self.read_on().await? {
            return Ok(());
        }
        *self = Self::of_the_last(2 * RECENT_MS, self.nats.clone());
        if self.read_on().await? {
            return Ok(());
        }
        let reason = "workers publish more than is read in one look".to_owned();
        Err(Why { code: "too_much".to_owned(), reason })
    }

    /// Whether it came to the end.
    async fn read_on(&mut self) -> Result<bool, Why> {
        let mut at_end = false;
        for _ in 0..MOST_BATCHES {
            let Some(reports) = within(self.reader.batch(decode_stats)).await? else {
                at_end = true;
                break;
            };
            for (stored_ms, report) in reports {
                self.clock = Some((stored_ms, Instant::now()));
                self.windows.add(report, stored_ms);
            }
        }
        // By the server's clock, as windows are.
        if let Some((told_ms, when)) = self.clock {
            self.windows.forget(told_ms.saturating_add(ms(when.elapsed())));
        }
        Ok(at_end)
    }

    /// What is to be said if errors are not told of for as long as they are to be.
    fn missing(&self) -> Option<Why> {
        let (when, before) = self.begun;
        let covered = before.saturating_add(ms(when.elapsed()));
        (covered < ERRORS_MS).then(|| {
            let covered = humantime::format_duration(Duration::from_secs(covered / 1000));
            let reason =
                format!("workers had published more than is read in one look: errors are those of the last {covered}");
            Why { code: "too_much".to_owned(), reason }
        })
    }
}

impl OfModel {
    fn unknown(model: Slug, why: &Why) -> Self {
        let streams = ["jobs", "results", "dead letters"].map(|holds| (holds, Err(why.clone()))).into();
        Self { model, queues: Err(why.clone()), streams, letters: Err(why.clone()) }
    }
}

async fn of_model(client: &Client, model: Slug, before: Option<Newest>) -> OfModel {
    let [jobs, results, dead] =
        [streams::jobs_stream(&model), streams::results_stream(&model), streams::dead_stream(&model)];
    let (consumers, jobs, results, dead) = tokio::join!(
        within(Consumers::of(client.nats(), &model)),
        within(client.stream_state(jobs)),
        within(client.stream_state(results)),
        within(client.stream_state(dead)),
    );
    let queues = consumers.map(|consumers| {
        let line = |(variant, lane, depth)| QueueLine { model: model.clone(), variant, lane, depth };
        let mut lines: Vec<QueueLine> = consumers.depths().map(line).collect();
        lines.sort_by(|a, b| (&a.variant, a.lane).cmp(&(&b.variant, b.lane)));
        lines
    });
    let letters = match &dead {
        Ok(state) => within(Newest::read(client, &model, state, LETTERS as u64, before)).await,
        Err(why) => Err(why.clone()),
    };
    OfModel { model, queues, streams: vec![("jobs", jobs), ("results", results), ("dead letters", dead)], letters }
}

/// The variants that workers have, or are to have, of all models.
fn variants(
    workers: &[WorkerStatus],
    desired: &BTreeMap<(Slug, Slug), DesiredVariant>,
    routes: Option<&BTreeMap<&Slug, &RouteRecord>>,
) -> Vec<VariantLine> {
    let mut lines: BTreeMap<(Slug, Slug), VariantLine> = BTreeMap::new();
    let empty = |(model, variant): &(Slug, Slug)| VariantLine {
        model: model.clone(),
        variant: variant.clone(),
        default: false,
        states: BTreeMap::new(),
        versions: BTreeSet::new(),
        precisions: BTreeSet::new(),
        providers: BTreeSet::new(),
        shares: None,
    };
    for (key, wanted) in desired {
        lines.entry(key.clone()).or_insert_with(|| empty(key)).default = wanted.default == Some(true);
    }
    for served in workers.iter().flat_map(|worker| &worker.variants) {
        let key = (served.model.clone(), served.variant.clone());
        let line = lines.entry(key.clone()).or_insert_with(|| empty(&key));
        line.default |= served.status.default;
        *line.states.entry(served.status.state.as_str()).or_default() += 1;
        if let Some(live) = &served.status.live {
            line.versions.insert(live.version.clone());
            line.precisions.insert(live.precision.to_string());
            line.providers.insert(live.provider.clone());
        }
    }
    for line in lines.values_mut() {
        line.shares = routes.map(|routes| {
            let lanes = routes.get(&line.model).map(|record| &record.lanes);
            let share = |lane: Lane| match lanes.and_then(|lanes| lanes.get(&lane)) {
                Some(weights) => weights.of(&line.variant),
                None => u8::from(line.default) * 100,
            };
            Lane::ALL.into_iter().map(|lane| (lane, share(lane))).collect()
        });
    }
    lines.into_values().collect()
}

fn stream_line(model: &Slug, holds: &'static str, state: StreamState) -> StreamLine {
    let StreamState { fill, oldest, .. } = state;
    // Of dead letters the oldest go, and nobody waits.
    let warning = fill.warning().filter(|_| holds != "dead letters");
    let Fill { stream, messages, bytes, max_bytes, .. } = fill;
    StreamLine { model: model.clone(), holds, name: stream, messages, bytes, max_bytes, oldest, warning }
}

fn rollout_line(rollout: &embed_rollout::Rollout) -> RolloutLine {
    let last = rollout.history.last();
    RolloutLine {
        model: rollout.model.clone(),
        from: rollout.from.clone(),
        to: rollout.to.clone(),
        phase: rollout.phase.as_str(),
        percent: rollout.percent(),
        started: times::rfc3339(rollout.started_ms),
        last: last.map(|event| event.sentence.clone()).unwrap_or_default(),
        over: rollout.outcome().is_some(),
        paused: matches!(rollout.phase, embed_rollout::state::Phase::Paused { .. }),
    }
}

/// What is to be said of a route that not every server was seen to hold.
fn unfinished(model: &Slug, record: &RouteRecord) -> Option<String> {
    let what = match record.state {
        RouteState::Applied => return None,
        RouteState::Applying => "is being changed, or a change was begun and not finished".to_owned(),
        RouteState::Incomplete => {
            format!("is not on every server: {}", record.problem.as_deref().unwrap_or("no reason is known"))
        }
    };
    Some(format!("the route of {model} {what}: see `embed route show`"))
}

/// What could not be looked at, each part once.
struct Gaps(Vec<Unknown>);

impl Gaps {
    fn take<T>(&mut self, part: &'static str, found: Result<T, Why>) -> Option<T> {
        found.map_err(|why| self.note(part, &why)).ok()
    }

    /// Adds what was found to what is known of a part. Nothing is known if nothing was found.
    fn add<T>(&mut self, part: &'static str, known: &mut Option<Vec<T>>, found: Result<Vec<T>, Why>) {
        match found {
            Ok(found) => known.get_or_insert_default().extend(found),
            Err(why) => {
                self.note(part, &why);
                *known = known.take().filter(|known| !known.is_empty());
            }
        }
    }

    fn note(&mut self, part: &'static str, why: &Why) {
        if self.0.iter().any(|unknown| unknown.part == part) {
            return;
        }
        let next = match (why.code.as_str(), part) {
            ("rejected", _) => "ask as a user of the role `status`: `embed init --print-permissions status`",
            ("no_bucket" | "no_stream", _) => "run `embed init`, which makes it",
            _ => "it is tried again with the next look; `embed doctor` tells more",
        };
        self.0.push(Unknown { part, reason: why.reason.clone(), next: next.to_owned() });
    }
}

macro_rules! why {
    ($($error:ty),*) => {
        $(impl From<$error> for Why {
            fn from(error: $error) -> Self {
                Self { code: error.code().to_owned(), reason: error.to_string() }
            }
        })*
    };
}

why!(embed_client::Error, Error, RouteError, RolloutError);

/// Bounds the time of one part.
async fn within<T, E: Into<Why>>(asked: impl Future<Output = Result<T, E>>) -> Result<T, Why> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(late()),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn late() -> Why {
    let reason = format!("no answer within {}", humantime::format_duration(PATIENCE));
    Why { code: "timeout".to_owned(), reason }
}

impl From<ApiError> for Why {
    fn from(error: ApiError) -> Self {
        let code = if matches!(error, ApiError::Refused { code: 0, .. }) { "rejected" } else { "nats" };
        Self { code: code.to_owned(), reason: format!("it cannot be found out which models there are: {error}") }
    }
}
