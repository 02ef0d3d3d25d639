mod urgent;

use std::{sync::mpsc, thread};

use super::*;
use crate::{batch::Owner, shape::Padding};

/// Callers push a few texts and wait for all of them before they push more: if a runner slept while a text waits, this
/// would never end.
#[test]
fn no_text_waits_while_runners_of_several_devices_sleep() {
    const ROUNDS: usize = 500;
    let units = [0, 0, 1, 1, 2, 2].map(Unit);
    every_text_is_run(BatchQueue::new(&BatchConfig::default(), CostTable::default(), &units), units, ROUNDS);
}

/// The same, where calls that are alone hold others up.
#[test]
fn no_text_waits_for_a_call_that_has_had_all_cores() {
    const ROUNDS: usize = 500;
    let units = [0, 1, 2, 3, 4, 5].map(Unit);
    every_text_is_run(spreading(&units), units, ROUNDS);
}

/// On all cores, a call is done in 60 % of the time.
fn spreading<T>(units: &[Unit]) -> BatchQueue<T> {
    let run =
        |form, width, micros| Measured { shape: Shape::full(1, width), form, took: Duration::from_micros(micros) };
    let both = |width: u64| {
        let shape = usize::try_from(width).unwrap();
        [run(Form::Padded, shape, 1_000 + 100 * width), run(Form::Spread, shape, 600 + 60 * width)]
    };
    let measured: Vec<_> = [16, 64, 256].into_iter().flat_map(both).collect();
    let costs = CostTable::new(&measured, Padding::default());
    BatchQueue::new(&BatchConfig::default(), costs, units).on_cores(CoreUse::default(), units.len())
}

fn every_text_is_run(queue: BatchQueue<mpsc::Sender<()>>, units: [Unit; 6], rounds: usize) {
    thread::scope(|scope| {
        let runners = units.map(|unit| {
            let queue = &queue;
            scope.spawn(move || {
                while let Some((batch, _run)) = queue.next(unit, |_| ()) {
                    batch.entries.iter().for_each(|entry| entry.payload.send(()).unwrap());
                }
            })
        });
        let callers = [Lane::Rpc, Lane::Job, Lane::Bulk].map(|lane| {
            let queue = &queue;
            scope.spawn(move || {
                let (done, taken) = mpsc::channel();
                for round in 0..rounds {
                    let texts = 1 + round % 4;
                    for text in 0..texts {
                        let (length, arrival) = (1 + (round + text) % 9, Instant::now());
                        let entry = Entry {
                            lane,
                            length,
                            arrival,
                            deadline: None,
                            owner: owner(round as u64),
                            alone: (text == 3).then_some(round as u64),
                            compared: false,
                            probe: false,
                            payload: done.clone(),
                        };
                        queue.push([entry]).unwrap();
                    }
                    taken.iter().take(texts).for_each(drop);
                }
            })
        });
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        queue.close();
        runners.into_iter().for_each(|runner| runner.join().unwrap());
    });
}

fn entry(lane: Lane, alone: Option<u64>, payload: u32) -> Entry<u32> {
    entry_of(0, lane, alone, payload)
}

fn owner(sender: u64) -> Owner {
    Owner { sender, request: sender, newcomer: false }
}

fn entry_of(sender: u64, lane: Lane, alone: Option<u64>, payload: u32) -> Entry<u32> {
    Entry {
        lane,
        length: 4,
        arrival: Instant::now(),
        deadline: None,
        owner: owner(sender),
        alone,
        compared: false,
        probe: false,
        payload,
    }
}

