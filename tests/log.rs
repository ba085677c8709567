//! The log as an administrator needs it: who the client is, in which layout, what debug tells, what must
//! never stand in it, and how much a crowd can write.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::wait::{self, PATIENCE};
use crate::common::{proxy_to, service};
use crate::peers::{Peer, Talk, server_of};
use crate::servers::{dovecot, postfix};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use nix::sys::signal::Signal;

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];
const LOGIN: &str = "alice";
const SECRET: &str = "hunter2-and-more";
const HEADER: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 51512 143";
const BALANCER: &str = "set_real_ip_from = 127.0.0.0/8\n";

fn encoded(message: &str) -> String {
    STANDARD_NO_PAD.encode(message)
}

fn padded(message: &str) -> String {
    STANDARD.encode(message)
}

/// Says the credentials of `LOGIN` in the protocol's plainest way, from behind the greeting.
fn log_in(protocol: &str, client: &mut LineClient, secret: &str) {
    match protocol {
        "imap" => client.send(&format!("a LOGIN {LOGIN} {secret}")),
        "pop3" => {
            client.ask(&format!("USER {LOGIN}"), "+OK");
            client.send(&format!("PASS {secret}"));
        }
        _ => {
            client.send("EHLO client");
            client.lines_until("250 ");
            let message = padded(&format!("\0{LOGIN}\0{secret}"));
            client.send(&format!("AUTH PLAIN {message}"));
        }
    }
}

/// Nothing that peers were told of the secret, in any form.
fn assert_no_secret(log: &str) {
    let forms = [
        SECRET.to_owned(),
        encoded(SECRET),
        encoded(&format!("\0{LOGIN}\0{SECRET}")),
        encoded(&format!("{LOGIN}\0{LOGIN}\0{SECRET}")),
        encoded(&format!("user={LOGIN}\x01auth=Bearer {SECRET}\x01\x01")),
        encoded(&format!("n,a={LOGIN},\x01auth=Bearer {SECRET}\x01\x01")),
    ];
    for form in forms {
        assert!(!log.contains(&form), "{form} in:\n{log}");
    }
}

/// A backend that refuses every login with all that it was told.
fn echoes(protocol: &'static str) -> impl Fn(&mut Talk) -> io::Result<()> {
    move |talk| {
        let mut heard = String::new();
        let greeting = match protocol {
            "imap" => "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR] ready",
            "pop3" => "+OK ready",
            _ => "220 ready",
        };
        talk.say(greeting)?;
        loop {
            let line = talk.line()?;
            write!(heard, "{line} ").expect("strings take everything");
            let answer = match protocol {
                "imap" if line.ends_with('}') => format!("+ heard {heard}"),
                "imap" => format!("{} NO heard {heard}", &heard[..1]),
                "pop3" if line == "CAPA" => "+OK\r\nSASL PLAIN XOAUTH2\r\n.".to_owned(),
                "pop3" if line.starts_with("USER ") => format!("+OK heard {heard}"),
                "pop3" if line.starts_with("AUTH ") => "+ ".to_owned(),
                "pop3" => format!("-ERR heard {heard}"),
                _ if line.starts_with("EHLO ") => {
                    "250-x\r\n250 AUTH PLAIN LOGIN XOAUTH2".to_owned()
                }
                _ if line == "AUTH LOGIN" || line == padded(LOGIN) => "334 UGFzc3dvcmQ6".to_owned(),
                _ => format!("535 heard {heard}"),
            };
            talk.say(&answer)?;
        }
    }
}

