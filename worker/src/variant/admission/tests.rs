use std::time::Instant;

use embed_engine::batch::{Form, Reason};

use super::*;

const ONE: Sender = Sender::named(1);
const OTHER: Sender = Sender::named(2);

fn admission() -> Admission {
    let limits = LimitsConfig { rpc_max_wait: Duration::from_millis(100), ..LimitsConfig::default() };
    let admission = Admission::new(&limits.resolved(false));
    admission.resize(2);
    admission
}

fn size(texts: usize, tokens: usize) -> Size {
    Size { texts, tokens, bytes: 4 * tokens }
}

fn ran(admission: &Admission, texts: usize, took: Duration) {
    ran_in(Form::Padded, admission, texts, took);
}

fn ran_in(form: Form, admission: &Admission, texts: usize, took: Duration) {
    let stats = RunStats {
        number: 0,
        texts,
        rows: texts,
        width: 8,
        tokens: 8 * texts,
        row_tokens: 8 * texts,
        form,
        started: Instant::now(),
        took,
        busy: took,
        lane: Lane::Rpc,
        reason: Reason::Online,
        oldest_wait: Duration::ZERO,
    };
    (0..100).for_each(|_| admission.ran(&stats));
}

fn ms(n: u64) -> Option<Duration> {
    Some(Duration::from_millis(n))
}

#[test]
fn calls_that_had_all_cores_do_not_tell_how_long_others_take() {
    let admission = admission();
    // Better than nothing: 8 ms a text on each of two engines.
    ran_in(Form::Spread, &admission, 1, Duration::from_millis(8));
    let _before = admission.admit_call(ONE, size(100, 100 * 8), ms(10_000)).expect("nobody is before it");
    assert!(admission.admit_call(ONE, size(1, 8), ms(500)).is_err());
    ran(&admission, 1, Duration::from_millis(2));
    ran_in(Form::Spread, &admission, 1, Duration::from_millis(80));
    assert!(admission.admit_call(ONE, size(1, 8), ms(500)).is_ok(), "100 ms are before it");
}

#[test]
fn a_call_is_admitted_by_what_other_calls_leave_of_its_deadline() {
    let admission = admission();
    // 2 ms a text of eight tokens on each of two engines.
    ran(&admission, 1, Duration::from_millis(2));
    let alone = admission.admit_call(ONE, size(256, 256 * 8), ms(1)).expect("nobody is before it");
    // 256 ms are before the sender's next ones.
    assert!(admission.admit_call(ONE, size(1, 8), ms(1000)).is_ok());
    let refusal = admission.admit_call(ONE, size(1, 8), ms(200)).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Overloaded);
    assert!(refusal.retry_after_ms.is_some_and(|wait| (50..200).contains(&wait)), "{refusal:?}");
    assert!(admission.admit_call(ONE, size(1, 8), None).is_err(), "by default, 100 ms");
    drop(alone);
    assert!(admission.admit_call(ONE, size(1, 8), None).is_ok());
}

#[test]
fn what_one_sender_has_does_not_turn_others_away() {
    let admission = admission();
    ran(&admission, 1, Duration::from_millis(2));
    let mut heavy = vec![admission.admit_call(ONE, size(256, 256 * 254), None).expect("nobody is before it")];
    assert!(admission.admit_call(ONE, size(256, 256 * 254), None).is_err(), "its own are before it");
    // Even one that gives its calls all the time there is leaves room.
    while let Ok(permit) =
        admission.has_room_for(ONE).and_then(|()| admission.admit_call(ONE, size(256, 256 * 60), ms(1 << 40)))
    {
        heavy.push(permit);
    }
    assert!(heavy.len() > 2 && admission.has_room_for(ONE).is_err());
    assert!(admission.has_room_for(OTHER).is_ok());
    assert!(
        admission.admit_call(OTHER, size(1, 16), ms(20)).is_ok(),
        "beside {} texts",
        admission.in_flight(Lane::Rpc)
    );
    assert!(admission.admit_call(OTHER, size(256, 256 * 100), ms(20)).is_err(), "its own time counts");
}

