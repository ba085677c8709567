//! TLS towards backends and the auth server: Dovecot and Postfix, backends that show the wrong
//! certificate, and attackers in between.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tls::{serve_in_front_of, server_config};
use crate::common::tools::wait_for_line;
use crate::common::{proxy_to, service};
use crate::peers::unruly::never_greets;
use crate::peers::{Peer, Talk, server_of};
use crate::servers::pki::{Key, NAMES, Pair, Pki, State, fingerprint};
use crate::servers::{dovecot, postfix};

const LIBRARIES: [&str; 2] = ["rustls", "native"];
const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];

/// The login command and the beginning of the answer when it succeeds.
fn login(protocol: &str) -> (&'static str, &'static str) {
    match protocol {
        "imap" => ("a LOGIN alice secret", "a OK"),
        "pop3" => ("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "+OK"),
        _ => ("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK"),
    }
}

fn internal_error(protocol: &str) -> &'static str {
    match protocol {
        "imap" => "* BAD internal server error",
        "pop3" => "-ERR internal server error",
        _ => "451 4.3.2 Internal server error",
    }
}

fn log_in(postern: &Postern, protocol: &str) -> LineClient {
    let (mut client, _) = LineClient::greeted(postern.address(protocol));
    let (command, success) = login(protocol);
    client.send(command);
    // IMAP servers volunteer untagged lines.
    let mut answer = client.line();
    while answer.starts_with("* ") && !answer.starts_with("* BAD") {
        answer = client.line();
    }
    assert!(answer.starts_with(success), "{answer}\n{}", postern.log());
    client
}

/// The login fails as the protocol says, and one loud line names the step and says `why`.
fn expect_failure(postern: &Postern, protocol: &str, step: &str, why: &[&str]) {
    let (mut client, _) = LineClient::greeted(postern.address(protocol));
    client.ask(login(protocol).0, internal_error(protocol));
    client.expect_close();
    postern.wait_for_log("session closed");
    let lines = postern.lines_with("[error]");
    assert_eq!(lines.len(), 1, "{lines:?}");
    let action = format!(" while {step}, ");
    for text in [action.as_str()].iter().chain(why) {
        assert!(lines[0].contains(text), "no {text:?} in {}", lines[0]);
    }
    assert!(!lines[0].contains("secret"), "{}", lines[0]);
}

const HANDSHAKING: &str = "SSL handshaking";

fn trusting(authority: &Path) -> String {
    format!("proxy_ssl_trusted_certificate = {}\n", authority.display())
}

/// A small server behind TLS with this certificate.
struct Stub {
    plain: Peer,
    address: SocketAddr,
}

fn stub(protocol: &str, pair: &Pair, clients: Option<&Path>) -> Stub {
    let plain = Peer::start(server_of(protocol));
    let config = server_config(&pair.certificate, &pair.key, clients);
    let address = serve_in_front_of(plain.address(), config);
    Stub { plain, address }
}

/// Where the real servers speak each protocol with TLS, and the certificate they show.
fn real(protocol: &str, ssl: &str) -> (SocketAddr, &'static Path) {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    match (protocol, ssl) {
        ("imap", "on") => (dovecot.imaps, &dovecot.certificate),
        ("imap", _) => (dovecot.imap, &dovecot.certificate),
        ("pop3", "on") => (dovecot.pop3s, &dovecot.certificate),
        ("pop3", _) => (dovecot.pop3, &dovecot.certificate),
        (_, "on") => (postfix.smtps, &postfix.certificate),
        _ => (postfix.smtp_starttls, &postfix.certificate),
    }
}