#[test]
fn what_runs_alone_has_the_engines_to_itself() {
    let queue = BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(1)]);
    queue.drain();
    queue.push([entry(Lane::Job, None, 1)]).unwrap();
    let (first, run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!(first.entries[0].payload, 1);
    queue.push([entry(Lane::Job, Some(2), 2), entry(Lane::Job, None, 3), entry(Lane::Rpc, None, 4)]).unwrap();
    assert!(matches!(queue.state.lock().step(Unit(1), Instant::now()).1, Action::Idle), "another text is in an engine");
    drop(run);
    let (second, run) = queue.next(Unit(1), |_| ()).unwrap();
    assert_eq!((second.entries.len(), second.entries[0].payload), (1, 2));
    assert!(matches!(queue.state.lock().step(Unit(0), Instant::now()).1, Action::Idle), "nothing runs beside it");
    queue.push([entry(Lane::Job, Some(5), 5)]).unwrap();
    drop(run);
    let (third, run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!(third.entries[0].payload, 4, "a call does not wait for two of them");
    drop(run);
    let order: Vec<u32> = (0..2).map(|_| queue.next(Unit(0), |_| ()).unwrap().0.entries[0].payload).collect();
    assert_eq!(order, [5, 3]);
}

#[test]
fn nothing_is_taken_in_while_all_engines_are_broken() {
    let queue = BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(1)]);
    queue.push([entry(Lane::Job, None, 1)]).unwrap();
    assert!(queue.broken("one").is_empty(), "the other still runs");
    assert_eq!(queue.broken("both").len(), 1);
    let refused = queue.push([entry(Lane::Job, Some(2), 2)]).unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.entries.len()), ("both", 1));
    queue.mended();
    assert_eq!(queue.refuses(), None);
    queue.push([entry(Lane::Job, None, 3)]).unwrap();
    assert_eq!(queue.halt("gone").len(), 1);
    queue.mended();
    assert_eq!(queue.refuses().as_deref(), Some("gone"), "that is for good");
    assert!(queue.next(Unit(0), |_| ()).is_none());
}

#[test]
fn texts_of_two_callers_that_run_alone_share_no_run() {
    let queue = BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(1)]);
    queue.push([(1, 10), (1, 11), (2, 20)].map(|(caller, payload)| entry(Lane::Job, Some(caller), payload))).unwrap();
    let (first, run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!(first.entries.iter().map(|entry| entry.payload).collect::<Vec<_>>(), [10, 11]);
    let idle = matches!(queue.state.lock().step(Unit(1), Instant::now()).1, Action::Idle);
    assert!(idle, "the other one's text does not run beside them");
    drop(run);
    assert_eq!(queue.next(Unit(1), |_| ()).unwrap().0.entries[0].payload, 20);
}

#[test]
fn a_caller_does_not_wait_for_engines_that_others_have() {
    let queue = BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(1)]);
    thread::scope(|scope| {
        let (ran, runs) = mpsc::channel();
        let beside = &queue;
        scope.spawn(move || {
            while let Some((batch, _run)) = beside.next_beside(|_| ()) {
                ran.send(batch.entries[0].payload).unwrap();
            }
        });
        queue.push([entry_of(1, Lane::Rpc, None, 1)]).unwrap();
        let first = queue.next(Unit(0), |_| ()).unwrap();
        queue.push([entry_of(2, Lane::Job, None, 2)]).unwrap();
        let second = queue.next(Unit(1), |_| ()).unwrap();
        queue.push([entry_of(1, Lane::Rpc, None, 3)]).unwrap();
        let beside_now = queue.state.lock().step_beside(2, Instant::now()).1;
        assert!(matches!(beside_now, Action::Idle), "its caller has an engine");
        drop(first);
        let first = queue.next(Unit(0), |_| ()).unwrap();
        assert_eq!(first.0.entries[0].payload, 3);
        for (sender, payload) in [(7, 4), (8, 5)] {
            queue.push([entry_of(sender, Lane::Rpc, None, payload)]).unwrap();
            assert_eq!(runs.recv_timeout(Duration::from_secs(60)).unwrap(), payload);
        }
        // Of many who were never served before, any may be the one who has the engines.
        let newcomer = |sender| Owner { newcomer: true, ..owner(sender) };
        let none = queue.state.lock().running.excludes(newcomer(100), 2);
        queue.state.lock().running.senders.extend((50..53).map(|sender| (sender, true)));
        let many = queue.state.lock().running.excludes(newcomer(100), 2);
        assert!(!none && many && !queue.state.lock().running.excludes(owner(100), 2));
        queue.state.lock().running.senders.retain(|(_, newcomer)| !newcomer);
        drop((first, second));
        while !queue.state.lock().running.senders.is_empty() {
            thread::yield_now();
        }
        queue.close();
    });
}

/// Waking a free runner must not wake one instead that waits for its engine to be mended.
#[test]
fn a_broken_runner_does_not_keep_texts_from_another_of_its_device() {
    for _ in 0..100 {
        let queue = BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(0)]);
        assert!(queue.broken("one of two").is_empty());
        thread::scope(|scope| {
            scope.spawn(|| assert!(queue.ends_within(Duration::from_secs(3600))));
            let free = scope.spawn(|| queue.next(Unit(0), |_| ()).unwrap().0.entries[0].payload);
            thread::yield_now();
            queue.push([entry(Lane::Rpc, None, 1)]).unwrap();
            assert_eq!(free.join().unwrap(), 1);
            queue.close();
        });
    }
}

