//! Signals as the users of nginx know them: HUP reads everything anew, or leaves everything as it is;
//! QUIT waits for sessions. And the listeners that come and go with that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::tools::run;
use crate::common::wait;
use crate::peers::unruly::{echoes_after_login, says_bye};
use crate::peers::{Peer, imap_server};
use nix::sys::signal::Signal;

fn imap(name: &str, port: u16, auth: &AuthServer, more: &str) -> String {
    let url = auth.url();
    format!(
        "[server {name}]\nprotocol = imap\nlisten = 127.0.0.1:{port}\nserver_name = proxy.test\n\
         auth_http = {url}\n{more}\n"
    )
}

fn capability(postern_port: u16) -> String {
    let (mut client, _) = LineClient::greeted(([127, 0, 0, 1], postern_port).into());
    client.send("a CAPABILITY");
    client.line()
}

fn reload(postern: &Postern, ini: &str, until: &str) {
    postern.folder().write("postern.ini", ini);
    postern.signal(Signal::SIGHUP);
    postern.wait_for_log(until);
}

#[test]
fn hup_reads_everything_anew_and_leaves_running_sessions_alone() {
    let backend = Peer::start(echoes_after_login);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let (kept, gone, new) = (free_port(), free_port(), free_port());
    let before = imap("kept", kept, &auth, "imap_capabilities = IMAP4rev1 OLD")
        + &imap("gone", gone, &auth, "");
    let postern = Postern::start(&before);
    let (mut running, _) = LineClient::greeted(([127, 0, 0, 1], kept).into());
    running.send("a LOGIN bob pw");
    let answer = running.lines_until("a ").pop().expect("an answer");
    assert!(answer.starts_with("a OK"), "{answer}");
    assert_eq!(capability(kept), "* CAPABILITY IMAP4rev1 OLD AUTH=PLAIN");

    let after = imap("kept", kept, &auth, "imap_capabilities = IMAP4rev1 NEW")
        + &imap("new", new, &auth, "");
    reload(&postern, &after, "the configuration was read anew");

    assert_eq!(capability(kept), "* CAPABILITY IMAP4rev1 NEW AUTH=PLAIN");
    assert!(capability(new).starts_with("* CAPABILITY"));
    wait::until_true("the old port is closed", Duration::from_secs(5), || {
        std::net::TcpStream::connect(("127.0.0.1", gone)).is_err()
    });
    running.send("still there");
    assert!(running.line().contains("still there"));
    postern.stop();
}

#[test]
fn what_is_known_of_hosts_outlives_a_reload() {
    let (bad, good) = (Peer::start(says_bye), Peer::start(imap_server));
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nimap_capabilities = TEST\n\
         [backend mail]\nhosts = {} {}\n",
        bad.address(),
        good.address()
    ));
    for count in 1..3 {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send("a LOGIN alice secret");
        let answer = client.line();
        assert!(answer.starts_with("a OK"), "{answer}");
        postern.signal(Signal::SIGHUP);
        wait::until_true("it has reloaded", Duration::from_secs(5), || {
            postern.count("was read anew") == count
        });
    }
    // It is tried last, behind a reload as well, and nobody calls it down a second time.
    assert_eq!((bad.accepted(), good.accepted()), (1, 2));
    assert_eq!(postern.count("is down"), 1);
    postern.stop();
}

#[test]
fn a_mistake_in_the_new_configuration_changes_nothing() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let port = free_port();
    let good = imap("imap", port, &auth, "imap_capabilities = IMAP4rev1 OLD");
    let postern = Postern::start(&good);
    let bad = format!("{good}\ntimeuot = 5s\n");
    reload(&postern, &bad, "the old one stays in use");
    let line = postern.wait_for_log("timeuot");
    assert!(line.contains("did you mean `timeout`"), "{line}");
    assert_eq!(capability(port), "* CAPABILITY IMAP4rev1 OLD AUTH=PLAIN");
    postern.stop();
}

