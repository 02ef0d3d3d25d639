//! Calls on their way, by the texts that they are for: who asks for the same meanwhile waits for the same answer.
//!
//! A call goes on as long as anybody waits for it, whoever began it. What it ends with is for all who wait if it is vectors, and for the one who
//! began it if it is an error: time-outs, retries and headers were those of that one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use embed_schemas::Timing;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;

use super::{key::Key, rows::Row};
use crate::Error;

/// What a call has brought.
#[derive(Debug)]
pub(super) struct Arrived {
    /// In the order of the texts that it was for.
    pub(super) rows: Vec<Arc<Row>>,
    pub(super) timing: Timing,
}

/// The error of a call, for the one who takes it first.
pub(super) type Failed = Arc<Mutex<Option<Error>>>;

type Answer = Result<Arc<Arrived>, Failed>;

/// A call that any number wait for.
pub(super) type Flight = Shared<BoxFuture<'static, Answer>>;

/// All calls on their way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    next: AtomicU64,
    by_text: Mutex<HashMap<Key, Place>>,
}

/// Which call a text is in.
#[derive(Debug)]
struct Place {
    number: u64,
    flight: WeakShared<BoxFuture<'static, Answer>>,
    row: usize,
}

/// Where the vector of a text comes from.
pub(super) enum Source {
    /// It has come meanwhile.
    Here(Arc<Row>),
    /// Another's call brings it, in this row.
    Joined(Flight, usize),
    /// The own call brings it.
    Own,
}

impl Flights {
    /// Finds the call that each text is in, and begins one for those that are in none. `here` looks whether a vector has come since it was
    /// looked for; `call` gets the positions of those that are to be asked for.
    pub(super) fn board(
        self: &Arc<Self>,
        keys: &[Key],
        here: impl Fn(usize) -> Option<Arc<Row>>,
        call: impl FnOnce(&[usize]) -> BoxFuture<'static, Result<Arrived, Error>>,
    ) -> (Vec<Source>, Option<(Vec<usize>, Flight)>) {
        let mut by_text = self.by_text.lock();
        let source = |position: usize, key: &Key| match by_text.get(key) {
            Some(Place { flight, row, .. }) if let Some(flight) = flight.upgrade() => Source::Joined(flight, *row),
            // What a call has brought is kept before the call is forgotten, so that one or the other is found.
            _ => here(position).map_or(Source::Own, Source::Here),
        };
        let sources: Vec<Source> = keys.iter().enumerate().map(|(position, key)| source(position, key)).collect();
        let own: Vec<usize> = (0..keys.len()).filter(|n| matches!(sources[*n], Source::Own)).collect();
        if own.is_empty() {
            return (sources, None);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let keys: Vec<Key> = own.iter().map(|n| keys[*n]).collect();
        let landing = Landing { flights: Arc::clone(self), number, keys: keys.clone() };
        let call = call(&own);
        let flight = async move {
            let answer = call.await;
            drop(landing);
            answer.map(Arc::new).map_err(|error| Arc::new(Mutex::new(Some(error))))
        };
        let flight = flight.boxed().shared();
        for (row, key) in keys.into_iter().enumerate() {
            let flight = flight.downgrade().expect("it has not been polled");
            by_text.insert(key, Place { number, flight, row });
        }
        (sources, Some((own, flight)))
    }
}

/// Forgets a call once it is over, or nobody waits for it any more.
struct Landing {
    flights: Arc<Flights>,
    number: u64,
    keys: Vec<Key>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut by_text = self.flights.by_text.lock();
        for key in &self.keys {
            // Another may have begun one for the same text.
            if by_text.get(key).is_some_and(|place| place.number == self.number) {
                by_text.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    fn board(flights: &Arc<Flights>, keys: &[Key]) -> (Vec<Source>, Option<(Vec<usize>, Flight)>) {
        let call = |_: &[usize]| async { Err(Error::nats("asked", "in vain")) }.boxed();
        flights.board(keys, |_| None, call)
    }

    #[test]
    fn a_call_is_joined_while_anybody_waits_for_it_and_then_forgotten() {
        let flights = Arc::new(Flights::default());
        let (_, first) = board(&flights, &[[1; 32], [2; 32]]);
        let (sources, second) = board(&flights, &[[2; 32], [3; 32]]);
        assert!(matches!(sources[..], [Source::Joined(_, 1), Source::Own]));
        assert_eq!(second.as_ref().map(|(which, _)| &which[..]), Some(&[1][..]));
        drop(first);
        assert_eq!(flights.by_text.lock().len(), 3, "its second text is waited for");
        drop(sources);
        assert_eq!(flights.by_text.lock().len(), 1, "nobody waits for it");
        let failed = block_on(second.unwrap().1).unwrap_err();
        assert!(failed.lock().take().is_some() && flights.by_text.lock().is_empty());
    }
}
