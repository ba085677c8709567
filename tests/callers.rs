//! Backends that know who is calling: Dovecot with `login_trusted_networks` and Postfix with
//! `smtpd_authorized_xclient_hosts` log the real client; and chains of proxies, which end where they are loops.

use std::net::SocketAddr;
use std::sync::OnceLock;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::proxy_to;
use crate::common::tools::wait_for_line;
use crate::peers::{Peer, server_of};
use crate::servers::dovecot;
use crate::servers::dovecot::Dovecot;
use crate::servers::haproxy::Haproxy;
use crate::servers::nginx::Nginx;
use crate::servers::postfix::Postfix;

/// Where the clients of these tests are.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 9];

/// A Dovecot that believes the proxy, and logs what it is told.
fn trusting() -> &'static Dovecot {
    static SHARED: OnceLock<Dovecot> = OnceLock::new();
    SHARED.get_or_init(|| {
        Dovecot::start_with("login_trusted_networks = 127.0.0.1/32\nimap_id_log = *")
    })
}

fn server(protocol: &str, more: &str) -> String {
    format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n\
         server_name = proxy.test\n{more}\n"
    )
}

fn backend(host: SocketAddr, more: &str) -> String {
    format!("[backend office]\nhosts = {host}\n{more}\n")
}

/// Logs in; the password is `secret`.
fn log_in(client: &mut LineClient, protocol: &str, user: &str) {
    match protocol {
        "imap" => {
            client.send(&format!("a LOGIN {user} secret"));
            let last = client.lines_until("a ").pop().unwrap_or_default();
            assert!(last.starts_with("a OK"), "{last}");
        }
        _ => {
            client.ask(&format!("USER {user}"), "+OK");
            client.send("PASS secret");
            let last = client.line();
            assert!(last.starts_with("+OK"), "{last}");
        }
    }
}

/// The number of a session as the log has it.
fn number(line: &str) -> &str {
    let (_, rest) = line.split_once('*').expect("a line of a session");
    rest.split(' ').next().unwrap_or_default()
}

#[test]
fn dovecot_logs_the_client_and_the_session_whatever_tls_runs_on_the_way() {
    let dovecot = trusting();
    let authority = format!(
        "proxy_ssl_trusted_certificate = {}\nproxy_ssl_name = localhost",
        dovecot.certificate.display()
    );
    for protocol in ["imap", "pop3"] {
        let (plain, tls) = match protocol {
            "imap" => (dovecot.imap, dovecot.imaps),
            _ => (dovecot.pop3, dovecot.pop3s),
        };
        for (ssl, host) in [("off", plain), ("starttls", plain), ("on", tls)] {
            let verify = if ssl == "off" { "" } else { &authority };
            let section = backend(host, &format!("proxy_ssl = {ssl}\n{verify}"));
            let postern = Postern::start(&format!("{}{section}", server(protocol, "")));
            if ssl == "starttls" {
                // Behind STARTTLS a host says nothing by itself: it has been asked before.
                postern.wait_for_log("capabilities of the backends");
            }
            let user = format!("caller-{protocol}-{ssl}");
            let mut client = LineClient::connect_from(ELSEWHERE, postern.address(protocol));
            client.line();
            log_in(&mut client, protocol, &user);
            let login = wait_for_line(&dovecot.log, &format!("Login: user=<{user}>"));
            assert!(login.contains("rip=127.0.0.9, "), "{login}");
            let line = postern.wait_for_log("client logged in");
            let session = format!("session=<proxy.test-{}-{}>", postern.id(), number(&line));
            assert!(login.contains(&session), "{login}\n{line}");
        }
    }
}

#[test]
fn a_server_named_by_an_auth_server_is_told_too_also_behind_starttls() {
    let dovecot = trusting();
    let verify = format!(
        "proxy_ssl = starttls\nproxy_ssl_trusted_certificate = {}\nproxy_ssl_name = localhost",
        dovecot.certificate.display()
    );
    for (protocol, host) in [("imap", dovecot.imap), ("pop3", dovecot.pop3)] {
        for (number, more) in ["", verify.as_str()].into_iter().enumerate() {
            let (postern, _auth) = proxy_to(protocol, host, more);
            let user = format!("named-{protocol}-{number}");
            let mut client = LineClient::connect_from(ELSEWHERE, postern.address(protocol));
            client.line();
            log_in(&mut client, protocol, &user);
            let login = wait_for_line(&dovecot.log, &format!("Login: user=<{user}>"));
            assert!(login.contains("rip=127.0.0.9, "), "{login}");
        }
    }
}

