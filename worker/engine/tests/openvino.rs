//! Engines on the real OpenVINO: what they compute, in every precision that needs no graph of its own, and in which company.

use std::{fs, sync::LazyLock, time::Instant};

use embed_engine::{
    engine::{
        CpuEngine, Engine, EngineError, Input, OnnxModel, OpenvinoEngine, OpenvinoModel, Place, computes_bf16, cosine,
        library, providers::Options,
    },
    settings::{EngineConfig, Provider},
};
use embed_schemas::{ModelMetadata, Precision};

/// The tests' model: its metadata and its graph.
static MODEL: LazyLock<(ModelMetadata, Vec<u8>)> = LazyLock::new(|| {
    let folder = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
    let metadata = serde_json::from_slice(&fs::read(folder.join("metadata.json")).unwrap()).unwrap();
    (metadata, fs::read(folder.join("fp32.onnx")).unwrap())
});

fn compile(precision: Precision, runs: usize) -> Result<OpenvinoModel, EngineError> {
    OpenvinoModel::compile(&MODEL.1, &MODEL.0, precision, &EngineConfig::default(), runs)
}

/// Texts of these lengths, no two alike.
fn texts(lengths: &[u32]) -> Vec<Vec<u32>> {
    let text = |(i, length): (usize, &u32)| (0..*length).map(|j| 1000 + i as u32 * 31 + j * 7).collect();
    lengths.iter().enumerate().map(text).collect()
}

fn run<'a>(engine: &mut impl Engine, texts: impl ExactSizeIterator<Item = &'a [u32]> + Clone) -> Vec<Vec<f32>> {
    let mut input = Input::default();
    input.fill(texts);
    engine.embed(&input).unwrap().chunks(engine.dimension()).map(<[f32]>::to_vec).collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn vectors_are_those_of_onnx_runtime_and_do_not_depend_on_batch_mates() {
    let texts = texts(&[5, 40, 3, 17, 9, 1, 33, 12, 25, 7, 64, 2, 100, 16, 15, 48]);
    let environment = library::environment(None).unwrap();
    let (config, place) = (EngineConfig::default(), Place { provider: Provider::Cpu, device: 0 });
    let reference = OnnxModel::load(&environment, &MODEL.1, &MODEL.0, &config, place, &Options::new()).unwrap();
    let reference = run(&mut CpuEngine::new(reference, 0), texts.iter().map(Vec::as_slice));
    // What the model recipes allow batch-mates to change, by precision.
    for (precision, mean, least, changed) in
        [(Precision::Fp32, 0.999_999, 0.999_999, 1e-5), (Precision::Bf16, 0.9999, 0.9995, 1e-3)]
    {
        if precision == Precision::Bf16 && !computes_bf16() {
            let said = compile(precision, 1).unwrap_err().to_string();
            assert!(said.contains("openvino: this processor does not compute in BF16"), "{said}");
            continue;
        }
        let model = compile(precision, 1).unwrap();
        let mut engine = OpenvinoEngine::new(&model, 0).unwrap();
        let alone: Vec<_> = texts.iter().flat_map(|text| run(&mut engine, [text.as_slice()].into_iter())).collect();
        let cosines: Vec<f32> = alone.iter().zip(&reference).map(|(a, b)| cosine(a, b)).collect();
        let found = cosines.iter().sum::<f32>() / cosines.len() as f32;
        assert!(found >= mean && cosines.iter().all(|cosine| *cosine >= least), "{precision}: {cosines:?}");
        // What was computed in FP32 under another name would be nearer.
        assert_eq!(precision == Precision::Fp32, found > 0.999_999, "{precision}: {found}");
        for together in [2, 3, 16] {
            let company = texts.chunks(together).flat_map(|texts| run(&mut engine, texts.iter().map(Vec::as_slice)));
            for (i, (found, expected)) in company.zip(&alone).enumerate() {
                let off = difference(&found, expected);
                assert!(off <= changed, "{precision}: text {i} among {together} is off by {off}");
            }
        }
    }
}

#[test]
fn runs_at_the_same_time_share_a_compiled_graph() {
    let model = compile(Precision::Fp32, 2).unwrap();
    let engines = (0..3).map(|core| OpenvinoEngine::new(&model, core).unwrap());
    let engines: Vec<_> = engines.collect();
    drop(model);
    let texts = texts(&[9, 30, 4]);
    let results: Vec<_> = std::thread::scope(|scope| {
        // All are started before the first is waited for.
        let started: Vec<_> = engines
            .into_iter()
            .map(|mut engine| {
                let texts = &texts;
                scope.spawn(move || {
                    let mut runs = (0..20).map(|_| run(&mut engine, texts.iter().map(Vec::as_slice)));
                    let first = runs.next().unwrap();
                    assert!(runs.all(|again| again == first));
                    first
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().all(|found| *found == results[0]));
}

#[test]
fn what_is_no_embedding_graph_is_refused() {
    let mut damaged = MODEL.1.clone();
    damaged.truncate(damaged.len() / 2);
    let load = |graph: &[u8], metadata: &ModelMetadata| {
        OpenvinoModel::compile(graph, metadata, Precision::Fp32, &EngineConfig::default(), 1)
    };
    assert!(matches!(load(&damaged, &MODEL.0), Err(EngineError::Refused(_))));
    let wrong = ModelMetadata { dimension: 385, ..MODEL.0.clone() };
    let mut engine = OpenvinoEngine::new(&load(&MODEL.1, &wrong).unwrap(), 0).unwrap();
    let mut input = Input::default();
    input.fill([&[101, 102][..]].into_iter());
    let error = engine.embed(&input).unwrap_err();
    assert!(matches!(error, EngineError::Output { found: 384, expected: 385 }), "{error}");
}

/// Resident memory of this process, in MiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// What a shape costs in its first run, and whether memory ends to grow with shapes. By hand, alone, since it takes minutes:
/// `cargo test --release --workspace --test all -- openvino::soak --ignored --nocapture`
#[expect(clippy::print_stdout, reason = "a measurement that is run by hand")]
#[test]
#[ignore = "a soak, to be run by hand"]
fn soak_of_first_runs() {
    let model = compile(Precision::Fp32, 1).unwrap();
    let mut engine = OpenvinoEngine::new(&model, 0).unwrap();
    let time = |engine: &mut OpenvinoEngine, (rows, width): (usize, u32)| {
        let texts = texts(&vec![width; rows]);
        let started = Instant::now();
        run(engine, texts.iter().map(Vec::as_slice));
        started.elapsed().as_secs_f64() * 1e3
    };
    // Widths by rows, in as few tokens as that can be done with.
    let shapes: Vec<(usize, u32)> = (1..=8).flat_map(|rows| (1..=128).map(move |width| (rows, width))).collect();
    time(&mut engine, (8, 128));
    println!("shapes  resident MiB  first runs ms (sum)  again ms (sum)");
    let mut seen = 0;
    for round in 0..2 {
        for some in shapes.chunks(128) {
            let [first, again] = [(); 2].map(|()| some.iter().map(|shape| time(&mut engine, *shape)).sum::<f64>());
            seen += if round == 0 { some.len() } else { 0 };
            println!("{seen:6}  {:12}  {first:19.0}  {again:14.0}", resident());
        }
    }
}
