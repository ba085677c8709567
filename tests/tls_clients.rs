//! TLS towards clients: real programs, what is offered in each state, what an attacker or a broken
//! client tries around the handshake. Certificates and resumption are in `tls_certificates`.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::tls::{Client, Got, Hello, TlsLines};
use crate::common::tools::{curl, python, run, swaks};
use crate::common::{proxy_to, service};
use crate::peers::{Peer, server_of};
use crate::servers::pki::Pki;
use crate::servers::{dovecot, postfix};

const LIBRARIES: [&str; 2] = ["rustls", "native"];

/// alice, secret
const PLAIN: &str = "AGFsaWNlAHNlY3JldA==";

/// What is said in a protocol.
struct Words {
    protocol: &'static str,
    starttls: &'static str,
    begin: &'static str,
    noop: &'static str,
    completed: &'static str,
    bad: &'static str,
    bad_starttls: &'static str,
    login: &'static str,
    logged_in: &'static str,
}

const IMAP: Words = Words {
    protocol: "imap",
    starttls: "t STARTTLS",
    begin: "t OK completed",
    noop: "n NOOP",
    completed: "n OK completed",
    bad: "a BAD invalid command",
    bad_starttls: "t BAD invalid command",
    login: "a AUTHENTICATE PLAIN AGFsaWNlAHNlY3JldA==",
    logged_in: "a OK",
};

const POP3: Words = Words {
    protocol: "pop3",
    starttls: "STLS",
    begin: "+OK",
    noop: "NOOP",
    completed: "+OK",
    bad: "-ERR invalid command",
    bad_starttls: "-ERR invalid command",
    login: "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
    logged_in: "+OK",
};

const SMTP: Words = Words {
    protocol: "smtp",
    starttls: "STARTTLS",
    begin: "220 2.0.0 Start TLS",
    noop: "NOOP",
    completed: "250 2.0.0 OK",
    bad: "500 5.5.1 Invalid command",
    bad_starttls: "500 5.5.1 Invalid command",
    login: "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
    logged_in: "235 2.0.0 OK",
};

const PROTOCOLS: [Words; 3] = [IMAP, POP3, SMTP];

/// The proxy with one service, in front of a small server that lets everybody in.
struct Setting {
    postern: Postern,
    backend: Peer,
    auth: AuthServer,
    words: &'static Words,
}

fn tls_lines(library: &str, more: &str) -> String {
    let certificate = Pki::shared().server().ssl_certificate();
    format!("listen = 127.0.0.1:0 ssl\ntls_library = {library}\n{certificate}{more}")
}

fn proxy(words: &'static Words, library: &str, more: &str) -> Setting {
    let backend = Peer::start(server_of(words.protocol));
    let (postern, auth) = proxy_to(words.protocol, backend.address(), &tls_lines(library, more));
    Setting {
        postern,
        backend,
        auth,
        words,
    }
}

/// Each protocol with each library.
fn for_all(more: &str, test: impl Fn(&Setting)) {
    for library in LIBRARIES {
        for words in &PROTOCOLS {
            test(&proxy(words, library, more));
        }
    }
}

fn client() -> Client {
    Client::trusting(&Pki::shared().authority())
}

impl Setting {
    fn starttls_address(&self) -> SocketAddr {
        self.postern.addresses(self.words.protocol)[0]
    }

    fn implicit_address(&self) -> SocketAddr {
        self.postern.addresses(self.words.protocol)[1]
    }

    fn plain(&self) -> LineClient {
        LineClient::greeted(self.starttls_address()).0
    }

    /// STARTTLS and its handshake on a connection in plain text.
    fn upgrade(&self, mut plain: LineClient) -> TlsLines {
        plain.ask(self.words.starttls, self.words.begin);
        self.handshake(&plain)
    }

    fn handshake(&self, plain: &LineClient) -> TlsLines {
        let tls = client().handshake(plain.stream());
        TlsLines::over(tls.unwrap_or_else(|error| panic!("TLS failed: {error}")))
    }

    fn starttls(&self) -> TlsLines {
        self.upgrade(self.plain())
    }

    fn implicit(&self) -> TlsLines {
        let mut lines = client().connect(self.implicit_address());
        lines.line();
        lines
    }

