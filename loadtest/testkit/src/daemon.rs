//! A process that says on standard output when it is ready.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, mpsc},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{PATIENCE, wait_for};

/// A running daemon. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Behind a lock, so that tests can share a daemon between tasks.
    lines: Mutex<mpsc::Receiver<String>>,
    log: PathBuf,
    _folder: TempDir,
}

impl Daemon {
    /// Starts a process. Its standard error goes to a file, see [`Daemon::log`].
    pub fn spawn(command: &mut Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("stderr");
        let stderr = File::create(&log).expect("a log file");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        die_with_parent(command);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines: Mutex::new(lines), log, _folder: folder }
    }

    /// The next line of standard output, as JSON. Panics with the log if the process ends first.
    pub fn json_line(&self) -> Value {
        let line = self.lines.lock().expect("nobody panics with it").recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("the process did not become ready. Its log:\n{}", self.log()));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has written this to standard error.
    pub fn wait_for_log(&mut self, text: &str) {
        wait_for(text, || {
            // Asked first: it may say so and end.
            let is_running = self.is_running();
            let found = self.log().contains(text);
            assert!(found || is_running, "the process ended before it said {text:?}");
            found.then_some(())
        });
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// From now on, it may have so many descriptors more than it has.
    pub fn limit_descriptors(&self, more: u64) {
        let open = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("the process runs").count();
        let most = u64::try_from(open).expect("a count") + more;
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        let id = i32::try_from(self.id()).expect("process ids are small");
        // SAFETY: the limit is read during the call only, nothing is written, and the child has not been waited for, so that the id is
        // still its own.
        let set = unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "the process can be limited");
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL: it gets no chance to do anything.
    pub fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }

    /// SIGTERM, then waits until it has ended.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        send_signal(&self.child, signal);
    }

    /// Waits until it has ended: its status, and its log.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let status = wait_for("the process to end", || self.child.try_wait().expect("it can be waited for"));
        (status, self.log())
    }
}

/// Sends a signal to a child that has not been waited for. One that is to stop has stopped, with all of its threads, when this returns: on a busy
/// machine it might answer for a while longer.
pub(crate) fn send_signal(child: &Child, signal: i32) {
    let id = i32::try_from(child.id()).expect("process ids are small");
    // SAFETY: `kill` only takes integers, and the child has not been waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(id, signal) }, 0, "the process can be signalled");
    if signal == libc::SIGSTOP {
        wait_for("the process to stop", || has_stopped(id).then_some(()));
    }
}

fn has_stopped(id: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default()).all(|stat| {
        // Behind the name, which may have anything in it. A thread that is gone by now says nothing.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
    })
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of process {}:\n{}", self.child.id(), self.log());
        }
    }
}

/// A test that is killed must leave nothing behind.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: `prctl` is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}
