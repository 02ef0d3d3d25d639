//! Threads that run the engines, for all that is measured, as in the worker: providers keep kernels, memory and recordings for each
//! thread.

use std::{sync::mpsc, thread::JoinHandle};

use embed_engine::engine::Engine;

type Work<E> = Box<dyn FnOnce(&mut E) + Send>;

/// One thread for each engine.
#[derive(Debug)]
pub(super) struct Runners<E>(Vec<(mpsc::Sender<Work<E>>, JoinHandle<()>)>);

impl<E: Engine + 'static> Runners<E> {
    /// Starts the threads, and makes their engines ready.
    pub(super) fn start(engines: impl IntoIterator<Item = E>) -> Self {
        let start = |mut engine: E| {
            let (sender, work) = mpsc::channel::<Work<E>>();
            let body = move || work.into_iter().for_each(|work| work(&mut engine));
            (sender, std::thread::spawn(body))
        };
        let runners = Self(engines.into_iter().map(start).collect());
        runners.on_each(|_| |engine: &mut E| engine.settle());
        runners
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Has every engine do what `work` gives for its number, at the same time. Returns the results in that order.
    pub(super) fn on_each<R, F>(&self, work: impl Fn(usize) -> F) -> Vec<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut E) -> R + Send + 'static,
    {
        let begin = |(i, (sender, _)): (usize, &(mpsc::Sender<Work<E>>, _))| {
            let (done, result) = mpsc::channel();
            let work = work(i);
            let work: Work<E> = Box::new(move |engine| {
                // The other end waits for it.
                let _ = done.send(work(engine));
            });
            sender.send(work).expect("a runner does not panic");
            result
        };
        let results: Vec<_> = self.0.iter().enumerate().map(begin).collect();
        results.into_iter().map(|result| result.recv().expect("a runner does not panic")).collect()
    }
}

impl<E> Drop for Runners<E> {
    fn drop(&mut self) {
        for (sender, thread) in self.0.drain(..) {
            drop(sender);
            // What it had to say, it has said.
            let _ = thread.join();
        }
    }
}
