//! `balance = hash`: where the sessions of one user meet, and who moves when a host goes or comes back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::tools::wait_for_line;
use crate::peers::unruly::says_and_closes;
use crate::peers::{Peer, pop3_server, server_of, smtp_server};
use crate::servers::dovecot::Dovecot;

const PROTOCOLS: [&str; 3] = ["imap", "pop3", "smtp"];

/// Logs in with this user's password, and stays so.
fn log_in(postern: &Postern, protocol: &str, user: &str) -> LineClient {
    let (mut client, _) = LineClient::greeted(postern.address(protocol));
    let message = STANDARD.encode(format!("\0{user}\0secret"));
    let (command, welcome) = match protocol {
        "imap" => (format!("a LOGIN \"{user}\" secret"), "a OK"),
        "pop3" => (format!("AUTH PLAIN {message}"), "+OK"),
        _ => (format!("AUTH PLAIN {message}"), "235 "),
    };
    client.send(&command);
    client.lines_until(welcome);
    client
}

/// A server of each protocol, with these lines about backends.
fn node(server: &str, backend: &str) -> Postern {
    let servers = PROTOCOLS.map(|protocol| {
        format!(
            "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n\
             {protocol}_capabilities = TEST\n{server}\n"
        )
    });
    let backend = format!("[backend mail]\nbalance = hash\nxclient = off\n{backend}\n");
    Postern::start(&(servers.concat() + &backend))
}

/// Machines with an address and a server of each protocol each.
struct Farm {
    /// By protocol, then by machine.
    peers: Vec<Vec<Peer>>,
    is_down: Vec<Arc<AtomicBool>>,
}

impl Farm {
    fn start(machines: u8) -> Farm {
        let is_down: Vec<_> = (0..machines)
            .map(|_| Arc::new(AtomicBool::new(false)))
            .collect();
        let peers = PROTOCOLS.map(|protocol| {
            let of_machine = |machine: u8| {
                let down = Arc::clone(&is_down[usize::from(machine)]);
                Peer::start_on([127, 0, 7, machine + 1], move |talk| {
                    match (down.load(Ordering::SeqCst), protocol) {
                        (false, protocol) => server_of(protocol)(talk),
                        (true, "imap") => says_and_closes("* BYE down")(talk),
                        (true, "pop3") => says_and_closes("-ERR down")(talk),
                        (true, _) => says_and_closes("421 down")(talk),
                    }
                })
            };
            (0..machines).map(of_machine).collect()
        });
        Farm {
            peers: peers.into(),
            is_down,
        }
    }

    /// `imap_hosts` and so on, of these machines.
    fn hosts(&self, machines: impl Iterator<Item = usize> + Clone) -> String {
        let lines = PROTOCOLS.iter().zip(&self.peers).map(|(protocol, peers)| {
            let addresses = machines.clone().map(|at| peers[at].address().to_string());
            let addresses: Vec<String> = addresses.collect();
            format!("{protocol}_hosts = {}\n", addresses.join(" "))
        });
        lines.collect()
    }

    /// Connections that each machine has got, of a protocol.
    fn accepted(&self, protocol: &str) -> Vec<usize> {
        let at = PROTOCOLS.iter().position(|other| *other == protocol);
        let peers = &self.peers[at.expect("one of the three")];
        peers.iter().map(Peer::accepted).collect()
    }

    /// Which machine gets a session of this user.
    fn machine(&self, postern: &Postern, protocol: &str, user: &str) -> usize {
        let before = self.accepted(protocol);
        drop(log_in(postern, protocol, user));
        let after = self.accepted(protocol);
        let serves =
            |&at: &usize| before[at] != after[at] && !self.is_down[at].load(Ordering::SeqCst);
        (0..after.len()).find(serves).expect("one has served")
    }

    fn set_down(&self, machine: usize, is_down: bool) {
        self.is_down[machine].store(is_down, Ordering::SeqCst);
    }
}

fn users() -> impl Iterator<Item = String> {
    (0..12).map(|number| format!("user{number}"))
}

#[test]
fn sessions_of_a_user_meet_on_one_dovecot() {
    let farm = [2, 3].map(|last: u8| {
        let dovecot = Dovecot::start_with(&format!("listen = 127.0.0.1, 127.0.0.{last}\n"));
        let smtp = Peer::start_on([127, 0, 0, last], smtp_server);
        (last, dovecot, smtp)
    });
    let hosts = |key: &str, port: fn(&(u8, Dovecot, Peer)) -> u16| {
        let items = farm
            .each_ref()
            .map(|one| format!("127.0.0.{}:{}", one.0, port(one)));
        format!("{key} = {}\n", items.join(" "))
    };
    let lines = [
        hosts("imap_hosts", |one| one.1.imap.port()),
        hosts("pop3_hosts", |one| one.1.pop3.port()),
        hosts("smtp_hosts", |one| one.2.address().port()),
    ];
    let postern = node("", &lines.concat());
    let mut used = BTreeSet::new();
    for user in users() {
        let before = farm.each_ref().map(|one| one.2.accepted());
        let clients = PROTOCOLS.map(|protocol| log_in(&postern, protocol, &user));
        let took_smtp = (0..2).find(|&at| farm[at].2.accepted() > before[at]);
        let at = took_smtp.expect("one has it");
        for protocol in ["imap", "pop3"] {
            let line = format!("{protocol}-login: Info: Login: user=<{user}>");
            wait_for_line(&farm[at].1.log, &line);
        }
        let other = std::fs::read_to_string(&farm[1 - at].1.log).unwrap_or_default();
        assert!(!other.contains(&format!("<{user}>")), "{other}");
        used.insert(at);
        drop(clients);
    }
    assert_eq!(used.len(), 2, "both have users");
}

