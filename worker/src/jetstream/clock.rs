//! The server's time: ages of messages are told by it alone, since a worker's clock may be wrong, and may jump.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;

/// A time that took so much longer to arrive than the best one is no better than that, until the best one is old.
const WORSE: u32 = 2;
/// Two computers' oscillators differ by a few parts in a hundred thousand: milliseconds in this time.
const OLD: Duration = Duration::from_secs(120);

/// What time it is at the server, as far as it has told. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct ServerClock(Arc<Mutex<Option<Reading>>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// What the server said.
    server: SystemTime,
    /// When it said so, by the monotonic clock.
    here: Instant,
    /// How long question and answer took: it may be wrong by half of it.
    round_trip: Duration,
}

impl ServerClock {
    /// Notes what the server said in answer to a question that was `asked` then, and `answered` then.
    pub fn heard(&self, server: SystemTime, asked: Instant, answered: Instant) {
        let round_trip = answered.saturating_duration_since(asked);
        let here = asked + round_trip / 2;
        let mut reading = self.0.lock();
        let keeps = reading.is_some_and(|best| {
            round_trip > best.round_trip * WORSE && here.saturating_duration_since(best.here) < OLD
        });
        if !keeps {
            *reading = Some(Reading { server, here, round_trip });
        }
    }

    /// The server's time at `now`. This machine's clock, `local`, as long as the server has said nothing.
    #[must_use]
    pub fn at(&self, now: Instant, local: SystemTime) -> SystemTime {
        match *self.0.lock() {
            Some(Reading { server, here, .. }) => match now.checked_duration_since(here) {
                Some(since) => server + since,
                None => server - here.duration_since(now),
            },
            None => local,
        }
    }

    /// How long ago, by the server's time, a message was published. Zero if that lies in the future.
    #[must_use]
    pub fn age(&self, published: SystemTime) -> Duration {
        self.at(Instant::now(), SystemTime::now()).duration_since(published).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn the_server_is_believed_and_not_this_machine() {
        let (clock, now) = (ServerClock::default(), Instant::now() + Duration::from_secs(1000));
        assert_eq!(clock.at(now, EPOCH), EPOCH, "nothing is known yet");
        let ms = Duration::from_millis;
        let server = EPOCH + Duration::from_secs(5000);
        clock.heard(server, now, now + ms(10));
        assert_eq!(clock.at(now + ms(5), EPOCH), server);
        assert_eq!(clock.at(now + ms(1005), EPOCH), server + ms(1000));
        assert_eq!(clock.at(now, EPOCH), server - ms(5), "before it was heard");
    }

    #[test]
    fn a_slow_answer_does_not_replace_a_quick_one_until_that_is_old() {
        let (clock, now) = (ServerClock::default(), Instant::now() + Duration::from_secs(1000));
        let (ms, server) = (Duration::from_millis, EPOCH + Duration::from_secs(5000));
        clock.heard(server, now, now + ms(2));
        let later = now + ms(100);
        clock.heard(server + ms(600), later, later + ms(1000));
        assert_eq!(clock.at(now + ms(1), EPOCH), server);
        let much_later = now + OLD * 2;
        clock.heard(server + OLD * 2 + ms(7), much_later, much_later + ms(10));
        assert_eq!(clock.at(much_later + ms(5), EPOCH), server + OLD * 2 + ms(7));
    }
}
