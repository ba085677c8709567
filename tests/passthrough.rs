//! `auth = passthrough`: the backend decides, in front of Dovecot and Postfix, and what its client is
//! told when it refuses or is not there.

use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tools::{curl, python, run, swaks, wait_for_line};
use crate::peers::Peer;
use crate::peers::unruly::{answers_logins_with, says_and_closes};
use crate::servers::dovecot::{self, USERS};
use crate::servers::{local, office, postfix};

const PLAIN_GOOD: &str = "AGFsaWNlAHNlY3JldA==";
const PLAIN_BAD: &str = "AGFsaWNlAHdyb25n";
const UNAVAILABLE: [(&str, &str); 3] = [
    ("imap", "a NO [UNAVAILABLE] "),
    ("pop3", "-ERR [SYS/TEMP] "),
    ("smtp", "454 4.7.0 "),
];

/// One service in front of one host.
fn proxy(protocol: &str, host: std::net::SocketAddr) -> Postern {
    Postern::start(&format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n\
         [backend office]\nhosts = {host}\n"
    ))
}

/// Sends a login and gives the last line of the answer.
fn log_in(client: &mut LineClient, protocol: &str, password: &str) -> String {
    match protocol {
        "imap" => {
            client.send(&format!("a LOGIN alice {password}"));
            client.lines_until("a ").pop().unwrap_or_default()
        }
        "pop3" => {
            client.ask("USER alice", "+OK");
            client.send(&format!("PASS {password}"));
            client.line()
        }
        _ => {
            let right = password == "secret";
            let message = if right { PLAIN_GOOD } else { PLAIN_BAD };
            client.send(&format!("AUTH PLAIN {message}"));
            client.line()
        }
    }
}

#[test]
fn real_clients_log_in_and_fetch() {
    let dovecot = dovecot::shared();
    dovecot.deliver("through", b"Subject: one\n\nThe text.\n");
    let postern = office("imap_auth = plain login");
    let imap = format!("imap://{}/INBOX;UID=1", postern.address("imap"));
    let pop3 = format!("pop3://{}/1", postern.address("pop3"));
    for url in [imap, pop3] {
        for mechanism in ["AUTH=PLAIN", "AUTH=LOGIN", "AUTH=*"] {
            let message = curl(&[
                "--user",
                "through:secret",
                "--login-options",
                mechanism,
                &url,
            ]);
            let message = message.text();
            assert!(
                message.ends_with("The text.\r\n"),
                "{mechanism} {url}: {message}"
            );
        }
        let said = curl(&["--user", "alice:wrong", &url]);
        assert!(!said.success, "{}", said.everything());
    }
}

#[test]
fn imaplib_and_poplib_pass_every_odd_password() {
    const SCRIPT: &str = r#"
import imaplib, poplib, sys
imap, pop3, user, password = sys.argv[1:]
plain = lambda _: b'\0' + user.encode() + b'\0' + password.encode()
with imaplib.IMAP4('127.0.0.1', int(imap)) as client:
    client.authenticate('PLAIN', plain)
    client.select('INBOX')
client = poplib.POP3('127.0.0.1', int(pop3))
client.encoding = 'utf-8'
# A space in front is not part of it, as in nginx.
if password == password.lstrip():
    client.user(user)
    client.pass_(password)
client.quit()
"#;
    let postern = office("");
    let (imap, pop3) = (postern.address("imap"), postern.address("pop3"));
    let ports = [imap.port().to_string(), pop3.port().to_string()];
    for (user, password) in USERS {
        python(SCRIPT, &[&ports[0], &ports[1], user, password]).text();
    }
}

#[test]
fn swaks_submits_after_auth_at_postfix() {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let postern = office("");
    let server = postern.address("smtp").to_string();
    for mechanism in ["PLAIN", "LOGIN"] {
        let user = format!("swaks-{}", mechanism.to_lowercase());
        let to = format!("{user}@example.test");
        let said = swaks(&[
            "--server",
            &server,
            "--to",
            &to,
            "--from",
            &to,
            "--auth",
            mechanism,
            "--auth-user",
            &user,
            "--auth-password",
            "secret",
        ]);
        assert!(said.success, "{}", said.everything());
        wait_for_line(&postfix.log, &format!("sasl_username={user}"));
        let said = swaks(&[
            "--server",
            &server,
            "--to",
            &to,
            "--auth",
            mechanism,
            "--auth-user",
            "alice",
            "--auth-password",
            "wrong",
            "--quit-after",
            "AUTH",
        ]);
        assert!(
            said.everything().contains("535 5.7.8"),
            "{}",
            said.everything()
        );
    }
    wait_for_line(&dovecot.log, "alice");
}