#[test]
fn dovecot_and_postfix_are_logged_in_to_over_implicit_tls_and_starttls() {
    for library in LIBRARIES {
        for protocol in PROTOCOLS {
            for ssl in ["on", "starttls"] {
                let (backend, certificate) = real(protocol, ssl);
                let trust = trusting(certificate);
                let lines = format!("tls_library = {library}\nproxy_ssl = {ssl}\n{trust}");
                let (postern, _auth) = proxy_to(protocol, backend, &lines);
                let mut client = log_in(&postern, protocol);
                let (quit, last) = match protocol {
                    "imap" => ("q LOGOUT", "q OK"),
                    "pop3" => ("QUIT", "+OK Logging out"),
                    _ => ("QUIT", "221 2.0.0 Bye"),
                };
                client.send(quit);
                client.lines_until(last);
                client.expect_close();
            }
        }
    }
}

#[test]
fn dovecot_sees_the_login_over_tls() {
    let (backend, certificate) = real("imap", "starttls");
    let lines = format!("proxy_ssl = starttls\n{}", trusting(certificate));
    let (postern, _auth) = proxy_to("imap", backend, &lines);
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN over-tls secret");
    client.lines_until("a OK");
    let line = wait_for_line(&dovecot::shared().log, "user=<over-tls>");
    assert!(line.contains(", TLS"), "{line}");
}

#[test]
fn postfix_gets_xclient_behind_starttls() {
    let postfix = postfix::shared();
    let cases = [
        ("on", "rustls", 41),
        ("on", "native", 42),
        ("starttls", "rustls", 43),
        ("starttls", "native", 44),
    ];
    for (ssl, library, last) in cases {
        let (backend, certificate) = real("smtp", ssl);
        let trust = trusting(certificate);
        let lines = format!("tls_library = {library}\nproxy_ssl = {ssl}\n{trust}");
        let (postern, _auth) = proxy_to("smtp", backend, &lines);
        let mut client = LineClient::connect_from([127, 0, 0, last], postern.address("smtp"));
        client.expect("220 proxy.test ESMTP ready");
        client.send("EHLO client.test");
        client.lines_until("250 ");
        client.ask(login("smtp").0, "235 2.0.0 OK");
        for command in [
            "MAIL FROM:<a@example.test>",
            "RCPT TO:<bob@example.test>",
            "DATA",
        ] {
            client.send(command);
            client.line();
        }
        client.send(&format!("Subject: {last}\r\n\r\nover TLS\r\n."));
        let answer = client.line();
        assert!(answer.starts_with("250 2.0.0 Ok: queued"), "{answer}");
        wait_for_line(
            &postfix.log,
            &format!("client=unknown[127.0.0.{last}], sasl_method=XCLIENT, sasl_username=alice"),
        );
    }
    wait_for_line(&postfix.log, "TLS connection established from");
}

#[test]
fn auth_ssl_backend_decides_for_one_login() {
    let dovecot = dovecot::shared();
    for (configured, said, backend) in [
        ("off", "on", dovecot.imaps),
        ("off", "starttls", dovecot.imap),
        ("on", "off", dovecot.imap),
        ("starttls", "on", dovecot.imaps),
    ] {
        let header = format!("Auth-SSL-Backend: {said}");
        let auth = AuthServer::start(move |_| Answer::ok_with(backend, &[&header]));
        let trust = trusting(&dovecot.certificate);
        let lines = format!("proxy_ssl = {configured}\n{trust}");
        let postern = Postern::start(&service("imap", &auth, &lines));
        log_in(&postern, "imap");
    }
}

