//! The conversation with the HTTP auth server: what is asked, byte for byte, and what each kind of
//! answer, or none, leads to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::temp::TempDir;
use crate::common::wait::{self, PATIENCE};
use crate::peers::{Peer, imap_server, pop3_server, smtp_server};

const LOGGED_IN: &str = "a OK [CAPABILITY IMAP4rev1] backend login";
const INTERNAL: &str = "* BAD internal server error";

/// One IMAP login; the answer to it.
fn login(address: SocketAddr) -> String {
    let (mut client, _) = LineClient::greeted(address);
    client.send("a LOGIN alice secret");
    client.line()
}

/// An IMAP proxy whose auth server answers with these bytes, `@PORT@` being the backend's port.
struct Raw {
    postern: Postern,
    backend: Peer,
    _auth: AuthServer,
}

fn answered_with(bytes: &str) -> Raw {
    let backend = Peer::start(imap_server);
    let port = backend.address().port().to_string();
    let bytes = bytes.replace("@PORT@", &port).into_bytes();
    let auth = AuthServer::start(move |_| Answer::RawThenClose(bytes.clone()));
    let postern = Postern::start(&service("imap", &auth, "timeout = 5s"));
    Raw {
        postern,
        backend,
        _auth: auth,
    }
}

// ---- what is asked

#[test]
fn a_request_for_imap_has_exactly_these_bytes() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, ""));
    assert_eq!(login(postern.address("imap")), LOGGED_IN);
    let request = auth.wait_for_request(1).raw.replace("HTTP/1.0", "HTTP/1.1");
    assert_eq!(
        request,
        "GET /auth HTTP/1.1\r\n\
         Host: 127.0.0.1\r\n\
         Auth-Method: plain\r\n\
         Auth-User: alice\r\n\
         Auth-Pass: secret\r\n\
         Auth-Protocol: imap\r\n\
         Auth-Login-Attempt: 1\r\n\
         Client-IP: 127.0.0.1\r\n\
         \r\n"
    );
}

#[test]
fn a_request_for_smtp_names_the_clients_host() {
    let backend = Peer::start(smtp_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("smtp", &auth, ""));
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK");
    let request = auth.wait_for_request(1);
    assert_eq!(
        request.headers(),
        [
            "Host: 127.0.0.1",
            "Auth-Method: plain",
            "Auth-User: alice",
            "Auth-Pass: secret",
            "Auth-Protocol: smtp",
            "Auth-Login-Attempt: 1",
            "Client-IP: 127.0.0.1",
            "Client-Host: [UNAVAILABLE]",
        ]
    );
}

#[test]
fn a_request_for_none_has_the_envelope_behind_the_client() {
    let backend = Peer::start(smtp_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let more = "smtp_auth = none\nauth_http_header = X-Site one two\nauth_http_header = X-Key k=v";
    let postern = Postern::start(&service("smtp", &auth, more));
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.ask("HELO client.test", "250 proxy.test");
    client.ask("mail from:<a@example.test>", "250 2.0.0 OK");
    client.ask("rcpt to:<b@example.test>", "250 2.0.0 backend rcpt");
    let request = auth.wait_for_request(1);
    assert_eq!(
        request.headers(),
        [
            "Host: 127.0.0.1",
            "Auth-Method: none",
            "Auth-User: ",
            "Auth-Pass: ",
            "Auth-Protocol: smtp",
            "Auth-Login-Attempt: 1",
            "Client-IP: 127.0.0.1",
            "Client-Host: [UNAVAILABLE]",
            "Auth-SMTP-Helo: client.test",
            "Auth-SMTP-From: mail from:<a@example.test>",
            "Auth-SMTP-To: rcpt to:<b@example.test>",
            "X-Site: one two",
            "X-Key: k=v",
        ]
    );
}

#[test]
fn a_request_for_apop_has_the_salt_before_the_protocol() {
    let backend = Peer::start(pop3_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok_with(address, &["Auth-Pass: secret"]));
    let postern = Postern::start(&service("pop3", &auth, "pop3_auth = apop"));
    let (mut client, greeting) = LineClient::greeted(postern.address("pop3"));
    let salt = greeting.trim_start_matches("+OK POP3 ready ");
    client.ask(
        "APOP alice 0123456789abcdef0123456789abcdef",
        "+OK backend PASS",
    );
    let request = auth.wait_for_request(1);
    assert_eq!(
        request.headers(),
        [
            "Host: 127.0.0.1",
            "Auth-Method: apop",
            "Auth-User: alice",
            "Auth-Pass: 0123456789abcdef0123456789abcdef",
            &format!("Auth-Salt: {salt}"),
            "Auth-Protocol: pop3",
            "Auth-Login-Attempt: 1",
            "Client-IP: 127.0.0.1",
        ]
    );
}

#[test]
fn exactly_controls_space_and_percent_are_encoded() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, ""));
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    let bytes: Vec<u8> = (0x01..=0x7f).collect();
    client.send_raw(b"a LOGIN {127+}\r\n");
    client.send_raw(&bytes);
    client.send_raw(" {2+}\r\né\r\n".as_bytes());
    client.expect(LOGGED_IN);
    let wanted: String = bytes
        .iter()
        .map(|byte| match byte {
            0x00..=0x20 | b'%' => format!("%{byte:02X}"),
            _ => char::from(*byte).to_string(),
        })
        .collect();
    let request = auth.wait_for_request(1);
    assert_eq!(request.header("Auth-User"), Some(wanted.as_str()));
    assert_eq!(request.header("Auth-Pass"), Some("é"));
}

