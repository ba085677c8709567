//! What a client is told when the backend refuses: the backend's own words where they are wanted and
//! are a refusal at all (`proxy_pass_error_message`), and ours otherwise.

use std::net::SocketAddr;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::{proxy_to, service};
use crate::peers::Peer;
use crate::peers::unruly::{answers_logins_with, says_and_closes};
use crate::servers::{dovecot, postfix};

const INTERNAL: [(&str, &str); 3] = [
    ("imap", "* BAD internal server error"),
    ("pop3", "-ERR internal server error"),
    ("smtp", "451 4.3.2 Internal server error"),
];

fn internal(protocol: &str) -> &'static str {
    let mut rows = INTERNAL.into_iter();
    let row = rows.find(|(of, _)| *of == protocol);
    row.expect("all three are there").1
}

/// A service in front of this backend, which hands refusals on; an auth server decides.
fn handing_on(protocol: &str, backend: SocketAddr) -> (Postern, AuthServer) {
    let more = match protocol {
        "smtp" => "xclient = off\nproxy_smtp_auth = on\nproxy_pass_error_message = on",
        _ => "proxy_pass_error_message = on",
    };
    proxy_to(protocol, backend, more)
}

/// Sends a login whose answer comes next.
fn send_login(client: &mut LineClient, protocol: &str) {
    match protocol {
        "imap" => client.send("a LOGIN alice secret"),
        "pop3" => {
            client.ask("USER alice", "+OK");
            client.send("PASS secret");
        }
        _ => client.send("AUTH PLAIN AGFsaWNlAHNlY3JldA=="),
    }
}

/// All that a new client is told after its login, until the close.
fn told(protocol: &str, postern: &Postern) -> String {
    let (mut client, _) = LineClient::greeted(postern.address(protocol));
    send_login(&mut client, protocol);
    String::from_utf8_lossy(&client.rest()).into_owned()
}

#[test]
fn what_is_no_refusal_is_never_handed_on() {
    let answers = [
        ("imap", "b OK forged"),
        ("imap", "p1 NO of nobody's command"),
        ("imap", "a NO"),
        ("imap", "a NO [CAPABILITY IMAP4rev1] no"),
        ("imap", "a NO {5}"),
        ("imap", "a PREAUTH no"),
        ("imap", "nonsense"),
        ("pop3", "-ERRATIC no"),
        ("pop3", "334 Zm9v"),
        ("pop3", "nonsense"),
        ("smtp", "334 Zm9v\r\n334 Zm9v"),
        ("smtp", "250 OK"),
        ("smtp", "535-5.7.8 no\r\n235 2.7.0 yes"),
        ("smtp", "5355 no"),
    ];
    for (protocol, answer) in answers {
        let backend = Peer::start(answers_logins_with(protocol, answer));
        let (postern, _auth) = handing_on(protocol, backend.address());
        let expected = format!("{}\r\n", internal(protocol));
        assert_eq!(told(protocol, &postern), expected, "{answer}");
    }
}

#[test]
fn a_greeting_that_is_no_refusal_is_never_handed_on() {
    let greetings = [
        ("imap", "a OK in"),
        ("imap", "a NO later"),
        ("pop3", "+ Zm9v"),
        ("smtp", "235 2.7.0 in"),
        ("smtp", "554-no\r\n220 yes"),
    ];
    for (protocol, greeting) in greetings {
        let backend = Peer::start(says_and_closes(greeting));
        let (postern, _auth) = handing_on(protocol, backend.address());
        let expected = format!("{}\r\n", internal(protocol));
        assert_eq!(told(protocol, &postern), expected, "{greeting}");
    }
}

#[test]
fn control_characters_are_never_handed_on() {
    let answers = [
        (
            "imap",
            "* NO [ALERT] a\u{1b}[2Jb\r\na NO c\0d\re",
            "* NO [ALERT] a?[2Jb\r\na NO c?d?e\r\n",
        ),
        ("pop3", "-ERR a\0b\u{1b}c\rd\u{7f}", "-ERR a?b?c?d?\r\n"),
        (
            "smtp",
            "535-5.7.8 a\0b\n535 5.7.8 c\rd\u{1b}",
            "535-5.7.8 a?b\r\n535 5.7.8 c?d?\r\n",
        ),
    ];
    for (protocol, answer, expected) in answers {
        let backend = Peer::start(answers_logins_with(protocol, answer));
        let (postern, _auth) = handing_on(protocol, backend.address());
        assert_eq!(told(protocol, &postern), expected);
    }
}