#[test]
fn an_unknown_auth_ssl_backend_makes_the_answer_unusable() {
    let backend = Peer::start(server_of("imap"));
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok_with(address, &["Auth-SSL-Backend: yes"]));
    let postern = Postern::start(&service("imap", &auth, ""));
    expect_failure(
        &postern,
        "imap",
        "in http auth state",
        &["Auth-SSL-Backend"],
    );
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn a_backend_whose_certificate_is_not_right_gets_no_byte_and_the_log_says_what_to_do() {
    let pki = Pki::shared();
    let good = pki.server();
    let authority = trusting(&pki.authority());
    let other_name = pki.issue("other.test", "DNS:other.test", Key::Ec, State::Good);
    let expired = pki.issue("mail.test", NAMES, Key::Ec, State::Expired);
    let self_signed = pki.issue("mail.test", NAMES, Key::Rsa, State::SelfSigned);
    let other_pin = format!(
        "proxy_ssl_fingerprint = {}\n",
        fingerprint(&other_name.certificate)
    );
    let own_pin = fingerprint(&good.certificate);
    let untrusted = [
        "is not trusted (put its issuer into proxy_ssl_trusted_certificate",
        "",
    ];
    let cases: [(&str, &Pair, String, [&str; 2]); 8] = [
        (
            "wrong name",
            &other_name,
            authority.clone(),
            [
                "certificate is not for \"127.0.0.1\" (set proxy_ssl_name",
                "",
            ],
        ),
        (
            "wrong proxy_ssl_name",
            good,
            format!("{authority}proxy_ssl_name = imap.example.test\n"),
            [
                "certificate is not for \"imap.example.test\" (set proxy_ssl_name",
                "",
            ],
        ),
        (
            "wrong authority",
            good,
            trusting(&self_signed.certificate),
            untrusted,
        ),
        ("the system's authorities", good, String::new(), untrusted),
        ("self-signed", &self_signed, authority.clone(), untrusted),
        (
            "expired",
            &expired,
            authority.clone(),
            [
                "is not valid now (renew it on the backend)",
                "certificate has expired",
            ],
        ),
        (
            "wrong pin beside the authority",
            good,
            format!("{authority}{other_pin}"),
            [
                "none of the fingerprints in proxy_ssl_fingerprint: it has",
                &own_pin,
            ],
        ),
        (
            "wrong pin alone",
            good,
            format!("proxy_ssl_verify = off\n{other_pin}"),
            [
                "none of the fingerprints in proxy_ssl_fingerprint: it has",
                &own_pin,
            ],
        ),
    ];
    for library in LIBRARIES {
        for (what, pair, lines, why) in &cases {
            let stub = stub("imap", pair, None);
            let lines = format!("tls_library = {library}\nproxy_ssl = on\n{lines}");
            let (postern, _auth) = proxy_to("imap", stub.address, &lines);
            expect_failure(&postern, "imap", HANDSHAKING, why);
            assert!(stub.plain.received().is_empty(), "{what} with {library}");
        }
    }
}

#[test]
fn a_backend_whose_certificate_is_right_is_logged_in_to() {
    let pki = Pki::shared();
    let good = pki.server();
    let other_name = pki.issue("other.test", "DNS:other.test", Key::Rsa, State::Good);
    let expired = pki.issue("mail.test", NAMES, Key::Ec, State::Expired);
    let self_signed = pki.issue("mail.test", NAMES, Key::Rsa, State::SelfSigned);
    let authority = trusting(&pki.authority());
    let pin_of = |pair: &Pair| {
        format!(
            "proxy_ssl_fingerprint = {}\n",
            fingerprint(&pair.certificate)
        )
    };
    let cases = [
        ("authority", good, authority.clone()),
        (
            "name from proxy_ssl_name",
            &other_name,
            format!("{authority}proxy_ssl_name = other.test\n"),
        ),
        (
            "unchecked",
            &other_name,
            "proxy_ssl_verify = off\n".to_owned(),
        ),
        (
            "pinned alone",
            &expired,
            format!("proxy_ssl_verify = off\n{}", pin_of(&expired)),
        ),
        (
            "second of two pins",
            good,
            format!("{authority}{}{}", pin_of(&expired), pin_of(good)),
        ),
        (
            "trusted itself",
            &self_signed,
            trusting(&self_signed.certificate),
        ),
    ];
    for library in LIBRARIES {
        for (what, pair, lines) in &cases {
            let stub = stub("imap", pair, None);
            let lines = format!("tls_library = {library}\nproxy_ssl = on\n{lines}");
            let (postern, _auth) = proxy_to("imap", stub.address, &lines);
            log_in(&postern, "imap").ask("n NOOP", "n OK backend NOOP");
            assert!(
                postern.lines_with("[error]").is_empty(),
                "{what} with {library}"
            );
        }
    }
}