    fn log_in(&self, lines: &mut TlsLines) {
        lines.send(self.words.login);
        let answer = lines.line();
        assert!(answer.starts_with(self.words.logged_in), "{answer}");
    }

    /// Lines of the log that would worry an administrator.
    fn loud_lines(&self) -> Vec<String> {
        let loud = ["[warn]", "[error]", "[crit]", "[alert]", "[emerg]"];
        // What stands before the first session is about the machine.
        let mut lines = self.postern.lines_with(": *");
        lines.retain(|line| loud.iter().any(|level| line.contains(level)));
        lines
    }
}

/// All three services in front of Dovecot and Postfix.
struct Real {
    postern: Postern,
    _auth: AuthServer,
    authority: String,
}

fn real(library: &str) -> Real {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let auth = AuthServer::start(|request| match request.header("Auth-Protocol") {
        Some("imap") => Answer::ok(dovecot.imap),
        Some("pop3") => Answer::ok(dovecot.pop3),
        _ => Answer::ok(postfix.smtp),
    });
    let lines = tls_lines(library, "starttls = on");
    let services = PROTOCOLS.map(|words| service(words.protocol, &auth, &lines));
    Real {
        postern: Postern::start(&services.concat()),
        _auth: auth,
        authority: Pki::shared().authority().display().to_string(),
    }
}

impl Real {
    /// The port with STARTTLS and the one with implicit TLS.
    fn ports(&self, protocol: &str) -> [String; 2] {
        let addresses = self.postern.addresses(protocol);
        [0, 1].map(|at: usize| addresses[at].port().to_string())
    }
}

#[test]
fn curl_reads_mail_over_starttls_and_implicit_tls() {
    dovecot::shared().deliver("curl-tls", b"Subject: one\n\nread me\n");
    for library in LIBRARIES {
        let real = real(library);
        for (protocol, path) in [("imap", "INBOX;MAILINDEX=1"), ("pop3", "1")] {
            let [starttls, implicit] = real.ports(protocol);
            for url in [
                format!("{protocol}://127.0.0.1:{starttls}/{path}"),
                format!("{protocol}s://127.0.0.1:{implicit}/{path}"),
            ] {
                let user = ["--user", "curl-tls:secret", "--ssl-reqd"];
                let text = curl(&[&["--cacert", &real.authority, &url], &user[..]].concat()).text();
                assert!(text.ends_with("\r\nread me\r\n"), "{url}: {text}");
            }
        }
    }
}

#[test]
fn curl_sends_mail_over_starttls_and_implicit_tls() {
    for library in LIBRARIES {
        let real = real(library);
        let mail = real
            .postern
            .folder()
            .write("mail", "Subject: sent\r\n\r\nby curl\r\n");
        let mail = mail.display().to_string();
        let [starttls, implicit] = real.ports("smtp");
        for url in [
            format!("smtp://127.0.0.1:{starttls}/client.test"),
            format!("smtps://127.0.0.1:{implicit}/client.test"),
        ] {
            let trust = ["--cacert", &real.authority, "--ssl-reqd"];
            let login = ["--user", "alice:secret"];
            let letter = [
                "--mail-from",
                "alice@example.test",
                "--mail-rcpt",
                "bob@example.test",
                "--upload-file",
                &mail,
            ];
            curl(&[&[&url[..]], &trust[..], &login, &letter].concat()).text();
        }
    }
}

#[test]
fn swaks_sends_mail_over_starttls_and_implicit_tls() {
    for library in LIBRARIES {
        let real = real(library);
        let [starttls, implicit] = real.ports("smtp");
        for (port, option) in [(starttls, "--tls"), (implicit, "--tls-on-connect")] {
            let server = [
                "--server",
                "127.0.0.1",
                "--port",
                &port,
                option,
                "--tls-verify",
            ];
            let letter = ["--from", "alice@example.test", "--to", "bob@example.test"];
            let login = [
                "--auth",
                "PLAIN",
                "--auth-user",
                "alice",
                "--auth-password",
                "secret",
            ];
            let trust = ["--tls-ca-path", &real.authority];
            let said = swaks(&[&server[..], &letter, &login, &trust].concat()).text();
            assert!(said.contains("250 2.0.0 Ok: queued"), "{said}");
        }
    }
}

