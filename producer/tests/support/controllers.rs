//! Controllers of rollouts as processes have them, with short steps, and clocks that are set.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::{
    rollout::{Controller, Progress, Rollouts, ServerTime, Settings, new_id},
    route::Router,
};
use embed_rollout::{
    Config, Rollout,
    state::{Phase, Start},
};
use embed_schemas::Lane;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    PATIENCE,
    fleet::now_ms,
    routed::{self, Node},
    slug, until,
};

/// Short holds; what is slow here is slow by a factor, and what errs errs much.
const DECISIONS: &str = r#"
[plan]
steps = [50, 100]
hold = "2s"
window = "200ms"
looks = 2
settle = "200ms"

[fast]
restart = "2s"

[guarded]
metrics = ["p50", "errors"]
errors = 0.2
min_requests = 10
min_tail = 1
min_block = 1
correlation = 0.0

[shadow]
share = 0
"#;

pub(crate) fn config() -> Config {
    toml::from_str(DECISIONS).unwrap()
}

pub(crate) fn start(config: Config) -> Start {
    Start {
        id: new_id(),
        model: slug("m"),
        from: slug("a"),
        to: slug("b"),
        lanes: vec![Lane::Rpc],
        config,
        who: "test".into(),
        note: None,
    }
}

/// What a controller has told.
pub(crate) type Told = Arc<Mutex<Vec<String>>>;

/// A controller with a thread and a connection of its own, as a process has them. It runs until the rollout is over, or this is dropped, as if it
/// were killed.
pub(crate) struct Running {
    end: Option<oneshot::Receiver<Rollout>>,
    kill: CancellationToken,
    pub(crate) told: Told,
    /// While it is set, the controller is asleep the next time it has something to tell.
    pub(crate) asleep: Arc<AtomicBool>,
}

impl Running {
    /// `ahead_ms`: how far its machine's clock is wrong.
    pub(crate) fn start(nodes: &[Node], name: &str, lease: Duration, ahead_ms: i64) -> Self {
        Self::over(nodes[0].connect(), nodes, name, lease, ahead_ms)
    }

    /// The same, over a connection that something may be done to.
    pub(crate) fn over(connect: ConnectSettings, nodes: &[Node], name: &str, lease: Duration, ahead_ms: i64) -> Self {
        let settings = Settings { lease, patience: Duration::from_secs(60) };
        let (routes, name) = (routed::settings(nodes), name.to_owned());
        let (told, asleep, kill) = (Told::default(), Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let (tell, sleeps, killed) = (told.clone(), asleep.clone(), kill.clone());
        let (ended, end) = oneshot::channel();
        std::thread::spawn(move || {
            let listen = |progress: &Progress<'_>| {
                let line = match progress {
                    Progress::Event(_, event) => event.sentence.clone(),
                    Progress::Waiting(_, text) | Progress::Trouble(text) => text.clone(),
                    Progress::Changed(_) => "changed".to_owned(),
                    Progress::Windows { .. } => "windows".to_owned(),
                    Progress::Shadow { .. } => "shadow".to_owned(),
                };
                tell.lock().unwrap().push(line);
                while sleeps.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            };
            let run = async {
                let client = Client::connect(&connect).await.unwrap();
                let router = Router::connect(&client, &connect, &routes).await.unwrap();
                let controller = Controller::new(&client, router, name, settings)
                    .by(ServerTime::by(move || now_ms().saturating_add_signed(ahead_ms)));
                controller.run(&slug("m"), std::future::pending(), listen).await.unwrap()
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            if let Some(rollout) = runtime.block_on(killed.run_until_cancelled(run)) {
                let _ = ended.send(rollout);
            }
        });
        Self { end: Some(end), kill, told, asleep }
    }

    pub(crate) fn told(&self, text: &str) -> bool {
        self.told.lock().unwrap().iter().any(|line| line.contains(text))
    }

    pub(crate) async fn end(mut self) -> Rollout {
        let end = self.end.take().unwrap();
        tokio::time::timeout(PATIENCE, end).await.unwrap_or_else(|_| panic!("no end: {:?}", self.told)).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.asleep.store(false, Ordering::SeqCst);
        self.kill.cancel();
    }
}

pub(crate) async fn holds(rollouts: &Rollouts, step: usize) -> Rollout {
    let mut found = None;
    until("a step with windows", async || {
        let rollout = rollouts.get(&slug("m")).await.unwrap();
        assert!(!matches!(rollout.phase, Phase::Paused { .. }), "{:?}", rollout.phase);
        let reached = matches!(&rollout.phase, Phase::Holding(stage) if stage.step >= step && stage.windows > 0);
        let reached = reached || rollout.outcome().is_some();
        found = Some(rollout);
        reached
    })
    .await;
    found.unwrap()
}

/// Every verdict comes out the same from what is on record.
pub(crate) async fn assert_replays(rollouts: &Rollouts) {
    let record = rollouts.record(&slug("m"), None).await.unwrap();
    let replayed = record.replay().unwrap();
    assert!(!replayed.is_empty() && replayed.iter().all(|verdict| verdict.same), "{replayed:?}");
}
