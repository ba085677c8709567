//! Every kind of listener and its flags: Unix sockets, ranges, host names, IPv6, socket options as the
//! kernel shows them.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tools::{run, wait_for_line};
use crate::common::{service, wait};
use crate::peers::{Peer, server_of};
use crate::servers::postfix;
use nix::sys::signal::Signal;

/// The service with these `listen` lines instead of the usual one.
fn listening(protocol: &str, auth: &AuthServer, listen: &[&str], more: &str) -> String {
    let lines: Vec<String> = listen
        .iter()
        .map(|value| format!("listen = {value}"))
        .collect();
    service(protocol, auth, more).replace("listen = 127.0.0.1:0", &lines.join("\n"))
}

/// An IMAP proxy on these listeners, in front of a small server.
fn imap_on(listen: &[&str]) -> (Postern, AuthServer, Peer) {
    let backend = Peer::start(server_of("imap"));
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&listening("imap", &auth, listen, ""));
    postern.wait_for_log("ready");
    (postern, auth, backend)
}

/// What the auth server heard of the client that logs in here.
fn client_ip(auth: &AuthServer, address: SocketAddr) -> String {
    drop(LineClient::imap_login(address));
    let requests = auth.requests();
    let request = requests.last().expect("the auth server was asked");
    request.header("Client-IP").unwrap_or_default().to_owned()
}

/// A dialogue through a Unix socket: lines to send, beginnings of lines to wait for.
fn unix_dialogue(path: &Path, steps: &[(&str, &str)]) {
    let mut stream = UnixStream::connect(path).expect("somebody listens");
    let limit = Some(Duration::from_secs(10));
    stream
        .set_read_timeout(limit)
        .expect("the limit is not zero");
    let reading = stream.try_clone().expect("a descriptor can be duplicated");
    let mut reading = BufReader::new(reading);
    for (line, answer) in steps {
        stream.write_all(line.as_bytes()).expect("it listens");
        let mut got = String::new();
        while !got.starts_with(answer) {
            got.clear();
            let count = reading.read_line(&mut got).expect("answers come");
            assert!(count > 0, "the end instead of {answer:?}");
        }
    }
}

#[test]
fn every_protocol_speaks_through_a_unix_socket() {
    let dialogues: [(&str, &[(&str, &str)]); 3] = [
        (
            "imap",
            &[
                ("", "* OK IMAP4 ready\r\n"),
                ("a LOGIN alice secret\r\n", "a OK"),
                ("b NOOP\r\n", "b OK backend NOOP\r\n"),
            ],
        ),
        (
            "pop3",
            &[
                ("", "+OK POP3 ready\r\n"),
                ("USER alice\r\nPASS secret\r\n", "+OK backend PASS\r\n"),
                ("QUIT\r\n", "+OK backend QUIT\r\n"),
            ],
        ),
        (
            "smtp",
            &[
                ("", "220 proxy.test ESMTP ready\r\n"),
                ("AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", "235 2.0.0 OK\r\n"),
                ("NOOP\r\n", "250 2.0.0 backend NOOP\r\n"),
            ],
        ),
    ];
    let folder = TempDir::new("unix");
    for (protocol, steps) in dialogues {
        let backend = Peer::start(server_of(protocol));
        let address = backend.address();
        let auth = AuthServer::start(move |_| Answer::ok(address));
        let path = folder.path().join(protocol);
        let listen = format!("unix:{}", path.display());
        // A resolver, which has nothing to resolve.
        let more = "resolver = 127.0.0.1:9";
        let postern = Postern::start(&listening(protocol, &auth, &[&listen], more));
        unix_dialogue(&path, steps);
        let request = auth.wait_for_request(1);
        assert_eq!(request.header("Client-IP"), Some("unix:"));
        if protocol == "smtp" {
            assert_eq!(request.header("Client-Host"), Some("[TEMPUNAVAIL]"));
            backend.wait_for(" LOGIN=alice NAME=[TEMPUNAVAIL]\r\n");
        }
        let line = postern.wait_for_log("client logged in");
        assert!(line.contains("client: \"unix:\""), "{line}");
        postern.wait_for_log("session closed");
    }
}

#[test]
fn postfix_takes_the_xclient_of_a_client_at_a_unix_socket() {
    let postfix = postfix::shared();
    let address = postfix.smtp;
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let folder = TempDir::new("unix");
    let path = folder.path().join("smtp");
    let listen = format!("unix:{}", path.display());
    let _postern = Postern::start(&listening("smtp", &auth, &[&listen], ""));
    unix_dialogue(
        &path,
        &[
            ("EHLO laptop\r\n", "250 "),
            ("AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n", "235 2.0.0 OK\r\n"),
            ("MAIL FROM:<unix@example.test>\r\n", "250 2.1.0 Ok\r\n"),
            ("RCPT TO:<b@example.test>\r\n", "250 2.1.5 Ok\r\n"),
        ],
    );
    wait_for_line(&postfix.log, "client=unknown[unknown], sasl");
}

