//! PROXY protocol: headers of both versions coming in and going out, HAProxy in front, Dovecot and
//! Postfix behind.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer, Request};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::temp::TempDir;
use crate::common::tools::wait_for_line;
use crate::peers::{Peer, server_of};
use crate::servers::haproxy::Haproxy;
use crate::servers::{dovecot, postfix};

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];
const TRUST: &str = "set_real_ip_from = 127.0.0.0/8";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 143\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the headers in these tests say.
const TOLD: [(&str, &str); 4] = [
    ("Proxy-Protocol-Addr", "192.0.2.7"),
    ("Proxy-Protocol-Port", "1234"),
    ("Proxy-Protocol-Server-Addr", "198.51.100.1"),
    ("Proxy-Protocol-Server-Port", "143"),
];

/// Command, family and transport, block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a short block");
    let fixed = [&[0x20 | command, family], &length.to_be_bytes()[..]].concat();
    [SIGNATURE, &fixed, block].concat()
}

/// The addresses of `V1`, in version 2.
const V4_BLOCK: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x04, 0xd2, 0, 143];

fn v2_tcp4(tlvs: &[u8]) -> Vec<u8> {
    v2(1, 0x11, &[V4_BLOCK, tlvs].concat())
}

fn both_versions() -> [Vec<u8>; 2] {
    [V1.to_vec(), v2_tcp4(&[])]
}

/// The proxy, whose listener wants a header, in front of a small server.
struct Door {
    postern: Postern,
    auth: AuthServer,
    backend: Peer,
    protocol: &'static str,
}

impl Door {
    fn new(protocol: &'static str, more: &str) -> Door {
        let backend = Peer::start(server_of(protocol));
        let address = backend.address();
        let (postern, auth) = wants_header(protocol, address, more);
        Door {
            postern,
            auth,
            backend,
            protocol,
        }
    }

    fn connect(&self) -> LineClient {
        LineClient::connect(self.postern.address(self.protocol))
    }

    /// Sends this header, logs in, and gives what the auth server heard.
    fn request_after(&self, header: &[u8]) -> Request {
        let mut client = self.connect();
        client.send_raw(header);
        log_in(self.protocol, &mut client, "alice");
        let requests = self.auth.requests();
        requests.last().expect("the auth server was asked").clone()
    }
}

fn wants_header(protocol: &str, backend: SocketAddr, more: &str) -> (Postern, AuthServer) {
    let auth = AuthServer::start(move |_| Answer::ok(backend));
    let ini = service(protocol, &auth, more);
    let ini = ini.replace(
        "listen = 127.0.0.1:0",
        "listen = 127.0.0.1:0 proxy_protocol",
    );
    (Postern::start(&ini), auth)
}

/// Reads the greeting and logs in; the password is `secret`.
fn log_in(protocol: &str, client: &mut LineClient, user: &str) {
    client.line();
    match protocol {
        "imap" => {
            client.send(&format!("a LOGIN {user} secret"));
            let lines = client.lines_until("a ");
            assert!(
                lines.iter().any(|line| line.starts_with("a OK")),
                "{lines:?}"
            );
        }
        "pop3" => {
            client.ask(&format!("USER {user}"), "+OK");
            client.send("PASS secret");
            let line = client.line();
            assert!(line.starts_with("+OK"), "{line}");
        }
        _ => client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK"),
    }
}

fn told(request: &Request) -> Vec<&str> {
    let headers = request.headers().into_iter();
    headers
        .filter(|line| line.starts_with("Proxy-Protocol"))
        .collect()
}

fn expect_told(request: &Request) {
    for (name, value) in TOLD {
        assert_eq!(request.header(name), Some(value), "{}", request.raw);
    }
}

