//! Backends that answer the proxy's own question about the client (ID, XCLIENT) with a refusal, with garbage, without
//! end, late, or never: no login fails of it, and nothing of the answer reaches the client.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::proxy_to;
use crate::peers::questions::{imap_greeting, imap_with_id, pop3_with_xclient};
use crate::peers::{Peer, Talk};

/// A login has so long, of which a question takes a third at most.
const TIME: &str = "timeout = 9s";

/// Longer than that third, shorter than the login's time.
const LATE: Duration = Duration::from_secs(4);

/// Logs in and makes sure that nothing but the answers arrives; gives what came before the tagged line.
fn enter_imap(postern: &Postern, id: &str) -> Vec<String> {
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    if !id.is_empty() {
        client.send(&format!("i ID {id}"));
        client.lines_until("i OK");
    }
    client.send("a LOGIN alice secret");
    let mut lines = client.lines_until("a ");
    let last = lines.pop().unwrap_or_default();
    assert_eq!(
        last,
        "a OK [CAPABILITY IMAP4rev1] backend login",
        "{}",
        postern.log()
    );
    client.ask("b NOOP", "b OK backend NOOP");
    client.ask("c NOOP", "c OK backend NOOP");
    lines
}

fn enter_pop3(postern: &Postern) {
    let (mut client, _) = LineClient::greeted(postern.address("pop3"));
    client.ask("USER alice", "+OK");
    client.ask("PASS secret", "+OK backend PASS");
    client.ask("NOOP", "+OK backend NOOP");
    client.ask("NOOP", "+OK backend NOOP");
}

type ToId = fn(&mut Talk, &str, &str) -> io::Result<()>;

fn imap_peer(to_id: ToId) -> (Peer, Postern) {
    let peer = Peer::start(move |talk| imap_with_id(talk, to_id));
    let (postern, auth) = proxy_to("imap", peer.address(), TIME);
    // It is asked as long as the proxy runs.
    Box::leak(Box::new(auth));
    (peer, postern)
}

#[test]
fn refusals_and_garbage_in_place_of_an_answer_to_id_stay_here() {
    let manners: [ToId; 6] = [
        |talk, tag, _| talk.say(&format!("{tag} NO backend refuses")),
        |talk, tag, _| talk.say(&format!("{tag} BAD backend")),
        |talk, tag, _| talk.say(&format!("{tag} PERHAPS")),
        |talk, tag, _| talk.say(&format!("garbage\r\n+ go\r\nx OK other\r\n\r\n{tag} OK")),
        |talk, tag, _| {
            talk.say(&format!(
                "* ID (\"a\r\n* 5 EXISTS\r\n* ID ((\r\n{tag} OK ID"
            ))
        },
        |talk, tag, _| {
            talk.say(&format!(
                "* ID (\"name\" {{9}}\r\n{tag} OK 12)\r\n{tag} OK ID"
            ))
        },
    ];
    for to_id in manners {
        let (peer, postern) = imap_peer(to_id);
        assert_eq!(enter_imap(&postern, ""), Vec::<String>::new());
        assert_eq!(peer.accepted(), 1, "{}", postern.log());
        peer.wait_for("x-originating-ip");
    }
}

#[test]
fn an_id_without_a_usable_end_costs_a_connection_and_no_login() {
    let manners: [ToId; 4] = [
        |talk, _, _| talk.wait_for_end(),
        |_, _, _| Err(io::ErrorKind::UnexpectedEof.into()),
        |talk, _, _| {
            talk.say("* BYE Input buffer full")?;
            Err(io::ErrorKind::UnexpectedEof.into())
        },
        |talk, _, _| {
            loop {
                talk.say("* OK still thinking")?;
            }
        },
    ];
    for to_id in manners {
        let (peer, postern) = imap_peer(to_id);
        assert_eq!(enter_imap(&postern, ""), Vec::<String>::new());
        assert_eq!(peer.accepted(), 2, "{}", postern.log());
        assert_eq!(postern.count("[error]"), 0, "{}", postern.log());
        postern.wait_for_log("connecting again");
    }
}

