//! What there is beside the server: streams and consumers, workers, the registry.

use embed_client::{Client, Error, WorkerInfo};
use embed_control::{
    permissions::Role,
    provision::{self, Given, ModelVariants},
    registry::{self, RegisteredModel},
};
use embed_schemas::{
    Slug,
    serving::{VariantState, VariantStatus},
    streams::StreamSettings,
};

use super::{Line, Verdict};
use crate::cli::doctor::DoctorArgs;

/// How many of what differs are named.
const NAMED: usize = 4;
/// Limits stay as they are: how large a stream is to be is its operator's business.
const AS_THEY_ARE: Given = Given {
    replicas: false,
    jobs_max_bytes: false,
    results_max_bytes: false,
    results_max_age: false,
    dead_max_bytes: false,
    dead_max_age: false,
    ack_wait: false,
    others: false,
};

/// The models of a registry, and what is to be said of it.
pub(super) async fn registry(location: Option<&str>) -> (Vec<Line>, Vec<RegisteredModel>) {
    const CHECK: &str = "registry";
    let Some(location) = location else {
        return (
            vec![Line::not_checked(CHECK, "none is named", "name it with --registry, or EMBED_REGISTRY")],
            Vec::new(),
        );
    };
    let mut broken = Vec::new();
    let listed = registry::list(location, &[], |warning| broken.push(warning.to_owned())).await;
    let mut lines = Vec::new();
    let models = match listed {
        Ok(models) => {
            let names: Vec<String> =
                models.iter().map(|model| format!("{} {}", model.slug(), model.metadata.version)).collect();
            lines.push(Line::ok(CHECK, format!("{} models: {}", names.len(), names.join(", "))));
            models
        }
        Err(error) => {
            lines.push(Line::failed(CHECK, error.to_string(), "correct --registry, or what the message names"));
            Vec::new()
        }
    };
    let mend = "look with `embed-worker models verify`, publish it anew, or remove it";
    lines.extend(broken.into_iter().map(|warning| Line::warning(CHECK, warning, mend)));
    (lines, models)
}

/// Streams, buckets and consumers against what models and variants need.
pub(super) async fn streams(
    client: &Client,
    args: &DoctorArgs,
    registered: &[RegisteredModel],
    workers: &[WorkerInfo],
) -> Vec<Line> {
    const CHECK: &str = "streams";
    let variants = wanted(args, registered, workers);
    if variants.is_empty() {
        let next = "name the models with --registry or --model, or start a worker";
        return vec![Line::not_checked(CHECK, "it is not known which models there are to be", next)];
    }
    let differences =
        match provision::check_given(client.nats(), &variants, &StreamSettings::default(), AS_THEY_ARE).await {
            Ok(differences) => differences,
            Err(error) => {
                let what = format!("they cannot be compared: {error}");
                let next = "ask with a user that may, such as one in the role `init` or `operator`";
                return vec![Line::not_checked(CHECK, what, next)];
            }
        };
    let mut lines = Vec::new();
    if differences.is_empty() {
        let count: usize = variants.iter().map(|one| one.variants.len()).sum();
        let found = format!("as they should be for {} models with {count} variants", variants.len());
        lines.push(Line::ok(CHECK, found));
    } else {
        let named = differences.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let more = differences.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        // Whoever is to run it will find no more before.
        let verdict = if is_before_init(args) { Verdict::Warning } else { Verdict::Failed };
        let next = "run `embed init`, which makes and updates them";
        lines.push(Line::but(CHECK, verdict, format!("{named}{more}"), next));
    }
    for one in &variants {
        // One that is not there has been told of.
        if let Some(warning) = client.results_fill(&one.model).await.ok().and_then(|fill| fill.warning()) {
            lines.push(Line::warning(CHECK, warning, "make room as it says, or take results sooner"));
        }
    }
    lines
}