#[test]
fn behind_haproxy_dovecot_logs_the_client_of_haproxy_with_its_port() {
    let dovecot = trusting();
    for (protocol, host) in [("imap", dovecot.imap), ("pop3", dovecot.pop3)] {
        let trust = "set_real_ip_from = 127.0.0.1";
        let ini = format!("{}{}", server(protocol, trust), backend(host, ""));
        let ini = ini.replace(
            "listen = 127.0.0.1:0",
            "listen = 127.0.0.1:0 proxy_protocol",
        );
        let postern = Postern::start(&ini);
        let haproxy = Haproxy::start(postern.address(protocol), "send-proxy-v2");
        let mut client = LineClient::connect_from(ELSEWHERE, haproxy.address);
        client.line();
        let user = format!("balanced-{protocol}");
        log_in(&mut client, protocol, &user);
        let login = wait_for_line(&dovecot.log, &format!("Login: user=<{user}>"));
        assert!(login.contains("rip=127.0.0.9, "), "{login}");
        if protocol == "imap" {
            let port = client.local_address().port();
            wait_for_line(
                &dovecot.log,
                &format!("x-originating-port={port}, x-connected-ip"),
            );
        }
    }
}

#[test]
fn dovecot_believes_nobody_else_and_lets_him_in() {
    let dovecot = dovecot::shared();
    for (protocol, host) in [("imap", dovecot.imap), ("pop3", dovecot.pop3)] {
        let on = backend(host, "send_client_id = on");
        let postern = Postern::start(&format!("{}{on}", server(protocol, "")));
        let mut client = LineClient::connect_from(ELSEWHERE, postern.address(protocol));
        client.line();
        let user = format!("unbelieved-{protocol}");
        log_in(&mut client, protocol, &user);
        let login = wait_for_line(&dovecot.log, &format!("Login: user=<{user}>"));
        assert!(login.contains("rip=127.0.0.1, "), "{login}");
    }
}

#[test]
fn what_a_client_says_of_itself_reaches_dovecot_without_its_claims() {
    let dovecot = trusting();
    let postern = Postern::start(&format!(
        "{}{}",
        server("imap", ""),
        backend(dovecot.imap, "")
    ));
    let mut client = LineClient::connect_from(ELSEWHERE, postern.address("imap"));
    client.line();
    client.send(
        "i ID (\"name\" \"Tester \\\"9\\\"\" \"x-originating-ip\" \"6.6.6.6\" \"version\" {3+}\r\n1.2 \
         \"X-Session-Id\" \"forged\" \"x-connected-ip\" NIL \"os\" NIL)",
    );
    client.lines_until("i OK");
    client.send("a LOGIN says-who secret");
    let lines = client.lines_until("a ");
    assert_eq!(lines[0], "* ID (\"name\" \"Dovecot\")", "{lines:?}");
    // The next one is told before its login.
    let (mut next, _) = LineClient::greeted(postern.address("imap"));
    next.ask("i ID NIL", "* ID (\"name\" \"Dovecot\")");
    let login = wait_for_line(&dovecot.log, "Login: user=<says-who>");
    assert!(login.contains("rip=127.0.0.9, "), "{login}");
    let id = wait_for_line(&dovecot.log, "name=Tester");
    assert!(id.contains("x-originating-ip=127.0.0.9, "), "{id}");
    assert!(
        id.contains("x-proxy-ttl=4, x-client-transport=insecure, name=Tester"),
        "{id}"
    );
    assert!(id.contains("version=1.2, os=: user=<>"), "{id}");
    assert!(!id.contains("6.6.6.6") && !id.contains("forged"), "{id}");
}

#[test]
fn with_xclient_full_postfix_knows_everything_also_from_several_lines() {
    let more = "smtpd_client_port_logging = yes";
    let postfix = Postfix::start_with(dovecot::shared(), more, "");
    let (postern, _auth) = proxy_to("smtp", postfix.smtp, "xclient = full");
    for (number, helo_length, login_length) in [(1, 20, 5), (2, 240, 5), (3, 240, 230)] {
        let (helo, login) = (host_name(number, helo_length), "u".repeat(login_length));
        let mut client = LineClient::connect_from(ELSEWHERE, postern.address("smtp"));
        client.line();
        enter_smtp(&mut client, &helo, &login);
        client.ask("MAIL FROM:<a@example.org>", "250 2.1.0 Ok");
        client.send("RCPT TO:<full@example.test>");
        client.line();
        client.send("DATA");
        client.line();
        client.send(&format!("Subject: {number}\r\n\r\nThe text.\r\n."));
        let queued = client.line();
        let id = queued.rsplit(' ').next().unwrap_or_default();
        let line = wait_for_line(&postfix.log, &format!("{id}: client="));
        let port = client.local_address().port();
        assert!(
            line.contains(&format!("client=unknown[127.0.0.9]:{port}")),
            "{line}"
        );
        assert!(line.contains(&format!("sasl_username={login}")), "{line}");
    }
}

