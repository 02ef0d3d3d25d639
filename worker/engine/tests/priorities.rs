//! Threads that compute have the priority of runs, whoever loads what they run, and providers are compared at it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use embed_engine::{
    batch::CostTable,
    engine::{CpuEngine, Engine, EngineError, Input, OnnxModel, Place, Vectors, library, providers::Options},
    model::{
        Activities, Activity, Backend, Files, LoadError, LoadReport, LoadedModel, Loader, ProviderGraph, ResolvedModel,
        Source, Weights, resolve,
    },
    settings::{EngineConfig, ModelSpec, Provider, Providers},
    shape::Unit,
    threads::{be_ordinary, give_way},
};

/// How far a thread has given way. `None` if it has ended.
fn nice(task: &Path) -> Option<i64> {
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()
}

fn own() -> i64 {
    nice(Path::new("/proc/thread-self")).unwrap()
}

/// Held by whatever has threads at the lowest priority.
static AT_THE_LOWEST: Mutex<()> = Mutex::new(());

/// The threads of this process that have given way as far as can be.
fn lowest() -> Vec<PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    tasks.filter(|task| nice(task) == Some(19)).collect()
}

#[test]
fn threads_that_help_with_runs_do_not_inherit_how_far_their_loader_gave_way() {
    let _alone = AT_THE_LOWEST.lock().unwrap_or_else(PoisonError::into_inner);
    be_ordinary();
    if own() == 19 {
        // All are, and nobody can give way any further.
        return;
    }
    let folder = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
    let metadata = serde_json::from_slice(&fs::read(folder.join("metadata.json")).unwrap()).unwrap();
    let graph = fs::read(folder.join("fp32.onnx")).unwrap();
    let config = EngineConfig { threads_per_runner: 3, ..EngineConfig::default() };
    let loaded = move || {
        // As the loader does while others are served.
        give_way(19);
        let (environment, place) = (library::environment(None).unwrap(), Place { provider: Provider::Cpu, device: 0 });
        let model = OnnxModel::load(&environment, &graph, &metadata, &config, place, &Options::new()).unwrap();
        let both = OnnxModel::load_spreading(&environment, &graph, &metadata, &config, 4).unwrap();
        assert_eq!(own(), 19);
        // Threads of before may still be ending; those of the models are there as long as these are.
        let until = Instant::now() + Duration::from_secs(10);
        while lowest().len() != 1 {
            assert!(Instant::now() < until, "somebody but the one that loads: {:?}", lowest());
            thread::sleep(Duration::from_millis(10));
        }
        // They are there, and do what they are for.
        let mut input = Input::default();
        input.fill([&[101, 2003, 102][..]].into_iter());
        for model in [model, both] {
            CpuEngine::new(model, 0).embed(&input).unwrap();
        }
    };
    thread::spawn(loaded).join().unwrap();
}

/// Notes at which priority it runs.
#[derive(Debug)]
struct Noting(Arc<Mutex<Vec<i64>>>);

impl Engine for Noting {
    fn dimension(&self) -> usize {
        384
    }

    fn unit(&self) -> Unit {
        Unit(0)
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        self.0.lock().unwrap().push(own());
        Ok(vec![0.0; input.rows * 384].into())
    }
}

#[derive(Debug, Default)]
struct Fakes(Arc<Mutex<Vec<i64>>>);

impl Backend for Fakes {
    fn probe(&self, _: Provider) -> Result<(), LoadError> {
        Ok(())
    }

    fn nice(&self) -> u8 {
        7
    }

    fn prepare(
        &self,
        files: &Files,
        model: &ResolvedModel,
        target: &ProviderGraph,
        _: &Activity,
    ) -> Result<LoadedModel, LoadError> {
        Ok(LoadedModel {
            engines: vec![Box::new(Noting(Arc::clone(&self.0)))],
            urgent: Vec::new(),
            tokenizer: Arc::new(files.tokenizer(&model.metadata, 1 << 20)?),
            costs: CostTable::default(),
            report: LoadReport {
                provider: target.provider,
                devices: Vec::new(),
                artefact: target.graph.clone(),
                packed: false,
                nodes_elsewhere: None,
                skipped: Vec::new(),
                measured: Vec::new(),
                weights: Weights { shared: BTreeMap::new(), own: 0 },
                bounds: None,
                one_by_one: false,
                spread: None,
                spread_refused: None,
                urgent: false,
                urgent_refused: None,
                kernels_refused: None,
            },
        })
    }
}

#[test]
fn providers_are_compared_at_the_priority_of_runs() {
    let _alone = AT_THE_LOWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fakes = Fakes::default();
    let noted = Arc::clone(&fakes.0);
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(embed_testkit::registry().to_str().unwrap(), folder.path().into(), 0).unwrap();
    let config = EngineConfig { providers: Providers::Auto, ..EngineConfig::default() };
    let loaded = runtime.block_on(async {
        let model = resolve(&source, &ModelSpec::current("all-MiniLM-L6-v2"), &config).await.unwrap();
        assert_eq!(model.chain.len(), 2);
        Loader::new(source, Arc::new(fakes), Activities::default()).load(&model, true).await.unwrap()
    });
    assert_eq!(loaded.report.measured.len(), 2);
    let (noted, own) = (noted.lock().unwrap(), own());
    assert!(!noted.is_empty() && noted.iter().all(|nice| *nice == 7 || own > 7), "{noted:?}");
}
