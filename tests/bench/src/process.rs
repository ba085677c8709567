//! Programs that are started here: a proxy, which ends when this program does, and tools that are run
//! to their end.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a proxy may take until it listens.
const START: Duration = Duration::from_secs(20);

/// How long a proxy may take to end before it is killed.
const END: Duration = Duration::from_secs(5);

/// A running server.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program; what it says on standard error goes to a file. The kernel ends it if this
    /// program dies first.
    pub(crate) fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self, String> {
        let log = File::options().create(true).append(true).open(log);
        let log = log.map_err(|error| format!("its log cannot be opened: {error}"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.map_err(|error| format!("setpriv cannot be started: {error}"))?;
        Ok(Self { child })
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it listens everywhere.
    ///
    /// # Errors
    /// What its log says, when it has ended instead or took too long.
    pub(crate) fn wait_until_listening(
        &mut self,
        addresses: &[SocketAddr],
        log: &Path,
    ) -> Result<(), String> {
        let began = Instant::now();
        for address in addresses {
            while TcpStream::connect(address).is_err() {
                let status = self.child.try_wait().map_err(|error| error.to_string())?;
                let log = || fs::read_to_string(log).unwrap_or_default();
                if let Some(status) = status {
                    return Err(format!("it ended with {status}: {}", log()));
                }
                if began.elapsed() > START {
                    return Err(format!(
                        "it does not listen on {address} within {START:?}: {}",
                        log()
                    ));
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = kill(Pid::from_raw(self.id().cast_signed()), Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < END {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a tool to its end and gives its output.
///
/// # Errors
/// That it cannot be started, or what it said when it failed.
pub(crate) fn run(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let name = program.display();
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{name} cannot be started: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(said)
    } else {
        Err(format!("{name} failed: {said}"))
    }
}

/// An address of 127.0.0.1 at which nobody listens, below the range from which the kernel takes the
/// ports of outgoing connections. No two calls give the same.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 16_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST + offset % COUNT));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
