use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    settings::BatchPolicy,
    shape::{Form, Padding},
};

/// Small, so that bounds are reached.
fn config() -> BatchConfig {
    BatchConfig { max_texts: 8, max_tokens: 512, ..BatchConfig::default() }
}

/// 1 ms a run and 0.1 ms a token: the budgets of the default configuration are 390 and 1,190 tokens.
fn costs() -> CostTable {
    let cost = |rows: usize, width: usize| Duration::from_micros((1_000 + 100 * rows * width) as u64);
    let measured: Vec<_> = [(1, 16), (1, 64), (1, 256), (8, 16), (4, 64)]
        .into_iter()
        .map(|(rows, width)| Measured { shape: Shape::full(rows, width), form: Form::Padded, took: cost(rows, width) })
        .collect();
    CostTable::new(&measured, Padding::default())
}

fn planner(config: &BatchConfig) -> Planner<u32> {
    Planner::new(config, costs())
}

/// The same, where all cores need this share of the time.
fn spreading(share: f64) -> Planner<u32> {
    let cost = |width: usize| Duration::from_micros(1_000 + 100 * width as u64);
    let run = |form, width: usize, took| Measured { shape: Shape::full(1, width), form, took };
    let both = |width| [run(Form::Padded, width, cost(width)), run(Form::Spread, width, cost(width).mul_f64(share))];
    let measured: Vec<_> = [16, 64, 256].into_iter().flat_map(both).collect();
    Planner::new(&config(), CostTable::new(&measured, Padding::default()))
}

fn entry(lane: Lane, length: usize, arrival: Instant, payload: u32) -> Entry<u32> {
    entry_of(0, lane, length, arrival, payload)
}

