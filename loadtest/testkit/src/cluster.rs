//! Several nats-servers of the test's own that are one cluster.

use std::net::TcpListener;

use crate::{NatsServer, wait_for};

/// Running servers that know each other. Killed, with their stores, when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The servers, `n1` first.
    pub servers: Vec<NatsServer>,
}

impl Cluster {
    /// Starts so many servers, and waits until JetStream has a leader that can place replicas on all of them. Clients are not told of servers that they were not
    /// given, so that a relay in front of one is not passed by.
    pub fn start(count: usize, more: &str) -> Self {
        if count == 1 {
            return Self { servers: vec![NatsServer::start_with(&format!("server_name: n1\n{more}"))] };
        }
        // The listeners are held until all ports are known, so that they differ.
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().expect("it has an address").port()).collect();
        drop(listeners);
        let routes: Vec<_> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let configuration = |(n, port): (usize, &u16)| {
            format!(
                "server_name: n{}\nhttp: \"127.0.0.1:-1\"\ncluster {{ name: c, listen: \"127.0.0.1:{port}\", \
                 no_advertise: true, routes: [{}] }}\n{more}",
                n + 1,
                routes.join(", ")
            )
        };
        let mut servers: Vec<_> =
            ports.iter().enumerate().map(configuration).map(|lines| NatsServer::launch(&lines)).collect();
        servers.iter_mut().for_each(NatsServer::wait_until_listening);
        let cluster = Self { servers };
        wait_for("the cluster to have a leader", || cluster.servers.iter().all(NatsServer::is_healthy).then_some(()));
        wait_for("the leader to see every server", || cluster.is_seen_by_its_leader().then_some(()));
        cluster
    }

    /// Whether the leader counts every other server among the peers that are online. Until then it refuses streams with
    /// replicas (`peer offline`), although every server says that it is healthy.
    fn is_seen_by_its_leader(&self) -> bool {
        self.servers.iter().any(|server| {
            // The leader alone lists them.
            server.monitor("/jsz")["meta_cluster"]["replicas"].as_array().is_some_and(|peers| {
                peers.len() + 1 == self.servers.len() && peers.iter().all(|peer| peer["offline"] != true)
            })
        })
    }

    /// The URLs of all, separated by commas.
    pub fn urls(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }
}