#[test]
fn the_client_address_is_the_socket_s() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, ""));
    let mut client = LineClient::connect_from([127, 1, 2, 3], postern.address("imap"));
    client.expect("* OK IMAP4 ready");
    client.ask("a LOGIN alice secret", LOGGED_IN);
    let request = auth.wait_for_request(1);
    assert_eq!(request.header("Client-IP"), Some("127.1.2.3"));
}

#[test]
fn each_session_counts_its_attempts_from_one() {
    let auth = AuthServer::start(|_| Answer::headers(&["Auth-Status: no", "Auth-Wait: 1"]));
    let postern = Postern::start(&service("imap", &auth, ""));
    for _ in 0..2 {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.ask("a LOGIN alice one", "a NO no");
        client.ask("b NOOP", "b OK completed");
        client.ask("c LOGIN alice two", "c NO no");
    }
    let attempts: Vec<String> = auth
        .requests()
        .iter()
        .map(|request| {
            request
                .header("Auth-Login-Attempt")
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert_eq!(attempts, ["1", "2", "1", "2"]);
}

// ---- usable answers

#[test]
fn names_in_any_case_bare_lf_and_spaces_are_understood() {
    let answer = "HTTP/1.1 200 OK\nauth-STATUS:   OK  \nX-Other: y\nAUTH-server:127.0.0.1 \n\
                  auth-port: @PORT@\n\n";
    let raw = answered_with(answer);
    assert_eq!(login(raw.postern.address("imap")), LOGGED_IN);
}

#[test]
fn every_2xx_status_and_http_1_0_will_do() {
    for status in [
        "HTTP/1.0 200 OK",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 299 Odd",
    ] {
        let answer = format!(
            "{status}\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: @PORT@\r\n\r\n"
        );
        let raw = answered_with(&answer);
        assert_eq!(login(raw.postern.address("imap")), LOGGED_IN, "{status}");
    }
}

#[test]
fn an_answer_with_a_body_and_many_headers_is_understood() {
    let filler = "X-Gateway: 0123456789012345678901234567890123456789\r\n".repeat(100);
    let answer = format!(
        "HTTP/1.1 200 OK\r\n{filler}Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\n\
         Auth-Port: @PORT@\r\nContent-Length: 11\r\n\r\nhello world"
    );
    let raw = answered_with(&answer);
    assert_eq!(login(raw.postern.address("imap")), LOGGED_IN);
}

#[test]
fn an_answer_in_many_pieces_is_understood() {
    let raw = answered_with(&format!(
        "HTTP/1.1 200 OK\r\nX-Long: {}\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\n\
         Auth-Port: @PORT@\r\n\r\n",
        "x".repeat(60_000)
    ));
    assert_eq!(login(raw.postern.address("imap")), LOGGED_IN);
}

#[test]
fn auth_server_may_be_a_host_name() {
    let raw = answered_with(
        "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: localhost\r\nAuth-Port: @PORT@\r\n\r\n",
    );
    assert_eq!(login(raw.postern.address("imap")), LOGGED_IN);
}

#[test]
fn an_error_text_counts_with_any_status() {
    for status in ["200 OK", "401 Unauthorized", "500 Oops", "302 Found"] {
        let raw = answered_with(&format!(
            "HTTP/1.1 {status}\r\nAuth-Status: Go away\r\n\r\n"
        ));
        assert_eq!(
            login(raw.postern.address("imap")),
            "a NO Go away",
            "{status}"
        );
        raw.postern.wait_for_log("client login failed: \"Go away\"");
        assert_eq!(raw.backend.accepted(), 0);
    }
}

#[test]
fn wait_is_one_word_exactly() {
    let raw = answered_with("HTTP/1.1 200 OK\r\nAuth-Status: wait\r\n\r\n");
    assert_eq!(login(raw.postern.address("imap")), "a NO wait");
}

#[test]
fn a_refusal_with_wait_comes_after_the_wait() {
    let auth = AuthServer::start(|_| Answer::headers(&["Auth-Status: no", "Auth-Wait: 2"]));
    let postern = Postern::start(&service("imap", &auth, ""));
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    let start = Instant::now();
    client.ask("a LOGIN alice wrong", "a NO no");
    assert!(start.elapsed() > Duration::from_millis(1900));
    client.ask("b NOOP", "b OK completed");
}

#[test]
fn a_wait_of_zero_or_no_number_counts_as_absent() {
    for wait in ["0", "soon", "-1", ""] {
        let header = format!("Auth-Wait: {wait}");
        let auth = AuthServer::start(move |_| Answer::headers(&["Auth-Status: no", &header]));
        let postern = Postern::start(&service("imap", &auth, ""));
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.ask("a LOGIN alice wrong", "a NO no");
        client.expect_close();
    }
}

#[test]
fn wait_without_seconds_asks_again_after_one() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |request| match request.number {
        1 => Answer::headers(&["Auth-Status: WAIT"]),
        _ => Answer::ok(address),
    });
    let postern = Postern::start(&service("imap", &auth, ""));
    let start = Instant::now();
    assert_eq!(login(postern.address("imap")), LOGGED_IN);
    assert!(start.elapsed() > Duration::from_millis(900));
    assert!(start.elapsed() < Duration::from_secs(3));
}

