//! Subjects: where everything is sent. See the table in ARCHITECTURE.md.

use crate::{JobId, Lane, Slug};

/// Queue group of all workers on the rpc subjects.
pub const RPC_QUEUE_GROUP: &str = "workers";
/// Name of the NATS micro service that every worker registers.
pub const SERVICE_NAME: &str = "embed-worker";
/// Stands for the variant in the subject of a tenant's job that leaves the choice to the route. No variant is called so.
pub const ANY_VARIANT: &str = "_";

/// `embed.<lane>.<model>`: what a producer sends to when it leaves the choice of the variant to the route.
#[must_use]
pub fn bare(lane: Lane, model: &Slug) -> String {
    format!("embed.{lane}.{model}")
}

/// `embed.<lane>.<model>.<variant>`: pinned to a variant.
#[must_use]
pub fn pinned(lane: Lane, model: &Slug, variant: &Slug) -> String {
    format!("embed.{lane}.{model}.{variant}")
}

/// The subject of a job. A tenant's has two tokens more, `embed.<lane>.<model>.<variant>.<tenant>`, with [`ANY_VARIANT`] where the route chooses
/// the variant: whoever may publish on `embed.job.<model>.*.<tenant>` alone publishes jobs of that tenant, and of no other.
#[must_use]
pub fn job(lane: Lane, model: &Slug, variant: Option<&Slug>, tenant: Option<&Slug>) -> String {
    match (variant, tenant) {
        (None, None) => bare(lane, model),
        (Some(variant), None) => pinned(lane, model, variant),
        (variant, Some(tenant)) => {
            let variant = variant.map_or(ANY_VARIANT, Slug::as_str);
            format!("embed.{lane}.{model}.{variant}.{tenant}")
        }
    }
}

/// `embed.<lane>.<model>.<variant>.*`: the jobs of all tenants; without a variant, those that leave the choice to the route.
#[must_use]
pub fn of_tenants(lane: Lane, model: &Slug, variant: Option<&Slug>) -> String {
    format!("embed.{lane}.{model}.{}.*", variant.map_or(ANY_VARIANT, Slug::as_str))
}

/// The subject on which the outcome of a job is published: [`store`], or `embed.store.<model>.<tenant>.<job id>`.
#[must_use]
pub fn store_for(model: &Slug, tenant: Option<&Slug>, id: &JobId) -> String {
    tenant.map_or_else(|| store(model, id), |tenant| format!("embed.store.{model}.{tenant}.{id}"))
}

/// The subject under which the outcome of a job is stored: [`result`], or `embed.result.<model>.<tenant>.<job id>`. An id is one job's within
/// its tenant.
#[must_use]
pub fn result_for(model: &Slug, tenant: Option<&Slug>, id: &JobId) -> String {
    tenant.map_or_else(|| result(model, id), |tenant| format!("embed.result.{model}.{tenant}.{id}"))
}

/// The outcomes of all jobs of a model that are of this tenant, or of none: [`results`], or `embed.result.<model>.<tenant>.*`.
#[must_use]
pub fn results_for(model: &Slug, tenant: Option<&Slug>) -> String {
    tenant.map_or_else(|| results(model), |tenant| format!("embed.result.{model}.{tenant}.*"))
}

/// `embed.remove.<model>[.<tenant>]`: asks a worker to remove results, see [`crate::removal`].
#[must_use]
pub fn remove(model: &Slug, tenant: Option<&Slug>) -> String {
    tenant.map_or_else(|| format!("embed.remove.{model}"), |tenant| format!("embed.remove.{model}.{tenant}"))
}

/// `embed.store.<model>.<job id>`: what a worker publishes an outcome on. The stream stores it as [`result`], and only then
/// sends it to those who listen there: nobody hears what was refused.
#[must_use]
pub fn store(model: &Slug, id: &JobId) -> String {
    format!("embed.store.{model}.{id}")
}

/// `embed.result.<model>.<job id>`: one stored outcome per job, as it is listened for and read from the stream. Publishing on
/// it stores nothing.
#[must_use]
pub fn result(model: &Slug, id: &JobId) -> String {
    format!("embed.result.{model}.{id}")
}

/// `embed.result.<model>.*`: the outcomes of all jobs of a model.
#[must_use]
pub fn results(model: &Slug) -> String {
    format!("embed.result.{model}.*")
}

/// `embed.attempts.<model>.<key>`: what is known of attempts at a message that was delivered more than once.
#[must_use]
pub fn attempts(model: &Slug, key: &str) -> String {
    format!("embed.attempts.{model}.{key}")
}

/// `embed.dead.<model>.<variant>`: jobs that cannot be served.
#[must_use]
pub fn dead(model: &Slug, variant: &Slug) -> String {
    format!("embed.dead.{model}.{variant}")
}

