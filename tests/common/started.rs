//! A proxy that is started in a way of the test's own: as another user, with other limits.

use std::fs;

use super::process::Process;
use super::temp::TempDir;
use super::tools::run;
use super::wait::{self, PATIENCE};

/// The script of one that is started as it comes.
pub(crate) const RUN: &str = "exec \"$0\" --config \"$1\"";

/// A configuration that starts; nobody logs in there.
pub(crate) fn idle(process: &str) -> String {
    format!(
        "[postern]\n{process}\n[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         auth_http = 127.0.0.1:9\n"
    )
}

/// A proxy started by a command of the test's own; its pid file tells that it runs.
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) folder: TempDir,
}

impl Started {
    /// `script` runs as `sh -c`; `$0` is the program and `$1` the configuration file.
    pub(crate) fn by(script: &str, process: &str) -> Started {
        let folder = TempDir::new("start");
        fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )
        .expect("the folder is ours");
        let file = folder.write("postern.ini", idle(&format!("pid = pid\n{process}")));
        // Where other users can run it.
        let program = folder.path().join("postern");
        let (program, file) = (program.display().to_string(), file.display().to_string());
        // By another process: one that this one starts meanwhile would hold the copy open for writing, and then
        // it cannot be run.
        run("cp", &[env!("CARGO_BIN_EXE_postern"), &program], b"").text();
        let process = Process::start_silent("sh", ["-c", script, &program, &file]);
        let mut started = Started { process, folder };
        wait::until("the proxy runs", PATIENCE, || {
            if let Some(status) = started.process.try_status() {
                panic!("it ended with {status}");
            }
            // Its last thread is the one that accepts.
            started
                .tasks()
                .iter()
                .any(|(_, name)| name == "accept")
                .then_some(())
        });
        started
    }

    /// Status and name of each thread.
    pub(crate) fn tasks(&self) -> Vec<(String, String)> {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.process.id())) else {
            return Vec::new();
        };
        let statuses = tasks.flatten().map(|task| task.path().join("status"));
        let statuses = statuses.filter_map(|file| fs::read_to_string(file).ok());
        statuses
            .map(|status| {
                let name = field(&status, "Name").join(" ");
                (status, name)
            })
            .collect()
    }

    pub(crate) fn limit(&self, name: &str) -> String {
        let file = format!("/proc/{}/limits", self.process.id());
        let limits = fs::read_to_string(file).expect("a running process is in /proc");
        let line = limits.lines().find(|line| line.starts_with(name));
        line.expect("the limit is listed").to_owned()
    }

    /// What is in the file `log` so far.
    pub(crate) fn log(&self) -> String {
        let file = self.folder.path().join("log");
        fs::read_to_string(file).expect("`error_log = log` is configured")
    }

    pub(crate) fn pid_file(&self) -> std::path::PathBuf {
        self.folder.path().join("pid")
    }
}

/// The words behind `NAME:` in a status file.
pub(crate) fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().split_ascii_whitespace().collect()
}
