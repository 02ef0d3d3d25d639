use std::sync::{
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use super::*;
use crate::{
    batch::{CostTable, Owner},
    settings::BatchConfig,
    shape::Unit,
};

/// The first id of each row, doubled. Fails on batches that hold id 13, and on 21 if the run is spread over several cores, panics on 99, has memory for four tokens if one is
/// 914 or 917, and is lost with 915 on its own and with 917 where there is memory. Fails every run while `broken`.
#[derive(Debug, Default)]
struct Fake {
    unit: usize,
    broken: Arc<AtomicBool>,
}

impl Engine for Fake {
    fn dimension(&self) -> usize {
        1
    }

    fn unit(&self) -> Unit {
        Unit(self.unit)
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let has = |id| input.ids.contains(&id);
        assert!(!has(99), "id 99");
        if self.broken.load(Ordering::SeqCst) {
            return Err(EngineError::Onnx("nothing runs".into()));
        }
        if has(21) && input.form == Form::Spread {
            return Err(EngineError::Onnx("only on one core".into()));
        }
        if has(13) {
            return Err(EngineError::Onnx("unlucky".into()));
        }
        if (has(914) || has(917)) && input.ids.len() > 4 {
            return Err(EngineError::OutOfMemory("no room".into()));
        }
        if (input.rows == 1 && has(915)) || has(917) {
            return Err(EngineError::DeviceLost("gone".into()));
        }
        Ok(input.ids.chunks(input.width).map(|row| row[0] as f32 * 2.0).collect())
    }
}

type Outcome = (u32, Result<f32, String>);

struct Text(Vec<u32>, mpsc::Sender<Outcome>);

impl Work for Text {
    fn ids(&self) -> &[u32] {
        &self.0
    }

    fn done(self, vectors: &Vectors, row: usize, _: &RunStats) {
        self.1.send((self.0[0], Ok(vectors[row]))).unwrap();
    }

    fn failed(self, error: &EngineError) {
        self.1.send((self.0[0], Err(error.to_string()))).unwrap();
    }

    fn expired(self) {
        self.1.send((self.0[0], Err("expired".into()))).unwrap();
    }
}

/// A queue, what its runners share, and what becomes of texts and runners.
struct Setup {
    context: RunnerContext<Text>,
    sender: mpsc::Sender<Outcome>,
    outcomes: mpsc::Receiver<Outcome>,
    deaths: mpsc::Receiver<String>,
}

impl Setup {
    /// For two engines, with batches of at most eight texts.
    fn new() -> Self {
        let config = BatchConfig { max_texts: 8, ..BatchConfig::default() };
        let (sender, outcomes) = mpsc::channel();
        let (died, deaths) = mpsc::channel();
        let context = RunnerContext {
            queue: Arc::new(BatchQueue::new(&config, CostTable::default(), &[Unit(0), Unit(1)])),
            limit: Arc::new(RunLimit::new(2)),
            nice: 0,
            canary: Arc::from([1]),
            on_death: OnDeath::new(move |reason| died.send(reason).unwrap()),
            device_loss: DeviceLoss::default(),
        };
        Self { context, sender, outcomes, deaths }
    }

    fn push(&self, ids: impl IntoIterator<Item = u32>) {
        assert!(self.try_push(ids), "refused");
    }

    fn try_push(&self, ids: impl IntoIterator<Item = u32>) -> bool {
        let entry = |id| Entry {
            lane: Lane::Bulk,
            length: 2,
            arrival: Instant::now(),
            deadline: None,
            owner: Owner { sender: 0, request: 0, newcomer: false },
            alone: None,
            compared: false,
            probe: false,
            payload: Text(vec![id, 0], self.sender.clone()),
        };
        self.context.queue.push(ids.into_iter().map(entry)).is_ok()
    }

    fn start<E: Engine + 'static>(&self, engines: Vec<E>) -> Runners {
        Runners::start(engines, &self.context, |_| ()).unwrap()
    }

    fn one(&self) -> Runners {
        self.start(vec![Fake::default()])
    }

    /// The next outcomes, by id.
    fn outcomes(&self, count: usize) -> Vec<Outcome> {
        let mut outcomes: Vec<_> = self.outcomes.iter().take(count).collect();
        outcomes.sort_by_key(|(id, _)| *id);
        outcomes
    }

    fn end(&self, runners: Runners) {
        self.context.queue.close();
        runners.join();
    }
}

