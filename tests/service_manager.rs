//! What the proxy tells systemd, and the sockets that it takes over from it. The test plays systemd's
//! part: a datagram socket for the one, a descriptor and variables for the other.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, IoSliceMut};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::process::Process;
use crate::common::temp::TempDir;
use crate::common::wait::{self, PATIENCE};

/// The process that the service manager would be.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
    heard: VecDeque<String>,
    stored: Vec<OwnedFd>,
}

/// `$0` is the program, `$1` its configuration, `$2` where it tells how it is; 3 is what it is handed.
const RUN: &str = "export NOTIFY_SOCKET=$2; exec \"$0\" --config \"$1\"";
const RUN_WITH_SOCKET: &str = "export NOTIFY_SOCKET=$2 LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=left; \
                               exec \"$0\" --config \"$1\" 3<&0 0</dev/null";

impl Manager {
    fn new() -> Manager {
        let folder = TempDir::new("manager");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("it takes a time");
        Manager {
            folder,
            socket,
            heard: VecDeque::new(),
            stored: Vec::new(),
        }
    }

    fn arguments(&self, script: &str, ini: &str) -> Vec<String> {
        let ini = format!("[postern]\nerror_log = log info\n{ini}");
        let file: PathBuf = self.folder.write("postern.ini", ini);
        let notify = self.folder.path().join("notify");
        let program = env!("CARGO_BIN_EXE_postern");
        let (file, notify) = (file.display().to_string(), notify.display().to_string());
        ["-c", script, program, &file, &notify]
            .map(str::to_owned)
            .into()
    }

    fn start(&self, script: &str, ini: &str) -> Process {
        Process::start_silent("sh", self.arguments(script, ini))
    }

    /// With a socket that was opened for it.
    fn start_with(&self, ini: &str, socket: OwnedFd) -> Process {
        Process::start_given("sh", self.arguments(RUN_WITH_SOCKET, ini), socket)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Reads on until a line begins so; the whole datagram.
    fn hears(&mut self, line: &str) -> String {
        loop {
            let mut buffer = [0; 4096];
            let (count, descriptors) = {
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let mut space = nix::cmsg_space!([i32; 4]);
                let received = recvmsg::<()>(
                    self.socket.as_raw_fd(),
                    &mut parts,
                    Some(&mut space),
                    MsgFlags::MSG_CMSG_CLOEXEC,
                );
                let received = received.unwrap_or_else(|error| {
                    panic!("{error}, not {line}: {:#?}\n{}", self.heard, self.log())
                });
                let mut descriptors = Vec::new();
                for message in received.cmsgs().expect("they fit") {
                    if let ControlMessageOwned::ScmRights(numbers) = message {
                        descriptors.extend(numbers);
                    }
                }
                (received.bytes, descriptors)
            };
            self.stored.extend(descriptors.into_iter().map(owned));
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            self.heard.push_back(text.clone());
            if text.lines().any(|its| its.starts_with(line)) {
                return text;
            }
        }
    }
}

fn owned(number: i32) -> OwnedFd {
    #![expect(unsafe_code, reason = "the kernel has just made it for us")]
    // SAFETY: it came with a message, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn imap(port: u16) -> String {
    format!(
        "[server imap{port}]\nprotocol = imap\nlisten = 127.0.0.1:{port}\nauth_http = 127.0.0.1:9\n"
    )
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// The first line, or nothing.
fn greeting(stream: &TcpStream) -> String {
    let mut line = String::new();
    // A connection that is reset has said nothing.
    let _ = BufReader::new(stream).read_line(&mut line);
    line
}

#[test]
fn it_is_told_of_readiness_reloads_sockets_and_the_end() {
    let mut manager = Manager::new();
    let (first, second) = (free_port(), free_port());
    let mut process = manager.start(RUN, &imap(first));
    manager.hears(&format!("FDNAME=listen-127.0.0.1.{first}"));
    assert_eq!(manager.stored.len(), 1);
    let ready = manager.hears("READY=1");
    assert!(
        ready.contains("STATUS=0 sessions, 0 of them logged in; 1 listeners"),
        "{ready}"
    );
    LineClient::greeted(at(first));

    manager.arguments(RUN, &imap(second));
    process.signal(Signal::SIGHUP);
    let reloading = manager.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let stored = manager.hears(&format!("FDNAME=listen-127.0.0.1.{second}"));
    assert!(stored.contains("FDSTORE=1"), "{stored}");
    let removed = manager.hears(&format!("FDNAME=listen-127.0.0.1.{first}"));
    assert!(removed.contains("FDSTOREREMOVE=1"), "{removed}");
    manager.hears("READY=1");

    manager.arguments(RUN, "[nonsense]\n");
    process.signal(Signal::SIGHUP);
    manager.hears("RELOADING=1");
    let ready = manager.hears("READY=1");
    assert!(
        ready.contains("the last reload failed, see the log"),
        "{ready}"
    );

    process.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    assert!(process.wait(Duration::from_secs(5)).success());
}

#[test]
fn the_watchdog_hears_that_the_doors_answer() {
    let mut manager = Manager::new();
    let script = format!("export WATCHDOG_USEC=300000; {RUN}");
    let _process = manager.start(&script, &imap(free_port()));
    manager.hears("READY=1");
    let began = Instant::now();
    for _ in 0..5 {
        let alive = manager.hears("WATCHDOG=1");
        assert!(alive.contains("WATCHDOG=1"));
    }
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_socket_that_is_handed_over_is_the_listener() {
    let mut manager = Manager::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("bound").port();
    // It connects before anybody serves it.
    let waiting = TcpStream::connect(at(port)).expect("the kernel takes it");
    let _process = manager.start_with(&imap(port), socket.into());
    manager.hears("READY=1");
    assert!(greeting(&waiting).starts_with("* OK"));
    assert!(!manager.log().contains("handed over"), "{}", manager.log());
}

#[test]
fn a_socket_that_no_line_asks_for_is_given_back() {
    let mut manager = Manager::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let left = socket.local_addr().expect("bound").port();
    let port = free_port();
    let _process = manager.start_with(&imap(port), socket.into());
    let removed = manager.hears("FDNAME=left");
    assert!(removed.contains("FDSTOREREMOVE=1"), "{removed}");
    manager.hears("READY=1");
    LineClient::greeted(at(port));
    wait::until_true("the socket is closed", PATIENCE, || {
        TcpStream::connect(at(left)).is_err()
    });
    let text = "the socket \"left\" that was handed over is for no `listen` line";
    assert!(manager.log().contains(text), "{}", manager.log());
}

#[test]
fn nobody_is_refused_while_one_process_follows_another() {
    let mut manager = Manager::new();
    let port = free_port();
    let mut process = manager.start(RUN, &imap(port));
    manager.hears("READY=1");
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let clients = thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            let client = TcpStream::connect(at(port)).expect("it is not refused");
            // Who was inside when the process was killed hears nothing more.
            let hears = greeting(&client).starts_with("* OK");
            count.fetch_add(usize::from(hears), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(5));
        }
    });
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM] {
        process.signal(signal);
        process.wait(Duration::from_secs(5));
        let socket = manager.stored.pop().expect("it was stored");
        manager
            .stored
            .push(socket.try_clone().expect("a descriptor is left"));
        process = manager.start_with(&imap(port), socket);
        manager.hears("READY=1");
        let before = served.load(Ordering::Relaxed);
        wait::until_true("clients are served again", PATIENCE, || {
            assert!(!clients.is_finished(), "somebody was refused");
            served.load(Ordering::Relaxed) > before + 3
        });
    }
    stop.store(true, Ordering::Relaxed);
    clients.join().expect("nobody is refused");
}