#[test]
fn an_answer_to_id_that_comes_late_reaches_no_client() {
    let (peer, postern) = imap_peer(|talk, tag, _| {
        thread::sleep(LATE);
        talk.say("* ID (\"name\" \"late\")")?;
        talk.say(&format!("{tag} OK late"))
    });
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask(
        "a LOGIN alice secret",
        "a OK [CAPABILITY IMAP4rev1] backend login",
    );
    client.expect_silence(LATE);
    client.ask("b NOOP", "b OK backend NOOP");
    assert_eq!(peer.accepted(), 2);
}

#[test]
fn a_host_that_never_answers_id_is_not_asked_by_every_login() {
    let (peer, postern) = imap_peer(|talk, _, _| talk.wait_for_end());
    for _ in 0..3 {
        enter_imap(&postern, "");
    }
    assert_eq!(peer.accepted(), 6);
    let began = Instant::now();
    enter_imap(&postern, "(\"name\" \"x\")");
    assert_eq!(peer.accepted(), 7);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn what_a_client_says_of_itself_does_not_keep_the_backend_from_knowing_where_it_is() {
    let refuse: ToId = |talk, tag, command| match command.contains("\"name\"") {
        true => talk.say(&format!("{tag} BAD backend")),
        false => talk.say(&format!("{tag} OK ID")),
    };
    let hang_up: ToId = |talk, tag, command| match command.contains("\"name\"") {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => talk.say(&format!("{tag} OK ID")),
    };
    for (to_id, connections) in [(refuse, 1), (hang_up, 2)] {
        let (peer, postern) = imap_peer(to_id);
        for round in 1..=4 {
            enter_imap(&postern, "(\"name\" \"x\")");
            assert_eq!(peer.accepted(), round * connections, "{}", postern.log());
        }
        let told = peer.lines();
        let ids: Vec<_> = told.iter().filter(|line| line.contains(" ID (")).collect();
        assert_eq!(ids.len(), 8, "{ids:?}");
        let own = ids.iter().filter(|line| !line.contains("\"name\""));
        assert_eq!(
            own.filter(|line| line.contains("x-originating-ip")).count(),
            4,
            "{ids:?}"
        );
    }
}

#[test]
fn a_client_that_has_asked_is_told_what_the_backend_says_of_itself() {
    let (_peer, postern) = imap_peer(|talk, tag, _| {
        talk.say(
            "* ID (\"name\" {7}\r\nBackend \"x-internal\" \"1\" \"version\" \"1 \\\"2\\\"\")",
        )?;
        talk.say(&format!("{tag} OK ID"))
    });
    let identity = "* ID (\"name\" \"Backend\" \"version\" \"1 \\\"2\\\"\")";
    // Nobody knows anything yet.
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask("i ID (\"name\" \"x\")", "* ID NIL");
    client.expect("i OK completed");
    client.ask("a LOGIN alice secret", identity);
    client.expect("a OK [CAPABILITY IMAP4rev1] backend login");
    // From then on it is told before the login, and not again; who has not asked is not told.
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask("i ID NIL", identity);
    client.expect("i OK completed");
    client.ask(
        "a LOGIN alice secret",
        "a OK [CAPABILITY IMAP4rev1] backend login",
    );
    assert_eq!(enter_imap(&postern, ""), Vec::<String>::new());
}

#[test]
fn id_goes_where_it_is_offered_or_wanted() {
    for (greeting, setting, is_told) in [
        ("* OK [CAPABILITY IMAP4rev1] backend", "", false),
        ("* OK [CAPABILITY IMAP4rev1 IDLE XID] backend", "", false),
        ("* OK backend", "", false),
        (
            "* OK [CAPABILITY IMAP4rev1] backend",
            "send_client_id = on",
            true,
        ),
        ("* OK backend", "send_client_id = on", true),
        ("* OK [CAPABILITY IMAP4rev1 ID] backend", "", true),
        (
            "* OK [CAPABILITY IMAP4rev1 ID] backend",
            "send_client_id = auto",
            true,
        ),
        (
            "* OK [CAPABILITY IMAP4rev1 ID] backend",
            "send_client_id = off",
            false,
        ),
    ] {
        let answer: ToId = |talk, tag, _| talk.say(&format!("{tag} OK ID"));
        let peer = Peer::start(move |talk| imap_greeting(talk, greeting, answer));
        let (postern, _auth) = proxy_to("imap", peer.address(), setting);
        enter_imap(&postern, "(\"name\" \"x\")");
        let told = String::from_utf8_lossy(&peer.received()).into_owned();
        assert_eq!(
            told.contains(" ID ("),
            is_told,
            "{greeting} {setting}: {told}"
        );
        if !is_told {
            assert!(told.starts_with("a LOGIN {5}"), "{told}");
        }
    }
}

#[test]
fn refusals_garbage_and_silence_in_place_of_an_answer_to_xclient_of_pop3_fail_no_login() {
    type ToXclient = fn(&mut Talk, &str) -> io::Result<()>;
    let manners: [(ToXclient, usize); 6] = [
        (|talk, _| talk.say("+OK Updated"), 1),
        (|talk, _| talk.say("-ERR what"), 1),
        (|talk, _| talk.say("garbage"), 2),
        (|talk, _| talk.wait_for_end(), 2),
        (|_, _| Err(io::ErrorKind::UnexpectedEof.into()), 2),
        (
            |talk, _| {
                thread::sleep(LATE);
                talk.say("+OK late")
            },
            2,
        ),
    ];
    for (number, (to_xclient, connections)) in manners.into_iter().enumerate() {
        let peer = Peer::start(move |talk| pop3_with_xclient(talk, to_xclient));
        let (postern, _auth) = proxy_to("pop3", peer.address(), TIME);
        enter_pop3(&postern);
        assert_eq!(peer.accepted(), connections, "{number}: {}", postern.log());
        let told = peer.lines();
        assert!(
            told[0].starts_with("XCLIENT ADDR=127.0.0.1 PORT="),
            "{told:?}"
        );
        assert_eq!(
            told.iter()
                .filter(|line| line.starts_with("XCLIENT"))
                .count(),
            1
        );
    }
    let peer = Peer::start(|talk| pop3_with_xclient(talk, |talk, _| talk.say("+OK")));
    let (postern, _auth) = proxy_to("pop3", peer.address(), "send_client_id = off");
    enter_pop3(&postern);
    assert_eq!(peer.lines()[0], "USER alice");
}

#[test]
fn a_host_that_greets_as_a_proxy_of_smtp_and_never_answers_xclient_is_logged_in_to() {
    let peer = Peer::start(|talk| {
        talk.say("220 backend ESMTP ready")?;
        loop {
            let line = talk.line()?;
            match line.split(' ').next().unwrap_or_default() {
                "XCLIENT" => {
                    thread::sleep(LATE);
                    talk.say("250 2.0.0 late")?;
                }
                "EHLO" => talk.say("250 backend")?,
                "AUTH" => talk.say("235 2.7.0 backend AUTH")?,
                word => talk.say(&format!("250 2.0.0 backend {word}"))?,
            }
        }
    });
    let more = format!("{TIME}\nxclient = auto\nproxy_smtp_auth = on");
    let (postern, _auth) = proxy_to("smtp", peer.address(), &more);
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK");
    client.expect_silence(LATE);
    client.ask("NOOP", "250 2.0.0 backend NOOP");
    assert_eq!(peer.accepted(), 2, "{}", postern.log());
    let told = peer.lines();
    let told: Vec<_> = told
        .iter()
        .filter(|line| line.starts_with("XCLIENT"))
        .collect();
    assert_eq!(told, ["XCLIENT TTL=4"]);
}