// ---- answers that let nobody in

#[test]
fn unusable_answers_fail_closed() {
    let bad = [
        "HTTP/1.1 200 OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: @PORT@\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAuth-Status: \r\nAuth-Server: 127.0.0.1\r\nAuth-Port: @PORT@\r\n\r\n",
        "HTTP/1.1 500 Oops\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: @PORT@\r\n\r\n",
        "HTTP/1.1 302 Found\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: @PORT@\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Port: @PORT@\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: 65536\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: imap\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 1.2.3.4.5 x\r\nAuth-Port: @PORT@\r\n\r\n",
        "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: @PORT@\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "\x00\x01\x02\r\n\r\n",
        "",
    ];
    for answer in bad {
        let raw = answered_with(answer);
        assert_eq!(login(raw.postern.address("imap")), INTERNAL, "{answer:?}");
        assert_eq!(raw.backend.accepted(), 0, "{answer:?}");
        raw.postern.wait_for_log("[error]");
    }
}

#[test]
fn an_answer_of_more_than_64_kib_lets_nobody_in() {
    let raw = answered_with(&format!(
        "HTTP/1.1 200 OK\r\nX-Long: {}\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\n\
         Auth-Port: @PORT@\r\n\r\n",
        "x".repeat(70_000)
    ));
    assert_eq!(login(raw.postern.address("imap")), INTERNAL);
    assert_eq!(raw.backend.accepted(), 0);
}

#[test]
fn what_is_missing_is_told_in_the_log() {
    let cases = [
        (
            "Auth-Status: OK\r\nAuth-Port: @PORT@",
            "did not send server or port",
        ),
        (
            "Auth-Status: OK\r\nAuth-Server: 127.0.0.1",
            "did not send server or port",
        ),
        (
            "Auth-Status: OK\r\nAuth-Server: a b\r\nAuth-Port: @PORT@",
            "sent invalid server address:\"a b\"",
        ),
        (
            "Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: 70000",
            "sent invalid server port:\"70000\"",
        ),
    ];
    for (headers, wanted) in cases {
        let raw = answered_with(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n"));
        assert_eq!(login(raw.postern.address("imap")), INTERNAL);
        let line = raw.postern.wait_for_log(wanted);
        assert!(
            line.contains(" while in http auth state, client: \""),
            "{line}"
        );
    }
}

#[test]
fn controls_that_would_stand_bare_make_the_answer_unusable() {
    let backend = Peer::start(pop3_server);
    let port = backend.address().port();
    for header in [
        "Auth-User: al\rDELE 1",
        "Auth-Pass: x\rDELE 1",
        "Auth-Pass: x\0y",
    ] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {port}\r\n\
             {header}\r\n\r\n"
        );
        let auth = AuthServer::start(move |_| Answer::RawThenClose(answer.clone().into_bytes()));
        let postern = Postern::start(&service("pop3", &auth, ""));
        let (mut client, _) = LineClient::greeted(postern.address("pop3"));
        client.ask("USER alice", "+OK");
        client.ask("PASS secret", "-ERR internal server error");
    }
    assert!(!String::from_utf8_lossy(&backend.received()).contains("DELE"));
}

