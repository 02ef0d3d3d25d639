//! The faults that there are. A table: the next one is a row, as long as what it does is in [`Act`].

use super::act::{
    Act::{self, *},
    Line, Signal, Stream, Which,
};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kind {
    /// What it is called on the command line and in reports.
    pub name: &'static str,
    /// What happens, for people.
    pub what: &'static str,
    /// What it happens to. Two faults that overlap are of different parts.
    pub part: Part,
    /// Without which it cannot be had.
    pub needs: Needs,
    /// How long it lasts.
    pub lasts: Lasts,
    /// What is done when it begins, in this order.
    pub begin: &'static [Act],
    /// What is done when it ends.
    pub end: &'static [Act],
    /// What is waited for when it and what overlapped with it have ended.
    pub after: &'static [Act],
}

/// What a fault happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One worker, or what it is started with.
    Worker,
    /// The servers, or their disks.
    Server,
    /// What is between one worker and the servers.
    Network,
    /// Streams and consumers.
    Streams,
    /// Other clients.
    Clients,
}

/// What a kind of fault needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A cluster of three servers.
    Cluster,
    /// A registry that can be taken away.
    Registry,
    /// strace, to hold up system calls, and the system's permission to do so.
    Strace,
    /// The library of faketime.
    Faketime,
}

/// How long a fault lasts: from, and up to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lasts {
    /// Seconds.
    Seconds(f64, f64),
    /// Times the ack wait of the consumers: beyond 1, jobs go to others.
    AckWaits(f64, f64),
}

impl Lasts {
    /// Seconds, at this share between the shortest and the longest.
    #[must_use]
    pub fn at(self, share: f64, ack_wait: f64) -> f64 {
        let between = |from: f64, to: f64| from + (to - from) * share;
        match self {
            Self::Seconds(from, to) => between(from, to),
            Self::AckWaits(from, to) => between(from, to) * ack_wait,
        }
    }
}

/// A fault that is over as soon as it has begun: what follows is recovery.
const AT_ONCE: Lasts = Lasts::Seconds(0.0, 0.0);
const SHORT: Lasts = Lasts::Seconds(1.0, 5.0);

