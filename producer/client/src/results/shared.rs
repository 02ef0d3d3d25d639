//! One subscription and one look for all outcomes that a client waits for.
//!
//! The stream is the truth, and everything is read from it: several outcomes in one look, which the server answers with those that are
//! there. How long it takes until the next look depends on how long an outcome has been waited for. A job may ask for a copy of its
//! outcome to be sent here; that is heard at once, and is a reason to look, no more: anybody could have sent it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{Client, Message, connection::State as Connection};
use bytes::Bytes;
use embed_connect::{Refusal, Refusals};
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::Instant,
};

use crate::nats::stored::Stored;

/// The longest and the shortest pause between two looks for one outcome.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks passes this part of the time for which an outcome has been waited for: so much later may it be known.
const OF_AGE: u32 = 10;
/// And no more than this part of the time since another came: while they do, the next is not far.
const OF_QUIET: u32 = 4;
/// What was heard of is there, or the server that was asked lags behind for a moment. The pause doubles.
const HEARD_PAUSE: Duration = Duration::from_millis(5);
/// What is due so soon is looked for at once, with what is due.
const TOGETHER: Duration = Duration::from_millis(10);
/// For one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// For handing a question to the connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// After a question for several was not understood, or not answered, it is not asked for so long. A lost connection may be why.
const ONE_BY_ONE: Duration = Duration::from_secs(60);
/// So often in a row nobody has to be there to answer for several at once before it is not asked for: there may be no leader.
const SILENT: u32 = 5;
/// The same as [`ONE_BY_ONE`] after it was refused: permissions seldom change.
const REFUSED: Duration = Duration::from_secs(3_600);
/// Bytes in the answer to one look, about. What is more comes with the next.
const MOST_BYTES: usize = 8 << 20;
/// Outcomes in one look at most. The server would answer up to 1024.
const MOST: usize = 256;

/// What waits for outcomes, and where they come in. One for each client.
#[derive(Debug)]
pub(super) struct Shared {
    nats: Client,
    inbox: String,
    state: Mutex<State>,
    changed: Notify,
}

/// The task that looks. It ends with the last of the client's clones.
#[derive(Debug)]
pub(crate) struct Looking {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    /// When the last outcome was found, by stream.
    came: HashMap<String, Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    stream: String,
    subject: String,
    since: Instant,
    /// When it is looked for next; `None` while it is.
    due: Option<Instant>,
    /// The next pause, if a copy was heard.
    hurry: Option<Duration>,
    found: oneshot::Sender<Stored>,
}

/// One outcome that is waited for. Dropped, it is not any more.
#[derive(Debug)]
pub(super) struct Wanted {
    looking: Arc<Looking>,
    number: u64,
    /// `None` once it is answered.
    found: Option<oneshot::Receiver<Stored>>,
}

/// A look that is not answered yet.
#[derive(Debug)]
struct Look {
    stream: String,
    /// Who waits, by the subject of the outcome.
    wanted: HashMap<String, Vec<u64>>,
    /// Whether any was there.
    found: bool,
    until: Instant,
}

impl Looking {
    pub(super) async fn start(nats: &Client) -> Result<Self, async_nats::SubscribeError> {
        let inbox = nats.new_inbox();
        let messages = nats.subscribe(format!("{inbox}.*.*")).await?;
        let shared = Arc::new(Shared { nats: nats.clone(), inbox, state: Mutex::default(), changed: Notify::new() });
        let task = tokio::spawn(look_out(Arc::clone(&shared), messages)).abort_handle();
        Ok(Self { shared, task })
    }

    /// Waits for what will be stored in this stream on this subject, or is already.
    pub(super) fn want(self: &Arc<Self>, stream: &str, subject: &str) -> Wanted {
        let number = {
            let mut state = self.shared.state.lock();
            state.next += 1;
            state.next
        };
        Wanted { looking: Arc::clone(self), number, found: Some(self.wait(number, stream, subject)) }
    }