#[test]
fn a_backend_that_is_trusted_itself_needs_no_authority() {
    let good = Pki::shared().server();
    let stub = stub("imap", good, None);
    let lines = format!("proxy_ssl = on\n{}", trusting(&good.certificate));
    let (postern, _auth) = proxy_to("imap", stub.address, &lines);
    log_in(&postern, "imap");
}

#[test]
fn the_log_about_a_wrong_name_lists_the_names_that_would_be_right() {
    let stub = stub("imap", Pki::shared().server(), None);
    let trust = trusting(&Pki::shared().authority());
    let lines = format!("proxy_ssl = on\nproxy_ssl_name = imap.example.test\n{trust}");
    let (postern, _auth) = proxy_to("imap", stub.address, &lines);
    expect_failure(
        &postern,
        "imap",
        HANDSHAKING,
        &["mail.test", "localhost", "127.0.0.1"],
    );
}

#[test]
fn proxy_ssl_protocols_hold() {
    let authority = trusting(&Pki::shared().authority());
    for library in LIBRARIES {
        for version in ["TLSv1.2", "TLSv1.3"] {
            let stub = stub("imap", Pki::shared().server(), None);
            let lines = format!(
                "tls_library = {library}\nproxy_ssl = on\nproxy_ssl_protocols = {version}\n{authority}"
            );
            let (postern, _auth) = proxy_to("imap", stub.address, &lines);
            log_in(&postern, "imap");
        }
    }
}

#[test]
fn a_backend_that_wants_a_client_certificate_gets_it() {
    let pki = Pki::shared();
    let own = pki.issue("proxy", "DNS:proxy.test", Key::Rsa, State::Good);
    let stranger = pki.issue("stranger", "DNS:a.test", Key::Ec, State::SelfSigned);
    let trust = trusting(&pki.authority());
    let identity = |pair: &Pair| {
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        format!("proxy_ssl_certificate = {certificate}\nproxy_ssl_certificate_key = {key}\n")
    };
    for library in LIBRARIES {
        let authority = pki.authority();
        let stub = stub("imap", pki.server(), Some(&authority));
        let common = format!("tls_library = {library}\nproxy_ssl = on\n{trust}");
        let (postern, _auth) =
            proxy_to("imap", stub.address, &format!("{common}{}", identity(&own)));
        log_in(&postern, "imap");
        for lines in [String::new(), identity(&stranger)] {
            stub.plain.forget();
            let (postern, _auth) = proxy_to("imap", stub.address, &format!("{common}{lines}"));
            let (mut client, _) = LineClient::greeted(postern.address("imap"));
            client.ask(login("imap").0, internal_error("imap"));
            let line = postern.wait_for_log("[error]");
            assert!(line.contains("alert"), "{line}");
            assert!(stub.plain.received().is_empty());
        }
    }
}

#[test]
fn the_name_that_the_auth_server_gave_is_checked() {
    let pki = Pki::shared();
    let other_name = pki.issue("other.test", "DNS:other.test", Key::Ec, State::Good);
    let trust = trusting(&pki.authority());
    for library in LIBRARIES {
        for (pair, is_right) in [(pki.server(), true), (&other_name, false)] {
            let stub = stub("imap", pair, None);
            let port = format!("Auth-Port: {}", stub.address.port());
            let auth = AuthServer::start(move |_| {
                Answer::headers(&["Auth-Status: OK", "Auth-Server: localhost", &port])
            });
            let lines = format!("tls_library = {library}\nproxy_ssl = on\n{trust}");
            let postern = Postern::start(&service("imap", &auth, &lines));
            if is_right {
                log_in(&postern, "imap");
            } else {
                let why = ["certificate is not for \"localhost\""];
                expect_failure(&postern, "imap", HANDSHAKING, &why);
            }
        }
    }
}