/// A text of one sender's only request.
fn entry_of(sender: u64, lane: Lane, length: usize, arrival: Instant, payload: u32) -> Entry<u32> {
    let owner = Owner { sender, request: sender, newcomer: false };
    Entry { lane, length, arrival, deadline: None, owner, alone: None, compared: false, probe: false, payload }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn run(step: Step<u32>) -> Batch<u32> {
    match step.action {
        Action::Run(batch) => batch,
        other => panic!("expected a batch, got {other:?}"),
    }
}

fn payloads(batch: &Batch<u32>) -> BTreeSet<u32> {
    batch.entries.iter().map(|entry| entry.payload).collect()
}

#[test]
fn an_online_call_starts_at_once_and_goes_first() {
    let now = Instant::now();
    let mut planner = planner(&config());
    for i in 0..100 {
        planner.push(entry(Lane::Bulk, 10, now, i));
    }
    planner.push(entry(Lane::Rpc, 10, now, 1000));
    let batch = run(planner.next(now, 0));
    assert_eq!((payloads(&batch), batch.reason), (BTreeSet::from([1000]), Reason::Online));
    assert_eq!(run(planner.next(now, 0)).reason, Reason::Full);
}

#[test]
fn a_lone_job_on_an_idle_worker_does_not_wait_and_one_under_load_does() {
    let now = Instant::now();
    let mut planner = planner(&config());
    planner.push(entry(Lane::Job, 10, now, 1));
    assert_eq!(run(planner.next(now, 0)).reason, Reason::Waited);

    // 1,000 a second: others are likely to come within the longest wait.
    let mut arrival = now;
    for i in 0..1003 {
        arrival = now + ms(i);
        planner.push(entry(Lane::Job, 10, arrival, 2));
        while planner.len(Lane::Job) >= 8 {
            run(planner.next(arrival, 0));
        }
    }
    let oldest = planner.oldest_arrival(Lane::Job).unwrap();
    assert_eq!(planner.next(oldest, 0).action, Action::WaitUntil(oldest + config().max_wait));
    let batch = run(planner.next(arrival + ms(5), 0));
    assert_eq!(batch.reason, Reason::Waited);
    assert_eq!(planner.next(arrival + ms(5), 0).action, Action::Idle);
}

#[test]
fn draining_waits_for_nothing() {
    let now = Instant::now();
    let mut planner = planner(&BatchConfig { policy: BatchPolicy::Fixed, ..config() });
    planner.push(entry(Lane::Bulk, 10, now, 1));
    assert_eq!(planner.next(now, 0).action, Action::WaitUntil(now + ms(5)));
    planner.drain();
    assert_eq!(run(planner.next(now, 0)).reason, Reason::Draining);
}

#[test]
fn the_closest_lengths_ride_together() {
    let now = Instant::now();
    let mut planner = planner(&config());
    for (i, length) in [30, 200, 31, 29, 5, 202, 28].into_iter().enumerate() {
        planner.push(entry(Lane::Bulk, length, now, i as u32));
    }
    planner.drain();
    assert_eq!(payloads(&run(planner.next(now, 0))), BTreeSet::from([0, 2, 3, 6]));
    assert_eq!(payloads(&run(planner.next(now, 0))), BTreeSet::from([1, 5]));
    assert_eq!(payloads(&run(planner.next(now, 0))), BTreeSet::from([4]));
}

#[test]
fn a_call_is_not_made_wait_for_what_others_have() {
    let now = Instant::now();
    let mut planner = planner(&BatchConfig::default());
    for i in 0..256 {
        planner.push(entry_of(1, Lane::Rpc, 12, now, i));
    }
    for text in 0..3 {
        planner.push(entry_of(2 + u64::from(text), Lane::Rpc, 10, now, 1000 + text));
    }
    // The three go first, and with each other, but not with a text of the many: their turn is later.
    assert_eq!(payloads(&run(planner.next(now, 0))), BTreeSet::from([1000, 1001, 1002]));
    let batch = run(planner.next(now, 0));
    assert!(batch.entries.len() > 8, "the many ride together: {}", batch.entries.len());
    planner.push(entry_of(9, Lane::Rpc, 60, now, 2000));
    assert_eq!(payloads(&run(planner.next(now, 0))), BTreeSet::from([2000]));
}

#[test]
fn what_runs_alone_keeps_its_budget_too() {
    let now = Instant::now();
    let mut planner = planner(&BatchConfig::default());
    let runs = |planner: &mut Planner<u32>| {
        let texts = (0..30).map(|i| Entry { alone: Some(1), ..entry(Lane::Job, 100, now, i) });
        planner.alone(&mut texts.collect(), now).1.unwrap().entries.len()
    };
    assert_eq!(runs(&mut planner), 10, "as many tokens as a batch may have");
    planner.push(entry(Lane::Rpc, 10, now, 100));
    assert_eq!(runs(&mut planner), 3, "40 ms while calls come in");
}

#[test]
fn a_small_job_does_not_wait_for_large_ones() {
    let now = Instant::now();
    let mut planner = planner(&BatchConfig::default());
    for job in 0..12 {
        (0..256).for_each(|_| planner.push(entry_of(job, Lane::Job, 254, now, 0)));
    }
    (0..50).for_each(|_| drop(run(planner.next(now, 0))));
    planner.push(entry_of(99, Lane::Job, 10, now, 1000));
    assert!(payloads(&run(planner.next(now, 0))).contains(&1000));
}

#[test]
fn beside_the_others_runs_what_is_short_and_of_nobody_they_have() {
    let now = Instant::now();
    let mut planner = planner(&BatchConfig { max_tokens: 1024, ..BatchConfig::default() });
    for i in 0..64 {
        planner.push(entry_of(1, Lane::Rpc, 10, now, i));
    }
    planner.push(entry_of(2, Lane::Rpc, 500, now, 500));
    assert_eq!(planner.beside(now, |owner| owner.sender == 1).action, Action::Idle, "51 ms are not short");
    planner.push(entry_of(3, Lane::Rpc, 20, now, 1000));
    planner.push(Entry { deadline: Some(now), ..entry_of(4, Lane::Rpc, 19, now, 1001) });
    planner.push(entry_of(5, Lane::Job, 20, now, 2000));
    let step = planner.beside(now, |owner| owner.sender == 1);
    assert_eq!(step.expired.len(), 1);
    assert_eq!(payloads(&run(step)), BTreeSet::from([1000]));
    assert_eq!(planner.beside(now, |owner| owner.sender == 1).action, Action::Idle);
    let company = payloads(&run(planner.beside(now, |_| false)));
    assert!(company.len() > 1 && company.len() < 64, "a quarter of 40 ms: {}", company.len());
}

#[test]
fn where_calls_have_engines_of_their_own_other_runs_may_be_longer() {
    let now = Instant::now();
    let config = BatchConfig { online_run: ms(4), longest_run: ms(40), ..BatchConfig::default() };
    let mut planner = planner(&config);
    let texts = |planner: &mut Planner<u32>| {
        planner.push(entry(Lane::Rpc, 10, now, u32::MAX));
        for i in 0..100 {
            planner.push(entry(Lane::Bulk, 10, now, i));
        }
        let call = planner.next_call(now, 0);
        assert_eq!(payloads(&run(call)), BTreeSet::from([u32::MAX]));
        assert_eq!(planner.next_call(now, 0).action, Action::Idle, "the rest is for others");
        let batch = run(planner.next_stored(now, 0));
        assert!(batch.entries.iter().all(|entry| entry.lane == Lane::Bulk));
        batch.entries.len()
    };
    // 1 ms a run, and 1 ms for each text.
    assert_eq!(texts(&mut planner), 3);
    planner.beside_calls(Some(ms(25)));
    let longer = texts(&mut planner);
    assert!((20..=24).contains(&longer), "{longer}");
    planner.beside_calls(Some(ms(2)));
    assert_eq!(texts(&mut planner), 1, "shorter ones, too");
    planner.beside_calls(Some(ms(500)));
    let most = texts(&mut planner);
    assert!((30..=39).contains(&most), "no longer than without calls: {most}");
    planner.beside_calls(None);
    assert_eq!(texts(&mut planner), 3);
}

#[test]
fn a_backfill_waits_no_longer_than_its_run_takes() {
    let now = Instant::now();
    let config = BatchConfig { max_wait: ms(50), ..BatchConfig::default() };
    let until = |lane, texts: u32| {
        let mut planner = planner(&config);
        (0..texts).for_each(|i| planner.push(entry(lane, 10, now, i)));
        match planner.next(now, 0).action {
            Action::WaitUntil(until) => until - now,
            other => panic!("it waits for company: {other:?}"),
        }
    };
    // 1 ms a run, and 1 ms for each text; 50 ms at most.
    assert_eq!(until(Lane::Job, 30), ms(50));
    assert!((ms(30)..ms(32)).contains(&until(Lane::Bulk, 30)), "{:?}", until(Lane::Bulk, 30));
    assert_eq!(until(Lane::Bulk, 60), ms(50));
    // What is taken away counts no longer.
    let mut planner = planner(&config);
    (0..30).for_each(|i| planner.push(entry(Lane::Bulk, 10, now, i)));
    run(planner.next(now + ms(50), 0));
    assert_eq!(planner.lanes[Lane::Bulk.index()].tokens(), 0);
}

#[test]
fn the_workers_own_calls_make_no_run_shorter() {
    let now = Instant::now();
    let config = BatchConfig { online_run: ms(4), longest_run: ms(40), ..BatchConfig::default() };
    let bulk = |probe| {
        let mut planner = planner(&config);
        (0..100).for_each(|i| planner.push(entry(Lane::Bulk, 10, now, i)));
        planner.push(Entry { probe, ..entry(Lane::Rpc, 10, now, u32::MAX) });
        assert_eq!(payloads(&run(planner.next(now, 0))), BTreeSet::from([u32::MAX]), "it goes first, as all do");
        run(planner.next(now, 0)).entries.len()
    };
    assert_eq!(bulk(false), 3);
    assert!(bulk(true) >= 30);
}

#[test]
fn a_call_that_has_expired_is_given_back_by_whoever_takes_calls_alone() {
    let now = Instant::now();
    let mut planner = planner(&config());
    planner.push(Entry { deadline: Some(now), ..entry(Lane::Rpc, 10, now, 1) });
    assert_eq!(planner.next_stored(now, 0).action, Action::Idle, "it is not for this one");
    let step = planner.next_call(now, 0);
    assert_eq!((step.expired.len(), step.action), (1, Action::Idle));
}

#[test]
fn what_waits_is_shared_with_free_engines() {
    let now = Instant::now();
    let mut planner = planner(&config());
    for i in 0..6 {
        planner.push(entry(Lane::Rpc, 10, now, i));
    }
    assert_eq!(run(planner.next(now, 1)).entries.len(), 3);
    assert_eq!(run(planner.next(now, 0)).entries.len(), 3);
}

#[test]
fn fixed_batches_keep_the_order_of_arrival() {
    let now = Instant::now();
    let mut config = BatchConfig { policy: BatchPolicy::Fixed, ..config() };
    config.fixed.texts = 3;
    let mut planner = planner(&config);
    for (i, length) in [300, 5, 200, 6, 100, 7].into_iter().enumerate() {
        planner.push(entry(Lane::Rpc, length, now, i as u32));
    }
    let batch = run(planner.next(now, 0));
    assert_eq!((payloads(&batch), batch.reason, batch.width), (BTreeSet::from([0, 1, 2]), Reason::Full, 300));
}

#[test]
fn what_has_aged_is_served_before_online_calls_but_not_twice_in_a_row() {
    let now = Instant::now();
    let mut planner = planner(&config());
    for i in 0..20 {
        planner.push(entry(Lane::Bulk, 10, now, i));
        planner.push(entry(Lane::Rpc, 10, now, 100 + i));
    }
    let later = now + Duration::from_secs(11);
    let reasons: Vec<Reason> = (0..5).map(|_| run(planner.next(later, 0)).reason).collect();
    assert_eq!(reasons, [Reason::Aged, Reason::Online, Reason::Aged, Reason::Online, Reason::Aged]);
}

#[test]
fn expired_work_is_handed_back_and_not_run() {
    let now = Instant::now();
    let mut planner = planner(&config());
    planner.push(Entry { deadline: Some(now + ms(1)), ..entry(Lane::Rpc, 10, now, 1) });
    planner.push(Entry { deadline: Some(now + ms(9)), ..entry(Lane::Rpc, 11, now, 2) });
    let step = planner.next(now + ms(5), 0);
    assert_eq!(step.expired.len(), 1);
    assert_eq!(step.expired[0].payload, 1);
    assert_eq!(payloads(&run(step)), BTreeSet::from([2]));
}

#[derive(Debug, Clone)]
enum Event {
    Push { lane: Lane, length: usize, deadline: Option<u64> },
    Next { others: usize },
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (prop::sample::select(&Lane::ALL[..]), 1usize..600, prop::option::weighted(0.1, 0u64..30))
            .prop_map(|(lane, length, deadline)| Event::Push { lane, length, deadline }),
        3 => (0usize..3).prop_map(|others| Event::Next { others }),
        1 => (0u64..4000).prop_map(Event::Pass),
    ]
}

