//! A child process that never outlives us: stopped in order when we stop, and by the system when we are killed.

use std::{process::ExitStatus, time::Duration};

use tokio::process::{Child, Command};

use crate::Error;

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts a program in a process group of its own, so that Ctrl-C on the terminal reaches us alone and we choose the
    /// order in which the others stop.
    ///
    /// On Linux the system ends the child when the *thread* that starts it ends: call this from the runtime's main task.
    pub(super) fn start(name: &'static str, mut command: Command) -> Result<Self, Error> {
        command.kill_on_drop(true).process_group(0);
        die_with_us(&mut command);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|error| Error::Dev(format!("cannot start {program}: {error}")))?;
        Ok(Self { name, child })
    }

    /// The process id. 0 after it has ended.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until it ends, and describes how.
    pub(super) async fn ended(&mut self) -> String {
        let how = match self.child.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("cannot be waited for: {error}"),
        };
        format!("{} {how}", self.name)
    }

    /// Asks it to stop (SIGTERM), and kills it if it has not within `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) {
        if let Some(id) = self.child.id().and_then(|id| libc::pid_t::try_from(id).ok()) {
            // SAFETY: `kill` touches no memory of ours. The id is that of our own child, which has not been waited for
            // yet (`Child::id` is `None` afterwards), so the system cannot have given it to another process.
            unsafe { libc::kill(id, libc::SIGTERM) };
        }
        if tokio::time::timeout(patience, self.child.wait()).await.is_err() {
            tracing::warn!(program = self.name, "did not stop in time and is killed");
            if let Err(error) = self.child.kill().await {
                tracing::warn!(program = self.name, %error, "cannot be killed");
            }
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(target_os = "linux")]
fn die_with_us(command: &mut Command) {
    let parent = std::process::id();
    let hook = move || {
        // SAFETY: between fork and exec only async-signal-safe functions may be called. `prctl` and `getppid` are plain
        // system calls, and nothing here allocates or takes a lock.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            // We may have died between fork and prctl: then no signal will come.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the hook keeps to async-signal-safe calls, see there.
    unsafe { command.pre_exec(hook) };
}

/// Elsewhere there is no such signal: `kill_on_drop` covers everything but being killed ourselves.
#[cfg(not(target_os = "linux"))]
fn die_with_us(_command: &mut Command) {}
