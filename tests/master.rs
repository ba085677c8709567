//! The master login: whoever is found good by a proof that no backend can use enters one all the same, in
//! front of Dovecot and Postfix; and who must not get in by it.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::common::auth_server::{Answer, AuthServer, Request};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::temp::TempDir;
use crate::common::tls::Client;
use crate::common::tools::{run, wait_for_line};
use crate::peers::{Peer, answering as backend, smtp_server};
use crate::servers::dovecot::Dovecot;
use crate::servers::pki::{Key, Pki, State};
use crate::servers::postfix::Postfix;

/// Dovecot's master user, and his password.
const MASTER: (&str, &str) = ("postern", "master-pass");

/// What a response to a challenge looks like; the auth server lets all in.
const DIGEST: &str = "0123456789abcdef0123456789abcdef";

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];

/// A Dovecot with a master user, and a Postfix that leaves logins to it.
struct Office {
    dovecot: Dovecot,
    postfix: Postfix,
    _masters: TempDir,
}

fn office() -> &'static Office {
    static SHARED: OnceLock<Office> = OnceLock::new();
    SHARED.get_or_init(|| {
        let masters = TempDir::new("masters");
        let (user, password) = MASTER;
        let file = masters.write("masters", format!("{user}:{{PLAIN}}{password}\n"));
        let dovecot = Dovecot::start_with(&format!(
            "auth_master_user_separator = *\npassdb {{\n  driver = passwd-file\n  args = {}\n  \
             master = yes\n}}\n",
            file.display()
        ));
        let postfix = Postfix::start(&dovecot);
        Office {
            dovecot,
            postfix,
            _masters: masters,
        }
    })
}

impl Office {
    fn port(&self, protocol: &str) -> u16 {
        let address = match protocol {
            "imap" => self.dovecot.imap,
            "pop3" => self.dovecot.pop3,
            _ => self.postfix.smtp_auth,
        };
        address.port()
    }

    /// A `[backend office]` with these lines.
    fn backend(&self, more: &str) -> String {
        let ports = PROTOCOLS.map(|protocol| format!("{protocol}_port = {}", self.port(protocol)));
        let ports = ports.join("\n");
        format!("[backend office]\nhosts = 127.0.0.1\n{ports}\nxclient = off\n{more}\n")
    }
}

fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

/// The two ways in which a backend is told for whom the master logs in.
fn forms() -> [String; 2] {
    let (user, password) = MASTER;
    let lines = format!("master_user = {user}\nmaster_password = {password}\n");
    [lines.clone(), lines + "master_separator = *\n"]
}

/// A service of each protocol, with every mechanism.
fn services(auth: &AuthServer, more: &str) -> String {
    let mechanisms = "plain cram-md5 external xoauth2 oauthbearer";
    let lines = [
        format!("imap_auth = {mechanisms}\n{more}"),
        format!("pop3_auth = {mechanisms} apop\n{more}"),
        format!("smtp_auth = {mechanisms}\nproxy_smtp_auth = on\nxclient = off\n{more}"),
    ];
    let services = PROTOCOLS.iter().zip(lines);
    let services = services.map(|(protocol, lines)| service(protocol, auth, &lines));
    services.collect()
}

/// The ways of the clients that show no password.
const MECHANISMS: [&str; 5] = ["CRAM-MD5", "EXTERNAL", "XOAUTH2", "OAUTHBEARER", "APOP"];

/// Logs in, and gives the last line of the answer. Nothing if the protocol has no such way.
fn log_in(client: &mut LineClient, protocol: &str, way: &str, user: &str) -> Option<String> {
    let message = match way {
        "CRAM-MD5" => format!("{user} {DIGEST}"),
        "EXTERNAL" => user.to_owned(),
        "XOAUTH2" => format!("user={user}\x01auth=Bearer token\x01\x01"),
        "OAUTHBEARER" => format!("n,a={user},\x01auth=Bearer token\x01\x01"),
        "APOP" if protocol == "pop3" => {
            client.send(&format!("APOP {user} {DIGEST}"));
            return Some(client.line());
        }
        _ => return None,
    };
    let command = match protocol {
        "imap" => format!("a AUTHENTICATE {way}"),
        _ => format!("AUTH {way}"),
    };
    client.send(&command);
    let challenge = client.line();
    assert!(challenge.starts_with(['+', '3']), "{challenge}");
    client.send(&encode(&message));
    let last = if protocol == "imap" { "a " } else { "" };
    client.lines_until(last).pop()
}

