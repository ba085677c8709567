//! Several nodes side by side that share a store, Redis or Valkey: how it is reached. What is counted there stands in
//! `counts`, bans in `bans`; that a store which is slow, gone or talks nonsense harms nobody, in `trouble`.

mod bans;
mod counts;
mod trouble;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::operate::{code, json, operate, well};
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::wait::until_true;
use crate::peers::{Peer, imap_server};
use crate::servers::haproxy::Haproxy;
use crate::servers::pki::Pki;
use crate::servers::redis::Redis;

/// A machine under load is slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two nodes, what is behind them, and what they share.
struct Nodes {
    nodes: Vec<Postern>,
    auth: AuthServer,
    _backend: Peer,
}

const IN_USE: &str = "limits_store ";

impl Nodes {
    /// Two with these lines in `[postern]` and in their servers. The auth server refuses passwords that begin with `wrong`
    /// and has no answer to the password `stalled`.
    fn start(of_process: &str, of_server: &str) -> Nodes {
        let backend = Peer::start(imap_server);
        let target = backend.address();
        let auth = AuthServer::start(move |request| match request.header("Auth-Pass") {
            Some(password) if password.starts_with("wrong") => Answer::refuse("Wrong password"),
            Some("stalled") => Answer::Stall,
            _ => Answer::ok(target),
        });
        let server = crate::common::service("imap", &auth, of_server);
        let ini = format!("[postern]\ncontrol = control\n{of_process}\n{server}");
        Nodes {
            nodes: (0..2).map(|_| Postern::start(&ini)).collect(),
            auth,
            _backend: backend,
        }
    }

    fn sharing(redis: &Redis, of_server: &str) -> Nodes {
        let nodes = Nodes::start(&format!("limits_store = {}", redis.url()), of_server);
        nodes.wait_for_store();
        nodes
    }

    fn wait_for_store(&self) {
        for node in &self.nodes {
            until_true("the store is in use", PATIENCE, || {
                node.lines_with(IN_USE)
                    .iter()
                    .any(|line| line.ends_with(": is in use") || line.ends_with(": is back"))
            });
        }
    }

    fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].address("imap")
    }

    fn connect(&self, node: usize, last: u8) -> LineClient {
        LineClient::connect_from([127, 0, 0, last], self.address(node))
    }

    fn log_in(&self, node: usize, last: u8) -> LineClient {
        let mut client = self.connect(node, last);
        client.expect("* OK IMAP4 ready");
        client.send("a LOGIN alice secret");
        client.lines_until("a OK");
        client
    }

    fn lets_in(&self, node: usize, last: u8) -> bool {
        use std::io::Write;
        let client = self.connect(node, last);
        let _ = client.stream().write_all(b"a LOGOUT\r\n");
        let mut client = client;
        !client.rest().is_empty()
    }

    fn stop(self) -> Vec<String> {
        self.nodes.into_iter().map(Postern::stop).collect()
    }
}

/// The lines of a `[server]` behind a balancer.
const BALANCED: &str = "listen = 127.0.0.1:0 proxy_protocol\nset_real_ip_from = 127.0.0.1\n";

/// HAProxy in front of the nodes, which asks them in turn.
fn balancer(nodes: &Nodes) -> Haproxy {
    let port = free_port();
    let mut sections = format!(
        "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n\
         listen front\n    bind 127.0.0.1:{port}\n    balance roundrobin\n"
    );
    for (number, node) in nodes.nodes.iter().enumerate() {
        let target = node.addresses("imap")[1];
        sections.push_str(&format!("    server node{number} {target} send-proxy-v2\n"));
    }
    Haproxy::start_with(port, &sections)
}

/// One login from this address of the machine: the client, the answer, and how long it took.
fn try_login(
    last: u8,
    target: SocketAddr,
    login: &str,
    password: &str,
) -> (LineClient, String, Duration) {
    let began = Instant::now();
    let mut client = LineClient::connect_from([127, 0, 0, last], target);
    client.expect("* OK IMAP4 ready");
    client.send(&format!("a LOGIN {login} {password}"));
    let mut line = client.line_within(Duration::from_secs(40));
    while line.starts_with("* ") {
        line = client.line_within(Duration::from_secs(40));
    }
    (client, line, began.elapsed())
}