#[test]
fn lines_of_xclient_are_of_512_octets_at_most_whatever_the_client_says() {
    let peer = Peer::start(server_of("smtp"));
    let (postern, _auth) = proxy_to("smtp", peer.address(), "xclient = full");
    for (helo_length, login, lines) in [(20, "b", 1), (250, "+", 2), (255, "b", 1), (9000, "b", 1)]
    {
        peer.forget();
        let (helo, login) = (host_name(0, helo_length), format!("x{}", login.repeat(60)));
        let (mut client, _) = LineClient::greeted(postern.address("smtp"));
        enter_smtp(&mut client, &helo, &login);
        let told = peer.lines();
        let told: Vec<_> = told
            .iter()
            .filter(|line| line.starts_with("XCLIENT "))
            .collect();
        assert_eq!(told.len(), lines, "{told:?}");
        assert!(told.iter().all(|line| line.len() <= 510), "{told:?}");
        let all = told
            .iter()
            .map(|line| line.as_str())
            .collect::<Vec<_>>()
            .join(" ");
        for name in [
            "ADDR=127.0.0.1",
            "NAME=[UNAVAILABLE]",
            "PROTO=ESMTP",
            "DESTADDR=127.0.0.1",
        ] {
            assert_eq!(
                all.matches(name).count(),
                1 + usize::from(name.starts_with("ADDR")),
                "{name}: {all}"
            );
        }
        assert_eq!(all.contains(" HELO="), helo_length <= 255, "{all}");
    }
}

fn enter_smtp(client: &mut LineClient, helo: &str, login: &str) {
    client.send(&format!("EHLO {helo}"));
    client.lines_until("250 ");
    let message = openssl::base64::encode_block(format!("\0{login}\0secret").as_bytes());
    client.ask(&format!("AUTH PLAIN {message}"), "235 2.0.0 OK");
}

/// A host name of this length, of labels of 60 characters at most.
fn host_name(number: usize, length: usize) -> String {
    let mut name = format!("h{number}.");
    while name.len() < length {
        let label = (length - name.len()).min(60);
        name.push_str(&"x".repeat(label.saturating_sub(1)));
        name.push('.');
    }
    name.trim_end_matches('.').to_owned()
}

#[test]
fn two_proxies_in_a_row_tell_dovecot_who_calls_the_first() {
    let dovecot = trusting();
    for (protocol, host) in [("imap", dovecot.imap), ("pop3", dovecot.pop3)] {
        let inner = format!(
            "{}{}",
            server(protocol, "set_real_ip_from = 127.0.0.1"),
            backend(host, "")
        );
        let inner = inner.replace(
            "listen = 127.0.0.1:0",
            "listen = 127.0.0.1:0 proxy_protocol",
        );
        let inner = Postern::start(&inner);
        let outer = format!(
            "{}{}",
            server(protocol, ""),
            backend(inner.address(protocol), "proxy_protocol = v2")
        );
        let outer = Postern::start(&outer);
        let mut client = LineClient::connect_from(ELSEWHERE, outer.address(protocol));
        client.line();
        let user = format!("chained-{protocol}");
        log_in(&mut client, protocol, &user);
        let login = wait_for_line(&dovecot.log, &format!("Login: user=<{user}>"));
        assert!(login.contains("rip=127.0.0.9, "), "{login}");
        let line = inner.wait_for_log("client logged in");
        let session = format!("session=<proxy.test-{}-{}>", inner.id(), number(&line));
        assert!(login.contains(&session), "{login}\n{line}");
        if protocol == "imap" {
            // The second one has counted the first.
            wait_for_line(
                &dovecot.log,
                &format!(
                    "{}, x-originating-ip=127.0.0.9",
                    &session[9..session.len() - 1]
                ),
            );
            wait_for_line(&dovecot.log, "x-proxy-ttl=3, ");
        }
    }
}

/// A proxy whose backend is itself, over a HAProxy that says this to it.
fn ring(protocol: &str, listen: &str, send: &str) -> (Postern, Haproxy) {
    let port = free_port();
    let ini = format!(
        "{}{}",
        server(protocol, "set_real_ip_from = 127.0.0.1"),
        backend(([127, 0, 0, 1], port).into(), "")
    );
    let listen = format!("listen = 127.0.0.1:0 {listen}");
    let postern = Postern::start(&ini.replace("listen = 127.0.0.1:0", &listen));
    let haproxy = haproxy_to(&postern, protocol, port, send);
    (postern, haproxy)
}

/// A HAProxy on this port in front of the proxy.
fn haproxy_to(postern: &Postern, protocol: &str, port: u16, send: &str) -> Haproxy {
    Haproxy::start_on(port, postern.address(protocol), send)
}

