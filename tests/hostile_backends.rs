//! Backends and auth servers that drip, stall in the middle of TLS, break off, are slow to accept, or
//! answer what nobody asked.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::janitor;
use crate::common::line_client::{LineClient, find};
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tls::{Got, TlsLines, serve, server_config};
use crate::common::wait::{PATIENCE, until, until_true};
use crate::common::{proxy_to, service};
use crate::peers::unruly::pattern;
use crate::peers::{Peer, Talk, imap_server};
use crate::servers::pki::Pki;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};
use socket2::{Domain, SockAddr, Socket, Type};

const LIBRARIES: [&str; 2] = ["rustls", "native"];

/// Much longer than a limit of this file and much shorter than what a peer holds out.
const SOON: Duration = Duration::from_secs(4);

/// A backend with TLS from the first byte on.
fn tls_backend(play: impl Fn(TlsLines) + Send + Sync + 'static) -> SocketAddr {
    let pair = Pki::shared().server();
    serve(server_config(&pair.certificate, &pair.key, None), play)
}

/// The IMAP service in front of such a backend.
fn to_tls(library: &str, more: &str) -> String {
    let authority = Pki::shared().authority();
    format!(
        "tls_library = {library}\nproxy_ssl = on\nproxy_ssl_trusted_certificate = {}\n{more}",
        authority.display()
    )
}

/// Greets and lets everybody in.
fn let_in(lines: &mut TlsLines) {
    lines.send("* OK ready");
    let login = lines.line();
    let tag = login.split(' ').next().unwrap_or_default();
    for _ in ["login", "password"] {
        lines.send("+ go on");
        lines.line();
    }
    lines.send(&format!("{tag} OK in"));
}

#[test]
fn a_backend_that_drips_its_login_answer_in_pieces_of_a_record_frees_the_worker_in_time() {
    for library in LIBRARIES {
        let address = tls_backend(|mut lines| {
            lines.send("* OK ready");
            lines.line();
            let start = Instant::now();
            let mut sent = lines.tls.write_raw(&[23, 3, 3, 0x40, 0]);
            while sent.is_ok() && start.elapsed() < 2 * SOON {
                thread::sleep(Duration::from_millis(50));
                sent = lines.tls.write_raw(b"x");
            }
        });
        let auth = AuthServer::start(move |_| Answer::ok(address));
        let server = service("imap", &auth, &to_tls(library, "timeout = 1s"));
        let postern = Postern::start(&format!("[postern]\nworkers = 1\n{server}"));
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        let start = Instant::now();
        client.ask("a LOGIN alice secret", "* BAD internal server error");
        client.expect_close();
        assert!(start.elapsed() < SOON, "{library}: {:?}", start.elapsed());
        let (_newcomer, greeting) = LineClient::greeted(postern.address("imap"));
        assert_eq!(greeting, "* OK IMAP4 ready");
    }
}

/// `openssl s_server`, which begins a renegotiation on demand.
struct Renegotiating {
    process: Child,
    commands: ChildStdin,
    port: u16,
}

impl Renegotiating {
    fn start() -> Renegotiating {
        let pair = Pki::shared().server();
        let port = free_port();
        let mut process = Command::new("setsid")
            .args([
                "openssl",
                "s_server",
                "-tls1_2",
                "-crlf",
                "-accept",
                &port.to_string(),
            ])
            .arg("-cert")
            .arg(&pair.certificate)
            .arg("-key")
            .arg(&pair.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setsid and openssl are there");
        janitor::end_later(process.id());
        let commands = process.stdin.take().expect("the pipe was asked for");
        Renegotiating {
            process,
            commands,
            port,
        }
    }

    fn connect(port: u16) -> TcpStream {
        until("openssl listens", PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        })
    }

    /// Sends a line; a line `r` is a command instead.
    fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        let written = self.commands.write_all(line.as_bytes());
        written.expect("openssl listens");
        thread::sleep(Duration::from_millis(150));
    }
}

impl Drop for Renegotiating {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
        janitor::has_ended(self.process.id());
    }
}

