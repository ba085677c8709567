//! The client's host name: every outcome of looking it up, where it shows, how long it may take, and
//! what is remembered. Backends and auth servers by name.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::tools::wait_for_line;
use crate::common::{proxy_to, service};
use crate::peers::Peer;
use crate::peers::dns::{
    A, AAAA, CNAME, DNAME, DnsStub, NOERROR, NXDOMAIN, PTR, Question, REFUSED, Record, SERVFAIL,
    proper,
};
use crate::peers::smtp::smtp_server;
use crate::servers::dnsmasq::{Dnsmasq, named};
use crate::servers::postfix;

const LOGIN: &str = "AUTH PLAIN AGFsaWNlAHNlY3JldA==";
const ACCEPTED: &str = "235 2.0.0 OK";
const UNAVAILABLE: &str = "[UNAVAILABLE]";
const TEMPUNAVAIL: &str = "[TEMPUNAVAIL]";

/// The proxy in front of a small SMTP server.
struct Door {
    postern: Postern,
    auth: AuthServer,
    backend: Peer,
}

impl Door {
    fn new(more: &str) -> Door {
        let backend = Peer::start(smtp_server);
        let (postern, auth) = proxy_to("smtp", backend.address(), more);
        Door {
            postern,
            auth,
            backend,
        }
    }

    /// What the client at 127.0.0.N is called: to the auth server and to the backend alike.
    fn name_of(&self, last: u8) -> String {
        let source = [127, 0, 0, last];
        let mut client = LineClient::connect_from(source, self.postern.address("smtp"));
        client.line();
        client.ask(LOGIN, ACCEPTED);
        self.said_about(&format!("127.0.0.{last}"))
    }

    /// The name last told about the client at this address.
    fn said_about(&self, address: &str) -> String {
        let requests = self.auth.requests();
        let request = requests.last().expect("the auth server was asked");
        assert_eq!(request.header("Client-IP"), Some(address));
        let host = request.header("Client-Host").expect("SMTP has the header");
        let lines = self.backend.lines();
        let mut xclients = lines.iter().filter(|line| line.starts_with("XCLIENT "));
        let last = xclients.next_back().expect("the backend was told");
        let shown = match address.contains(':') {
            true => format!("IPV6:{address}"),
            false => address.to_owned(),
        };
        assert_eq!(
            *last,
            format!("XCLIENT ADDR={shown} LOGIN=alice NAME={host}")
        );
        host.to_owned()
    }
}

fn resolver(dns: &DnsStub) -> String {
    format!("resolver = {}\nresolver_timeout = 1s", dns.address())
}

#[test]
fn without_a_resolver_the_name_is_unavailable() {
    assert_eq!(Door::new("").name_of(2), UNAVAILABLE);
}

#[test]
fn dnsmasq_names_clients_and_loopback_is_really_asked() {
    let mut records = named(1, "one.example.test");
    records.extend(named(2, "Two.Example.test"));
    // A name that belongs to another address, and one that does not exist.
    records.push("ptr-record=3.0.0.127.in-addr.arpa,one.example.test".into());
    records.push("ptr-record=4.0.0.127.in-addr.arpa,nothing.example.test".into());
    // What a library would like to know by itself.
    records.push("ptr-record=5.0.0.127.in-addr.arpa,localhost".into());
    records.push("host-record=localhost,127.0.0.5".into());
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let dns = Dnsmasq::start(&records);
    let door = Door::new(&format!("resolver = {}", dns.address));
    assert_eq!(door.name_of(1), "one.example.test");
    assert_eq!(door.name_of(2), "two.example.test");
    assert_eq!(door.name_of(3), UNAVAILABLE);
    assert_eq!(door.name_of(4), UNAVAILABLE);
    assert_eq!(door.name_of(5), "localhost");
    assert_eq!(door.name_of(6), UNAVAILABLE);
    let log = dns.log();
    assert!(log.contains("query[PTR] 1.0.0.127.in-addr.arpa"), "{log}");
    assert!(log.contains("query[A] localhost"), "{log}");
}

