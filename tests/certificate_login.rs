//! `ssl_login_from`: EXTERNAL asks for the login that the client's certificate names, and for no other.

use std::net::SocketAddr;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::tls::{Client, TlsLines};
use crate::peers::{Peer, server_of};
use crate::servers::pki::{Key, Pair, Pki, State};

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];

const FAILED: [&str; 3] = [
    "a NO [AUTHENTICATIONFAILED] Authentication failed",
    "-ERR [AUTH] Authentication failed",
    "535 5.7.8 Authentication failed",
];

/// A certificate that names Alice in every way.
fn alice() -> &'static Pair {
    static ALICE: OnceLock<Pair> = OnceLock::new();
    ALICE.get_or_init(|| {
        let subject = "alice/emailAddress=alice@subject.test";
        let names = "email:alice@first.test,email:al@second.test,DNS:alice.test";
        Pki::shared().issue(subject, names, Key::Ec, State::Good)
    })
}

/// A service of each protocol, over TLS and with STARTTLS.
struct Setting {
    postern: Postern,
    auth: AuthServer,
    backends: Vec<Peer>,
}

fn setting(more: &str) -> Setting {
    let backends = PROTOCOLS.map(|protocol| Peer::start(server_of(protocol)));
    let ports = backends.each_ref().map(Peer::address);
    let auth = AuthServer::start(move |request| {
        let asked = request.header("Auth-Protocol");
        let at = PROTOCOLS
            .iter()
            .position(|protocol| asked == Some(protocol));
        Answer::ok_with(ports[at.unwrap_or(0)], &["Auth-Pass: own"])
    });
    let pki = Pki::shared();
    let services = PROTOCOLS.map(|protocol| {
        let lines = format!(
            "listen = 127.0.0.1:0 ssl\nstarttls = on\n{}{protocol}_auth = plain external\n\
             ssl_client_certificate = {}\n{more}\n",
            pki.server().ssl_certificate(),
            pki.authority().display()
        );
        service(protocol, &auth, &lines)
    });
    Setting {
        postern: Postern::start(&services.concat()),
        auth,
        backends: backends.into(),
    }
}

fn client() -> Client {
    Client::trusting(&Pki::shared().authority())
}

fn with(pair: &Pair) -> Client {
    client().with(&pair.certificate, &pair.key)
}

impl Setting {
    fn implicit(&self, protocol: &str) -> SocketAddr {
        self.postern.addresses(protocol)[1]
    }

    /// What a client hears that asks for this login.
    fn ask(&self, protocol: &str, client: &Client, login: &str) -> String {
        let mut lines = client.connect(self.implicit(protocol));
        lines.line();
        external(&mut lines, protocol, login)
    }

    /// As whom the auth server was asked last, if it was.
    fn asked(&self) -> Option<String> {
        let requests = self.auth.requests();
        let last = requests.last()?;
        last.header("Auth-User").map(str::to_owned)
    }

    fn backends_reached(&self) -> usize {
        self.backends.iter().map(Peer::accepted).sum()
    }
}

fn external(lines: &mut TlsLines, protocol: &str, login: &str) -> String {
    let message = match login {
        "" => "=".to_owned(),
        login => STANDARD.encode(login),
    };
    lines.send(&match protocol {
        "imap" => format!("a AUTHENTICATE EXTERNAL {message}"),
        _ => format!("AUTH EXTERNAL {message}"),
    });
    lines.line()
}

fn is_welcome(answer: &str) -> bool {
    let good = ["a OK", "+OK", "235 "];
    good.iter().any(|good| answer.starts_with(good))
}

#[test]
fn the_certificate_says_whose_login_it_is() {
    for (from, asked, named) in [
        ("cn", "", "alice"),
        ("cn", "alice", "alice"),
        ("cn", "ALICE", "alice"),
        ("email", "", "alice@subject.test"),
        ("email", "alice@subject.test", "alice@subject.test"),
        ("san-email", "", "alice@first.test"),
        ("san-email", "alice@first.test", "alice@first.test"),
        ("san-email", "al@Second.test", "al@second.test"),
    ] {
        let setting = setting(&format!("ssl_verify_client = on\nssl_login_from = {from}"));
        for protocol in PROTOCOLS {
            let answer = setting.ask(protocol, &with(alice()), asked);
            assert!(is_welcome(&answer), "{protocol} {from} {asked}: {answer}");
            assert_eq!(setting.asked().as_deref(), Some(named), "{from} {asked}");
        }
    }
}