#[test]
fn a_backend_that_says_thousands_of_lines_is_shown_as_far_as_a_login_goes() {
    let backend = Peer::start(|talk: &mut Talk| {
        talk.say("* OK ready")?;
        talk.line()?;
        talk.say(&"* \r\n".repeat(10_000))?;
        talk.say("x NO no")
    });
    let postern = Postern::start(&format!(
        "[postern]\nerror_log = stderr debug\n[server imap]\nprotocol = imap\n\
         listen = 127.0.0.1:0\nauth = passthrough\n[backend office]\nhosts = {}\n",
        backend.address()
    ));
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    // Each line that is shown is searched for all forms of it.
    let password: String = (0..200).map(|word| format!("word{word}")).collect();
    client.send(&format!("x LOGIN {LOGIN} {password}"));
    client.line();
    let shown = postern.count("received from upstream");
    assert!((3..200).contains(&shown), "{shown}");
}

#[test]
fn what_a_backend_says_back_of_a_password_is_blotted_out() {
    for protocol in PROTOCOLS {
        for mechanism in ["auto", "plain", "login", "xoauth2"] {
            if mechanism == "login" && protocol != "smtp" {
                continue;
            }
            let backend = Peer::start(echoes(protocol));
            let postern = Postern::start(&format!(
                "[postern]\nerror_log = stderr debug\n[server {protocol}]\nprotocol = {protocol}\n\
                 listen = 127.0.0.1:0\nauth = passthrough\n[backend office]\nhosts = {}\n\
                 auth_mechanism = {mechanism}\n",
                backend.address()
            ));
            let (mut client, _) = LineClient::greeted(postern.address(protocol));
            log_in(protocol, &mut client, SECRET);
            let line = postern.wait_for_log("backend refused the login: \"");
            assert!(line.contains("[info]"), "{line}");
            assert!(line.contains("***"), "{protocol} {mechanism}: {line}");
            let log = postern.stop();
            assert!(!log.contains("client login failed"), "told twice:\n{log}");
            assert_no_secret(&log);
        }
    }
}

#[test]
fn what_a_backend_of_an_auth_server_says_back_is_blotted_out() {
    for protocol in PROTOCOLS {
        let backend = Peer::start(echoes(protocol));
        let address = backend.address();
        let other = format!("Auth-Pass: {SECRET}");
        // The client's own secret is another one, which the auth server replaces.
        let auth = AuthServer::start(move |_| Answer::ok_with(address, &[&other]));
        let more = "proxy_smtp_auth = on\nxclient = off\nerror_log = stderr debug";
        let postern = Postern::start(&service(protocol, &auth, more));
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        log_in(protocol, &mut client, "another-secret");
        let line = postern.wait_for_log("upstream sent invalid response: \"");
        assert!(line.contains("***"), "{protocol}: {line}");
        let log = postern.stop();
        assert_no_secret(&log);
        assert!(!log.contains("another-secret"), "{log}");
    }
}

#[test]
fn what_an_auth_server_says_back_is_blotted_out() {
    let heard = |raw: &str| raw.replace("\r\n", " ");
    let answers: [fn(&str) -> Vec<String>; 4] = [
        |heard| vec![format!("Auth-Status: no: {heard}")],
        |heard| {
            let server = format!("Auth-Server: {heard}");
            vec!["Auth-Status: OK".into(), server, "Auth-Port: 1".into()]
        },
        |heard| {
            let port = format!("Auth-Port: {heard}");
            vec!["Auth-Status: OK".into(), "Auth-Server: ::1".into(), port]
        },
        |heard| vec!["Auth-Status: OK".into(), format!("Auth-Backend: {heard}")],
    ];
    for protocol in PROTOCOLS {
        for answer in answers {
            let auth =
                AuthServer::start(move |request| Answer::Headers(answer(&heard(&request.raw))));
            let postern = Postern::start(&service(protocol, &auth, "error_log = stderr debug"));
            let (mut client, _) = LineClient::greeted(postern.address(protocol));
            log_in(protocol, &mut client, SECRET);
            let line = postern.wait_for_log("Auth-Pass: ");
            assert!(line.contains("Auth-Pass: ***"), "{line}");
            let log = postern.stop();
            assert_no_secret(&log);
        }
    }
}

