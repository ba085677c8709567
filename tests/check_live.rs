//! `postern check --live`: what it finds in front of Dovecot and Postfix, and of hosts, ports and certificates
//! that are not as they should be.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tls::{serve_in_front_of, server_config};
use crate::peers::{Peer, server_of};
use crate::servers::pki::{Key, NAMES, Pair, Pki, State};
use crate::servers::{dovecot, local, postfix};

/// What was printed, and the exit status.
struct Checked {
    said: String,
    status: Option<i32>,
}

impl Checked {
    /// Insists on the status, and on a line with each of these beginnings and what else it has.
    fn expect(&self, status: i32, lines: &[(&str, &str)]) {
        let said = &self.said;
        for (begin, part) in lines {
            let is_it = |line: &str| line.starts_with(begin) && line.contains(part);
            assert!(
                said.lines().any(is_it),
                "no {begin:?} … {part:?} in:\n{said}"
            );
        }
        assert_eq!(self.status, Some(status), "{said}");
    }
}

fn check(ini: &str) -> Checked {
    let folder = TempDir::new("check-live");
    let file = folder.write("postern.ini", ini);
    check_file(&file.display().to_string())
}

fn check_file(file: &str) -> Checked {
    let output = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["check", "--live", "--config", file])
        .output()
        .expect("it starts");
    Checked {
        said: String::from_utf8([output.stdout, output.stderr].concat()).expect("text"),
        status: output.status.code(),
    }
}

fn server(protocol: &str, more: &str) -> String {
    format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:{}\n{more}\n",
        free_port()
    )
}

fn backend(host: SocketAddr, more: &str) -> String {
    format!("[backend office]\nhosts = {host}\nconnect_timeout = 2s\n{more}\n")
}

fn trust(ssl: &str, certificate: &std::path::Path) -> String {
    format!(
        "proxy_ssl = {ssl}\nproxy_ssl_trusted_certificate = {}\n",
        certificate.display()
    )
}

/// A small server behind TLS with this certificate.
fn stub(pair: &Pair) -> (Peer, SocketAddr) {
    let plain = Peer::start(server_of("imap"));
    let config = server_config(&pair.certificate, &pair.key, None);
    let address = serve_in_front_of(plain.address(), config);
    (plain, address)
}

#[test]
fn all_is_well_in_front_of_dovecot_and_postfix() {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let pair = Pki::shared().server().ssl_certificate();
    let imap = server("imap", &format!("starttls = on\n{pair}"));
    for (ssl, host, how) in [
        ("on", dovecot.imaps, "answers over TLS in "),
        ("starttls", dovecot.imap, "answers after STARTTLS in "),
    ] {
        let trusted = trust(ssl, &dovecot.certificate);
        let what = format!("ok       [backend office] imap 127.0.0.1 at {host}: ");
        check(&format!("{imap}{}", backend(host, &trusted))).expect(
            0,
            &[
                ("ok       [server imap] listen 127.0.0.1:", ": free"),
                ("ok       [server imap] certificate ", ": good for "),
                (&what, how),
                (&what, "IMAP4REV1"),
                (&what, ", verified"),
            ],
        );
    }
    let told = backend(postfix.smtp, "xclient = on");
    let what = format!(
        "ok       [backend office] smtp 127.0.0.1 at {}: ",
        postfix.smtp
    );
    check(&(server("smtp", "") + &told)).expect(
        0,
        &[
            (&what, "answers in plain text"),
            (&what, "XCLIENT is offered to this machine"),
        ],
    );
    for (protocol, host) in [
        ("imap", dovecot.imap_haproxy),
        ("pop3", dovecot.pop3_haproxy),
        ("smtp", postfix.smtp_haproxy),
    ] {
        let proxied = backend(host, "proxy_protocol = v2");
        let what = format!("ok       [backend office] {protocol} 127.0.0.1 at {host}: ");
        let checked = check(&(server(protocol, "") + &proxied));
        checked.expect(0, &[(&what, "behind a PROXY header")]);
    }
    let auth = AuthServer::start(move |_| Answer::ok(local(1)));
    let url = auth.url();
    check(&server("imap", &format!("auth_http = {url}"))).expect(
        0,
        &[
            (
                &format!("ok       [server imap] auth server {url}: "),
                "connected in ",
            ),
            (
                "ok       [server imap]: ",
                "the auth server names the backends",
            ),
        ],
    );
    // Over TLS its certificate is judged and shown.
    let pair = Pki::shared().server();
    let config = server_config(&pair.certificate, &pair.key, None);
    let https = serve_in_front_of(auth.address(), config);
    let url = format!("auth_http = https://{https}/auth");
    let authority = Pki::shared().authority();
    let trusted = format!(
        "auth_http_ssl_trusted_certificate = {}",
        authority.display()
    );
    check(&server("imap", &format!("{url}\n{trusted}"))).expect(
        0,
        &[(
            "ok       [server imap] auth server https://",
            "CN=mail.test",
        )],
    );
    let trusted = format!(
        "auth_http_ssl_trusted_certificate = {}",
        dovecot.certificate.display()
    );
    check(&server("imap", &format!("{url}\n{trusted}"))).expect(
        1,
        &[(
            "failed   [server imap] auth server https://",
            "is not trusted",
        )],
    );
    // It was not asked about anybody.
    assert!(auth.requests().is_empty());
}