#[test]
fn a_client_cannot_smuggle_a_second_command_to_a_pop3_backend() {
    let backend = Peer::start(pop3_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("pop3", &auth, ""));
    let (mut client, _) = LineClient::greeted(postern.address("pop3"));
    // NUL alice NUL "x CR LF DELE 1"
    client.send("AUTH PLAIN AGFsaWNlAHgNCkRFTEUgMQ==");
    let answer = client.line();
    assert!(answer.starts_with("-ERR"), "{answer}");
    assert!(!String::from_utf8_lossy(&backend.received()).contains("PASS"));
    assert!(!String::from_utf8_lossy(&backend.received()).contains("DELE"));
}

// ---- the connection to the auth server

#[test]
fn each_login_has_its_own_connection_to_the_auth_server() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, ""));
    for number in 1..=3 {
        assert_eq!(login(postern.address("imap")), LOGGED_IN);
        let request = auth.wait_for_request(number);
        assert_eq!(request.line(), "GET /auth HTTP/1.0");
    }
    assert_eq!(auth.connections(), 3);
}

#[test]
fn an_answer_sent_twice_decides_about_nobody_else() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |request| match request.number {
        1 => Answer::Raw(
            format!(
                "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\n\
                 Content-Length: 0\r\n\r\n",
                address.ip(),
                address.port()
            )
            .repeat(2)
            .into_bytes(),
        ),
        _ => Answer::refuse("no"),
    });
    for keepalive in ["", "auth_http_keepalive = 4"] {
        let postern = Postern::start(&service("imap", &auth, keepalive));
        login(postern.address("imap"));
        assert_eq!(login(postern.address("imap")), "a NO no");
    }
}

const KEEPALIVE: &str = "auth_http_keepalive = 4";

#[test]
fn a_kept_connection_carries_many_logins() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, KEEPALIVE));
    for _ in 0..5 {
        assert_eq!(login(postern.address("imap")), LOGGED_IN);
    }
    assert_eq!(auth.requests().len(), 5);
    assert_eq!(auth.connections(), 1);
}

#[test]
fn a_kept_connection_is_closed_after_a_second_though_nobody_asks() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, KEEPALIVE));
    for number in 1..=2 {
        let start = Instant::now();
        assert_eq!(login(postern.address("imap")), LOGGED_IN);
        assert_eq!(auth.open_connections(), 1);
        let closed = || (auth.open_connections() == 0).then_some(());
        wait::until("the idle connection's end", PATIENCE, closed);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(900), "{took:?}");
        assert!(took < Duration::from_millis(2500), "{took:?}");
        assert_eq!(auth.connections(), number);
    }
}

#[test]
fn a_kept_connection_that_is_silent_is_replaced() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |request| match request.number {
        2 => Answer::Stall,
        _ => Answer::ok(address),
    });
    let postern = Postern::start(&service("imap", &auth, KEEPALIVE));
    assert_eq!(login(postern.address("imap")), LOGGED_IN);
    let start = Instant::now();
    assert_eq!(login(postern.address("imap")), LOGGED_IN);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(auth.connections(), 2);
}

#[test]
fn a_login_survives_that_the_auth_server_closed_the_idle_connection() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, KEEPALIVE));
    for _ in 0..5 {
        assert_eq!(login(postern.address("imap")), LOGGED_IN);
        auth.close_connections();
    }
}

#[test]
fn a_login_survives_a_restart_of_the_auth_server() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, KEEPALIVE));
    assert_eq!(login(postern.address("imap")), LOGGED_IN);
    let place = auth.address();
    drop(auth);
    let auth = AuthServer::start_at(place, move |_| Answer::ok(address));
    assert_eq!(login(postern.address("imap")), LOGGED_IN);
    assert_eq!(auth.requests().len(), 1);
}

