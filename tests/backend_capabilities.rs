//! What clients are told before their login where backends are configured, and after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::tools::wait_for_line;
use crate::common::wait::{self, PATIENCE};
use crate::peers::{Peer, Talk};
use crate::servers::dovecot::{self, Dovecot};
use crate::servers::{local, postfix};
use nix::sys::signal::Signal;

/// A proxy with a backend at each address, the first of which everyone goes to.
fn proxy(protocol: &str, hosts: &[std::net::SocketAddr], server: &str, backend: &str) -> Postern {
    let mut ini = format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\nserver_name = me.test\n\
         {server}\n[routes]\nroute = * b0\n"
    );
    for (at, host) in hosts.iter().enumerate() {
        ini += &format!("[backend b{at}]\nhosts = {host}\n{backend}\n");
    }
    Postern::start(&ini)
}

/// The capabilities that a client is told before its login.
fn capabilities(postern: &Postern, protocol: &str) -> Vec<String> {
    let (mut client, _) = LineClient::greeted(postern.address(protocol));
    let (command, end) = match protocol {
        "imap" => ("a CAPABILITY", "a "),
        "pop3" => ("CAPA", "."),
        _ => ("EHLO x.test", "250 "),
    };
    client.send(command);
    let lines = client.lines_until(end);
    match protocol {
        "imap" => lines[0].split(' ').skip(2).map(str::to_owned).collect(),
        "pop3" => lines[1..lines.len() - 1].to_vec(),
        _ => lines[1..].iter().map(|line| line[4..].to_owned()).collect(),
    }
}

fn learned(postern: &Postern, protocol: &str) -> Vec<String> {
    postern.wait_for_log("capabilities of the backends");
    // The list is in use right behind the line.
    std::thread::sleep(Duration::from_millis(50));
    capabilities(postern, protocol)
}