#[test]
fn the_header_of_a_trusted_peer_names_the_client() {
    for protocol in PROTOCOLS {
        let door = Door::new(protocol, TRUST);
        for header in both_versions() {
            let request = door.request_after(&header);
            assert_eq!(request.header("Client-IP"), Some("192.0.2.7"));
            expect_told(&request);
        }
        // The log names the client, and the balancer as its peer.
        let line = door.postern.wait_for_log("client logged in");
        let client = "client: \"192.0.2.7:1234\", peer: \"127.0.0.1:";
        assert!(line.contains(client), "{line}");
        if protocol == "smtp" {
            door.backend.wait_for("XCLIENT ADDR=192.0.2.7 LOGIN=alice");
        }
    }
}

#[test]
fn the_header_of_a_stranger_changes_nothing_but_the_headers_about_it() {
    let strangers = "set_real_ip_from = 10.0.0.0/8\nset_real_ip_from = 127.0.0.2\n\
                     set_real_ip_from = unix:";
    for protocol in PROTOCOLS {
        for more in ["", strangers] {
            let door = Door::new(protocol, more);
            for header in both_versions() {
                let request = door.request_after(&header);
                assert_eq!(request.header("Client-IP"), Some("127.0.0.1"));
                expect_told(&request);
            }
            if protocol == "smtp" {
                door.backend.wait_for("XCLIENT ADDR=127.0.0.1 LOGIN=alice");
            }
        }
    }
}

#[test]
fn trust_is_of_the_peer_that_connects() {
    let door = Door::new("imap", "set_real_ip_from = 127.0.0.2");
    for (source, client_ip) in [(2, "192.0.2.7"), (3, "127.0.0.3")] {
        let address = door.postern.address("imap");
        let mut client = LineClient::connect_from([127, 0, 0, source], address);
        client.send_raw(V1);
        log_in("imap", &mut client, "alice");
        let requests = door.auth.requests();
        let request = requests.last().expect("the auth server was asked");
        assert_eq!(request.header("Client-IP"), Some(client_ip));
    }
}

#[test]
fn ipv6_addresses_arrive_and_mapped_ones_are_ipv4() {
    let door = Door::new("smtp", TRUST);
    let mut block = [0; 36];
    block[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    block[15] = 7;
    block[31] = 1;
    block[32..].copy_from_slice(&[0x04, 0xd2, 0, 143]);
    let v1 = b"PROXY TCP6 2001:db8::7 ::1 1234 143\r\n".to_vec();
    for header in [v1, v2(1, 0x21, &block)] {
        let request = door.request_after(&header);
        assert_eq!(request.header("Client-IP"), Some("2001:db8::7"));
        assert_eq!(request.header("Proxy-Protocol-Server-Addr"), Some("::1"));
    }
    door.backend.wait_for("XCLIENT ADDR=IPV6:2001:db8::7 ");
    let mapped = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1234 143\r\n";
    let request = door.request_after(mapped);
    assert_eq!(request.header("Client-IP"), Some("192.0.2.7"));
    expect_told(&request);
}

#[test]
fn a_header_may_be_split_anywhere_and_be_glued_to_the_first_command() {
    let door = Door::new("imap", TRUST);
    for header in both_versions() {
        let all = [&header[..], b"a LOGIN alice secret\r\n"].concat();
        for at in 1..=header.len() {
            let mut client = door.connect();
            client.send_raw(&all[..at]);
            // Long enough to be read by itself, mostly.
            thread::sleep(Duration::from_millis(2));
            client.send_raw(&all[at..]);
            client.expect("* OK IMAP4 ready");
            client.lines_until("a OK");
        }
        let mut client = door.connect();
        client.send_bytewise(&all);
        client.expect("* OK IMAP4 ready");
        client.lines_until("a OK");
    }
    for request in door.auth.requests() {
        assert_eq!(request.header("Client-IP"), Some("192.0.2.7"));
    }
}

#[test]
fn headers_without_addresses_leave_the_peers_own() {
    let door = Door::new("imap", TRUST);
    let unix = [b'/'; 216];
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 1 2 and so on\r\n".to_vec(),
        // LOCAL, alone and with addresses and bytes that do not count.
        v2(0, 0x00, &[]),
        v2(0, 0x11, V4_BLOCK),
        v2(0, 0x99, b"anything"),
        // PROXY: AF_UNSPEC, AF_UNIX, a datagram.
        v2(1, 0x00, &[]),
        v2(1, 0x31, &unix),
        v2(1, 0x12, V4_BLOCK),
    ] {
        let request = door.request_after(&header);
        let shown = header.escape_ascii();
        assert_eq!(request.header("Client-IP"), Some("127.0.0.1"), "{shown}");
        assert_eq!(told(&request), Vec::<&str>::new(), "{shown}");
    }
}