#[test]
fn a_changed_file_of_authorities_holds_for_the_next_login() {
    let pki = Pki::shared();
    let stranger = pki.issue("stranger", "DNS:a.test", Key::Ec, State::SelfSigned);
    let folder = TempDir::new("authorities");
    let file = folder.path().join("authorities.pem");
    for library in LIBRARIES {
        fs::copy(&stranger.certificate, &file).expect("the folder is ours");
        let stub = stub("imap", pki.server(), None);
        let lines = format!(
            "tls_library = {library}\nproxy_ssl = on\n{}",
            trusting(&file)
        );
        let (postern, _auth) = proxy_to("imap", stub.address, &lines);
        expect_failure(&postern, "imap", HANDSHAKING, &["is not trusted"]);
        fs::copy(pki.authority(), &file).expect("the folder is ours");
        // The proxy looks at its files once a second at most.
        thread::sleep(Duration::from_millis(1100));
        log_in(&postern, "imap");
    }
}

#[test]
fn changed_tls_files_of_a_backend_hold_for_the_next_login_and_visit() {
    let pki = Pki::shared();
    let stranger = pki.issue("stranger", "DNS:a.test", Key::Ec, State::SelfSigned);
    let own = pki.issue("postern", "DNS:proxy.test", Key::Ec, State::Good);
    let folder = TempDir::new("backend-tls");
    let file = |name: &str| folder.path().join(name);
    let copy = |from: &Path, to: &str| {
        fs::copy(from, file(to)).expect("the folder is ours");
    };
    for library in LIBRARIES {
        copy(&stranger.certificate, "authorities.pem");
        copy(&stranger.certificate, "own.pem");
        copy(&stranger.key, "own.key");
        let stub = stub("imap", pki.server(), Some(&pki.authority()));
        let postern = Postern::start(&format!(
            "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n[backend b]\nhosts = {}\n\
             tls_library = {library}\nproxy_ssl = on\nproxy_ssl_certificate = {}\n\
             proxy_ssl_certificate_key = {}\nhealth_check = 1s\n{}",
            stub.address,
            file("own.pem").display(),
            file("own.key").display(),
            trusting(&file("authorities.pem"))
        ));
        postern.wait_for_log("is not trusted");
        copy(&pki.authority(), "authorities.pem");
        copy(&own.key, "own.key");
        copy(&own.certificate, "own.pem");
        postern.wait_for_log("backend \"b\": certificates have changed; new ones are in use");
        postern.wait_for_log("is up again");
        log_in(&postern, "imap");
    }
}

#[test]
fn the_proxy_header_goes_before_starttls() {
    let dovecot = dovecot::shared();
    for (library, last) in [("rustls", 51), ("native", 52)] {
        let trust = trusting(&dovecot.certificate);
        let lines =
            format!("tls_library = {library}\nproxy_ssl = starttls\nproxy_protocol = on\n{trust}");
        let (postern, _auth) = proxy_to("imap", dovecot.imap_haproxy, &lines);
        let mut client = LineClient::connect_from([127, 0, 0, last], postern.address("imap"));
        client.line();
        client.send(&format!("a LOGIN header-{last} secret"));
        client.lines_until("a OK");
        let line = wait_for_line(&dovecot.log, &format!("user=<header-{last}>"));
        let from = format!("rip=127.0.0.{last},");
        assert!(line.contains(&from) && line.contains(", TLS"), "{line}");
    }
}

