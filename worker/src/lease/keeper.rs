//! Keeps the server informed of every message that is in the worker, and is the only one that sends it acknowledgements.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::Subject;
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::delivery::Delivery;
use crate::{
    connection::Connection,
    supervise::{Supervisor, Task},
};

/// Progress is reported three times within each `ack_wait`.
const REPORTS: u32 = 3;
/// So often it is looked what is due. The shortest `ack_wait` that can be kept is a few times as long.
const TICK: Duration = Duration::from_millis(100);

/// For what is still to be said when the keeper has died.
const LAST_WORDS: Duration = Duration::from_millis(250);

const PROGRESS: &[u8] = b"+WPI";

/// Knows every message that is in the worker. Clones are the same.
#[derive(Debug, Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    held: Mutex<HashMap<u64, Entry>>,
    orders: mpsc::UnboundedSender<Order>,
    connection: Connection,
    died: AtomicBool,
}

#[derive(Debug)]
struct Entry {
    reply: Subject,
    period: Duration,
    due: Instant,
    on_give_back: Option<(Subject, Bytes)>,
}

#[derive(Debug)]
enum Order {
    Send(Subject, Bytes),
    /// Something is held: reports may become due.
    Wake,
    /// Answered when everything before is handed to the connection.
    Flush(oneshot::Sender<()>),
}

/// The keeper's part of a lease. Dropped, it gives the message back.
#[derive(Debug)]
pub(super) struct Held {
    shared: Arc<Shared>,
    number: u64,
}

impl Keeper {
    /// A keeper that talks over this connection.
    #[must_use]
    pub fn start(connection: Connection, supervisor: &Supervisor) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            held: Mutex::default(),
            orders,
            connection,
            died: AtomicBool::new(false),
        });
        let task = supervisor.spawn("the keeper of leases", keep(Arc::clone(&shared), received));
        Self { shared, _task: Arc::new(task) }
    }

    /// From now on the server hears that this message is being worked on.
    pub(super) fn hold(&self, reply: Subject, ack_wait: Duration) -> Held {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let period = (ack_wait / REPORTS).max(TICK);
        let entry = Entry { reply, period, due: Instant::now() + period, on_give_back: None };
        let mut held = self.shared.held.lock();
        held.insert(number, entry);
        let first = held.len() == 1;
        drop(held);
        if first {
            let _ = self.shared.orders.send(Order::Wake);
        }
        Held { shared: Arc::clone(&self.shared), number }
    }

    /// How many messages are in the worker.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.held.lock().len()
    }

    /// Which messages are in the worker.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.held.lock().values().filter_map(|entry| Delivery::parse(&entry.reply)).collect()
    }

    /// Gives back everything that is in the worker, and says how many messages that were. For when there is no time to finish, or
    /// something died: it may be the task that says what else is to be said, so this needs none.
    pub async fn give_back_all(&self) -> usize {
        let held: Vec<Entry> = self.shared.held.lock().drain().map(|(_, entry)| entry).collect();
        let count = held.len();
        for (subject, payload) in held.iter().flat_map(|entry| entry.back(Duration::ZERO, self.shared.has_died())) {
            send(&self.shared.connection, subject, payload).await;
        }
        count
    }

    /// Something in the worker has died, and what ran alone may be why, as where a worker is killed. From now on, attempts that have begun
    /// are not taken back.
    pub fn died(&self) {
        self.shared.died.store(true, Ordering::SeqCst);
    }

    /// Waits until everything that was to be said is handed to the connection.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.shared.orders.send(Order::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }
}

impl Entry {
    /// What is said to give it back; if something died, without taking back the attempt that has begun.
    fn back(&self, delay: Duration, died: bool) -> Vec<(Subject, Bytes)> {
        let nak = match delay.as_nanos() {
            0 => Bytes::from_static(b"-NAK"),
            delay => format!("-NAK {{\"delay\": {delay}}}").into(),
        };
        let on_give_back = self.on_give_back.iter().filter(|_| !died).cloned();
        on_give_back.chain([(self.reply.clone(), nak)]).collect()
    }
}

