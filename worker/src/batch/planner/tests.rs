use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn policy() -> Policy {
    Policy {
        max_texts: 8,
        max_tokens: 512,
        max_wait: Duration::from_millis(5),
        max_age: [None, Some(Duration::from_secs(2)), Some(Duration::from_secs(10))],
    }
}

fn entry(lane: Lane, length: usize, arrival: Instant, payload: u32) -> Entry<u32> {
    Entry { lane, length, arrival, deadline: None, payload }
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
    let mut planner = Planner::new(policy());
    for i in 0..100 {
        planner.push(entry(Lane::Bulk, 10, now, i));
    }
    planner.push(entry(Lane::Rpc, 10, now, 1000));
    let batch = run(planner.next(now));
    assert_eq!((payloads(&batch), batch.reason), (BTreeSet::from([1000]), Reason::Online));
    assert_eq!(run(planner.next(now)).reason, Reason::Full);
}

#[test]
fn stored_work_waits_for_company_from_its_oldest_arrival() {
    let now = Instant::now();
    let mut planner = Planner::new(policy());
    planner.push(entry(Lane::Job, 10, now, 1));
    planner.push(entry(Lane::Job, 10, now + ms(4), 2));
    assert_eq!(planner.next(now + ms(4)).action, Action::WaitUntil(now + ms(5)));
    let batch = run(planner.next(now + ms(5)));
    assert_eq!((batch.entries.len(), batch.reason), (2, Reason::Waited));
    assert_eq!(planner.next(now + ms(5)).action, Action::Idle);
}

#[test]
fn draining_waits_for_nothing() {
    let now = Instant::now();
    let mut planner = Planner::new(policy());
    planner.push(entry(Lane::Bulk, 10, now, 1));
    planner.drain();
    assert_eq!(run(planner.next(now)).reason, Reason::Draining);
}

#[test]
fn the_closest_lengths_ride_together() {
    let now = Instant::now();
    let mut planner = Planner::new(policy());
    for (i, length) in [30, 200, 31, 29, 5, 210, 28].into_iter().enumerate() {
        planner.push(entry(Lane::Bulk, length, now, i as u32));
    }
    let later = now + ms(5);
    assert_eq!(payloads(&run(planner.next(later))), BTreeSet::from([0, 2, 3, 6]));
    assert_eq!(payloads(&run(planner.next(later))), BTreeSet::from([1, 5]));
    assert_eq!(payloads(&run(planner.next(later))), BTreeSet::from([4]));
}

#[test]
fn what_has_aged_is_served_before_online_calls_but_not_twice_in_a_row() {
    let now = Instant::now();
    let mut planner = Planner::new(policy());
    for i in 0..20 {
        planner.push(entry(Lane::Bulk, 10, now, i));
        planner.push(entry(Lane::Rpc, 10, now, 100 + i));
    }
    let later = now + Duration::from_secs(11);
    let reasons: Vec<Reason> = (0..5).map(|_| run(planner.next(later)).reason).collect();
    assert_eq!(reasons, [Reason::Aged, Reason::Online, Reason::Aged, Reason::Online, Reason::Aged]);
}

#[test]
fn expired_work_is_handed_back_and_not_run() {
    let now = Instant::now();
    let mut planner = Planner::new(policy());
    planner.push(Entry { deadline: Some(now + ms(1)), ..entry(Lane::Rpc, 10, now, 1) });
    planner.push(Entry { deadline: Some(now + ms(9)), ..entry(Lane::Rpc, 11, now, 2) });
    let step = planner.next(now + ms(5));
    assert_eq!(step.expired.len(), 1);
    assert_eq!(step.expired[0].payload, 1);
    assert_eq!(payloads(&run(step)), BTreeSet::from([2]));
}

#[derive(Debug, Clone)]
enum Event {
    Push { lane: Lane, length: usize, deadline: Option<u64> },
    Next,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (prop::sample::select(&Lane::ALL[..]), 1usize..600, prop::option::weighted(0.1, 0u64..30))
            .prop_map(|(lane, length, deadline)| Event::Push { lane, length, deadline }),
        3 => Just(Event::Next),
        1 => (0u64..4000).prop_map(Event::Pass),
    ]
}

/// Everything that came out, in order, with what the planner said about it.
fn play(events: &[Event], start: Instant) -> (Vec<Vec<u32>>, u32) {
    let policy = policy();
    let mut planner = Planner::new(policy.clone());
    let (mut now, mut pushed, mut out) = (start, 0, Vec::new());
    let mut check = |planner: &mut Planner<u32>, now: Instant| {
        let step = planner.next(now);
        assert!(step.expired.iter().all(|entry| entry.deadline.is_some_and(|d| d <= now)));
        out.push(step.expired.iter().map(|entry| entry.payload).collect());
        match step.action {
            Action::Run(batch) => {
                let real: usize = batch.entries.iter().map(|entry| entry.length).sum();
                let padded = batch.width * batch.entries.len();
                assert!(batch.entries.len() <= policy.max_texts);
                assert!(batch.entries.len() == 1 || padded <= policy.max_tokens);
                assert!(real * 4 >= padded * 3, "{real} of {padded} tokens are real");
                assert!(batch.entries.iter().all(|entry| entry.deadline.is_none_or(|d| d > now)));
                assert!(batch.entries.iter().all(|entry| entry.lane == batch.entries[0].lane));
                if batch.entries[0].lane != Lane::Rpc && batch.reason != Reason::Aged {
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
            }
            Event::Next => {
                check(&mut planner, now);
            }
            Event::Pass(millis) => now += ms(*millis),
        }
    }
    planner.drain();
    while check(&mut planner, now) {}
    (out, pushed)
}

proptest! {
    #[test]
    fn budgets_hold_and_every_text_comes_out_exactly_once(events in prop::collection::vec(event(), 0..300)) {
        let start = Instant::now();
        let (out, pushed) = play(&events, start);
        let mut all: Vec<u32> = out.iter().flatten().copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..pushed).collect::<Vec<_>>());
        prop_assert_eq!(play(&events, start).0, out, "the same input and clock give the same plan");
    }

    #[test]
    fn the_oldest_of_the_served_lane_always_rides(lengths in prop::collection::vec(1usize..300, 1..100)) {
        let now = Instant::now();
        let mut planner = Planner::new(policy());
        for (i, length) in lengths.iter().enumerate() {
            planner.push(entry(Lane::Bulk, *length, now, i as u32));
        }
        planner.drain();
        let mut waiting: BTreeSet<u32> = (0..lengths.len() as u32).collect();
        while let Action::Run(batch) = planner.next(now).action {
            prop_assert!(payloads(&batch).contains(waiting.first().unwrap()));
            for payload in payloads(&batch) {
                waiting.remove(&payload);
            }
        }
        prop_assert!(waiting.is_empty());
    }
}
