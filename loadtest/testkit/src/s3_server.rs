//! An S3 server of the test's own: SeaweedFS, which is one binary.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    daemon::die_with_parent,
    http::{ask, is_healthy},
    paths::s3_server_binary,
    wait_for,
};

/// Where the runtime of Go is told of a bound.
const GO_MEMORY: &str = "GOMEMLIMIT";
const ACCESS_KEY: &str = "test";
const SECRET_KEY: &str = "secret";
/// Somebody else may take a port between our finding it free and the server's taking it.
const TRIES: usize = 5;
/// Bytes that the server's runtime keeps to as far as it can: by itself it lets garbage grow to as much as is in use, which is hundreds of
/// megabytes under a long load. With 300 MiB it takes nearly twice the time (`loadtest/results/backfill`).
const MEMORY: &str = "430MiB";
/// Ports that the server listens on: master, volume, filer, S3; HTTP and gRPC each.
const PORTS: usize = 8;

/// A running S3 server. Killed, with its store, when dropped.
#[derive(Debug)]
pub struct S3Server {
    child: Child,
    folder: TempDir,
    ports: [u16; PORTS],
}

impl S3Server {
    /// Starts a server on free ports.
    pub fn start() -> Self {
        for _ in 0..TRIES {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let ports = free_ports();
            let mut server = Self { child: spawn(&folder, &ports), folder, ports };
            if server.is_ready() {
                return server;
            }
        }
        panic!("the S3 server ended {TRIES} times before it was ready");
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[6])
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL. The store stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server can be waited for");
    }

    /// Starts it again after it was killed, on the same ports and store.
    pub fn restart(&mut self) {
        self.child = spawn(&self.folder, &self.ports);
        assert!(self.is_ready(), "the S3 server ended at once");
    }

    /// Makes a bucket: to the file server behind it, that is a folder.
    pub fn make_bucket(&self, name: &str) {
        let filer = format!("127.0.0.1:{}", self.ports[4]);
        let answer = ask(&filer, &format!("POST /buckets/{name}/")).expect("the file server answers");
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    /// Settings to reach it, or a relay in front of it, by the names of the usual environment variables.
    pub fn settings(address: &str) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &format!("http://{address}")),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// `false`: it ended.
    fn is_ready(&mut self) -> bool {
        let address = self.address();
        wait_for("the S3 server to be ready", || match self.child.try_wait() {
            Ok(None) => is_healthy(&address).then_some(true),
            _ => Some(false),
        })
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Sockets whose place cannot be chosen.
        for (name, port) in ["master", "volume", "filer", "s3"].iter().zip(self.ports.iter().skip(1).step_by(2)) {
            let _ = fs::remove_file(format!("/tmp/seaweedfs-{name}-grpc-{port}.sock"));
        }
    }
}

fn spawn(folder: &TempDir, ports: &[u16; PORTS]) -> Child {
    let path = |name: &str| folder.path().join(name);
    let identities = serde_json::json!({"identities": [{
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Write"],
    }]});
    fs::write(path("s3.json"), identities.to_string()).expect("a configuration file");
    fs::create_dir_all(path("store")).expect("a folder for the store");
    let log = fs::File::create(path("log")).expect("a log file");
    let mut command = Command::new(s3_server_binary());
    command.arg("-logtostderr=true").arg("server");
    for (flag, port) in [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port",
        "s3.port.grpc",
    ]
    .iter()
    .zip(ports)
    {
        command.arg(format!("-{flag}={port}"));
    }
    for (flag, name) in
        [("dir", "store"), ("s3.config", "s3.json"), ("filer.localSocket", "filer"), ("s3.localSocket", "s3")]
    {
        command.arg(format!("-{flag}={}", path(name).display()));
    }
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.iam=false", "-master.telemetry=false"]);
    // Each bucket takes several volumes, which are files that grow.
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=600", "-master.volumeSizeLimitMB=64"]);
    command.args(["-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"]);
    if std::env::var_os(GO_MEMORY).is_none() {
        command.env(GO_MEMORY, MEMORY);
    }
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    die_with_parent(&mut command);
    command.spawn().expect("the S3 server can be started")
}

fn free_ports() -> [u16; PORTS] {
    // All are held until all are known, so that they differ.
    let held = [(); PORTS].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("it has an address").port())
}