/// All kinds.
pub static KINDS: &[Kind] = &[
    Kind {
        name: "worker-kill",
        what: "A worker gets SIGKILL, and is started again when the fault ends",
        part: Part::Worker,
        needs: Needs::Nothing,
        lasts: SHORT,
        begin: &[Worker(Signal::Kill)],
        end: &[StartWorker],
        after: &[],
    },
    Kind {
        name: "worker-pause",
        what: "A worker is stopped in its tracks (SIGSTOP) for longer than the ack wait, and then goes on (SIGCONT)",
        part: Part::Worker,
        needs: Needs::Nothing,
        lasts: Lasts::AckWaits(1.2, 2.0),
        begin: &[Worker(Signal::Pause)],
        end: &[Worker(Signal::Resume)],
        after: &[],
    },
    Kind {
        name: "worker-restart",
        what: "A worker gets SIGTERM, drains, and is started again",
        part: Part::Worker,
        needs: Needs::Nothing,
        lasts: AT_ONCE,
        begin: &[Worker(Signal::Terminate)],
        end: &[StartWorker],
        after: &[],
    },
    Kind {
        name: "server-kill",
        what: "The server (of three: any) gets SIGKILL, and is started again when the fault ends",
        part: Part::Server,
        needs: Needs::Nothing,
        lasts: SHORT,
        begin: &[Server(Which::Any, Signal::Kill)],
        end: &[StartServers],
        after: &[],
    },
    Kind {
        name: "server-pause",
        what: "The server (of three: any) is stopped in its tracks, and then goes on",
        part: Part::Server,
        needs: Needs::Nothing,
        lasts: Lasts::Seconds(2.0, 12.0),
        begin: &[Server(Which::Any, Signal::Pause)],
        end: &[ResumeServers],
        after: &[],
    },
    Kind {
        name: "server-restart",
        what: "The server (of three: any) gets SIGTERM, and is started again",
        part: Part::Server,
        needs: Needs::Nothing,
        lasts: AT_ONCE,
        begin: &[Server(Which::Any, Signal::Terminate), ServersHaveEnded],
        end: &[StartServers],
        after: &[],
    },
    Kind {
        name: "server-lame-duck",
        what: "The server (of three: any) sends its clients away one by one (lame duck), ends, and is started again",
        part: Part::Server,
        needs: Needs::Nothing,
        lasts: AT_ONCE,
        begin: &[Server(Which::Any, Signal::LameDuck), ServersHaveEnded],
        end: &[StartServers],
        after: &[],
    },
    Kind {
        name: "leader-kill",
        what: "Of three servers, the one that leads the jobs stream gets SIGKILL",
        part: Part::Server,
        needs: Needs::Cluster,
        lasts: Lasts::Seconds(3.0, 10.0),
        begin: &[Server(Which::Leader, Signal::Kill)],
        end: &[StartServers],
        after: &[],
    },
    Kind {
        name: "leader-pause",
        what: "Of three servers, the one that leads the jobs stream is stopped in its tracks: its connections stay",
        part: Part::Server,
        needs: Needs::Cluster,
        lasts: Lasts::Seconds(3.0, 12.0),
        begin: &[Server(Which::Leader, Signal::Pause)],
        end: &[ResumeServers],
        after: &[],
    },
    Kind {
        name: "follower-kill",
        what: "Of three servers, one that follows gets SIGKILL",
        part: Part::Server,
        needs: Needs::Cluster,
        lasts: Lasts::Seconds(3.0, 10.0),
        begin: &[Server(Which::Follower, Signal::Kill)],
        end: &[StartServers],
        after: &[],
    },
    Kind {
        name: "two-of-three-kill",
        what: "Of three servers, two get SIGKILL: nothing can be stored until they are back",
        part: Part::Server,
        needs: Needs::Cluster,
        lasts: Lasts::Seconds(3.0, 10.0),
        begin: &[Server(Which::TwoOfThree, Signal::Kill)],
        end: &[StartServers],
        after: &[],
    },
    Kind {
        name: "slow-disk",
        what: "Every write to a place in a file and every sync of the servers takes 20 ms longer, held up by strace in the \
               system call: what a server sees of a slow disk, without one",
        part: Part::Server,
        needs: Needs::Strace,
        lasts: Lasts::Seconds(3.0, 10.0),
        begin: &[SlowDisk],
        end: &[DiskAsItWas],
        after: &[],
    },
    Kind {
        name: "network-cut",
        what: "All connections of a worker are cut, and new ones refused",
        part: Part::Network,
        needs: Needs::Nothing,
        lasts: Lasts::Seconds(1.0, 8.0),
        begin: &[Network(Line::Cut)],
        end: &[Network(Line::Whole)],
        after: &[],
    },
    Kind {
        name: "network-slow",
        what: "What a worker and the servers say to each other takes 200 ms longer, each way",
        part: Part::Network,
        needs: Needs::Nothing,
        lasts: Lasts::Seconds(3.0, 10.0),
        begin: &[Network(Line::Slow)],
        end: &[Network(Line::Whole)],
        after: &[],
    },
    Kind {
        name: "network-half-open",
        what: "What a worker and the servers say to each other vanishes, and no connection is closed; afterwards, those that \
               were open are lost for ever without being told, and new ones work",
        part: Part::Network,
        needs: Needs::Nothing,
        lasts: Lasts::Seconds(3.0, 12.0),
        begin: &[Network(Line::HalfOpen)],
        end: &[Network(Line::Whole)],
        after: &[],
    },
    Kind {
        name: "consumer-deleted",
        what: "The consumer of the job lane is deleted, and made anew by `embed init`",
        part: Part::Streams,
        needs: Needs::Nothing,
        lasts: SHORT,
        begin: &[DeleteConsumer],
        end: &[Provision],
        after: &[],
    },
    Kind {
        name: "results-rebuilt",
        what: "The results stream is closed, read to its end, deleted, and made anew by `embed init`",
        part: Part::Streams,
        needs: Needs::Nothing,
        lasts: SHORT,
        begin: &[DeleteResults],
        end: &[Provision],
        after: &[],
    },
    Kind {
        name: "jobs-full",
        what: "The jobs stream takes no more: its `max_bytes` is 1 meanwhile",
        part: Part::Streams,
        needs: Needs::Nothing,
        lasts: Lasts::Seconds(2.0, 8.0),
        begin: &[Fill(Stream::Jobs)],
        end: &[Drain(Stream::Jobs)],
        after: &[],
    },
    Kind {
        name: "results-full",
        what: "The results stream takes no more: its `max_bytes` is 1 meanwhile",
        part: Part::Streams,
        needs: Needs::Nothing,
        lasts: Lasts::AckWaits(0.5, 1.8),
        begin: &[Fill(Stream::Results)],
        end: &[Drain(Stream::Results)],
        after: &[],
    },
    Kind {
        name: "dead-full",
        what: "The stream of dead letters takes no more, while jobs come that cannot be served",
        part: Part::Streams,
        needs: Needs::Nothing,
        // After ten, jobs end without a letter; of those that have no id, it could not be told any more which they were.
        lasts: Lasts::Seconds(2.0, 8.0),
        begin: &[Fill(Stream::Dead), PublishBad],
        end: &[Drain(Stream::Dead)],
        after: &[],
    },
    Kind {
        name: "deaf-client",
        what: "A client subscribes to all results and answers, two hundred times, and never reads",
        part: Part::Clients,
        needs: Needs::Nothing,
        lasts: Lasts::Seconds(5.0, 12.0),
        begin: &[Deaf],
        end: &[DeafIsGone],
        after: &[],
    },
    Kind {
        name: "poison",
        what: "A job kills whoever computes it: the relay in front of each worker withholds its result, and the worker gets \
               SIGKILL at that moment, until it has become a dead letter; forty jobs come with it that are harmless",
        // It has to get into its stream, and its dead letter into another.
        part: Part::Streams,
        needs: Needs::Nothing,
        lasts: AT_ONCE,
        begin: &[Poison],
        end: &[],
        after: &[PoisonIsDead],
    },
    Kind {
        name: "registry-away",
        what: "The registry is gone (its folder, or the line to its server), and a worker is restarted meanwhile",
        part: Part::Worker,
        needs: Needs::Registry,
        lasts: Lasts::Seconds(2.0, 8.0),
        begin: &[RegistryAway, Worker(Signal::Terminate), StartWorker],
        end: &[RegistryBack],
        after: &[],
    },
    Kind {
        name: "clock-differs",
        what: "A worker is restarted with a clock that is ten minutes fast or slow (faketime), and then with the right one",
        part: Part::Worker,
        needs: Needs::Faketime,
        lasts: Lasts::Seconds(4.0, 10.0),
        begin: &[Worker(Signal::Terminate), StartWorkerWithOtherClock],
        end: &[Worker(Signal::Terminate), StartWorker],
        after: &[],
    },
];

/// The kind of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_fit_the_command_line() {
        let names: BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
        assert_eq!(find("poison").unwrap().name, "poison");
        assert!(find("other").is_none());
    }
}
