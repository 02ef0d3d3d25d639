//! Streams and consumers: what `embed init` makes and workers expect.
//!
//! The definitions serialize to the JSON of NATS's JetStream API, so that any client can apply them.

use serde::Serialize;

use crate::{Lane, Slug, routes::ROUTES_BUCKET, serving::MODELS_BUCKET, subjects};

/// The stream of a model's jobs and backfill chunks.
#[must_use]
pub fn jobs_stream(model: &Slug) -> String {
    format!("EMBED_{model}")
}

/// The stream of a model's outcomes.
#[must_use]
pub fn results_stream(model: &Slug) -> String {
    format!("{}{model}", results_stream_prefix())
}

/// What the names of streams of outcomes begin with; a model's slug follows.
#[must_use]
pub const fn results_stream_prefix() -> &'static str {
    "EMBED_RESULTS_"
}

/// What a model's stream of outcomes took before results were published on [`subjects::store`]. `embed init` updates such a stream.
#[must_use]
pub fn former_result_subject(model: &Slug) -> String {
    subjects::results(model)
}

/// The stream of a model's dead letters.
#[must_use]
pub fn dead_stream(model: &Slug) -> String {
    format!("{FORMER_DEAD_STREAM}_{model}")
}

/// The stream that held the dead letters of all models before each had one of its own. `embed init` takes the subjects of what it makes
/// streams for from it; what is in it is read until it is too old.
pub const FORMER_DEAD_STREAM: &str = "EMBED_DEAD";

/// A stream has to have a subject. On this one, which the former stream of dead letters keeps, nobody publishes anything.
const FORMER_DEAD_SUBJECT: &str = "embed.dead.former";

/// The stream in which workers write down attempts at jobs that were delivered more than once, of all models.
pub const ATTEMPTS_STREAM: &str = "EMBED_ATTEMPTS";

/// The stream of advisories about a model's jobs that the server does not deliver any more. Workers bury those jobs, by their sequence; an advisory
/// is gone when its job is.
#[must_use]
pub fn exhausted_stream(model: &Slug) -> String {
    format!("{EXHAUSTED_STREAMS}{model}")
}

/// What the names of [`exhausted_stream`]s begin with.
pub const EXHAUSTED_STREAMS: &str = "EMBED_EXHAUSTED_";

/// The subject on which the server says that a message of this stream has had all the deliveries that this consumer allows. `*`: any consumer.
#[must_use]
pub fn exhausted_subject(stream: &str, consumer: &str) -> String {
    format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}")
}

/// The stream that holds a key-value bucket.
#[must_use]
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The durable consumer of one variant and lane.
#[must_use]
pub fn consumer(variant: &Slug, lane: Lane) -> String {
    format!("{variant}-{lane}")
}

/// What an operator may choose about streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// Copies of each stream, 1, 3 or 5.
    pub replicas: usize,
    /// Bytes that the jobs of one model may take. A full stream refuses new jobs.
    pub jobs_max_bytes: i64,
    /// Messages that may wait on one subject, so that a stuck variant does not fill the queue of the others.
    pub jobs_max_per_subject: i64,
    /// Bytes that the results of one model may take. A full stream pushes back on the workers.
    pub results_max_bytes: i64,
    /// Seconds for which results are kept.
    pub results_max_age_s: u64,
    /// Bytes that the dead letters of one model may take. The oldest go to make room.
    pub dead_max_bytes: i64,
    /// Seconds for which dead letters are kept.
    pub dead_max_age_s: u64,
    /// Milliseconds after which a job that a worker has taken and not reported on is given to another. Workers report three times
    /// within it, so it says how long a dead worker holds up what it had.
    pub ack_wait_ms: u64,
    /// Jobs that all workers of one variant may hold unacknowledged, in each lane.
    pub max_ack_pending: i64,
    /// How often a job is delivered at most. Far more than attempts take, which workers count themselves: it ends what no worker can read, and what
    /// nobody acknowledges would otherwise keep from everybody else's jobs, of which no more than `max_ack_pending` are delivered.
    pub max_deliver: i64,
}

impl Default for StreamSettings {
    fn default() -> Self {
        const MIB: i64 = 1024 * 1024;
        Self {
            replicas: 1,
            jobs_max_bytes: 1024 * MIB,
            jobs_max_per_subject: 1_000_000,
            results_max_bytes: 2048 * MIB,
            results_max_age_s: 24 * 3600,
            dead_max_bytes: 256 * MIB,
            dead_max_age_s: 14 * 24 * 3600,
            ack_wait_ms: 6_000,
            max_ack_pending: 4096,
            max_deliver: 1_000,
        }
    }
}