#[test]
fn postfix_logs_name_and_address_of_the_client() {
    let postfix = postfix::shared();
    let records = named(31, "client.example.test");
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let dns = Dnsmasq::start(&records);
    let more = format!("resolver = {}", dns.address);
    let (postern, _auth) = proxy_to("smtp", postfix.smtp, &more);
    for (last, client) in [
        (31, "client=client.example.test[127.0.0.31]"),
        (32, "client=unknown[127.0.0.32]"),
    ] {
        let mut mail = LineClient::connect_from([127, 0, 0, last], postern.address("smtp"));
        mail.line();
        mail.send("EHLO laptop");
        mail.lines_until("250 ");
        mail.ask(LOGIN, ACCEPTED);
        mail.ask("MAIL FROM:<a@example.test>", "250 2.1.0 Ok");
        mail.ask("RCPT TO:<b@example.test>", "250 2.1.5 Ok");
        wait_for_line(&postfix.log, client);
    }
}

/// What the server says about 127.0.0.N, and what name that is.
type Case = (u8, fn(&Question) -> Option<Vec<u8>>, &'static str);

/// Every answer to the question for the name.
const BACKWARDS: &[Case] = &[
    (10, |q| Some(q.answer(NXDOMAIN, &[])), UNAVAILABLE),
    (11, |q| Some(q.answer(NOERROR, &[])), UNAVAILABLE),
    (12, |q| Some(q.answer(SERVFAIL, &[])), TEMPUNAVAIL),
    (13, |q| Some(q.answer(REFUSED, &[])), TEMPUNAVAIL),
    // Silence.
    (14, |_| None, TEMPUNAVAIL),
    // Half a header; half a record; the answer to another question.
    (
        15,
        |q| Some(q.answer(NOERROR, &[])[..7].to_vec()),
        TEMPUNAVAIL,
    ),
    (
        16,
        |q| Some(cut(&q.answer_name("n16.example.test"))),
        TEMPUNAVAIL,
    ),
    (17, |q| Some(with_another_id(q)), TEMPUNAVAIL),
    // A PTR of zero length, and the root's name.
    (
        18,
        |q| Some(q.answer(NOERROR, &[Record::new(&q.name, PTR, vec![])])),
        TEMPUNAVAIL,
    ),
    (19, |q| Some(q.answer_name("")), TEMPUNAVAIL),
    // Names that would break a line, and others that are none.
    (
        20,
        |q| Some(q.answer_name("n20\r\nRCPT TO:<x>.example.test")),
        TEMPUNAVAIL,
    ),
    (
        21,
        |q| Some(q.answer_name("n21_x.example.test")),
        TEMPUNAVAIL,
    ),
    (22, |q| Some(q.answer_name("n22 LOGIN=root")), TEMPUNAVAIL),
    (
        23,
        |q| Some(q.answer_name("n23\0.example.test")),
        TEMPUNAVAIL,
    ),
    // Records, but no PTR.
    (
        24,
        |q| Some(q.answer(NOERROR, &[Record::name("0.0.127.in-addr.arpa", DNAME, "x")])),
        TEMPUNAVAIL,
    ),
    (
        25,
        |q| Some(q.answer(NOERROR, &[Record::loopback(&q.name, 25)])),
        TEMPUNAVAIL,
    ),
    // A classless delegation: CNAME and PTR in one answer.
    (
        26,
        |q| Some(q.answer(NOERROR, &delegated(q, "n26.example.test"))),
        "n26.example.test",
    ),
    // The first of several.
    (
        27,
        |q| {
            Some(q.answer(
                NOERROR,
                &[
                    pointer(q, "n27.example.test"),
                    pointer(q, "n99.example.test"),
                ],
            ))
        },
        "n27.example.test",
    ),
    (
        28,
        |q| {
            Some(q.answer(
                NOERROR,
                &[
                    pointer(q, "n99.example.test"),
                    pointer(q, "n28.example.test"),
                ],
            ))
        },
        UNAVAILABLE,
    ),
    (
        29,
        |q| Some(q.answer_name("N29.EXAMPLE.Test")),
        "n29.example.test",
    ),
    (
        30,
        |q| Some(compressed(q, "n30.example.test")),
        "n30.example.test",
    ),
];

/// Every answer to the question for the name's address; before it the PTR was right.
const FORWARDS: &[Case] = &[
    (40, |q| Some(q.answer(NXDOMAIN, &[])), UNAVAILABLE),
    (41, |q| Some(q.answer(NOERROR, &[])), UNAVAILABLE),
    (42, |q| Some(q.answer(SERVFAIL, &[])), TEMPUNAVAIL),
    (43, |q| Some(q.answer(REFUSED, &[])), TEMPUNAVAIL),
    (44, |_| None, TEMPUNAVAIL),
    (
        45,
        |q| Some(cut(&q.answer(NOERROR, &[Record::loopback(&q.name, 45)]))),
        TEMPUNAVAIL,
    ),
    (
        46,
        |q| Some(q.answer(NOERROR, &[Record::loopback(&q.name, 99)])),
        UNAVAILABLE,
    ),
    (
        47,
        |q| {
            Some(q.answer(
                NOERROR,
                &[Record::loopback(&q.name, 99), Record::loopback(&q.name, 47)],
            ))
        },
        "n47.example.test",
    ),
    (
        48,
        |q| {
            Some(q.answer(
                NOERROR,
                &[
                    Record::name(&q.name, CNAME, "x.test"),
                    Record::loopback("x.test", 48),
                ],
            ))
        },
        "n48.example.test",
    ),
    // Whose AAAA answer is empty; a family that is not the client's does no harm.
    (
        49,
        |q| Some(q.answer(NOERROR, &only_ipv4(q, 49))),
        "n49.example.test",
    ),
];

fn pointer(question: &Question, target: &str) -> Record {
    Record::name(&question.name, PTR, target)
}

fn delegated(question: &Question, target: &str) -> [Record; 2] {
    let child = "26.0-63.0.0.127.in-addr.arpa";
    [
        Record::name(&question.name, CNAME, child),
        Record::name(child, PTR, target),
    ]
}

fn only_ipv4(question: &Question, last: u8) -> Vec<Record> {
    let record = Record::loopback(&question.name, last);
    (question.kind == A).then_some(record).into_iter().collect()
}

fn cut(answer: &[u8]) -> Vec<u8> {
    answer[..answer.len() - 3].to_vec()
}

fn with_another_id(question: &Question) -> Vec<u8> {
    let mut answer = question.answer_name("n17.example.test");
    answer[0] ^= 0xff;
    answer
}

/// The owner as a pointer to the question's name.
fn compressed(question: &Question, target: &str) -> Vec<u8> {
    let plain = question.answer(NOERROR, &[]);
    let with_record = question.answer_name(target);
    let owner = plain[12..plain.len() - 4].len();
    let mut bytes = with_record[..plain.len()].to_vec();
    bytes.extend([0xc0, 12]);
    bytes.extend(&with_record[plain.len() + owner..]);
    bytes
}

fn expect_names(door: &Door, cases: &[Case]) {
    for (last, _, name) in cases {
        assert_eq!(door.name_of(*last), *name, "127.0.0.{last}");
    }
}

fn case(cases: &[Case], last: Option<u8>) -> Option<&Case> {
    cases.iter().find(|(number, ..)| Some(*number) == last)
}

#[test]
fn every_answer_about_the_name_has_its_outcome() {
    let dns = DnsStub::start(|question| match case(BACKWARDS, question.last_octet()) {
        Some((_, answer, _)) => answer(question),
        None => Some(proper(question, 60)),
    });
    expect_names(&Door::new(&resolver(&dns)), BACKWARDS);
}

#[test]
fn every_answer_about_the_address_has_its_outcome() {
    let dns = DnsStub::start(|question| {
        let number = question.name.strip_prefix('n');
        let number = number.and_then(|name| name.strip_suffix(".example.test")?.parse().ok());
        match case(FORWARDS, number) {
            Some((_, answer, _)) => answer(question),
            None => Some(proper(question, 60)),
        }
    });
    expect_names(&Door::new(&resolver(&dns)), FORWARDS);
}

#[test]
fn a_client_with_an_ipv6_address_has_a_name_too() {
    let dns = DnsStub::start(|question| match question.kind {
        PTR => Some(question.answer_name("six.example.test")),
        AAAA => {
            let mut loopback = vec![0; 15];
            loopback.push(1);
            let record = Record::new(&question.name, AAAA, loopback);
            Some(question.answer(NOERROR, &[record]))
        }
        _ => Some(question.answer(SERVFAIL, &[])),
    });
    let more = format!("{}\nlisten = [::1]:0", resolver(&dns));
    let door = Door::new(&more);
    let address = door.postern.addresses("smtp");
    let address = address.iter().find(|address| address.is_ipv6());
    let (mut client, _) = LineClient::greeted(*address.expect("an IPv6 listener"));
    client.ask(LOGIN, ACCEPTED);
    assert_eq!(door.said_about("::1"), "six.example.test");
}

#[test]
fn the_login_waits_for_the_name_and_the_greeting_does_not() {
    let dns = DnsStub::start(|question| {
        thread::sleep(Duration::from_millis(700));
        Some(proper(question, 60))
    });
    // Each of the two look-ups has its second.
    let door = Door::new(&resolver(&dns));
    let start = Instant::now();
    let mut client = LineClient::connect_from([127, 0, 0, 2], door.postern.address("smtp"));
    client.line();
    client.ask("NOOP", "250 2.0.0 OK");
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    client.ask(LOGIN, ACCEPTED);
    assert!(
        start.elapsed() > Duration::from_millis(1300),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(door.said_about("127.0.0.2"), "n2.example.test");
}

#[test]
fn a_look_up_takes_no_longer_than_resolver_timeout() {
    let dns = DnsStub::start(|_| None);
    let door = Door::new(&resolver(&dns));
    let start = Instant::now();
    assert_eq!(door.name_of(2), TEMPUNAVAIL);
    assert!(
        start.elapsed() > Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    assert!(
        start.elapsed() < Duration::from_millis(1900),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn names_are_remembered_for_all_sessions() {
    let records = named(2, "two.example.test");
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let dns = Dnsmasq::start(&records);
    let door = Door::new(&format!("resolver = {}", dns.address));
    for _ in 0..5 {
        assert_eq!(door.name_of(2), "two.example.test");
    }
    let log = dns.log();
    assert_eq!(log.matches("query[PTR] 2.0.0.127").count(), 1, "{log}");
    assert_eq!(log.matches("query[A] two.example.test").count(), 1, "{log}");
}

/// Two clients, and one more 1.2 s later; how often the server was asked for the name.
fn questions(ttl: u32, valid: &str) -> usize {
    let dns = DnsStub::proper(ttl);
    let door = Door::new(&format!("resolver = {}{valid}", dns.address()));
    assert_eq!(door.name_of(2), "n2.example.test");
    assert_eq!(door.name_of(2), "n2.example.test");
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(door.name_of(2), "n2.example.test");
    assert_eq!(dns.count(PTR), dns.count(A));
    dns.count(PTR)
}

#[test]
fn names_are_remembered_for_their_ttl() {
    assert_eq!(questions(60, ""), 1);
    assert_eq!(questions(1, ""), 2);
    assert_eq!(questions(0, ""), 3);
}

#[test]
fn valid_replaces_the_ttl() {
    assert_eq!(questions(0, " valid=30s"), 1);
    assert_eq!(questions(3600, " valid=1s"), 2);
}

#[test]
fn failures_are_not_remembered() {
    let dns = DnsStub::start(|question| match question.before {
        // Each server is asked twice at most.
        0 | 1 if question.kind == PTR => Some(question.answer(SERVFAIL, &[])),
        _ => Some(proper(question, 60)),
    });
    let door = Door::new(&resolver(&dns));
    let names: Vec<String> = (0..3).map(|_| door.name_of(2)).collect();
    assert_eq!(names[0], TEMPUNAVAIL);
    assert_eq!(names[2], "n2.example.test");
}

/// The proxy with two DNS servers; the second one is proper.
fn door_with_two(first: SocketAddr, second: &DnsStub) -> Door {
    let second = second.address();
    Door::new(&format!(
        "resolver = {first} {second}\nresolver_timeout = 3s"
    ))
}

#[test]
fn the_first_server_alone_is_asked_while_it_answers() {
    let (first, second) = (DnsStub::proper(0), DnsStub::proper(0));
    let door = door_with_two(first.address(), &second);
    for last in 2..6 {
        assert_eq!(door.name_of(last), format!("n{last}.example.test"));
    }
    assert_eq!((first.count(PTR), second.count(PTR)), (4, 0));
}

#[test]
fn the_second_server_is_asked_when_the_first_is_dead_silent_or_fails() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("the system has a port");
    let dead = nobody.local_addr().expect("a socket has an address");
    drop(nobody);
    let silent = DnsStub::start(|_| None);
    let failing = DnsStub::start(|question| Some(question.answer(SERVFAIL, &[])));
    let refusing = DnsStub::start(|question| Some(question.answer(REFUSED, &[])));
    for first in [
        dead,
        silent.address(),
        failing.address(),
        refusing.address(),
    ] {
        let second = DnsStub::proper(60);
        let door = door_with_two(first, &second);
        assert_eq!(door.name_of(2), "n2.example.test");
    }
    assert!(silent.count(PTR) >= 1 && failing.count(PTR) == 1);
}

#[test]
fn a_silent_dns_server_does_not_delay_imap() {
    let dns = DnsStub::start(|_| None);
    let backend = Peer::start(crate::peers::imap::imap_server);
    let (postern, auth) = proxy_to("imap", backend.address(), &resolver(&dns));
    let start = Instant::now();
    drop(LineClient::imap_login(postern.address("imap")));
    assert!(
        start.elapsed() < Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(auth.requests()[0].header("Client-Host"), None);
}

/// The proxy with an auth server and a backend by these names.
fn named_peers(
    auth_host: &str,
    backend_host: &'static str,
    more: &str,
) -> (Postern, AuthServer, Peer) {
    let backend = Peer::start(smtp_server);
    let port = backend.address().port();
    let auth = AuthServer::start(move |_| {
        Answer::Headers(vec![
            "Auth-Status: OK".into(),
            format!("Auth-Server: {backend_host}"),
            format!("Auth-Port: {port}"),
        ])
    });
    let ini =
        service("smtp", &auth, more).replace("http://127.0.0.1:", &format!("http://{auth_host}:"));
    (Postern::start(&ini), auth, backend)
}

#[test]
fn backends_and_auth_servers_by_name_are_asked_of_the_resolver() {
    let dns = Dnsmasq::start(&[
        "host-record=auth.example.test,127.0.0.1",
        "host-record=backend.example.test,127.0.0.1",
    ]);
    let more = format!("resolver = {}", dns.address);
    let (postern, auth, _backend) = named_peers("auth.example.test", "backend.example.test", &more);
    for _ in 0..3 {
        let (mut client, _) = LineClient::greeted(postern.address("smtp"));
        client.ask(LOGIN, ACCEPTED);
    }
    assert_eq!(auth.requests()[0].header("Host"), Some("auth.example.test"));
    let log = dns.log();
    assert_eq!(
        log.matches("query[A] backend.example.test").count(),
        1,
        "{log}"
    );
    assert_eq!(
        log.matches("query[A] auth.example.test").count(),
        1,
        "{log}"
    );
}

#[test]
fn without_a_resolver_backends_and_auth_servers_are_found_in_the_hosts_file() {
    let (postern, auth, _backend) = named_peers("localhost", "localhost", "");
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.ask(LOGIN, ACCEPTED);
    assert_eq!(auth.requests()[0].header("Host"), Some("localhost"));
}

#[test]
fn a_resolver_does_not_look_into_the_hosts_file() {
    let dns = Dnsmasq::start(&[]);
    let more = format!("resolver = {}", dns.address);
    let (postern, _auth, backend) = named_peers("127.0.0.1", "localhost", &more);
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.ask(LOGIN, "451 4.3.2 Internal server error");
    client.expect_close();
    let line = postern.wait_for_log("host \"localhost\"");
    assert!(
        line.contains("[error]") && line.contains("not found"),
        "{line}"
    );
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn a_crowd_whose_names_take_long_does_not_use_up_the_descriptors() {
    let dns = DnsStub::start(|_| None);
    let crowd = 700;
    let more = format!("resolver = {}\nresolver_timeout = 30s", dns.address());
    let postern = Postern::start(&format!(
        "[postern]\nmax_prelogin_per_ip = 1000\n[server smtp]\nprotocol = smtp\nlisten = 127.0.0.1:0\n{more}\n\
         auth_http = 127.0.0.1:9\n"
    ));
    let before = postern.descriptors();
    let target = postern.address("smtp");
    let clients: Vec<LineClient> = (0..crowd)
        .map(|number: u16| {
            // A name is looked up for each address.
            let [high, low] = number.to_be_bytes();
            let mut client = LineClient::connect_from([127, 7, high, low], target);
            client.line();
            client
        })
        .collect();
    // Who asked and heard nothing asks again after two seconds, on a further socket.
    let end = Instant::now() + Duration::from_secs(3);
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(postern.descriptors() - before);
        thread::sleep(Duration::from_millis(50));
    }
    let sockets = most - clients.len();
    assert!(
        (500..=530).contains(&sockets),
        "{sockets} sockets for {crowd} names"
    );
    postern.stop();
}
