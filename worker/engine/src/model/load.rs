//! From files to engines that are ready: verify, load, warm up, reproduce the golden vectors.

use std::time::Instant;

use embed_schemas::{ModelMetadata, Precision, model::GraphForm};

use super::{
    files::Files,
    golden::{GoldenError, Tolerance, verify_golden},
    loaded::{LoadContext, LoadError, LoadReport, LoadedModel},
    provider_chain::ProviderGraph,
    resolve::ResolvedModel,
    sessions::{Engines, Sessions},
    strict,
    weights::Weights,
};
use crate::{
    engine::{
        Engine, EngineError, capture_lock, library,
        onnx_file::{self, FileError},
    },
    settings::Provider,
    shape::{Form, Unit},
    tokenize::TextTokenizer,
};

/// Makes a version ready on one provider. Takes from a fraction of a second to minutes, on the calling thread.
///
/// # Errors
/// At the first step that fails; nothing is served then.
pub fn prepare(
    files: &Files,
    model: &ResolvedModel,
    target: &ProviderGraph,
    context: &LoadContext<'_>,
) -> Result<LoadedModel, LoadError> {
    let LoadContext { config, max_text_bytes, shared, .. } = *context;
    let started = Instant::now();
    let metadata = &model.metadata;
    let in_parts = target.graph.form != GraphForm::Kernels;
    if target.provider == Provider::Cuda
        && in_parts
        && matches!(target.graph.precision, Precision::Int8 | Precision::Fp8)
    {
        tracing::warn!(
            model = %model.model,
            variant = %model.variant,
            precision = %target.graph.precision,
            "the CUDA provider computes this precision no faster than FP16, and often slower; \
             use `precision = \"fp16\"` there, or TensorRT"
        );
    }
    // Until nothing of it is used that has failed, either.
    let _loading = target.provider.on_device().then(capture_lock::load);
    let environment = library::environment(config.library.as_deref()).map_err(EngineError::from)?;
    if metadata.max_seq_length as usize > config.max_seq_length {
        let (longest, most) = (metadata.max_seq_length as usize, config.max_seq_length);
        return Err(EngineError::from(FileError::TooLong { longest, most }).into());
    }
    let key = (metadata.tokenizer.sha256.clone(), metadata.max_seq_length, max_text_bytes);
    let tokenizer = shared.tokenizer(key, || files.tokenizer(metadata, max_text_bytes))?;
    // Before anything is made of it.
    let one_by_one = check_files(files, metadata, &tokenizer)? || target.graph.is_batch_dependent();
    if one_by_one {
        tracing::warn!(
            model = %model.model,
            variant = %model.variant,
            graph = %target.graph.file.file,
            "the graph is quantized dynamically, by what is in a run: so that a vector depends on its text alone, each text is run by itself"
        );
    }
    let sessions = Sessions { environment: &environment, files, model, target, context };
    let mut made = sessions.engines()?;
    if model.spec.strict.unwrap_or(config.strict) {
        strict::check(target.provider, made.assignment)?;
    }
    let tolerance = Tolerance::of(&target.graph, target.provider, config)?;
    verify(&mut made, target.provider, |form, engine| {
        verify_golden(&files.golden, metadata, tolerance, form, &tokenizer, engine)
    })?;
    let Engines { engines, urgent, urgent_refused, costs, devices, bounds, spread, spread_refused, assignment } = made;
    let report = LoadReport {
        provider: target.provider,
        weights: Weights::of(model, target, devices.len(), config),
        devices,
        artefact: target.graph.clone(),
        packed: target.packed.is_some(),
        nodes_elsewhere: assignment.map(|nodes| nodes.elsewhere),
        skipped: Vec::new(),
        measured: Vec::new(),
        bounds,
        one_by_one,
        spread,
        spread_refused,
        urgent: !urgent.is_empty(),
        urgent_refused,
        kernels_refused: None,
    };
    tracing::info!(
        model = %model.model,
        variant = %model.variant,
        version = %metadata.version,
        precision = %report.artefact.precision,
        provider = %report.provider,
        devices = ?report.devices,
        packed = report.packed,
        kernels = target.has_kernels(),
        nodes_elsewhere = report.nodes_elsewhere,
        runners = engines.len(),
        urgent = urgent.len(),
        lone_call_threads = report.spread,
        milliseconds = started.elapsed().as_millis() as u64,
        "model loaded, verified and warm"
    );
    Ok(LoadedModel { engines, urgent, tokenizer, costs, report })
}

