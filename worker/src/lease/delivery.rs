//! What the server says of a message that it delivers. Pure.

use std::time::{Duration, SystemTime};

use embed_schemas::JobId;

/// So many deliveries in a row have the same pauses between them; those of the next so many are twice as long.
const SAME_PAUSE: u64 = 16;
/// The shortest pause of a message that has been delivered more often than that.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The longest one, unless a longer one is asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What the server says of a message, in the subject for acknowledgements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    /// The sequence in the stream.
    pub sequence: u64,
    /// How often it has been delivered, this time included.
    pub deliveries: u64,
    /// When it was published, by the server's clock.
    pub published: SystemTime,
}

impl Delivery {
    /// Reads `$JS.ACK.[<domain>.<account hash>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]`.
    #[must_use]
    pub fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let fields = match tokens.len() {
            7 => &tokens[..],
            9.. => &tokens[2..],
            _ => return None,
        };
        let [stream, consumer, delivered, sequence, _, time, ..] = fields else { return None };
        Some(Self {
            stream: (*stream).to_owned(),
            consumer: (*consumer).to_owned(),
            sequence: sequence.parse().ok()?,
            deliveries: delivered.parse().ok()?,
            published: SystemTime::UNIX_EPOCH + Duration::from_nanos(time.parse().ok()?),
        })
    }

    /// How long the message is to stay away that somebody wants to give back for `delay`. The consumers bound deliveries, for what no worker can
    /// read ([`embed_schemas::streams::StreamSettings::max_deliver`]); a job that has to wait for days, for a model that cannot be loaded
    /// or a stream that is full, is not to use them up. So who comes often comes ever more rarely.
    #[must_use]
    pub fn pause(&self, delay: Duration) -> Duration {
        match self.deliveries.saturating_sub(1) / SAME_PAUSE {
            0 => delay,
            doublings => {
                let factor = 2u32.saturating_pow(u32::try_from(doublings).unwrap_or(u32::MAX));
                delay.max(SHORTEST_PAUSE).saturating_mul(factor).min(LONGEST_PAUSE.max(delay))
            }
        }
    }

    /// What tells this message apart from all others, also of a stream that was deleted and made anew: sequence and time. One token of a
    /// subject.
    #[must_use]
    pub fn key(&self) -> String {
        let published = self.published.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        format!("{}-{published:x}", self.sequence)
    }

    /// The id of a job that came without one: it follows from where the message is stored, so that every delivery has the same.
    ///
    /// # Panics
    /// Never for the streams of this project: their names are of characters that an id may have.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        format!("{}-{}", self.stream, self.key()).parse().expect("stream names are made of slugs")
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::streams::StreamSettings;
    use proptest::prelude::*;

    use super::*;

    fn delivery(deliveries: u64) -> Delivery {
        let published = SystemTime::UNIX_EPOCH;
        Delivery { stream: "EMBED_m".into(), consumer: "fp32-job".into(), sequence: 1, deliveries, published }
    }

    /// A model that cannot be loaded for two days, or a stream that is full for as long, makes no dead letters.
    #[test]
    fn a_job_can_wait_for_days_within_the_deliveries_that_it_has() {
        let most = u64::try_from(StreamSettings::default().max_deliver).unwrap();
        for delay in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5)] {
            assert_eq!(delivery(1).pause(delay), delay, "once costs nothing");
            let all: Duration = (1..most).map(|n| delivery(n).pause(delay)).sum();
            assert!(all > Duration::from_secs(2 * 24 * 3_600), "{delay:?}: {all:?}");
        }
    }

    #[test]
    fn the_servers_word_is_read_in_both_forms() {
        let expected = Delivery {
            stream: "EMBED_m".into(),
            consumer: "fp32-job".into(),
            sequence: 42,
            deliveries: 3,
            published: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
        };
        let short = "$JS.ACK.EMBED_m.fp32-job.3.42.7.1700000000123456789.5";
        let long = "$JS.ACK._.hash.EMBED_m.fp32-job.3.42.7.1700000000123456789.5.token";
        assert_eq!(Delivery::parse(short).as_ref(), Some(&expected));
        assert_eq!(Delivery::parse(long).as_ref(), Some(&expected));
        for other in ["", "_INBOX.x", "$JS.ACK.EMBED_m.c.3", "$JS.ACK.EMBED_m.c.x.42.7.17.5"] {
            assert_eq!(Delivery::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_place_in_every_stream_has_an_id_of_its_own(
            places in prop::collection::btree_set(("[a-z0-9][a-z0-9-]{0,63}", any::<u64>(), any::<u64>()), 1..20),
        ) {
            let id = |(model, sequence, nanos): &(String, u64, u64)| Delivery {
                stream: format!("EMBED_{model}"),
                consumer: "fp32-job".into(),
                sequence: *sequence,
                deliveries: 1,
                published: SystemTime::UNIX_EPOCH + Duration::from_nanos(*nanos),
            }.job_id();
            let ids: std::collections::BTreeSet<_> = places.iter().map(id).collect();
            prop_assert_eq!(ids.len(), places.len());
        }

        #[test]
        fn who_comes_often_comes_rarely_and_never_sooner_than_asked(
            delay in 0..1_000_000u64,
            deliveries in 0..2_000u64,
        ) {
            let delay = Duration::from_millis(delay);
            let of = |deliveries| delivery(deliveries).pause(delay);
            prop_assert!(of(deliveries) >= delay);
            prop_assert!(of(deliveries + 1) >= of(deliveries));
            prop_assert!(of(deliveries) <= LONGEST_PAUSE.max(delay));
        }

        #[test]
        fn no_subject_panics(reply in "\\PC*") {
            let _ = Delivery::parse(&reply);
            let _ = Delivery::parse(&format!("$JS.ACK.{reply}"));
        }
    }
}