/// A backend that says these lines to the question for its capabilities, each with its CRLF.
fn offering(protocol: &'static str, answer: String) -> Peer {
    Peer::start(move |talk: &mut Talk| {
        talk.say(match protocol {
            "imap" => "* OK hi",
            "pop3" => "+OK hi",
            _ => "220 hi",
        })?;
        loop {
            let line = talk.line()?;
            let (tag, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match (protocol, tag, rest) {
                (_, "EHLO", _) | ("pop3", "CAPA", _) => talk.say(&answer)?,
                ("imap", _, "CAPABILITY") => {
                    talk.say(&format!("* CAPABILITY {answer}\r\n{tag} OK done"))?;
                }
                ("imap", _, _) => talk.say(&format!("* BYE\r\n{tag} OK"))?,
                _ => return talk.say("+OK bye"),
            }
        }
    })
}

#[test]
fn dovecots_imap_list_is_told_without_what_a_proxy_cannot_do() {
    let dovecot = dovecot::shared();
    for (host, ssl) in [
        (dovecot.imap, ""),
        (dovecot.imaps, "proxy_ssl = on"),
        (dovecot.imap, "proxy_ssl = starttls"),
        (dovecot.imap_haproxy, "proxy_protocol = v2"),
    ] {
        let more = format!("{ssl}\nproxy_ssl_verify = off");
        let postern = proxy("imap", &[host], "", if ssl.is_empty() { "" } else { &more });
        let list = learned(&postern, "imap");
        for item in [
            "IMAP4rev1",
            "IDLE",
            "ENABLE",
            "LITERAL-",
            "SASL-IR",
            "ID",
            "AUTH=PLAIN",
        ] {
            assert_eq!(
                list.iter().filter(|told| *told == item).count(),
                1,
                "{item}: {list:?}"
            );
        }
        for item in [
            "STARTTLS",
            "LOGIN-REFERRALS",
            "LITERAL+",
            "AUTH=CRAM-MD5",
            "AUTH=LOGIN",
        ] {
            assert!(!list.iter().any(|told| told == item), "{item}: {list:?}");
        }
        let in_all_cases = list.iter().all(|item| !item.starts_with("COMPRESS"));
        assert!(in_all_cases, "{list:?}");
        assert_eq!(list[0], "IMAP4rev1");
    }
}

#[test]
fn dovecots_pop3_list_is_told_without_stls_and_foreign_mechanisms() {
    let postern = proxy("pop3", &[dovecot::shared().pop3], "", "");
    let list = learned(&postern, "pop3");
    for item in [
        "TOP",
        "UIDL",
        "RESP-CODES",
        "PIPELINING",
        "USER",
        "SASL PLAIN LOGIN",
    ] {
        assert!(list.iter().any(|told| told == item), "{item}: {list:?}");
    }
    assert!(
        !list
            .iter()
            .any(|told| told.contains("STLS") || told.contains("CRAM")),
        "{list:?}"
    );
}

#[test]
fn postfixs_list_is_told_without_what_a_proxy_cannot_do() {
    let postfix = postfix::shared();
    for (host, ssl) in [
        (postfix.smtp_auth, ""),
        (postfix.smtp, ""),
        (postfix.smtps, "proxy_ssl = on\nproxy_ssl_verify = off"),
        (
            postfix.smtp_starttls,
            "proxy_ssl = starttls\nproxy_ssl_verify = off",
        ),
        (postfix.smtp_haproxy, "proxy_protocol = on"),
        (postfix.smtp_haproxy, "proxy_protocol = v2"),
    ] {
        let postern = proxy("smtp", &[host], "", ssl);
        let list = learned(&postern, "smtp");
        for item in [
            "PIPELINING",
            "8BITMIME",
            "DSN",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
        ] {
            assert!(list.iter().any(|told| told == item), "{item}: {list:?}");
        }
        assert!(list.contains(&"SIZE 400000000".to_owned()), "{list:?}");
        assert!(list.contains(&"AUTH PLAIN LOGIN".to_owned()), "{list:?}");
        for word in [
            "STARTTLS", "CHUNKING", "ETRN", "XCLIENT", "VRFY", "XFORWARD",
        ] {
            assert!(
                !list.iter().any(|told| told.starts_with(word)),
                "{word}: {list:?}"
            );
        }
    }
}

#[test]
fn visits_leave_nothing_alarming_in_the_backends_logs() {
    let dovecot = Dovecot::start();
    let postern = proxy("imap", &[dovecot.imap], "", "");
    learned(&postern, "imap");
    let postern = proxy("pop3", &[dovecot.pop3], "", "");
    learned(&postern, "pop3");
    let log = std::fs::read_to_string(&dovecot.log).unwrap_or_default();
    // What it says at its start of its own limit of descriptors is not about us.
    let alarming = |line: &&str| {
        (line.contains("Error") || line.contains("Warning")) && !line.contains("fd limit")
    };
    assert_eq!(log.lines().find(alarming), None);
    let postern = proxy("smtp", &[postfix::shared().smtp_plain], "", "");
    learned(&postern, "smtp");
    // Greeting, EHLO, QUIT; nobody else says so little.
    wait_for_line(&postfix::shared().log, "ehlo=1 quit=1 commands=2");
}

#[test]
fn two_backends_offer_what_both_do_and_the_smallest_size() {
    let one = offering(
        "smtp",
        "250-b\r\n250-SIZE 2000\r\n250-DSN\r\n250-8bitmime\r\n250 PIPELINING".into(),
    );
    let two = offering(
        "smtp",
        "250-b\r\n250-8BITMIME\r\n250-SIZE 1000\r\n250-VRFY\r\n250 PIPELINING".into(),
    );
    let postern = proxy("smtp", &[one.address(), two.address()], "", "");
    let list = learned(&postern, "smtp");
    assert_eq!(
        list,
        ["8BITMIME", "PIPELINING", "SIZE 1000", "AUTH PLAIN LOGIN"]
    );

    let one = offering(
        "imap",
        "IMAP4rev1 IDLE UIDPLUS QUOTA COMPRESS=DEFLATE".into(),
    );
    let two = offering(
        "imap",
        "IMAP4rev1 uidplus IDLE AUTH=SCRAM-SHA-256-PLUS IMAP4rev2".into(),
    );
    let postern = proxy("imap", &[one.address(), two.address()], "", "");
    let list = learned(&postern, "imap");
    let expected = [
        "IMAP4rev1",
        "IDLE",
        "UIDPLUS",
        "LITERAL-",
        "SASL-IR",
        "ID",
        "AUTH=PLAIN",
    ];
    assert_eq!(list, expected);

    let one = offering(
        "pop3",
        "+OK\r\nTOP\r\nUIDL\r\nUTF8\r\nLANG\r\nUSER\r\n.".into(),
    );
    let two = offering(
        "pop3",
        "+OK\r\nUIDL\r\nTOP\r\nUTF8\r\nLANG\r\nUSER\r\nEXPIRE NEVER\r\n.".into(),
    );
    let postern = proxy("pop3", &[one.address(), two.address()], "", "");
    let list = learned(&postern, "pop3");
    assert_eq!(list, ["TOP", "UIDL", "USER", "SASL PLAIN LOGIN"]);
}

#[test]
fn words_that_nobody_has_registered_are_told_to_no_client() {
    for (protocol, answer, told) in [
        (
            "imap",
            "IMAP4rev1 IDLE XLIST UNAUTHENTICATE X-GM-EXT-1 SNIPPET=FUZZY THREAD=NEW FUTURE",
            &[
                "IMAP4rev1",
                "IDLE",
                "LITERAL-",
                "SASL-IR",
                "ID",
                "AUTH=PLAIN",
            ][..],
        ),
        (
            "pop3",
            "+OK\r\nCAPA\r\nUIDL\r\nX-GOOGLE-RICO\r\nFUTURE\r\nEXPIRE NEVER\r\n.",
            &["UIDL", "EXPIRE NEVER", "SASL PLAIN LOGIN"],
        ),
        (
            "smtp",
            "250-b\r\n250-X-ANONYMOUSTLS\r\n250-XEXCH50\r\n250-XRDST\r\n250-PIPECONNECT\r\n\
             250-FUTURE\r\n250 DSN",
            &["DSN", "AUTH PLAIN LOGIN"],
        ),
    ] {
        let backend = offering(protocol, answer.into());
        let postern = proxy(protocol, &[backend.address()], "", "");
        assert_eq!(learned(&postern, protocol), told);
    }
}

#[test]
fn a_backend_is_asked_once_at_the_start_and_once_by_a_reload() {
    let backend = offering("imap", "IMAP4rev1 IDLE".into());
    let postern = proxy("imap", &[backend.address()], "", "");
    learned(&postern, "imap");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(backend.accepted(), 1);
    let threads = postern.threads();
    for count in 2..6 {
        postern.signal(Signal::SIGHUP);
        wait::until_true("it is asked again", PATIENCE, || {
            backend.accepted() == count
        });
    }
    // Whoever asked for a configuration that is gone is gone too.
    wait::until_at_most("threads", threads, PATIENCE, || postern.threads());
    assert_eq!(backend.accepted(), 5);
}

#[test]
fn a_host_of_two_backends_is_asked_for_each_of_them() {
    let backend = offering("imap", "IMAP4rev1 IDLE".into());
    let _postern = proxy("imap", &[backend.address(); 2], "", "");
    wait::until_true("it is asked twice", PATIENCE, || backend.accepted() == 2);
}

#[test]
fn a_backend_that_offers_without_end_is_not_believed() {
    let endless = format!("250-b\r\n{}250 DSN", "250-X\r\n".repeat(20_000));
    let backend = offering("smtp", endless);
    let postern = proxy("smtp", &[backend.address()], "", "");
    wait::until_true("it was asked", PATIENCE, || {
        backend.accepted() > 0 && backend.open() == 0
    });
    assert_eq!(capabilities(&postern, "smtp"), ["AUTH PLAIN LOGIN"]);
}

#[test]
fn the_static_defaults_hold_until_a_backend_has_answered() {
    let dead = local(free_port());
    for (protocol, default) in [
        ("imap", &["IMAP4", "IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"][..]),
        ("pop3", &["TOP", "USER", "UIDL", "SASL PLAIN LOGIN"]),
        ("smtp", &["AUTH PLAIN LOGIN"]),
    ] {
        let postern = proxy(protocol, &[dead], "", "");
        assert_eq!(capabilities(&postern, protocol), default);
    }
}

#[test]
fn a_dead_backend_does_not_hide_what_the_other_offers() {
    let alive = offering("smtp", "250-b\r\n250-SIZE 2000\r\n250 DSN".into());
    for dead_first in [true, false] {
        let dead = local(free_port());
        let hosts = match dead_first {
            true => [dead, alive.address()],
            false => [alive.address(), dead],
        };
        let postern = proxy("smtp", &hosts, "", "");
        let list = learned(&postern, "smtp");
        assert_eq!(list, ["DSN", "SIZE 2000", "AUTH PLAIN LOGIN"]);
        let line = postern.wait_for_log("is down");
        assert!(
            line.contains("[warn]") && line.contains(&dead.to_string()),
            "{line}"
        );
    }
}

#[test]
fn the_hosts_of_a_backend_offer_what_all_of_them_do() {
    let one = offering("pop3", "+OK\r\nTOP\r\nUIDL\r\nUSER\r\n.".into());
    let two = offering("pop3", "+OK\r\nUSER\r\nTOP\r\n.".into());
    let postern = Postern::start(&format!(
        "[server pop3]\nprotocol = pop3\nlisten = 127.0.0.1:0\n[backend b]\nhosts = {} {}\n",
        one.address(),
        two.address()
    ));
    assert_eq!(
        learned(&postern, "pop3"),
        ["TOP", "USER", "SASL PLAIN LOGIN"]
    );
}

#[test]
fn what_was_learned_outlives_a_reload() {
    let serves = Arc::new(AtomicBool::new(true));
    let is_up = Arc::clone(&serves);
    let backend = Peer::start(move |talk: &mut Talk| {
        if !is_up.load(Ordering::SeqCst) {
            return Ok(());
        }
        talk.say("220 hi")?;
        talk.line()?;
        talk.say("250-b\r\n250 DSN")?;
        talk.line()?;
        talk.say("221 bye")
    });
    let postern = proxy("smtp", &[backend.address()], "", "");
    assert_eq!(learned(&postern, "smtp"), ["DSN", "AUTH PLAIN LOGIN"]);
    serves.store(false, Ordering::SeqCst);
    for count in 1..3 {
        postern.signal(Signal::SIGHUP);
        wait::until_true("it has reloaded", PATIENCE, || {
            postern.count("was read anew") == count
        });
        assert_eq!(capabilities(&postern, "smtp"), ["DSN", "AUTH PLAIN LOGIN"]);
    }
    postern.wait_for_log("is down");
    assert_eq!(capabilities(&postern, "smtp"), ["DSN", "AUTH PLAIN LOGIN"]);
}

#[test]
fn a_fixed_list_is_told_as_it_stands_and_nobody_is_asked() {
    let backend = offering("imap", "IMAP4rev1 IDLE".into());
    let postern = proxy(
        "imap",
        &[backend.address()],
        "imap_capabilities = IMAP4rev1 X",
        "",
    );
    assert_eq!(
        capabilities(&postern, "imap"),
        ["IMAP4rev1", "X", "AUTH=PLAIN"]
    );
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn control_characters_of_a_backend_reach_no_client() {
    let backend = offering(
        "smtp",
        "250-b\r\n250-X\x1b[31m\r\n250-Y\rZ\r\n250-8BITMIME\r\n250 Ä".into(),
    );
    let postern = proxy("smtp", &[backend.address()], "", "");
    assert_eq!(learned(&postern, "smtp"), ["8BITMIME", "AUTH PLAIN LOGIN"]);
}

#[test]
fn who_asked_for_an_older_configuration_asks_no_further_hosts() {
    let may_greet = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&may_greet);
    let slow = Peer::start(move |talk: &mut Talk| {
        while !told.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        talk.say("* BYE")
    });
    let gone = offering("imap", "IMAP4rev1 IDLE".to_owned());
    let new = offering("imap", "IMAP4rev1 MOVE".to_owned());
    let port = free_port();
    let ini = |hosts: [std::net::SocketAddr; 2]| {
        format!(
            "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:{port}\n[routes]\nroute = * b0\n\
             [backend b0]\nhosts = {}\n[backend b1]\nhosts = {}\n",
            hosts[0], hosts[1]
        )
    };
    let postern = Postern::start(&ini([slow.address(), gone.address()]));
    wait::until_true("the first host is asked", PATIENCE, || slow.accepted() == 1);
    let changed = ini([new.address(), new.address()]);
    postern.folder().write("postern.ini", &changed);
    postern.signal(Signal::SIGHUP);
    postern.wait_for_log("the configuration was read anew");
    wait::until_true("the new host is asked", PATIENCE, || new.accepted() == 2);
    may_greet.store(true, Ordering::SeqCst);
    wait::until_true("the first host is left", PATIENCE, || slow.open() == 0);
    // It would be next, and at once.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(gone.accepted(), 0);
    assert!(capabilities(&postern, "imap").contains(&"MOVE".to_owned()));
}

#[test]
fn a_reload_asks_again() {
    let has_more = Arc::new(AtomicBool::new(false));
    let more = Arc::clone(&has_more);
    let backend = Peer::start(move |talk: &mut Talk| {
        talk.say("220 hi")?;
        talk.line()?;
        talk.say("250-b")?;
        talk.say(if more.load(Ordering::SeqCst) {
            "250 DSN"
        } else {
            "250 8BITMIME"
        })?;
        talk.line()?;
        talk.say("221 bye")
    });
    let postern = proxy("smtp", &[backend.address()], "", "");
    assert_eq!(learned(&postern, "smtp"), ["8BITMIME", "AUTH PLAIN LOGIN"]);
    has_more.store(true, Ordering::SeqCst);
    postern.signal(Signal::SIGHUP);
    wait::until_true("the new list is told", PATIENCE, || {
        capabilities(&postern, "smtp") == ["DSN", "AUTH PLAIN LOGIN"]
    });
}

/// Lets everybody in, without a word about capabilities; `answer` is called when it is asked, with the tag.
fn silent_about_itself(
    answer: impl Fn(&mut Talk, &str) -> std::io::Result<()> + Send + Sync + 'static,
) -> Peer {
    Peer::start(move |talk: &mut Talk| {
        talk.say("* OK hi")?;
        loop {
            let line = talk.line()?;
            let tag = line.split(' ').next().unwrap_or_default();
            match line.as_str() {
                "alice {6}" | "a AUTHENTICATE PLAIN" => talk.say("+ go on")?,
                "secret" | "AGFsaWNlAHNlY3JldA==" => talk.say("a OK in")?,
                _ if line.ends_with('}') => talk.say("+ go on")?,
                _ if line.ends_with("CAPABILITY") => answer(talk, tag)?,
                _ if line.ends_with("NOOP") => talk.say("b OK backend NOOP")?,
                _ if line.ends_with("LOGOUT") => talk.say(&format!("* BYE\r\n{tag} OK"))?,
                _ => talk.say("* BAD")?,
            }
        }
    })
}

/// The questions that the backend was asked on the connection of a login.
fn questions_of_logins(backend: &Peer) -> usize {
    let all = backend.lines();
    let questions = all.iter().filter(|line| line.ends_with("CAPABILITY"));
    // Each visit asks one, and says goodbye.
    let goodbyes = all.iter().filter(|line| line.ends_with("LOGOUT"));
    questions.count() - goodbyes.count()
}

#[test]
fn after_login_the_client_has_the_hosts_list_even_when_none_was_volunteered() {
    let offered = "IMAP4rev1 STARTTLS LOGINDISABLED SASL-IR AUTH=PLAIN QUOTA LITERAL+ X-OWN";
    let backend = silent_about_itself(move |talk, tag| {
        talk.say(&format!("* CAPABILITY {offered}\r\n{tag} OK done"))
    });
    let postern = proxy("imap", &[backend.address()], "", "");
    learned(&postern, "imap");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN alice secret\r\nb NOOP");
    client.expect("* CAPABILITY IMAP4rev1 QUOTA LITERAL+ X-OWN");
    client.expect("a OK in");
    client.expect("b OK backend NOOP");
    assert_eq!(questions_of_logins(&backend), 0);
}

#[test]
fn no_answer_to_a_question_of_ours_reaches_a_client_or_fails_its_login() {
    type Answer = fn(&mut Talk, &str) -> std::io::Result<()>;
    let answers: [Answer; 4] = [
        |talk, tag| talk.say(&format!("{tag} BAD what")),
        |_, _| Ok(()),
        // Late.
        |talk, tag| {
            std::thread::sleep(Duration::from_secs(3));
            talk.say(&format!("* CAPABILITY IMAP4rev1 LATE\r\n{tag} OK late"))
        },
        // More than a backend may say before a login.
        |talk, tag| {
            let much = format!("* OK {}\r\n", "x".repeat(1000)).repeat(70);
            talk.say(&format!("{much}{tag} OK that was all"))
        },
    ];
    for answer in answers {
        let backend = silent_about_itself(answer);
        let postern = proxy("imap", &[backend.address()], "timeout = 10s", "");
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.ask("a LOGIN alice secret", "a OK in");
        for _ in 0..2 {
            client.ask("b NOOP", "b OK backend NOOP");
            std::thread::sleep(Duration::from_millis(1600));
        }
        client.ask("b NOOP", "b OK backend NOOP");
    }
}

#[test]
fn a_backend_that_refuses_our_question_lets_a_fixed_mechanism_in() {
    for refusal in ["BAD what", "NO never"] {
        let backend = silent_about_itself(move |talk, tag| talk.say(&format!("{tag} {refusal}")));
        let server = "imap_capabilities = IMAP4rev1";
        let more = "auth_mechanism = plain";
        let postern = proxy("imap", &[backend.address()], server, more);
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.ask("a LOGIN alice secret", "a OK in");
        client.ask("b NOOP", "b OK backend NOOP");
    }
}

#[test]
fn with_a_fixed_list_the_backend_is_asked_nothing_after_the_login() {
    let backend = silent_about_itself(|talk, tag| {
        talk.say(&format!("* CAPABILITY IMAP4rev1 QUOTA\r\n{tag} OK done"))
    });
    let postern = proxy(
        "imap",
        &[backend.address()],
        "imap_capabilities = IMAP4rev1",
        "",
    );
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask("a LOGIN alice secret", "a OK in");
    assert!(!backend.lines().concat().contains("CAPABILITY"));
}