/// The variants that are to be served: those of workers, and else those of the registry, or of the models that are named.
fn wanted(args: &DoctorArgs, registered: &[RegisteredModel], workers: &[WorkerInfo]) -> Vec<ModelVariants> {
    let mut all: Vec<ModelVariants> = Vec::new();
    let mut add = |model: &Slug, variant: &Slug, default: bool| {
        if !args.model.is_empty() && !args.model.contains(model) {
            return;
        }
        let place = all.iter().position(|one| one.model == *model).unwrap_or_else(|| {
            all.push(ModelVariants { model: model.clone(), variants: Vec::new() });
            all.len() - 1
        });
        let variants = &mut all[place].variants;
        if !variants.contains(variant) {
            variants.insert(if default { 0 } else { variants.len() }, variant.clone());
        }
    };
    for worker in workers {
        worker.variants.iter().for_each(|((model, variant), status)| add(model, variant, status.default));
    }
    for model in registered {
        let is_served = workers.iter().any(|worker| worker.variants.keys().any(|(served, _)| served == model.slug()));
        if let (Some(variant), false) = (model.default_variant(), is_served) {
            add(model.slug(), &variant, true);
        }
    }
    all
}

/// Whether this is about `embed init` alone, which comes before streams and workers.
fn is_before_init(args: &DoctorArgs) -> bool {
    args.role == [Role::Init]
}

/// What workers say of themselves.
pub(super) fn workers(
    workers: Result<Vec<WorkerInfo>, Error>,
    may_ask: bool,
    models: &[Slug],
    args: &DoctorArgs,
) -> Vec<Line> {
    const CHECK: &str = "workers";
    let workers = match workers {
        Ok(workers) if may_ask => workers,
        Ok(_) => {
            let next = "ask with a user that may publish on $SRV.INFO.embed-worker";
            return vec![Line::not_checked(CHECK, "this user may not ask them", next)];
        }
        Err(error) => return vec![Line::failed(CHECK, error.to_string(), "look at the connection")],
    };
    if workers.is_empty() {
        let next = "start one: `embed-worker run`, or `embed dev` for a whole stack";
        let verdict = if is_before_init(args) { Verdict::Warning } else { Verdict::Failed };
        return vec![Line::but(CHECK, verdict, "no worker answers", next)];
    }
    let mut lines: Vec<Line> = workers.iter().map(worker).collect();
    for model in models {
        let serves = |worker: &WorkerInfo| worker.variants.keys().any(|(served, _)| served == model);
        if !workers.iter().any(serves) {
            let next =
                format!("name it in a worker's configuration, or have it served: `embed models serve {model} VARIANT`");
            lines.push(Line::failed(CHECK, format!("no worker serves {model}"), next));
        }
    }
    lines
}

fn worker(info: &WorkerInfo) -> Line {
    let described: Vec<String> = info.variants.iter().map(|(key, status)| describe(key, status)).collect();
    let found = format!("{}: {}", info.id, described.join("; "));
    let skips = |status: &VariantStatus| status.live.as_ref().is_some_and(|live| !live.skipped.is_empty());
    let verdict = match &info.variants {
        variants if variants.is_empty() => Verdict::Warning,
        variants if variants.values().any(|status| status.state == VariantState::Failed) => Verdict::Failed,
        variants if variants.values().any(|status| status.failed.is_some() || skips(status)) => Verdict::Warning,
        _ => return Line::ok("workers", found),
    };
    Line::but(
        "workers",
        verdict,
        found,
        "what it says of the reason is in its log and on its /readyz; `embed-worker check` tells more",
    )
}

/// What runs it, and what could not.
fn describe((model, variant): &(Slug, Slug), status: &VariantStatus) -> String {
    let mut text = format!("{model} {variant} {}", status.state.as_str());
    if let Some(live) = &status.live {
        text += &format!(" {} ({}, ONNX Runtime's {} provider", live.version, live.precision, live.provider);
        if !live.devices.is_empty() {
            let devices: Vec<String> = live.devices.iter().map(ToString::to_string).collect();
            text += &format!(" on GPU {}", devices.join(", "));
        }
        text.push(')');
        for skipped in &live.skipped {
            text += &format!(", {} cannot be used: {}", skipped.provider, skipped.reason);
        }
    }
    if let Some(failed) = &status.failed {
        text += &format!(", version {} failed: {}", failed.version, failed.reason);
    }
    text
}