#[test]
fn a_unix_socket_is_asked_as_localhost() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let folder = TempDir::new("auth");
    let socket = folder.path().join("auth.sock");
    let auth = AuthServer::start_unix(&socket, move |_| Answer::ok(address));
    let postern = Postern::start(&service("imap", &auth, ""));
    for _ in 0..2 {
        assert_eq!(login(postern.address("imap")), LOGGED_IN);
    }
    let request = auth.wait_for_request(1);
    assert_eq!(request.target(), "/auth");
    assert_eq!(request.header("Host"), Some("localhost"));
}

#[test]
fn urls_without_scheme_path_or_with_a_name_are_understood() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let port = auth.address().port();
    let cases = [
        (format!("127.0.0.1:{port}/a/b?c=d"), "/a/b?c=d", "127.0.0.1"),
        (format!("http://localhost:{port}"), "/", "localhost"),
    ];
    for (number, (url, target, host)) in cases.into_iter().enumerate() {
        let ini =
            format!("[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_http = {url}\n");
        let postern = Postern::start(&ini);
        assert_eq!(login(postern.address("imap")), LOGGED_IN, "{url}");
        let request = auth.wait_for_request(number + 1);
        assert_eq!(request.target(), target);
        assert_eq!(request.header("Host"), Some(host));
    }
}

#[test]
fn the_next_auth_server_is_asked_when_the_first_is_not_there() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let nobody = free_port();
    let url = auth.url();
    let ini = format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         auth_http = http://127.0.0.1:{nobody}/auth\nauth_http = {url}\n"
    );
    let postern = Postern::start(&ini);
    assert_eq!(login(postern.address("imap")), LOGGED_IN);
}

#[test]
fn an_auth_server_that_is_not_there_is_an_internal_error() {
    let nobody = free_port();
    let ini = format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         auth_http = http://127.0.0.1:{nobody}/auth\n"
    );
    let postern = Postern::start(&ini);
    assert_eq!(login(postern.address("imap")), INTERNAL);
    let line = postern.wait_for_log("recv() failed (111: Connection refused)");
    assert!(line.contains("[error]"), "{line}");
    assert!(line.contains(" while in http auth state, "), "{line}");
}

#[test]
fn an_auth_server_that_stalls_times_out() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let postern = Postern::start(&service("imap", &auth, "auth_http_timeout = 1s"));
    let start = Instant::now();
    assert_eq!(login(postern.address("imap")), INTERNAL);
    assert!(start.elapsed() > Duration::from_millis(900));
    assert!(start.elapsed() < Duration::from_secs(5));
    let line = postern.wait_for_log(&format!("auth http server {} timed out", auth.address()));
    assert!(line.contains("[error]"), "{line}");
}

#[test]
fn an_auth_server_that_drips_times_out() {
    let auth = AuthServer::start(|_| Answer::Raw(b"HTTP/1.1 200 OK\r\nAuth-Sta".to_vec()));
    let postern = Postern::start(&service("imap", &auth, "auth_http_timeout = 1s"));
    assert_eq!(login(postern.address("imap")), INTERNAL);
}

#[test]
fn an_auth_server_that_closes_without_an_answer_is_an_internal_error() {
    let auth = AuthServer::start(|_| Answer::Close);
    let postern = Postern::start(&service("imap", &auth, ""));
    assert_eq!(login(postern.address("imap")), INTERNAL);
}

#[test]
fn a_failed_attempt_is_one_line_at_error() {
    let auth = AuthServer::start(|_| Answer::headers(&["X-Nothing: useful"]));
    let postern = Postern::start(&service("imap", &auth, ""));
    assert_eq!(login(postern.address("imap")), INTERNAL);
    postern.wait_for_log("session closed");
    assert_eq!(postern.lines_with("[error]").len(), 1, "{}", postern.log());
}

#[test]
fn passwords_stand_nowhere_in_the_log() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |request| match request.number {
        1 => Answer::headers(&["Auth-Status: no", "Auth-Wait: 1"]),
        2 => Answer::ok_with(address, &["Auth-Pass: hidden-by-the-auth-server"]),
        _ => Answer::Close,
    });
    let postern = Postern::start(&service("imap", &auth, "error_log = stderr debug"));
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask("a LOGIN alice hidden-one", "a NO no");
    client.ask("x LOGIN \"hidden-two", "x BAD invalid command");
    client.send("b LOGIN alice hidden-three");
    client.lines_until("b OK");
    drop(client);
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask("c LOGIN alice hidden-four", INTERNAL);
    let log = postern.stop();
    assert!(!log.contains("hidden"), "{log}");
}
