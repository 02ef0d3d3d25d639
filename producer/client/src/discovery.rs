//! Which models workers serve right now, as their micro service tells.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use async_nats::{HeaderMap, RequestErrorKind};
use bytes::Bytes;
use embed_connect::Refusals;
use embed_schemas::{
    JobId, Lane, Slug, WireError,
    control::{STATUS_SUBJECT, WorkerStatus},
    held::Held,
    serving::{self, VariantState, VariantStatus},
    subjects::{self, Target},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::Client;
use crate::{Error, nats};

/// How long the first answer may take: a busy worker, or one that is far away.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Nobody knows how many workers there are. When none has answered for so long, all have.
const SILENCE: Duration = Duration::from_millis(300);

/// All answers together: whoever answers again and again does not keep anybody waiting.
const ALL_ANSWERS: Duration = Duration::from_secs(5);
/// Workers that are counted, and bytes that are read of what they say: whoever answers in their place fills no memory.
const MOST_WORKERS: usize = 4096;
const MOST_BYTES: usize = 64 << 20;

/// A model that at least one worker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServedModel {
    /// The model.
    pub model: Slug,
    /// The variants that can be chosen.
    pub variants: Vec<Slug>,
}

/// A worker, as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its id.
    pub id: String,
    /// What it serves, by model and variant.
    pub variants: BTreeMap<(Slug, Slug), VariantStatus>,
}

/// A worker, and the jobs of one variant that it has taken and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The worker's id.
    pub worker: String,
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// Which jobs.
    pub held: Held,
}

/// What every answer begins with.
pub(super) trait Said {
    /// Name of the service and id of the worker.
    fn by(&self) -> (&str, &str);
}

/// The answer to `$SRV.STATS`, as far as it matters here.
#[derive(Deserialize)]
struct Stats {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    endpoints: Vec<EndpointStats>,
}

#[derive(Deserialize)]
struct EndpointStats {
    subject: String,
    #[serde(default)]
    data: Option<Held>,
}

/// The answer to `$SRV.INFO`, as far as it matters here.
#[derive(Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

impl Said for Stats {
    fn by(&self) -> (&str, &str) {
        (&self.name, &self.id)
    }
}

impl Said for Info {
    fn by(&self) -> (&str, &str) {
        (&self.name, &self.id)
    }
}

impl Said for WorkerStatus {
    fn by(&self) -> (&str, &str) {
        // Nobody else answers on that subject.
        (subjects::SERVICE_NAME, &self.worker)
    }
}

impl From<Info> for WorkerInfo {
    fn from(info: Info) -> Self {
        Self { variants: serving::statuses(&info.metadata), id: info.id }
    }
}

#[derive(Deserialize)]
struct Endpoint {
    subject: String,
}

impl Info {
    /// Whether the worker serves the variant, or will as soon as it has loaded it. Without a variant: any of the model.
    pub(super) fn serves(&self, model: &Slug, variant: Option<&Slug>) -> bool {
        let is = |of: &Slug, name: Option<&Slug>| of == model && (variant.is_none() || name == variant);
        let targets = self.endpoints.iter().filter_map(|endpoint| subjects::parse(&endpoint.subject));
        let loaded = targets.into_iter().any(|target| is(&target.model, target.variant.as_ref()));
        loaded || {
            let statuses = serving::statuses(&self.metadata);
            statuses.iter().any(|((of, name), status)| is(of, Some(name)) && status.state != VariantState::Failed)
        }
    }

    /// Why the worker does not serve the variant, or the model's default, although it is to.
    fn unavailable(&self, model: &Slug, variant: Option<&Slug>) -> Option<WireError> {
        serving::statuses(&self.metadata).into_iter().find_map(|((of, name), status)| {
            let is = of == *model && variant.map_or(status.default, |variant| *variant == name);
            let failed = status.failed.filter(|_| is && status.state == VariantState::Failed)?;
            Some(failed.unavailable(&of, &name))
        })
    }
}

