//! Who may do what on a NATS server: the least that each role needs, and nothing else. Pure.
//!
//! Everything that the programs publish on and subscribe to is listed here once. `embed init --print-permissions` prints it, the files in
//! `deploy/nats` are made of it, and tests run every command with it.
//!
//! Permissions name models: a token of a subject cannot be a wildcard in part, so each model has lines of its own.

mod held;
pub mod jwt;
mod render;
mod role;

use embed_schemas::{Lane, Slug, control, routes::ROUTES_BUCKET, serving, shadow, streams, subjects};
use serde::Serialize;

pub use held::Held;
pub use render::{accounts, block, tenant};
pub use role::{Role, UnknownRole};

/// Where JetStream's API is, if nothing says otherwise.
const API: &str = "$JS.API";
/// What every inbox begins with. Those of users are below it, `_INBOX.<user>`, so that a worker may answer all of them.
pub const INBOXES: &str = "_INBOX";
/// Where answers to calls go that come from another account.
const REPLIES_OF_OTHER_ACCOUNTS: &str = "_R_.>";

/// What permissions are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The models.
    pub models: Vec<Slug>,
    /// Whose jobs they are that the user publishes and reads: of this tenant and no other, or of none.
    pub tenant: Option<Slug>,
    /// What the user's inboxes begin with (`--inbox-prefix`). Several, if one user is several programs'.
    pub inboxes: Vec<String>,
    /// Where JetStream's API is: `$JS.API`, if no domain or prefix says otherwise.
    pub api: String,
}

impl Scope {
    /// For these models, and a user whose inboxes begin with `_INBOX.<user>`.
    #[must_use]
    pub fn new(models: &[Slug], user: &str) -> Self {
        let inboxes = vec![format!("{INBOXES}.{user}")];
        Self { models: models.to_vec(), tenant: None, inboxes, api: API.to_owned() }
    }
}

/// A list of subjects, as servers and JWTs have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Allowed {
    /// What is allowed. Everything else is not.
    pub allow: Vec<String>,
}

/// What a user may publish on and subscribe to. It is written as servers' configurations have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Permissions {
    /// Subjects to publish on.
    pub publish: Allowed,
    /// Subjects to subscribe to; after a space, the queue group that alone may be used.
    pub subscribe: Allowed,
}

impl Permissions {
    /// Those of a user that has all of these roles.
    #[must_use]
    pub fn of(roles: &[Role], scope: &Scope) -> Self {
        let mut list = List { scope, publish: Vec::new(), subscribe: Vec::new() };
        for role in roles {
            list.role(*role);
        }
        for inbox in &scope.inboxes {
            list.subscribe(format!("{inbox}.>"));
        }
        Self { publish: Allowed { allow: list.publish }, subscribe: Allowed { allow: list.subscribe } }
    }
}

/// Permissions that are being put together, each once.
struct List<'a> {
    scope: &'a Scope,
    publish: Vec<String>,
    subscribe: Vec<String>,
}

