//! Real client programs: curl, swaks, Python scripts; and checksums to compare large messages.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openssl::sha::sha256;

use super::wait;

/// How long one program may run.
const LIMIT: Duration = Duration::from_secs(120);

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Whether its status was 0.
    pub(crate) success: bool,
    /// Standard output.
    pub(crate) stdout: Vec<u8>,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Said {
    /// Insists on status 0 and gives the output as text.
    pub(crate) fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Insists on status 0 and gives the output as it is.
    pub(crate) fn bytes(self) -> Vec<u8> {
        assert!(
            self.success,
            "it failed:\n{}\n{}",
            self.stderr,
            String::from_utf8_lossy(&self.stdout)
        );
        self.stdout
    }

    /// Everything it said, for a test that expects a failure.
    pub(crate) fn everything(&self) -> String {
        format!("{}{}", self.stderr, String::from_utf8_lossy(&self.stdout))
    }
}

/// Runs curl with these arguments.
pub(crate) fn curl(arguments: &[&str]) -> Said {
    let mut all = vec![
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "100",
    ];
    all.extend_from_slice(arguments);
    run("curl", &all, b"")
}

/// Runs swaks with these arguments; it prints the whole dialogue.
pub(crate) fn swaks(arguments: &[&str]) -> Said {
    run("swaks", arguments, b"")
}

/// Runs a Python script (standard library only); `arguments` are its `sys.argv[1:]`.
pub(crate) fn python(script: &str, arguments: &[&str]) -> Said {
    let mut all = vec!["-c", script];
    all.extend_from_slice(arguments);
    run("python3", &all, b"")
}

/// Runs any program, with this on its standard input.
pub(crate) fn run(program: &str, arguments: &[&str], input: &[u8]) -> Said {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    let mut stdin = child.stdin.take().expect("the pipe was asked for");
    let stdout = child.stdout.take().expect("the pipe was asked for");
    let stderr = child.stderr.take().expect("the pipe was asked for");
    let input = input.to_vec();
    // It may end without reading its input.
    thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = thread::spawn(move || read_all(stdout));
    let stderr = thread::spawn(move || read_all(stderr));
    let id = Pid::from_raw(child.id().cast_signed());
    let watch = Watch::start(id, LIMIT);
    let status = child.wait().expect("a child of ours can be waited for");
    watch.stop();
    Said {
        success: status.success(),
        stdout: stdout.join().expect("the reader does not panic"),
        stderr: String::from_utf8_lossy(&stderr.join().expect("the reader does not panic"))
            .into_owned(),
    }
}

fn read_all(mut source: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    source
        .read_to_end(&mut all)
        .expect("a pipe can be read to its end");
    all
}

/// Kills a program that runs for too long.
struct Watch {
    stop: std::sync::mpsc::Sender<()>,
}

impl Watch {
    fn start(id: Pid, limit: Duration) -> Watch {
        let (stop, stopped) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let timed_out = std::sync::mpsc::RecvTimeoutError::Timeout;
            if stopped.recv_timeout(limit) == Err(timed_out) {
                let _ = kill(id, Signal::SIGKILL);
            }
        });
        Watch { stop }
    }

    fn stop(self) {
        let _ = self.stop.send(());
    }
}

/// SHA-256 in hex.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in sha256(bytes) {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

/// Waits until a file (a server's log, say) has a line with `text`, and gives it.
pub(crate) fn wait_for_line(file: &std::path::Path, text: &str) -> String {
    let what = format!("`{text}` in {}", file.display());
    wait::until(&what, wait::PATIENCE, || {
        let content = std::fs::read(file).ok()?;
        let content = String::from_utf8_lossy(&content).into_owned();
        content
            .lines()
            .find(|line| line.contains(text))
            .map(str::to_owned)
    })
}