/// A stream, as in `$JS.API.STREAM.CREATE`. Ages are in nanoseconds, as NATS has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamSpec {
    /// The stream's name.
    pub name: String,
    /// For people.
    pub description: String,
    /// The subjects that it stores.
    pub subjects: Vec<String>,
    /// `workqueue` or `limits`.
    pub retention: &'static str,
    /// `file`.
    pub storage: &'static str,
    /// `new`: a full stream refuses, it does not forget.
    pub discard: &'static str,
    /// Copies.
    pub num_replicas: usize,
    /// Bytes, in all.
    pub max_bytes: i64,
    /// Messages on one subject; -1 for no limit.
    pub max_msgs_per_subject: i64,
    /// Whether that limit refuses new messages, too.
    pub discard_new_per_subject: bool,
    /// Nanoseconds for which messages are kept; 0 for ever.
    pub max_age: u64,
    /// Nanoseconds for which message ids are remembered.
    pub duplicate_window: u64,
    /// Whether single messages can be read without a consumer.
    pub allow_direct: bool,
    /// Whether a message may replace all before it on its subject, as the purge of a key does.
    pub allow_rollup_hdrs: bool,
    /// Whether the server refuses to delete single messages.
    pub deny_delete: bool,
    /// -1: no limit.
    pub max_msgs: i64,
    /// -1: the server's limit.
    pub max_msg_size: i32,
    /// -1: no limit.
    pub max_consumers: i32,
    /// The subject under which a message is stored, if not the one that it was published on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_transform: Option<SubjectMapping>,
    /// Where a message is sent on to once it is stored. `src` is the subject under which it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub republish: Option<SubjectMapping>,
}

/// From subjects to others, as in NATS's subject mappings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubjectMapping {
    /// Which subjects, with wildcards.
    pub src: String,
    /// What becomes of them: `{{wildcard(1)}}` is what the first wildcard stands for.
    pub dest: String,
}

/// A durable pull consumer, as in `$JS.API.CONSUMER.CREATE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsumerSpec {
    /// The consumer's name.
    pub durable_name: String,
    /// For people.
    pub description: String,
    /// The subjects that it delivers.
    pub filter_subjects: Vec<String>,
    /// `all`.
    pub deliver_policy: &'static str,
    /// `explicit`.
    pub ack_policy: &'static str,
    /// `instant`.
    pub replay_policy: &'static str,
    /// Nanoseconds.
    pub ack_wait: u64,
    /// Deliveries of one message. Workers hear of one that has had them all, see [`exhausted_stream`], and write the dead letter: it stays in its
    /// stream, and would be seen by nobody.
    pub max_deliver: i64,
    /// Unacknowledged messages, over all workers.
    pub max_ack_pending: i64,
}

const SECOND: u64 = 1_000_000_000;

/// What is the same for all streams.
fn stream(name: String, description: String, subjects: Vec<String>, settings: &StreamSettings) -> StreamSpec {
    StreamSpec {
        name,
        description,
        subjects,
        retention: "limits",
        storage: "file",
        discard: "new",
        num_replicas: settings.replicas,
        max_bytes: -1,
        max_msgs_per_subject: -1,
        discard_new_per_subject: false,
        max_age: 0,
        duplicate_window: 120 * SECOND,
        allow_direct: true,
        allow_rollup_hdrs: false,
        deny_delete: false,
        max_msgs: -1,
        max_msg_size: -1,
        max_consumers: -1,
        subject_transform: None,
        republish: None,
    }
}

/// Key-value bucket of rollouts: under a model's slug the last one, under `<model>.<id>.…` what its verdicts rest on.
pub const ROLLOUTS_BUCKET: &str = "embed_rollouts";

/// Key-value bucket of backfills: under a backfill's id its state, who runs it, and what is wanted of it.
pub const BACKFILLS_BUCKET: &str = "embed_backfills";

/// The stream that keeps what workers publish of each window for a day, so that a rollout misses nothing while its controller is
/// away.
pub const STATS_STREAM: &str = "EMBED_STATS";

/// [`STATS_STREAM`].
#[must_use]
pub fn stats_stream(settings: &StreamSettings) -> StreamSpec {
    let description = "Windows of statistics, by model and variant".to_owned();
    StreamSpec {
        // What is old is worth nothing; a worker must never be pushed back for its statistics.
        discard: "old",
        max_age: 24 * 3_600 * SECOND,
        max_bytes: 512 << 20,
        ..stream(STATS_STREAM.to_owned(), description, vec!["embed.stats.>".to_owned()], settings)
    }
}