#[test]
fn python_speaks_all_three_protocols_over_starttls_and_implicit_tls() {
    const SCRIPT: &str = "
import imaplib, poplib, smtplib, ssl, sys
authority, *ports = sys.argv[1:]
imap, imaps, pop3, pop3s, smtp, smtps = map(int, ports)
host = '127.0.0.1'
tls = ssl.create_default_context(cafile=authority)

def use_imap(c):
    c.login('python-tls', 'secret')
    assert c.select()[0] == 'OK'
    c.logout()
c = imaplib.IMAP4(host, imap)
assert 'STARTTLS' in c.capabilities, c.capabilities
c.starttls(tls)
assert 'STARTTLS' not in c.capabilities, c.capabilities
use_imap(c)
use_imap(imaplib.IMAP4_SSL(host, imaps, ssl_context=tls))

def use_pop3(c):
    c.user('python-tls'); c.pass_('secret')
    c.stat()
    c.quit()
c = poplib.POP3(host, pop3)
c.stls(tls)
use_pop3(c)
use_pop3(poplib.POP3_SSL(host, pop3s, context=tls))

def use_smtp(c):
    c.login('alice', 'secret')
    c.sendmail('alice@example.test', ['bob@example.test'], 'Subject: x\\r\\n\\r\\ny\\r\\n')
    c.quit()
c = smtplib.SMTP(host, smtp)
c.starttls(context=tls)
use_smtp(c)
use_smtp(smtplib.SMTP_SSL(host, smtps, context=tls))
";
    for library in LIBRARIES {
        let real = real(library);
        let ports = ["imap", "pop3", "smtp"].map(|protocol| real.ports(protocol));
        let mut arguments = vec![real.authority.as_str()];
        arguments.extend(ports.iter().flatten().map(String::as_str));
        python(SCRIPT, &arguments).text();
    }
}

#[test]
fn openssl_speaks_all_three_protocols_over_starttls_and_implicit_tls() {
    let dialogues = [
        ("imap", "a LOGIN openssl secret\nb LOGOUT\n", "\nb OK"),
        (
            "pop3",
            "USER openssl\nPASS secret\nQUIT\n",
            "\n+OK Logging out",
        ),
        (
            "smtp",
            "EHLO client.test\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\nQUIT\n",
            "\n221 2.0.0 Bye",
        ),
    ];
    for library in LIBRARIES {
        let real = real(library);
        for (protocol, input, last) in dialogues {
            let [starttls, implicit] = real.ports(protocol);
            for (port, upgrade) in [(starttls, &["-starttls", protocol][..]), (implicit, &[])] {
                let server = format!("127.0.0.1:{port}");
                let common = ["s_client", "-crlf", "-ign_eof", "-verify_return_error"];
                let more = ["-connect", &server, "-CAfile", &real.authority];
                let said = run(
                    "openssl",
                    &[&common[..], &more, upgrade].concat(),
                    input.as_bytes(),
                );
                let said = said.text().replace('\r', "");
                assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
                assert!(said.contains(last), "{protocol} {port}: {said}");
            }
        }
    }
}

#[test]
fn imap_offers_starttls_before_tls_only() {
    let list = |lines: &mut TlsLines| lines.ask_many("c CAPABILITY", "c OK");
    for library in LIBRARIES {
        let setting = proxy(&IMAP, library, "starttls = on");
        let mut plain = setting.plain();
        plain.send("c CAPABILITY");
        plain.expect("* CAPABILITY IMAP4 IMAP4rev1 UIDPLUS AUTH=PLAIN STARTTLS");
        plain.expect("c OK completed");
        let inside = "* CAPABILITY IMAP4 IMAP4rev1 UIDPLUS AUTH=PLAIN";
        assert_eq!(list(&mut setting.upgrade(plain))[0], inside);
        assert_eq!(list(&mut setting.implicit())[0], inside);

        let setting = proxy(&IMAP, library, "starttls = only");
        let mut plain = setting.plain();
        plain.send("c CAPABILITY");
        plain.expect("* CAPABILITY IMAP4 IMAP4rev1 UIDPLUS STARTTLS LOGINDISABLED");
        plain.expect("c OK completed");
        assert_eq!(list(&mut setting.upgrade(plain))[0], inside);
    }
}