#[test]
fn a_password_of_our_own_words_hides_none_of_them() {
    let auth =
        AuthServer::start(|_| Answer::headers(&["Auth-Status: failed, client", "Auth-Wait: 1"]));
    let postern = Postern::start(&service("imap", &auth, "error_log = stderr info"));
    for secret in ["client", "login", "failed"] {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        log_in("imap", &mut client, secret);
    }
    wait::until_true("three lines", PATIENCE, || {
        postern.lines_with("client login failed: \"").len() == 3
    });
}

#[test]
fn debug_has_a_line_for_each_command_and_answer_and_no_secret() {
    for (protocol, wanted) in [
        (
            "imap",
            &[
                "sent to client: \"* OK IMAP4 ready",
                "received from client: \"b CAPABILITY\"",
                "received from client: \"a LOGIN ***\"",
                "sent to auth http server: \"Auth-Method: plain, Auth-User: alice, Auth-Pass: ***, Auth-Protocol: imap, ",
                "received from auth http server 127.0.0.1:",
                ": \"200, ",
                ", Auth-Status: OK, Auth-Server: 127.0.0.1, Auth-Port: ",
                "login goes to 127.0.0.1 port ",
                "trying host 127.0.0.1 at 127.0.0.1:",
                "received from upstream: \"* OK",
                "sent to upstream: \"a LOGIN {5}\"",
                "sent to upstream: \"alice ***\"",
                "sent to upstream: \"***\"",
                "received from upstream: \"a OK",
                "sent to client: \"a OK",
            ][..],
        ),
        (
            "pop3",
            &[
                "received from client: \"CAPA\"",
                "capabilities are those configured",
                "received from client: \"USER alice\"",
                "received from client: \"PASS ***\"",
                "sent to upstream: \"PASS ***\"",
                "received from upstream: \"+OK backend PASS\"",
            ],
        ),
        (
            "smtp",
            &[
                "received from client: \"EHLO client\"",
                "received from client: \"AUTH PLAIN ***\"",
                "sent to upstream: \"EHLO proxy.test\"",
                "sent to upstream: \"AUTH PLAIN ***\"",
                "received from client: a line that is no command",
            ],
        ),
    ] {
        let backend = Peer::start(server_of(protocol));
        let more = "proxy_smtp_auth = on\npop3_capabilities = TOP USER\nerror_log = stderr debug";
        let (postern, _auth) = proxy_to(protocol, backend.address(), more);
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        match protocol {
            "imap" => drop({
                client.send("b CAPABILITY");
                client.lines_until("b ")
            }),
            "pop3" => drop({
                client.send("CAPA");
                client.lines_until(".")
            }),
            _ => drop({
                client.send(SECRET);
                client.line()
            }),
        }
        log_in(protocol, &mut client, SECRET);
        postern.wait_for_log("client logged in");
        for text in wanted {
            let line = postern.wait_for_log(text);
            assert!(line.contains("[debug]"), "{line}");
        }
        assert_no_secret(&postern.stop());
    }
}

#[test]
fn debug_hides_each_answer_of_an_exchange() {
    let (postern, _auth) = refusing(
        "imap",
        "imap_auth = plain login xoauth2\nerror_log = stderr debug",
    );
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a AUTHENTICATE LOGIN");
    client.line();
    client.send(&padded(LOGIN));
    client.line();
    client.send(&padded(SECRET));
    client.line();
    let answers = "received from client: \"an answer of SASL: ***\"";
    assert_eq!(postern.lines_with(answers).len(), 2);
    postern.wait_for_log("received from client: \"a AUTHENTICATE LOGIN ***\"");
    assert_no_secret(&postern.stop());
}

fn refusing(protocol: &str, more: &str) -> (Postern, AuthServer) {
    let auth = AuthServer::start(|_| Answer::headers(&["Auth-Status: wrong", "Auth-Wait: 1"]));
    let postern = Postern::start(&service(protocol, &auth, more));
    (postern, auth)
}

