//! What faults are made of.

/// Something that is done to the stack, to the worker or server that the plan has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Signals the worker. One that was killed or terminated stays down until it is started.
    Worker(Signal),
    /// Starts the worker, as it was configured. From then on it is started again whenever it ends.
    StartWorker,
    /// The same, with a clock that is ten minutes fast or slow.
    StartWorkerWithOtherClock,
    /// Signals servers.
    Server(Which, Signal),
    /// Waits until servers that were told to end have ended.
    ServersHaveEnded,
    /// Starts all servers that are down.
    StartServers,
    /// Lets all servers go on.
    ResumeServers,
    /// Makes the servers' writes and syncs slow.
    SlowDisk,
    /// Undoes it.
    DiskAsItWas,
    /// Changes the line between the worker and the servers.
    Network(Line),
    /// Deletes the consumer of the job lane.
    DeleteConsumer,
    /// Deletes the results stream, after all that is in it has been read.
    DeleteResults,
    /// `embed init`, until it succeeds.
    Provision,
    /// Lets a stream take no more.
    Fill(Stream),
    /// Undoes it.
    Drain(Stream),
    /// Publishes jobs that cannot be served.
    PublishBad,
    /// Connects a client that does not read.
    Deaf,
    /// It goes.
    DeafIsGone,
    /// Publishes a job that kills whoever computes it, and harmless ones right behind it.
    Poison,
    /// Waits until it has become a dead letter. If it never does, the fault is not recovered from.
    PoisonIsDead,
    /// Takes the registry away.
    RegistryAway,
    /// Puts it back.
    RegistryBack,
}

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Terminate,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
    /// SIGUSR2, which servers understand as lame duck.
    LameDuck,
}

/// Which servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that the plan has chosen.
    Any,
    /// The one that leads the jobs stream.
    Leader,
    /// One that does not.
    Follower,
    /// The one that leads, and another.
    TwoOfThree,
}

/// What a line is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// As it should be.
    Whole,
    /// Nothing passes, and everybody is told.
    Cut,
    /// Everything takes longer.
    Slow,
    /// Nothing passes, and nobody is told.
    HalfOpen,
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// That of the model's jobs.
    Jobs,
    /// That of their results.
    Results,
    /// That of dead letters.
    Dead,
}