#[test]
fn the_proxy_header_goes_before_implicit_tls() {
    let backend = Peer::start(|talk| {
        talk.line()?;
        talk.bytes(6)?;
        Ok(())
    });
    let lines = "proxy_ssl = on\nproxy_protocol = on";
    let (postern, _auth) = proxy_to("imap", backend.address(), lines);
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask(login("imap").0, internal_error("imap"));
    let received = backend.received();
    let line = received.windows(2).position(|bytes| bytes == b"\r\n");
    let (header, hello) = received.split_at(line.expect("there is a line") + 2);
    assert!(header.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "));
    // A handshake record with a ClientHello.
    assert_eq!((hello[0], hello[5]), (22, 1));
}

/// A backend, perhaps with an attacker before it, that offers `offer` and answers STARTTLS with these
/// bytes. It never speaks TLS.
fn answers_starttls(
    protocol: &'static str,
    offer: &'static str,
    answer: &'static [u8],
) -> impl Fn(&mut Talk) -> std::io::Result<()> {
    move |talk| {
        let (greeting, offered) = match protocol {
            "imap" => (
                "* OK ready",
                format!("* CAPABILITY IMAP4rev1 {offer}\r\np1 OK done"),
            ),
            "pop3" => ("+OK ready", format!("+OK list\r\nUIDL\r\n{offer}\r\n.")),
            _ => (
                "220 ready",
                format!("250-backend\r\n250-8BITMIME\r\n250 {offer}"),
            ),
        };
        talk.say(greeting)?;
        talk.line()?;
        talk.say(&offered)?;
        talk.line()?;
        talk.send(answer)?;
        talk.wait_for_end()
    }
}

fn starttls_word(protocol: &str) -> &'static str {
    if protocol == "pop3" {
        "STLS"
    } else {
        "STARTTLS"
    }
}

/// Nothing about the user, and at most a goodbye behind the command named, has reached the backend.
fn expect_no_credentials(backend: &Peer, protocol: &str) {
    let lines = backend.lines();
    let last = match protocol {
        "imap" => "p2 STARTTLS",
        other => starttls_word(other),
    };
    for line in &lines {
        for word in ["LOGIN", "AUTH", "USER", "PASS", "XCLIENT", "alice"] {
            assert!(!line.contains(word), "{lines:?}");
        }
    }
    if let Some(at) = lines.iter().position(|line| line == last) {
        let behind: Vec<_> = lines[at + 1..].iter().map(String::as_str).collect();
        let is_goodbye = |line: &str| matches!(line, "p9 LOGOUT" | "QUIT");
        match behind[..] {
            [""] => {}
            [line, ""] if is_goodbye(line) => {}
            _ => panic!("behind {last}: {behind:?}"),
        }
    }
}

#[test]
fn a_backend_that_does_not_offer_starttls_gets_no_credentials() {
    for protocol in PROTOCOLS {
        // A capability is a whole word.
        for offer in ["X", "XSTARTTLS", "STARTTLSX", "STLSX"] {
            let backend = Peer::start(answers_starttls(protocol, offer, b""));
            let (postern, _auth) = proxy_to(protocol, backend.address(), "proxy_ssl = starttls");
            let step = match protocol {
                "smtp" => "sending HELO/EHLO to upstream",
                _ => "in starttls state",
            };
            let why = ["does not offer STARTTLS", "set `proxy_ssl` to"];
            expect_failure(&postern, protocol, step, &why);
            expect_no_credentials(&backend, protocol);
            assert!(
                !backend
                    .lines()
                    .iter()
                    .any(|line| line.contains(starttls_word(protocol)))
            );
        }
    }
}

#[test]
fn a_backend_that_refuses_starttls_gets_no_credentials() {
    let refusals: [(&str, &[u8]); 3] = [
        ("imap", b"p2 NO not now\r\n"),
        ("pop3", b"-ERR not now\r\n"),
        ("smtp", b"454 4.7.0 not now\r\n"),
    ];
    for (protocol, answer) in refusals {
        let offer = starttls_word(protocol);
        let backend = Peer::start(answers_starttls(protocol, offer, answer));
        let (postern, _auth) = proxy_to(protocol, backend.address(), "proxy_ssl = starttls");
        let why = ["upstream sent invalid response", "not now"];
        expect_failure(&postern, protocol, "in starttls state", &why);
        expect_no_credentials(&backend, protocol);
    }
}