fn policies() -> impl Strategy<Value = BatchPolicy> {
    prop::sample::select(&[BatchPolicy::Adaptive, BatchPolicy::Table, BatchPolicy::Fixed][..])
}

/// Everything that came out, in order, after checking what every batch must keep to.
fn play(policy: BatchPolicy, events: &[Event], start: Instant) -> (Vec<Vec<u32>>, u32) {
    let config = BatchConfig { policy, ..config() };
    let mut planner = planner(&config);
    let (mut now, mut pushed, mut out, mut last_call) = (start, 0, Vec::new(), None);
    let mut check = |planner: &mut Planner<u32>, now: Instant, last_call: Option<Instant>, others| {
        let step = planner.next(now, others);
        assert!(step.expired.iter().all(|entry| entry.deadline.is_some_and(|d| d <= now)));
        out.push(step.expired.iter().map(|entry| entry.payload).collect());
        match step.action {
            Action::Run(batch) => {
                keeps_its_budget(planner, &config, &batch, now, last_call);
                assert!(batch.entries.iter().all(|entry| entry.deadline.is_none_or(|d| d > now)));
                assert!(batch.entries.iter().all(|entry| entry.lane == batch.entries[0].lane));
                assert_eq!(batch.width, batch.entries.last().unwrap().length);
                if policy == BatchPolicy::Adaptive && batch.entries[0].lane != Lane::Rpc && batch.reason != Reason::Aged
                {
                    assert_eq!(planner.len(Lane::Rpc), 0, "an online call was passed over");
                }
                out.push(batch.entries.iter().map(|entry| entry.payload).collect());
                true
            }
            Action::WaitUntil(when) => {
                assert!(when > now, "told to ask again in the past");
                false
            }
            Action::Idle => {
                assert!(planner.is_empty());
                false
            }
        }
    };
    for event in events {
        match event {
            Event::Push { lane, length, deadline } => {
                let deadline = deadline.map(|d| now + ms(d));
                planner.push(Entry { deadline, ..entry(*lane, *length, now, pushed) });
                pushed += 1;
                if *lane == Lane::Rpc {
                    last_call = Some(now);
                }
            }
            Event::Next { others } => {
                check(&mut planner, now, last_call, *others);
            }
            Event::Pass(millis) => now += ms(*millis),
        }
    }
    planner.drain();
    while check(&mut planner, now, last_call, 0) {}
    (out, pushed)
}

