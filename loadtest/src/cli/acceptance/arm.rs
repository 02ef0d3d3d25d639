//! A variant that is measured, and what workers say that it runs on.

use anyhow::{Context, ensure};
use embed_client::{CallOptions, Client, WorkerInfo};
use embed_engine::settings::Provider;
use embed_schemas::{EmbedRequest, Precision, Slug, serving::LiveVersion};

use crate::cli::target::{Target, TargetArgs};

/// Texts whose vectors are compared in one repeat.
const COMPARED: usize = 64;

/// A variant, with the loads that it is put under.
pub(super) struct Arm {
    /// `canary, int8 on tensorrt`, say.
    pub(super) name: String,
    pub(super) variant: Slug,
    model: Slug,
    live: LiveVersion,
    /// One text in a call, or as many as the options say.
    pub(super) target: Target,
    /// Other numbers of texts in a call.
    pub(super) batches: Vec<(usize, Target)>,
}

impl Arm {
    /// Finds out what serves it.
    pub(super) fn find(
        workers: &[WorkerInfo],
        args: &TargetArgs,
        variant: Option<&Slug>,
        batches: &[usize],
    ) -> anyhow::Result<Self> {
        let model = args.slug()?;
        let (variant, live) = live(workers, &model, variant)?;
        let with = |texts_per_call| args.asking(&variant, texts_per_call);
        let batches = batches.iter().map(|texts| Ok((*texts, with(*texts).prepare(false, None)?)));
        Ok(Self {
            name: format!("{variant}, {} on {}", live.precision, live.provider),
            target: with(args.texts_per_call).prepare(true, None)?,
            batches: batches.collect::<anyhow::Result<_>>()?,
            variant,
            model,
            live,
        })
    }

    /// Why figures of it are none of FP32 on the CPU; `None` if they are.
    pub(super) fn is_no_fp32_on_cpu(&self) -> Option<String> {
        let on_cpu = self.live.provider == Provider::Cpu.to_string();
        (self.live.precision != Precision::Fp32 || !on_cpu)
            .then(|| format!("the baseline is {}, and not fp32 on the CPU", self.name))
    }

    /// What a report says of it.
    pub(super) fn describe(&self) -> String {
        let Self { name, live, .. } = self;
        let devices = if live.devices.is_empty() { String::new() } else { format!(", devices {:?}", live.devices) };
        format!("{name}{devices}, version {}", live.version)
    }

    /// The vectors of some of the texts, another part in each repeat.
    pub(super) async fn vectors(&self, client: &Client, repeat: usize) -> anyhow::Result<Vec<Vec<f32>>> {
        let texts = self.target.bulk.texts.iter().cycle().skip(repeat * COMPARED).take(COMPARED).cloned();
        let options = CallOptions::default().variant(self.variant.clone());
        let result = client.embed(&self.model, EmbedRequest::new(texts), &options).await?;
        let rows = (0..COMPARED).map(|row| result.vector(row));
        rows.collect::<Result<_, _>>().with_context(|| format!("variant {}: a text has no vector", self.variant))
    }
}

/// What serves a variant, or the default one: the same on all workers.
fn live(workers: &[WorkerInfo], model: &Slug, variant: Option<&Slug>) -> anyhow::Result<(Slug, LiveVersion)> {
    let statuses = workers.iter().flat_map(|worker| &worker.variants).filter(|((of, _), _)| of == model);
    let is_wanted = |name: &Slug, is_default: bool| variant.map_or(is_default, |variant| variant == name);
    let found: Vec<_> = statuses
        .filter(|((_, name), status)| is_wanted(name, status.default))
        .filter_map(|((_, name), status)| Some((name.clone(), status.live.clone()?)))
        .collect();
    let what =
        variant.map_or_else(|| format!("{model}, default variant"), |variant| format!("{model}, variant {variant}"));
    let (name, first) = found.first().with_context(|| format!("{what}: no worker has it loaded"))?;
    for (_, other) in &found {
        let same =
            (&other.precision, &other.provider, &other.version) == (&first.precision, &first.provider, &first.version);
        ensure!(
            same,
            "{what}: one worker serves {} {} on {}, and another {} {} on {}; give each a variant of its own",
            first.version,
            first.precision,
            first.provider,
            other.version,
            other.precision,
            other.provider
        );
    }
    Ok((name.clone(), first.clone()))
}
