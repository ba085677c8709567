//! Crowds: a thousand connections that stand at any point where a session can wait for its client do not
//! keep an honest client waiting, whatever they do when they are closed.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer, Request};
use crate::common::crowd::{Crowd, Manner, log_in, log_in_from_afar};
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::tls::Client;
use crate::common::wait::{PATIENCE, until_true};
use crate::peers::{Peer, server_of};
use crate::servers::pki::Pki;

/// The promise.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Two crowds at a time would measure the machine.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The proxy with its first listener for honest clients, and what it needs.
struct Setting {
    postern: Postern,
    _backend: Peer,
    _auth: AuthServer,
}

/// What the auth server says of a login depends on its name.
fn judge(request: &Request, backend: SocketAddr) -> Answer {
    match request.header("Auth-User").unwrap_or_default() {
        "refused" => Answer::headers(&["Auth-Status: no", "Auth-Wait: 1"]),
        "kept" => Answer::headers(&["Auth-Status: no", "Auth-Wait: 60"]),
        "asks" => Answer::headers(&["Auth-Status: WAIT", "Auth-Wait: 60"]),
        "token" => Answer::headers(&["Auth-Status: no", "Auth-Wait: 1", "Auth-Error-SASL: e30="]),
        _ => Answer::ok(backend),
    }
}

fn start(protocol: &str, process: &str, more: &str) -> Setting {
    let backend = Peer::start(server_of(protocol));
    let address = backend.address();
    let auth = AuthServer::start(move |request| judge(request, address));
    // A connection that finds the kernel's queue full is tried again a second later.
    let server = service(protocol, &auth, more).replace(":0", ":0 backlog=4096");
    Setting {
        postern: Postern::start(&format!("[postern]\n{process}\n{server}")),
        _backend: backend,
        _auth: auth,
    }
}