/// Texts, tokens, and the time of the run; a single text may exceed the last two.
fn keeps_its_budget(
    planner: &Planner<u32>,
    config: &BatchConfig,
    batch: &Batch<u32>,
    now: Instant,
    last_call: Option<Instant>,
) {
    let (rows, width) = (batch.entries.len(), batch.width);
    if config.policy == BatchPolicy::Fixed {
        assert!(rows <= config.fixed.texts);
        return;
    }
    assert!(rows <= 64 && (config.policy == BatchPolicy::Table || rows <= config.max_texts));
    assert!(rows == 1 || rows * width <= config.max_tokens, "{rows} x {width}");
    if config.policy == BatchPolicy::Adaptive && rows > 1 {
        let online = last_call.is_some_and(|last| now - last < config.online_memory);
        let longest = if online { config.online_run } else { config.longest_run };
        let expected = planner.costs.micros(&Shape::full(rows, width));
        assert!(expected <= longest.as_secs_f64() * 1e6, "{rows} x {width}: {expected} us, online: {online}");
    }
}

proptest! {
    #[test]
    fn all_cores_are_for_calls_that_nothing_waits_behind(
        texts in prop::collection::vec((0usize..3, 2usize..256), 1..12), others in 0usize..4,
    ) {
        let (now, mut planner) = (Instant::now(), spreading(0.6));
        for (lane, length) in texts {
            planner.push(entry(Lane::ALL[lane], length, now, 0));
        }
        planner.drain();
        while let Action::Run(mut batch) = planner.next(now, others).action {
            let (before, lone) = (payloads(&batch), planner.is_empty() && batch.entries[0].lane == Lane::Rpc);
            let takes = planner.spread(&mut batch);
            prop_assert_eq!((takes.is_some(), batch.form == Form::Spread), (lone, lone));
            prop_assert_eq!(before, payloads(&batch));
            if let Some(takes) = takes {
                let alone = costs().micros(&Shape::of(batch.entries.iter().map(|entry| entry.length)));
                prop_assert!((takes.as_secs_f64() * 1e6 / alone / 0.6 - 1.0).abs() < 0.05, "{:?} of {}", takes, alone);
            }
        }
    }

    #[test]
    fn budgets_hold_and_every_text_comes_out_exactly_once(
        policy in policies(), events in prop::collection::vec(event(), 0..300),
    ) {
        let start = Instant::now();
        let (out, pushed) = play(policy, &events, start);
        let mut all: Vec<u32> = out.iter().flatten().copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..pushed).collect::<Vec<_>>());
        prop_assert_eq!(play(policy, &events, start).0, out, "the same input and clock give the same plan");
    }

    #[test]
    fn the_oldest_of_the_served_lane_always_rides(
        policy in policies(), lengths in prop::collection::vec(1usize..300, 1..100),
    ) {
        let now = Instant::now();
        let mut planner = planner(&BatchConfig { policy, ..config() });
        for (i, length) in lengths.iter().enumerate() {
            planner.push(entry(Lane::Bulk, *length, now, i as u32));
        }
        planner.drain();
        let mut waiting: BTreeSet<u32> = (0..lengths.len() as u32).collect();
        while let Action::Run(batch) = planner.next(now, 0).action {
            prop_assert!(payloads(&batch).contains(waiting.first().unwrap()));
            for payload in payloads(&batch) {
                waiting.remove(&payload);
            }
        }
        prop_assert!(waiting.is_empty());
    }

    #[test]
    fn nothing_waits_past_its_age_but_for_the_runs_before_it(
        calls in prop::collection::vec(1usize..100, 1..50), bulk in prop::collection::vec(1usize..100, 1..50),
    ) {
        // Online calls come as fast as runs are made: without ageing, the backfill would wait for ever.
        let start = Instant::now();
        let config = BatchConfig { bulk_max_age: ms(100), ..config() };
        let mut planner = planner(&config);
        for (i, length) in bulk.iter().enumerate() {
            planner.push(entry(Lane::Bulk, *length, start, i as u32));
        }
        let mut now = start;
        let mut calls = calls.iter().cycle();
        for _ in 0..2_000 {
            planner.push(entry(Lane::Rpc, *calls.next().unwrap(), now, u32::MAX));
            let batch = run(planner.next(now, 0));
            now += Duration::from_secs_f64(planner.costs.micros(&Shape::full(batch.entries.len(), batch.width)) / 1e6);
            if planner.len(Lane::Bulk) == 0 {
                break;
            }
        }
        prop_assert_eq!(planner.len(Lane::Bulk), 0);
        // Every other run is the backfill's once it has aged, and no run is longer than the budget while calls come.
        let most = config.bulk_max_age + config.online_run * 2 * (bulk.len() as u32 + 1);
        prop_assert!(now - start <= most, "{:?}", now - start);
    }
}