#[test]
fn pop3_offers_stls_before_tls_only() {
    const BEFORE: [&str; 6] = [
        "+OK Capability list follows",
        "TOP",
        "USER",
        "UIDL",
        "SASL PLAIN LOGIN",
        "STLS",
    ];
    const ONLY: [&str; 4] = ["+OK Capability list follows", "TOP", "UIDL", "STLS"];
    let list = |lines: &mut TlsLines| lines.ask_many("CAPA", ".");
    for library in LIBRARIES {
        for (starttls, before) in [("on", &BEFORE[..]), ("only", &ONLY[..])] {
            let setting = proxy(&POP3, library, &format!("starttls = {starttls}"));
            let mut plain = setting.plain();
            plain.send("CAPA");
            let mut listed = plain.lines_until(".");
            listed.pop();
            assert_eq!(listed, before);
            let inside = [&BEFORE[..5], &["."]].concat();
            assert_eq!(list(&mut setting.upgrade(plain)), inside);
            assert_eq!(list(&mut setting.implicit()), inside);
        }
    }
}

#[test]
fn smtp_offers_starttls_before_tls_only() {
    let list = |lines: &mut TlsLines| lines.ask_many("EHLO client.test", "250 ");
    for library in LIBRARIES {
        for (starttls, before) in [
            (
                "on",
                &["250-proxy.test", "250-AUTH PLAIN LOGIN", "250 STARTTLS"][..],
            ),
            ("only", &["250-proxy.test", "250 STARTTLS"]),
        ] {
            let setting = proxy(&SMTP, library, &format!("starttls = {starttls}"));
            let mut plain = setting.plain();
            plain.send("EHLO client.test");
            assert_eq!(plain.lines_until("250 "), before);
            let inside = ["250-proxy.test", "250 AUTH PLAIN LOGIN"];
            assert_eq!(list(&mut setting.upgrade(plain)), inside);
            assert_eq!(list(&mut setting.implicit()), inside);
        }
    }
}

#[test]
fn starttls_is_bad_inside_tls_and_where_it_is_off() {
    for_all("starttls = on", |setting| {
        let words = setting.words;
        setting.starttls().ask(words.starttls, words.bad_starttls);
        setting.implicit().ask(words.starttls, words.bad_starttls);
    });
    for words in &PROTOCOLS {
        let setting = proxy(words, "rustls", "");
        setting.plain().ask(words.starttls, words.bad_starttls);
    }
}

#[test]
fn starttls_only_refuses_every_login_before_tls() {
    let logins: [(&Words, &[&str]); 3] = [
        (
            &IMAP,
            &[
                "a LOGIN alice secret",
                "a AUTHENTICATE PLAIN",
                "a AUTHENTICATE LOGIN",
                IMAP.login,
            ],
        ),
        (
            &POP3,
            &[
                "USER alice",
                "PASS secret",
                "APOP alice 00112233445566778899aabbccddeeff",
                "AUTH PLAIN",
                "AUTH",
                POP3.login,
            ],
        ),
        (&SMTP, &["AUTH PLAIN", "AUTH LOGIN", SMTP.login]),
    ];
    let told = |protocol, login: &str| match protocol {
        "imap" => "a NO [PRIVACYREQUIRED] Use STARTTLS first",
        // Nothing can be meant by it without USER.
        "pop3" if login.starts_with("PASS") => POP3.bad,
        "pop3" => "-ERR [AUTH] Use STLS first",
        _ => "530 5.7.0 Must issue a STARTTLS command first",
    };
    for_all("starttls = only", |setting| {
        let of_protocol = logins
            .iter()
            .find(|(words, _)| words.protocol == setting.words.protocol);
        let (words, logins) = of_protocol.expect("all three are there");
        let mut plain = setting.plain();
        for login in *logins {
            plain.ask(login, told(words.protocol, login));
        }
        let line = setting
            .postern
            .wait_for_log("client tried to log in before TLS");
        assert!(line.contains("[info]"), "{line}");
        assert!(setting.auth.requests().is_empty());
        let mut lines = setting.upgrade(plain);
        setting.log_in(&mut lines);
        assert_eq!(setting.auth.requests().len(), 1);
    });
    for_all("starttls = only\nplain_login_answer = bad", |setting| {
        let words = setting.words;
        let mut plain = setting.plain();
        plain.ask(words.login, words.bad);
        setting.log_in(&mut setting.upgrade(plain));
    });
}