/// `embed.stats.<model>.<variant>`: a worker's statistics of a window, see [`crate::VariantStats`].
#[must_use]
pub fn stats(model: &Slug, variant: &Slug) -> String {
    format!("embed.stats.{model}.{variant}")
}

/// `embed.stats.<model>.<variant>.shadow`: what a worker of the candidate has found, see [`crate::shadow::ShadowStats`]. A subject of its
/// own, so that whoever reads the last window of a variant does not find this instead.
#[must_use]
pub fn shadow_stats(model: &Slug, variant: &Slug) -> String {
    format!("embed.stats.{model}.{variant}.shadow")
}

/// `embed.shadow.<model>.<variant>`: texts that another variant has served, for this one to be compared with, see
/// [`crate::shadow::ShadowTexts`]. No stream takes it: what nobody has time for is gone.
#[must_use]
pub fn shadow(model: &Slug, variant: &Slug) -> String {
    format!("embed.shadow.{model}.{variant}")
}

/// `embed.probe.<worker>.<model>.<variant>`: a worker's calls to itself. They take the way of an online call, through
/// the server and the engine, but no other worker can answer them.
#[must_use]
pub fn probe(worker: &str, model: &Slug, variant: &Slug) -> String {
    format!("embed.probe.{worker}.{model}.{variant}")
}

/// What the subject of a call or job says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The lane.
    pub lane: Lane,
    /// The model.
    pub model: Slug,
    /// The variant, if the subject is pinned to one.
    pub variant: Option<Slug>,
    /// Whose job it is, if the subject says so.
    pub tenant: Option<Slug>,
}

/// Reads a subject back. `None` if it is not the subject of a call or job.
#[must_use]
pub fn parse(subject: &str) -> Option<Target> {
    let mut tokens = subject.split('.');
    if tokens.next() != Some("embed") {
        return None;
    }
    let lane: Lane = tokens.next()?.parse().ok()?;
    let model = tokens.next()?.parse().ok()?;
    let (variant, tenant) = (tokens.next(), tokens.next());
    let slug = |token: Option<&str>| token.map(str::parse).transpose().ok();
    let tenant = slug(tenant)?;
    // Calls are answered to whoever made them: they have no tenant.
    if lane == Lane::Rpc && tenant.is_some() {
        return None;
    }
    let variant = slug(variant.filter(|variant| tenant.is_none() || *variant != ANY_VARIANT))?;
    tokens.next().is_none().then_some(Target { lane, model, variant, tenant })
}

/// Whether jobs or chunks of this model are published on this subject.
#[must_use]
pub fn is_job_of(subject: &str, model: &Slug) -> bool {
    parse(subject).is_some_and(|target| target.model == *model && Lane::STORED.contains(&target.lane))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_subjects_are_none_of_ours() {
        let others = [
            "embed.result.m.x",
            "embed.store.m.x",
            "embed.shadow.m.v",
            "embed.rpc.m.v.x",
            "embed.job.m.v.x.y",
            "embed.job.m.v._",
            "embed.job.m._",
            "embed.job.m.v.",
            "embed.job.M",
        ];
        for subject in ["", "embed", "embed.job", "embed.job."].into_iter().chain(others) {
            assert_eq!(parse(subject), None, "{subject}");
        }
    }

    #[test]
    fn a_job_is_of_its_model_and_no_call() {
        let model: Slug = "m".parse().unwrap();
        assert!(["embed.job.m", "embed.bulk.m.v", "embed.job.m._.t"].iter().all(|subject| is_job_of(subject, &model)));
        let others =
            ["embed.rpc.m", "embed.job.other", "embed.result.m.x", "$JS.API.STREAM.PURGE.X", "embed.job.m.v.t.x"];
        assert!(!others.iter().any(|subject| is_job_of(subject, &model)));
    }

    proptest! {
        #[test]
        fn a_subject_reads_back(
            lane in prop::sample::select(&Lane::ALL[..]),
            model in "[a-z0-9][a-z0-9-]{0,63}",
            variant in prop::option::of("[a-z0-9][a-z0-9-]{0,63}"),
            tenant in prop::option::of("[a-z0-9][a-z0-9-]{0,63}"),
        ) {
            let model: Slug = model.parse().unwrap();
            let variant: Option<Slug> = variant.map(|v| v.parse().unwrap());
            let tenant: Option<Slug> = tenant.filter(|_| lane != Lane::Rpc).map(|t| t.parse().unwrap());
            let subject = job(lane, &model, variant.as_ref(), tenant.as_ref());
            prop_assert_eq!(parse(&subject), Some(Target { lane, model, variant, tenant }));
        }

        #[test]
        fn no_text_panics(subject in "\\PC*") {
            let _ = parse(&subject);
        }
    }
}