#[test]
fn a_refused_login_may_be_tried_again_on_the_same_connection() {
    let refusals = [
        ("imap", "a NO [AUTHENTICATIONFAILED] Authentication failed"),
        ("pop3", "-ERR [AUTH] Authentication failed"),
        ("smtp", "535 5.7.8 Authentication failed"),
    ];
    let welcomes = [("imap", "a OK"), ("pop3", "+OK"), ("smtp", "235 2.0.0 OK")];
    let postern = office("");
    for ((protocol, refusal), (_, welcome)) in refusals.into_iter().zip(welcomes) {
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        for _ in 0..4 {
            assert_eq!(log_in(&mut client, protocol, "wrong"), refusal);
        }
        let answer = log_in(&mut client, protocol, "secret");
        assert!(answer.starts_with(welcome), "{protocol}: {answer}");

        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        for _ in 0..5 {
            assert_eq!(log_in(&mut client, protocol, "wrong"), refusal);
        }
        client.expect_close();
    }
    let log = postern.stop();
    assert!(!log.contains("wrong"), "{log}");
    assert!(
        !log.contains("[error]"),
        "a wrong password is no error:\n{log}"
    );
    assert!(log.contains("backend refused the login: \"a NO "), "{log}");
}

#[test]
fn what_was_sent_behind_a_refused_login_is_answered_by_the_proxy() {
    let postern = office("");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN alice wrong\r\nb NOOP\r\nc LOGIN alice secret\r\nd SELECT INBOX");
    client.expect("a NO [AUTHENTICATIONFAILED] Authentication failed");
    client.expect("b OK completed");
    let answer = client.lines_until("c ").pop().unwrap_or_default();
    assert!(answer.starts_with("c OK"), "{answer}");
    let answer = client.lines_until("d ").pop().unwrap_or_default();
    assert!(answer.starts_with("d OK"), "{answer}");
}

#[test]
fn a_backend_that_is_down_costs_no_password() {
    for (protocol, answer) in UNAVAILABLE {
        let postern = proxy(protocol, local(free_port()));
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        let said = log_in(&mut client, protocol, "secret");
        assert!(said.starts_with(answer), "{protocol}: {said}");
        client.expect_close();
        postern.wait_for_log("Connection refused");
    }
}

#[test]
fn a_backend_that_cannot_judge_for_now_costs_no_password() {
    let cases = [
        ("imap", "a NO [UNAVAILABLE] no", "a NO [UNAVAILABLE] "),
        ("imap", "a NO [SERVERBUG] no", "a NO [UNAVAILABLE] "),
        ("imap", "a NO [INUSE] no", "a NO [INUSE] "),
        ("imap", "a NO [LIMIT] no", "a NO [LIMIT] "),
        ("imap", "a NO [CONTACTADMIN] no", "a NO [CONTACTADMIN] "),
        ("pop3", "-ERR [SYS/TEMP] no", "-ERR [SYS/TEMP] "),
        ("pop3", "-ERR [IN-USE] no", "-ERR [IN-USE] "),
        ("pop3", "-ERR [LOGIN-DELAY] no", "-ERR [LOGIN-DELAY] "),
        ("smtp", "454 4.7.0 no", "454 4.7.0 mail "),
        ("smtp", "432 4.7.12 no", "454 4.7.0 mail "),
    ];
    for (protocol, refusal, answer) in cases {
        let backend = Peer::start(answers_logins_with(protocol, refusal));
        let postern = proxy(protocol, backend.address());
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        let said = log_in(&mut client, protocol, "secret");
        assert!(said.starts_with(answer), "{refusal}: {said}");
        // In our words.
        assert!(!said.ends_with(" no"), "{refusal}: {said}");
        client.expect_close();
    }
}

#[test]
fn a_backend_that_goes_down_costs_no_password() {
    let cases = [
        ("imap", "* BYE shutting down"),
        ("pop3", "-ERR shutting down"),
        ("smtp", "421 4.3.2 shutting down"),
    ];
    for ((protocol, bye), (_, answer)) in cases.into_iter().zip(UNAVAILABLE) {
        let backend = Peer::start(says_and_closes(bye));
        let postern = proxy(protocol, backend.address());
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        let said = log_in(&mut client, protocol, "secret");
        assert!(said.starts_with(answer), "{protocol}: {said}");
    }
}