#[test]
fn tlvs_are_skipped() {
    let door = Door::new("imap", TRUST);
    // NOOP with a kilobyte, ALPN, AUTHORITY, an unknown type, one of length 0.
    let noop = [&[0x04, 4, 0][..], &[0; 1024]].concat();
    let others = b"\x01\0\x04imap\x02\0\x04mail\xee\0\x02xx\xef\0\0";
    let request = door.request_after(&v2_tcp4(&[&noop[..], others].concat()));
    assert_eq!(request.header("Client-IP"), Some("192.0.2.7"));
    expect_told(&request);
}

/// Headers that are none.
fn malformed() -> Vec<Vec<u8>> {
    let texts = [
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 x 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 99999999999\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY\r\n",
        "proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        " PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "\r\nQUIT\r\n",
        "\0",
    ];
    let mut all: Vec<Vec<u8>> = texts.map(|text| text.as_bytes().to_vec()).to_vec();
    // 108 bytes.
    all.push([b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat());
    let mut other_signature = v2_tcp4(&[]);
    other_signature[11] = b'\r';
    let mut version_1 = v2_tcp4(&[]);
    version_1[12] = 0x11;
    let mut longest = v2_tcp4(&[]);
    longest[14..16].copy_from_slice(&[0xff, 0xff]);
    all.extend([
        other_signature,
        version_1,
        longest,
        // An unknown command, family and transport.
        v2(2, 0x11, V4_BLOCK),
        v2(1, 0x41, V4_BLOCK),
        v2(1, 0x13, V4_BLOCK),
        // Too short by a byte.
        v2(1, 0x11, &V4_BLOCK[..11]),
        v2(1, 0x21, &[0; 35]),
        v2(1, 0x11, &[]),
        // TLVs that run over the end, or have no room for their length.
        v2_tcp4(b"\x04\0\x05four"),
        v2_tcp4(b"\x04\xff\xffx"),
        v2_tcp4(b"\x04\0"),
    ]);
    all
}

#[test]
fn a_malformed_header_is_logged_and_closed_without_a_word() {
    let door = Door::new("imap", TRUST);
    for (count, header) in malformed().into_iter().enumerate() {
        // An address of its own: so many lines of one would be counted.
        let source = [127, 0, 1, u8::try_from(count).expect("fewer than 256")];
        let mut client = LineClient::connect_from(source, door.postern.address("imap"));
        // It may be closed before the last byte.
        drop(client.stream().write_all(&header));
        let start = Instant::now();
        let rest = client.rest();
        let shown = header.escape_ascii();
        assert!(rest.is_empty(), "{shown}: {}", rest.escape_ascii());
        assert!(start.elapsed() < Duration::from_secs(2), "{shown}");
        crate::common::wait::until_true(
            &format!("{shown} in the log"),
            crate::common::wait::PATIENCE,
            || door.postern.lines_with("broken header: \"").len() == count + 1,
        );
    }
    assert_eq!(door.backend.accepted() + door.auth.connections(), 0);
    let line = door
        .postern
        .wait_for_log("broken header: \"PROXY TCP4 ::1 ::1 1 2");
    assert!(
        line.contains(" while reading PROXY protocol, client: \"127.0.1."),
        "{line}"
    );
    for level in ["[crit]", "[alert]", "[emerg]"] {
        assert_eq!(door.postern.lines_with(level), Vec::<String>::new());
    }
}

#[test]
fn without_a_header_nobody_gets_in() {
    for (protocol, command) in [
        ("imap", "a LOGIN alice secret"),
        ("pop3", "USER alice"),
        ("smtp", "EHLO client"),
    ] {
        for more in ["", TRUST] {
            let door = Door::new(protocol, more);
            let mut client = door.connect();
            client.send(command);
            client.expect_close();
            let word = command.split(' ').next().expect("a word");
            door.postern
                .wait_for_log(&format!("broken header: \"{word}"));
        }
    }
}

#[test]
fn who_sends_no_header_in_time_is_closed() {
    let door = Door::new("imap", &format!("timeout = 1s\n{TRUST}"));
    for half in [&b""[..], &V1[..20], &SIGNATURE[..12]] {
        let mut client = door.connect();
        client.send_raw(half);
        let start = Instant::now();
        client.expect_close();
        assert!(start.elapsed() < Duration::from_secs(3));
    }
    door.postern.wait_for_log("client timed out");
}

#[test]
fn health_checks_leave_no_warning() {
    let door = Door::new("imap", TRUST);
    drop(door.connect());
    for header in [v2(0, 0, &[]), V1.to_vec()] {
        let mut client = door.connect();
        client.send_raw(&header);
        client.half_close();
        client.expect("* OK IMAP4 ready");
    }
    door.request_after(V1);
    assert_nothing_loud(&door.postern);
}

#[test]
fn a_second_header_is_data() {
    let door = Door::new("imap", TRUST);
    let mut client = door.connect();
    client.send_raw(&[V1, b"PROXY TCP4 203.0.113.9 198.51.100.1 1 2\r\n"].concat());
    client.expect("* OK IMAP4 ready");
    client.expect("PROXY BAD invalid command");
    client.send("a LOGIN alice secret");
    client.lines_until("a OK");
    let request = door.auth.wait_for_request(1);
    assert_eq!(request.header("Client-IP"), Some("192.0.2.7"));
}

#[test]
fn a_header_is_data_where_none_is_wanted() {
    let backend = Peer::start(server_of("imap"));
    let (postern, auth) = crate::common::proxy_to("imap", backend.address(), TRUST);
    let mut client = LineClient::connect(postern.address("imap"));
    client.send_raw(V1);
    client.expect("* OK IMAP4 ready");
    client.expect("PROXY BAD invalid command");
    client.send("a LOGIN alice secret");
    client.lines_until("a OK");
    let request = auth.wait_for_request(1);
    assert_eq!(request.header("Client-IP"), Some("127.0.0.1"));
}

/// A backend that only keeps what its first read gives.
struct FirstRead {
    address: SocketAddr,
    reading: thread::JoinHandle<Vec<u8>>,
}

impl FirstRead {
    fn start() -> FirstRead {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the system has a port");
        let address = listener.local_addr().expect("a listener has an address");
        let reading = thread::spawn(move || first_read(&listener));
        FirstRead { address, reading }
    }

    fn get(self) -> Vec<u8> {
        self.reading.join().expect("the backend does not panic")
    }
}

/// What the next connection's first read gives.
fn first_read(listener: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().expect("the proxy comes");
    let limit = Some(Duration::from_secs(10));
    stream
        .set_read_timeout(limit)
        .expect("the limit is not zero");
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).expect("something comes");
    buffer[..count].to_vec()
}