#[test]
fn of_the_lines_before_an_imap_refusal_only_status_lines_are_handed_on() {
    let answer = "* CAPABILITY IMAP4rev1 FORGED\r\n* OK [CAPABILITY FORGED] hi\r\n\
                  * 23 EXISTS\r\n* NO {99}\r\n* OK [ALERT] sorry\r\n* BYE gone\r\n\
                  a NO [LIMIT] too many";
    let backend = Peer::start(answers_logins_with("imap", answer));
    let (postern, _auth) = handing_on("imap", backend.address());
    let said = told("imap", &postern);
    assert_eq!(said, "* OK [ALERT] sorry\r\na NO [LIMIT] too many\r\n");
}

/// The same where the backend decides.
fn passthrough(protocol: &str, backend: SocketAddr, more: &str) -> Postern {
    Postern::start(&format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n{more}\n\
         [backend office]\nhosts = {backend}\n"
    ))
}

#[test]
fn a_refused_login_is_handed_on_and_may_be_tried_again() {
    let answers = [
        (
            "imap",
            "* NO [WEBALERT https://a.test/] Web login required\r\n\
             a NO [ALERT] Application-specific password required",
        ),
        ("pop3", "-ERR [AUTH] Web login required"),
        ("pop3", "-ERR"),
        (
            "smtp",
            "534-5.7.9 Application-specific password required. Learn more at\r\n\
             534 5.7.9 https://a.test/",
        ),
    ];
    for (protocol, answer) in answers {
        let backend = Peer::start(answers_logins_with(protocol, answer));
        let more = "proxy_pass_error_message = on";
        let postern = passthrough(protocol, backend.address(), more);
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        for _ in 0..2 {
            send_login(&mut client, protocol);
            for line in answer.split("\r\n") {
                client.expect(line);
            }
        }
        let log = postern.stop();
        assert!(!log.contains("[error]"), "{log}");
    }
}

#[test]
fn dovecot_and_postfix_are_heard_where_that_is_wanted() {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let cases = [
        (
            "imap",
            dovecot.imap,
            "a NO [AUTHENTICATIONFAILED] Authentication failed.",
        ),
        ("pop3", dovecot.pop3, "-ERR [AUTH] Authentication failed."),
        (
            "smtp",
            postfix.smtp_auth,
            "535 5.7.8 Error: authentication failed: ",
        ),
    ];
    for (protocol, backend, answer) in cases {
        let more = "proxy_pass_error_message = on";
        let postern = passthrough(protocol, backend, more);
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        match protocol {
            "imap" => client.send("a LOGIN alice wrong"),
            "pop3" => {
                client.ask("USER alice", "+OK");
                client.send("PASS wrong");
            }
            _ => client.send("AUTH PLAIN AGFsaWNlAHdyb25n"),
        }
        let said = client.line();
        assert!(said.starts_with(answer), "{said}");
    }
}

#[test]
fn codes_keep_their_meaning_in_our_words() {
    let failed = "a NO [AUTHENTICATIONFAILED] Authentication failed";
    let answers = [
        ("imap", "a NO no", failed.to_owned()),
        ("imap", "a NO [AUTHORIZATIONFAILED] no", failed.to_owned()),
        (
            "imap",
            "a NO [EXPIRED] no",
            "a NO [EXPIRED] Password expired".to_owned(),
        ),
        (
            "imap",
            "a NO [alert] r\u{7}ead",
            "a NO [alert] r?ead".to_owned(),
        ),
        (
            "imap",
            "* NO [ALERT] read\r\n* NO other\r\na NO no",
            format!("* NO [ALERT] read\r\n{failed}"),
        ),
        (
            "imap",
            "* NO [EXPIRED] no\r\n* BYE bye\r\na BAD no",
            "a NO [EXPIRED] Password expired".to_owned(),
        ),
        (
            "pop3",
            "-ERR no",
            "-ERR [AUTH] Authentication failed".to_owned(),
        ),
        (
            "smtp",
            "534 5.7.9 no",
            "535 5.7.8 Authentication failed".to_owned(),
        ),
    ];
    for (protocol, answer, told) in answers {
        let backend = Peer::start(answers_logins_with(protocol, answer));
        let postern = passthrough(protocol, backend.address(), "");
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        for _ in 0..2 {
            send_login(&mut client, protocol);
            for line in told.split("\r\n") {
                client.expect(line);
            }
        }
    }
}