#[test]
fn what_a_backend_says_before_the_handshake_fails_the_session() {
    let injections: [(&str, &[u8]); 6] = [
        ("imap", b"p2 OK begin\r\n* CAPABILITY IMAP4rev1 EVIL\r\n"),
        ("imap", b"p2 OK begin\r\na OK logged in\r\n"),
        ("imap", b"p2 OK begin\r\nx"),
        ("pop3", b"+OK begin\r\n+OK\r\n+OK logged in\r\n"),
        ("smtp", b"220 begin\r\n250 evil\r\n"),
        ("smtp", b"220 begin\r\n\n"),
    ];
    for library in LIBRARIES {
        for (protocol, answer) in injections {
            let offer = starttls_word(protocol);
            let backend = Peer::start(answers_starttls(protocol, offer, answer));
            let lines = format!("tls_library = {library}\nproxy_ssl = starttls");
            let (postern, _auth) = proxy_to(protocol, backend.address(), &lines);
            let why = ["sent something before the handshake"];
            expect_failure(&postern, protocol, HANDSHAKING, &why);
            expect_no_credentials(&backend, protocol);
        }
    }
}

#[test]
fn an_answer_to_starttls_that_comes_before_the_question_does_not_help() {
    let backend = Peer::start(|talk| {
        talk.say("* OK ready")?;
        talk.line()?;
        talk.say("* CAPABILITY IMAP4rev1 STARTTLS\r\np1 OK done\r\np2 OK begin")?;
        talk.line()?;
        talk.say("p2 OK begin")?;
        talk.wait_for_end()
    });
    let (postern, _auth) = proxy_to("imap", backend.address(), "proxy_ssl = starttls");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask(login("imap").0, internal_error("imap"));
    postern.wait_for_log("TLS with upstream failed");
    let received = String::from_utf8_lossy(&backend.received()).into_owned();
    assert!(!received.contains("alice") && !received.contains("secret"));
}

#[test]
fn a_backend_that_stalls_in_the_handshake_times_out() {
    for library in LIBRARIES {
        let lines = format!("tls_library = {library}\ntimeout = 1s\n");
        let backend = Peer::start(never_greets);
        let (postern, _auth) =
            proxy_to("imap", backend.address(), &format!("{lines}proxy_ssl = on"));
        expect_failure(&postern, "imap", HANDSHAKING, &["upstream timed out"]);

        let backend = Peer::start(answers_starttls("imap", "STARTTLS", b"p2 OK begin\r\n"));
        let (postern, _auth) = proxy_to(
            "imap",
            backend.address(),
            &format!("{lines}proxy_ssl = starttls"),
        );
        expect_failure(&postern, "imap", HANDSHAKING, &["upstream timed out"]);
    }
}

#[test]
fn a_backend_without_tls_is_named_as_such() {
    for library in LIBRARIES {
        let backend = Peer::start(server_of("imap"));
        let lines = format!("tls_library = {library}\nproxy_ssl = on");
        let (postern, _auth) = proxy_to("imap", backend.address(), &lines);
        expect_failure(
            &postern,
            "imap",
            HANDSHAKING,
            &["backend does not speak TLS"],
        );
    }
}

/// The proxy with an auth server behind TLS that shows this certificate.
fn with_https(pair: &Pair, clients: Option<&Path>, lines: &str) -> (Postern, AuthServer, Peer) {
    let backend = Peer::start(server_of("imap"));
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let config = server_config(&pair.certificate, &pair.key, clients);
    let https = serve_in_front_of(auth.address(), config);
    let ini = service("imap", &auth, lines);
    let ini = ini.replace(&auth.url(), &format!("https://{https}/auth"));
    (Postern::start(&ini), auth, backend)
}