#[test]
fn a_loop_ends_with_a_line_that_says_so() {
    for protocol in ["imap", "pop3", "smtp"] {
        for (listen, send) in [
            ("", ""),
            ("proxy_protocol", "send-proxy"),
            ("proxy_protocol", "send-proxy-v2"),
        ] {
            let (postern, haproxy) = ring(protocol, listen, send);
            // The first visit may have come before HAProxy.
            let down = postern.count(" is down");
            let mut client = LineClient::connect(haproxy.address);
            client.line();
            match protocol {
                "imap" => client.ask(
                    "a LOGIN alice secret",
                    "a NO [UNAVAILABLE] mail server is not available",
                ),
                "pop3" => {
                    client.ask("USER alice", "+OK");
                    client.ask(
                        "PASS secret",
                        "-ERR [SYS/TEMP] mail server is not available",
                    );
                }
                _ => client.ask(
                    "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
                    "454 4.7.0 mail server is not available",
                ),
            }
            let line = postern.wait_for_log("proxies in a loop");
            assert!(line.contains("[error]"), "{line}");
            assert!(
                line.contains(&format!("{} leads back here", haproxy.address)),
                "{line}"
            );
            assert_eq!(postern.count("proxies in a loop"), 1, "{}", postern.log());
            // Visits come in the same way.
            let logins = postern.count("client login failed") + postern.count("login: \"alice\"");
            assert!(logins < 60, "{logins}: {}", postern.log());
            assert_eq!(postern.count(" is down"), down, "{}", postern.log());
        }
    }
}

#[test]
fn a_loop_by_the_answer_of_an_auth_server_ends_too() {
    for protocol in ["imap", "pop3"] {
        let port = free_port();
        let around = SocketAddr::from(([127, 0, 0, 1], port));
        let (postern, _auth) = proxy_to(protocol, around, "");
        let haproxy = haproxy_to(&postern, protocol, port, "");
        let (mut client, _) = LineClient::greeted(haproxy.address);
        match protocol {
            "imap" => client.ask("a LOGIN alice secret", "* BAD internal server error"),
            _ => {
                client.ask("USER alice", "+OK");
                client.ask("PASS secret", "-ERR internal server error");
            }
        }
        postern.wait_for_log("proxies in a loop");
        assert!(postern.count("client connected") < 10, "{}", postern.log());
    }
}

#[test]
fn an_nginx_behind_refuses_what_it_is_told_and_takes_the_login() {
    for protocol in ["imap", "pop3", "smtp"] {
        let peer = Peer::start(server_of(protocol));
        let address = peer.address();
        let auth = AuthServer::start(move |_| Answer::ok(address));
        let port = free_port();
        let nginx = Nginx::start(
            &format!(
                "mail {{\n server_name inner.test;\n auth_http {};\n xclient off;\n server {{\n listen \
                 127.0.0.1:{port};\n protocol {protocol};\n }}\n}}\n",
                auth.url().trim_start_matches("http://")
            ),
            port,
        );
        let more = "xclient = auto\nproxy_smtp_auth = on\nerror_log = stderr debug";
        let (postern, _auth) = proxy_to(protocol, ([127, 0, 0, 1], port).into(), more);
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        match protocol {
            "smtp" => client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK"),
            _ => log_in(&mut client, protocol, "alice"),
        }
        let asked = match protocol {
            "imap" => "sent to upstream: \"p4 ID",
            _ => "sent to upstream: \"XCLIENT",
        };
        postern.wait_for_log(asked);
        assert_eq!(postern.count("connecting again"), 0, "{}", postern.log());
        drop(nginx);
    }
}

#[test]
fn a_client_can_end_its_own_login_by_a_ttl_and_nobody_elses() {
    for (protocol, claim) in [
        ("imap", "i ID (\"x-proxy-ttl\" \"1\")"),
        ("pop3", "XCLIENT ADDR=6.6.6.6 TTL=1"),
        ("smtp", "XCLIENT ADDR=6.6.6.6 TTL=0"),
    ] {
        let peer = Peer::start(server_of(protocol));
        let (postern, _auth) = proxy_to(
            protocol,
            peer.address(),
            "xclient = off\nproxy_smtp_auth = on",
        );
        let (mut client, _) = LineClient::greeted(postern.address(protocol));
        client.send(claim);
        match protocol {
            "imap" => {
                client.lines_until("i OK");
                client.ask("a LOGIN alice secret", "* BAD internal server error");
            }
            "pop3" => {
                client.expect("-ERR invalid command");
                client.ask("USER alice", "+OK");
                client.ask("PASS secret", "-ERR internal server error");
            }
            _ => {
                client.expect("500 5.5.1 Invalid command");
                client.ask(
                    "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
                    "451 4.3.2 Internal server error",
                );
            }
        }
        postern.wait_for_log("has come through 4 proxies");
        assert_eq!(peer.accepted(), 0, "{protocol}");
    }
}
