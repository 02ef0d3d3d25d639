//! Who may ask, and how much: keys, their limits, and shares of what is under way.

pub(crate) mod bucket;
pub(crate) mod keys;
pub(crate) mod shares;
pub(crate) mod watch;

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use embed_schemas::Slug;
use keys::{Account, UsedUp};
use parking_lot::Mutex;
use shares::{Shares, Who};

use crate::{error::ApiError, settings::Bounds};

/// The name under which those stand who need no key.
const ANYBODY: &str = "anybody";

/// Whoever sent a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `None`: no keys are asked for.
    account: Option<Arc<Account>>,
}

impl Caller {
    pub(crate) const fn new(account: Option<Arc<Account>>) -> Self {
        Self { account }
    }

    /// The key's name.
    pub(crate) fn name(&self) -> Who {
        static WHO: LazyLock<Who> = LazyLock::new(|| ANYBODY.into());
        self.account.as_ref().map_or_else(|| Arc::clone(&WHO), |account| Arc::clone(&account.name))
    }

    /// The key's name, if there is a key.
    pub(crate) fn key(&self) -> Option<&str> {
        self.account.as_ref().map(|account| &*account.name)
    }

    /// Bytes that a body of its may have.
    pub(crate) fn max_body(&self, bounds: &Bounds) -> usize {
        self.limit(|account| account.limits.max_body_bytes).unwrap_or(bounds.body).min(bounds.body)
    }

    /// Texts that a request of its may have.
    pub(crate) fn max_inputs(&self, bounds: &Bounds) -> usize {
        self.limit(|account| account.limits.max_inputs).unwrap_or(bounds.inputs).min(bounds.inputs)
    }

    fn limit<T>(&self, of: impl FnOnce(&Account) -> Option<T>) -> Option<T> {
        self.account.as_deref().and_then(of)
    }

    /// Whether it may ask this model. What it may not ask, it is not told of either.
    pub(crate) fn may_ask(&self, model: &Slug) -> bool {
        let models = self.account.as_ref().and_then(|account| account.limits.models.as_ref());
        models.is_none_or(|models| models.contains(model))
    }

    /// Whether its vectors are kept where others find them, and it finds theirs: everybody's, where there are no keys.
    pub(crate) fn shares_vectors(&self) -> bool {
        self.account.as_ref().is_none_or(|account| account.limits.vectors)
    }

    /// Takes a request from what is left to it, whatever becomes of it: who sends what has to be refused is bounded, too.
    pub(crate) fn begin(&self) -> Result<(), ApiError> {
        match &self.account {
            Some(account) => account.take_request(now()).map_err(|used| used_up(account, &used)),
            None => Ok(()),
        }
    }

    /// Takes so many tokens, by estimate, from what is left to it.
    pub(crate) fn take(&self, tokens: u64) -> Result<Charge, ApiError> {
        if let Some(account) = &self.account {
            account.take_tokens(tokens, now()).map_err(|used| used_up(account, &used))?;
        }
        Ok(Charge { account: self.account.clone(), tokens })
    }

    /// Takes requests with so many tokens of what can wait, as they come to be spare, with pauses of at most `longest` between two looks.
    pub(crate) async fn take_spare(&self, mut requests: u64, tokens: u64, longest: Duration) -> Charge {
        let mut left = tokens;
        while let Some(account) = self.account.as_ref().filter(|_| requests > 0 || left > 0) {
            match account.take_spare(requests, left, now()) {
                Ok(taken) => {
                    requests -= taken[0];
                    left -= taken[1];
                }
                Err(pause) => tokio::time::sleep(pause.min(longest)).await,
            }
        }
        Charge { account: self.account.clone(), tokens }
    }

    /// What is left of the limits, under the names that OpenAI gives it.
    pub(crate) fn tell_limits(&self, headers: &mut HeaderMap) {
        let Some(account) = &self.account else { return };
        let limits = [account.limits.requests_per_minute, account.limits.tokens_per_minute];
        let names = [
            ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
            ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"),
        ];
        for (((of_limit, of_left), limit), left) in names.into_iter().zip(limits).zip(account.left()) {
            if let (Some(limit), Some(left)) = (limit, left) {
                headers.insert(of_limit, HeaderValue::from(limit));
                headers.insert(of_left, HeaderValue::from(left));
            }
        }
    }
}

fn used_up(account: &Account, used: &UsedUp) -> ApiError {
    let message =
        format!("the limit of {} {} a minute of the key {:?} is used up", used.limit, used.what, &*account.name);
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message).after(used.again)
}

/// Tokens that were taken by estimate.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Option<Arc<Account>>,
    tokens: u64,
}

impl Charge {
    /// So many it were indeed.
    pub(crate) fn settle(self, used: u64) {
        if let Some(account) = &self.account {
            account.settle(self.tokens, used);
        }
    }
}

/// Tokens of texts, where only their bytes are known.
pub(crate) fn estimate(texts: &[String]) -> u64 {
    texts.iter().map(|text| text.len() as u64 / 4 + 2).sum()
}

/// Room for what is under way: texts, or units of bodies.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Mutex<Shares>>);

/// Room that was taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Room,
    who: Who,
    taken: usize,
}

impl Room {
    /// For so many texts; a request that has more gets in when nothing else is.
    pub(crate) fn of_texts(texts: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(texts))))
    }

    /// For so many bytes of bodies, and of what is read of them.
    pub(crate) fn of_bodies(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::strict(bytes))))
    }

    /// Takes room for so many texts.
    pub(crate) fn enter(&self, caller: &Caller, texts: usize) -> Result<Place, ApiError> {
        let message = "the gateway has as many texts under way as it may; try again soon, or send fewer at once";
        let mut place = self.nothing_of(caller);
        if place.grow(texts) { Ok(place) } else { Err(overloaded(message)) }
    }

    /// A place that has taken nothing yet.
    pub(crate) fn nothing_of(&self, caller: &Caller) -> Place {
        Place { room: self.clone(), who: caller.name(), taken: 0 }
    }

    /// How much is under way.
    pub(crate) fn taken(&self) -> usize {
        self.0.lock().taken()
    }
}

impl Place {
    /// Takes so much more. Whether it was there.
    pub(crate) fn grow(&mut self, by: usize) -> bool {
        let is_there = self.room.0.lock().enter(&self.who, by, now());
        self.taken += if is_there { by } else { 0 };
        is_there
    }

    /// How much it has taken.
    pub(crate) const fn taken(&self) -> usize {
        self.taken
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.0.lock().leave(&self.who, self.taken);
    }
}

/// There is no room, for a moment.
pub(crate) fn overloaded(message: &str) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message).after(Duration::from_secs(1))
}

/// The time since the program began to look at it.
fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}