#[test]
fn no_deadline_lets_a_call_wait_for_longer_than_a_minute() {
    let admission = admission();
    // Three seconds of both engines for 256 texts.
    ran(&admission, 1, Duration::from_micros(23_438));
    let mut held = Vec::new();
    let refusal = loop {
        match admission.admit_call(ONE, size(256, 256 * 8), ms(u64::MAX)) {
            Ok(permit) => held.push(permit),
            Err(refusal) => break refusal,
        }
    };
    // There is room for half as many again.
    assert!((20..=22).contains(&held.len()), "{}", held.len());
    assert!(admission.has_room_for(OTHER).is_ok());
    assert!(refusal.retry_after_ms.is_some_and(|wait| wait <= 4_000), "{refusal:?}");
}

#[test]
fn a_call_has_a_largest_cost_and_is_told_so() {
    let limits = LimitsConfig { call_tokens: 1000, ..LimitsConfig::default() };
    let admission = Admission::new(&limits.resolved(false));
    assert!(admission.check_call(&size(10, 1000)).is_ok());
    let error = admission.check_call(&size(10, 1001)).unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::CallTooLarge, false));
    for word in ["1001 tokens", "limits.call_tokens: 1000", "as a job"] {
        assert!(error.message.contains(word), "{error}");
    }
}

#[tokio::test]
async fn what_is_reserved_can_be_split_and_comes_back() {
    let admission = admission();
    let (tokens, bytes) = admission.capacity(Lane::Bulk);
    let mut all = admission.reserve(Lane::Bulk, (1, 1), (tokens, bytes), bytes).await;
    assert_eq!((all.tokens(), all.bytes()), (tokens, bytes));
    assert!(admission.try_admit(Lane::Bulk, &size(1, 1)).is_none());
    let job = all.split(&Size { texts: 64, tokens: 640, bytes: 5000 }).unwrap();
    drop(all);
    assert_eq!((admission.in_flight(Lane::Bulk), admission.bytes_in_flight(Lane::Bulk)), (64, 5 * 1024));
    drop(job);
    assert_eq!((admission.in_flight(Lane::Bulk), admission.bytes_in_flight(Lane::Bulk)), (0, 0));
    let most = Size { texts: 10_000, tokens: 10 * tokens, bytes: 10 * bytes };
    assert!(admission.try_admit(Lane::Bulk, &most).is_some(), "more than everything is everything");
}

#[tokio::test]
async fn there_is_room_for_some_jobs_beyond_what_large_ones_take() {
    let limits = LimitsConfig { job_lookahead: 2, ..LimitsConfig::default() };
    let admission = Admission::new(&limits.resolved(false));
    let (tokens, bytes) = admission.capacity(Lane::Job);
    let heavy = size(256, 256 * 254);
    let cost = admission.cost(Lane::Job, &heavy);
    assert_eq!((cost, admission.largest_cost(Lane::Job)), (tokens / 4, tokens / 4), "several of the largest have room");
    let reserve = || admission.reserve(Lane::Job, (cost, 1 << 20), (cost, bytes), 1 << 20);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(reserve().await.split(&heavy).unwrap());
    }
    for _ in 0..2 {
        let mut ahead = reserve().await;
        assert!(ahead.tokens() == 0 && ahead.bytes() >= 1 << 20);
        held.push(ahead.split(&heavy).unwrap());
        assert!(ahead.split(&heavy).is_none(), "for one");
    }
    assert_eq!(admission.in_flight(Lane::Job), 6 * 256);
    assert!(futures::poll!(std::pin::pin!(reserve())).is_pending(), "then there is none");
    assert!(futures::poll!(std::pin::pin!(admission.idle(Lane::Job))).is_pending());
    held.pop();
    let ahead = reserve().await;
    drop(held);
    assert!(futures::poll!(std::pin::pin!(admission.idle(Lane::Job))).is_pending(), "it may come");
    drop(ahead);
    admission.idle(Lane::Job).await;
}
