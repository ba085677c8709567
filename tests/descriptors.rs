//! Out of descriptors: accepting pauses, those who only stand there make room, and nobody else is blamed.

use std::thread;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::crowd::log_in;
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::wait::{PATIENCE, until_true};
use crate::peers::{Peer, imap_server};

const BUSY: &str = "* BYE [UNAVAILABLE] Too many connections, try again later";

/// The proxy after its first session: what is made once is made by then.
fn start() -> (Postern, Peer, AuthServer) {
    let backend = Peer::start(imap_server);
    let place = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok_with(place, &["Connection: close"]));
    let postern = Postern::start(&service("imap", &auth, ""));
    drop(LineClient::imap_login(postern.address("imap")));
    postern.wait_for_log("session closed");
    (postern, backend, auth)
}

#[test]
fn sleepers_before_login_make_room_and_it_is_said_once() {
    let (postern, _backend, _auth) = start();
    let address = postern.address("imap");
    let mut relayed = LineClient::imap_login(address);
    postern.leave_descriptors(6);
    let mut crowd: Vec<_> = (0..20).map(|_| LineClient::connect(address)).collect();
    postern.wait_for_log("accept() failed");
    let line = postern.wait_for_log("accept() failed");
    assert!(line.contains("[crit]"), "{line}");
    assert!(line.contains("(24: Too many open files)"), "{line}");
    // Nobody of the crowd goes by himself.
    postern.wait_for_log("accepting connections again");
    assert_eq!(postern.lines_with("accept() failed").len(), 1);
    assert_eq!(postern.lines_with("accepting connections again").len(), 1);
    until_true("all who only stand there have made room", PATIENCE, || {
        postern.lines_with("session made room for others").len() == 20
    });
    log_in(address, "imap");
    let (mut first, greeting) = (crowd.remove(0), "* OK IMAP4 ready");
    first.expect(greeting);
    first.expect(BUSY);
    first.expect_close();
    relayed.ask("b NOOP", "b OK backend NOOP");
    postern.stop();
}

#[test]
fn there_is_a_descriptor_for_a_login_beside_those_who_only_stand_there() {
    let (postern, _backend, _auth) = start();
    let address = postern.address("imap");
    postern.leave_descriptors(20);
    let _crowd: Vec<_> = (0..19).map(|_| LineClient::greeted(address)).collect();
    // One more fits, and its login needs two others.
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(500));
        log_in(address, "imap");
    }
    postern.stop();
}

#[test]
fn a_login_that_finds_no_descriptor_is_no_fault_of_the_backend() {
    let backend = Peer::start(imap_server);
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nimap_capabilities = IMAP4rev1\n\
         [backend only]\nhosts = {}\n",
        backend.address()
    ));
    let address = postern.address("imap");
    drop(LineClient::imap_login(address));
    postern.wait_for_log("session closed");
    postern.leave_descriptors(1);
    let (mut client, _) = LineClient::greeted(address);
    client.ask("a LOGIN alice secret", "* BAD internal server error");
    client.expect_close();
    let line = postern.wait_for_log("Too many open files");
    assert!(line.contains("no connection to upstream"), "{line}");
    assert_eq!(postern.lines_with("is down").len(), 0);
    until_true("it is closed", PATIENCE, || {
        postern.lines_with("session closed").len() == 2
    });
    postern.leave_descriptors(10);
    drop(LineClient::imap_login(address));
    postern.stop();
}

#[test]
fn an_auth_server_that_cannot_be_asked_for_want_of_descriptors_is_asked_again() {
    let (postern, _backend, auth) = start();
    let address = postern.address("imap");
    postern.leave_descriptors(1);
    let (mut client, _) = LineClient::greeted(address);
    client.ask("a LOGIN alice secret", "* BAD internal server error");
    client.expect_close();
    postern.wait_for_log("Too many open files");
    assert_eq!(auth.requests().len(), 1);
    thread::sleep(Duration::from_millis(300));
    postern.leave_descriptors(10);
    drop(LineClient::imap_login(address));
    postern.stop();
}
