//! The proxy under test: started with an INI text, its ports read from the start-up lines, its log
//! kept in memory, its threads and descriptors counted, stopped with its exit status.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::User;

use super::process::Process;
use super::temp::TempDir;
use super::tools::run;
use super::wait::{self, PATIENCE};

/// A running proxy.
pub(crate) struct Postern {
    process: Process,
    log: Arc<Mutex<Vec<String>>>,
    /// Reads its log until it ends.
    reading: Option<thread::JoinHandle<()>>,
    listeners: HashMap<String, Vec<SocketAddr>>,
    folder: TempDir,
}

impl Postern {
    /// Starts the proxy and waits until each `listen` line of `ini` listens.
    ///
    /// # Panics
    /// When it does not; with its log.
    pub(crate) fn start(ini: &str) -> Postern {
        Postern::start_in(TempDir::new("proxy"), ini)
    }

    /// The same with its configuration in this folder.
    pub(crate) fn start_in(folder: TempDir, ini: &str) -> Postern {
        let wanted = ini.lines().filter(|line| is_listen(line)).count();
        let mut postern = Postern::spawn(folder, ini);
        wait::until("the proxy listens", PATIENCE, || {
            if let Some(status) = postern.process.try_status() {
                // The reading thread may still have the last lines in hand.
                thread::sleep(Duration::from_millis(50));
                panic!("the proxy ended with {status}:\n{}\n{ini}", postern.log());
            }
            (postern.announced() >= wanted).then_some(())
        });
        postern.listeners = postern.read_listeners();
        postern
    }