#[test]
fn a_stale_socket_file_is_replaced_and_the_file_goes_at_the_end() {
    let folder = TempDir::new("unix");
    let path = folder.path().join("imap");
    let listen = format!("unix:{}", path.display());
    let (postern, ..) = imap_on(&[&listen]);
    postern.signal(Signal::SIGKILL);
    postern.wait_for_end(Duration::from_secs(5));
    let kind = std::fs::symlink_metadata(&path).expect("the file is left behind");
    assert!(kind.file_type().is_socket());

    let (postern, ..) = imap_on(&[&listen]);
    unix_dialogue(&path, &[("", "* OK IMAP4 ready\r\n")]);
    postern.stop();
    assert!(!path.exists());
}

/// Starts the proxy where it cannot; what it says.
fn refusal(listen: &[&str]) -> String {
    let auth = AuthServer::start(|_| Answer::Stall);
    let folder = TempDir::new("refusal");
    let file = folder.write("postern.ini", listening("imap", &auth, listen, ""));
    let said = run(
        env!("CARGO_BIN_EXE_postern"),
        &["--config", &file.display().to_string()],
        b"",
    );
    assert!(!said.success);
    said.everything()
}

#[test]
fn a_socket_in_use_and_a_file_that_is_no_socket_are_left_alone() {
    let folder = TempDir::new("unix");
    let path = folder.path().join("imap");
    let listen = format!("unix:{}", path.display());
    let (_postern, ..) = imap_on(&[&listen]);
    let said = refusal(&[&listen]);
    assert!(said.contains(&listen) && said.contains("in use"), "{said}");
    unix_dialogue(&path, &[("", "* OK IMAP4 ready\r\n")]);

    let file = folder.write("letters", "do not lose me");
    let said = refusal(&[&format!("unix:{}", file.display())]);
    assert!(said.contains("no socket"), "{said}");
    let content = std::fs::read_to_string(file).expect("the file is there");
    assert_eq!(content, "do not lose me");
}

/// The first of so many ports in a row on which nobody listens.
fn free_ports(count: u16) -> u16 {
    loop {
        let first = free_port();
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + count).all(free) {
            return first;
        }
    }
}