    fn wait(&self, number: u64, stream: &str, subject: &str) -> oneshot::Receiver<Stored> {
        let (found, receiver) = oneshot::channel();
        let now = Instant::now();
        let waiting = Waiting {
            stream: stream.to_owned(),
            subject: subject.to_owned(),
            since: now,
            due: Some(now),
            hurry: None,
            found,
        };
        let mut state = self.shared.state.lock();
        // After the end of the connection, the sender is dropped here, and who waits hears of it.
        if !state.closed {
            state.waiting.insert(number, waiting);
        }
        drop(state);
        self.shared.changed.notify_one();
        receiver
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wanted {
    /// The subject for a copy of the outcome.
    pub(super) fn copy_subject(&self) -> String {
        format!("{}.copy.{}", self.looking.shared.inbox, self.number)
    }

    /// What was found is not it: it is waited for once more.
    pub(super) fn again(&mut self, stream: &str, subject: &str) {
        self.found = Some(self.looking.wait(self.number, stream, subject));
    }

    /// The message that is stored, once. `None` if the connection is closed.
    pub(super) async fn found(&mut self) -> Option<Stored> {
        let found = self.found.as_mut()?.await;
        self.found = None;
        found.ok()
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.looking.shared.state.lock().waiting.remove(&self.number);
    }
}

impl Waiting {
    fn look_again(&mut self, now: Instant, came: Option<Instant>) {
        let pause = pause(now - self.since, came.map(|came| now - came));
        let hurry = self.hurry.filter(|hurry| *hurry < pause);
        self.hurry = hurry.map(|hurry| hurry * 2);
        self.due = Some(now + hurry.unwrap_or(pause));
    }
}

/// How long it is not looked for what has been waited for so long, while the last outcome of others came so long ago.
fn pause(age: Duration, quiet: Option<Duration>) -> Duration {
    let of_quiet = quiet.map_or(LONGEST_PAUSE, |quiet| quiet / OF_QUIET);
    (age / OF_AGE).min(of_quiet).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

impl State {
    fn due(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|waiting| waiting.due).min()
    }

    /// What is to be looked for now, by stream and subject.
    fn take_due(&mut self, now: Instant) -> HashMap<String, HashMap<String, Vec<u64>>> {
        let mut all: HashMap<String, HashMap<String, Vec<u64>>> = HashMap::new();
        if self.due().is_some_and(|due| due <= now) {
            for (number, waiting) in &mut self.waiting {
                if waiting.due.take_if(|due| *due <= now + TOGETHER).is_some() {
                    let subjects = all.entry(waiting.stream.clone()).or_default();
                    subjects.entry(waiting.subject.clone()).or_default().push(*number);
                }
            }
        }
        all
    }

    /// A copy came: the outcome is there.
    fn heard(&mut self, number: u64, now: Instant) {
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.hurry = Some(HEARD_PAUSE);
            waiting.due = waiting.due.map(|_| now);
        }
    }
}

/// Looks for all that is waited for, until the connection is closed.
async fn look_out(shared: Arc<Shared>, mut messages: async_nats::Subscriber) {
    let refusals = Refusals::of(&shared.nats);
    let mut lookout = Lookout {
        shared,
        looks: HashMap::new(),
        next: 0,
        one_by_one: HashMap::new(),
        silent: HashMap::new(),
        wake: None,
        refusals,
    };
    loop {
        let wake = lookout.wake;
        let several = lookout.several();
        let refusable: Vec<&str> = several.iter().map(String::as_str).collect();
        let message = tokio::select! {
            message = messages.next() => match message {
                Some(message) => Some(message),
                None => break,
            },
            () = lookout.shared.changed.notified() => None,
            refusal = lookout.refusals.concerning(&refusable), if !refusable.is_empty() => {
                lookout.refused(&refusal);
                None
            }
            () = async { tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => None,
        };
        // An answer to a look changes nothing of what is due, until it is the last.
        if message.is_none_or(|message| lookout.take(message)) {
            lookout.end_late_looks();
            lookout.look().await;
            lookout.wake = lookout.next();
        }
    }
    let mut state = lookout.shared.state.lock();
    state.closed = true;
    state.waiting.clear();
}

struct Lookout {
    shared: Arc<Shared>,
    looks: HashMap<u64, Look>,
    next: u64,
    /// When something is to be done next.
    wake: Option<Instant>,
    /// Streams of servers that cannot answer for several outcomes at once, or may not be asked, and until when that is taken to be so.
    one_by_one: HashMap<String, Instant>,
    /// How often in a row nobody was there to answer for several at once.
    silent: HashMap<String, u32>,
    /// What the server does not permit, from the last that was heard of on.
    refusals: Refusals,
}

impl Lookout {
    /// Where several outcomes are being asked for at once: that reads a whole stream, and a permission that names subjects does not allow it.
    fn several(&self) -> Vec<String> {
        let several = self.looks.values().filter(|look| look.wanted.len() > 1);
        let mut subjects: Vec<_> = several.map(|look| self.question(&look.stream)).collect();
        subjects.sort();
        subjects.dedup();
        subjects
    }

    fn question(&self, stream: &str) -> String {
        embed_connect::api_subject(&self.shared.nats, &format!("DIRECT.GET.{stream}"))
    }

    /// What is not permitted is not tried again soon.
    fn refused(&mut self, refusal: &Refusal) {
        self.refusals = Refusals::of(&self.shared.nats);
        let now = Instant::now();
        let of = |look: &Look| look.wanted.len() > 1 && self.question(&look.stream) == refusal.subject;
        let refused: Vec<_> = self.looks.iter().filter(|(_, look)| of(look)).map(|(number, _)| *number).collect();
        for number in refused {
            self.one_by_one.insert(self.looks[&number].stream.clone(), now + REFUSED);
            self.end(number);
        }
    }

    fn next(&self) -> Option<Instant> {
        self.looks.values().map(|look| look.until).chain(self.shared.state.lock().due()).min()
    }

    /// Takes what came in. Whether something may be due now.
    fn take(&mut self, message: Message) -> bool {
        let of = message.subject.strip_prefix(self.shared.inbox.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let Some((kind, number)) = of.and_then(|of| of.split_once('.')) else { return false };
        let Ok(number) = number.parse() else { return false };
        let is_copy = kind == "copy";
        if is_copy {
            self.shared.state.lock().heard(number, Instant::now());
        } else {
            self.answered(number, message);
        }
        is_copy || !self.looks.contains_key(&number)
    }

    fn answered(&mut self, number: u64, message: Message) {
        let Some(look) = self.looks.get_mut(&number) else { return };
        if let Some(status) = message.status {
            let (stream, now) = (look.stream.clone(), Instant::now());
            match (status.as_u16(), look.wanted.len()) {
                // A request that the server does not understand.
                (400 | 408 | 413, _) => {
                    self.one_by_one.insert(stream, now + ONE_BY_ONE);
                }
                // No leader; or nobody who answers for several at once, as where an account gets one result by its subject and no more.
                (503, 2..) => {
                    let times = self.silent.entry(stream.clone()).or_default();
                    *times += 1;
                    if *times >= SILENT {
                        *times = 0;
                        self.one_by_one.insert(stream, now + ONE_BY_ONE);
                    }
                }
                // No leader, then.
                (503, _) => self.one_by_one.retain(|of, until| *of != stream || *until > now + ONE_BY_ONE),
                // The end (204), nothing found (404).
                _ => {
                    self.silent.remove(&stream);
                }
            }
            return self.end(number);
        }
        let Some(message) = Stored::of(message) else { return };
        let Some(numbers) = look.wanted.remove(&message.subject) else { return };
        look.found = true;
        self.silent.remove(&look.stream);
        let is_over = look.wanted.is_empty();
        let mut state = self.shared.state.lock();
        for waiting in numbers.iter().filter_map(|number| state.waiting.remove(number)) {
            let _ = waiting.found.send(message.clone());
        }
        drop(state);
        if is_over {
            self.end(number);
        }
    }

    /// A look is over: what it did not find is looked for later.
    fn end(&mut self, number: u64) {
        let Some(look) = self.looks.remove(&number) else { return };
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        let State { waiting, came, .. } = &mut *state;
        if look.found && !self.one_by_one.contains_key(&look.stream) {
            came.insert(look.stream.clone(), now);
            // Where one came, others will.
            for other in waiting.values_mut().filter(|other| other.stream == look.stream) {
                other.due = other.due.map(|due| due.min(now + SHORTEST_PAUSE));
            }
        }
        for number in look.wanted.values().flatten() {
            if let Some(waiting) = waiting.get_mut(number) {
                let came = came.get(&look.stream).copied().filter(|_| !self.one_by_one.contains_key(&look.stream));
                waiting.look_again(now, came);
            }
        }
    }

    fn end_late_looks(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> =
            self.looks.iter().filter(|(_, look)| look.until <= now).map(|(number, _)| *number).collect();
        for number in late {
            let look = &self.looks[&number];
            if look.wanted.len() > 1 {
                self.one_by_one.insert(look.stream.clone(), now + ONE_BY_ONE);
            }
            self.end(number);
        }
    }

    async fn look(&mut self) {
        let now = Instant::now();
        let due = self.shared.state.lock().take_due(now);
        for (stream, wanted) in due {
            self.one_by_one.retain(|_, until| *until > now);
            let most = if self.one_by_one.contains_key(&stream) { 1 } else { MOST };
            let mut wanted = wanted.into_iter().peekable();
            while wanted.peek().is_some() {
                let part = wanted.by_ref().take(most).collect();
                self.begin(stream.clone(), part, now).await;
            }
        }
    }

    async fn begin(&mut self, stream: String, wanted: HashMap<String, Vec<u64>>, now: Instant) {
        let number = self.next;
        self.next += 1;
        let subjects: Vec<&str> = wanted.keys().map(String::as_str).collect();
        let (call, payload) = match subjects.as_slice() {
            [one] => (format!("DIRECT.GET.{stream}.{one}"), Bytes::new()),
            several => {
                let several = json!({ "multi_last": several, "max_bytes": MOST_BYTES });
                (format!("DIRECT.GET.{stream}"), several.to_string().into())
            }
        };
        let subject = embed_connect::api_subject(&self.shared.nats, &call);
        let reply = format!("{}.get.{number}", self.shared.inbox);
        self.looks.insert(number, Look { stream, wanted, found: false, until: now + LOOK_TIMEOUT });
        let nats = &self.shared.nats;
        // What is sent while the server is away would pile up.
        let sent = nats.connection_state() == Connection::Connected
            && matches!(
                tokio::time::timeout(SEND_TIMEOUT, nats.publish_with_reply(subject, reply, payload)).await,
                Ok(Ok(()))
            );
        if !sent {
            self.end(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_get_rarer_with_the_time_that_is_waited_for() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(0), None), SHORTEST_PAUSE);
        assert_eq!(pause(ms(1_000), None), ms(100));
        assert_eq!(pause(ms(3_600_000), None), LONGEST_PAUSE);
        assert_eq!(pause(ms(3_600_000), Some(ms(400))), ms(100), "while others come, it is not far");
        assert_eq!(pause(ms(1_000), Some(ms(3_600_000))), ms(100));
    }
}