#[test]
fn the_auth_server_hears_of_tls_and_the_log_of_starttls() {
    for library in LIBRARIES {
        let (protocol, cipher) = match library {
            "rustls" => ("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
            _ => ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        };
        for words in &PROTOCOLS {
            let setting = proxy(words, library, "starttls = on");
            setting.log_in(&mut setting.starttls());
            let request = setting.auth.wait_for_request(1);
            assert_eq!(request.header("Auth-SSL"), Some("on"));
            assert_eq!(request.header("Auth-SSL-Protocol"), Some(protocol));
            assert_eq!(request.header("Auth-SSL-Cipher"), Some(cipher));
            assert_eq!(request.header("Auth-SSL-Verify"), None);
            let line = setting.postern.wait_for_log("client logged in");
            assert!(line.contains("starttls: \"true\""), "{line}");
            let line = setting.postern.wait_for_log("session closed");
            assert!(line.contains(&format!("tls={protocol}")), "{line}");
        }
    }
}

#[test]
fn commands_behind_starttls_in_the_same_segment_are_never_answered() {
    for_all("starttls = on", |setting| {
        let words = setting.words;
        for injected in [words.noop, words.login, "a LOG", "EHLO evil.test"] {
            let mut plain = setting.plain();
            plain.send_raw(format!("{}\r\n{injected}\r\n", words.starttls).as_bytes());
            plain.expect(words.begin);
            let mut lines = setting.handshake(&plain);
            // The first answer inside TLS is to the first command inside TLS.
            let answer = lines.ask_many("x NONSENSE", "")[0].clone();
            let bad = if words.protocol == "imap" {
                "x BAD invalid command"
            } else {
                words.bad
            };
            assert_eq!(answer, bad, "behind {injected:?}");
            lines.ask(words.noop, words.completed);
        }
        assert!(setting.auth.requests().is_empty());
    });
}

#[test]
fn half_a_command_behind_starttls_is_not_the_beginning_of_the_next() {
    for_all("starttls = on", |setting| {
        let words = setting.words;
        let mut plain = setting.plain();
        plain.send_raw(format!("{}\r\nx ", words.starttls).as_bytes());
        plain.expect(words.begin);
        let mut lines = setting.handshake(&plain);
        lines.ask(words.noop, words.completed);
        setting.log_in(&mut lines);
    });
}

#[test]
fn helo_from_before_starttls_is_forgotten() {
    for library in LIBRARIES {
        let setting = proxy(&SMTP, library, "starttls = on");
        let mut plain = setting.plain();
        plain.ask("HELO forged.test", "250 proxy.test");
        setting.log_in(&mut setting.upgrade(plain));
        let received = setting.backend.lines().join("\n");
        assert!(received.contains("XCLIENT"), "{received}");
        assert!(!received.contains("forged.test"), "{received}");
    }
}

#[test]
fn mail_from_before_starttls_is_forgotten() {
    for library in LIBRARIES {
        let setting = proxy(&SMTP, library, "starttls = on\nsmtp_auth = none");
        let mut plain = setting.plain();
        plain.ask("MAIL FROM:<a@forged.test>", "250 2.0.0 OK");
        let mut lines = setting.upgrade(plain);
        lines.ask("RCPT TO:<b@c.test>", "503 5.5.1 Bad sequence of commands");
        lines.ask("MAIL FROM:<a@b.test>", "250 2.0.0 OK");
    }
}

#[test]
fn user_from_before_stls_is_forgotten() {
    for library in LIBRARIES {
        let setting = proxy(&POP3, library, "starttls = on");
        let mut plain = setting.plain();
        plain.ask("USER forged", "+OK");
        // STLS is no command between USER and PASS, and a bad command forgets USER.
        plain.ask("STLS", "-ERR invalid command");
        let mut lines = setting.upgrade(plain);
        lines.ask("PASS secret", "-ERR invalid command");
        assert!(setting.auth.requests().is_empty());
    }
}

#[test]
fn half_a_sasl_exchange_does_not_reach_into_tls() {
    for_all("starttls = on", |setting| {
        let words = setting.words;
        let begin = words.login.trim_end_matches(PLAIN).trim_end();
        let mut plain = setting.plain();
        plain.send(begin);
        let challenge = plain.line();
        assert!(challenge == "+ " || challenge == "334 ", "{challenge}");
        // It is taken for an answer to the challenge, and a bad one.
        plain.ask(words.starttls, words.bad);
        let mut lines = setting.upgrade(plain);
        let bad = if words.protocol == "imap" {
            "* BAD invalid command"
        } else {
            words.bad
        };
        lines.ask(PLAIN, bad);
        assert!(setting.auth.requests().is_empty());
    });
}

#[test]
fn alpn_is_answered_with_the_own_protocol() {
    for_all("", |setting| {
        let protocol = setting.words.protocol;
        let lines = client().alpn(protocol).connect(setting.implicit_address());
        assert_eq!(lines.tls.alpn().as_deref(), Some(protocol));
        assert_eq!(setting.implicit().tls.alpn(), None);
    });
}

#[test]
fn a_wrong_alpn_gets_the_alert_no_application_protocol() {
    for_all("", |setting| {
        for wrong in ["http/1.1", "managesieve"] {
            let tls = client().alpn(wrong).try_connect(setting.implicit_address());
            let error = tls.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("NoApplicationProtocol"), "{error}");
        }
        let line = setting.postern.wait_for_log("while SSL handshaking");
        assert!(line.contains("[info]") && line.contains("ALPN"), "{line}");
        assert_eq!(setting.loud_lines(), Vec::<String>::new());
    });
}

