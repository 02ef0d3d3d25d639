//! A pipeline on engines that do as a test tells them.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, LazyLock, mpsc},
};

use embed_engine::{
    batch::CostTable,
    engine::Engine,
    model::{LoadReport, LoadedModel, Weights},
    pipeline::{Embedded, Observer, Pipeline, PipelineContext, Request},
    runner::RunLimit,
    settings::{BatchConfig, Provider},
    threads::OnDeath,
    tokenize::TextTokenizer,
};
use embed_schemas::ModelMetadata;

/// The tests' model: its metadata and its tokenizer.
static MODEL: LazyLock<(ModelMetadata, Arc<TextTokenizer>)> = LazyLock::new(|| {
    let version = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
    let metadata: ModelMetadata = serde_json::from_slice(&fs::read(version.join("metadata.json")).unwrap()).unwrap();
    let tokenizer = TextTokenizer::new(&fs::read(version.join("tokenizer.json")).unwrap(), &metadata, 1 << 20).unwrap();
    (metadata, Arc::new(tokenizer))
});

/// The token of a word that is one.
pub(crate) fn token(word: &str) -> i64 {
    let ids = MODEL.1.encode(None, word, false).unwrap().ids;
    assert_eq!(ids.len(), 3, "{word} is not one token between the two special ones");
    i64::from(ids[1])
}

/// A pipeline on these engines, and what its threads say before they die.
pub(crate) fn pipeline(
    engines: Vec<Box<dyn Engine>>,
    observer: Arc<dyn Observer>,
) -> (Pipeline, mpsc::Receiver<String>) {
    start(engines, observer, false)
}

/// The same, of a graph whose vectors depend on what is in a run.
pub(crate) fn batch_dependent(engines: Vec<Box<dyn Engine>>, observer: Arc<dyn Observer>) -> Pipeline {
    start(engines, observer, true).0
}

fn start(
    engines: Vec<Box<dyn Engine>>,
    observer: Arc<dyn Observer>,
    one_by_one: bool,
) -> (Pipeline, mpsc::Receiver<String>) {
    let (metadata, tokenizer) = MODEL.clone();
    let report = LoadReport {
        provider: Provider::Cpu,
        measured: Vec::new(),
        devices: Vec::new(),
        artefact: metadata.artefacts[0].clone(),
        packed: false,
        nodes_elsewhere: Some(0),
        skipped: Vec::new(),
        weights: Weights { shared: BTreeMap::new(), own: 0 },
        bounds: None,
        one_by_one,
        spread: None,
        spread_refused: None,
        urgent: false,
        urgent_refused: None,
        kernels_refused: None,
    };
    let limit = Arc::new(RunLimit::new(engines.len()));
    let loaded = LoadedModel { engines, urgent: Vec::new(), tokenizer, costs: CostTable::default(), report };
    let (died, deaths) = mpsc::channel();
    let context = PipelineContext {
        batch: &BatchConfig::default(),
        tokenizer_threads: 2,
        nice: 0,
        limit,
        observer,
        on_death: OnDeath::new(move |reason| died.send(reason).unwrap()),
    };
    (Pipeline::start(metadata, loaded, context).unwrap(), deaths)
}

/// Submits a request and waits for what becomes of it.
pub(crate) fn ask(pipeline: &Pipeline, request: Request) -> Embedded {
    let (done, embedded) = mpsc::channel();
    pipeline.submit(request, move |embedded| done.send(embedded).unwrap());
    embedded.recv().expect("the pipeline goes on")
}
