//! What the server says of a message that it delivers. Pure.

use std::time::{Duration, SystemTime};

use embed_schemas::JobId;

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
    use proptest::prelude::*;

    use super::*;

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
        fn no_subject_panics(reply in "\\PC*") {
            let _ = Delivery::parse(&reply);
            let _ = Delivery::parse(&format!("$JS.ACK.{reply}"));
        }
    }
}