fn is_lost((_, result): &Outcome) -> bool {
    result.as_ref().is_err_and(|error| error.contains("device is lost"))
}

#[test]
fn a_bad_text_does_not_fail_its_neighbours() {
    let setup = Setup::new();
    setup.push(10..20);
    let runners = setup.start(vec![Fake::default(), Fake { unit: 1, ..Fake::default() }]);
    for (id, result) in setup.outcomes(10) {
        match id {
            13 => assert!(result.unwrap_err().contains("unlucky")),
            id => assert_eq!(result, Ok(id as f32 * 2.0)),
        }
    }
    setup.end(runners);
}

#[test]
fn the_same_text_twice_is_computed_once() {
    let setup = Setup::new();
    setup.push([5, 6, 5, 5]);
    setup.context.queue.drain();
    let (runs, stats) = mpsc::channel();
    let observe = move |event: RunnerEvent<'_>| {
        if let RunnerEvent::Ran(stats) = event {
            runs.send(*stats).unwrap();
        }
    };
    let runners = Runners::start(vec![Fake::default()], &setup.context, observe).unwrap();
    let got: Vec<_> = setup.outcomes(4).into_iter().map(|(_, result)| result.unwrap()).collect();
    assert_eq!(got, [10.0, 10.0, 10.0, 12.0]);
    let stats = stats.recv().unwrap();
    assert_eq!((stats.texts, stats.rows, stats.tokens, stats.row_tokens), (4, 2, 8, 4));
    setup.end(runners);
}

#[test]
fn the_death_of_a_runner_is_reported() {
    let setup = Setup::new();
    let runners = setup.one();
    setup.push([99]);
    assert!(setup.deaths.recv().unwrap().contains("id 99"));
    runners.join();
}

#[test]
fn too_little_memory_halves_the_batch_and_is_remembered() {
    let setup = Setup::new();
    setup.push((918..925).chain([914]));
    setup.context.queue.drain();
    let (events, limits) = mpsc::channel();
    let observe = move |event: RunnerEvent<'_>| {
        if let RunnerEvent::OutOfMemory { most_tokens } = event {
            events.send(most_tokens).unwrap();
        }
    };
    let runners = Runners::start(vec![Fake::default()], &setup.context, observe).unwrap();
    let got = setup.outcomes(8);
    assert!(got.iter().all(|(id, result)| *result == Ok(*id as f32 * 2.0)), "{got:?}");
    setup.end(runners);
    let limits: Vec<usize> = limits.iter().collect();
    assert_eq!(limits, [8, 4], "16 tokens do not fit, nor do 8");
}

/// All end that are in the batch, in whatever part of it, and those that wait.
#[test]
fn a_device_lost_in_the_halves_of_a_batch_ends_every_text() {
    let setup = Setup::new();
    setup.push((917..925).chain(1..21));
    let runners = setup.one();
    let got = setup.outcomes(28);
    assert!(got.iter().all(is_lost), "{got:?}");
    assert!(setup.deaths.recv().unwrap().contains("gone"));
    runners.join();
    assert!(!setup.try_push([30]), "nothing is taken in any more");
    assert!(setup.context.queue.refuses().unwrap().contains("gone"));
}

#[test]
fn a_device_lost_among_the_single_texts_of_a_batch_ends_those_left() {
    let setup = Setup::new();
    setup.push([10, 13, 915, 20, 21, 22, 23, 24]);
    setup.push(25..40);
    let runners = setup.one();
    let mut got = setup.outcomes(23);
    let lost = got.split_off(2);
    assert_eq!(got[0], (10, Ok(20.0)), "that was before");
    assert!(got[1].1.as_ref().unwrap_err().contains("unlucky"), "{got:?}");
    assert!(lost.iter().all(is_lost), "{lost:?}");
    assert!(setup.deaths.recv().unwrap().contains("gone"));
    runners.join();
}