/// Copies until the end, and drops what comes once `hold` is set.
fn copy(mut from: TcpStream, mut to: TcpStream, hold: Option<Arc<AtomicBool>>) {
    thread::spawn(move || {
        let mut buffer = [0; 16_384];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let holds = hold
                .as_ref()
                .is_some_and(|hold| hold.load(Ordering::SeqCst));
            if !holds && to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
}

#[test]
fn a_backend_that_stalls_in_a_renegotiation_keeps_no_thread_busy() {
    let mut server = Renegotiating::start();
    let port = server.port;
    let listener = TcpListener::bind("127.0.0.1:0").expect("the system has a port");
    let address = listener.local_addr().expect("a listener has an address");
    let hold = Arc::new(AtomicBool::new(false));
    let stalled = Arc::clone(&hold);
    let (connected, is_connected) = mpsc::channel();
    thread::spawn(move || {
        let (proxy, _) = listener.accept().expect("the proxy comes");
        let server = Renegotiating::connect(port);
        let clones = (proxy.try_clone(), server.try_clone());
        let (Ok(to_proxy), Ok(from_server)) = clones else {
            panic!("descriptors can be duplicated");
        };
        copy(proxy, server, Some(stalled));
        copy(from_server, to_proxy, None);
        let _ = connected.send(());
    });
    let more = to_tls(
        "native",
        "proxy_ssl_protocols = TLSv1.2\nproxy_timeout = 2s",
    );
    let (postern, _auth) = proxy_to("imap", address, &more);
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN alice secret");
    is_connected.recv().expect("the proxy connects");
    thread::sleep(Duration::from_millis(300));
    for line in ["* OK ready", "+ login", "+ password", "a OK in"] {
        server.say(line);
    }
    client.expect("a OK in");
    // Nothing of the proxy's arrives there any more.
    hold.store(true, Ordering::SeqCst);
    server.say("r");
    let (before, start) = (processor_time(&postern), Instant::now());
    client.send("b NOOP");
    client.expect_close();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    postern.wait_for_log("session closed");
    let used = processor_time(&postern) - before;
    assert!(used < Duration::from_millis(500), "{used:?}");
}

/// What the proxy has used of the processors so far, to a hundredth of a second.
fn processor_time(postern: &Postern) -> Duration {
    let line = postern.wait_for_log("#");
    let before = line.split('#').next().unwrap_or_default();
    let pid = before.rsplit(' ').next().unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.unwrap_or_else(|error| panic!("{error}: {line}"));
    // The name may hold spaces; behind it utime and stime are the 12th and 13th field.
    let (_, fields) = stat.rsplit_once(") ").expect("the name ends");
    let times = fields.split(' ').skip(11).take(2);
    let ticks: u64 = times.filter_map(|time| time.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let per_second = per_second.and_then(|ticks| u64::try_from(ticks).ok());
    Duration::from_millis(1000 * ticks / per_second.unwrap_or(100))
}

/// An auth server that refuses everybody, and after its first refusal says this unasked.
fn talkative_auth(stray: Vec<u8>, delay: Duration) -> (SocketAddr, mpsc::Receiver<()>) {
    const REFUSAL: &[u8] = b"HTTP/1.1 200 OK\r\nAuth-Status: no\r\nContent-Length: 0\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").expect("the system has a port");
    let address = listener.local_addr().expect("a listener has an address");
    let (said, is_said) = mpsc::channel();
    thread::spawn(move || {
        let mut strays = vec![stray];
        for stream in listener.incoming().map_while(Result::ok) {
            let (said, stray) = (said.clone(), strays.pop());
            thread::spawn(move || {
                let mut stray = stray;
                while answer(&stream, REFUSAL) {
                    let Some(stray) = stray.take() else {
                        continue;
                    };
                    thread::sleep(delay);
                    // The proxy may have closed the connection already, which is as good.
                    drop((&stream).write_all(&stray));
                    let _ = said.send(());
                }
            });
        }
    });
    (address, is_said)
}

/// Reads one request and answers it; false when there is none.
fn answer(mut stream: impl Read + Write, answer: &[u8]) -> bool {
    let mut request = Vec::new();
    while find(&request, b"\r\n\r\n").is_none() {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
            _ => return false,
        }
    }
    stream.write_all(answer).is_ok()
}

#[test]
fn an_answer_that_nobody_asked_for_logs_nobody_in() {
    for delay in [0, 200] {
        let backend = Peer::start(imap_server);
        let place = backend.address();
        let stray = format!(
            "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\n\
             Content-Length: 0\r\n\r\n",
            place.ip(),
            place.port()
        );
        let delay = Duration::from_millis(delay);
        let (auth, is_said) = talkative_auth(stray.into_bytes(), delay);
        let postern = Postern::start(&format!(
            "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_http = {auth}\n"
        ));
        let (mut first, _) = LineClient::greeted(postern.address("imap"));
        first.ask("a LOGIN first wrong", "a NO no");
        is_said.recv().expect("the auth server goes on");
        thread::sleep(Duration::from_millis(200));
        let (mut next, _) = LineClient::greeted(postern.address("imap"));
        next.ask("a LOGIN victim wrong", "a NO no");
        assert_eq!(backend.accepted(), 0, "{delay:?}");
    }
}

#[test]
fn an_auth_server_at_a_unix_socket_may_be_slow_to_accept() {
    let folder = TempDir::new("hostile");
    let path = folder.path().join("auth");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("sockets can be had");
    let address = SockAddr::unix(&path).expect("the path is short");
    socket.bind(&address).expect("the folder is ours");
    socket.listen(1).expect("it is bound");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("the socket is ours");
    let listener = UnixListener::from(std::os::fd::OwnedFd::from(socket));

    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_http = unix:{}:/auth\n",
        path.display()
    ));
    let address = postern.address("imap");
    let clients = [0; 4].map(|_| {
        thread::spawn(move || {
            let (mut client, _) = LineClient::greeted(address);
            client.send("a LOGIN alice wrong");
            client.line()
        })
    });
    thread::sleep(Duration::from_secs(1));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            answer(
                &stream,
                b"HTTP/1.1 200 OK\r\nAuth-Status: no\r\nContent-Length: 0\r\n\r\n",
            );
        }
    });
    for client in clients {
        let said = client.join().expect("every client hears something");
        assert_eq!(said, "a NO no", "{}", postern.log());
    }
}

