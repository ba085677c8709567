//! `auth_cache`: which logins an auth server is not asked about again, and when it is.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::temp::TempDir;
use crate::common::tools::python;
use crate::common::wait::{self, PATIENCE};
use crate::peers::{Peer, imap_server};
use crate::servers::dovecot;

fn log_in(address: SocketAddr, login: &str, password: &str) -> String {
    let (mut client, _) = LineClient::greeted(address);
    say_login(&mut client, login, password)
}

fn say_login(client: &mut LineClient, login: &str, password: &str) -> String {
    client.send(&format!("a LOGIN {login} {password}"));
    client.line()
}

/// One that knows `secret` alone, and gives backends another password.
fn auth_server(backend: SocketAddr) -> AuthServer {
    AuthServer::start(move |request| match request.header("Auth-Pass") {
        Some("secret") => Answer::ok_with(backend, &["Auth-User: shown", "Auth-Pass: to-backend"]),
        _ => Answer::refuse("no"),
    })
}

#[test]
fn an_auth_server_is_asked_once_for_the_same_login() {
    let backend = Peer::start(imap_server);
    let auth = auth_server(backend.address());
    let postern = Postern::start(&service("imap", &auth, "auth_cache = 1h"));
    let address = postern.address("imap");
    for _ in 0..5 {
        assert!(log_in(address, "anna", "secret").starts_with("a OK"));
        backend.wait_for("shown {10}\r\nto-backend\r\n");
        backend.forget();
    }
    assert_eq!(auth.requests().len(), 1);
    // Anything else about it is another login.
    assert!(log_in(address, "Anna", "secret").starts_with("a OK"));
    assert_eq!(auth.requests().len(), 2);
    let mut client = LineClient::connect_from([127, 0, 0, 2], address);
    client.line();
    assert!(say_login(&mut client, "anna", "secret").starts_with("a OK"));
    assert_eq!(auth.requests().len(), 3);
    // A refusal is never remembered, and no wrong password is near enough.
    for number in 4..7 {
        assert!(log_in(address, "anna", "secreT").starts_with("a NO"));
        assert_eq!(auth.requests().len(), number);
    }
    // A reload forgets all.
    postern.signal(Signal::SIGHUP);
    postern.wait_for_log("read anew");
    wait::until_true("the new configuration holds", PATIENCE, || {
        assert!(log_in(address, "anna", "secret").starts_with("a OK"));
        auth.requests().len() > 6
    });
}

#[test]
fn without_the_directive_each_login_is_asked_about() {
    let backend = Peer::start(imap_server);
    let auth = auth_server(backend.address());
    let postern = Postern::start(&service("imap", &auth, ""));
    for number in 1..4 {
        assert!(log_in(postern.address("imap"), "anna", "secret").starts_with("a OK"));
        assert_eq!(auth.requests().len(), number);
    }
}

#[test]
fn the_time_of_a_remembered_login_ends() {
    let backend = Peer::start(imap_server);
    let auth = auth_server(backend.address());
    let postern = Postern::start(&service("imap", &auth, "auth_cache = 1s"));
    assert!(log_in(postern.address("imap"), "anna", "secret").starts_with("a OK"));
    wait::until_true("it is asked again", PATIENCE, || {
        assert!(log_in(postern.address("imap"), "anna", "secret").starts_with("a OK"));
        auth.requests().len() > 1
    });
}

#[test]
fn a_refusal_of_the_backend_makes_a_login_forgotten() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let is_changed = Arc::new(AtomicBool::new(false));
    let changed = Arc::clone(&is_changed);
    // The backend stub refuses this password.
    let auth = AuthServer::start(move |_| match changed.load(Ordering::SeqCst) {
        false => Answer::ok_with(address, &["Auth-Pass: refused"]),
        true => Answer::ok_with(address, &["Auth-Pass: new"]),
    });
    let postern = Postern::start(&service("imap", &auth, "auth_cache = 1h"));
    let proxy = postern.address("imap");
    assert!(!log_in(proxy, "anna", "secret").starts_with("a OK"));
    assert_eq!(auth.requests().len(), 1);
    is_changed.store(true, Ordering::SeqCst);
    assert!(log_in(proxy, "anna", "secret").starts_with("a OK"));
    assert_eq!(auth.requests().len(), 2);
    assert!(log_in(proxy, "anna", "secret").starts_with("a OK"));
    assert_eq!(auth.requests().len(), 2);
}

#[test]
fn answers_to_a_challenge_are_never_remembered() {
    const SCRIPT: &str = "
import imaplib, poplib, sys
imap, pop3 = sys.argv[1:]
for _ in range(2):
    with imaplib.IMAP4('127.0.0.1', int(imap)) as client:
        client.login_cram_md5('anna', 'secret')
    client = poplib.POP3('127.0.0.1', int(pop3))
    client.apop('anna', 'secret')
    client.quit()
";
    let dovecot = dovecot::shared();
    let (imap, pop3) = (dovecot.imap, dovecot.pop3);
    let auth = AuthServer::start(move |request| {
        let backend = match request.header("Auth-Protocol") {
            Some("imap") => imap,
            _ => pop3,
        };
        Answer::ok_with(backend, &["Auth-Pass: secret"])
    });
    let services = [
        service("imap", &auth, "imap_auth = plain cram-md5\nauth_cache = 1h"),
        service("pop3", &auth, "pop3_auth = plain apop\nauth_cache = 1h"),
    ];
    let postern = Postern::start(&services.concat());
    let ports = ["imap", "pop3"].map(|name| postern.address(name).port().to_string());
    python(SCRIPT, &[&ports[0], &ports[1]]).text();
    assert_eq!(auth.requests().len(), 4);
}

#[test]
fn a_file_of_users_that_changes_makes_all_forgotten() {
    let folder = TempDir::new("auth-cache");
    let users = folder.write(
        "users",
        "anna:{PLAIN}secret:allow_nets=127.0.0.0/8\nbert:{PLAIN}secret\n",
    );
    let backend = Peer::start(imap_server);
    let ini = format!(
        "[postern]\nerror_log = stderr debug\n[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         imap_capabilities = IMAP4rev1\nauth_file = users\nauth_cache = 1h\nauth_penalty_max = off\n[backend a]\nhosts = {}\n",
        backend.address()
    );
    let postern = Postern::start_in(folder, &ini);
    let address = postern.address("imap");
    for _ in 0..3 {
        assert!(log_in(address, "anna", "secret").starts_with("a OK"));
    }
    assert!(log_in(address, "bert", "refused").starts_with("a NO"));
    wait::until_true("two were remembered", PATIENCE, || {
        postern.count("the login is remembered (auth_cache)") == 2
    });
    assert_eq!(
        postern.wait_for_lines("a password is checked by PLAIN", 2),
        2
    );
    let text = fs::read_to_string(&users).expect("it is ours");
    fs::write(&users, text.replace("127.0.0.0/8", "10.0.0.0/8")).expect("it is ours");
    postern.wait_for_log("was read again");
    assert!(log_in(address, "anna", "secret").starts_with("a NO"));
    let log = postern.log();
    assert!(!log.contains("secret"), "{log}");
}