/// Who answered a question to all workers.
pub(super) struct Answers<T> {
    pub(super) given: Vec<T>,
    /// Whether the server knows how many listen, or somebody answered: silence may mean that asking is not permitted.
    pub(super) known: bool,
    /// Whose answers there are.
    ids: HashSet<String>,
    /// Bytes of all that came.
    bytes: usize,
}

impl<T: Said + DeserializeOwned> Answers<T> {
    fn none() -> Self {
        Self { given: Vec::new(), known: false, ids: HashSet::new(), bytes: 0 }
    }

    /// Takes an answer, if it is one of a worker, and its first. `false`: that is as much as is listened to.
    fn take(&mut self, payload: &[u8]) -> bool {
        self.bytes = self.bytes.saturating_add(payload.len());
        if self.bytes > MOST_BYTES {
            return false;
        }
        if let Ok(answer) = serde_json::from_slice::<T>(payload)
            && self.is_new(&answer)
        {
            self.given.push(answer);
        }
        self.given.len() < MOST_WORKERS
    }

    fn is_new(&mut self, answer: &T) -> bool {
        let (name, id) = answer.by();
        // Ids are what job ids are made of, and are printed.
        let has_id = id.parse::<JobId>().is_ok();
        name == subjects::SERVICE_NAME && (id.is_empty() || has_id && self.ids.insert(id.to_owned()))
    }
}

