//! Keeps a run's lease, records how far the run is, and hears what is wanted of it.

use std::{sync::Arc, time::Duration};

use embed_schemas::JobId;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Live, Runner, Target, Wish,
    entry::Entry,
    lease::Lease,
    store::{Store, is_denied},
};
use crate::{Error, State};

/// So often it is looked what is wanted.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// For the last words of a run.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What is waited for when the run is over already.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// A write that somebody else's wish came before is tried again so often at once.
const ATTEMPTS: usize = 4;

/// How long a run waits for word of its lease.
#[derive(Debug)]
pub(crate) struct Patience {
    /// While it runs.
    pub(crate) running: Duration,
    /// Cancelled when it is over, and nothing is waited for that may not come.
    pub(crate) ending: CancellationToken,
}

impl Patience {
    async fn over(&self) {
        tokio::select! {
            () = tokio::time::sleep(self.running) => {}
            () = self.ending.cancelled() => tokio::time::sleep(LAST_PATIENCE).await,
        }
    }
}

/// What a run has of its place in the bucket. Dropped, it goes on to be the run's until the lease is over.
#[derive(Debug)]
pub(crate) struct Keeper {
    wanted: watch::Sender<Arc<Wanted>>,
    told: watch::Receiver<Told>,
    task: AbortOnDropHandle<()>,
    /// The beginning of the runner's clock.
    started: Instant,
    /// Whether nothing but the lease guards the output, and nothing but the bucket keeps the state.
    is_all: bool,
}

/// What is to be recorded.
#[derive(Debug)]
struct Wanted {
    state: State,
    progress: Live,
    /// Nothing comes after it.
    last: bool,
}

/// What is known of the bucket.
#[derive(Debug, Clone)]
struct Told {
    lease: Lease,
    /// What is recorded: [`State::saves`].
    saves: u64,
    wish: Wish,
    /// Why this run is not the one that may write, if it is not.
    lost: Option<String>,
    /// What keeps it from being recorded, if anything does.
    trouble: Option<String>,
}

/// A lease that has just been given.
pub(super) struct Given {
    pub(super) store: Store,
    pub(super) target: Target,
    pub(super) me: Runner,
    /// As a whole.
    pub(super) state: State,
    pub(super) entry: Entry,
    pub(super) revision: u64,
    /// When it was asked for.
    pub(super) asked: Instant,
}

impl Keeper {
    pub(super) fn start(given: Given) -> Self {
        let Given { store, target, me, state, entry, revision, asked: started } = given;
        let lease = Lease::given(me.lease(), Duration::ZERO);
        let (told, heard) =
            watch::channel(Told { lease, saves: entry.state.saves, wish: entry.wish, lost: None, trouble: None });
        let wanted = Wanted { state, progress: entry.progress.clone(), last: false };
        let (wanted, received) = watch::channel(Arc::new(wanted));
        let is_all = target.is_all();
        let failing = None;
        let desk = Desk { store, me, entry, revision, started, is_all, wanted: received, told, failing };
        let task = AbortOnDropHandle::new(tokio::spawn(desk.keep()));
        Self { wanted, told: heard, task, started, is_all }
    }

    /// Waits until this run may write. With an output that a lock guards, that is so until somebody else is known to run it.
    ///
    /// # Errors
    /// If somebody else does, or nothing was heard of the lease for so long.
    pub(crate) async fn may_write(&self, patience: &Patience) -> Result<(), Error> {
        let is_held = |told: &Told| !self.is_all || told.lease.may_write(self.started.elapsed());
        self.wait(patience, is_held).await
    }

    /// Records a state: sometime, if it is kept elsewhere as well; else it is recorded when this returns.
    ///
    /// # Errors
    /// As [`Keeper::may_write`].
    pub(crate) async fn save(&self, state: &State, progress: Live, patience: &Patience) -> Result<(), Error> {
        self.wanted.send_replace(Arc::new(Wanted { state: state.clone(), progress, last: false }));
        if self.is_all { self.wait(patience, |told| told.saves >= state.saves).await } else { Ok(()) }
    }

    async fn wait(&self, patience: &Patience, is_so: impl Fn(&Told) -> bool) -> Result<(), Error> {
        let mut told = self.told.clone();
        tokio::select! {
            biased;
            Ok(told) = told.wait_for(|told| told.lost.is_some() || is_so(told)) => {
                told.lost.clone().map_or(Ok(()), |reason| Err(Error::Backfill(reason)))
            }
            () = patience.over() => {
                let why = self.told.borrow().trouble.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                Err(Error::Backfill(format!(
                    "nothing was heard of the bucket of backfills{why}, and nothing more is written: another may have taken over. What is done is \
                     kept; go on with `embed backfill resume`"
                )))
            }
        }
    }