impl Shared {
    /// Whether something has died, or is about to.
    fn has_died(&self) -> bool {
        self.died.load(Ordering::SeqCst) || std::thread::panicking()
    }

    /// What is due to be reported.
    fn due(&self, now: Instant) -> Vec<Subject> {
        let mut held = self.held.lock();
        let due = held.values_mut().filter(|entry| entry.due <= now);
        due.map(|entry| {
            entry.due = now + entry.period;
            entry.reply.clone()
        })
        .collect()
    }
}

impl Held {
    /// What is said beside it if the message is given back. `false` if it has been already.
    pub(super) fn on_give_back(&mut self, message: Option<(Subject, Bytes)>) -> bool {
        let mut held = self.shared.held.lock();
        let entry = held.get_mut(&self.number);
        let is_held = entry.is_some();
        if let Some(entry) = entry {
            entry.on_give_back = message;
        }
        is_held
    }

    pub(super) fn end(self, acknowledgement: Bytes) {
        self.conclude(|entry| vec![(entry.reply.clone(), acknowledgement)]);
    }

    pub(super) fn give_back(self, delay: Duration) {
        self.conclude(|entry| entry.back(delay, self.shared.has_died()));
    }

    /// Says this to the server, and ends the holding. If nobody is left to say it, the message is held until [`Keeper::give_back_all`].
    fn conclude(&self, messages: impl FnOnce(&Entry) -> Vec<(Subject, Bytes)>) {
        let mut held = self.shared.held.lock();
        let Some(entry) = held.get(&self.number) else { return };
        let mut messages = messages(entry).into_iter();
        if messages.all(|(subject, payload)| self.shared.orders.send(Order::Send(subject, payload)).is_ok()) {
            held.remove(&self.number);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.conclude(|entry| entry.back(Duration::ZERO, self.shared.has_died()));
    }
}

async fn keep(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut current = None;
    let kept = AssertUnwindSafe(keep_informed(&shared, &mut orders, &mut current)).catch_unwind().await;
    if let Err(panic) = kept {
        // Somebody waits for each of what was still to be said.
        orders.close();
        let rest = async {
            for order in current.into_iter().chain(std::iter::from_fn(|| orders.try_recv().ok())) {
                if let Order::Send(subject, payload) = order {
                    send(&shared.connection, subject, payload).await;
                }
            }
        };
        // Without a server, it cannot be said.
        let _ = timeout(LAST_WORDS, rest).await;
        resume_unwind(panic);
    }
}

/// Does it, until nothing more can come. `current` is what is being said.
async fn keep_informed(shared: &Shared, orders: &mut mpsc::UnboundedReceiver<Order>, current: &mut Option<Order>) {
    let connection = &shared.connection;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Nothing to report, nothing to wake for.
        let idle = shared.held.lock().is_empty();
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Send(subject, payload)) => {
                    *current = Some(Order::Send(subject.clone(), payload.clone()));
                    send(connection, subject, payload).await;
                    *current = None;
                }
                Some(Order::Wake) => {}
                Some(Order::Flush(done)) => drop(done.send(())),
                None => return,
            },
            _ = ticks.tick(), if !idle => {
                // A server that is not there would get the reports of all the time that it was not.
                if connection.is_up() {
                    for reply in shared.due(Instant::now()) {
                        send(connection, reply, Bytes::from_static(PROGRESS)).await;
                    }
                }
            }
        }
    }
}

async fn send(connection: &Connection, subject: Subject, payload: Bytes) {
    tracing::trace!(%subject, ?payload, "acknowledge");
    if let Err(error) = connection.client.publish(subject, payload).await {
        tracing::warn!(%error, "an acknowledgement could not be sent");
    }
}