/// The header that stands for these addresses.
fn expected(version: &str, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    if version != "v2" {
        let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
        let (source, destination) = (from.ip(), to.ip());
        let ports = format!("{} {}", from.port(), to.port());
        return format!("PROXY {family} {source} {destination} {ports}\r\n").into_bytes();
    }
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let family = if from.is_ipv4() { 0x11 } else { 0x21 };
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    v2(1, family, &[octets(from), octets(to), ports].concat())
}

/// Sends a login of any protocol and gives up: nobody will answer it.
fn send_login(protocol: &str, client: &mut LineClient) {
    client.line();
    client.send(match protocol {
        "imap" => "a LOGIN alice secret",
        "pop3" => "USER alice\r\nPASS secret",
        _ => "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
    });
}

#[test]
fn the_backend_gets_a_header_in_one_write_before_anything_else() {
    for protocol in PROTOCOLS {
        for version in ["on", "v1", "v2"] {
            let backend = FirstRead::start();
            let more = format!("proxy_protocol = {version}");
            let (postern, _auth) = crate::common::proxy_to(protocol, backend.address, &more);
            let address = postern.address(protocol);
            let mut client = LineClient::connect_from([127, 0, 0, 9], address);
            send_login(protocol, &mut client);
            let header = expected(version, client.local_address(), address);
            assert_eq!(backend.get(), header, "{protocol} {version}");
        }
    }
}