#[test]
fn a_range_listens_on_each_of_its_ports_and_no_other() {
    let first = free_ports(5);
    let (postern, ..) = imap_on(&[&format!("127.0.0.1:{}-{}", first + 1, first + 3)]);
    for port in first + 1..=first + 3 {
        let (_, greeting) = LineClient::greeted(([127, 0, 0, 1], port).into());
        assert_eq!(greeting, "* OK IMAP4 ready");
        postern.wait_for_log(&format!("listening on 127.0.0.1:{port} "));
    }
    for port in [first, first + 4] {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[test]
fn a_host_name_listens_on_all_its_addresses() {
    let port = free_port();
    let (_postern, ..) = imap_on(&[&format!("localhost:{port}")]);
    let addresses = ("localhost", port).to_socket_addrs();
    for address in addresses.expect("localhost is known") {
        let (_, greeting) = LineClient::greeted(address);
        assert_eq!(greeting, "* OK IMAP4 ready", "{address}");
    }
}

#[test]
fn an_ipv6_client_is_named_by_its_address() {
    let (postern, auth, _backend) = imap_on(&["[::1]:0"]);
    assert_eq!(client_ip(&auth, postern.address("imap")), "::1");
    let line = postern.wait_for_log("client logged in");
    assert!(line.contains("client: \"[::1]:"), "{line}");
    assert!(line.contains("server: \"[::1]:"), "{line}");
}

#[test]
fn wildcards_of_both_families_stand_side_by_side() {
    let port = free_port();
    let listen = [format!("[::]:{port}"), format!("0.0.0.0:{port}")];
    let (_postern, auth, _backend) = imap_on(&[&listen[0], &listen[1]]);
    let v4 = (Ipv4Addr::LOCALHOST, port).into();
    let v6 = (Ipv6Addr::LOCALHOST, port).into();
    assert_eq!(client_ip(&auth, v4), "127.0.0.1");
    assert_eq!(client_ip(&auth, v6), "::1");
}

#[test]
fn an_ipv6_wildcard_takes_ipv4_only_when_told() {
    let port = free_port();
    let (_postern, ..) = imap_on(&[&format!("[::]:{port}")]);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());

    let port = free_port();
    let (postern, auth, _backend) = imap_on(&[&format!("[::]:{port} ipv6only=off")]);
    let v4 = (Ipv4Addr::LOCALHOST, port).into();
    let v6 = (Ipv6Addr::LOCALHOST, port).into();
    assert_eq!(client_ip(&auth, v6), "::1");
    // Which is an IPv4 client.
    assert_eq!(client_ip(&auth, v4), "127.0.0.1");
    assert!(!postern.log().contains("::ffff:"), "{}", postern.log());
}

#[test]
fn a_wildcard_and_a_specific_address_share_a_port() {
    for specific_first in [true, false] {
        let port = free_port();
        let auth = AuthServer::start(|_| Answer::Stall);
        let specific = listening("imap", &auth, &[&format!("127.0.0.5:{port}")], "");
        let wildcard = listening("pop3", &auth, &[&format!("*:{port}")], "");
        let ini = match specific_first {
            true => format!("{specific}{wildcard}"),
            false => format!("{wildcard}{specific}"),
        };
        let postern = Postern::start(&ini);
        postern.wait_for_log("ready");
        let greeting = |last: u8| LineClient::greeted(([127, 0, 0, last], port).into()).1;
        assert_eq!(greeting(5), "* OK IMAP4 ready");
        assert_eq!(greeting(1), "+OK POP3 ready");
        assert_eq!(greeting(9), "+OK POP3 ready");
    }
}

/// What `ss` says about the sockets that the filter lets through.
fn sockets(options: &str, filter: &str) -> String {
    run("ss", &[options, filter], b"").text()
}

#[test]
fn backlog_and_buffers_are_set_before_anybody_connects() {
    let (postern, ..) = imap_on(&["127.0.0.1:0 backlog=7 rcvbuf=20k sndbuf=24k", "127.0.0.1:0"]);
    let address = postern.address("imap");
    let filter = format!("sport = :{}", address.port());
    // State, Recv-Q, Send-Q: of a listener the last is its backlog.
    let listener = sockets("-Htlnm", &filter);
    let backlog = listener.split_ascii_whitespace().nth(2);
    assert_eq!(backlog, Some("7"), "{listener}");
    let (_client, _) = LineClient::greeted(address);
    // The kernel doubles what it is asked for.
    for shown in [listener, sockets("-Htnm", &filter)] {
        assert!(shown.contains(",rb40960,"), "{shown}");
        assert!(shown.contains(",tb49152,"), "{shown}");
    }
}

/// The keepalive timers in what `ss` says, in seconds and rounded up.
fn timers(filter: &str) -> Vec<u32> {
    let shown = sockets("-Htno", filter);
    let timer = |line: &str| {
        let (_, rest) = line.split_once("timer:(keepalive,")?;
        Some(seconds(rest.split(',').next()?))
    };
    shown.lines().filter_map(timer).collect()
}

/// `1min59sec`, `6.912ms` (which are seconds and milliseconds), `119min`.
fn seconds(text: &str) -> u32 {
    let (minutes, rest) = text.split_once("min").unwrap_or(("0", text));
    let rest = match rest.strip_suffix("sec") {
        Some(seconds) => seconds,
        // Less than ten seconds are shown as `6.912ms`.
        None => rest.split('.').next().unwrap_or_default(),
    };
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    number(minutes) * 60 + number(rest) + 1
}

#[test]
fn keepalive_is_on_both_legs_and_so_keepalive_changes_the_clients() {
    for (flag, expected) in [
        ("", Some(120)),
        ("so_keepalive=30s:5s:3", Some(30)),
        ("so_keepalive=40s::", Some(40)),
        // The system's.
        ("so_keepalive=on", Some(7200)),
        ("so_keepalive=off", None),
    ] {
        let (postern, _auth, backend) = imap_on(&[&format!("127.0.0.1:0 {flag}")]);
        let address = postern.address("imap");
        let mut client = LineClient::imap_login(address);
        client.ask("b NOOP", "b OK backend NOOP");
        let of_client = format!("sport = :{}", address.port());
        let of_backend = format!("dport = :{}", backend.address().port());
        let about = |timers: &[u32], wanted: u32| match timers {
            [timer] => *timer <= wanted && *timer + 3 >= wanted,
            _ => false,
        };
        // A timer of retransmission may be shown first.
        wait::until_true(&format!("{flag}: the timers"), wait::PATIENCE, || {
            let (front, back) = (timers(&of_client), timers(&of_backend));
            let right = match expected {
                Some(wanted) => about(&front, wanted) || (wanted == 7200 && about(&front, 7141)),
                None => front.is_empty(),
            };
            right && about(&back, 120)
        });
    }
}

#[test]
fn a_port_in_use_is_named() {
    let (postern, ..) = imap_on(&["127.0.0.1:0"]);
    let address = postern.address("imap").to_string();
    let said = refusal(&[&address]);
    let text = format!("server \"imap\" cannot listen on {address}");
    assert!(said.contains(&text) && said.contains("in use"), "{said}");
}

#[test]
fn without_a_listener_a_port_is_free_again_at_once() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    for _ in 0..3 {
        let (postern, _auth, _backend) = imap_on(&[&listen]);
        // The proxy closes first, so TIME_WAIT is on its side.
        let mut client = LineClient::imap_login(postern.address("imap"));
        postern.stop();
        client.expect_close();
    }
}