/// The buckets that all models share, as the streams that hold them.
#[must_use]
pub fn buckets(settings: &StreamSettings) -> Vec<StreamSpec> {
    vec![
        bucket(MODELS_BUCKET, "Variants that workers are to serve", 5, settings),
        bucket(ROUTES_BUCKET, "How traffic is split between the variants of a model, and who changed it", 64, settings),
        bucket(ROLLOUTS_BUCKET, "Rollouts: how far they have come, and what their verdicts rest on", 1, settings),
        bucket(
            BACKFILLS_BUCKET,
            "Backfills: how far they have come, who runs them, and what is wanted of them",
            1,
            settings,
        ),
    ]
}

/// A key-value bucket that remembers so many values of each key, as NATS's clients make it.
fn bucket(name: &str, description: &str, history: i64, settings: &StreamSettings) -> StreamSpec {
    StreamSpec {
        max_msgs_per_subject: history,
        allow_rollup_hdrs: true,
        deny_delete: true,
        ..stream(bucket_stream(name), description.to_owned(), vec![format!("$KV.{name}.>")], settings)
    }
}

/// The former stream of dead letters, as it is to be where it is there: it goes on to take those of the models that have no stream of
/// their own yet. As in `$JS.API.STREAM.UPDATE`, only what is to be changed.
#[must_use]
pub fn former_dead_stream(without_their_own: &[Slug]) -> FormerDeadSpec {
    let kept = without_their_own.iter().map(|model| format!("embed.dead.{model}.*"));
    FormerDeadSpec { subjects: kept.chain([FORMER_DEAD_SUBJECT.to_owned()]).collect(), discard: "old" }
}

/// What is changed of [`FORMER_DEAD_STREAM`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormerDeadSpec {
    /// The subjects that are left to it.
    pub subjects: Vec<String>,
    /// `old`: it is not to be full either.
    pub discard: &'static str,
}

/// The streams that serve one model. That of attempts is the same for all models.
#[must_use]
pub fn streams(model: &Slug, settings: &StreamSettings) -> [StreamSpec; 5] {
    let base = |name, description, subjects| stream(name, description, subjects, settings);
    // Who listens on a subject that a stream takes hears a message even if the stream refuses it. So results come in on another
    // subject, and are sent to their own by the stream.
    let (incoming, result) = (format!("embed.store.{model}.>"), format!("embed.result.{model}.>"));
    // With and without a variant, and with a tenant, whose results have one token more as well.
    let job_subjects = Lane::STORED
        .into_iter()
        .flat_map(|lane| {
            let bare = subjects::bare(lane, model);
            [format!("{bare}.*"), format!("{bare}.*.*"), bare]
        })
        .collect();
    [
        StreamSpec {
            retention: "workqueue",
            max_bytes: settings.jobs_max_bytes,
            max_msgs_per_subject: settings.jobs_max_per_subject,
            discard_new_per_subject: true,
            ..base(jobs_stream(model), format!("Jobs and backfill chunks for {model}"), job_subjects)
        },
        StreamSpec {
            max_bytes: settings.results_max_bytes,
            max_age: settings.results_max_age_s * SECOND,
            subject_transform: Some(SubjectMapping { src: incoming, dest: result.clone() }),
            republish: Some(SubjectMapping { src: result.clone(), dest: result }),
            ..base(
                results_stream(model),
                format!("Outcomes of jobs for {model}"),
                [format!("embed.store.{model}.*"), format!("embed.store.{model}.*.*")].into(),
            )
        },
        StreamSpec {
            // What cannot be served must not hold up what can: there is always room, and what is lost is the oldest.
            discard: "old",
            max_bytes: settings.dead_max_bytes,
            max_age: settings.dead_max_age_s * SECOND,
            ..base(
                dead_stream(model),
                format!("Jobs for {model} that could not be served, with the reason"),
                vec![format!("embed.dead.{model}.*")],
            )
        },
        StreamSpec {
            // What is old concerns nobody any more; a worker must never be pushed back for it.
            discard: "old",
            max_bytes: 64 << 20,
            max_age: 24 * 3_600 * SECOND,
            max_msgs_per_subject: 1,
            ..base(
                ATTEMPTS_STREAM.to_owned(),
                "Attempts at jobs that were delivered more than once".to_owned(),
                vec!["embed.attempts.*.*".to_owned()],
            )
        },
        StreamSpec {
            // The server does not wait for what it says.
            discard: "old",
            max_bytes: 16 << 20,
            max_age: 14 * 24 * 3_600 * SECOND,
            ..base(
                exhausted_stream(model),
                format!("Jobs for {model} that are delivered no more, until they are buried"),
                vec![exhausted_subject(&jobs_stream(model), "*")],
            )
        },
    ]
}

