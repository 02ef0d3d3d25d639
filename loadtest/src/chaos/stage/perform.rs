//! Does what faults are made of.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use embed_schemas::Lane;

use super::{Beside, Stage, deaf::DeafClient, workers::other_clock};
use crate::chaos::{
    act::{Act, Signal, Which},
    traffic::Sort,
};

/// Jobs that cannot be served, in a fault that is about them.
const BAD_JOBS: usize = 4;
/// Jobs that come with a poison, and are none.
const INNOCENTS: usize = 40;
/// Longest wait for a server to end: a lame duck takes half a minute.
const SERVER_ENDS: Duration = Duration::from_secs(90);
/// Longest wait for a poison to become a dead letter, in ack waits, and what a worker takes to start, for each delivery.
const DELIVERIES: u32 = 14;
const RESTART: Duration = Duration::from_secs(30);

impl Stage {
    /// Does it, to the worker or server that the plan has chosen.
    ///
    /// # Errors
    /// If it cannot be done.
    pub async fn perform(&mut self, act: Act, target: usize, beside: &Beside<'_>) -> anyhow::Result<()> {
        let worker = self.worker(target);
        match act {
            Act::Worker(signal) => self.signal_worker(worker, signal),
            Act::StartWorker => self.start_worker(worker, &[]),
            Act::StartWorkerWithOtherClock => {
                self.start_worker(worker, &other_clock(target).context("faketime is not installed")?);
            }
            Act::Server(which, signal) => {
                for server in self.which(which, target).await {
                    self.signal_server(server, signal);
                }
            }
            Act::ServersHaveEnded => self.servers_have_ended().await?,
            Act::StartServers => self.start_servers(),
            Act::ResumeServers => self.cluster.servers.iter_mut().for_each(|server| server.resume()),
            Act::SlowDisk => {
                let processes: Vec<_> = self.cluster.servers.iter().map(|server| server.id()).collect();
                self.disk.begin(&processes).await?;
            }
            Act::DiskAsItWas => self.disk.end(),
            Act::Network(line) => self.workers[worker].line(line),
            Act::DeleteConsumer => self.delete_consumer().await?,
            Act::DeleteResults => self.delete_results(beside.collector).await?,
            Act::Provision => self.provision().await?,
            Act::Fill(stream) => self.fill(stream).await?,
            Act::Drain(stream) => self.drain(stream).await?,
            Act::PublishBad => {
                for n in 0..BAD_JOBS {
                    beside.clients.publish(Lane::Job, n % 2 == 0, Sort::Bad).await;
                }
            }
            Act::Deaf => {
                let address = self.cluster.servers[target % self.cluster.servers.len()].address();
                self.deaf = Some(DeafClient::connect(&address, &self.setting.model)?);
            }
            Act::DeafIsGone => self.deaf = None,
            Act::Poison => self.publish_poison(beside).await?,
            Act::PoisonIsDead => self.poison_is_dead(beside).await?,
            Act::RegistryAway => self.registry.take_away()?,
            Act::RegistryBack => self.registry.put_back()?,
        }
        Ok(())
    }

    async fn which(&self, which: Which, target: usize) -> Vec<usize> {
        let count = self.cluster.servers.len();
        let leader = match which {
            Which::Any => return vec![target % count],
            // Where nobody leads, any is as good.
            _ => self.leader().await.filter(|leader| *leader < count).unwrap_or(target % count),
        };
        let follower = (leader + 1 + target % (count - 1)) % count;
        match which {
            Which::Any | Which::Leader => vec![leader],
            Which::Follower => vec![follower],
            Which::TwoOfThree => vec![leader, follower],
        }
    }

    fn signal_server(&mut self, n: usize, signal: Signal) {
        let server = &mut self.cluster.servers[n];
        match signal {
            Signal::Kill if server.is_running() => server.kill(),
            Signal::Kill => {}
            Signal::Terminate => server.terminate(),
            Signal::Pause => server.pause(),
            Signal::Resume => server.resume(),
            Signal::LameDuck => server.lame_duck(),
        }
    }

    /// Some that were told to end have.
    async fn servers_have_ended(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.cluster.servers.iter_mut().all(|server| server.is_running()) {
            ensure!(begun.elapsed() < SERVER_ENDS, "the server did not end within {SERVER_ENDS:?}");
            self.pause().await;
        }
        Ok(())
    }

    fn start_servers(&mut self) {
        for server in &mut self.cluster.servers {
            if !server.is_running() {
                server.relaunch();
            }
        }
    }

    async fn publish_poison(&mut self, beside: &Beside<'_>) -> anyhow::Result<()> {
        let text = format!("{}-{} kills whoever computes it", beside.clients.run, beside.clients.ledger.number());
        let poison = self.poison.clone();
        let kills = beside.clients.publish_poison(&text, |id| poison.add(id));
        // Right behind it, and all workers wait until they are there, so that they are with it in the worker each time that it
        // dies. They are not to die with it for good.
        let innocents = (0..INNOCENTS).map(|_| beside.clients.publish(Lane::Job, true, Sort::Good));
        (0..self.workers.len()).for_each(|n| self.signal_worker(n, Signal::Pause));
        let (accepted, _) = futures::future::join(kills, futures::future::join_all(innocents)).await;
        (0..self.workers.len()).for_each(|n| self.signal_worker(n, Signal::Resume));
        ensure!(accepted, "the poison could not be published");
        Ok(())
    }

    async fn poison_is_dead(&mut self, beside: &Beside<'_>) -> anyhow::Result<()> {
        let (begun, longest) = (Instant::now(), (self.setting.ack_wait + RESTART) * DELIVERIES);
        while let Some((id, deaths)) = self.poison.last() {
            if beside.collector.is_dead(&id) {
                self.note(&format!("a poison became a dead letter after {deaths} deaths of workers"));
                break;
            }
            ensure!(begun.elapsed() < longest, "after {deaths} deaths in {longest:?}, the poison was no dead letter");
            self.pause().await;
        }
        Ok(())
    }
}