/// Holds engines to the golden vectors, in each form in which they run. Where only what several cores compute is not as it should be, one core computes all;
/// where it is what engines for calls alone compute, there are none.
fn verify(
    made: &mut Engines,
    provider: Provider,
    golden: impl Fn(Form, &mut Box<dyn Engine>) -> Result<(), GoldenError>,
) -> Result<(), GoldenError> {
    let (mut verified, mut refused) = (None, None);
    for engine in &mut made.engines {
        // Each device computes for itself, and each graph.
        if verified.replace(engine.unit()) == Some(engine.unit()) || (!provider.on_device() && engine.unit() != Unit(0))
        {
            continue;
        }
        for form in engine.forms() {
            match golden(*form, engine) {
                Err(error) if *form == Form::Spread => refused = Some(error.to_string()),
                result => result?,
            }
        }
    }
    if let Some(reason) = refused {
        tracing::error!(
            reason,
            "what several cores compute of a call is not as it should be: no call has more than one"
        );
        made.engines.iter_mut().for_each(|engine| engine.drop_spread());
        made.costs.drop_spread();
        (made.spread, made.spread_refused) = (None, Some(reason));
    }
    let urgent = made.urgent.iter_mut().try_for_each(|engine| {
        let mut forms = engine.forms().iter();
        forms.try_for_each(|form| golden(*form, engine))
    });
    if let Err(error) = urgent {
        tracing::error!(%error, "what engines for calls alone compute is not as it should be: there are none");
        (made.urgent, made.urgent_refused) = (Vec::new(), Some(error.to_string()));
    }
    Ok(())
}

/// Looks whether graphs and tokenizer are what the metadata says, and belong to each other. Gives back whether a graph's vectors depend on the batch.
fn check_files(files: &Files, metadata: &ModelMetadata, tokenizer: &TextTokenizer) -> Result<bool, EngineError> {
    let mut batch_dependent = false;
    for graph in [Some(&files.graph), files.packed.as_ref()].into_iter().flatten() {
        let facts = onnx_file::check(&**graph, metadata)?;
        facts.check_vocabulary(tokenizer.largest_id())?;
        batch_dependent |= facts.batch_dependent;
    }
    Ok(batch_dependent)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        batch::{CostTable, Measured},
        engine::{Input, Vectors},
        shape::{Padding, Shape},
    };

    /// Has several cores until it is told otherwise.
    #[derive(Debug)]
    struct Fake(bool);

    impl Engine for Fake {
        fn dimension(&self) -> usize {
            1
        }

        fn unit(&self) -> Unit {
            Unit(0)
        }

        fn forms(&self) -> &'static [Form] {
            if self.0 { &[Form::Padded, Form::Spread] } else { &[Form::Padded] }
        }

        fn drop_spread(&mut self) {
            self.0 = false;
        }

        fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
            Ok(Arc::from(vec![0.0; input.rows]))
        }
    }

    #[test]
    fn what_several_cores_get_wrong_keeps_no_version_from_being_served() {
        let run =
            |form, took| Measured { shape: Shape::full(1, 16), form, took: std::time::Duration::from_millis(took) };
        let shape = Shape::full(1, 16);
        let made = || Engines {
            engines: (0..2).map(|_| Box::new(Fake(true)) as _).collect(),
            urgent: Vec::new(),
            urgent_refused: None,
            costs: CostTable::new(&[run(Form::Padded, 4), run(Form::Spread, 2)], Padding::default()),
            devices: Vec::new(),
            bounds: None,
            spread: Some(2),
            spread_refused: None,
            assignment: None,
        };
        let wrong_in = |wrong: Option<Form>| {
            let mut made = made();
            let result = verify(&mut made, Provider::Cpu, |form, _| match wrong == Some(form) {
                true => Err(GoldenError::Invalid("it is off".to_owned())),
                false => Ok(()),
            });
            (made, result)
        };
        let (right, result) = wrong_in(None);
        assert!(result.is_ok() && right.spread == Some(2) && right.costs.spread_ratio(&shape).is_some());
        let (off, result) = wrong_in(Some(Form::Spread));
        assert!(result.is_ok() && off.spread.is_none() && off.costs.spread_ratio(&shape).is_none(), "{result:?}");
        assert!(off.engines.iter().all(|engine| engine.forms() == [Form::Padded]));
        assert!(off.spread_refused.unwrap().contains("it is off"));
        assert!(wrong_in(Some(Form::Padded)).1.is_err(), "what one core gets wrong is not served");
    }

    #[test]
    fn without_engines_of_their_own_calls_are_served_by_all() {
        let mut made = Engines {
            engines: vec![Box::new(Fake(false))],
            urgent: vec![Box::new(Fake(true))],
            urgent_refused: None,
            costs: CostTable::default(),
            devices: vec![0],
            bounds: None,
            spread: None,
            spread_refused: None,
            assignment: None,
        };
        let provider = Provider::Cuda;
        assert!(verify(&mut made, provider, |_, _| Ok(())).is_ok() && made.urgent.len() == 1);
        // Only these have that form here.
        let result = verify(&mut made, provider, |form, _| match form {
            Form::Spread => Err(GoldenError::Invalid("it is off".to_owned())),
            _ => Ok(()),
        });
        assert!(result.is_ok() && made.urgent.is_empty() && made.engines.len() == 1, "{result:?}");
        assert!(made.urgent_refused.unwrap().contains("it is off"));
    }
}
