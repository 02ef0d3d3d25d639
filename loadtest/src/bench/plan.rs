//! What a bench will do, and about how long each part takes.

use embed_engine::{
    engine::computes_bf16,
    model::{self, ResolvedModel, Source},
    settings::{CURRENT, EngineConfig, ModelSpec, Provider},
};
use embed_schemas::{ModelMetadata, Precision, Slug};

use super::{args::BenchArgs, mix::Order, mix_kind::Mix, subject::Subject};

/// About how long an engine takes for a token. Only the proportions matter, for the progress.
const MS_PER_TOKEN: f64 = 0.3;

/// One graph and what is measured with it.
#[derive(Debug)]
pub(super) struct Part {
    /// The graph.
    pub(super) selected: ResolvedModel,
    /// Cells of the matrix: texts, tokens of each.
    pub(super) shapes: Vec<(usize, usize)>,
    /// Texts of many lengths.
    pub(super) mixes: Vec<Mix>,
}

impl Part {
    /// What its figures are called.
    pub(super) fn subject(&self) -> Subject {
        Subject {
            model: self.selected.model.clone(),
            version: self.selected.metadata.version.clone(),
            precision: self.selected.artefact().precision,
            form: self.selected.artefact().form,
            provider: self.provider(),
        }
    }

    /// What runs it.
    pub(super) fn provider(&self) -> Provider {
        self.selected.chain[0].provider
    }

    /// The size of all of it.
    pub(super) fn size(&self, args: &BenchArgs, runners: usize) -> u64 {
        let shapes: u64 = self.shapes.iter().map(|shape| shape_size(*shape, args)).sum();
        let texts = args.mix_texts(self.provider().on_device());
        let round = |mix: &Mix| Order::ALL.map(|order| order_size(*mix, order, texts, runners)).iter().sum::<u64>();
        let rounds = warm_up(self.provider().on_device()) + args.mix_rounds;
        shapes + rounds as u64 * self.mixes.iter().map(round).sum::<u64>()
    }
}

/// Rounds of a mix that do not count: a device meets its memory and its kernels in the first.
pub(super) const fn warm_up(on_device: bool) -> usize {
    on_device as usize
}

/// Milliseconds of a cell, about.
pub(super) fn shape_size((batch, length): (usize, usize), args: &BenchArgs) -> u64 {
    let run = (batch * length) as f64 * MS_PER_TOKEN;
    (run + run.max(args.seconds_per_cell.as_secs_f64() * 1000.0)) as u64
}

/// Milliseconds of all texts of a mix in this order, about.
pub(super) fn order_size(mix: Mix, order: Order, texts: usize, runners: usize) -> u64 {
    let padding = match order {
        Order::Sorted | Order::Planner => 1,
        Order::Arrival => 4,
    };
    ((padding * texts * mix.about_tokens()) as f64 * MS_PER_TOKEN) as u64 / runners as u64
}

/// Finds the graphs that are asked for.
///
/// # Errors
/// If the registry lacks one of them.
pub(super) async fn parts(source: &Source, args: &BenchArgs, engine: &EngineConfig) -> anyhow::Result<Vec<Part>> {
    let models = match args.models.as_slice() {
        [] => source.models().await?,
        names => names.iter().map(|name| Slug::from_name(name)).collect::<Result<_, _>>()?,
    };
    anyhow::ensure!(
        !models.is_empty(),
        "the registry has no model: import one, for example with `embed-models import`"
    );
    let mut parts = Vec::new();
    for model in models {
        let metadata = source.metadata(&model, CURRENT).await?;
        let provider = engine.providers[0];
        for precision in precisions(&metadata, provider, &args.precisions)? {
            let shapes = shapes(args, provider.on_device(), metadata.max_seq_length as usize);
            let spec = ModelSpec { precision: Some(precision), ..ModelSpec::current(model.to_string()) };
            let selected = model::graphs(model.clone(), metadata.clone(), &spec, engine)?;
            parts.push(Part { selected, shapes, mixes: args.mixes() });
        }
    }
    Ok(parts)
}

/// The precisions that a provider has graphs for, as far as they are wanted.
fn precisions(metadata: &ModelMetadata, provider: Provider, wanted: &[Precision]) -> anyhow::Result<Vec<Precision>> {
    let runnable = model::artefacts_for(provider, &metadata.artefacts);
    let known: Vec<Precision> = runnable.into_iter().map(|artefact| artefact.precision).collect();
    if let Some(missing) = wanted.iter().find(|wanted| !known.contains(wanted)) {
        let names: Vec<String> = known.iter().map(ToString::to_string).collect();
        anyhow::bail!(
            "--precision {missing}: {} {} has {} for {provider}; name another, or other models with --model",
            metadata.slug,
            metadata.version,
            if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
        );
    }
    // What this processor does not compute in is measured only where that is to be said.
    let by_itself = |one: &Precision| wanted.is_empty() && (*one != Precision::Bf16 || computes_bf16());
    Ok(known.into_iter().filter(|one| by_itself(one) || wanted.contains(one)).collect())
}

fn shapes(args: &BenchArgs, on_device: bool, longest: usize) -> Vec<(usize, usize)> {
    let lengths: Vec<usize> = args.length.iter().copied().filter(|length| *length <= longest).collect();
    let batches = args.batch(on_device);
    batches.iter().flat_map(|batch| lengths.iter().map(|length| (*batch, *length))).collect()
}