const LAST: usize = 300_000;

/// Lets everybody in and answers the first command with much, then is gone whatever still comes.
fn says_much_and_breaks_off(talk: &mut Talk) -> std::io::Result<()> {
    talk.say("* OK ready")?;
    let login = talk.line()?;
    let tag = login.split(' ').next().unwrap_or_default();
    for _ in ["login", "password"] {
        talk.say("+ go on")?;
        talk.line()?;
    }
    talk.say(&format!("{tag} OK in"))?;
    talk.line()?;
    talk.send(&pattern(0, LAST))?;
    thread::sleep(Duration::from_millis(150));
    Ok(())
}

#[test]
fn what_a_backend_says_before_it_breaks_off_reaches_a_client_that_still_uploads() {
    let backend = Peer::start(says_much_and_breaks_off);
    let (postern, _auth) = proxy_to("imap", backend.address(), "");
    // A small window, so that most of it is still on its way when the backend is gone.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("sockets can be had");
    socket.set_recv_buffer_size(8192).expect("it can be small");
    socket
        .connect(&postern.address("imap").into())
        .expect("the proxy listens");
    let mut client = TcpStream::from(socket);
    client
        .set_read_timeout(Some(PATIENCE))
        .expect("the limit is not zero");
    client
        .write_all(b"a LOGIN alice secret\r\n")
        .expect("it is open");
    let mut head = Vec::new();
    while find(&head, b"a OK in\r\n").is_none() {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("the login succeeds");
        head.extend(byte);
    }
    client.write_all(b"b FETCH\r\n").expect("it is open");
    let mut upload = client.try_clone().expect("descriptors can be had");
    let uploading = thread::spawn(move || {
        // For as long as somebody takes it.
        while upload.write_all(&[b'y'; 500]).is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    thread::sleep(Duration::from_millis(400));
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    let end = loop {
        match client.read(&mut buffer) {
            Ok(0) => break None,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break Some(error),
        }
        thread::sleep(Duration::from_micros(500));
    };
    assert_eq!(received.len(), LAST, "{end:?}");
    assert!(received == pattern(0, LAST), "and it is what was sent");
    drop(client.shutdown(std::net::Shutdown::Both));
    uploading.join().expect("it ends with the connection");
}

#[test]
fn the_end_of_the_process_ends_tls_to_backends_with_close_notify() {
    for library in LIBRARIES {
        let (report, reported) = mpsc::channel();
        let address = tls_backend(move |mut lines| {
            let_in(&mut lines);
            let _ = report.send(lines.rest());
        });
        let (postern, _auth) = proxy_to("imap", address, &to_tls(library, ""));
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.ask("a LOGIN alice secret", "a OK in");
        until_true("the relay runs", PATIENCE, || {
            !postern.lines_with("client logged in").is_empty()
        });
        postern.signal(Signal::SIGTERM);
        let (rest, end) = reported.recv().expect("the backend sees an end");
        assert_eq!((rest, end), (Vec::new(), Got::Notified), "{library}");
        client.expect_close();
        let (status, log) = postern.wait_for_end(Duration::from_secs(5));
        assert!(status.success(), "{status}\n{log}");
    }
}