impl List<'_> {
    fn role(&mut self, role: Role) {
        match role {
            Role::Caller => self.caller(),
            Role::Producer => self.producer(&[Lane::Job]),
            Role::Backfill => {
                self.producer(&[Lane::Bulk]);
                self.remover();
                // Its entries hold the keys of everybody's: none of a tenant's business.
                if self.scope.tenant.is_none() {
                    self.change_bucket(streams::BACKFILLS_BUCKET);
                }
            }
            Role::Gateway => {
                self.caller();
                self.producer(&[Lane::Job, Lane::Bulk]);
                self.remover();
            }
            Role::Worker => self.worker(),
            Role::Metrics => self.metrics(),
            Role::Status => self.status(),
            Role::Jobs => self.jobs(),
            Role::Models => self.models(),
            Role::Routes => self.routes(),
            Role::RoutesSys => self.routes_sys(),
            Role::Rollouts => self.rollouts(),
            Role::Init => self.init(),
            Role::Operator => {
                for role in [
                    Role::Init,
                    Role::Models,
                    Role::Routes,
                    Role::Rollouts,
                    Role::Jobs,
                    Role::Metrics,
                    Role::Caller,
                    Role::Producer,
                    Role::Backfill,
                ] {
                    self.role(role);
                }
                // Ends a worker: nobody else's business.
                self.publish(control::drain("*"));
            }
        }
    }

    /// `embed ask`, and any client that calls.
    fn caller(&mut self) {
        self.discover("INFO");
        self.each(|list, model| {
            list.lane(Lane::Rpc, model);
            list.is_provisioned(model);
        });
    }

    /// `embed publish` or `embed backfill`: stores jobs in these lanes, and reads their results, each by its id. Results are removed by workers,
    /// for whoever has the key of their ids: a permission to purge would be one for everybody's.
    fn producer(&mut self, lanes: &[Lane]) {
        self.discover("INFO");
        self.each(|list, model| {
            lanes.iter().for_each(|lane| list.lane(*lane, model));
            list.is_provisioned(model);
            list.result_by_id(model);
        });
    }

    /// Has results removed, once it has them.
    fn remover(&mut self) {
        let tenant = self.scope.tenant.clone();
        self.each(|list, model| list.publish(subjects::remove(model, tenant.as_ref())));
    }

    fn worker(&mut self) {
        self.publish(format!("{INBOXES}.>"));
        self.publish(REPLIES_OF_OTHER_ACCOUNTS);
        // To itself: what comes back tells that nothing more comes from before.
        for inbox in self.scope.inboxes.clone() {
            if !inbox.starts_with(&format!("{INBOXES}.")) {
                self.publish(format!("{inbox}.>"));
            }
        }
        for verb in ["PING", "INFO", "STATS"] {
            self.subscribe(format!("$SRV.{verb}"));
            self.subscribe(format!("$SRV.{verb}.{}", subjects::SERVICE_NAME));
            self.subscribe(format!("$SRV.{verb}.{}.*", subjects::SERVICE_NAME));
        }
        for subject in [control::STATUS_SUBJECT, control::RELOAD_SUBJECT] {
            self.subscribe(subject);
            self.subscribe(format!("{subject}.*"));
        }
        self.subscribe(control::drain("*"));
        self.subscribe(serving::REFRESH_SUBJECT);
        self.subscribe(shadow::SHADOW_SUBJECT);
        self.watch_bucket(serving::MODELS_BUCKET);
        self.each(|list, model| {
            let (jobs, results) = (streams::jobs_stream(model), streams::results_stream(model));
            let group = subjects::RPC_QUEUE_GROUP;
            list.subscribe(format!("embed.rpc.{model} {group}"));
            list.subscribe(format!("embed.rpc.{model}.* {group}"));
            list.subscribe(format!("embed.shadow.{model}.* {group}"));
            list.subscribe(format!("embed.probe.*.{model}.*"));
            list.publish(format!("embed.probe.*.{model}.*"));
            list.publish(format!("embed.shadow.{model}.*"));
            for remove in [subjects::remove(model, None), format!("{}.*", subjects::remove(model, None))] {
                list.subscribe(format!("{remove} {group}"));
            }
            list.api(format!("STREAM.PURGE.{results}"));
            list.outcomes_of_all(model);
            list.publish(format!("embed.dead.{model}.*"));
            list.publish(format!("embed.attempts.{model}.*"));
            list.publish(format!("embed.stats.{model}.*"));
            list.publish(format!("embed.stats.{model}.*.shadow"));
            // In the form that servers have now, and the one with domain and account.
            list.publish(format!("$JS.ACK.{jobs}.>"));
            list.publish(format!("$JS.ACK.*.*.{jobs}.>"));
            list.api(format!("CONSUMER.INFO.{jobs}.*"));
            list.api(format!("CONSUMER.MSG.NEXT.{jobs}.*"));
            // How much waits, and since when.
            list.api(format!("CONSUMER.LIST.{jobs}"));
            list.api(format!("STREAM.INFO.{jobs}"));
            list.api(format!("DIRECT.GET.{jobs}"));
            list.api(format!("STREAM.INFO.{results}"));
            list.api(format!("STREAM.INFO.{}", streams::dead_stream(model)));
            // What the server delivers no more is buried by its sequence.
            let exhausted = streams::exhausted_stream(model);
            list.subscribe(format!("{} {group}", streams::exhausted_subject(&jobs, "*")));
            for stream in [&jobs, &exhausted] {
                list.api(format!("STREAM.MSG.GET.{stream}"));
                list.delete_from(stream);
            }
            list.api(format!("DIRECT.GET.{}.embed.attempts.{model}.*", streams::ATTEMPTS_STREAM));
        });
    }

    /// What collects figures of workers through NATS. Those of their HTTP endpoint need nothing here.
    fn metrics(&mut self) {
        // As `nats micro ls`, `info` and `stats` ask.
        for verb in ["PING", "INFO", "STATS"] {
            self.publish(format!("$SRV.{verb}"));
            self.discover(verb);
            self.publish(format!("$SRV.{verb}.{}.*", subjects::SERVICE_NAME));
        }
        self.publish(control::STATUS_SUBJECT);
        self.publish(control::status("*"));
        self.each(|list, model| list.subscribe(format!("embed.stats.{model}.*")));
    }

    /// `embed status`: looks at everything, and changes nothing.
    fn status(&mut self) {
        self.publish(control::STATUS_SUBJECT);
        self.api("STREAM.NAMES");
        for bucket in [serving::MODELS_BUCKET, ROUTES_BUCKET, streams::ROLLOUTS_BUCKET] {
            self.read_bucket(bucket);
        }
        self.read_stream(streams::STATS_STREAM);
        self.each(|list, model| {
            let (jobs, dead) = (streams::jobs_stream(model), streams::dead_stream(model));
            list.api(format!("CONSUMER.LIST.{jobs}"));
            for stream in [&jobs, &streams::results_stream(model), &dead] {
                list.api(format!("STREAM.INFO.{stream}"));
            }
            list.read_stream(&dead);
        });
    }

    /// `embed jobs`, `embed dead`.
    fn jobs(&mut self) {
        self.discover("INFO");
        self.discover("STATS");
        // Which models have dead letters.
        self.api("STREAM.NAMES");
        self.letters(streams::FORMER_DEAD_STREAM);
        self.each(|list, model| {
            let (jobs, results) = (streams::jobs_stream(model), streams::results_stream(model));
            list.letters(&streams::dead_stream(model));
            list.read_stream(&jobs);
            list.delete_from(&jobs);
            // What failed is out of the way when it is sent once more; what is cancelled has that outcome.
            list.delete_from(&results);
            list.outcomes_of_all(model);
            for lane in Lane::STORED {
                list.lane(lane, model);
                list.publish(format!("embed.{lane}.{model}.*.*"));
            }
            list.is_provisioned(model);
        });
    }

    /// `embed models`.
    fn models(&mut self) {
        self.discover("INFO");
        self.publish(serving::REFRESH_SUBJECT);
        for subject in [control::STATUS_SUBJECT, control::RELOAD_SUBJECT] {
            self.publish(subject);
            self.publish(format!("{subject}.*"));
        }
        self.change_bucket(serving::MODELS_BUCKET);
        // What a route still sends traffic to is not unserved.
        self.read_bucket(ROUTES_BUCKET);
        self.each(|list, model| {
            let jobs = streams::jobs_stream(model);
            list.api(format!("CONSUMER.LIST.{jobs}"));
            list.api(format!("CONSUMER.INFO.{jobs}.*"));
            list.api(format!("CONSUMER.CREATE.{jobs}.*"));
        });
    }

    /// `embed route`, in the account of the streams.
    fn routes(&mut self) {
        self.discover("INFO");
        self.publish("$SYS.REQ.USER.INFO");
        self.change_bucket(ROUTES_BUCKET);
        self.each(|list, model| list.api(format!("CONSUMER.INFO.{}.*", streams::jobs_stream(model))));
    }

    /// `embed route` and `embed rollout`, in the system account.
    fn routes_sys(&mut self) {
        self.publish("$SYS.REQ.SERVER.PING");
        for what in ["ACCOUNTZ", "CONNZ", "JSZ", "RELOAD"] {
            self.publish(format!("$SYS.REQ.SERVER.*.{what}"));
        }
        // Where accounts are JWTs. What is not signed by the operator is refused.
        self.publish("$SYS.REQ.SERVER.PING.VARZ");
        self.publish("$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP");
        self.publish("$SYS.REQ.CLAIMS.UPDATE");
    }

    /// `embed rollout`. Its `finish` is also what [`Role::Models`] may do.
    fn rollouts(&mut self) {
        self.routes();
        self.change_bucket(streams::ROLLOUTS_BUCKET);
        self.api(format!("STREAM.PURGE.{}", streams::bucket_stream(streams::ROLLOUTS_BUCKET)));
        self.publish(shadow::SHADOW_SUBJECT);
        self.api(format!("STREAM.INFO.{}", streams::STATS_STREAM));
        self.api(format!("STREAM.MSG.GET.{}", streams::STATS_STREAM));
        self.read_stream(streams::STATS_STREAM);
        self.read_bucket(serving::MODELS_BUCKET);
        self.publish(format!("$SRV.INFO.{}.*", subjects::SERVICE_NAME));
        // Probes are calls by name.
        self.each(|list, model| list.publish(format!("embed.rpc.{model}.*")));
    }

    /// `embed init`.
    fn init(&mut self) {
        let buckets = [serving::MODELS_BUCKET, ROUTES_BUCKET, streams::ROLLOUTS_BUCKET, streams::BACKFILLS_BUCKET];
        let buckets = buckets.map(streams::bucket_stream);
        let shared = [streams::FORMER_DEAD_STREAM, streams::ATTEMPTS_STREAM, streams::STATS_STREAM].map(str::to_owned);
        for stream in buckets.into_iter().chain(shared) {
            self.define(&stream);
        }
        self.read_bucket(serving::MODELS_BUCKET);
        self.api("STREAM.NAMES");
        self.each(|list, model| {
            let jobs = streams::jobs_stream(model);
            list.define(&jobs);
            list.define(&streams::results_stream(model));
            list.define(&streams::dead_stream(model));
            list.define(&streams::exhausted_stream(model));
            list.api(format!("CONSUMER.LIST.{jobs}"));
            list.api(format!("CONSUMER.INFO.{jobs}.*"));
            list.api(format!("CONSUMER.CREATE.{jobs}.*"));
        });
    }

    fn each(&mut self, add: impl Fn(&mut Self, &Slug)) {
        for model in &self.scope.models.clone() {
            add(self, model);
        }
    }

    /// A question to all workers.
    fn discover(&mut self, verb: &str) {
        self.publish(format!("$SRV.{verb}.{}", subjects::SERVICE_NAME));
    }

    /// Calls or jobs: also where a route leads them, since permissions are checked there.
    fn lane(&mut self, lane: Lane, model: &Slug) {
        if let (Some(tenant), true) = (&self.scope.tenant, Lane::STORED.contains(&lane)) {
            return self.publish(format!("embed.{lane}.{model}.*.{tenant}"));
        }
        let bare = subjects::bare(lane, model);
        self.publish(format!("{bare}.*"));
        self.publish(bare);
    }

    /// Whether anybody is meant to take what is sent. The subjects of a stream of jobs are its variants' and tenants': how many
    /// jobs each has can be told, and nothing of what is in them.
    fn is_provisioned(&mut self, model: &Slug) {
        let jobs = streams::jobs_stream(model);
        self.api(format!("STREAM.INFO.{jobs}"));
        self.api(format!("CONSUMER.INFO.{jobs}.*"));
    }

    /// One outcome by its subject. Not several in one request, nor a list of what is there: both would tell of everybody's.
    fn result_by_id(&mut self, model: &Slug) {
        let results = subjects::results_for(model, self.scope.tenant.as_ref());
        self.api(format!("DIRECT.GET.{}.{results}", streams::results_stream(model)));
    }

    /// Outcomes of all tenants and of none: they are stored, and one is read by its subject.
    fn outcomes_of_all(&mut self, model: &Slug) {
        for ids in ["*", "*.*"] {
            self.publish(format!("embed.store.{model}.{ids}"));
            self.api(format!("DIRECT.GET.{}.embed.result.{model}.{ids}", streams::results_stream(model)));
        }
    }

    /// Whatever a stream holds.
    fn read_stream(&mut self, stream: &str) {
        self.api(format!("DIRECT.GET.{stream}"));
    }

    /// Dead letters: whether there are any, what they say, and that they go.
    fn letters(&mut self, stream: &str) {
        self.api(format!("STREAM.INFO.{stream}"));
        self.read_stream(stream);
        self.delete_from(stream);
    }

    fn delete_from(&mut self, stream: &str) {
        self.api(format!("STREAM.MSG.DELETE.{stream}"));
    }

    fn read_bucket(&mut self, bucket: &str) {
        let stream = streams::bucket_stream(bucket);
        self.api(format!("STREAM.INFO.{stream}"));
        self.api(format!("STREAM.MSG.GET.{stream}"));
    }

    fn change_bucket(&mut self, bucket: &str) {
        self.read_bucket(bucket);
        let entries = format!("$KV.{bucket}.>");
        match self.scope.api.as_str() {
            API => self.publish(entries),
            api => self.publish(format!("{api}.{entries}")),
        }
    }

    /// As the client's library does it: with a consumer that pushes.
    fn watch_bucket(&mut self, bucket: &str) {
        let stream = streams::bucket_stream(bucket);
        self.api(format!("STREAM.INFO.{stream}"));
        self.api(format!("CONSUMER.CREATE.{stream}"));
        self.api(format!("CONSUMER.CREATE.{stream}.>"));
        self.api(format!("CONSUMER.DELETE.{stream}.*"));
        self.api(format!("CONSUMER.INFO.{stream}.*"));
        self.publish(format!("$JS.FC.{stream}.>"));
        self.publish(format!("$JS.FC.*.*.{stream}.>"));
    }

    /// Makes a stream, or changes it.
    fn define(&mut self, stream: &str) {
        for action in ["INFO", "CREATE", "UPDATE"] {
            self.api(format!("STREAM.{action}.{stream}"));
        }
    }

    fn api(&mut self, call: impl std::fmt::Display) {
        self.publish(format!("{}.{call}", self.scope.api));
    }

    fn publish(&mut self, subject: impl Into<String>) {
        once(&mut self.publish, subject.into());
    }

    fn subscribe(&mut self, subject: impl Into<String>) {
        once(&mut self.subscribe, subject.into());
    }
}

fn once(list: &mut Vec<String>, subject: String) {
    if !list.contains(&subject) {
        list.push(subject);
    }
}

#[cfg(test)]
mod tests;