#[test]
fn a_bound_of_memory_grows_back_while_runs_succeed() {
    let now = Instant::now();
    let mut planner = planner(&BatchConfig::default());
    let run = Measured {
        shape: Shape { rows: 8, width: 128, tokens: 1024, ..Shape::default() },
        form: Form::Padded,
        took: ms(1),
    };
    let shape = run.shape;
    let first = planner.too_large(now, &shape);
    assert!(first <= 512, "{first}");
    assert_eq!(planner.ran(now + ms(100), Some(run), std::iter::empty()), None, "not at once");
    let (mut at, mut bound, mut steps) = (now, first, 0);
    while bound != usize::MAX {
        at += FIRST_PATIENCE;
        let grown = planner.ran(at, Some(run), std::iter::empty()).expect("it grows");
        assert!(grown > bound);
        (bound, steps) = (grown, steps + 1);
        assert!(steps < 20, "it ends");
    }
    // Too little again soon after: it takes longer.
    planner.too_large(at, &shape);
    planner.too_large(at, &shape);
    assert_eq!(planner.ran(at + FIRST_PATIENCE, Some(run), std::iter::empty()), None);
    assert!(planner.ran(at + FIRST_PATIENCE * 2, Some(run), std::iter::empty()).is_some());
}

#[test]
fn all_cores_are_used_where_they_gain_and_tried_where_they_did_not() {
    let now = Instant::now();
    let spread = |planner: &mut Planner<u32>| {
        planner.push(entry(Lane::Rpc, 16, now, 0));
        let mut batch = run(planner.next(now, 1));
        planner.spread(&mut batch).is_some()
    };
    let mut gains = spreading(0.6);
    assert!((0..100).all(|_| spread(&mut gains)));
    let mut loses = spreading(1.2);
    assert_eq!((0..330).filter(|_| spread(&mut loses)).count(), 10, "once in 33 calls");
    // What it takes is learnt from those.
    for _ in 0..50 {
        let (shape, took) = (Shape::full(1, 16), ms(1));
        loses.ran(now, Some(Measured { shape, form: Form::Spread, took }), std::iter::empty());
    }
    assert!((0..100).all(|_| spread(&mut loses)));
    assert!(!(0..100).any(|_| spread(&mut planner(&config()))), "where no run has several cores, none is tried");
}
