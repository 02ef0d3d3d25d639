//! A PostgreSQL server of the test's own, with pgvector: both lie in one Python package.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{daemon::die_with_parent, paths::postgres_folder, wait_for};

const USER: &str = "test";
const PASSWORD: &str = "secret";
/// Somebody else may take a port between our finding it free and the server's taking it.
const TRIES: usize = 5;
/// Whom the server runs as where we are root, as which it refuses to run.
const NOBODY: u32 = 65534;

/// A running PostgreSQL server. Killed, with its data, when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl PostgresServer {
    /// Starts a server with an empty database, in which the extension `vector` is there.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let password = folder.path().join("password");
        fs::write(&password, PASSWORD).expect("a file");
        if is_root() {
            for path in [folder.path(), &password] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
            }
        }
        let mut initdb = command("initdb", folder.path());
        initdb.args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--username", USER]);
        initdb.arg("--pwfile").arg(&password).arg("--pgdata").arg(folder.path().join("data"));
        let made = initdb.output().expect("initdb can be started");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for _ in 0..TRIES {
            let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").port();
            let mut child = spawn(folder.path(), port);
            if is_ready(&mut child, folder.path(), port) {
                let server = Self { child, folder, port };
                server.sql("CREATE EXTENSION vector");
                return server;
            }
        }
        panic!("the PostgreSQL server ended {TRIES} times before it was ready");
    }

    /// Where it is, and who the user is, without the password.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The user's password.
    pub const fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Runs SQL and returns what it prints: a line for each row, with `|` between columns.
    pub fn sql(&self, sql: &str) -> String {
        let mut psql = command("psql", self.folder.path());
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        psql.env("PGPASSWORD", PASSWORD).args(["--command", sql, &self.url()]);
        let output = psql.output().expect("psql can be started");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// SIGKILL, to all of it: nobody gets a chance to do anything.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on what it left, on the same port.
    pub fn restart(&mut self) {
        let (folder, port) = (self.folder.path(), self.port);
        let child = &mut self.child;
        // The processes of the one before end a moment after it, and another does not begin before.
        wait_for("the PostgreSQL server to be ready again", || {
            *child = spawn(folder, port);
            is_ready(child, folder, port).then_some(())
        });
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    // SAFETY: it only returns a number.
    unsafe { libc::geteuid() == 0 }
}

fn command(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(postgres_folder().join(program));
    command.current_dir(folder).stdin(Stdio::null()).env("LC_ALL", "C");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn spawn(folder: &Path, port: u16) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log file");
    let mut command = command("postgres", folder);
    command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).args(["-h", "127.0.0.1", "-p"]);
    command.arg(port.to_string()).args(["-c", "max_connections=20", "-c", "shared_buffers=16MB"]);
    command.stdout(Stdio::null()).stderr(log);
    die_with_parent(&mut command);
    command.spawn().expect("the PostgreSQL server can be started")
}

/// `false`: it ended.
fn is_ready(child: &mut Child, folder: &Path, port: u16) -> bool {
    wait_for("the PostgreSQL server to be ready", || match child.try_wait() {
        Ok(None) => {
            let mut ask = command("pg_isready", folder);
            ask.args(["--quiet", "--host=127.0.0.1", "--port"]).arg(port.to_string());
            ask.status().is_ok_and(|status| status.success()).then_some(true)
        }
        _ => Some(false),
    })
}