#[test]
fn a_proxy_header_and_the_handshake_may_come_in_one_segment() {
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 993\r\n".to_vec();
    let more = "listen = 127.0.0.1:0 ssl proxy_protocol\nset_real_ip_from = 127.0.0.1";
    for_all(more, |setting| {
        let address = setting.postern.addresses(setting.words.protocol)[2];
        let hello = Hello::Behind(header.clone());
        let mut lines = client().hello(hello).connect(address);
        lines.line();
        setting.log_in(&mut lines);
        let request = setting.auth.wait_for_request(1);
        assert_eq!(request.header("Client-IP"), Some("192.0.2.7"));
        assert_eq!(request.header("Auth-SSL"), Some("on"));
    });
}

#[test]
fn a_client_hello_in_single_bytes_or_many_records_is_put_together() {
    for_all("starttls = on", |setting| {
        for hello in [Hello::InBytes, Hello::InRecords] {
            let client = client().hello(hello);
            let mut lines = client.connect(setting.implicit_address());
            lines.line();
            setting.log_in(&mut lines);
            let mut plain = setting.plain();
            plain.ask(setting.words.starttls, setting.words.begin);
            let tls = client.handshake(plain.stream()).expect("it is good TLS");
            setting.log_in(&mut TlsLines::over(tls));
        }
    });
}

#[test]
fn garbage_instead_of_a_handshake_costs_only_its_session() {
    for_all("", |setting| {
        let mut good = setting.implicit();
        for garbage in [
            &b"GET / HTTP/1.0\r\n\r\n"[..],
            b"a LOGIN alice secret\r\n",
            &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0],
        ] {
            let mut bad = LineClient::connect(setting.implicit_address());
            bad.send_raw(garbage);
            bad.half_close();
            let answer = bad.rest();
            // An alert at most.
            assert!(
                answer.len() <= 7 && !answer.contains(&b' '),
                "{}",
                answer.escape_ascii()
            );
        }
        let line = setting.postern.wait_for_log("TLS with client failed");
        assert!(
            line.contains("[info]") && line.contains("while SSL handshaking"),
            "{line}"
        );
        assert_eq!(setting.loud_lines(), Vec::<String>::new());
        setting.log_in(&mut good);
    });
}

