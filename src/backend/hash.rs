//! `balance = hash`: the hosts of a backend in the order in which one user is given them.
//!
//! Rendezvous hashing: each host has a weight for each user, and the heaviest one comes first. When a host
//! is added or taken away, only those users move whom it is, or was, the heaviest for. Nothing is remembered,
//! so all nodes and all versions agree; whether a host works is decided by others.

use std::cmp::Reverse;
use std::collections::HashMap;

use openssl::sha::sha256;

use super::Candidate;

/// Puts candidates into the order of a user, who has one name in all protocols: by the weights of their
/// hosts, and the addresses of one host by theirs. Ports do not count, so that a machine has one weight for
/// all protocols; a host that stands several times in the list, on several ports, is another one each time.
pub(super) fn arrange(candidates: &mut [Candidate], user: &[u8]) {
    let mut ports: HashMap<String, Vec<u16>> = HashMap::new();
    candidates.sort_by_cached_key(|Candidate { host, address, .. }| {
        let ports = ports.entry(host.clone()).or_default();
        let port = address.port();
        let known = ports.iter().position(|&other| other == port);
        let at = known.unwrap_or_else(|| {
            ports.push(port);
            ports.len() - 1
        });
        let of_host = weight(&name(host, at), user);
        let of_address = weight(&address.ip().to_canonical().to_string(), user);
        (Reverse(of_host), Reverse(of_address))
    });
}

/// A host by its name and which one of that name it is; no host's name has a `#`.
fn name(host: &str, at: usize) -> String {
    match at {
        0 => host.to_owned(),
        at => format!("{host}#{}", at + 1),
    }
}

/// How much a host or an address weighs for a user: the first eight bytes of the SHA-256 of its name, a NUL
/// and the user's name, most significant first. Other nodes count on it: it never changes.
fn weight(name: &str, user: &[u8]) -> u64 {
    let digest = sha256(&[name.as_bytes(), b"\0", user].concat());
    let first = digest.first_chunk::<8>();
    first.map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn candidate(host: &str, address: &str) -> Candidate {
        Candidate {
            host: host.to_owned(),
            address: address.parse().expect("an address"),
            named_in: String::new(),
        }
    }

    /// So many hosts of a name each, on this port.
    fn hosts(count: usize, port: u16) -> Vec<Candidate> {
        let host = |at| {
            let address = format!("192.0.2.{at}:{port}");
            candidate(&format!("mail{at}.test"), &address)
        };
        (1..=count).map(host).collect()
    }

    fn first(mut candidates: Vec<Candidate>, user: &str) -> String {
        arrange(&mut candidates, user.as_bytes());
        candidates.swap_remove(0).host
    }

    fn users() -> impl Iterator<Item = String> {
        (0..10_000).map(|number| format!("user{number}@example.org"))
    }

    #[test]
    fn ten_thousand_users_spread_evenly_over_five_hosts() {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for user in users() {
            *counts.entry(first(hosts(5, 143), &user)).or_default() += 1;
        }
        assert_eq!(counts.len(), 5);
        let even = counts.values().all(|count| (1800..=2200).contains(count));
        assert!(even, "{counts:?}");
    }

    #[test]
    fn only_the_users_of_a_host_move_when_it_goes() {
        for user in users() {
            let before = first(hosts(5, 143), &user);
            let mut left = hosts(5, 143);
            left.remove(2);
            let after = first(left, &user);
            assert_eq!(before == after, before != "mail3.test", "{user}");
        }
    }

    #[test]
    fn the_next_in_rank_takes_over() {
        let mut ranked = hosts(5, 143);
        arrange(&mut ranked, b"bob");
        let mut left = hosts(5, 143);
        left.retain(|candidate| candidate.host != ranked[0].host);
        assert_eq!(first(left, "bob"), ranked[1].host);
    }

    #[test]
    fn neither_port_nor_order_counts() {
        for user in users().take(100) {
            let mut backwards = hosts(5, 587);
            backwards.reverse();
            assert_eq!(first(hosts(5, 143), &user), first(backwards, &user));
        }
    }

    #[test]
    fn addresses_of_one_name_have_an_order_for_each_user_too() {
        let order = |port, user: &str| {
            let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| format!("{ip}:{port}"));
            let mut all: Vec<_> = all.iter().map(|ip| candidate("mail.test", ip)).collect();
            arrange(&mut all, user.as_bytes());
            all.iter().map(|one| one.address.ip()).collect::<Vec<_>>()
        };
        let all: Vec<_> = users().take(100).map(|user| order(143, &user)).collect();
        let again: Vec<_> = users().take(100).map(|user| order(587, &user)).collect();
        assert_eq!(all, again);
        assert!(
            all.iter().any(|order| *order != all[0]),
            "one order for all"
        );
    }

    #[test]
    fn a_name_with_several_ports_is_as_many_hosts() {
        let on = |ports: [u16; 2], user: &str| {
            let at = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)).to_string());
            let mut both = at.map(|at| candidate("127.0.0.1", &at));
            arrange(&mut both, user.as_bytes());
            ports
                .iter()
                .position(|&port| port == both[0].address.port())
        };
        let imap: Vec<_> = users()
            .take(100)
            .map(|user| on([1143, 2143], &user))
            .collect();
        let pop3: Vec<_> = users()
            .take(100)
            .map(|user| on([1110, 2110], &user))
            .collect();
        assert_eq!(imap, pop3);
        assert!(imap.contains(&Some(0)) && imap.contains(&Some(1)));
    }

    #[test]
    fn weights_are_the_same_for_ever() {
        assert_eq!(
            weight("mail1.test", b"bob@example.org"),
            0x037c_59f7_ab9e_4940
        );
    }
}