#[test]
fn the_auth_server_is_asked_over_https() {
    let pki = Pki::shared();
    let other_name = pki.issue("auth.test", "DNS:auth.test", Key::Rsa, State::Good);
    let own = pki.issue("proxy", "DNS:proxy.test", Key::Ec, State::Good);
    let authority = pki.authority();
    let trust = format!(
        "auth_http_ssl_trusted_certificate = {}\n",
        authority.display()
    );
    let identity = format!(
        "auth_http_ssl_certificate = {}\nauth_http_ssl_certificate_key = {}\n",
        own.certificate.display(),
        own.key.display()
    );
    let pin = fingerprint(&other_name.certificate);
    let good = pki.server();
    let cases = [
        (good, None, trust.clone()),
        (
            &other_name,
            None,
            format!("{trust}auth_http_ssl_name = auth.test\n"),
        ),
        (&other_name, None, "auth_http_ssl_verify = off\n".to_owned()),
        (
            &other_name,
            None,
            format!("auth_http_ssl_verify = off\nauth_http_ssl_fingerprint = {pin}\n"),
        ),
        (
            good,
            Some(authority.as_path()),
            format!("{trust}{identity}"),
        ),
    ];
    for library in LIBRARIES {
        for (pair, clients, lines) in &cases {
            let lines = format!("tls_library = {library}\n{lines}");
            let (postern, auth, _backend) = with_https(pair, *clients, &lines);
            for number in 1..=2 {
                log_in(&postern, "imap");
                let request = auth.wait_for_request(number);
                assert_eq!(request.header("Host"), Some("127.0.0.1"));
                assert_eq!(request.header("Auth-User"), Some("alice"));
            }
            assert!(
                postern.lines_with("[error]").is_empty(),
                "{}",
                postern.log()
            );
        }
    }
}

#[test]
fn an_auth_server_whose_certificate_is_not_right_hears_no_password() {
    let pki = Pki::shared();
    let stranger = pki.issue("mail.test", NAMES, Key::Ec, State::SelfSigned);
    let expired = pki.issue("mail.test", NAMES, Key::Ec, State::Expired);
    let other_name = pki.issue("auth.test", "DNS:auth.test", Key::Ec, State::Good);
    let trust = format!(
        "auth_http_ssl_trusted_certificate = {}\n",
        pki.authority().display()
    );
    let pin = fingerprint(&other_name.certificate);
    let cases = [
        (&stranger, trust.clone(), "is not trusted"),
        (pki.server(), String::new(), "is not trusted"),
        (&expired, trust.clone(), "is not valid now"),
        (
            &other_name,
            trust.clone(),
            "certificate is not for \"127.0.0.1\"",
        ),
        (
            pki.server(),
            format!("auth_http_ssl_verify = off\nauth_http_ssl_fingerprint = {pin}\n"),
            "none of the fingerprints",
        ),
    ];
    for library in LIBRARIES {
        for (pair, lines, why) in &cases {
            let lines = format!("tls_library = {library}\n{lines}");
            let (postern, auth, backend) = with_https(pair, None, &lines);
            expect_failure(
                &postern,
                "imap",
                "in http auth state",
                &[why, "auth http server"],
            );
            assert!(auth.requests().is_empty());
            assert_eq!(backend.accepted(), 0);
        }
    }
}

#[test]
fn the_log_about_an_auth_server_names_the_directives_for_auth_servers() {
    let pki = Pki::shared();
    let other_name = pki.issue("auth.test", "DNS:auth.test", Key::Ec, State::Good);
    let trust = format!(
        "auth_http_ssl_trusted_certificate = {}\n",
        pki.authority().display()
    );
    for (lines, directive) in [
        (trust, "auth_http_ssl_name"),
        (String::new(), "auth_http_ssl_trusted_certificate"),
    ] {
        let (postern, _auth, _backend) = with_https(&other_name, None, &lines);
        expect_failure(&postern, "imap", "in http auth state", &[directive]);
        assert!(postern.lines_with("proxy_ssl_").is_empty());
    }
}