#[test]
fn a_handshake_that_stalls_ends_with_timeout_and_without_a_line() {
    for_all("starttls = on\ntimeout = 1s", |setting| {
        let start = Instant::now();
        let mut silent = LineClient::connect(setting.implicit_address());
        let mut half = LineClient::connect(setting.implicit_address());
        half.send_raw(&[0x16, 3, 1, 2, 0, 1, 0, 1]);
        let mut behind = setting.plain();
        behind.ask(setting.words.starttls, setting.words.begin);
        let mut good = setting.implicit();
        good.ask(setting.words.noop, setting.words.completed);
        for client in [&mut silent, &mut half, &mut behind] {
            client.expect_close();
        }
        let took = start.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(4),
            "{took:?}"
        );
        let line = setting
            .postern
            .wait_for_log("client timed out while SSL handshaking");
        assert!(line.contains("[info]"), "{line}");
        assert_eq!(setting.loud_lines(), Vec::<String>::new());
    });
}

#[test]
fn a_client_that_closes_without_close_notify_is_nothing_special() {
    for_all("", |setting| {
        let before = setting.implicit();
        before.tls.cut().expect("it is open");
        let mut after = setting.implicit();
        setting.log_in(&mut after);
        after.tls.cut().expect("it is open");
        let line = setting.postern.wait_for_log("reason=\"client closed\"");
        assert!(line.contains("session closed"), "{line}");
        setting.postern.wait_for_log("proxied session done");
        assert_eq!(setting.loud_lines(), Vec::<String>::new());
    });
}

#[test]
fn a_goodbye_ends_with_close_notify() {
    for_all("", |setting| {
        let (quit, last) = match setting.words.protocol {
            "imap" => ("q LOGOUT", "q OK completed"),
            "pop3" => ("QUIT", "+OK"),
            _ => ("QUIT", "221 2.0.0 Bye"),
        };
        let mut lines = setting.implicit();
        lines.ask_many(quit, last);
        assert_eq!(lines.rest(), (Vec::new(), Got::Notified));
    });
}

#[test]
fn commands_behind_a_login_inside_tls_go_to_the_backend() {
    for library in LIBRARIES {
        let setting = proxy(&IMAP, library, "");
        let mut lines = setting.implicit();
        lines.send("a LOGIN alice secret\r\nb NOOP\r\nc NOOP");
        assert!(lines.line().starts_with("a OK"));
        lines.expect("b OK backend NOOP");
        lines.expect("c OK backend NOOP");
    }
}

#[test]
fn a_stop_says_goodbye_inside_tls() {
    for library in LIBRARIES {
        let setting = proxy(&IMAP, library, "");
        let mut before = setting.implicit();
        // A session that is still in the call that wrote its greeting is cut off instead.
        thread::sleep(Duration::from_millis(100));
        setting.postern.stop();
        assert!(before.line().starts_with("* BYE"));
        before.expect_close();
    }
}

#[test]
fn a_stop_closes_relays_with_close_notify() {
    for library in LIBRARIES {
        let setting = proxy(&IMAP, library, "");
        let mut relayed = setting.implicit();
        setting.log_in(&mut relayed);
        setting.postern.wait_for_log("client logged in");
        setting.postern.stop();
        relayed.expect_close();
    }
}

#[test]
fn a_stop_during_the_handshake_says_nothing_in_plain_text() {
    for library in LIBRARIES {
        let setting = proxy(&IMAP, library, "starttls = on");
        let mut silent = LineClient::connect(setting.implicit_address());
        let mut half = LineClient::connect(setting.implicit_address());
        half.send_raw(&[0x16, 3, 1, 2, 0, 1, 0, 1]);
        let mut behind = setting.plain();
        behind.ask(IMAP.starttls, IMAP.begin);
        setting.implicit();
        setting.postern.stop();
        for client in [&mut silent, &mut half, &mut behind] {
            let said = client.rest();
            // An alert at most.
            assert!(!said.contains(&b' '), "{}", said.escape_ascii());
        }
    }
}

#[test]
fn a_client_too_many_is_closed_without_a_line_where_tls_comes_first() {
    let backend = Peer::start(server_of("imap"));
    let auth = AuthServer::start(move |_| Answer::ok(backend.address()));
    let service = service("imap", &auth, &tls_lines("rustls", ""));
    let postern = Postern::start(&format!("[postern]\nmax_sessions = 1\n{service}"));
    let address = postern.addresses("imap")[1];
    let mut first = client().connect(address);
    first.line();
    LineClient::connect(address).expect_close();
    first.ask(IMAP.noop, IMAP.completed);
}