    fn spawn(folder: TempDir, ini: &str) -> Postern {
        let file = folder.write("postern.ini", ini);
        let mut process = Process::start(
            env!("CARGO_BIN_EXE_postern"),
            ["--config".as_ref(), file.as_os_str()],
        );
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = process.take_stderr().expect("its standard error is ours");
        // The proxy waits for no slow reader: a line that finds the pipe full is lost.
        fcntl(&stderr, FcntlArg::F_SETPIPE_SZ(1 << 20)).expect("a pipe may be so large");
        let lines = Arc::clone(&log);
        let reading = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().expect("no holder panics").push(line);
            }
        });
        Postern {
            process,
            log,
            reading: Some(reading),
            listeners: HashMap::new(),
            folder,
        }
    }

    fn announced(&self) -> usize {
        self.lines_with("listening on ").len()
    }

    fn read_listeners(&self) -> HashMap<String, Vec<SocketAddr>> {
        let mut listeners: HashMap<String, Vec<SocketAddr>> = HashMap::new();
        for line in self.lines_with("listening on ") {
            let (_, rest) = line
                .split_once("listening on ")
                .expect("lines were chosen so");
            let Some((address, rest)) = rest.split_once(" for server \"") else {
                continue;
            };
            let name = rest.split('"').next().unwrap_or_default();
            // A Unix socket has no port to learn.
            if let Ok(address) = address.parse() {
                listeners.entry(name.to_owned()).or_default().push(address);
            }
        }
        listeners
    }

    /// Where the first listener of `[server NAME]` is.
    pub(crate) fn address(&self, server: &str) -> SocketAddr {
        self.addresses(server)[0]
    }

    /// Where all TCP listeners of `[server NAME]` are, in the order of the start-up lines.
    pub(crate) fn addresses(&self, server: &str) -> &[SocketAddr] {
        self.listeners
            .get(server)
            .unwrap_or_else(|| panic!("no listener of {server} in:\n{}", self.log()))
    }

    /// The folder of the configuration file.
    pub(crate) fn folder(&self) -> &TempDir {
        &self.folder
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no holder panics").join("\n")
    }

    /// The lines logged so far but for the first so many.
    pub(crate) fn lines_from(&self, first: usize) -> Vec<String> {
        let log = self.log.lock().expect("no holder panics");
        log.get(first..).unwrap_or_default().to_vec()
    }

    /// How many lines logged so far contain `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        let log = self.log.lock().expect("no holder panics");
        log.iter().filter(|line| line.contains(text)).count()
    }

    /// The lines logged so far that contain `text`.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().expect("no holder panics");
        log.iter()
            .filter(|line| line.contains(text))
            .cloned()
            .collect()
    }

    /// How many lines that contain `text` were logged, or left out and counted as lines of this kind.
    pub(crate) fn told(&self, text: &str, kind: &str) -> usize {
        let counted = format!(" more lines \"{kind}\" of ");
        let left_out = self.lines_with(&counted).into_iter().filter_map(|line| {
            let (before, _) = line.split_once(&counted)?;
            before.rsplit(' ').next()?.parse::<usize>().ok()
        });
        let left_out: usize = left_out.sum();
        let is_count = |line: &&String| line.contains(&counted);
        let lines = self.lines_with(text);
        lines.len() - lines.iter().filter(is_count).count() + left_out
    }

    /// Waits for a line that contains `text`, and gives the first one.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        wait::until(
            &format!("`{text}` in the log:\n{}", self.log()),
            PATIENCE,
            || self.lines_with(text).into_iter().next(),
        )
    }

    /// Waits until that many lines contain `text`: an answer may be here before its line is. Gives how many do.
    pub(crate) fn wait_for_lines(&self, text: &str, wanted: usize) -> usize {
        wait::until(
            &format!("{wanted} lines with `{text}` in the log"),
            PATIENCE,
            || Some(self.count(text)).filter(|&count| count >= wanted),
        )
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Threads the process has.
    pub(crate) fn threads(&self) -> usize {
        self.entries("task")
    }

    /// Their names.
    pub(crate) fn thread_names(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
        let files = tasks.flatten().map(|task| task.path().join("comm"));
        let names = files.filter_map(|file| std::fs::read_to_string(file).ok());
        names.map(|name| name.trim_end().to_owned()).collect()
    }

    /// Descriptors the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        self.entries("fd")
    }

    /// Lets the process open so many descriptors more, and not one beyond.
    pub(crate) fn leave_descriptors(&self, more: usize) {
        let folder = format!("/proc/{}/fd", self.process.id());
        let numbers = || -> Vec<String> {
            let entries = fs::read_dir(&folder).expect("a running process is in /proc");
            let names = entries.flatten().map(|entry| entry.file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .collect()
        };
        // A session's descriptors are closed a moment after its last line in the log.
        let mut open = numbers();
        wait::until_true("descriptors are closed", PATIENCE, || {
            thread::sleep(Duration::from_millis(200));
            std::mem::replace(&mut open, numbers()) == open
        });
        // The limit is one of numbers, not of how many there are.
        let mut free = (0..).filter(|number: &usize| !open.contains(&number.to_string()));
        let most = free.nth(more).expect("numbers do not end");
        let (pid, limit) = (self.process.id().to_string(), format!("--nofile={most}:"));
        run("prlimit", &["--pid", &pid, &limit], b"").text();
    }

    /// Ends of pipes that it holds.
    pub(crate) fn pipes(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.process.id());
        let entries = fs::read_dir(folder).expect("a running process is in /proc");
        let targets = entries
            .flatten()
            .flat_map(|entry| fs::read_link(entry.path()));
        let is_pipe = |target: &std::path::PathBuf| target.to_string_lossy().starts_with("pipe:");
        targets.filter(is_pipe).count()
    }

    /// Lets it, which has become `nobody`, start a thread only while that user has fewer than so many.
    pub(crate) fn limit_threads(&self, most: &str) {
        let (pid, limit) = (self.process.id().to_string(), format!("--nproc={most}:"));
        let nobody = User::from_name("nobody").ok().flatten();
        let nobody = nobody.expect("every system has the user nobody");
        let (user, group) = (
            format!("--reuid={}", nobody.uid),
            format!("--regid={}", nobody.gid),
        );
        let arguments = [
            &user,
            &group,
            "--clear-groups",
            "prlimit",
            "--pid",
            &pid,
            &limit,
        ];
        run("setpriv", &arguments, b"").text();
    }

    fn entries(&self, what: &str) -> usize {
        let folder = format!("/proc/{}/{what}", self.process.id());
        fs::read_dir(folder)
            .expect("a running process is in /proc")
            .count()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end; the status and the whole log.
    pub(crate) fn wait_for_end(mut self, limit: Duration) -> (ExitStatus, String) {
        let status = self.process.wait(limit);
        if let Some(reading) = self.reading.take() {
            reading.join().expect("reading does not panic");
        }
        (status, self.log())
    }

    /// Ends it as an operator would and insists on status 0.
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::SIGTERM);
        let (status, log) = self.wait_for_end(Duration::from_secs(5));
        assert!(status.success(), "ended with {status}:\n{log}");
        log
    }
}

fn is_listen(line: &str) -> bool {
    let key = line.split('=').next().unwrap_or_default();
    key.trim() == "listen"
}
