//! Visits, which ask for capabilities or health, and logins say the same things to a backend in the same
//! way; and both say goodbye.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::tls::{TlsLines, accept, server_config};
use crate::common::tools::wait_for_line;
use crate::common::wait::{PATIENCE, until, until_true};
use crate::peers::dns::{A, DnsStub, NOERROR, NXDOMAIN, Record};
use crate::peers::{Peer, Talk, server_of};
use crate::servers::pki::Pki;
use crate::servers::postfix;

/// A backend that wants a PROXY header, offers STARTTLS and PLAIN, and remembers every line.
struct Backend {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
}

#[derive(Clone)]
struct Connection {
    /// The other end, as the socket has it.
    peer: SocketAddr,
    lines: Vec<String>,
}

impl Backend {
    fn start(protocol: &'static str) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the system has a port");
        let address = listener.local_addr().expect("a listener has an address");
        let connections = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&connections);
        thread::spawn(move || {
            for (number, socket) in listener.incoming().map_while(Result::ok).enumerate() {
                let peer = socket.peer_addr().expect("it is connected");
                let lines = Vec::new();
                all.lock()
                    .expect("no holder panics")
                    .push(Connection { peer, lines });
                let all = Arc::clone(&all);
                thread::spawn(move || {
                    play(protocol, socket, |line| {
                        let mut all = all.lock().expect("no holder panics");
                        all[number].lines.push(line.to_owned());
                    });
                });
            }
        });
        Backend {
            address,
            connections,
        }
    }

    /// The connection of this number, once it has said a line that begins so.
    fn wait_for(&self, number: usize, begin: &str) -> Connection {
        until(&format!("{begin:?} at the backend"), PATIENCE, || {
            let all = self.connections.lock().expect("no holder panics");
            let connection = all.get(number)?;
            let is_said = connection.lines.iter().any(|line| line.starts_with(begin));
            is_said.then(|| connection.clone())
        })
    }
}

fn play(protocol: &str, socket: TcpStream, note: impl Fn(&str)) {
    let mut plain = BufReader::new(socket);
    let mut line = String::new();
    let mut next = |plain: &mut BufReader<TcpStream>| {
        line.clear();
        let count = plain.read_line(&mut line).unwrap_or(0);
        (count > 0).then(|| line.trim_end().to_owned())
    };
    let Some(header) = next(&mut plain) else {
        return;
    };
    note(&header);
    let greeting = match protocol {
        "imap" => "* OK ready\r\n",
        "pop3" => "+OK ready\r\n",
        _ => "220 ready\r\n",
    };
    // The proxy may go away at any time; that is its business.
    drop(plain.get_mut().write_all(greeting.as_bytes()));
    while let Some(line) = next(&mut plain) {
        note(&line);
        let answer = format!("{}\r\n", answer(protocol, &line));
        drop(plain.get_mut().write_all(answer.as_bytes()));
        if line.ends_with("STARTTLS") || line == "STLS" {
            let pair = Pki::shared().server();
            let config = Arc::new(server_config(&pair.certificate, &pair.key, None));
            let Ok(tls) = accept(config, plain.into_inner()) else {
                return;
            };
            let mut lines = TlsLines::over(tls);
            loop {
                let line = lines.line();
                note(&line);
                lines.send(&answer_behind_tls(protocol, &line));
            }
        }
    }
}

fn answer(protocol: &str, line: &str) -> String {
    let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
    match (protocol, rest) {
        ("imap", "CAPABILITY") => {
            format!("* CAPABILITY IMAP4rev1 STARTTLS SASL-IR AUTH=PLAIN\r\n{tag} OK")
        }
        ("imap", "LOGOUT") => format!("* BYE\r\n{tag} OK"),
        ("imap", _) => format!("{tag} OK [CAPABILITY IMAP4rev1]"),
        ("pop3", "PLAIN") => "+ ".into(),
        ("pop3", _) if tag == "CAPA" => "+OK\r\nSTLS\r\nUIDL\r\n.".into(),
        ("pop3", _) => "+OK".into(),
        _ if tag == "EHLO" => "250-b\r\n250-STARTTLS\r\n250 AUTH PLAIN".into(),
        _ if tag == "AUTH" => "235 in".into(),
        _ => "220 go on".into(),
    }
}

fn answer_behind_tls(protocol: &str, line: &str) -> String {
    answer(protocol, line)
        .replace(" STARTTLS", "")
        .replace("STLS\r\n", "")
        .replace("250-STARTTLS\r\n", "")
}