#[test]
fn the_destination_is_where_the_client_really_arrived() {
    for version in ["v1", "v2"] {
        let backend = TcpListener::bind("127.0.0.1:0").expect("the system has a port");
        let to = backend.local_addr().expect("a listener has an address");
        let auth = AuthServer::start(move |_| Answer::ok(to));
        let more = format!("proxy_protocol = {version}");
        let ini = service("imap", &auth, &more);
        let ini = ini.replace("127.0.0.1:0\n", "0.0.0.0:0\nlisten = [::1]:0\n");
        let postern = Postern::start(&ini);
        let port = postern.address("imap").port();
        let address = SocketAddr::from(([127, 0, 0, 8], port));
        let mut client = LineClient::connect(address);
        send_login("imap", &mut client);
        let header = expected(version, client.local_address(), address);
        assert_eq!(first_read(&backend), header);

        let listeners = postern.addresses("imap");
        let six = listeners.iter().find(|address| address.is_ipv6());
        let six = *six.expect("an IPv6 listener");
        let mut client = LineClient::connect(six);
        send_login("imap", &mut client);
        let header = expected(version, client.local_address(), six);
        assert_eq!(first_read(&backend), header);
    }
}

#[test]
fn the_source_is_the_client_of_a_trusted_header_and_the_destination_never_its() {
    for version in ["v1", "v2"] {
        for (more, trusted) in [(TRUST, true), ("", false)] {
            let backend = FirstRead::start();
            let more = format!("{more}\nproxy_protocol = {version}");
            let (postern, _auth) = wants_header("imap", backend.address, &more);
            let address = postern.address("imap");
            let mut client = LineClient::connect(address);
            client.send_raw(V1);
            send_login("imap", &mut client);
            let source = match trusted {
                true => SocketAddr::from(([192, 0, 2, 7], 1234)),
                false => client.local_address(),
            };
            assert_eq!(backend.get(), expected(version, source, address));
        }
    }
}

#[test]
fn headers_through_a_unix_socket() {
    for (more, header, sent, client_ip) in [
        (
            "proxy_protocol = v1",
            &b""[..],
            b"PROXY UNKNOWN\r\n".to_vec(),
            "unix:",
        ),
        ("proxy_protocol = v2", b"", v2(0, 0, &[]), "unix:"),
        (
            "set_real_ip_from = unix:\nproxy_protocol = v1",
            V1,
            b"PROXY UNKNOWN\r\n".to_vec(),
            "192.0.2.7",
        ),
        (TRUST, V1, Vec::new(), "unix:"),
    ] {
        let backend = Peer::start(move |talk| {
            talk.bytes(sent.len())
                .map(|header| assert_eq!(header, sent))?;
            server_of("imap")(talk)
        });
        let to = backend.address();
        let auth = AuthServer::start(move |_| Answer::ok(to));
        let folder = TempDir::new("unix");
        let path = folder.path().join("imap.sock");
        let flag = if header.is_empty() {
            ""
        } else {
            " proxy_protocol"
        };
        let listen = format!("listen = unix:{}{flag}", path.display());
        let ini = service("imap", &auth, more).replace("listen = 127.0.0.1:0", &listen);
        let _postern = Postern::start(&ini);
        let mut client = UnixStream::connect(&path).expect("the socket is there");
        client.write_all(header).expect("it listens");
        client
            .write_all(b"a LOGIN alice secret\r\nb NOOP\r\n")
            .expect("it listens");
        let limit = Some(Duration::from_secs(10));
        client
            .set_read_timeout(limit)
            .expect("the limit is not zero");
        let mut answers = Vec::new();
        let mut buffer = [0; 4096];
        while !answers.ends_with(b"b OK backend NOOP\r\n") {
            let count = client.read(&mut buffer).expect("answers come");
            assert!(count > 0, "{more}: {}", answers.escape_ascii());
            answers.extend_from_slice(&buffer[..count]);
        }
        let request = auth.wait_for_request(1);
        assert_eq!(request.header("Client-IP"), Some(client_ip), "{more}");
        assert_eq!(told(&request).is_empty(), header.is_empty(), "{more}");
    }
}