#[test]
fn a_lone_call_has_all_cores_and_whoever_comes_then_waits_for_its_end() {
    let queue = spreading(&[Unit(0), Unit(1)]);
    queue.push([entry(Lane::Rpc, None, 1)]).unwrap();
    let (batch, run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!((batch.form, queue.engines_of(batch.form)), (Form::Spread, 2));
    queue.push([entry(Lane::Job, None, 2), entry(Lane::Rpc, None, 3)]).unwrap();
    let now = Instant::now();
    let step = |at| queue.state.lock().step(Unit(1), at).1;
    let Action::WaitUntil(until) = step(now) else { panic!("nothing begins beside it") };
    assert!(until <= now + SOON_DONE);
    assert!(matches!(step(until), Action::Run(_)), "if it takes longer than it should, others begin");
    drop(run);
    queue.push([entry(Lane::Rpc, None, 4)]).unwrap();
    let (batch, _run) = queue.next(Unit(1), |_| ()).unwrap();
    assert_eq!((batch.entries[0].payload, batch.form), (4, Form::Padded), "a job waits behind it");
}

/// Its time says something of one core: nobody waits for the end of what leaves them one.
#[test]
fn a_call_that_is_compared_has_one_core_and_holds_nobody_up() {
    let queue = spreading(&[Unit(0), Unit(1)]);
    queue.push([Entry { compared: true, ..entry(Lane::Rpc, None, 1) }]).unwrap();
    let (batch, _run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!(batch.form, Form::Padded);
    queue.push([entry(Lane::Rpc, None, 2)]).unwrap();
    assert!(matches!(queue.state.lock().step(Unit(1), Instant::now()).1, Action::Run(_)));
}

#[test]
fn the_runner_beside_all_others_waits_for_a_lone_call_as_they_do() {
    let queue = spreading(&[Unit(0)]);
    queue.push([entry_of(1, Lane::Rpc, None, 1)]).unwrap();
    let (batch, run) = queue.next(Unit(0), |_| ()).unwrap();
    assert_eq!(batch.form, Form::Spread);
    queue.push([entry_of(2, Lane::Rpc, None, 2)]).unwrap();
    let beside = |at| queue.state.lock().step_beside(1, at).1;
    let Action::WaitUntil(until) = beside(Instant::now()) else { panic!("it begins beside a call that has all cores") };
    assert!(matches!(beside(until), Action::Run(_)), "if that takes longer than it should, it begins");
    // Nobody has to wake it for that.
    queue.push([entry_of(3, Lane::Rpc, None, 3)]).unwrap();
    let (batch, _beside) = queue.next_beside(|_| ()).unwrap();
    assert_eq!(batch.entries[0].payload, 3);
    drop(run);
}

#[test]
fn under_load_no_call_has_all_cores() {
    let queue = spreading(&[Unit(0), Unit(1)]);
    let form = |lane| {
        queue.push([entry(lane, None, 1)]).unwrap();
        let (batch, run) = queue.next(Unit(1), |_| ()).unwrap();
        (batch.form, run)
    };
    let (bulk, running) = form(Lane::Bulk);
    let (beside_bulk, call) = form(Lane::Rpc);
    drop((running, call));
    // Of another variant, on the same cores.
    let elsewhere = queue.cores.begin();
    let (beside_others, call) = form(Lane::Rpc);
    drop((elsewhere, call));
    assert_eq!([bulk, beside_bulk, beside_others], [Form::Padded; 3]);
    assert_eq!(form(Lane::Rpc).0, Form::Spread);
    // Of a long one, the end is not waited for.
    queue.push([Entry { length: 256, ..entry(Lane::Rpc, None, 1) }]).unwrap();
    let (batch, _run) = queue.next(Unit(0), |_| ()).unwrap();
    queue.push([entry(Lane::Rpc, None, 2)]).unwrap();
    let beside = queue.state.lock().step(Unit(1), Instant::now()).1;
    assert!(batch.form == Form::Spread && matches!(beside, Action::Run(_)));
}