fn proxy(protocol: &str, host: SocketAddr, server: &str, backend: &str) -> Postern {
    Postern::start(&format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\nserver_name = me.test\n\
         {server}\n[backend mail]\nhosts = {host}\n{backend}\n"
    ))
}

/// Presents a login, and returns the first answer and the client's end of the connection.
fn log_in(postern: &Postern, protocol: &str, password: &str) -> (String, LineClient) {
    let (mut client, _) = LineClient::greeted(postern.address(protocol));
    match protocol {
        "imap" => client.send(&format!("a LOGIN alice {password}")),
        "pop3" => {
            client.ask("USER alice", "+OK");
            client.send(&format!("PASS {password}"));
        }
        _ => client.send("AUTH PLAIN AGFsaWNlAHNlY3JldA=="),
    }
    (client.line(), client)
}

#[test]
fn a_visit_and_a_login_say_the_same_bytes_up_to_the_credentials() {
    let authority = Pki::shared().authority();
    for library in ["rustls", "native"] {
        for (protocol, both, visit, login) in [
            (
                "imap",
                &["p1 CAPABILITY", "p2 STARTTLS", "p1 CAPABILITY"][..],
                &["p9 LOGOUT"][..],
                "a AUTHENTICATE PLAIN AGFsaWNlAHNlY3JldA==",
            ),
            ("pop3", &["CAPA", "STLS"], &["CAPA", "QUIT"], "AUTH PLAIN"),
            (
                "smtp",
                &["EHLO me.test", "STARTTLS", "EHLO me.test"],
                &["QUIT"],
                "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
            ),
        ] {
            let backend = Backend::start(protocol);
            let more = format!(
                "tls_library = {library}\nproxy_protocol = on\nproxy_ssl = starttls\n\
                 auth_mechanism = plain\nproxy_ssl_trusted_certificate = {}\nproxy_ssl_name = \
                 mail.test",
                authority.display()
            );
            let postern = proxy(protocol, backend.address, "", &more);
            let visited = backend.wait_for(0, visit[visit.len() - 1]);
            let (header, lines) = visited
                .lines
                .split_first()
                .expect("it begins with a header");
            assert_eq!(lines, [both, visit].concat(), "{protocol}");
            let (peer, port) = (visited.peer.port(), backend.address.port());
            let own = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {peer} {port}");
            assert_eq!(*header, own);

            let (answer, client) = log_in(&postern, protocol, "secret");
            let logged_in = backend.wait_for(1, login);
            let (header, lines) = logged_in.lines.split_first().expect("as before");
            assert_eq!(lines[..=both.len()], [both, &[login]].concat(), "{answer}");
            let (peer, port) = (client.local_address(), postern.address(protocol));
            let (peer, port) = (peer.port(), port.port());
            let of_client = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {peer} {port}");
            assert_eq!(*header, of_client);
        }
    }
}

#[test]
fn a_health_check_is_a_greeting_and_a_goodbye() {
    for (protocol, goodbye) in [("imap", "p9 LOGOUT"), ("pop3", "QUIT"), ("smtp", "QUIT")] {
        let backend = Backend::start(protocol);
        let fixed = format!("{protocol}_capabilities = TEST");
        let more = "health_check = 1s\nproxy_protocol = on";
        let _postern = proxy(protocol, backend.address, &fixed, more);
        let visited = backend.wait_for(0, goodbye);
        let (peer, port) = (visited.peer.port(), backend.address.port());
        let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {peer} {port}");
        assert_eq!(visited.lines, [header.as_str(), goodbye]);
    }
}

#[test]
fn a_host_that_is_given_up_before_the_credentials_is_told_goodbye() {
    for (protocol, goodbye) in [
        ("imap", "p1 CAPABILITY\r\np9 LOGOUT\r\n"),
        ("pop3", "CAPA\r\nQUIT\r\n"),
        ("smtp", "EHLO me.test\r\nQUIT\r\n"),
    ] {
        let backend = Peer::start(server_of(protocol));
        let fixed = format!("{protocol}_capabilities = TEST");
        let postern = proxy(protocol, backend.address(), &fixed, "proxy_ssl = starttls");
        log_in(&postern, protocol, "secret");
        until_true("it is gone", PATIENCE, || backend.open() == 0);
        let said = String::from_utf8_lossy(&backend.received()).into_owned();
        assert_eq!(said, goodbye);
    }
}