/// A server behind a balancer, with this in `[postern]`.
fn behind_balancer(auth: &AuthServer, process: &str, port: u16) -> String {
    let url = auth.url();
    format!(
        "[postern]\n{process}\n[server imap]\nprotocol = imap\n\
         listen = 127.0.0.1:{port} proxy_protocol\nauth_http = {url}\n{BALANCER}"
    )
}

#[test]
fn behind_a_balancer_the_real_client_is_named_and_the_balancer_is_its_peer() {
    let auth = AuthServer::start(|_| Answer::refuse("wrong"));
    for (format, refused, early) in [
        (
            "text",
            "client: \"192.0.2.7:51512\", peer: \"PEER\", server: \"127.0.0.1:",
            "client: \"PEER\", server: \"",
        ),
        (
            "json",
            "\"client\":\"192.0.2.7:51512\",\"peer\":\"PEER\",\"server\":\"127.0.0.1:",
            "\"client\":\"PEER\",\"server\":\"",
        ),
    ] {
        let process = format!("error_log = stderr info format={format}\nerror_log = stderr info");
        let postern = Postern::start(&behind_balancer(&auth, &process, 0));
        let mut client = LineClient::connect(postern.address("imap"));
        let peer = client.local_address().to_string();
        client.send(HEADER);
        client.line();
        client.send("a LOGIN bob pw");
        client.rest();
        let lines = |text: &str| -> Vec<String> {
            postern.wait_for_log("session closed");
            let of_format = |line: &String| line.starts_with('{') == (format == "json");
            postern
                .lines_with(text)
                .into_iter()
                .filter(of_format)
                .collect()
        };
        for text in ["client login failed: ", "session closed"] {
            for line in lines(text) {
                assert!(line.contains(&refused.replace("PEER", &peer)), "{line}");
            }
        }
        for line in lines("client connected") {
            assert!(line.contains(&early.replace("PEER", &peer)), "{line}");
        }
    }
}

#[test]
fn nginx_layout_holds_from_a_reload_on() {
    let auth = AuthServer::start(|_| Answer::refuse("wrong"));
    let port = crate::common::ports::free_port();
    let ini = |process: &str| behind_balancer(&auth, process, port);
    let postern = Postern::start(&ini("error_log = stderr info"));
    let try_login = || {
        let mut client = LineClient::connect(postern.address("imap"));
        client.send(HEADER);
        client.line();
        client.send("a LOGIN bob pw");
        client.rest();
    };
    try_login();
    postern.wait_for_log(", login: \"bob\"");
    assert!(postern.lines_with("client: 192.0.2.7,").is_empty());
    postern.folder().write(
        "postern.ini",
        ini("error_log = stderr info\nlog_format = nginx"),
    );
    postern.signal(Signal::SIGHUP);
    postern.wait_for_log("the configuration was read anew");
    try_login();
    let line = postern.wait_for_log("client: 192.0.2.7, ");
    let wanted = format!(
        "client login failed: \"wrong\" while in http auth state, client: 192.0.2.7, \
         server: 127.0.0.1:{port}, login: \"bob\""
    );
    assert!(line.ends_with(&wanted), "{line}");
}

#[test]
fn the_closing_line_tells_how_long_the_login_took_where() {
    let backend = Peer::start(server_of("imap"));
    let auth_server = AuthServer::start({
        let backend = backend.address();
        move |_| {
            std::thread::sleep(Duration::from_millis(120));
            Answer::ok(backend)
        }
    });
    let postern = Postern::start(&service("imap", &auth_server, "error_log = stderr info"));
    drop(LineClient::imap_login(postern.address("imap")));
    let line = postern.wait_for_log("session closed");
    let time = |name: &str| -> f64 {
        let (_, rest) = line.split_once(&format!(" {name}=")).expect(&line);
        let word = rest.split(' ').next().expect("a word");
        word.parse().expect("seconds")
    };
    assert!(time("auth_time") >= 0.12, "{line}");
    assert!(time("backend_time") < time("login_time"), "{line}");
    assert!(
        time("auth_time") + time("backend_time") <= time("login_time") + 0.002,
        "{line}"
    );
}