#[test]
fn no_connection_is_refused_during_reloads() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let port = free_port();
    let ini = imap("imap", port, &auth, "");
    let postern = Postern::start(&ini);
    let clients = std::thread::spawn(move || {
        for _ in 0..200 {
            assert!(capability(port).starts_with("* CAPABILITY"));
        }
    });
    while !clients.is_finished() {
        postern.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(20));
    }
    clients.join().expect("no client is refused");
    postern.stop();
}

#[test]
fn reload_timeout_ends_what_began_before() {
    let backend = Peer::start(echoes_after_login);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let port = free_port();
    let ini = format!(
        "[postern]\nreload_timeout = 300ms\n{}",
        imap("imap", port, &auth, "")
    );
    let postern = Postern::start(&ini);
    let (mut old, _) = LineClient::greeted(([127, 0, 0, 1], port).into());
    old.send("a LOGIN bob pw");
    old.lines_until("a ");
    reload(&postern, &ini, "the configuration was read anew");
    old.rest();
    postern.wait_for_log("reason=\"reload timeout\"");
    postern.stop();
}

#[test]
fn quit_waits_for_sessions_to_end() {
    let backend = Peer::start(echoes_after_login);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let port = free_port();
    let postern = Postern::start(&imap("imap", port, &auth, ""));
    let target = ([127, 0, 0, 1], port).into();
    let (mut waiting, _) = LineClient::greeted(target);
    let (mut running, _) = LineClient::greeted(target);
    running.send("a LOGIN bob pw");
    running.lines_until("a ");
    postern.signal(Signal::SIGQUIT);
    let goodbye = waiting.line();
    assert!(goodbye.starts_with("* BYE"), "{goodbye}");
    running.send("still there");
    assert!(running.line().contains("still there"));
    drop(running);
    let (status, log) = postern.wait_for_end(Duration::from_secs(5));
    assert!(status.success(), "{log}");
    assert!(log.contains("sessions cut off: 0"), "{log}");
}

#[test]
fn a_wildcard_and_a_specific_address_share_a_port() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let port = free_port();
    let specific = imap(
        "specific",
        port,
        &auth,
        "imap_capabilities = IMAP4rev1 SPECIFIC",
    )
    .replace("127.0.0.1:", "127.0.0.2:");
    let any = imap("any", port, &auth, "imap_capabilities = IMAP4rev1 ANY")
        .replace("127.0.0.1:", "0.0.0.0:");
    let postern = Postern::start(&format!("{specific}{any}"));
    assert_eq!(capability(port), "* CAPABILITY IMAP4rev1 ANY AUTH=PLAIN");
    let (mut client, _) = LineClient::greeted(([127, 0, 0, 2], port).into());
    client.ask("a CAPABILITY", "* CAPABILITY IMAP4rev1 SPECIFIC AUTH=PLAIN");
    postern.stop();
}

/// One session after another until it is told to stop, each of which must be greeted and served.
struct Knocking {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<usize>,
}

impl Knocking {
    fn at(port: u16) -> Knocking {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut served = 0;
            while !told.load(Ordering::Relaxed) {
                assert!(capability(port).starts_with("* CAPABILITY"));
                served += 1;
            }
            served
        });
        Knocking { stop, thread }
    }

    fn served(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("nobody is refused")
    }
}

#[test]
fn a_port_moves_from_one_address_to_all_and_back_without_refusing_anybody() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let port = free_port();
    let one = imap("imap", port, &auth, "");
    let all = one.replace("127.0.0.1:", "0.0.0.0:");
    let both = one.replace("listen = 127.0.0.1:", "listen = [::]:");
    let both = both.replace("\nserver_name", " ipv6only=off\nserver_name");
    let postern = Postern::start(&one);
    let clients = [Knocking::at(port), Knocking::at(port)];
    for (round, ini) in [&all, &both, &all, &one, &both, &one]
        .into_iter()
        .enumerate()
    {
        postern.folder().write("postern.ini", ini);
        postern.signal(Signal::SIGHUP);
        wait::until_true("the configuration is read", Duration::from_secs(5), || {
            assert_eq!(
                postern.count("the old one stays in use"),
                0,
                "{}",
                postern.log()
            );
            postern.count("was read anew") == round + 1
        });
    }
    for clients in clients {
        assert!(clients.served() > 0);
    }
    let beyond = std::net::TcpStream::connect(("127.0.0.2", port));
    assert!(beyond.is_err(), "only 127.0.0.1 is left");
    postern.stop();
}