/// Reads the only mail of an IMAP or POP3 mailbox; over SMTP submits one.
fn use_session(client: &mut LineClient, protocol: &str, user: &str) {
    match protocol {
        "imap" => {
            client.send("b SELECT INBOX");
            client.lines_until("b OK");
            client.send("c FETCH 1 BODY.PEEK[TEXT]");
            let text = client.lines_until("c ").concat();
            assert!(text.contains(&format!("for {user}")), "{text}");
        }
        "pop3" => {
            client.send("RETR 1");
            let text = client.lines_until(".").concat();
            assert!(text.contains(&format!("for {user}")), "{text}");
        }
        _ => {
            client.send("EHLO client.test");
            client.lines_until("250 ");
            client.send("MAIL FROM:<x@example.test>");
            client.lines_until("250 ");
            client.send(&format!("RCPT TO:<{user}@example.test>"));
            client.lines_until("250 ");
            wait_for_line(&office().postfix.log, &format!("sasl_username={user}"));
        }
    }
}

/// Everybody who shows no password gets into his own mailbox, by this configuration.
fn all_get_in(name: &str, postern: &Postern) {
    for protocol in PROTOCOLS {
        for way in MECHANISMS {
            let user = format!("{name}-{protocol}-{}", way.to_lowercase());
            let text = format!("Subject: x\n\nfor {user}\n");
            office().dovecot.deliver(&user, text.as_bytes());
            let (mut client, _) = LineClient::greeted(postern.address(protocol));
            let Some(answer) = log_in(&mut client, protocol, way, &user) else {
                continue;
            };
            let good = ["a OK", "+OK", "235 "];
            assert!(
                good.iter().any(|good| answer.starts_with(good)),
                "{user}: {answer}\n{}",
                postern.log()
            );
            use_session(&mut client, protocol, &user);
            if protocol != "smtp" {
                let login = format!("{protocol}-login: Info: Login: user=<{user}>");
                wait_for_line(&office().dovecot.log, &login);
            }
        }
    }
}

#[test]
fn clients_without_a_password_get_in_at_an_address() {
    for (form, master) in forms().into_iter().enumerate() {
        let auth = AuthServer::start(|request| {
            let protocol = request.header("Auth-Protocol").unwrap_or_default();
            Answer::ok(([127, 0, 0, 1], office().port(protocol)).into())
        });
        let postern = Postern::start(&services(&auth, &master));
        all_get_in(&format!("address{form}"), &postern);
        let log = postern.stop();
        assert!(!log.contains(MASTER.1), "{log}");
        assert!(log.contains("login: \"address"), "the user's name:\n{log}");
        assert!(!log.contains(&format!("login: \"{}", MASTER.0)), "{log}");
    }
}

#[test]
fn clients_without_a_password_get_in_at_a_backend() {
    for (form, master) in forms().into_iter().enumerate() {
        let answer = ["Auth-Status: OK", "Auth-Backend: office"];
        let auth = AuthServer::start(move |_| Answer::headers(&answer));
        let debug = "error_log = stderr debug\n";
        let ini = services(&auth, debug) + &office().backend(&master);
        let postern = Postern::start(&ini);
        all_get_in(&format!("backend{form}"), &postern);
        let log = postern.stop();
        assert!(!log.contains(MASTER.1), "{log}");
        for before in ["", "x", "xy"] {
            // What of the message is made of the password alone, whatever stands before it.
            let encoded = encode(&format!("{before}{}", MASTER.1));
            let part = &encoded[4..12];
            assert!(!log.contains(part), "{part}:\n{log}");
        }
    }
}