#[test]
fn a_login_that_no_route_fits_is_told() {
    let backend = Peer::start(server_of("imap"));
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth = passthrough\n\
         [backend office]\nhosts = {}\n[routes]\nroute = @example.org office\n",
        backend.address()
    ));
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN bob@other.test pw");
    let line = postern.wait_for_log("no route fits");
    assert!(
        line.contains("[info]") && line.contains("login: \"bob@other.test\""),
        "{line}"
    );
}

#[test]
fn a_broken_header_is_quoted_without_what_follows_it() {
    let auth = AuthServer::start(|_| Answer::refuse("wrong"));
    let postern = Postern::start(&behind_balancer(&auth, "error_log = stderr debug", 0));
    let mut client = LineClient::connect(postern.address("imap"));
    client.send(&format!(
        "PROXY TCP4 ::1 ::1 1 143\r\na LOGIN good {SECRET}"
    ));
    client.rest();
    let line = postern.wait_for_log("broken header: ");
    assert!(
        line.contains("broken header: \"PROXY TCP4 ::1 ::1 1 143\" while"),
        "{line}"
    );
    assert_no_secret(&postern.stop());
}

#[test]
fn who_talks_before_a_delayed_greeting_is_quoted_up_to_credentials() {
    let message = padded(&format!("\0{LOGIN}\0{SECRET}"));
    let (postern, _auth) = refusing("smtp", "smtp_greeting_delay = 5s\nerror_log = stderr debug");
    for command in [
        format!(" AUTH PLAIN {message}"),
        format!("AUTH\tPLAIN\t{message}"),
        format!("EHLO x\rAUTH PLAIN {message}"),
        message.clone(),
    ] {
        let mut client = LineClient::connect(postern.address("smtp"));
        client.send(&command);
        client.rest();
    }
    wait::until_true("all are logged", PATIENCE, || {
        postern
            .lines_with("client was rejected before greeting: \"")
            .len()
            == 4
    });
    postern.wait_for_log("client was rejected before greeting: \"AUTH PLAIN\"");
    assert_no_secret(&postern.stop());
}

/// Everything that these lines carry of a secret is in no line of the log.
fn assert_none_of(said: &[String], log: &str) {
    for text in said {
        assert!(!log.contains(text), "{text} in:\n{log}");
    }
}

/// A proxy of all protocols in front of Dovecot and Postfix, whose auth server lets everybody in as bob.
fn in_front_of_real_servers() -> (Postern, AuthServer) {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let auth = AuthServer::start(move |request| {
        let backend = match request.header("Auth-Protocol") {
            Some("imap") => dovecot.imap,
            Some("pop3") => dovecot.pop3,
            _ => postfix.smtp_auth,
        };
        Answer::ok_with(backend, &["Auth-User: bob", "Auth-Pass: hunter2"])
    });
    let url = auth.url();
    let mut ini = "[postern]\nerror_log = stderr debug\n".to_owned();
    for protocol in PROTOCOLS {
        // In POP3, who has PLAIN has LOGIN.
        let other = if protocol == "pop3" { "apop" } else { "login" };
        write!(
            ini,
            "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n\
             auth_http = {url}\nauth_http_header = X-Key key-of-the-operator\n\
             proxy_smtp_auth = on\n\
             {protocol}_auth = plain cram-md5 xoauth2 oauthbearer {other}\n"
        )
        .expect("strings take everything");
    }
    (Postern::start(&ini), auth)
}