#[test]
fn after_a_reload_that_failed_nobody_else_gets_the_address() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let port = free_port();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_port = taken.local_addr().expect("bound").port();
    let one = imap("imap", port, &auth, "");
    let all = one.replace("127.0.0.1:", "0.0.0.0:");
    let postern = Postern::start(&all);
    let after = format!("{one}{}", imap("other", taken_port, &auth, ""));
    reload(&postern, &after, "the old one stays in use");
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let other = other.expect("a socket");
    other.set_reuse_address(true).expect("a flag");
    other.set_reuse_port(true).expect("a flag");
    let address: std::net::SocketAddr = ([127, 0, 0, 2], port).into();
    let bound = other.bind(&address.into()).and_then(|()| other.listen(1));
    let error = bound.expect_err("it is taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(capability(port).starts_with("* CAPABILITY"));
    postern.stop();
}

#[test]
fn a_listener_that_cannot_be_opened_costs_none_of_those_that_are() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let (kept, gone, new) = (free_port(), free_port(), free_port());
    let as_user = "[postern]\nuser = nobody\n";
    let kept_server = imap("kept", kept, &auth, "");
    let before = format!("{as_user}{kept_server}{}", imap("gone", gone, &auth, ""));
    let after = format!("{as_user}{kept_server}{}", imap("new", new, &auth, ""));
    let postern = Postern::start(&before);

    // No further thread: the accept thread of the new listener cannot be started.
    postern.limit_threads("1");
    reload(&postern, &after, "the old one stays in use");
    postern.wait_for_log("cannot start a thread");
    postern.limit_threads("4096");
    for port in [kept, gone] {
        assert!(capability(port).starts_with("* CAPABILITY"));
    }
    assert!(std::net::TcpStream::connect(("127.0.0.1", new)).is_err());

    reload(&postern, &after, "the configuration was read anew");
    assert!(capability(new).starts_with("* CAPABILITY"));
    postern.stop();
}

#[test]
fn what_a_listen_line_says_of_its_socket_holds_after_a_reload() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let port = free_port();
    let before = imap("imap", port, &auth, "");
    let postern = Postern::start(&before);
    let listening = || {
        let port = format!("sport = :{port}");
        run("ss", &["-Hltnm", &port], b"").text()
    };
    let was = listening();
    assert!(!was.contains(" 17 "), "{was}");
    let line = format!("listen = 127.0.0.1:{port}");
    let sized = format!("{line} backlog=17 rcvbuf=64k sndbuf=32k");
    reload(&postern, &before.replace(&line, &sized), "was read anew");
    let now = listening();
    let words: Vec<&str> = now.split_whitespace().collect();
    assert_eq!(words.get(2), Some(&"17"), "{now}");
    // Linux doubles what it is told.
    for size in ["rb131072", "tb65536"] {
        assert!(now.contains(size), "{now}");
    }
    // What cannot be undone is said.
    reload(&postern, &before, "`rcvbuf` of listen");
    postern.wait_for_log("`sndbuf` of listen");
    postern.stop();
}

#[test]
fn what_takes_a_restart_is_said_at_each_reload() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let before = imap("imap", free_port(), &auth, "");
    let postern = Postern::start(&before);
    let after = format!("[postern]\nuser = nobody\ngroup = mail\npid = here.pid\n{before}");
    for round in 1..=2 {
        reload(&postern, &after, "was read anew");
        for name in ["user", "group", "pid"] {
            let text = format!("a change of `{name}` takes effect at the next start");
            wait::until_true(&text, Duration::from_secs(5), || {
                postern.count(&text) == round
            });
        }
    }
    postern.stop();
}
