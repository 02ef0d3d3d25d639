//! Every task and thread is known, and the death of one ends the worker: nobody is to wait for what it would have done, and what is in
//! the worker goes to others.

use std::{future::Future, panic::AssertUnwindSafe};

use embed_engine::threads::{OnDeath, panic_message};
use futures::FutureExt;
use tokio::{sync::mpsc, task::JoinHandle};

/// Starts tasks, and hears of their deaths. Clones are the same.
#[derive(Debug, Clone)]
pub struct Supervisor(mpsc::UnboundedSender<String>);

/// Deaths, as they are reported.
#[derive(Debug)]
pub struct Deaths(mpsc::UnboundedReceiver<String>);

/// A task, aborted when this is dropped.
#[derive(Debug)]
#[must_use = "a task ends with its handle; `detach` lets it go on"]
pub struct Task(Option<JoinHandle<()>>);

impl Supervisor {
    /// A supervisor, and where deaths are reported.
    #[must_use]
    pub fn new() -> (Self, Deaths) {
        let (report, reports) = mpsc::unbounded_channel();
        (Self(report), Deaths(reports))
    }

    /// Starts a task. If it panics, the worker ends, and says that it was `what`.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) -> Task {
        let report = self.0.clone();
        Task(Some(tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                // If nobody listens, the worker is stopping already.
                let _ = report.send(format!("{what} panicked: {}", panic_message(&*panic)));
            }
        })))
    }

    /// Something cannot go on, and so the worker cannot.
    pub fn report(&self, reason: String) {
        let _ = self.0.send(reason);
    }

    /// For threads.
    #[must_use]
    pub fn on_death(&self) -> OnDeath {
        let report = self.0.clone();
        OnDeath::new(move |reason| {
            let _ = report.send(reason);
        })
    }
}

impl Deaths {
    /// The next death. Never, as long as all live.
    pub async fn next(&mut self) -> String {
        match self.0.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

impl Task {
    /// Waits for its end.
    pub async fn join(mut self) {
        if let Some(task) = &mut self.0 {
            // A panic has been reported.
            let _ = task.await;
        }
    }

    /// Lets it go on by itself.
    pub fn detach(mut self) {
        self.0.take();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_with_the_name_of_the_task() {
        let (supervisor, mut deaths) = Supervisor::new();
        supervisor.spawn("the puller", async { panic!("no {}", "luck") }).detach();
        assert_eq!(deaths.next().await, "the puller panicked: no luck");
        supervisor.on_death().report("an engine is gone".to_owned());
        assert_eq!(deaths.next().await, "an engine is gone");
    }

    #[tokio::test]
    async fn a_task_ends_with_its_handle() {
        let (supervisor, _deaths) = Supervisor::new();
        let (alive, mut gone) = mpsc::channel::<()>(1);
        let task = supervisor.spawn("a task", async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(task);
        assert_eq!(gone.recv().await, None);
    }
}
