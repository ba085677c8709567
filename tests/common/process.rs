//! A server process in a session of its own, ended on drop and, failing that, by the janitor.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{janitor, wait};

/// A running server.
pub(crate) struct Process {
    name: String,
    child: Child,
    ended: bool,
}

impl Process {
    /// Starts `program` with its standard error piped to us.
    pub(crate) fn start<I, S>(program: &str, arguments: I) -> Process
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Process::start_with(program, arguments, Stdio::null(), Stdio::piped())
    }

    /// Starts `program` with nobody reading what it says.
    pub(crate) fn start_silent<I, S>(program: &str, arguments: I) -> Process
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Process::start_with(program, arguments, Stdio::null(), Stdio::null())
    }

    /// The same, with this descriptor as its standard input.
    pub(crate) fn start_given<I, S>(program: &str, arguments: I, stdin: OwnedFd) -> Process
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Process::start_with(program, arguments, stdin.into(), Stdio::null())
    }

    fn start_with<I, S>(program: &str, arguments: I, stdin: Stdio, stderr: Stdio) -> Process
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        // Servers lie in sbin, which is not in everybody's path.
        let path = format!(
            "{}:/usr/sbin:/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        let child = Command::new("setsid")
            .arg(program)
            .args(arguments)
            .env("PATH", path)
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
        janitor::end_later(child.id());
        Process {
            name: program.to_owned(),
            child,
            ended: false,
        }
    }

    /// The process's number, which is its group's too.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Standard error of a process begun with `start`.
    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is there to get a signal");
    }

    /// The exit status, if it has ended.
    pub(crate) fn try_status(&mut self) -> Option<ExitStatus> {
        let status = self
            .child
            .try_wait()
            .expect("a child of ours can be waited for");
        if status.is_some() && !self.ended {
            self.ended = true;
            janitor::has_ended(self.child.id());
        }
        status
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the process has not ended within `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::until(&what, limit, || self.try_status())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

/// The processes that this one has started and that are still there.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let line = format!("\nPPid:\t{parent}\n");
    let processes = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let status = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/status"));
    numbers
        .filter(|pid| status(pid).is_ok_and(|status| status.contains(&line)))
        .collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.try_status().is_some() {
            return;
        }
        // Either may fail because the process has just ended, which is what is wanted.
        let _ = kill(self.pid(), Signal::SIGTERM);
        for _ in 0..200 {
            if self.try_status().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = killpg(self.pid(), Signal::SIGKILL);
        drop(self.child.wait());
        janitor::has_ended(self.child.id());
    }
}