/// Each is one login: the lines that a client says behind its greeting. `{}` stands for a secret, which is
/// also what the line is looked for by.
fn dialogues(protocol: &str) -> Vec<Vec<String>> {
    let plain = padded("\0bob\0hunter2");
    let digest = padded("bob 0123456789abcdef0123456789abcdef");
    let token = "eyJhbGciOiJub25lIn0.e30.hunter2";
    let xoauth2 = padded(&format!("user=bob\x01auth=Bearer {token}\x01\x01"));
    let bearer = padded(&format!("n,a=bob,\x01auth=Bearer {token}\x01\x01"));
    let word = match protocol {
        "imap" => "a AUTHENTICATE",
        _ => "AUTH",
    };
    let mut dialogues = vec![
        vec![format!("{word} PLAIN {plain}")],
        vec![format!("{word} PLAIN"), plain],
        vec![format!("{word} LOGIN"), padded("bob"), padded("hunter2")],
        vec![format!("{word} CRAM-MD5"), digest],
        vec![format!("{word} XOAUTH2 {xoauth2}")],
        vec![format!("{word} XOAUTH2"), xoauth2],
        vec![format!("{word} OAUTHBEARER {bearer}")],
    ];
    let own: &[&[&str]] = match protocol {
        "imap" => &[
            &["a LOGIN bob hunter2"],
            &["a LOGIN \"bob\" \"hunter2\""],
            &[r#"a LOGIN "dave" "say \"hunter2\" \\o/""#],
            &["a LOGIN {3+}\r\nbob {7+}\r\nhunter2"],
            &["a LOGIN {3}", "bob {7}", "hunter2"],
        ],
        "pop3" => &[
            &["USER bob", "PASS hunter2"],
            &["APOP bob 0123456789abcdef0123456789abcdef"],
        ],
        _ => &[],
    };
    let own = own
        .iter()
        .map(|lines| lines.iter().map(ToString::to_string));
    dialogues.extend(own.map(Iterator::collect));
    dialogues
}

#[test]
fn a_day_of_logins_with_every_mechanism_leaves_no_secret_in_the_log() {
    let (postern, auth) = in_front_of_real_servers();
    let mut logins = 0;
    for protocol in PROTOCOLS {
        for lines in dialogues(protocol) {
            let (mut client, _) = LineClient::greeted(postern.address(protocol));
            if protocol == "smtp" {
                client.send("EHLO client");
                client.lines_until("250 ");
            }
            let mut answer = String::new();
            for line in &lines {
                client.send(line);
                answer = client.line();
                while answer.starts_with("* ") {
                    answer = client.line();
                }
            }
            let is_in = ["a OK", "+OK", "235 "]
                .iter()
                .any(|ok| answer.starts_with(ok));
            assert!(is_in, "{lines:?}: {answer}");
            logins += 1;
        }
    }
    wait::until_true("all are in", PATIENCE, || {
        postern.count("client logged in") == logins
    });
    assert_eq!(auth.requests().len(), logins);
    let log = postern.stop();
    let said = [
        "hunter2",
        "hunter%",
        "key-of-the-operator",
        "eyJhbGciOiJub25lIn0",
        "0123456789abcdef",
        // The last bytes of each in base64, whatever comes before.
        "aHVudGVyM",
        "h1bnRlcj",
        "odW50ZXIy",
        "MDEyMzQ1Njc4OWFi",
        "AxMjM0NTY3ODlhYm",
        "wMTIzNDU2Nzg5YWJj",
        "ZXlKaGJHY2lPaUp1",
        "V5SmhiR2NpT2lKdW",
        "leUpoYkdjaU9pSn",
        // How long it is.
        "{7",
    ];
    assert_none_of(&said.map(str::to_owned), &log);
    assert_eq!(log.matches("X-Key: ***").count(), logins, "{log}");
}

#[test]
fn a_password_that_real_servers_refuse_stands_in_no_line() {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let (imap, pop3) = (dovecot.imap.port(), dovecot.pop3.port());
    let smtp = postfix.smtp_auth.port();
    let mut ini = format!(
        "[postern]\nerror_log = stderr debug\n[backend office]\nhosts = 127.0.0.1\n\
         imap_port = {imap}\npop3_port = {pop3}\nsmtp_port = {smtp}\n"
    );
    for protocol in PROTOCOLS {
        write!(
            ini,
            "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n"
        )
        .expect("strings take everything");
    }
    let postern = Postern::start(&ini);
    for (protocol, answer) in [
        ("imap", "\"a NO [AUTHENTICATIONFAILED] "),
        ("pop3", "\"-ERR [AUTH] "),
        ("smtp", "\"535 "),
    ] {
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        log_in(protocol, &mut client, SECRET);
        let line = postern.wait_for_log(&format!("backend refused the login: {answer}"));
        assert!(line.contains("[info]"), "{line}");
    }
    assert_no_secret(&postern.stop());
}

/// So many connections that send this, at once.
fn crowd(address: SocketAddr, count: usize, line: &str) {
    let mut clients: Vec<_> = (0..count).map(|_| LineClient::connect(address)).collect();
    for client in &mut clients {
        client.send(line);
    }
    for client in &mut clients {
        client.rest();
    }
}

#[test]
fn a_crowd_of_broken_headers_is_counted() {
    const CROWD: usize = 60;
    let auth = AuthServer::start(|_| Answer::refuse("wrong"));
    let postern = Postern::start(&behind_balancer(&auth, "error_log = stderr info", 0));
    crowd(postern.address("imap"), CROWD, "no header");
    for (line, kind) in [
        ("broken header: \"", "broken header"),
        ("session closed protocol=", "session closed"),
        ("client connected, ", "client connected"),
    ] {
        let left_out = format!(" more lines \"{kind}\" of 127.0.0.1 within a second were left out");
        postern.wait_for_log(&left_out);
        wait::until_true(kind, PATIENCE, || postern.told(line, kind) == CROWD);
        assert!(postern.count(line) < CROWD);
    }
}

#[test]
fn a_crowd_of_bad_commands_is_counted_and_logins_are_not() {
    const CROWD: usize = 40;
    let backend = Peer::start(server_of("imap"));
    let more = "max_errors = 1\nerror_log = stderr info";
    let (postern, _auth) = proxy_to("imap", backend.address(), more);
    crowd(postern.address("imap"), CROWD, "x");
    for _ in 0..20 {
        drop(LineClient::imap_login(postern.address("imap")));
    }
    postern.wait_for_log(" more lines \"client protocol\" of 127.0.0.1 within a second");
    let line = "client sent too many invalid commands";
    wait::until_true("the crowd is counted", PATIENCE, || {
        postern.told(line, "client protocol") == CROWD
    });
    assert!(postern.count(line) < CROWD);
    wait::until_true("every login has its closing line", PATIENCE, || {
        postern
            .lines_with("session closed protocol=imap method=plain")
            .len()
            == 20
    });
}

#[test]
fn a_network_of_addresses_counts_as_one() {
    const CROWD: usize = 60;
    let auth = AuthServer::start(|_| Answer::refuse("wrong"));
    let ini = behind_balancer(&auth, "error_log = stderr info", 0) + "max_errors = 1\n";
    let postern = Postern::start(&ini);
    let mut clients = Vec::new();
    for number in 0..CROWD {
        let mut client = LineClient::connect(postern.address("imap"));
        client.send(&format!(
            "PROXY TCP6 2001:db8:0:1::{number} ::1 51512 143\r\nx"
        ));
        clients.push(client);
    }
    for client in &mut clients {
        client.rest();
    }
    postern.wait_for_log(" more lines \"client protocol\" of 2001:db8:0:1::/64 within a second");
    let line = "client sent too many invalid commands";
    wait::until_true("the crowd is counted", PATIENCE, || {
        postern.told(line, "client protocol") == CROWD
    });
    assert!(postern.count(line) < CROWD);
}