#[test]
fn a_permanent_refusal_in_pop3_is_told_as_one() {
    let backend = Peer::start(answers_logins_with("pop3", "-ERR [SYS/PERM] no such spool"));
    let postern = passthrough("pop3", backend.address(), "");
    let (mut client, _) = LineClient::greeted(postern.address("pop3"));
    for _ in 0..2 {
        send_login(&mut client, "pop3");
        client.expect("-ERR [SYS/PERM] Mailbox is not available, contact the administrator");
    }
    let log = postern.stop();
    assert!(!log.contains("[error]"), "{log}");
}

#[test]
fn a_refused_sender_is_told_so_and_not_of_a_server_in_trouble() {
    let answers = [
        ("554 5.7.1 you, never", "554 5.7.1 Sender refused"),
        ("554 you, never", "554 5.0.0 Sender refused"),
        (
            "501-5.1.7 bad\r\n501 5.1.7 address",
            "501 5.1.7 Sender refused",
        ),
        ("504 5.5.2 no such domain", "504 5.5.2 Sender refused"),
        ("450 4.7.1 greylisted", "450 4.7.1 Sender refused"),
        ("550 4.7.1\u{1b} odd", "550 5.0.0 Sender refused"),
        // About us, not about the sender: the message is to wait.
        (
            "530 5.7.0 STARTTLS first",
            "451 4.3.2 Internal server error",
        ),
        ("503 5.5.1 HELO first", "451 4.3.2 Internal server error"),
        ("354 go ahead", "451 4.3.2 Internal server error"),
    ];
    for (answer, told) in answers {
        let backend = Peer::start(move |talk| {
            talk.say("220 hi")?;
            talk.line()?;
            talk.say("250 b")?;
            talk.line()?;
            talk.say(answer)?;
            talk.wait_for_end()
        });
        let more = "smtp_auth = none\nxclient = off";
        let (postern, _auth) = proxy_to("smtp", backend.address(), more);
        let (mut client, _) = LineClient::greeted(postern.address("smtp"));
        client.ask("MAIL FROM:<a@example.test>", "250 2.0.0 OK");
        client.ask("RCPT TO:<b@example.test>", told);
        client.expect_close();
        let is_ours = postern.stop().contains("[error]");
        assert_eq!(is_ours, told.starts_with("451"), "{answer}");
    }
}

#[test]
fn postfix_refuses_a_sender_through_the_proxy() {
    let more = "smtp_auth = none\nxclient = off";
    let (postern, _auth) = proxy_to("smtp", postfix::shared().smtp, more);
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.ask("MAIL FROM:<a@", "250 2.0.0 OK");
    client.ask("RCPT TO:<b@example.test>", "501 5.1.7 Sender refused");
}

#[test]
fn an_expired_password_is_told_when_nothing_tagged_comes() {
    let backend = Peer::start(|talk| {
        talk.say("* OK hi")?;
        for answer in ["+ go on", "+ go on", "* BYE [EXPIRED] no"] {
            talk.line()?;
            talk.say(answer)?;
        }
        Ok(())
    });
    let postern = passthrough("imap", backend.address(), "");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask("a LOGIN alice secret", "a NO [EXPIRED] Password expired");
    client.ask("b NOOP", "b OK completed");
}

#[test]
fn an_answer_to_a_question_of_ours_is_handed_on_under_the_clients_tag() {
    let backend = Peer::start(|talk| {
        talk.say("* OK hi")?;
        talk.line()?;
        talk.say("p1 NO come back later")?;
        talk.wait_for_end()
    });
    let address = backend.address();
    let auth =
        AuthServer::start(move |_| Answer::ok_with(address, &["Auth-SSL-Backend: starttls"]));
    let more = "proxy_pass_error_message = on";
    let postern = Postern::start(&service("imap", &auth, more));
    assert_eq!(told("imap", &postern), "a NO come back later\r\n");
}

#[test]
fn an_endless_refusal_is_not_handed_on() {
    let backend = Peer::start(|talk| {
        talk.say("220 hi")?;
        talk.line()?;
        for _ in 0..100 {
            talk.say(&format!("554-{}", "x".repeat(100)))?;
        }
        talk.say("554 x")?;
        talk.wait_for_end()
    });
    let (postern, _auth) = handing_on("smtp", backend.address());
    let expected = format!("{}\r\n", internal("smtp"));
    assert_eq!(told("smtp", &postern), expected);
}
