//! Runners for calls alone, beside the usual ones.

use super::*;

const BESIDE: Duration = Duration::from_millis(25);

/// Two usual runners of one device, and one for calls alone.
fn queue<T>() -> BatchQueue<T> {
    let queue = BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(0)]);
    queue.with_urgent(&[Unit(0)], BESIDE)
}

fn usual<T>(queue: &BatchQueue<T>) -> Action<T> {
    queue.state.lock().step(Unit(0), Instant::now()).1
}

fn urgent<T>(queue: &BatchQueue<T>) -> Action<T> {
    queue.state.lock().step_urgent(Instant::now()).1
}

fn payload(action: Action<u32>) -> Option<u32> {
    match action {
        Action::Run(batch) => Some(batch.entries[0].payload),
        _ => None,
    }
}

#[test]
fn beside_jobs_calls_are_for_whoever_takes_nothing_else() {
    let queue = queue();
    queue.drain();
    queue.push([entry(Lane::Job, None, 1), entry(Lane::Rpc, None, 2)]).unwrap();
    let (jobs, run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!(jobs.entries[0].payload, 1, "a job waits, which no other takes");
    assert!(matches!(usual(&queue), Action::Idle), "beside its run, the call would wait");
    let (call, urgent_run) = queue.next_call(|_| ()).unwrap();
    assert_eq!(call.entries[0].payload, 2);
    queue.push([entry(Lane::Rpc, None, 3)]).unwrap();
    drop(run);
    assert_eq!(payload(usual(&queue)), Some(3), "nothing else is there: all take calls");
    drop(urgent_run);
}

#[test]
fn nobody_takes_calls_beside_what_runs_alone() {
    let queue = queue();
    queue.push([entry(Lane::Job, Some(1), 1), entry(Lane::Rpc, None, 2)]).unwrap();
    assert!(matches!(urgent(&queue), Action::Idle), "it waits to be alone");
    let (alone, run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!(alone.entries[0].payload, 1);
    assert!(matches!(urgent(&queue), Action::Idle) && matches!(usual(&queue), Action::Idle));
    queue.push([entry(Lane::Job, Some(2), 3)]).unwrap();
    drop(run);
    assert_eq!(payload(usual(&queue)), Some(2), "a call does not wait for two of them");
}

#[test]
fn without_an_engine_of_their_own_that_runs_calls_go_first_on_the_others() {
    let queue = queue();
    queue.drain();
    queue.push([entry(Lane::Bulk, None, 1), entry(Lane::Rpc, None, 2)]).unwrap();
    queue.urgent_runs(false);
    let (call, run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!(call.entries[0].payload, 2);
    drop(run);
    queue.urgent_runs(true);
    queue.push([entry(Lane::Rpc, None, 3)]).unwrap();
    assert_eq!(payload(usual(&queue)), Some(1));
    assert_eq!(payload(urgent(&queue)), Some(3));
    queue.push([entry(Lane::Bulk, None, 4), entry(Lane::Rpc, None, 5)]).unwrap();
    queue.close();
    assert!(queue.next_call(|_| ()).is_none());
    assert_eq!(payload(usual(&queue)), Some(5), "at the end there are only these");
}

fn done(batch: Batch<mpsc::Sender<()>>) {
    batch.entries.iter().for_each(|entry| entry.payload.send(()).unwrap());
}

#[test]
fn calls_that_have_waited_for_long_are_for_all() {
    let queue = queue();
    queue.drain();
    queue.push([entry(Lane::Bulk, None, 1)]).unwrap();
    let (_, _run) = queue.next(Unit(0), |_| ()).unwrap();
    queue.push([entry(Lane::Rpc, None, 2)]).unwrap();
    let at = |after| queue.state.lock().step(Unit(0), Instant::now() + after).1;
    let overdue = BatchConfig::default().online_run * 4;
    assert!(matches!(at(overdue / 2), Action::Idle), "it is for the runner for calls");
    assert_eq!(payload(at(overdue * 2)), Some(2), "that one has more than it can do");
}

#[test]
fn a_call_is_shared_between_devices_and_not_between_runners_of_one() {
    // How many of four texts of a call the first runner takes, while the others wait.
    let taken = |units: &[Unit]| {
        let queue =
            BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0)]).with_urgent(units, BESIDE);
        units[1..].iter().for_each(|_| queue.state.lock().urgent.idle.park(Urgent::UNIT));
        queue.push((0..4).map(|n| entry(Lane::Rpc, None, n))).unwrap();
        match urgent(&queue) {
            Action::Run(batch) => batch.entries.len(),
            _ => 0,
        }
    };
    assert_eq!(taken(&[Unit(0)]), 4);
    assert_eq!(taken(&[Unit(0); 3]), 4);
    assert_eq!(taken(&[Unit(0), Unit(1), Unit(0), Unit(1)]), 2);
}

#[test]
fn what_one_leaves_another_is_woken_for() {
    let config = BatchConfig { max_texts: 1, ..BatchConfig::default() };
    let queue = BatchQueue::new(&config, CostTable::default(), &[Unit(0)]).with_urgent(&[Unit(0); 2], BESIDE);
    let keep = std::sync::Barrier::new(3);
    thread::scope(|scope| {
        let (ran, runs) = mpsc::channel();
        // They keep what they have, so that each has one.
        for _ in 0..2 {
            let (ran, keep, kept) = (ran.clone(), &keep, &queue);
            scope.spawn(move || {
                let (batch, _run) = kept.next_call(|_| ()).unwrap();
                ran.send(batch.entries[0].payload).unwrap();
                keep.wait();
            });
        }
        while queue.state.lock().urgent.idle.waiting() < 2 {
            thread::yield_now();
        }
        queue.push([entry(Lane::Rpc, None, 1), entry(Lane::Rpc, None, 2)]).unwrap();
        let mut found = [runs.recv().unwrap(), runs.recv().unwrap()];
        found.sort_unstable();
        assert_eq!(found, [1, 2]);
        keep.wait();
    });
}

/// Callers of all lanes push and wait, while runners of both kinds take: if one slept while a text waits that is for it, this would never end.
#[test]
fn no_text_waits_while_runners_of_both_kinds_sleep() {
    const ROUNDS: usize = 1_000;
    let queue: BatchQueue<mpsc::Sender<()>> = queue();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((batch, _run)) = queue.next(Unit(0), |_| ()) {
                    done(batch);
                }
            });
        }
        let calls_alone = scope.spawn(|| {
            let mut runs = 0;
            while let Some((batch, _run)) = queue.next_call(|_| ()) {
                assert!(batch.entries.iter().all(|entry| entry.lane == Lane::Rpc));
                done(batch);
                runs += 1;
            }
            runs
        });
        let callers = [Lane::Rpc, Lane::Rpc, Lane::Job, Lane::Bulk].map(|lane| {
            let queue = &queue;
            scope.spawn(move || {
                let (done, taken) = mpsc::channel();
                for round in 0..ROUNDS {
                    let texts = 1 + round % 4;
                    let alone = |text| (text == 3 && round % 16 == 3).then_some(round as u64);
                    let entries = (0..texts).map(|text| Entry {
                        lane,
                        length: 1 + (round + text) % 9,
                        arrival: Instant::now(),
                        deadline: None,
                        owner: owner(round as u64),
                        alone: alone(text),
                        compared: false,
                        probe: false,
                        payload: done.clone(),
                    });
                    queue.push(entries).unwrap();
                    taken.iter().take(texts).for_each(drop);
                }
            })
        });
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        queue.close();
        assert!(calls_alone.join().unwrap() > 0);
    });
}