#[test]
fn a_manager_that_does_not_read_keeps_nobody_from_working_and_ending() {
    let manager = Manager::new();
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("a flag");
    let notify = manager.folder.path().join("notify");
    while filler.send_to(b"STATUS=x", &notify).is_ok() {}
    let port = free_port();
    let mut process = manager.start(RUN, &imap(port));
    wait::until_true("clients are served", PATIENCE, || {
        TcpStream::connect(at(port)).is_ok_and(|client| greeting(&client).starts_with("* OK"))
    });
    let began = Instant::now();
    process.signal(Signal::SIGTERM);
    assert!(process.wait(PATIENCE).success());
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{}",
        manager.log()
    );
    let text = "cannot tell the service manager";
    assert!(manager.log().contains(text), "{}", manager.log());
}

#[test]
fn a_manager_with_an_abstract_address_is_told() {
    let name = format!("postern-notify-{}", std::process::id());
    let address = UnixAddress::from_abstract_name(&name).expect("a name");
    let mut manager = Manager::new();
    manager.socket = UnixDatagram::bind_addr(&address).expect("a socket");
    manager
        .socket
        .set_read_timeout(Some(PATIENCE))
        .expect("it takes a time");
    let script = format!("export NOTIFY_SOCKET=@{name}; exec \"$0\" --config \"$1\"");
    let _process = manager.start(&script, &imap(free_port()));
    manager.hears("READY=1");
}

#[test]
fn a_socket_that_is_announced_and_not_there_is_an_error() {
    let manager = Manager::new();
    let script = format!("export LISTEN_FDS=1 LISTEN_PID=$$; exec 3>&-; {RUN}");
    let mut process = manager.start(&script, &imap(free_port()));
    // The first file that is opened would get its number, and two owners.
    assert!(!process.wait(PATIENCE).success(), "{}", manager.log());
}