fn honest_logins_are_quick(protocol: &str, target: SocketAddr, what: &str) {
    for attempt in 0..5 {
        let took = log_in(target, protocol);
        assert!(took < AT_ONCE, "{what}, login {attempt}: {took:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A point of a session where it waits for its client.
#[derive(Clone, Copy)]
struct Point {
    protocol: &'static str,
    /// Lines of `[server]`. A second `listen` is the crowd's.
    server: &'static str,
    /// What brings a client there.
    says: &'static str,
    /// What it is told on its way; empty where that is nothing.
    heard: &'static str,
    /// What it adds every 100 ms.
    repeats: &'static str,
    /// Whether it is held back there by us, which is no silence of its own.
    held_back: bool,
}

const IMAP: Point = Point {
    protocol: "imap",
    server: "imap_auth = plain login cram-md5 external xoauth2 oauthbearer",
    says: "",
    heard: "* OK IMAP4 ready",
    repeats: "",
    held_back: false,
};

const POP3: Point = Point {
    protocol: "pop3",
    server: "pop3_auth = plain cram-md5 external",
    says: "",
    heard: "+OK",
    repeats: "",
    held_back: false,
};

const SMTP: Point = Point {
    protocol: "smtp",
    server: "smtp_auth = plain login none",
    says: "",
    heard: "220 ",
    repeats: "",
    held_back: false,
};

/// A thousand stand there, of as many addresses. At the first two points they also come from the honest
/// client's own: those who are silent beyond what an address may have are closed then, and come back, at
/// once or after a second.
fn stand_at(points: &[Point]) {
    stand_at_with(points, "");
}

/// The same with more lines of `[server]`.
fn stand_at_with(points: &[Point], server: &str) {
    let _alone = alone();
    let once_each = Manner::silent();
    let at_once = Manner {
        addresses: 1,
        back_after: Duration::ZERO,
        ..Manner::silent()
    };
    let after_a_second = Manner {
        addresses: 1,
        ..Manner::silent()
    };
    for (number, point) in points.iter().enumerate() {
        let server = format!("{}\n{server}", point.server);
        let setting = start(point.protocol, "workers = 4", &server);
        let addresses = setting.postern.addresses(point.protocol);
        let (honest, crowded) = (addresses[0], addresses[addresses.len() - 1]);
        let manners = match number {
            0 => vec![&once_each, &at_once],
            1 => vec![&once_each, &after_a_second],
            _ => vec![&once_each],
        };
        for manner in manners {
            let before = setting.postern.told("client connected", "client connected");
            let crowd = Crowd::gather(
                crowded,
                &Manner {
                    says: point.says.into(),
                    heard: point.heard,
                    repeats: point.repeats.as_bytes(),
                    ..manner.clone()
                },
            );
            let told = |text, kind, count| {
                let what = format!("{count} lines of {text:?}");
                until_true(&what, PATIENCE, || {
                    setting.postern.told(text, kind) >= count
                });
            };
            if point.heard.is_empty() {
                told("client connected", "client connected", before + 1000);
            }
            if manner.addresses == 1 && point.repeats.is_empty() && !point.held_back {
                // Those who were closed are on their way back.
                told("session made room", "made room", 250);
            }
            let what = format!("{:?}, {} addresses", point.says, manner.addresses);
            honest_logins_are_quick(point.protocol, honest, &what);
            crowd.disperse();
        }
        setting.postern.stop();
    }
}

#[test]
fn silent_connections_do_not_delay_a_login() {
    stand_at(&[IMAP, IMAP, POP3, SMTP]);
}

#[test]
fn half_a_command_does_not_delay_a_login() {
    stand_at(&[
        Point {
            says: "a LOG",
            repeats: "x",
            ..IMAP
        },
        Point {
            says: "a LOGIN {900}\r\n",
            heard: "+ OK",
            ..IMAP
        },
        Point {
            says: "a LOGIN {900}\r\nabc",
            heard: "+ OK",
            repeats: "x",
            ..IMAP
        },
        Point {
            says: "USER bob\r\n",
            heard: "\r\n+OK",
            ..POP3
        },
    ]);
}

#[test]
fn stopping_inside_sasl_does_not_delay_an_imap_login() {
    let says = [
        ("a AUTHENTICATE PLAIN\r\n", "\r\n+ "),
        ("a AUTHENTICATE LOGIN\r\n", "\r\n+ VXNlcm5hbWU6"),
        ("a AUTHENTICATE LOGIN\r\nYm9i\r\n", "\r\n+ UGFzc3dvcmQ6"),
        ("a AUTHENTICATE CRAM-MD5\r\n", "\r\n+ "),
        ("a AUTHENTICATE EXTERNAL\r\n", "\r\n+ "),
        ("a AUTHENTICATE XOAUTH2\r\n", "\r\n+ "),
        ("a AUTHENTICATE OAUTHBEARER\r\n", "\r\n+ "),
    ];
    let points = says.map(|(says, heard)| Point {
        says,
        heard,
        ..IMAP
    });
    stand_at(&points);
}

#[test]
fn stopping_inside_sasl_does_not_delay_a_login_of_pop3_and_smtp() {
    stand_at(&[
        Point {
            says: "AUTH PLAIN\r\n",
            heard: "\r\n+ ",
            ..POP3
        },
        Point {
            says: "AUTH LOGIN\r\nYm9i\r\n",
            heard: "\r\n334 UGFzc3dvcmQ6",
            ..SMTP
        },
    ]);
}

#[test]
fn refused_logins_do_not_delay_a_login() {
    stand_at(&[
        Point {
            says: "a LOGIN refused pw\r\n",
            heard: "\r\na NO ",
            ..IMAP
        },
        // The error of an OAuth mechanism is a challenge, which wants an answer.
        Point {
            says: "a AUTHENTICATE XOAUTH2 dXNlcj10b2tlbgFhdXRoPUJlYXJlciB4AQE=\r\n",
            heard: "\r\n+ e30=",
            ..IMAP
        },
    ]);
}

#[test]
fn logins_under_auth_wait_do_not_delay_a_login() {
    for says in ["a LOGIN kept pw\r\n", "a LOGIN asks pw\r\n"] {
        stand_at(&[Point {
            says,
            held_back: true,
            ..IMAP
        }]);
    }
}

#[test]
fn an_envelope_without_a_login_does_not_delay_a_login() {
    stand_at(&[Point {
        says: "EHLO x\r\nMAIL FROM:<a@example.test>\r\n",
        heard: "250 2.0.0 OK",
        ..SMTP
    }]);
}

#[test]
fn a_proxy_header_that_does_not_come_does_not_delay_a_login() {
    let beside = Point {
        server: "listen = 127.0.0.1:0 proxy_protocol",
        heard: "",
        ..IMAP
    };
    stand_at(&[
        beside,
        Point {
            says: "PROXY TCP4 192.0.2.1 192.0",
            ..beside
        },
    ]);
}

/// A listener for TLS.
fn tls_lines(starttls: &str) -> String {
    let certificate = Pki::shared().server().ssl_certificate();
    format!("listen = 127.0.0.1:0 ssl\n{starttls}\n{certificate}")
}

#[test]
fn a_handshake_that_does_not_come_does_not_delay_a_login() {
    let beside = Point { heard: "", ..IMAP };
    let half_hello = Point {
        says: "\x16\x03\x01\x02\0\x01\0",
        ..beside
    };
    stand_at_with(&[beside, half_hello], &tls_lines(""));
    let certificate = Pki::shared().server().ssl_certificate();
    let starttls = Point {
        says: "a STARTTLS\r\n",
        heard: "\r\na OK completed",
        ..IMAP
    };
    stand_at_with(&[starttls], &format!("starttls = on\n{certificate}"));
}

#[test]
fn silence_after_the_handshake_does_not_delay_a_login() {
    let _alone = alone();
    let setting = start("imap", "workers = 4", &tls_lines(""));
    let [honest, crowded] = *setting.postern.addresses("imap") else {
        panic!("two listeners");
    };
    let client = Client::trusting(&Pki::shared().authority());
    let crowd: Vec<_> = (0..300).map(|_| client.connect(crowded)).collect();
    honest_logins_are_quick("imap", honest, "behind 300 TLS clients");
    for mut lines in crowd.into_iter().rev().take(200) {
        lines.expect("* OK IMAP4 ready");
        lines.ask("a NOOP", "a OK completed");
    }
    setting.postern.stop();
}

#[test]
fn waiting_for_a_delayed_greeting_does_not_delay_others() {
    let waiting = Point { heard: "", ..SMTP };
    let delay = "smtp_greeting_delay = 300ms\nlisten = 127.0.0.1:0";
    stand_at_with(&[waiting], delay);
}

#[test]
fn clients_that_read_nothing_do_not_delay_a_login() {
    let _alone = alone();
    let capabilities = vec!["X-A-LONG-CAPABILITY"; 200].join(" ");
    let more = format!(
        "max_commands = 1000000\nimap_capabilities = {capabilities}\nlisten = 127.0.0.1:0 sndbuf=8k"
    );
    let setting = start("imap", "workers = 4\nsend_timeout = 1s", &more);
    let [target, crowded] = *setting.postern.addresses("imap") else {
        panic!("two listeners");
    };
    let deaf = Manner {
        members: 500,
        addresses: 500,
        says: "a CAPABILITY\r\n".repeat(4000).into(),
        reads: false,
        ..Manner::silent()
    };
    let crowd = Crowd::gather(crowded, &deaf);
    honest_logins_are_quick("imap", target, "behind the deaf");
    // They do get to where nobody takes what they are told.
    until_true("half of them are given up", PATIENCE, || {
        setting.postern.lines_with("client timed out").len() >= 250
    });
    honest_logins_are_quick("imap", target, "behind the deaf who come back");
    crowd.disperse();
    setting.postern.stop();
}

#[test]
fn clients_with_many_commands_at_once_do_not_delay_a_login() {
    let _alone = alone();
    let capabilities = vec!["X-A-LONG-CAPABILITY"; 200].join(" ");
    let more = format!("max_commands = 1000000\nimap_capabilities = {capabilities}");
    let setting = start("imap", "workers = 4", &more);
    let target = setting.postern.address("imap");
    let busy = Manner {
        members: 300,
        addresses: 300,
        says: "a CAPABILITY\r\n".repeat(2000).into(),
        ..Manner::silent()
    };
    let crowd = Crowd::gather(target, &busy);
    honest_logins_are_quick("imap", target, "behind a lot of work");
    crowd.disperse();
    setting.postern.stop();
}

#[test]
fn a_chatty_crowd_does_not_delay_a_login() {
    for (max_commands, closed) in [("1000000", 0), ("5", 132)] {
        let _alone = alone();
        let more = format!("max_commands = {max_commands}");
        let setting = start("imap", "workers = 4", &more);
        let target = setting.postern.address("imap");
        let chatty = Manner {
            members: 132,
            addresses: 5,
            heard: "* OK IMAP4 ready",
            repeats: b"a NOOP\r\n",
            back_after: Duration::ZERO,
            ..Manner::silent()
        };
        let crowd = Crowd::gather(target, &chatty);
        until_true("they have come back", PATIENCE, || {
            setting.postern.lines_with("session closed").len() >= closed
        });
        thread::sleep(Duration::from_millis(500));
        honest_logins_are_quick("imap", target, "behind chatter");
        crowd.disperse();
        setting.postern.stop();
    }
}

/// So long a line is on its way.
const RTT: Duration = Duration::from_millis(20);

#[test]
fn six_hundred_clients_at_once_all_get_in() {
    let _alone = alone();
    for process in ["", "workers = 4"] {
        for protocol in ["imap", "pop3", "smtp"] {
            let setting = start(protocol, process, "");
            let target = setting.postern.address(protocol);
            let clients: Vec<_> = (0..600)
                .map(|_| thread::spawn(move || log_in_from_afar(target, protocol, RTT)))
                .collect();
            for client in clients {
                client.join().expect("every client is let in");
            }
            setting.postern.stop();
        }
    }
}
