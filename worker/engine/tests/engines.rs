//! What engines for devices do to batches before ONNX Runtime has them, seen on the CPU's provider: nothing in it needs a GPU.

use std::fs;

use embed_engine::{
    batch::{Padding, Unit},
    engine::{
        ByWidth, CpuEngine, DeviceEngine, Engine, EngineError, Input, OnnxModel, Place, cosine, library,
        providers::Options,
    },
    settings::{EngineConfig, Provider},
    shape::Form,
};
use embed_schemas::ModelMetadata;

fn load(change: impl FnOnce(&mut Vec<u8>, &mut ModelMetadata)) -> Result<OnnxModel, EngineError> {
    let (mut graph, mut metadata) = files();
    change(&mut graph, &mut metadata);
    let environment = library::environment(None).unwrap();
    let (config, place) = (EngineConfig::default(), Place { provider: Provider::Cpu, device: 0 });
    OnnxModel::load(&environment, &graph, &metadata, &config, place, &Options::new())
}

fn files() -> (Vec<u8>, ModelMetadata) {
    let folder = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
    let metadata = serde_json::from_slice(&fs::read(folder.join("metadata.json")).unwrap()).unwrap();
    (fs::read(folder.join("fp32.onnx")).unwrap(), metadata)
}

fn model() -> OnnxModel {
    load(|_, _| {}).unwrap()
}

/// Texts of these lengths, no two alike.
fn batch(lengths: &[u32]) -> Input {
    let text = |(i, length): (usize, &u32)| (0..*length).map(|j| 1000 + i as u32 * 31 + j * 7).collect::<Vec<u32>>();
    let texts: Vec<_> = lengths.iter().enumerate().map(text).collect();
    let mut input = Input::default();
    input.fill(texts.iter().map(Vec::as_slice));
    input
}

#[test]
fn padding_to_few_shapes_changes_no_vector() {
    let model = model();
    let mut plain = CpuEngine::new(model.clone(), 0);
    let config = EngineConfig::default().device;
    let by_width = |bounds: &[usize]| bounds.iter().map(|bound| (*bound, model.clone())).collect::<ByWidth>();
    for bounds in [&[usize::MAX][..], &[16, 64, 128]] {
        let padding = Padding::new(config.widths.clone(), config.rows.clone(), 256);
        let mut engine = DeviceEngine::new(by_width(bounds), None, padding, Unit(0), false);
        engine.settle();
        // Large and small in turn: what is left in the buffers of one must not reach another.
        for lengths in [&[5][..], &[40, 3, 17, 9, 1, 33, 12, 25, 7], &[2, 2], &[65; 3], &[1]] {
            let input = batch(lengths);
            let (expected, found) = (plain.embed(&input).unwrap(), engine.embed(&input).unwrap());
            assert_eq!(found.len(), lengths.len() * engine.dimension());
            for (a, b) in expected.chunks(engine.dimension()).zip(found.chunks(engine.dimension())) {
                assert!(cosine(a, b) > 0.99999, "{lengths:?} with graphs up to {bounds:?}");
            }
        }
    }
}

#[test]
fn several_cores_compute_the_same_vectors_as_one() {
    let (graph, metadata) = files();
    let (environment, config) = (library::environment(None).unwrap(), EngineConfig::default());
    let both = OnnxModel::load_spreading(&environment, &graph, &metadata, &config, 3).unwrap();
    let (mut engine, mut plain) = (CpuEngine::new(both, 0), CpuEngine::new(model(), 0));
    assert_eq!((engine.forms(), plain.forms()), (&[Form::Padded, Form::Spread][..], &[Form::Padded][..]));
    let mut vectors = |form, lengths: &[u32]| {
        let input = Input { form, ..batch(lengths) };
        let vectors = engine.embed(&input).unwrap();
        let expected = plain.embed(&input).unwrap();
        assert!(vectors.iter().zip(&*expected).all(|(a, b)| (a - b).abs() < 1e-6), "{form:?} {lengths:?}");
        vectors
    };
    // Neither with which session nor beside what a text is computed tells from its vector.
    for lengths in [&[1][..], &[11], &[64], &[250], &[2, 11, 64]] {
        let (one, several) = (vectors(Form::Padded, lengths), vectors(Form::Spread, lengths));
        let alone = vectors(Form::Spread, &lengths[..1]);
        assert!(one.iter().zip(&*several).all(|(a, b)| (a - b).abs() < 1e-6), "{lengths:?}");
        assert!(alone.iter().zip(&*several).all(|(a, b)| (a - b).abs() < 1e-5), "{lengths:?}");
    }
}

#[test]
fn graphs_that_lead_elsewhere_never_reach_the_library() {
    // A tensor in another file, in the last graph of the message: all of them are one.
    let external = [7 << 3 | 2, 6, 5 << 3 | 2, 4, 14 << 3, 1, 1 << 3, 1];
    let error = load(|graph, _| graph.extend(external)).unwrap_err();
    assert!(matches!(error, EngineError::Refused(_)) && error.to_string().contains("in another file"), "{error}");
    let error = load(|graph, _| graph.truncate(graph.len() / 2)).unwrap_err();
    assert!(matches!(error, EngineError::Refused(_)), "{error}");
    let error = load(|_, metadata| metadata.dimension = 385).unwrap_err();
    assert!(error.to_string().contains("384 components, but `dimension` in metadata.json is 385"), "{error}");
}
