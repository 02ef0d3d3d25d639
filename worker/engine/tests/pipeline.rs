//! What a pipeline promises whoever submits to it, on engines that do as they are told.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{ask, batch_dependent, pipeline, token};
use embed_engine::{
    engine::{Engine, EngineError, Input, Vectors},
    pipeline::{Embedded, Observer, Request, Unobserved},
    shape::Unit,
};
use embed_schemas::{ErrorCode, Lane};
use proptest::prelude::*;

/// Gives the second id of each row: that of its first word. Fails on batches with `bad`, and on all while `broken`.
#[derive(Debug, Default)]
struct State {
    broken: AtomicBool,
    bad: i64,
}

#[derive(Debug)]
struct Fake {
    unit: usize,
    state: Arc<State>,
}

impl Engine for Fake {
    fn dimension(&self) -> usize {
        1
    }

    fn unit(&self) -> Unit {
        Unit(self.unit)
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        if self.state.broken.load(Ordering::SeqCst) {
            return Err(EngineError::Onnx("nothing runs".into()));
        }
        if input.ids.contains(&self.state.bad) {
            return Err(EngineError::Onnx("unlucky".into()));
        }
        Ok(input.ids.chunks(input.width).map(|row| row[1] as f32).collect())
    }
}

fn fakes(state: &Arc<State>, count: usize) -> Vec<Box<dyn Engine>> {
    (0..count).map(|unit| Box::new(Fake { unit, state: Arc::clone(state) }) as _).collect()
}

fn code(embedded: &Embedded, text: usize) -> Option<ErrorCode> {
    embedded.texts[text].item.error.as_ref().map(|error| error.code)
}

/// What an observer heard.
#[derive(Debug)]
enum Heard {
    Failed(Lane, ErrorCode),
    Broken(Option<String>),
}

struct Listener(Mutex<mpsc::Sender<Heard>>);

impl Observer for Listener {
    fn text_failed(&self, lane: Lane, code: ErrorCode) {
        let _ = self.0.lock().unwrap().send(Heard::Failed(lane, code));
    }

    fn engine_broken(&self, reason: Option<&str>) {
        let _ = self.0.lock().unwrap().send(Heard::Broken(reason.map(str::to_owned)));
    }
}

#[test]
fn one_bad_text_fails_alone() {
    let state = Arc::new(State { bad: token("poison"), ..State::default() });
    let (hear, heard) = mpsc::channel();
    let (pipeline, _deaths) = pipeline(fakes(&state, 1), Arc::new(Listener(Mutex::new(hear))));
    let embedded = ask(&pipeline, Request { lane: Lane::Job, ..Request::new(["cat", "poison", "dog"]) });
    for (text, word) in ["cat", "poison", "dog"].into_iter().enumerate() {
        let expected = (word != "poison").then(|| [token(word) as f32]);
        assert_eq!(embedded.texts[text].vector(1), expected.as_ref().map(|vector| &vector[..]), "{word}");
    }
    assert_eq!(code(&embedded, 1), Some(ErrorCode::EngineFailed));
    assert!(matches!(heard.try_recv(), Ok(Heard::Failed(Lane::Job, ErrorCode::EngineFailed))));
    assert!(heard.try_recv().is_err(), "the engine is not taken for broken");
    assert_eq!(pipeline.broken(), None);
}

/// Notes how many texts are in each run.
#[derive(Debug)]
struct Counting(Arc<Mutex<Vec<usize>>>);

impl Engine for Counting {
    fn dimension(&self) -> usize {
        1
    }

    fn unit(&self) -> Unit {
        Unit(0)
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        self.0.lock().unwrap().push(input.rows);
        Ok(vec![1.0; input.rows].into())
    }
}

#[test]
fn texts_of_a_graph_that_goes_by_the_batch_are_run_one_by_one() {
    let texts = || (0..60).map(|n| format!("text {n}")).collect::<Vec<_>>();
    let most = |start: fn(Vec<Box<dyn Engine>>) -> embed_engine::pipeline::Pipeline| {
        let runs = Arc::new(Mutex::new(Vec::new()));
        let pipeline = start(vec![Box::new(Counting(Arc::clone(&runs))) as _]);
        for lane in [Lane::Rpc, Lane::Job, Lane::Bulk] {
            let embedded = ask(&pipeline, Request { lane, ..Request::new(texts()) });
            assert!(embedded.texts.iter().all(|text| text.vector(1) == Some(&[1.0][..])));
        }
        runs.lock().unwrap().iter().copied().max()
    };
    assert_eq!(most(|engines| batch_dependent(engines, Arc::new(Unobserved))), Some(1));
    // What else there is to see: without it, they share runs.
    assert!(most(|engines| pipeline(engines, Arc::new(Unobserved)).0) > Some(1));
}

#[test]
fn engines_that_fail_everything_are_unavailable_until_they_run_again() {
    let state = Arc::new(State { broken: AtomicBool::new(true), ..State::default() });
    let (hear, heard) = mpsc::channel();
    let (pipeline, deaths) = pipeline(fakes(&state, 1), Arc::new(Listener(Mutex::new(hear))));
    let embedded = ask(&pipeline, Request::new(["cat", "dog"]));
    assert_eq!([code(&embedded, 0), code(&embedded, 1)], [Some(ErrorCode::ModelUnavailable); 2]);
    let mut broken = heard.iter().filter_map(|heard| match heard {
        Heard::Broken(reason) => Some(reason),
        Heard::Failed(..) => None,
    });
    assert!(broken.next().unwrap().unwrap().contains("nothing runs"));
    // It is refused from a moment after that on: then nothing more comes to the engine.
    embed_testkit::wait_for("nothing to be taken in", || pipeline.broken());
    let request = Request::new(["cat"]);
    let begun = Arc::clone(&request.begun);
    assert_eq!(code(&ask(&pipeline, request), 0), Some(ErrorCode::ModelUnavailable));
    assert!(!begun.load(Ordering::SeqCst), "it came to no engine");
    state.broken.store(false, Ordering::SeqCst);
    assert_eq!(broken.next(), Some(None), "it runs again by itself");
    assert_eq!(pipeline.broken(), None);
    assert_eq!(ask(&pipeline, Request::new(["cat"])).texts[0].vector(1), Some(&[token("cat") as f32][..]));
    assert!(deaths.try_recv().is_err(), "no thread ended");
}

