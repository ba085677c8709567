//! Tests of addresses of backends and auth servers.

use super::super::system::System;
use super::*;

fn host(dns: &Dns, name: &str) -> Result<Vec<String>, ResolveError> {
    let found = dns.lookup_host(name, 143, Instant::now() + LIMIT)?;
    assert!(found.valid_until > Instant::now());
    Ok(found.addresses.iter().map(SocketAddr::to_string).collect())
}

fn not_found(name: &str) -> Result<Vec<String>, ResolveError> {
    Err(ResolveError::NotFound(name.to_owned()))
}

/// A server with these addresses for every name, in this order.
fn with_addresses(addresses: &'static [&str]) -> Server {
    Server::start(move |question| {
        let family = addresses
            .iter()
            .filter(|text| text.contains(':') == (question.kind == AAAA));
        let records: Vec<Vec<u8>> = family.map(|text| address(text)).collect();
        vec![question.reply(NOERROR, &records)]
    })
}

#[test]
fn a_literal_is_returned_at_once() {
    let server = Server::silent();
    let dns = dns(&[&server]);
    for (literal, address) in [
        ("192.0.2.7", "192.0.2.7:143"),
        ("2001:db8::7", "[2001:db8::7]:143"),
        ("[2001:db8::7]", "[2001:db8::7]:143"),
    ] {
        assert_eq!(host(&dns, literal), Ok(vec![address.to_owned()]));
    }
    assert!(server.asked().is_empty());
}

#[test]
fn families_take_turns_and_ipv6_is_first() {
    let server = with_addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]);
    assert_eq!(
        host(&dns(&[&server]), "imap.example"),
        Ok([
            "[2001:db8::1]:143",
            "192.0.2.1:143",
            "192.0.2.2:143",
            "192.0.2.3:143"
        ]
        .map(str::to_owned)
        .to_vec())
    );
}

#[test]
fn a_name_is_asked_for_as_it_stands() {
    let server = with_addresses(&["192.0.2.1"]);
    let dns = dns(&[&server]);
    for name in ["localhost", "IMAP", "imap.", "_x.example"] {
        assert_eq!(host(&dns, name), Ok(vec!["192.0.2.1:143".to_owned()]));
    }
    let mut asked = server.asked();
    asked.dedup_by_key(|(name, _)| name.clone());
    // `imap.` is `IMAP`, whose address is known; that it has none in IPv6 is not kept.
    assert_eq!(
        asked
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>(),
        ["localhost", "imap", "_x.example"]
    );
}

#[test]
fn a_family_that_is_off_is_not_asked_for() {
    let server = with_addresses(&["192.0.2.1", "2001:db8::1"]);
    let only = |ipv4, ipv6| {
        let settings = config::Resolver {
            ipv4,
            ipv6,
            ..settings(&[&server])
        };
        host(
            &Dns::new(Some(&settings)).expect("resolver"),
            "imap.example",
        )
    };
    assert_eq!(only(true, false), Ok(vec!["192.0.2.1:143".to_owned()]));
    assert_eq!(server.asked(), [("imap.example".to_owned(), A)]);
    assert_eq!(only(false, true), Ok(vec!["[2001:db8::1]:143".to_owned()]));
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_family_that_fails_or_is_silent_does_not_spoil_the_other() {
    let servfail = Server::start(|question| {
        vec![match question.kind {
            A => question.reply(NOERROR, &[address("192.0.2.1")]),
            _ => question.reply(SERVFAIL, &[]),
        }]
    });
    let silent = Server::start(|question| match question.kind {
        A => vec![question.reply(NOERROR, &[address("192.0.2.1")])],
        _ => vec![],
    });
    for server in [servfail, silent] {
        let deadline = Instant::now() + Duration::from_secs(30);
        let begun = Instant::now();
        let found = dns(&[&server]).lookup_host("imap.example", 143, deadline);
        assert_eq!(found.expect("one family").addresses.len(), 1);
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn what_cannot_be_found_says_why() {
    let server = Server::start(|question| match question.name.as_str() {
        "gone.example" => vec![question.reply(NXDOMAIN, &[])],
        "empty.example" => vec![question.reply(NOERROR, &[])],
        "fails.example" => vec![question.reply(SERVFAIL, &[])],
        _ => vec![],
    });
    let dns = dns(&[&server]);
    assert_eq!(host(&dns, "gone.example"), not_found("gone.example"));
    assert_eq!(host(&dns, "empty.example"), not_found("empty.example"));
    let failed = host(&dns, "fails.example").expect_err("a failure");
    assert!(matches!(failed, ResolveError::Failed { .. }));
    let text = failed.to_string();
    assert!(text.contains("fails.example") && text.contains(&server.address.to_string()));
    assert_eq!(
        host(&dns, "slow.example"),
        Err(ResolveError::TimedOut("slow.example".to_owned()))
    );
    for no_name in [
        "",
        ".",
        "a..b",
        ".a",
        "a b",
        "a\r\nb",
        "a/b",
        "\u{e4}.example",
        "1.2.3.4:5",
    ] {
        assert_eq!(
            host(&dns, no_name),
            Err(ResolveError::NotAName(no_name.to_owned()))
        );
    }
    assert!(host(&dns, &"a".repeat(64)).is_err());
    assert!(host(&dns, &"a.".repeat(128)).is_err());
}

#[test]
fn an_alias_without_its_target_is_followed_and_a_circle_is_not() {
    let alias = |target: &str| record(ITSELF, CNAME, 300, &wire(target));
    let server = Server::start(move |question| {
        let records = match question.name.as_str() {
            "a.example" => vec![alias("b.example")],
            "b.example" if question.kind == A => vec![address("192.0.2.1")],
            "c.example" => vec![alias("d.example")],
            "d.example" => vec![alias("c.example")],
            _ => vec![],
        };
        vec![question.reply(NOERROR, &records)]
    });
    let dns = dns(&[&server]);
    assert_eq!(
        host(&dns, "a.example"),
        Ok(vec!["192.0.2.1:143".to_owned()])
    );
    assert!(matches!(
        host(&dns, "c.example"),
        Err(ResolveError::Failed { .. })
    ));
    assert!(server.asked().len() < 30);
}

#[test]
fn the_systems_hosts_file_is_asked_first() {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("random bytes");
    let number = u64::from_ne_bytes(random);
    let hosts = std::env::temp_dir().join(format!("postern-hosts-{number}"));
    std::fs::write(&hosts, "192.0.2.1 imap\n2001:db8::1 imap\n").expect("write hosts");
    let system = System::new(hosts.clone(), "/nonexistent/resolv.conf".into());
    let dns = Dns {
        resolver: Arc::new(Resolver::of_system(system)),
        configured: false,
    };
    let both = ["[2001:db8::1]:143", "192.0.2.1:143"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(host(&dns, "imap"), Ok(both));
    assert_eq!(host(&dns, "localhost").map(|found| found.len()), Ok(2));
    std::fs::remove_file(hosts).expect("remove hosts");
}