#[test]
fn another_login_is_refused_and_nobody_asked() {
    for (from, others) in [
        (
            "cn",
            &["bob", "alice@subject.test", "alice\0", "alice "][..],
        ),
        ("email", &["alice", "alice@first.test"]),
        ("san-email", &["alice", "alice@subject.test", "alice.test"]),
    ] {
        let setting = setting(&format!("ssl_verify_client = on\nssl_login_from = {from}"));
        for (protocol, failed) in PROTOCOLS.into_iter().zip(FAILED) {
            for other in others {
                let answer = setting.ask(protocol, &with(alice()), other);
                assert_eq!(answer, failed, "{protocol} {from} {other:?}");
            }
        }
        assert_eq!(setting.asked(), None);
        assert_eq!(setting.backends_reached(), 0);
        let each = PROTOCOLS.len() * others.len();
        let failures = setting
            .postern
            .wait_for_lines("client login failed: ", each);
        assert_eq!(failures, each, "each is counted");
        setting.postern.wait_for_log("does not name the login");
    }
}

#[test]
fn without_a_certificate_that_has_verified_there_is_no_login() {
    let pki = Pki::shared();
    let self_signed = pki.issue(
        "alice",
        "email:alice@first.test",
        Key::Ec,
        State::SelfSigned,
    );
    for (mode, client) in [
        ("optional", client()),
        ("optional_no_ca", client()),
        ("optional_no_ca", with(&self_signed)),
    ] {
        for from in ["cn", "san-email"] {
            let setting = setting(&format!(
                "ssl_verify_client = {mode}\nssl_login_from = {from}"
            ));
            for (protocol, failed) in PROTOCOLS.into_iter().zip(FAILED) {
                for login in ["", "alice", "alice@first.test"] {
                    assert_eq!(
                        setting.ask(protocol, &client, login),
                        failed,
                        "{mode} {from}"
                    );
                }
            }
            // In plain text there is no certificate either.
            let (mut plain, _) = LineClient::greeted(setting.postern.address("imap"));
            plain.ask("a AUTHENTICATE EXTERNAL YWxpY2U=", FAILED[0]);
            assert_eq!((setting.asked(), setting.backends_reached()), (None, 0));
        }
    }
}

#[test]
fn one_that_has_verified_is_good_where_it_could_have_been_missing() {
    for mode in ["optional", "optional_no_ca"] {
        let setting = setting(&format!("ssl_verify_client = {mode}\nssl_login_from = cn"));
        let answer = setting.ask("imap", &with(alice()), "");
        assert!(is_welcome(&answer), "{answer}");
    }
}

#[test]
fn a_resumed_session_and_starttls_have_the_certificates_name_too() {
    let setting = setting("ssl_verify_client = on\nssl_login_from = cn");
    let client = with(alice());
    for (is_resumed, login) in [(false, ""), (true, ""), (true, "bob")] {
        let mut lines = client.connect(setting.implicit("imap"));
        lines.line();
        assert_eq!(lines.tls.is_resumed(), is_resumed);
        let answer = external(&mut lines, "imap", login);
        assert_eq!(is_welcome(&answer), login.is_empty(), "{answer}");
    }
    let (mut plain, _) = LineClient::greeted(setting.postern.address("imap"));
    plain.ask("t STARTTLS", "t OK completed");
    let tls = client.handshake(plain.stream()).expect("a handshake");
    let answer = external(&mut TlsLines::over(tls), "imap", "alice");
    assert!(is_welcome(&answer), "{answer}");
}

#[test]
fn a_common_name_that_stands_twice_names_nobody() {
    let twice = Pki::shared().issue("alice/CN=bob", "DNS:x.test", Key::Ec, State::SelfSigned);
    let trusted = format!(
        "ssl_verify_client = on\nssl_login_from = cn\nssl_trusted_certificate = {}",
        twice.certificate.display()
    );
    let setting = setting(&trusted);
    for login in ["", "alice", "bob"] {
        assert_eq!(setting.ask("imap", &with(&twice), login), FAILED[0]);
    }
    assert_eq!(setting.asked(), None);
}

#[test]
fn without_the_directive_the_auth_server_judges_as_ever() {
    let setting = setting("ssl_verify_client = on");
    let answer = setting.ask("imap", &with(alice()), "bob");
    assert!(is_welcome(&answer), "{answer}");
    assert_eq!(setting.asked().as_deref(), Some("bob"));
}
