//! Leases: two runners never both write. Pure.
//!
//! A runner counts by its own clock, from the moment before it asked for the lease. Whoever wants to take over counts by the server's clock, from the
//! moment at which the lease was written, which is later. So no clock has to be right, only to go as fast as others.

use std::time::Duration;

/// A lease is renewed so many times within its length.
const RENEWALS: u32 = 6;

/// What a runner knows of its own lease. Times are those of its clock, from any beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    length: Duration,
    renewed: Duration,
}

impl Lease {
    /// A lease that was asked for at `asked`, and given.
    pub(super) const fn given(length: Duration, asked: Duration) -> Self {
        Self { length, renewed: asked }
    }

    /// The same, given once more.
    pub(super) fn renew(&mut self, asked: Duration) {
        self.renewed = self.renewed.max(asked);
    }

    /// Whether it is time to renew it.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        now >= self.renewed + self.length / RENEWALS
    }

    /// Whether a write may begin. A third of the lease is left for it to end.
    pub(super) fn may_write(&self, now: Duration) -> bool {
        now + self.length / 3 < self.renewed + self.length
    }
}

/// How much is left of a lease that was written at `written_ms`, by the server's clock; `ZERO`: it may be taken.
pub(super) fn left(length: Duration, written_ms: u64, now_ms: u64) -> Duration {
    // What was written after now, by a server whose clock is behind, was written now.
    length.saturating_sub(Duration::from_millis(now_ms.saturating_sub(written_ms)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(30);

    /// A server's entry.
    #[derive(Default)]
    struct Entry {
        revision: u64,
        holder: Option<usize>,
        written_ms: u64,
    }

    /// A runner: its clock is ahead by `ahead`; it has read the entry before it writes.
    struct Runner {
        ahead: u64,
        lease: Option<Lease>,
        read: (u64, Option<usize>, bool),
        asked: Duration,
    }

    impl Runner {
        fn clock(&self, now: u64) -> Duration {
            Duration::from_millis(now + self.ahead)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Time passes.
        Wait(u64),
        /// A runner reads, and is about to write.
        Read(usize),
        /// What it then writes arrives. `heard`: so does the answer.
        Write { runner: usize, heard: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..20_000_u64).prop_map(Step::Wait),
            2 => (0..2_usize).prop_map(Step::Read),
            2 => (0..2_usize, any::<bool>()).prop_map(|(runner, heard)| Step::Write { runner, heard }),
        ]
    }

    proptest! {
        #[test]
        fn two_runners_never_both_write(
            ahead in [0..100_000_u64, 0..100_000_u64],
            server_ahead in 0..100_000_u64,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut now = 0;
            let mut entry = Entry::default();
            let mut runners = ahead.map(|ahead| Runner { ahead, lease: None, read: (0, None, true), asked: Duration::ZERO });
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Read(n) => {
                        let over = left(LENGTH, entry.written_ms, now + server_ahead).is_zero();
                        runners[n].read = (entry.revision, entry.holder, over);
                        runners[n].asked = runners[n].clock(now);
                    }
                    Step::Write { runner: n, heard } => {
                        let (revision, holder, over) = runners[n].read;
                        let may = holder.is_none_or(|holder| holder == n) || over;
                        if may && revision == entry.revision {
                            entry = Entry { revision: revision + 1, holder: Some(n), written_ms: now + server_ahead };
                            if heard {
                                let asked = runners[n].asked;
                                runners[n].lease.get_or_insert(Lease::given(LENGTH, asked)).renew(asked);
                            }
                        }
                    }
                }
                let writing = runners.iter().filter(|r| r.lease.is_some_and(|lease| lease.may_write(r.clock(now))));
                prop_assert!(writing.count() <= 1);
            }
        }

        #[test]
        fn a_lease_is_renewed_long_before_it_is_over(asked in 0..1_000_000_u64, later in 0..60_000_u64) {
            let lease = Lease::given(LENGTH, Duration::from_millis(asked));
            let now = Duration::from_millis(asked + later);
            prop_assert_eq!(lease.is_due(now), later >= 5_000);
            prop_assert_eq!(lease.may_write(now), later < 20_000);
        }
    }
}