#[test]
fn what_is_down_or_not_trusted_fails() {
    let nobody = local(free_port());
    let what = format!("failed   [backend office] imap 127.0.0.1 at {nobody}: ");
    let down = check(&(server("imap", "") + &backend(nobody, "")));
    down.expect(1, &[(&what, "connect() failed: Connection refused")]);

    let down = check(&server(
        "imap",
        &format!("auth_http = http://{nobody}/auth"),
    ));
    down.expect(
        1,
        &[(
            "failed   [server imap] auth server http://",
            "Connection refused",
        )],
    );

    let named = "[backend office]\nhosts = nowhere.invalid\nconnect_timeout = 2s\n";
    let unknown = check(&(server("imap", "") + named));
    unknown.expect(
        1,
        &[(
            "failed   [backend office] imap nowhere.invalid: ",
            "no address: ",
        )],
    );

    let pki = Pki::shared();
    for (state, why) in [
        (State::Expired, "expired"),
        (State::SelfSigned, "self-signed"),
    ] {
        let pair = pki.issue("mail.test", NAMES, Key::Ec, state);
        let (_peer, host) = stub(&pair);
        let what = format!("failed   [backend office] imap 127.0.0.1 at {host}: ");
        let trusted = trust("on", &pki.authority());
        check(&(server("imap", "") + &backend(host, &trusted))).expect(1, &[(&what, why)]);
    }
    // Nobody judges it, and somebody should know.
    let pair = pki.issue("mail.test", NAMES, Key::Ec, State::Expired);
    let (_peer, host) = stub(&pair);
    let lax = backend(host, "proxy_ssl = on\nproxy_ssl_verify = off");
    check(&(server("imap", "") + &lax)).expect(0, &[("warning ", "expired, not verified")]);
}

#[test]
fn xclient_and_proxy_headers_are_told_of_where_the_other_side_does_not_want_them() {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    for (xclient, status, begin) in [
        ("on", 1, "failed "),
        ("auto", 0, "warning "),
        ("off", 0, "ok "),
    ] {
        let told = backend(postfix.smtp_plain, &format!("xclient = {xclient}"));
        let checked = check(&(server("smtp", "") + &told));
        let part = if xclient == "off" {
            "answers"
        } else {
            "XCLIENT is not offered"
        };
        checked.expect(status, &[(begin, part)]);
        assert_eq!(
            checked.said.contains("XCLIENT is"),
            xclient != "off",
            "{}",
            checked.said
        );
    }
    let missing = check(&(server("imap", "") + &backend(dovecot.imap_haproxy, "")));
    missing.expect(
        1,
        &[(
            "failed ",
            "if it waits for a PROXY header, set `proxy_protocol`",
        )],
    );
    for (protocol, host) in [
        ("imap", dovecot.imap),
        ("pop3", dovecot.pop3),
        ("smtp", postfix.smtp),
    ] {
        let needless = check(&(server(protocol, "") + &backend(host, "proxy_protocol = v1")));
        needless.expect(
            1,
            &[(
                "failed ",
                "see whether the host expects one (`proxy_protocol`)",
            )],
        );
    }
}

#[test]
fn a_port_is_free_taken_or_that_of_the_process_that_runs() {
    let (_peer, host) = stub(Pki::shared().server());
    let trusted = backend(host, &trust("on", &Pki::shared().authority()));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it is bound");
    let ini = format!("[server imap]\nprotocol = imap\nlisten = {address}\n{trusted}");
    let by_us = format!("(pid {})", std::process::id());
    check(&ini).expect(
        1,
        &[(
            &format!("failed   [server imap] listen {address}: taken by "),
            &by_us,
        )],
    );
    drop(taken);

    let folder = TempDir::new("check-live");
    let control = folder.path().join("control");
    let socket = folder.path().join("imap");
    let ini = format!(
        "[postern]\ncontrol = {}\n[server imap]\nprotocol = imap\nlisten = {address}\nlisten = unix:{}\n{trusted}",
        control.display(),
        socket.display()
    );
    let postern = Postern::start(&ini);
    let its = format!("the Postern that runs (pid {}) listens there", postern.id());
    let file = folder.write("postern.ini", &ini);
    check_file(&file.display().to_string()).expect(
        0,
        &[
            (&format!("ok       [server imap] listen {address}: "), &its),
            ("ok       [server imap] listen unix:", &its),
        ],
    );
    // It is still there, and its socket is.
    assert!(socket.exists());
    let other = ini.replace("control = ", "control = off #");
    check(&other).expect(
        1,
        &[
            (
                "warning  [server imap] listen 127.0.0.1:",
                "held by postern (pid ",
            ),
            (
                "failed   [server imap] listen unix:",
                "somebody else listens there",
            ),
        ],
    );
}

#[test]
fn files_are_read_as_the_user_that_the_service_becomes() {
    let (_peer, host) = stub(Pki::shared().server());
    let trusted = backend(host, &trust("on", &Pki::shared().authority()));
    let ini = server("imap", "") + &trusted;
    let checked = check(&format!("[postern]\nuser = nobody\n{ini}"));
    // The folder of the authority is root's alone, or not.
    checked.expect(0, &[("ok       user: nobody ", "")]);
    assert!(!check(&ini).said.contains("user: "));
}