#[test]
fn a_backend_that_goes_down_while_it_judges_costs_no_password() {
    let cases = [
        ("imap", "* OK hi", "* BYE shutting down"),
        ("pop3", "+OK hi", "-ERR [SYS/TEMP] shutting down"),
        ("smtp", "220 hi", "421 4.3.2 shutting down"),
    ];
    for ((protocol, greeting, bye), (_, answer)) in cases.into_iter().zip(UNAVAILABLE) {
        let backend = Peer::start(move |talk| {
            talk.say(greeting)?;
            talk.line()?;
            talk.say(bye)
        });
        let postern = proxy(protocol, backend.address());
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        let said = log_in(&mut client, protocol, "secret");
        assert!(said.starts_with(answer), "{protocol}: {said}");
    }
}

#[test]
fn a_refusal_in_the_middle_of_imap_login_is_the_clients_too() {
    // Some servers judge the name before they want the password.
    let backend = Peer::start(|talk| {
        talk.say("* OK hi")?;
        talk.line()?;
        talk.say("+ go on")?;
        talk.line()?;
        talk.say("a NO [AUTHENTICATIONFAILED] nobody of that name")?;
        talk.wait_for_end()
    });
    let postern = proxy("imap", backend.address());
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask(
        "a LOGIN alice secret",
        "a NO [AUTHENTICATIONFAILED] Authentication failed",
    );
    client.ask("b NOOP", "b OK completed");
}

#[test]
fn a_backend_can_be_two_machines_with_two_kinds_of_tls() {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         [server smtp]\nprotocol = smtp\nlisten = 127.0.0.1:0\n\
         [backend office]\nimap_hosts = {}\nimap_proxy_ssl = on\nproxy_ssl_verify = off\n\
         smtp_hosts = {}\n",
        dovecot.imaps, postfix.smtp_auth
    ));
    for (protocol, good) in [("imap", "a OK"), ("smtp", "235 ")] {
        // Visits take the same ways.
        postern.wait_for_log(&format!(
            "server \"{protocol}\": capabilities of the backends"
        ));
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        let said = log_in(&mut client, protocol, "secret");
        assert!(said.starts_with(good), "{said}");
    }
}

#[test]
fn a_backend_without_auth_is_no_refused_login() {
    let postern = proxy("smtp", postfix::shared().smtp);
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    let said = log_in(&mut client, "smtp", "secret");
    assert_eq!(said, "454 4.7.0 mail server is not available");
    let line = postern.wait_for_log("authentication not enabled");
    assert!(line.contains("[error]"), "{line}");
    let told = format!(
        "the backend offers no login on port {}: submission is usually port 587 with \
         `proxy_ssl = starttls`",
        postfix::shared().smtp.port()
    );
    assert!(line.contains(&told), "{line}");
    assert!(!line.contains("invalid response"), "{line}");
}

#[test]
fn a_login_without_password_never_reaches_the_backend() {
    let backend = Peer::start(crate::peers::imap_server);
    let postern = proxy("imap", backend.address());
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    let refused = "NO [AUTHENTICATIONFAILED] Authentication failed";
    client.ask("a LOGIN alice \"\"", &format!("a {refused}"));
    assert!(!backend.lines().iter().any(|line| line.contains("LOGIN")));
}

#[test]
fn mechanisms_that_show_no_password_are_mistakes() {
    let folder = TempDir::new("mechanisms");
    for (protocol, mechanisms) in [
        ("imap", "cram-md5"),
        ("imap", "external"),
        ("pop3", "apop"),
        ("smtp", "none"),
    ] {
        let ini = format!(
            "[server {protocol}]\nlisten = 127.0.0.1:2143\nprotocol = {protocol}\n\
             {protocol}_auth = plain {mechanisms}\n[backend a]\nhosts = 127.0.0.1\n"
        );
        let file = folder.write("bad.ini", ini).display().to_string();
        let said = run(
            env!("CARGO_BIN_EXE_postern"),
            &["check", "--config", &file],
            b"",
        );
        assert!(
            !said.success && said.everything().contains(mechanisms),
            "{said:?}"
        );
    }
}

#[test]
fn an_authorization_id_goes_on_to_the_backend() {
    let backend = Peer::start(|talk| {
        talk.say("* OK hi")?;
        loop {
            let line = talk.line()?;
            match line.split(' ').next().unwrap_or_default() {
                "p1" => talk.say("* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\np1 OK")?,
                _ => talk.say("a OK [CAPABILITY IMAP4rev1] in")?,
            }
        }
    });
    let postern = proxy("imap", backend.address());
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    // alice as bob
    client.ask(
        "a AUTHENTICATE PLAIN Ym9iAGFsaWNlAHNlY3JldA==",
        "a OK [CAPABILITY IMAP4rev1] in",
    );
    backend.wait_for("a AUTHENTICATE PLAIN Ym9iAGFsaWNlAHNlY3JldA==\r\n");
}
