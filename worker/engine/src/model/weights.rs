//! What the weights of versions take while they are loaded. Pure.

use std::collections::BTreeMap;

use embed_schemas::{Artefact, model::GraphForm};

use super::{provider_chain::ProviderGraph, resolve::ResolvedModel};
use crate::{
    engine::cuda_graphs,
    settings::{DeviceConfig, EngineConfig, Provider},
};

/// Weights of one version, in bytes of its graphs' files, once for each copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weights {
    /// What variants with the same graph on the same provider share, by provider, SHA-256, precision, and on OpenVINO by the runs that it is compiled for.
    pub shared: BTreeMap<(Provider, String), u64>,
    /// What nobody shares.
    pub own: u64,
}

impl Weights {
    /// What a target of a variant's chain takes when it is loaded, on each of so many devices.
    #[must_use]
    pub fn of(model: &ResolvedModel, target: &ProviderGraph, devices: usize, config: &EngineConfig) -> Self {
        let (sessions, runners) = if target.provider.on_device() {
            let runners = config.device.runners(model.spec.instances);
            (devices * config.device.sessions(runners), devices * runners)
        } else {
            (1, 0)
        };
        let graphs = [Some(&target.graph), target.packed.as_ref()].into_iter().flatten();
        let graphs_bytes = graphs.clone().map(|graph| graph.file.bytes).sum::<u64>();
        // What is computed in another precision than the file is in has other weights.
        let compiled_for = match target.provider {
            Provider::Openvino => format!(" for {}", config.runners_on_cores(model.spec.instances)),
            _ => String::new(),
        };
        let key = |graph: &Artefact| format!("{} {}{compiled_for}", graph.file.sha256, graph.precision);
        let shared = graphs.map(|graph| ((target.provider, key(graph)), graph.file.bytes * sessions as u64));
        // Recordings belong to one runner.
        let records = target.graph.form != GraphForm::Kernels && cuda_graphs::option(target.provider, config).is_some();
        // Neither is shared what calls have in a stream of their own on each device.
        let on_device = config.device.call_runners.unwrap_or(DeviceConfig::CALL_RUNNERS);
        let has_urgent = target.provider == Provider::Cuda && config.device.urgent_calls == Some(true);
        let urgent = if has_urgent { devices * on_device } else { 0 };
        let recorded = if records { runners + urgent } else { 0 };
        let own = target.graph.file.bytes * recorded as u64 + graphs_bytes * urgent as u64;
        Self { shared: shared.collect(), own }
    }

    /// Bytes of all these together.
    pub fn total<'a>(all: impl IntoIterator<Item = &'a Self>) -> u64 {
        let (mut shared, mut own) = (BTreeMap::<_, u64>::new(), 0);
        for one in all {
            own += one.own;
            for (graph, bytes) in &one.shared {
                let most = shared.entry(graph).or_default();
                *most = bytes.max(most).to_owned();
            }
        }
        shared.values().sum::<u64>() + own
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::ModelMetadata;

    use super::*;
    use crate::{model::resolve::graphs, settings::ModelSpec};

    fn metadata(precision: &str, form: &str) -> ModelMetadata {
        let file = |name: &str| serde_json::json!({"file": name, "bytes": 10, "sha256": "0".repeat(64)});
        serde_json::from_value(serde_json::json!({
            "model_name": "m", "slug": "m", "model_id": "a/m", "version": "v1", "dimension": 4, "max_seq_length": 8,
            "pooling": "mean", "normalized": true, "space": "s", "tokenizer": file("t"), "golden": file("g"),
            "artefacts": [{"precision": precision, "form": form, "file": "x", "bytes": 10, "sha256": "0".repeat(64)}],
            "created_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn openvino_has_weights_for_each_number_of_runs() {
        let metadata = metadata("fp32", "plain");
        let of = |provider, instances: [usize; 2]| {
            let config = EngineConfig { providers: vec![provider].into(), ..EngineConfig::default() };
            let weights = instances.map(|instances| {
                let spec = ModelSpec { instances, ..ModelSpec::current("m") };
                let model = graphs("m".parse().unwrap(), metadata.clone(), &spec, &config).unwrap();
                Weights::of(&model, &model.chain[0], 0, &config)
            });
            Weights::total(&weights)
        };
        assert_eq!([of(Provider::Openvino, [1, 2]), of(Provider::Openvino, [2, 2])], [20, 10]);
        assert_eq!(of(Provider::Cpu, [1, 2]), 10, "ONNX Runtime's sessions have room for any number");
    }

    #[test]
    fn calls_have_weights_of_their_own_on_each_device() {
        let own = |urgent_calls: bool, runners: Option<usize>, recorded: bool| {
            let mut config = EngineConfig { providers: vec![Provider::Cuda].into(), ..EngineConfig::default() };
            (config.device.urgent_calls, config.device.call_runners) = (Some(urgent_calls), runners);
            if !recorded {
                config.device.cuda_graphs.rows.clear();
            }
            let model =
                graphs("m".parse().unwrap(), metadata("fp16", "contrib"), &ModelSpec::current("m"), &config).unwrap();
            Weights::of(&model, &model.chain[0], 2, &config).own
        };
        let one = Some(1);
        assert_eq!([own(false, one, false), own(true, one, false)], [0, 20]);
        assert_eq!([own(false, one, true), own(true, one, true)], [40, 80], "and each recording once more");
        assert_eq!([own(true, Some(2), false), own(true, None, false)], [40, 60], "as many as there may be");
    }

    fn weights(graphs: &[(&str, u64)], own: u64) -> Weights {
        let shared = graphs.iter().map(|(graph, bytes)| ((Provider::Cuda, (*graph).to_owned()), *bytes));
        Weights { shared: shared.collect(), own }
    }

    #[test]
    fn what_is_shared_counts_once() {
        let (one, another) = (weights(&[("a", 10), ("b", 5)], 3), weights(&[("a", 20), ("c", 1)], 4));
        assert_eq!(Weights::total([&one]), 18);
        assert_eq!(Weights::total([&one, &another]), 20 + 5 + 1 + 3 + 4);
        let elsewhere = Weights { shared: [((Provider::Cpu, "a".to_owned()), 10)].into(), own: 0 };
        assert_eq!(Weights::total([&one, &elsewhere]), 28, "another provider has its own");
    }
}
