//! Carries rollouts on. Any number of controllers may run; for each rollout one acts, and the others wait for its silence.

use std::time::Duration;

use embed_rollout::{
    Moved, Rollout,
    record::window_ms,
    shadow::ShadowVerdict,
    state::{Event, Holder, Phase, ShadowStage},
};
use embed_schemas::{Slug, shadow::ShadowCounts};

use super::{
    RolloutError, gate,
    known::Known,
    means::Means,
    milliseconds,
    server_time::ServerTime,
    shadow::{self, Shadowing},
    store::Store,
    watch::{Turn, Watch},
    weights::{self, Back, Set},
    workers::Serving,
};
use crate::route::Router;
use embed_client::Client;

/// How a controller works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Without a sign for so long, another controller takes over.
    pub lease: Duration,
    /// How long to wait for the candidate to be served, warm, and to publish statistics, before the rollout is refused. Also how
    /// long a change of weights is tried.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(30), patience: Duration::from_secs(60) }
    }
}

/// What a controller has to tell.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Something has happened.
    Event(&'a Rollout, &'a Event),
    /// The rollout has come to another step or state, by this controller or by a person while this one acts.
    Changed(&'a Rollout),
    /// Windows were judged.
    Windows {
        /// The rollout.
        rollout: &'a Rollout,
        /// Requests of baseline and candidate in this stage.
        requests: [u64; 2],
        /// The verdict, if it was a look.
        verdict: Option<&'a embed_rollout::Verdict>,
    },
    /// Texts were compared.
    Shadow {
        /// The rollout.
        rollout: &'a Rollout,
        /// All that was compared so far.
        counts: &'a ShadowCounts,
        /// What is said of it.
        verdict: &'a ShadowVerdict,
    },
    /// It waits for something, or for another controller.
    Waiting(&'a Rollout, String),
    /// Something failed, and is tried again.
    Trouble(String),
}

/// Carries rollouts on.
#[derive(Debug)]
pub struct Controller {
    client: Client,
    router: Router,
    store: Store,
    name: String,
    settings: Settings,
    time: ServerTime,
    known: Known,
}

/// What a turn has come to.
enum Turned {
    /// It is over.
    Over(Box<Rollout>),
    /// There is nothing to do for so long.
    Again(Duration),
}

/// What a controller remembers of the rollout that it carries on. All of it can be found out again.
#[derive(Debug, Default)]
struct Memory {
    /// The rollout that all this is about.
    id: String,
    watch: Option<Watch>,
    shadow: Option<Shadowing>,
    /// Whether the plan can decide, while that is being found out.
    power: Option<gate::Checking>,
    told: usize,
    /// Where others know the rollout to be.
    place: Option<Place>,
    /// This controller was the last that acted, as far as it knows: whatever a person does meanwhile is told by this one.
    acts: bool,
    /// Since when it has tried to change weights.
    moving_since: Option<u64>,
    waiting: Option<String>,
}

impl Memory {
    /// What is known of a rollout that was not seen before: nothing of any other.
    fn of(rollout: &Rollout) -> Self {
        Self { id: rollout.id.clone(), place: Some(place(rollout)), ..Self::default() }
    }

    /// Takes the place as known, and says whether it was not.
    fn comes_to(&mut self, rollout: &Rollout) -> bool {
        let now = Some(place(rollout));
        std::mem::replace(&mut self.place, now) != now
    }

    /// Another acts, or has changed the rollout: what was begun here is not ours any more.
    fn forget(&mut self) {
        self.watch = None;
        self.shadow = None;
        self.power = None;
        self.moving_since = None;
    }
}

impl Controller {
    /// A controller of this name, which no other has.
    #[must_use]
    pub fn new(client: &Client, router: Router, name: String, settings: Settings) -> Self {
        let (store, time) = (Store::new(client.nats().clone()), ServerTime::default());
        Self { client: client.clone(), router, store, name, settings, time, known: Known::default() }
    }

    /// The same, by another clock than this machine's. The server's time is what counts, so it may be off.
    #[must_use]
    pub fn by(self, time: ServerTime) -> Self {
        Self { time, ..self }
    }

    const fn means(&self) -> Means<'_> {
        Means {
            client: &self.client,
            router: &self.router,
            store: &self.store,
            time: &self.time,
            known: &self.known,
            lease: self.settings.lease,
        }
    }

    pub(super) fn holder(&self, now_ms: u64) -> Holder {
        let lease = milliseconds(self.settings.lease);
        Holder { name: self.name.clone(), until_ms: now_ms.saturating_add(lease) }
    }

    /// Carries the last rollout of a model on until it is over, or until `shutdown`; whatever has been reached stays as it is then,
    /// for another controller. Returns it as it stands.
    ///
    /// # Errors
    /// [`RolloutError::None`]. Whatever else fails is told and tried again.
    pub async fn run(
        &self,
        model: &Slug,
        shutdown: impl Future<Output = ()>,
        mut tell: impl FnMut(&Progress<'_>),
    ) -> Result<Rollout, RolloutError> {
        tokio::pin!(shutdown);
        let mut memory = Memory::default();
        loop {
            // Not in the middle of a turn: a change of weights that was begun is seen through.
            let pause = match self.turn(model, &mut memory, &mut tell).await {
                Ok(Turned::Over(rollout)) => return Ok(*rollout),
                Ok(Turned::Again(pause)) => pause,
                Err(error @ RolloutError::None { .. }) => return Err(error),
                Err(error) => {
                    tell(&Progress::Trouble(error.to_string()));
                    // Whatever was half done is read anew.
                    memory.watch = None;
                    memory.shadow = None;
                    Duration::from_secs(1)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                () = &mut shutdown => return self.let_go(model).await,
            }
        }
    }

    /// One turn: what is due is done.
    async fn turn(
        &self,
        model: &Slug,
        memory: &mut Memory,
        tell: &mut impl FnMut(&Progress<'_>),
    ) -> Result<Turned, RolloutError> {
        let last = self.time.ask(self.client.nats()).await?;
        let (revision, rollout) = self.store.get(model).await?;
        let mut rollout = rollout.ok_or_else(|| RolloutError::None { model: model.clone(), id: None })?;
        if memory.id != rollout.id {
            let old = std::mem::replace(memory, Memory::of(&rollout));
            if let Some(shadow) = old.shadow {
                shadow.end().await?;
            }
        }
        tell_events(&rollout, memory, tell);
        if rollout.outcome().is_some() {
            if let Some(shadow) = memory.shadow.take() {
                shadow.end().await?;
            }
            tell_place(&rollout, memory, tell);
            return Ok(Turned::Over(Box::new(rollout)));
        }
        let period = Duration::from_millis(u64::from(window_ms(&rollout)).clamp(200, 2_000));
        if let (Some(holder), false) = (&rollout.holder, rollout.may_act(&self.name, self.time.now_ms())) {
            let text = format!("controller {} acts; this one stands by", holder.name);
            tell_waiting(&rollout, memory, text, tell);
            memory.forget();
            // Whoever acts tells of it.
            memory.acts = false;
            memory.comes_to(&rollout);
            return Ok(Turned::Again(period));
        }
        // From here on nobody else acts, unless this takes longer than the lease: then its last write fails.
        let Some(revision) = self.claim(&mut rollout, revision).await? else {
            return Ok(Turned::Again(Duration::ZERO));
        };
        memory.acts = true;
        tell_place(&rollout, memory, tell);
        let turn = self.act(&mut rollout, memory, last, tell).await?;
        if rollout.outcome().is_none() {
            rollout.holder = Some(self.holder(self.time.now_ms()));
        }
        if self.store.put(&rollout, revision).await?.is_none() {
            // A person has changed it, or another has taken over: what was done here is forgotten, and what they want is done.
            memory.forget();
            return Ok(Turned::Again(Duration::ZERO));
        }
        tell_events(&rollout, memory, tell);
        tell_place(&rollout, memory, tell);
        if turn.windows > 0 {
            let verdict = turn.verdict.as_ref();
            tell(&Progress::Windows { rollout: &rollout, requests: turn.requests, verdict });
        }
        Ok(match rollout.phase {
            Phase::Ended { .. } => Turned::Over(Box::new(rollout)),
            Phase::Moving { .. } | Phase::RollingBack { .. } => Turned::Again(Duration::ZERO),
            _ if turn.more => Turned::Again(Duration::ZERO),
            _ => Turned::Again(period),
        })
    }

    /// Tells others that this one acts. `None` if somebody was faster.
    async fn claim(&self, rollout: &mut Rollout, revision: u64) -> Result<Option<u64>, RolloutError> {
        let now = self.time.now_ms();
        let half = self.settings.lease / 2;
        // As long as much of the lease is left, there is nothing to write.
        let fresh = rollout
            .holder
            .as_ref()
            .is_some_and(|holder| holder.name == self.name && holder.until_ms > now + milliseconds(half));
        if fresh {
            return Ok(Some(revision));
        }
        rollout.holder = Some(self.holder(now));
        Ok(self.store.put(rollout, revision).await?)
    }

    async fn act(
        &self,
        rollout: &mut Rollout,
        memory: &mut Memory,
        last: u64,
        tell: &mut impl FnMut(&Progress<'_>),
    ) -> Result<Turn, RolloutError> {
        if rollout.shadow().is_none()
            && let Some(shadow) = memory.shadow.take()
        {
            // A person has ended it.
            shadow.end().await?;
        }
        match rollout.phase.clone() {
            Phase::Shadowing(stage) => return self.shadow(rollout, &stage, last, memory, tell).await,
            Phase::Checking => self.check(rollout, last, memory, tell).await?,
            Phase::Moving { step, route_revision, .. } => {
                self.set_weights(rollout, step, route_revision, last, memory, tell).await?;
            }
            Phase::Holding(_) | Phase::Paused { .. } => {
                if memory.watch.as_ref().is_none_or(|watch| !watch.is_of(rollout)) {
                    memory.watch = Watch::begin(&self.means(), rollout).await?;
                }
                if let Some(watch) = &mut memory.watch {
                    return watch.turn(&self.means(), rollout, last).await;
                }
            }
            Phase::RollingBack { reason, .. } => {
                memory.watch = None;
                match weights::give_back(&self.router, rollout, &reason).await? {
                    Back::Done(silent) => {
                        self.warn_of(&silent, tell);
                        rollout.rolled_back(self.time.now_ms());
                    }
                    Back::NotOurs(why) => rollout.not_rolled_back(why, self.time.now_ms()),
                }
            }
            Phase::Ended { .. } => (),
        }
        Ok(Turn::default())
    }

    async fn check(
        &self,
        rollout: &mut Rollout,
        last: u64,
        memory: &mut Memory,
        tell: &mut impl FnMut(&Progress<'_>),
    ) -> Result<(), RolloutError> {
        let patience = milliseconds(self.settings.patience);
        // Since it was started, or resumed.
        let since = rollout.history.last().map_or(rollout.started_ms, |event| event.when_ms);
        let found = gate::check(&self.means(), rollout, &mut memory.power).await?;
        let now = self.time.now_ms();
        match found {
            gate::Found::Busy(what) => tell_waiting(rollout, memory, what, tell),
            gate::Found::NotYet(why) if now < since.saturating_add(patience) => {
                tell_waiting(rollout, memory, why, tell);
            }
            gate::Found::NotYet(why) | gate::Found::Never(why) => rollout.refused(why, now),
            gate::Found::Ready { sentence, route_revision, window_ms } => {
                rollout.config.plan.window = Duration::from_millis(u64::from(window_ms));
                match rollout.config.validate() {
                    Ok(()) if rollout.wants_shadow() => {
                        shadow::begin(&self.means(), rollout, sentence, route_revision, last).await?;
                    }
                    Ok(()) => rollout.checked(sentence, route_revision, now),
                    Err(error) => rollout.refused(error.to_string(), now),
                }
            }
        }
        Ok(())
    }

    async fn shadow(
        &self,
        rollout: &mut Rollout,
        stage: &ShadowStage,
        last: u64,
        memory: &mut Memory,
        tell: &mut impl FnMut(&Progress<'_>),
    ) -> Result<Turn, RolloutError> {
        if memory.shadow.as_ref().is_none_or(|shadow| !shadow.is_of(rollout)) {
            memory.shadow = Some(Shadowing::take_up(&self.client, rollout, stage));
        }
        let Some(shadow) = &mut memory.shadow else { return Ok(Turn::default()) };
        let found = shadow.turn(&self.means(), rollout, last).await?;
        if let Some(verdict) = &found.verdict {
            tell(&Progress::Shadow { rollout, counts: shadow.counts(), verdict });
        }
        if rollout.shadow().is_none() {
            memory.shadow = None;
        }
        Ok(Turn { more: found.more, ..Turn::default() })
    }

    async fn set_weights(
        &self,
        rollout: &mut Rollout,
        step: usize,
        route_revision: u64,
        last: u64,
        memory: &mut Memory,
        tell: &mut impl FnMut(&Progress<'_>),
    ) -> Result<(), RolloutError> {
        let since = *memory.moving_since.get_or_insert_with(|| self.time.now_ms());
        match weights::set(&self.router, rollout, step, route_revision).await {
            Ok(Set::Done(route_revision, silent)) => {
                self.warn_of(&silent, tell);
                let plan = &rollout.config.plan;
                let settle = milliseconds(plan.settle);
                let length = u64::from(window_ms(rollout)).max(1);
                let moved = Moved {
                    from_ms: (self.time.now_ms() + settle).div_ceil(length) * length,
                    route_revision,
                    // What came since is of the time that is left out.
                    stats_after: last,
                    versions: Serving::ask(&self.means(), rollout).await?.versions,
                };
                rollout.moved(moved, self.time.now_ms());
            }
            Ok(Set::Stuck(why)) => rollout.stuck(why, self.time.now_ms()),
            Err(error) => {
                let patience = milliseconds(self.settings.patience);
                if self.time.now_ms() < since.saturating_add(patience) {
                    return Err(error);
                }
                rollout.stuck(error.to_string(), self.time.now_ms());
            }
        }
        memory.moving_since = None;
        Ok(())
    }

    fn warn_of(&self, silent: &[String], tell: &mut impl FnMut(&Progress<'_>)) {
        let text = |server| format!("server {server} does not answer: run `embed route sync` when it is back");
        silent.iter().for_each(|server| tell(&Progress::Trouble(text(server))));
    }

    /// Leaves the rollout to others, at once.
    async fn let_go(&self, model: &Slug) -> Result<Rollout, RolloutError> {
        let (revision, rollout) = self.store.get(model).await?;
        let mut rollout = rollout.ok_or_else(|| RolloutError::None { model: model.clone(), id: None })?;
        if rollout.holder.as_ref().is_some_and(|holder| holder.name == self.name) {
            rollout.holder = None;
            // If somebody was faster, it is not ours any more anyway.
            self.store.put(&rollout, revision).await?;
        }
        Ok(rollout)
    }
}

/// What a rollout is doing, and at which step.
type Place = (&'static str, Option<usize>);

fn place(rollout: &Rollout) -> Place {
    let step = match &rollout.phase {
        Phase::Moving { step, .. } | Phase::Paused { step, .. } => Some(*step),
        Phase::Holding(stage) => Some(stage.step),
        _ => None,
    };
    (rollout.phase.as_str(), step)
}

fn tell_events(rollout: &Rollout, memory: &mut Memory, tell: &mut impl FnMut(&Progress<'_>)) {
    for event in rollout.history.iter().skip(memory.told) {
        tell(&Progress::Event(rollout, event));
        memory.waiting = None;
    }
    memory.told = rollout.history.len();
}

/// Says that the rollout has come to another place, if this controller is the one that tells of it.
fn tell_place(rollout: &Rollout, memory: &mut Memory, tell: &mut impl FnMut(&Progress<'_>)) {
    if memory.comes_to(rollout) && memory.acts {
        tell(&Progress::Changed(rollout));
    }
}

/// Says once what is waited for.
fn tell_waiting(rollout: &Rollout, memory: &mut Memory, text: String, tell: &mut impl FnMut(&Progress<'_>)) {
    if memory.waiting.as_ref() != Some(&text) {
        tell(&Progress::Waiting(rollout, text.clone()));
        memory.waiting = Some(text);
    }
}

#[cfg(test)]
mod tests {
    use embed_rollout::{Config, state::Start};

    use super::*;

    fn rollout(id: &str) -> Rollout {
        let slug = |name: &str| name.parse::<Slug>().unwrap();
        let start = Start {
            id: id.to_owned(),
            model: slug("m"),
            from: slug("a"),
            to: slug("b"),
            lanes: Vec::new(),
            config: Config::default(),
            who: "me".to_owned(),
            note: None,
        };
        Rollout::begin(start, 0).unwrap()
    }

    #[test]
    fn what_a_person_changes_is_told_by_whoever_acts_and_once() {
        let mut rollout = rollout("1");
        let [mut acts, mut stands_by] = [true, false].map(|acts| Memory { acts, ..Memory::of(&rollout) });
        rollout.abort("me", 1).unwrap();
        let mut told = Vec::new();
        for _ in 0..2 {
            for memory in [&mut acts, &mut stands_by] {
                tell_place(&rollout, memory, &mut |progress: &Progress<'_>| told.push(format!("{progress:?}")));
            }
        }
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("Changed"), "{told:?}");
    }
}
