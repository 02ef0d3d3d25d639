use std::sync::mpsc;

use super::*;
use crate::{
    batch::{CostTable, Unit},
    settings::BatchConfig,
};

/// The first id of each row, doubled. Fails on batches that hold id 13, panics on 99, has memory for four tokens if one is
/// 914, and is lost with 915 on its own.
#[derive(Debug)]
struct Fake(usize);

impl Engine for Fake {
    fn dimension(&self) -> usize {
        1
    }

    fn unit(&self) -> Unit {
        Unit(self.0)
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        assert!(!input.ids.contains(&99), "id 99");
        if input.ids.contains(&13) {
            return Err(EngineError::Onnx("unlucky".into()));
        }
        if input.ids.contains(&914) && input.ids.len() > 4 {
            return Err(EngineError::OutOfMemory("no room".into()));
        }
        if input.rows == 1 && input.ids.contains(&915) {
            return Err(EngineError::DeviceLost("gone".into()));
        }
        Ok(input.ids.chunks(input.width).map(|row| row[0] as f32 * 2.0).collect())
    }
}

struct Text(Vec<u32>, mpsc::Sender<(u32, Result<f32, String>)>);

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

fn slots() -> Arc<RunLimit> {
    Arc::new(RunLimit::new(2))
}

fn queue() -> Arc<BatchQueue<Text>> {
    Arc::new(BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(1)]))
}

fn push(queue: &BatchQueue<Text>, id: u32, results: &mpsc::Sender<(u32, Result<f32, String>)>) {
    let payload = Text(vec![id, 0], results.clone());
    queue.push([Entry { lane: Lane::Bulk, length: 2, arrival: Instant::now(), deadline: None, payload }]);
}

#[test]
fn a_bad_text_does_not_fail_its_neighbours() {
    let (sender, results) = mpsc::channel();
    let queue = queue();
    for id in 10..20 {
        push(&queue, id, &sender);
    }
    let runners = Runners::start(vec![Fake(0), Fake(1)], &queue, &slots(), 0, |_| (), |_| ()).unwrap();
    let mut got: Vec<_> = results.iter().take(10).collect();
    got.sort_by_key(|(id, _)| *id);
    for (id, result) in got {
        match id {
            13 => assert!(result.unwrap_err().contains("unlucky")),
            id => assert_eq!(result, Ok(id as f32 * 2.0)),
        }
    }
    queue.close();
    runners.join();
}

#[test]
fn the_same_text_twice_is_computed_once() {
    let (sender, results) = mpsc::channel();
    let queue = queue();
    for id in [5, 6, 5, 5] {
        push(&queue, id, &sender);
    }
    queue.drain();
    let (runs, stats) = mpsc::channel();
    let runners = Runners::start(
        vec![Fake(0)],
        &queue,
        &slots(),
        0,
        move |event| {
            if let RunnerEvent::Ran(stats) = event {
                runs.send(*stats).unwrap();
            }
        },
        |_| (),
    )
    .unwrap();
    let mut got: Vec<_> = results.iter().take(4).map(|(_, result)| result.unwrap()).collect();
    got.sort_by(f32::total_cmp);
    assert_eq!(got, [10.0, 10.0, 10.0, 12.0]);
    let stats = stats.recv().unwrap();
    assert_eq!((stats.texts, stats.rows, stats.tokens), (4, 2, 4));
    queue.close();
    runners.join();
}

#[test]
fn the_death_of_a_runner_is_reported() {
    let (sender, _results) = mpsc::channel();
    let (panics, reported) = mpsc::channel();
    let queue = queue();
    let runners =
        Runners::start(vec![Fake(0)], &queue, &slots(), 0, |_| (), move |panic| panics.send(panic).unwrap()).unwrap();
    push(&queue, 99, &sender);
    assert!(reported.recv().unwrap().contains("id 99"));
    runners.join();
}

#[test]
fn too_little_memory_halves_the_batch_and_is_remembered() {
    let (sender, results) = mpsc::channel();
    let queue = queue();
    (914..922).for_each(|id| push(&queue, id, &sender));
    queue.drain();
    let (events, limits) = mpsc::channel();
    let observe = move |event: RunnerEvent<'_>| {
        if let RunnerEvent::OutOfMemory { most_tokens } = event {
            events.send(most_tokens).unwrap();
        }
    };
    let runners = Runners::start(vec![Fake(0)], &queue, &slots(), 0, observe, |_| ()).unwrap();
    let got: Vec<_> = results.iter().take(8).collect();
    assert!(got.iter().all(|(id, result)| *result == Ok(*id as f32 * 2.0)), "{got:?}");
    queue.close();
    runners.join();
    let limits: Vec<usize> = limits.iter().collect();
    assert_eq!(limits, [8, 4], "16 tokens do not fit, nor do 8");
}

#[test]
fn a_lost_device_fails_calls_keeps_stored_work_and_ends_its_runners() {
    let (sender, results) = mpsc::channel();
    let (deaths, reported) = mpsc::channel();
    let queue = queue();
    for id in 100..104 {
        push(&queue, id, &sender);
    }
    let call = Text(vec![915, 0], sender.clone());
    queue.push([Entry { lane: Lane::Rpc, length: 2, arrival: Instant::now(), deadline: None, payload: call }]);
    let on_death = move |reason| deaths.send(reason).unwrap();
    let runners = Runners::start(vec![Fake(0)], &queue, &slots(), 0, |_| (), on_death).unwrap();
    assert!(reported.recv().unwrap().contains("gone"));
    runners.join();
    assert!(results.try_recv().unwrap().1.unwrap_err().contains("device is lost"));
    push(&queue, 200, &sender);
    drop(sender);
    assert!(results.try_recv().is_err(), "what is stored has no outcome");
    drop(queue);
    assert!(matches!(results.try_recv(), Err(mpsc::TryRecvError::Disconnected)), "and is there until the end");
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
    let queue = queue();
    let (engines, go): (Vec<_>, Vec<_>) =
        (0..2).map(|unit| (unit, mpsc::channel())).map(|(unit, (go, wait))| (Slow(Fake(unit), wait), go)).unzip();
    let mut runners = Runners::start(engines, &queue, &slots(), 0, |_| (), |_| ()).unwrap();
    let mut settled = Box::pin(runners.settled());
    for go in go {
        tokio::select! {
            biased;
            () = &mut settled => panic!("one has not settled yet"),
            () = std::future::ready(()) => go.send(()).unwrap(),
        }
    }
    settled.await;
    queue.close();
    runners.join();
}