#[test]
fn a_client_with_a_certificate_gets_in_at_dovecot() {
    let pki = Pki::shared();
    let user = "by-certificate";
    let pair = pki.issue(user, "email:x@example.test", Key::Ec, State::Good);
    let text = format!("Subject: x\n\nfor {user}\n");
    office().dovecot.deliver(user, text.as_bytes());
    let auth = AuthServer::start(|_| Answer::ok(office().dovecot.imap));
    let tls = format!(
        "listen = 127.0.0.1:0 ssl\nssl_verify_client = on\nssl_login_from = cn\n\
         ssl_client_certificate = {}\n{}imap_auth = external\n",
        pki.authority().display(),
        pki.server().ssl_certificate()
    );
    let postern = Postern::start(&service("imap", &auth, &(tls + &forms()[0])));
    let client = Client::trusting(&pki.authority()).with(&pair.certificate, &pair.key);
    let mut lines = client.connect(postern.addresses("imap")[1]);
    lines.line();
    lines.ask_many("a AUTHENTICATE EXTERNAL =", "a OK");
    lines.ask_many("b SELECT INBOX", "b OK");
    let mail = lines.ask_many("c FETCH 1 BODY.PEEK[TEXT]", "c OK").concat();
    assert!(mail.contains(&format!("for {user}")), "{mail}");
    assert_eq!(auth.wait_for_request(1).header("Auth-User"), Some(user));
}

/// An IMAP service over TLS in front of the office, whose users stand in a file; the certificate names
/// this one.
fn with_file(users: &str, master: &str, named: &str) -> (Postern, Client) {
    let pki = Pki::shared();
    let pair = pki.issue(named, "email:x@example.test", Key::Ec, State::Good);
    let ini = format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0 ssl\nauth_file = users\n\
         ssl_verify_client = optional\nssl_login_from = cn\nssl_client_certificate = {}\n{}\
         imap_auth = plain cram-md5 external\n{}",
        pki.authority().display(),
        pki.server().ssl_certificate(),
        office().backend(master),
    );
    let folder = TempDir::new("users");
    folder.write("users", users);
    let client = Client::trusting(&pki.authority()).with(&pair.certificate, &pair.key);
    (Postern::start_in(folder, &ini), client)
}

#[test]
fn users_of_a_file_enter_by_the_master_user() {
    let user = "of-a-file";
    let text = format!("Subject: x\n\nfor {user}\n");
    office().dovecot.deliver(user, text.as_bytes());
    // Dovecot has other passwords.
    let users = format!("{user}:{{PLAIN}}file-pass\n");
    let log_in = |client: &Client, postern: &Postern, command: &str| {
        let mut lines = client.connect(postern.address("imap"));
        lines.line();
        lines.send(command);
        let answer = lines.line();
        if answer.starts_with("a OK") {
            lines.ask_many("b SELECT INBOX", "b OK");
            let mail = lines.ask_many("c FETCH 1 BODY.PEEK[TEXT]", "c OK").concat();
            assert!(mail.contains(&format!("for {user}")), "{mail}");
        }
        answer
    };
    for master in forms() {
        let (postern, client) = with_file(&users, &master, user);
        for way in [
            format!("a LOGIN {user} file-pass"),
            "a AUTHENTICATE EXTERNAL =".to_owned(),
        ] {
            let answer = log_in(&client, &postern, &way);
            assert!(
                answer.starts_with("a OK"),
                "{way}: {answer}\n{}",
                postern.log()
            );
        }
        let wrong = log_in(&client, &postern, &format!("a LOGIN {user} master-pass"));
        assert_eq!(wrong, "a NO [AUTHENTICATIONFAILED] Authentication failed");
    }
}

#[test]
fn a_certificate_does_not_let_in_who_is_not_in_the_file_or_has_no_way_into_the_backend() {
    const FAILED: &str = "a NO [AUTHENTICATIONFAILED] Authentication failed";
    let external = |postern: &Postern, client: &Client| {
        let mut lines = client.connect(postern.address("imap"));
        lines.line();
        lines.send("a AUTHENTICATE EXTERNAL =");
        lines.line()
    };
    let (postern, client) = with_file("anna:{PLAIN}pw\n", &forms()[0], "bert");
    assert_eq!(external(&postern, &client), FAILED);
    postern.wait_for_log("no such user");
    let hash = run("doveadm", &["pw", "-s", "SSHA256", "-p", "pw"], b"");
    let hashed = format!("anna:{}\n", hash.text().trim_end());
    let (postern, client) = with_file(&hashed, "", "anna");
    assert_eq!(external(&postern, &client), FAILED);
    postern.wait_for_log("give it pass=");
}

/// An IMAP backend that takes a master login by SASL, with an initial response.
fn by_sasl() -> Peer {
    let greeting = "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi";
    backend(greeting, &[("a AUTHENTICATE", "a OK in")])
}