    /// Ends when the run is to stop.
    pub(crate) fn asked(&self) -> impl Future<Output = ()> + use<> {
        let mut told = self.told.clone();
        async move {
            let is_over = |told: &Told| told.wish != Wish::Run || told.lost.is_some();
            if told.wait_for(is_over).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What is wanted, as far as it is known.
    pub(crate) fn wish(&self) -> Wish {
        self.told.borrow().wish
    }

    /// Records the last state of a run, and that nobody runs it any more.
    pub(crate) async fn close(self, state: &State, progress: Live) {
        self.wanted.send_replace(Arc::new(Wanted { state: state.clone(), progress, last: true }));
        if tokio::time::timeout(LAST_WORDS, self.task).await.is_err() {
            tracing::warn!(
                "the end of this run could not be recorded in time: others see it run until its lease is over"
            );
        }
    }
}

/// The task behind it.
struct Desk {
    store: Store,
    me: Runner,
    entry: Entry,
    revision: u64,
    started: Instant,
    is_all: bool,
    wanted: watch::Receiver<Arc<Wanted>>,
    told: watch::Sender<Told>,
    /// Since when nothing could be written or read, if that is so, and whether it was said.
    failing: Option<(Instant, bool)>,
}

impl Desk {
    async fn keep(mut self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let closed = tokio::select! {
                changed = self.wanted.changed() => changed.is_err(),
                _ = look.tick() => false,
            };
            let wanted = self.wanted.borrow_and_update().clone();
            let (saves, lease) = {
                let told = self.told.borrow();
                (told.saves, told.lease)
            };
            let is_new = wanted.last || wanted.state.saves > saves;
            let done = if is_new || lease.is_due(self.started.elapsed()) {
                self.write(&wanted).await
            } else {
                self.look().await.map(drop)
            };
            match done {
                // Whatever is tried again.
                Err(error) if is_denied(&error) || matches!(error, Error::Backfill(_) | Error::Unrecordable(_)) => {
                    return self.give_up(&error);
                }
                Err(error) => self.failed(&error),
                Ok(()) if wanted.last => return,
                Ok(()) => self.failing = None,
            }
            if closed || self.told.borrow().lost.is_some() {
                return;
            }
        }
    }

    /// Records what there is, and renews the lease.
    async fn write(&mut self, wanted: &Wanted) -> Result<(), Error> {
        self.store.keep(&mut self.entry, &wanted.state).await?;
        self.entry.progress = wanted.progress.clone();
        self.entry.runner = (!wanted.last).then(|| self.me.clone());
        for _ in 0..ATTEMPTS {
            let asked = self.started.elapsed();
            if let Some(revision) = self.store.put(&self.entry, self.revision).await? {
                self.revision = revision;
                self.told.send_modify(|told| {
                    told.lease.renew(asked);
                    told.saves = wanted.state.saves;
                    told.trouble = None;
                });
                return Ok(());
            }
            // Somebody wants something of it, or has taken over.
            if !self.look().await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sees what others have written. Returns whether this run is still the one that may write.
    async fn look(&mut self) -> Result<bool, Error> {
        let id = &self.entry.state.id;
        let lost = match self.store.get(id.as_str()).await? {
            Some(found) if found.revision == self.revision => return Ok(true),
            Some(found) => match &found.entry.runner {
                Some(runner) if runner.id == self.me.id => {
                    self.revision = found.revision;
                    self.entry.wish = found.entry.wish;
                    self.told.send_if_modified(|told| {
                        std::mem::replace(&mut told.wish, found.entry.wish) != found.entry.wish
                    });
                    return Ok(true);
                }
                Some(other) => format!("backfill {id} is run by {other} now: this run has written nothing since"),
                None => format!(
                    "backfill {id} was taken over by another run, which has ended: see `embed backfill status {id}`"
                ),
            },
            None => format!("backfill {id} was removed from the bucket of backfills by somebody else"),
        };
        self.told.send_modify(|told| told.lost = Some(lost));
        Ok(false)
    }

    /// No leader, or no connection: it is tried again, and said once it has lasted.
    fn failed(&mut self, error: &Error) {
        let (since, was_said) = *self.failing.get_or_insert_with(|| (Instant::now(), false));
        self.told.send_modify(|told| told.trouble = Some(error.to_string()));
        if !was_said && since.elapsed() >= self.me.lease() {
            self.failing = Some((since, true));
            tracing::warn!("{error}: how far this backfill is could not be recorded in the bucket for a while");
        }
    }

    /// The bucket can be used no more.
    fn give_up(&self, error: &Error) {
        if self.is_all {
            self.told.send_modify(|told| told.lost = Some(error.to_string()));
        } else {
            tracing::warn!("{error}: how far this backfill is is recorded beside its output only");
        }
    }
}

/// A runner that nobody has heard of.
pub(super) fn runner(lease: Duration) -> Runner {
    let id: JobId = embed_client::new_id();
    Runner {
        id,
        host: super::place::host(),
        pid: std::process::id(),
        place: super::place::place(),
        lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
    }
}