#[test]
fn a_lost_device_of_several_ends_what_waits_and_stops_all_runners() {
    let setup = Setup::new();
    setup.push([915]);
    let runners = setup.start(vec![Fake::default(), Fake { unit: 1, ..Fake::default() }]);
    assert!(is_lost(&setup.outcomes(1)[0]));
    assert!(setup.deaths.recv().unwrap().contains("gone"));
    // Not closed: they end because of the loss.
    runners.join();
}

#[test]
fn engines_that_fail_everything_are_told_from_a_bad_text_and_come_back_by_themselves() {
    let setup = Setup::new();
    let broken = Arc::new(AtomicBool::new(true));
    let fake = |unit| Fake { unit, broken: Arc::clone(&broken) };
    let (events, states) = mpsc::channel();
    let observe = move |event: RunnerEvent<'_>| {
        if let RunnerEvent::Broken(reason) = event {
            events.send(reason.map(str::to_owned)).unwrap();
        }
    };
    let runners = Runners::start(vec![fake(0), fake(1)], &setup.context, observe).unwrap();
    // Both runners have to find out before nothing is taken in; until then, texts end with the reason.
    let mut ended = 0;
    while setup.try_push([7]) {
        let (_, result) = &setup.outcomes(1)[0];
        assert!(result.as_ref().unwrap_err().contains("the engine fails every run"), "{result:?}");
        ended += 1;
    }
    assert!((2..10_000).contains(&ended), "{ended}");
    for state in states.iter().take(2) {
        assert!(state.unwrap().contains("nothing runs"));
    }
    assert!(setup.context.queue.refuses().unwrap().contains("nothing runs"));
    broken.store(false, Ordering::SeqCst);
    assert_eq!(states.iter().take(2).collect::<Vec<_>>(), [None, None], "both run again");
    assert_eq!(setup.context.queue.refuses(), None);
    setup.push([7]);
    assert_eq!(setup.outcomes(1), [(7, Ok(14.0))]);
    assert!(setup.deaths.try_recv().is_err(), "no thread ended");
    setup.end(runners);
}

#[test]
fn a_runner_that_waits_to_be_mended_ends_with_its_queue() {
    let setup = Setup::new();
    let runners = setup.start(vec![Fake { broken: Arc::new(AtomicBool::new(true)), ..Fake::default() }]);
    setup.push([7]);
    assert!(setup.outcomes(1)[0].1.is_err());
    setup.end(runners);
}

/// A fake that settles when it is told to.
#[derive(Debug)]
struct Slow(Fake, mpsc::Receiver<()>);

impl Engine for Slow {
    fn dimension(&self) -> usize {
        self.0.dimension()
    }

    fn unit(&self) -> Unit {
        self.0.unit()
    }

    fn settle(&mut self) {
        self.1.recv().unwrap();
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        self.0.embed(input)
    }
}

#[tokio::test]
async fn runners_have_settled_when_the_last_of_them_has() {
    let setup = Setup::new();
    let (engines, go): (Vec<_>, Vec<_>) = (0..2)
        .map(|unit| (unit, mpsc::channel()))
        .map(|(unit, (go, wait))| (Slow(Fake { unit, ..Fake::default() }, wait), go))
        .unzip();
    let mut runners = setup.start(engines);
    let mut settled = Box::pin(runners.settled());
    for go in go {
        tokio::select! {
            biased;
            () = &mut settled => panic!("one has not settled yet"),
            () = std::future::ready(()) => go.send(()).unwrap(),
        }
    }
    settled.await;
    setup.end(runners);
}