/// One service in front of one backend, whose auth server answers so.
fn proxy(
    protocol: &str,
    backend: &Peer,
    more: &str,
    headers: &'static [&'static str],
) -> (Postern, AuthServer) {
    let address = backend.address();
    let auth = AuthServer::start(move |request: &Request| {
        let authzid = request.header("Auth-Authzid").unwrap_or_default();
        let filled: Vec<_> = headers
            .iter()
            .map(|line| line.replace("@AUTHZID@", authzid))
            .collect();
        let filled: Vec<_> = filled.iter().map(String::as_str).collect();
        Answer::ok_with(address, &filled)
    });
    let mechanisms = format!("{protocol}_auth = plain cram-md5 external\n{more}");
    (Postern::start(&service(protocol, &auth, &mechanisms)), auth)
}

/// What a client of IMAP hears that logs in by PLAIN with this message.
fn plain(postern: &Postern, message: &str) -> String {
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send(&format!("a AUTHENTICATE PLAIN {}", encode(message)));
    client.line()
}

#[test]
fn imap_without_initial_responses_is_given_the_message_when_it_asks() {
    let answers = &[
        (
            "p1 CAPABILITY",
            "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\np1 OK",
        ),
        ("a AUTHENTICATE PLAIN", "+ "),
        ("Ym9iAHBvc3Rlcm4AbWFzdGVyLXBhc3M=", "a OK in"),
    ];
    let backend = backend("* OK hi", answers);
    let (postern, _auth) = proxy("imap", &backend, &forms()[0], &[]);
    assert_eq!(plain(&postern, "\0bob\0pw"), "a OK in");
    let message = encode("bob\0postern\0master-pass");
    let expected = ["p1 CAPABILITY", "a AUTHENTICATE PLAIN", &message, ""];
    assert_eq!(backend.lines(), expected);
}

#[test]
fn no_master_password_goes_to_a_backend_that_disables_logins() {
    let greeting = "* OK [CAPABILITY IMAP4rev1 SASL-IR STARTTLS LOGINDISABLED] hi";
    for form in forms() {
        let answers = &[("a AUTHENTICATE", "a OK in"), ("a LOGIN", "+ "), ("", "+ ")];
        let backend = backend(greeting, answers);
        let (postern, _auth) = proxy("imap", &backend, &form, &[]);
        assert_eq!(plain(&postern, "\0bob\0pw"), "* BAD internal server error");
        assert_eq!(backend.lines(), ["p9 LOGOUT", ""]);
        postern.wait_for_log("set `proxy_ssl` to `on` or `starttls`");
    }
}

#[test]
fn the_password_of_the_answer_counts_more() {
    let answers = &[("a LOGIN", "+ "), ("bob", "+ "), ("own", "a OK in")];
    let backend = backend("* OK hi", answers);
    let (postern, _auth) = proxy("imap", &backend, &forms()[0], &["Auth-Pass: own"]);
    assert_eq!(plain(&postern, "\0bob\0pw"), "a OK in");
    assert_eq!(backend.lines(), ["a LOGIN {3}", "bob {3}", "own", ""]);
}

#[test]
fn a_clients_own_authorization_id_becomes_the_user_only_if_the_auth_server_repeats_it() {
    let repeats: &[&str] = &["Auth-Authzid: @AUTHZID@"];
    let cases: [(&[&str], _); 2] = [(repeats, true), (&[], false)];
    for (headers, is_let_in) in cases {
        let backend = by_sasl();
        let (postern, auth) = proxy("imap", &backend, &forms()[0], headers);
        let answer = plain(&postern, "alice\0bob\0pw");
        let asked = auth.wait_for_request(1);
        assert_eq!(asked.header("Auth-Authzid"), Some("alice"));
        if is_let_in {
            assert_eq!(answer, "a OK in");
            let message = encode("alice\0postern\0master-pass");
            let login = format!("a AUTHENTICATE PLAIN {message}");
            assert_eq!(backend.lines(), [&login, ""]);
        } else {
            assert_eq!(
                answer,
                "a NO [AUTHENTICATIONFAILED] authorization identity refused"
            );
            assert_eq!(backend.accepted(), 0);
        }
    }
}