#[test]
fn every_node_and_every_spelling_leads_to_the_same_machine() {
    let farm = Farm::start(3);
    let one = node("", &farm.hosts(0..3));
    let other = node("login_domain = example.org", &farm.hosts((0..3).rev()));
    let strips = node("strip_domain = on", &farm.hosts(0..3));
    let mut used = BTreeSet::new();
    for user in users() {
        let full = format!("{user}@example.org");
        let machine = farm.machine(&one, "imap", &full);
        for protocol in PROTOCOLS {
            let spellings = [full.to_uppercase(), full.clone()];
            for spelling in spellings {
                assert_eq!(
                    farm.machine(&one, protocol, &spelling),
                    machine,
                    "{spelling}"
                );
            }
            assert_eq!(farm.machine(&other, protocol, &user), machine, "{user}");
            assert_eq!(farm.machine(&strips, protocol, &full), machine, "{full}");
        }
        used.insert(machine);
    }
    assert_eq!(used.len(), 3, "all have users");
}

#[test]
fn an_auth_servers_user_and_authorization_id_count() {
    let farm = Farm::start(3);
    let backend = format!(
        "[backend mail]\nbalance = hash\nxclient = off\nauth_mechanism = off\n{}",
        farm.hosts(0..3)
    );
    let auth = AuthServer::start(|_| {
        let answer = ["Auth-Status: OK", "Auth-Backend: mail", "Auth-User: user5"];
        Answer::headers(&answer)
    });
    let server = service("imap", &auth, "imap_capabilities = TEST");
    let by_auth_server = Postern::start(&(server + &backend));
    let plain = node("", &farm.hosts(0..3));
    let machine = farm.machine(&plain, "imap", "user5");
    for user in users() {
        assert_eq!(farm.machine(&by_auth_server, "imap", &user), machine);
    }

    // Whom a client acts for is whose mailbox it is.
    for user in users() {
        let machine = farm.machine(&plain, "pop3", &user);
        let before = farm.accepted("smtp");
        let message = STANDARD.encode(format!("{user}\0assistant\0secret"));
        let (mut client, _) = LineClient::greeted(plain.address("smtp"));
        client.ask(&format!("AUTH PLAIN {message}"), "235 2.0.0 OK");
        let after = farm.accepted("smtp");
        assert!(
            after[machine] > before[machine],
            "{user}: {before:?} {after:?}"
        );
    }
}

#[test]
fn a_host_that_is_down_loses_its_users_alone_and_has_them_back() {
    let farm = Farm::start(3);
    let lines = format!("fail_timeout = 1s\n{}", farm.hosts(0..3));
    let postern = node("", &lines);
    let left = node("", &farm.hosts([0, 2].into_iter()));
    let places = |postern: &Postern, protocol: &str| -> Vec<usize> {
        users()
            .map(|user| farm.machine(postern, protocol, &user))
            .collect()
    };
    for protocol in PROTOCOLS {
        let before = places(&postern, protocol);
        assert!(before.contains(&1), "{before:?}");

        farm.set_down(1, true);
        let without = places(&postern, protocol);
        // The next in rank is who would have been first without the host that is down.
        assert_eq!(without, places(&left, protocol));
        for (before, without) in before.iter().zip(&without) {
            assert_eq!(before == without, *before != 1, "{before} {without}");
        }

        farm.set_down(1, false);
        thread::sleep(Duration::from_millis(1100));
        assert_eq!(places(&postern, protocol), before, "{protocol}");
    }
}

#[test]
fn several_ports_of_one_address_are_several_hosts() {
    let imap = [0; 3].map(|_| Peer::start(server_of("imap")));
    let pop3 = [0; 3].map(|_| Peer::start(pop3_server));
    let list = |peers: &[Peer; 3]| {
        peers
            .each_ref()
            .map(|peer| peer.address().to_string())
            .join(" ")
    };
    let lines = format!(
        "imap_hosts = {}\npop3_hosts = {}\nsmtp_hosts = {}\n",
        list(&imap),
        list(&pop3),
        SocketAddr::from(([127, 0, 0, 1], 9))
    );
    let postern = node("", &lines);
    let mut used = BTreeSet::new();
    for user in users() {
        let before = [&imap, &pop3].map(|peers| peers.each_ref().map(Peer::accepted));
        drop(["imap", "pop3"].map(|protocol| log_in(&postern, protocol, &user)));
        let after = [&imap, &pop3].map(|peers| peers.each_ref().map(Peer::accepted));
        let at = [0, 1].map(|of| (0..3).find(|&at| before[of][at] != after[of][at]));
        assert_eq!(at[0], at[1], "{user}");
        used.insert(at[0]);
    }
    assert_eq!(used.len(), 3);
}