/// The consumers of one variant, one for each stored lane. The default variant takes the bare subjects too, so that
/// everything works on a server that has no subject mapping.
#[must_use]
pub fn consumers(model: &Slug, variant: &Slug, is_default: bool, settings: &StreamSettings) -> [ConsumerSpec; 2] {
    Lane::STORED.map(|lane| {
        let mut filter_subjects =
            vec![subjects::pinned(lane, model, variant), subjects::of_tenants(lane, model, Some(variant))];
        if is_default {
            filter_subjects.extend([subjects::bare(lane, model), subjects::of_tenants(lane, model, None)]);
        }
        ConsumerSpec {
            durable_name: consumer(variant, lane),
            description: format!("{lane} lane of {model}, variant {variant}"),
            filter_subjects,
            deliver_policy: "all",
            ack_policy: "explicit",
            replay_policy: "instant",
            ack_wait: settings.ack_wait_ms * 1_000_000,
            max_deliver: settings.max_deliver,
            max_ack_pending: settings.max_ack_pending,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stream_takes_online_calls() {
        let model: Slug = "m".parse().unwrap();
        for stream in streams(&model, &StreamSettings::default()) {
            assert!(stream.subjects.iter().all(|s| !s.starts_with("embed.rpc")), "{:?}", stream.subjects);
        }
    }

    /// What nobody has time for is gone, and texts of users are kept nowhere.
    #[test]
    fn no_stream_takes_what_is_shadowed() {
        let (model, settings): (Slug, _) = ("m".parse().unwrap(), StreamSettings::default());
        let all = streams(&model, &settings).into_iter().chain(buckets(&settings)).chain([stats_stream(&settings)]);
        let first = |subject: &str| subject.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
        for taken in all.flat_map(|stream| stream.subjects) {
            for sent in [subjects::shadow(&model, &model), crate::shadow::SHADOW_SUBJECT.to_owned()] {
                assert_ne!(first(&taken), first(&sent), "{taken}");
            }
        }
    }

    #[test]
    fn a_result_is_stored_under_the_subject_that_it_is_heard_on() {
        let (model, id) = ("m".parse().unwrap(), "x".parse().unwrap());
        let [_, results, ..] = streams(&model, &StreamSettings::default());
        let through = |mapping: &Option<SubjectMapping>, subject: String| {
            let SubjectMapping { src, dest } = mapping.as_ref().unwrap();
            let tokens = subject.strip_prefix(src.strip_suffix('>').unwrap()).unwrap();
            format!("{}{tokens}", dest.strip_suffix('>').unwrap())
        };
        for tenant in [None, Some(&model)] {
            let stored = through(&results.subject_transform, subjects::store_for(&model, tenant, &id));
            assert_eq!(stored, subjects::result_for(&model, tenant, &id));
            assert_eq!(through(&results.republish, stored.clone()), stored);
        }
    }

    #[test]
    fn each_model_has_dead_letters_of_its_own_and_the_former_stream_takes_none_of_them() {
        let models: [Slug; 3] = ["m", "former", "dead"].map(|name| name.parse().unwrap());
        let dead = models.each_ref().map(|model| streams(model, &StreamSettings::default())[2].clone());
        for (model, spec) in models.iter().zip(&dead) {
            assert_eq!((spec.name.clone(), spec.discard), (dead_stream(model), "old"));
            assert_eq!(spec.subjects, [format!("embed.dead.{model}.*")]);
        }
        let former = former_dead_stream(&models[..1]);
        assert_eq!(former.subjects, ["embed.dead.m.*", "embed.dead.former"]);
        assert!(dead[1..].iter().all(|spec| !former.subjects.contains(&spec.subjects[0])));
    }

    #[test]
    fn a_bucket_keeps_a_history_of_each_key() {
        let all = buckets(&StreamSettings { replicas: 3, ..StreamSettings::default() });
        let models = all.iter().find(|bucket| bucket.name == "KV_embed_models").unwrap();
        assert_eq!(models.subjects, ["$KV.embed_models.>"]);
        assert_eq!((models.max_msgs_per_subject, models.num_replicas), (5, 3));
    }

    #[test]
    fn only_the_default_variant_takes_bare_subjects() {
        let (model, variant): (Slug, Slug) = ("m".parse().unwrap(), "fp32".parse().unwrap());
        let settings = StreamSettings::default();
        let [job, bulk] = consumers(&model, &variant, true, &settings);
        assert_eq!(job.filter_subjects, ["embed.job.m.fp32", "embed.job.m.fp32.*", "embed.job.m", "embed.job.m._.*"]);
        assert_eq!(
            bulk.filter_subjects,
            ["embed.bulk.m.fp32", "embed.bulk.m.fp32.*", "embed.bulk.m", "embed.bulk.m._.*"]
        );
        let [job, _] = consumers(&model, &variant, false, &settings);
        assert_eq!(job.filter_subjects, ["embed.job.m.fp32", "embed.job.m.fp32.*"]);
    }
}