#[test]
fn what_fails_on_several_cores_is_tried_on_one() {
    let setup = Setup::new();
    let (runs, seen) = mpsc::channel();
    let observe = move |event: RunnerEvent<'_>| {
        if let RunnerEvent::Ran(stats) = event {
            runs.send((stats.form, stats.busy == stats.took * 2)).unwrap();
        }
    };
    let queue = BatchQueue::new(&BatchConfig::default(), spread_costs(), &[Unit(0), Unit(1)]);
    let queue = Arc::new(queue.on_cores(crate::threads::CoreUse::default(), 2));
    let context = RunnerContext { queue: Arc::clone(&queue), ..setup.context.clone() };
    let runners = Runners::start(vec![Fake::default()], &context, observe).unwrap();
    for (id, expected) in [(20, (Form::Spread, true)), (21, (Form::Padded, false))] {
        let entry = Entry {
            lane: Lane::Rpc,
            length: 2,
            arrival: Instant::now(),
            deadline: None,
            owner: Owner { sender: 0, request: 0, newcomer: false },
            alone: None,
            compared: false,
            probe: false,
            payload: Text(vec![id, 0], setup.sender.clone()),
        };
        assert!(queue.push([entry]).is_ok(), "refused");
        assert_eq!(setup.outcomes(1), [(id, Ok(id as f32 * 2.0))]);
        assert_eq!(seen.recv().unwrap(), expected);
    }
    queue.close();
    runners.join();
}

/// A run on several cores takes half the time.
fn spread_costs() -> CostTable {
    let run = |form, took| Measured { shape: Shape::full(1, 2), form, took: Duration::from_millis(took) };
    CostTable::new(&[run(Form::Padded, 2), run(Form::Spread, 1)], crate::shape::Padding::default())
}

#[test]
fn calls_are_for_the_usual_runners_while_the_one_for_them_fails() {
    let mut setup = Setup::new();
    let queue = BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(0)]);
    setup.context.queue = Arc::new(queue.with_urgent(&[Unit(0)], Duration::ZERO));
    let broken = Arc::new(AtomicBool::new(true));
    let (hear, heard) = mpsc::channel();
    let mut runners = Runners::start(Vec::<Fake>::new(), &setup.context, |_| ()).unwrap();
    let observe = move |event: RunnerEvent<'_>| match event {
        RunnerEvent::Broken(reason) => hear.send(reason.is_some()).unwrap(),
        RunnerEvent::Ran(stats) => assert_eq!(stats.lane, Lane::Rpc, "it takes nothing else"),
        _ => {}
    };
    runners.start_urgent(Fake { broken: Arc::clone(&broken), unit: 0 }, &setup.context, observe).unwrap();
    let queue = Arc::clone(&setup.context.queue);
    let push = |lane, id| {
        let payload = Text(vec![id, 0], setup.sender.clone());
        let owner = Owner { sender: 0, request: 0, newcomer: false };
        let arrival = Instant::now();
        let (deadline, alone) = (None, None);
        let entry = Entry { lane, length: 2, arrival, deadline, owner, alone, compared: false, probe: false, payload };
        assert!(queue.push([entry]).is_ok());
    };
    let outcome = || setup.outcomes.recv_timeout(Duration::from_secs(60)).unwrap();
    push(Lane::Rpc, 1);
    assert!(outcome().1.unwrap_err().contains("nothing runs"));
    assert!(heard.recv().unwrap(), "it is told");
    let told = Instant::now();
    while queue.runs_calls_apart() > 0 {
        assert!(told.elapsed() < Duration::from_secs(60), "calls are still for it");
        std::thread::yield_now();
    }
    // A job is in an engine, where a call would not be taken if there were one for it alone.
    queue.drain();
    push(Lane::Job, 2);
    let job = queue.next(Unit(0), |_| ()).unwrap();
    push(Lane::Rpc, 3);
    runners.add("usual".into(), Fake::default(), Role::Usual, setup.context.clone(), |_| ()).unwrap();
    assert_eq!(outcome(), (3, Ok(6.0)));
    broken.store(false, Ordering::SeqCst);
    assert!(!heard.recv().unwrap(), "it runs again");
    assert_eq!(queue.runs_calls_apart(), 1);
    push(Lane::Rpc, 4);
    assert_eq!(outcome(), (4, Ok(8.0)));
    drop(job);
    queue.close();
    runners.join();
    assert!(setup.deaths.try_recv().is_err(), "no thread ended");
}