#[test]
fn a_name_that_would_name_another_master_or_nobody_is_refused_unsaid() {
    let both: [&str; 4] = [
        "\0bob\nx\0pw",
        "\0bob\x7f\0pw",
        "x\x01\0bob\0pw",
        "x\x1f\0bob\0pw",
    ];
    let by_separator = ["\0alice*bob\0pw", "\0*\0pw", "al*ice\0bob\0pw"];
    for (form, messages) in [(0, &both[..]), (1, &both[..]), (1, &by_separator[..])] {
        for message in messages {
            let backend = by_sasl();
            let repeated = &["Auth-Authzid: @AUTHZID@"];
            let (postern, _auth) = proxy("imap", &backend, &forms()[form], repeated);
            let answer = plain(&postern, message);
            assert!(
                answer.starts_with("a NO ") || answer.starts_with("* BAD"),
                "{answer}"
            );
            assert_eq!(backend.accepted(), 0, "{message:?}");
        }
    }
}

#[test]
fn nobody_is_entered_as_the_master_himself_for_want_of_a_name() {
    for form in forms() {
        let backend = by_sasl();
        let (postern, _auth) = proxy("imap", &backend, &form, &[]);
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        let failed = "a NO [AUTHENTICATIONFAILED] Authentication failed";
        client.ask("a AUTHENTICATE EXTERNAL =", failed);
        assert_eq!(backend.accepted(), 0);
    }
}

#[test]
fn a_name_of_the_auth_servers_with_the_separator_makes_its_answer_unusable() {
    let backend = by_sasl();
    let (postern, _auth) = proxy("imap", &backend, &forms()[1], &["Auth-User: al*ice"]);
    assert_eq!(plain(&postern, "\0bob\0pw"), "* BAD internal server error");
    assert_eq!(backend.accepted(), 0);
    postern.wait_for_log("auth http server sent a login or password that breaks the line");
}

#[test]
fn without_auth_smtp_is_told_the_user_by_xclient_as_ever() {
    let backend = Peer::start(smtp_server);
    let (postern, _auth) = proxy("smtp", &backend, &forms()[1], &["Auth-Authzid: @AUTHZID@"]);
    for (message, user) in [("\0bob\0pw", "bob"), ("alice\0bob\0pw", "alice")] {
        let (mut client, _) = LineClient::greeted(postern.address("smtp"));
        client.ask(&format!("AUTH PLAIN {}", encode(message)), "235 2.0.0 OK");
        let lines = backend.lines();
        let xclient = lines.iter().rfind(|line| line.starts_with("XCLIENT"));
        let said = xclient.is_some_and(|line| line.contains(&format!(" LOGIN={user} ")));
        assert!(said, "{lines:?}");
        assert!(
            !lines.iter().any(|line| line.starts_with("AUTH")),
            "{lines:?}"
        );
    }
}

#[test]
fn with_passthrough_the_users_own_password_is_asked_for_whatever_mail_says() {
    let mail = format!("[mail]\n{}", forms()[0]);
    let servers = PROTOCOLS.map(|protocol| {
        format!("[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n")
    });
    let postern = Postern::start(&(mail + &servers.concat() + &office().backend("")));
    postern.wait_for_log("[mail] master_user: has no effect here without auth = http");
    for (password, welcome) in [("wrong", false), ("secret", true)] {
        let answer = plain(&postern, &format!("\0through\0{password}"));
        assert_eq!(
            answer.starts_with("a OK") || answer.starts_with("* CAP"),
            welcome,
            "{answer}"
        );
    }
}

#[test]
fn with_passthrough_a_clients_own_authorization_id_goes_on_to_dovecots_master_users() {
    let servers = PROTOCOLS.map(|protocol| {
        format!("[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n")
    });
    // What cannot carry it is not used, configured or not.
    for mechanism in ["auto", "login", "plain"] {
        let backend = office().backend(&format!("auth_mechanism = {mechanism}"));
        let postern = Postern::start(&(servers.concat() + &backend));
        for protocol in PROTOCOLS {
            let user = format!("acted-{mechanism}-{protocol}");
            let text = format!("Subject: x\n\nfor {user}\n");
            office().dovecot.deliver(&user, text.as_bytes());
            let (master, password) = MASTER;
            let message = encode(&format!("{user}\0{master}\0{password}"));
            let (mut client, _) = LineClient::greeted(postern.address(protocol));
            let (command, good) = match protocol {
                "imap" => ("a AUTHENTICATE PLAIN", "a OK"),
                "pop3" => ("AUTH PLAIN", "+OK"),
                _ => ("AUTH PLAIN", "235 "),
            };
            client.send(&format!("{command} {message}"));
            client.lines_until(good);
            use_session(&mut client, protocol, &user);
        }
    }
}