/// How long the answers to these many guesses took.
fn guess(target: SocketAddr, guesses: usize) -> Vec<Duration> {
    let guess = |number| {
        let (_, line, took) = try_login(42, target, "alice", &format!("wrong{number}"));
        assert!(line.starts_with("a NO"), "{line}");
        took
    };
    (0..guesses).map(guess).collect()
}

#[test]
fn the_store_is_reached_over_tls_and_unix_sockets_with_a_password() {
    let redis = Redis::start_with(free_port(), Some("geheim-1"));
    let trust = format!(
        "limits_store_trusted_certificate = {}",
        Pki::shared().authority().display()
    );
    for url in [redis.url(), redis.tls_url() + "/3", redis.unix_url()] {
        let nodes = Nodes::start(&format!("limits_store = {url}\n{trust}"), "");
        nodes.wait_for_store();
        well(operate(&nodes.nodes[0], &["ban", "127.0.0.7"]));
        until_true("it holds on the other node", PATIENCE, || {
            !nodes.lets_in(1, 7)
        });
        well(operate(&nodes.nodes[0], &["unban", "127.0.0.7"]));
        until_true("it is lifted there", PATIENCE, || nodes.lets_in(1, 7));
        let checked = operate(&nodes.nodes[0], &["check", "--live"]);
        let said = String::from_utf8_lossy(&checked.stdout);
        let is_good = |line: &str| line.contains("limits_store ") && line.starts_with("ok");
        assert!(
            said.lines()
                .any(|line| is_good(line) && line.contains(": connected")),
            "{said}"
        );
        let mut told = nodes.stop();
        told.push(format!("{checked:?}"));
        for text in told {
            assert!(!text.contains("geheim"), "{text}");
        }
    }
}

#[test]
fn a_store_that_refuses_is_told_of_without_its_password_and_keeps_nobody_from_starting() {
    let redis = Redis::start_with(free_port(), Some("geheim-1"));
    let nobody = free_port();
    for (url, why) in [
        (
            format!("redis://:geheim-2@{}", redis.address),
            "the login failed (WRONGPASS)",
        ),
        (format!("redis://{}", redis.address), "NOAUTH"),
        // Nobody trusts its certificate.
        (redis.tls_url(), "TLS failed"),
        (format!("redis://127.0.0.1:{nobody}"), "connect() failed"),
        ("redis://no.such.name.invalid".to_owned(), "no address"),
        ("unix:/no/such/socket".to_owned(), "connect() failed"),
    ] {
        let nodes = Nodes::start(&format!("limits_store = {url}"), "");
        let line = nodes.nodes[0].wait_for_log("this node counts alone until it is there");
        assert!(
            line.contains("[warn]") && line.contains(why),
            "{url}: {line}"
        );
        nodes.log_in(0, 7);
        well(operate(&nodes.nodes[0], &["reload"]));
        let checked = operate(&nodes.nodes[0], &["check", "--live"]);
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        let is_told = |line: &str| line.starts_with("warning") && line.contains(why);
        assert!(
            said.lines().any(is_told) && !said.contains("geheim"),
            "{said}"
        );
        for log in nodes.stop() {
            assert!(!log.contains("geheim"), "{log}");
        }
    }
}

#[test]
fn a_reload_takes_another_store_and_leaves_one_that_stays() {
    let (first, second) = (Redis::start(), Redis::start());
    let nodes = Nodes::sharing(&first, "");
    let node = &nodes.nodes[0];
    let file = node.folder().path().join("postern.ini");
    let ini = fs::read_to_string(&file).expect("it is there");
    well(operate(node, &["reload"]));
    well(operate(node, &["ban", "127.0.0.7"]));
    until_true("it is told", PATIENCE, || !nodes.lets_in(1, 7));
    assert_eq!(node.count(": is in use"), 1, "{}", node.log());

    fs::write(&file, ini.replace(&first.url(), &second.url())).expect("it is ours");
    well(operate(node, &["reload"]));
    until_true("the bans are there", PATIENCE, || {
        second.ask(&["ZRANGE", "postern:bans", "0", "-1"]) == ["127.0.0.7/32"]
    });
    let url = format!("limits_store = {}", first.url());
    fs::write(&file, ini.replace(&url, "")).expect("it is ours");
    well(operate(node, &["reload"]));
    // Its bans stay in memory.
    assert!(!nodes.lets_in(0, 7));
    until_true("the store is left", PATIENCE, || {
        let clients = second.ask(&["CLIENT", "LIST"]);
        clients.iter().filter(|line| line.contains("id=")).count() == 1
    });
    nodes.stop();
}