impl Client {
    /// Asks all workers which models can be asked for. Takes 300 milliseconds, less if there is no worker, more if workers
    /// are slow to answer.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn served(&self) -> Result<Vec<ServedModel>, Error> {
        Ok(served_by(&self.infos().await?))
    }

    /// Asks all workers which versions of which variants they serve, in the order of their ids. Takes as long as
    /// [`Client::served`].
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, Error> {
        let mut workers: Vec<WorkerInfo> = self.infos().await?.into_iter().map(Into::into).collect();
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(workers)
    }

    /// Asks all workers how they stand, in the order of their ids: what they serve, and what they have to say beside that. Takes as long as
    /// [`Client::served`]. Those that are too old to be asked do not answer.
    ///
    /// # Errors
    /// [`Error::Rejected`] if this user may not ask; or if the connection is gone.
    pub async fn worker_statuses(&self) -> Result<Vec<WorkerStatus>, Error> {
        let refusals = Refusals::of(&self.nats);
        let answers = tokio::select! {
            answers = self.ask_on::<WorkerStatus>(STATUS_SUBJECT.to_owned(), |_| false) => answers?,
            refusal = refusals.concerning(&[STATUS_SUBJECT]) => {
                let what = "cannot ask workers how they stand".to_owned();
                return Err(Error::Rejected { what, reason: refusal.to_string() });
            }
        };
        let mut statuses: Vec<_> = answers.given.into_iter().map(WorkerStatus::clean).collect();
        statuses.sort_by(|a, b| a.worker.cmp(&b.worker));
        Ok(statuses)
    }

    /// Asks one worker, by its id, and waits no longer than for its answer. `None` if it is gone.
    ///
    /// # Errors
    /// [`Error::Nats`] if it does not answer; [`Error::BadAnswer`].
    pub async fn worker(&self, id: &str) -> Result<Option<WorkerInfo>, Error> {
        let subject = format!("$SRV.INFO.{}.{id}", subjects::SERVICE_NAME);
        match nats::request(&self.nats, subject, HeaderMap::new(), Bytes::new(), FIRST_ANSWER).await {
            Ok(answer) => {
                let bad =
                    |error: serde_json::Error| Error::BadAnswer { from: id.to_owned(), reason: error.to_string() };
                let info: Info = serde_json::from_slice(&answer.payload).map_err(bad)?;
                match info.id == id {
                    true => Ok(Some(info.into())),
                    false => Err(Error::BadAnswer { from: id.to_owned(), reason: "another worker answers".to_owned() }),
                }
            }
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
            Err(error) => Err(Error::nats(format!("cannot ask worker {id} what it serves"), error)),
        }
    }

    /// How the variants stand on all workers: by model and variant, one status for each worker that has it. Takes as long as
    /// [`Client::served`].
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn statuses(&self) -> Result<BTreeMap<(Slug, Slug), Vec<VariantStatus>>, Error> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for worker in self.workers().await? {
            for (variant, status) in worker.variants {
                all.entry(variant).or_default().push(status);
            }
        }
        Ok(all)
    }

    /// Asks all workers which jobs they hold. Takes as long as [`Client::served`]. Workers that are too old to say hold none here.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn holders(&self) -> Result<Vec<Holder>, Error> {
        let mut holders = Vec::new();
        for Stats { id, endpoints, .. } in self.ask_all("STATS", |_| false).await?.given {
            for EndpointStats { subject, data } in endpoints {
                if let (Some(Target { model, variant: Some(variant), .. }), Some(held)) =
                    (subjects::parse(&subject), data)
                {
                    holders.push(Holder { worker: id.clone(), model, variant, held });
                }
            }
        }
        Ok(holders)
    }

    async fn infos(&self) -> Result<Vec<Info>, Error> {
        Ok(self.ask_all("INFO", |_| false).await?.given)
    }

    /// Asks all workers, until one says what is enough.
    pub(super) async fn ask_all<T: Said + DeserializeOwned>(
        &self,
        verb: &str,
        enough: impl Fn(&T) -> bool,
    ) -> Result<Answers<T>, Error> {
        self.ask_on(format!("$SRV.{verb}.{}", subjects::SERVICE_NAME), enough).await
    }

    async fn ask_on<T: Said + DeserializeOwned>(
        &self,
        subject: String,
        enough: impl Fn(&T) -> bool,
    ) -> Result<Answers<T>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::nats("cannot ask the workers", error);
        let inbox = self.nats.new_inbox();
        let mut answers = self.nats.subscribe(inbox.clone()).await.map_err(|e| failed(&e))?;
        self.nats.publish_with_reply(subject, inbox, Bytes::new()).await.map_err(|e| failed(&e))?;
        let mut found = Answers::none();
        let (until, mut patience) = (Instant::now() + ALL_ANSWERS, FIRST_ANSWER);
        while let Ok(Some(answer)) = tokio::time::timeout_at(until.min(Instant::now() + patience), answers.next()).await
        {
            found.known = true;
            if answer.status.is_some() {
                break; // nobody listens
            }
            if !found.take(&answer.payload) {
                tracing::warn!(
                    workers = found.given.len(),
                    bytes = found.bytes,
                    "more answers to what workers serve than are listened to: others answer in their place"
                );
                break;
            }
            if found.given.last().is_some_and(&enough) {
                break;
            }
            patience = SILENCE;
        }
        Ok(found)
    }

    /// The error for a model that nobody serves: why those do not who should, or what is served instead.
    pub(super) async fn unknown_model(&self, model: &Slug, variant: Option<&Slug>) -> Error {
        let infos = self.infos().await.unwrap_or_default();
        match infos.iter().find_map(|info| info.unavailable(model, variant)) {
            Some(unavailable) => unavailable.into(),
            None => Error::UnknownModel { target: target(model, variant), served: names(served_by(&infos)) },
        }
    }
}

/// For messages: what was asked for.
pub(super) fn target(model: &Slug, variant: Option<&Slug>) -> String {
    match variant {
        Some(variant) => format!("variant {variant} of model {model}"),
        None => format!("model {model}"),
    }
}

/// For messages: what can be asked for, as `model` or `model.variant`.
pub(super) fn names(served: Vec<ServedModel>) -> Vec<String> {
    let names = |ServedModel { model, variants }: ServedModel| {
        std::iter::once(model.to_string()).chain(variants.into_iter().map(move |v| format!("{model}.{v}")))
    };
    served.into_iter().flat_map(names).collect()
}