#[test]
fn begun_tells_whether_a_request_came_to_an_engine() {
    let state = Arc::new(State::default());
    let (pipeline, _deaths) = pipeline(fakes(&state, 1), Arc::new(Unobserved));
    let request = Request::new(["cat"]);
    let begun = Arc::clone(&request.begun);
    assert_eq!(code(&ask(&pipeline, request), 0), None);
    assert!(begun.load(Ordering::SeqCst));
    let late = Request { deadline: Some(Instant::now()), ..Request::new(["cat"]) };
    let begun = Arc::clone(&late.begun);
    assert_eq!(code(&ask(&pipeline, late), 0), Some(ErrorCode::DeadlineExceeded));
    assert!(!begun.load(Ordering::SeqCst));
}

#[test]
fn what_is_in_a_pipeline_is_done_before_it_ends() {
    let state = Arc::new(State::default());
    let (pipeline, _deaths) = pipeline(fakes(&state, 2), Arc::new(Unobserved));
    let (done, embedded) = mpsc::channel();
    for n in 0..50 {
        let (done, lane) = (done.clone(), Lane::ALL[n % 3]);
        let request = Request { lane, alone: n % 7 == 0, ..Request::new(["cat", "dog", "bird"]) };
        pipeline.submit(request, move |embedded| done.send(embedded).unwrap());
    }
    drop((pipeline, done));
    let ended: Vec<Embedded> = embedded.iter().collect();
    assert_eq!(ended.len(), 50);
    assert!(ended.iter().flat_map(|embedded| &embedded.texts).all(|text| text.vector(1).is_some()));
}

/// Words of one token each: every request has its own as the first of all its texts.
const WORDS: [&str; 24] = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "red", "green", "blue", "black",
    "white", "cat", "dog", "horse", "bird", "fish", "tree", "river", "moon", "star",
];

/// Which requests are in an engine, and which of them met another though one of both is to run alone.
#[derive(Debug, Default)]
struct Meetings {
    request_of: HashMap<i64, usize>,
    alone: Vec<bool>,
    inside: Mutex<Vec<usize>>,
    wrong: Mutex<Vec<(usize, usize)>>,
}

#[derive(Debug)]
struct Watched {
    unit: usize,
    meetings: Arc<Meetings>,
}

impl Engine for Watched {
    fn dimension(&self) -> usize {
        1
    }

    fn unit(&self) -> Unit {
        Unit(self.unit)
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let meetings = &self.meetings;
        let entering: Vec<usize> = input.ids.chunks(input.width).map(|row| meetings.request_of[&row[1]]).collect();
        {
            let mut inside = meetings.inside.lock().unwrap();
            inside.extend(&entering);
            let pairs = inside.iter().flat_map(|one| entering.iter().map(move |other| (*one, *other)));
            let wrong = pairs.filter(|(one, other)| one != other && (meetings.alone[*one] || meetings.alone[*other]));
            meetings.wrong.lock().unwrap().extend(wrong);
        }
        // Long enough for others to come.
        (0..20).for_each(|_| thread::yield_now());
        let mut inside = meetings.inside.lock().unwrap();
        for request in entering {
            let place = inside.iter().position(|one| *one == request).unwrap();
            inside.swap_remove(place);
        }
        Ok(input.ids.chunks(input.width).map(|row| row[1] as f32).collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_request_that_runs_alone_meets_no_other(
        requests in prop::collection::vec(
            (prop::sample::select(&Lane::ALL[..]), prop::bool::weighted(0.4), 1usize..5), 1..WORDS.len(),
        ),
        engines in 1usize..4,
    ) {
        let meetings = Arc::new(Meetings {
            request_of: WORDS.iter().enumerate().map(|(request, word)| (token(word), request)).collect(),
            alone: requests.iter().map(|(_, alone, _)| *alone).collect(),
            ..Meetings::default()
        });
        let watched = |unit| Box::new(Watched { unit, meetings: Arc::clone(&meetings) }) as Box<dyn Engine>;
        let (pipeline, _deaths) = pipeline((0..engines).map(watched).collect(), Arc::new(Unobserved));
        let (done, embedded) = mpsc::channel();
        for ((lane, alone, texts), word) in requests.iter().zip(WORDS) {
            let texts = (0..*texts).map(|more| format!("{word}{}", " more".repeat(more)));
            let request = Request { lane: *lane, alone: *alone, ..Request::new(texts) };
            let done = done.clone();
            pipeline.submit(request, move |embedded| done.send((word, embedded)).unwrap());
        }
        for _ in &requests {
            let (word, embedded) = embedded.recv_timeout(Duration::from_secs(60)).expect("every request ends");
            for text in &embedded.texts {
                prop_assert_eq!(text.vector(1), Some(&[token(word) as f32][..]));
            }
        }
        prop_assert_eq!(&*meetings.wrong.lock().unwrap(), &[]);
    }
}
