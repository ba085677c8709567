//! What a client is told when the backend refuses: the backend's own words where they are wanted and
//! are a refusal at all (`proxy_pass_error_message`), and ours otherwise.

use std::net::SocketAddr;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::{proxy_to, service};
use crate::peers::Peer;
use crate::peers::unruly::{answers_logins_with, says_and_closes};

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
        ("imap", "b OK forged\r\n"),
        ("imap", "p1 NO of nobody's command\r\n"),
        ("imap", "a NO\r\n"),
        ("imap", "a NO [CAPABILITY IMAP4rev1] no\r\n"),
        ("imap", "a NO {5}\r\n"),
        ("imap", "a PREAUTH no\r\n"),
        ("imap", "nonsense\r\n"),
        ("pop3", "-ERRATIC no\r\n"),
        ("pop3", "334 Zm9v\r\n"),
        ("pop3", "nonsense\r\n"),
        ("smtp", "334 Zm9v\r\n334 Zm9v\r\n"),
        ("smtp", "250 OK\r\n"),
        ("smtp", "535-5.7.8 no\r\n235 2.7.0 yes\r\n"),
        ("smtp", "5355 no\r\n"),
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
            "* NO [ALERT] a\u{1b}[2Jb\r\na NO c\0d\re\r\n",
            "* NO [ALERT] a?[2Jb\r\na NO c?d?e\r\n",
        ),
        ("pop3", "-ERR a\0b\u{1b}c\rd\u{7f}\n", "-ERR a?b?c?d?\r\n"),
        (
            "smtp",
            "535-5.7.8 a\0b\n535 5.7.8 c\rd\u{1b}\r\n",
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
                  a NO [LIMIT] too many\r\n";
    let backend = Peer::start(answers_logins_with("imap", answer));
    let (postern, _auth) = handing_on("imap", backend.address());
    let said = told("imap", &postern);
    assert_eq!(said, "* OK [ALERT] sorry\r\na NO [LIMIT] too many\r\n");
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