pub(super) fn served_by(infos: &[Info]) -> Vec<ServedModel> {
    models_of(infos.iter().flat_map(|info| &info.endpoints).map(|endpoint| endpoint.subject.as_str()))
}

fn models_of<'a>(subjects: impl Iterator<Item = &'a str>) -> Vec<ServedModel> {
    let mut models: BTreeMap<Slug, Vec<Slug>> = BTreeMap::new();
    for target in subjects.filter_map(subjects::parse).filter(|target| target.lane == Lane::Rpc) {
        let variants = models.entry(target.model).or_default();
        variants.extend(target.variant);
    }
    models
        .into_iter()
        .map(|(model, mut variants)| {
            variants.sort();
            variants.dedup();
            ServedModel { model, variants }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(name: &str, id: &str) -> Vec<u8> {
        serde_json::json!({"name": name, "id": id}).to_string().into_bytes()
    }

    #[test]
    fn a_worker_answers_once_and_nobody_in_its_place() {
        let mut answers = Answers::<Info>::none();
        for (name, id) in
            [("embed-worker", "w1"), ("embed-worker", "w1"), ("other", "w2"), ("embed-worker", "\u{1b}[2J")]
        {
            assert!(answers.take(&says(name, id)));
        }
        assert!(answers.take(b"nonsense"));
        assert_eq!(answers.given.iter().map(|info| info.id.as_str()).collect::<Vec<_>>(), ["w1"]);
    }

    #[test]
    fn a_worker_says_why_it_does_not_serve_what_it_is_to() {
        let status = |state: &str, default: bool| {
            let failed = serde_json::json!({"version": "v2", "reason": "it is no ONNX file", "when": ""});
            let status = serde_json::json!({"state": state, "default": default, "wanted": "v2", "failed": failed});
            status.to_string()
        };
        let metadata = serde_json::json!({
            "variant.m.fp32": status("failed", true), "variant.m.int8": status("live", false),
        });
        let info: Info =
            serde_json::from_value(serde_json::json!({"name": "embed-worker", "id": "w", "metadata": metadata}))
                .unwrap();
        let [m, other, fp32, int8] = ["m", "other", "fp32", "int8"].map(|name| name.parse::<Slug>().unwrap());
        for variant in [None, Some(&fp32)] {
            let error = info.unavailable(&m, variant).unwrap();
            assert_eq!(error.code, embed_schemas::ErrorCode::ModelUnavailable);
            assert!(error.message.contains("v2: it is no ONNX file") && error.retryable, "{error}");
            assert!(!info.serves(&m, Some(&fp32)));
        }
        assert_eq!(info.unavailable(&m, Some(&int8)), None, "it is another version that has failed");
        assert_eq!(info.unavailable(&other, None), None);
    }

    #[test]
    fn a_flood_of_answers_fills_no_memory() {
        let mut answers = Answers::<Info>::none();
        let listened = (0..).take_while(|n| answers.take(&says("embed-worker", &format!("w{n}")))).count();
        assert_eq!((listened + 1, answers.given.len()), (MOST_WORKERS, MOST_WORKERS));
        let mut answers = Answers::<Info>::none();
        let large = vec![b' '; 1 << 20];
        assert_eq!((0..).take_while(|_| answers.take(&large)).count(), MOST_BYTES >> 20);
    }

    #[test]
    fn endpoints_of_many_workers_are_one_list() {
        let found = models_of(
            ["embed.rpc.m", "embed.rpc.m.int8", "embed.rpc.m.fp32", "embed.rpc.m.int8", "embed.rpc.a", "other.x"]
                .into_iter(),
        );
        let slugs = |names: &[&str]| names.iter().map(|n| n.parse().unwrap()).collect::<Vec<Slug>>();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].model.as_str(), "m");
        assert_eq!(found[1].variants, slugs(&["fp32", "int8"]));
    }
}