#[test]
fn a_host_that_refuses_the_credentials_is_told_goodbye() {
    for (protocol, last) in [
        ("imap", " {7}\r\nrefused\r\np9 LOGOUT\r\n"),
        ("pop3", "PASS refused\r\nQUIT\r\n"),
    ] {
        let backend = Peer::start(server_of(protocol));
        let fixed = format!("{protocol}_capabilities = TEST");
        let postern = proxy(protocol, backend.address(), &fixed, "");
        log_in(&postern, protocol, "refused");
        until_true("it is gone", PATIENCE, || backend.open() == 0);
        let said = String::from_utf8_lossy(&backend.received()).into_owned();
        assert!(said.ends_with(last), "{said}");
    }
}

#[test]
fn postfix_hears_quit_behind_a_refused_login() {
    let postfix = postfix::shared();
    let fixed = "smtp_capabilities = TEST";
    let postern = proxy("smtp", postfix.smtp_auth, fixed, "xclient = off");
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.send("AUTH PLAIN AGFsaWNlAHdyb25n");
    let answer = client.line();
    assert!(answer.starts_with("535 "), "{answer}");
    wait_for_line(&postfix.log, "ehlo=1 auth=0/1 quit=1 commands=2/3");
}

/// Visits once a second, and for capabilities.
fn often_visited(host: &str, more: &str) -> Postern {
    Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n{more}\n[backend mail]\n\
         hosts = {host}\nhealth_check = 1s\n"
    ))
}

/// What the log says of the backend.
fn told(postern: &Postern) -> Vec<String> {
    postern.lines_with("backend \"mail\"")
}

#[test]
fn a_wrong_name_in_a_certificate_is_told_once() {
    let backend = Backend::start("imap");
    let authority = Pki::shared().authority();
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n[backend mail]\nhosts = {}\n\
         health_check = 1s\nproxy_protocol = on\nproxy_ssl = starttls\n\
         proxy_ssl_trusted_certificate = {}\nproxy_ssl_name = wrong.test\n",
        backend.address,
        authority.display()
    ));
    for visit in 0..4 {
        backend.wait_for(visit, "p2 STARTTLS");
    }
    let lines = told(&postern);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("[warn]") && lines[0].contains("is down: TLS with upstream failed"),
        "{lines:?}"
    );
    assert!(lines[0].contains("name"), "{lines:?}");
}

#[test]
fn a_name_without_an_address_is_told_once_and_once_when_it_has_one() {
    let backend = Peer::start(server_of("imap"));
    let is_known = Arc::new(AtomicBool::new(false));
    let known = Arc::clone(&is_known);
    let dns = DnsStub::start(move |question| {
        let records = match (known.load(Ordering::SeqCst), question.kind) {
            (true, A) => vec![Record::loopback(&question.name, 1).ttl(1)],
            (true, _) => Vec::new(),
            (false, _) => return Some(question.answer(NXDOMAIN, &[])),
        };
        Some(question.answer(NOERROR, &records))
    });
    let host = format!("mail.example.test:{}", backend.address().port());
    let postern = often_visited(&host, &format!("resolver = {}", dns.address()));
    until_true("it was looked up four times", PATIENCE, || {
        dns.count(A) >= 4
    });
    let lines = told(&postern);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("[warn]")
            && lines[0].contains("the look-up of mail.example.test fails: "),
        "{lines:?}"
    );
    is_known.store(true, Ordering::SeqCst);
    let line = postern.wait_for_log("the look-up of mail.example.test works again");
    assert!(line.contains("[notice]"), "{line}");
    until_true("it is visited", PATIENCE, || backend.accepted() >= 2);
    assert_eq!(told(&postern).len(), 2, "{:?}", told(&postern));
}

#[test]
fn a_question_that_is_refused_is_told_once_and_makes_nobody_ill() {
    let backend = Peer::start(|talk: &mut Talk| {
        talk.say("* OK hi")?;
        loop {
            let line = talk.line()?;
            let tag = line.split(' ').next().unwrap_or_default();
            match line.ends_with("LOGOUT") {
                true => return talk.say(&format!("* BYE\r\n{tag} OK")),
                false => talk.say(&format!("{tag} BAD what"))?,
            }
        }
    });
    let postern = often_visited(&backend.address().to_string(), "");
    until_true("it is visited", PATIENCE, || backend.accepted() >= 4);
    let lines = told(&postern);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let text = format!(
        "the question to {} for its capabilities fails: upstream sent invalid response: \"p1 BAD what\"",
        backend.address()
    );
    assert!(
        lines[0].contains("[warn]") && lines[0].contains(&text),
        "{lines:?}"
    );
}