#[test]
fn haproxy_in_front_tells_who_the_client_is() {
    for protocol in PROTOCOLS {
        let door = Door::new(protocol, TRUST);
        let target = door.postern.address(protocol);
        for send in ["send-proxy", "send-proxy-v2"] {
            let haproxy = Haproxy::start(target, send);
            let mut client = LineClient::connect_from([127, 0, 0, 42], haproxy.address);
            log_in(protocol, &mut client, "alice");
            let requests = door.auth.requests();
            let request = requests.last().expect("the auth server was asked");
            assert_eq!(request.header("Client-IP"), Some("127.0.0.42"), "{send}");
            let client = client.local_address().port().to_string();
            let server = haproxy.address.port().to_string();
            assert_eq!(request.header("Proxy-Protocol-Addr"), Some("127.0.0.42"));
            assert_eq!(request.header("Proxy-Protocol-Port"), Some(&client[..]));
            assert_eq!(
                request.header("Proxy-Protocol-Server-Addr"),
                Some("127.0.0.1")
            );
            assert_eq!(
                request.header("Proxy-Protocol-Server-Port"),
                Some(&server[..])
            );
        }
        if protocol == "smtp" {
            door.backend.wait_for("XCLIENT ADDR=127.0.0.42 LOGIN=alice");
        }
        assert_nothing_loud(&door.postern);
    }
}

#[test]
fn dovecot_behind_logs_the_address_of_the_client() {
    let dovecot = dovecot::shared();
    for (protocol, backend) in [
        ("imap", dovecot.imap_haproxy),
        ("pop3", dovecot.pop3_haproxy),
    ] {
        for version in ["v1", "v2"] {
            let more = format!("proxy_protocol = {version}\n{TRUST}");
            let (postern, _auth) = wants_header(protocol, backend, &more);
            // Through HAProxy, Postern and Dovecot's own header.
            let haproxy = Haproxy::start(postern.address(protocol), "send-proxy-v2");
            let user = format!("pp-{protocol}-{version}");
            let mut client = LineClient::connect_from([127, 0, 0, 43], haproxy.address);
            log_in(protocol, &mut client, &user);
            let line = wait_for_line(&dovecot.log, &format!("Login: user=<{user}>"));
            assert!(line.contains("rip=127.0.0.43,"), "{line}");
        }
    }
}

#[test]
fn postfix_behind_logs_the_address_of_the_client() {
    let postfix = postfix::shared();
    for (last, version) in [(44, "v1"), (45, "v2")] {
        let more = format!("proxy_protocol = {version}\nxclient = off");
        let (postern, _auth) = crate::common::proxy_to("smtp", postfix.smtp_haproxy, &more);
        let mut client = LineClient::connect_from([127, 0, 0, last], postern.address("smtp"));
        client.line();
        client.send("EHLO laptop");
        client.lines_until("250 ");
        client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK");
        client.ask("MAIL FROM:<a@example.test>", "250 2.1.0 Ok");
        client.ask("RCPT TO:<b@example.test>", "250 2.1.5 Ok");
        wait_for_line(&postfix.log, &format!("client=unknown[127.0.0.{last}]"));
    }
}

/// No session has said anything that would wake an administrator.
fn assert_nothing_loud(postern: &Postern) {
    for level in ["[warn]", "[error]", "[crit]"] {
        let lines = postern.lines_with(level).into_iter();
        let of_sessions: Vec<_> = lines.filter(|line| line.contains(", client: ")).collect();
        assert_eq!(of_sessions, Vec::<String>::new());
    }
}
