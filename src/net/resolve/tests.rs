//! Tests of look-ups against servers that lie, stall and send nonsense.

mod hosts;
mod server;

use std::slice;
use std::thread::sleep;

use super::*;
use server::{
    A, AAAA, CNAME, DNAME, FORMERR, ITSELF, NOERROR, NXDOMAIN, PTR, Question, REFUSED, SERVFAIL,
    Server, TRUNCATED, TXT, address, pointer, record, wire,
};

const CLIENT: &str = "192.0.2.1";
const LIMIT: Duration = Duration::from_millis(400);

fn settings(servers: &[&Server]) -> config::Resolver {
    config::Resolver {
        servers: servers.iter().map(|server| server.address).collect(),
        valid: None,
        ipv4: true,
        ipv6: true,
    }
}

fn dns(servers: &[&Server]) -> Dns {
    Dns::new(Some(&settings(servers))).expect("resolver")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn client_name(dns: &Dns, client: &str) -> HostName {
    let client = client.parse().expect("client address");
    dns.begin_client_name(client, LIMIT, || {}).wait(soon())
}

fn name(text: &str) -> HostName {
    HostName::Name(text.to_owned())
}

/// What the client's name is when the reverse look-up is answered so, and each name has its address.
fn name_by_pointer(reply: impl Fn(&Question) -> Vec<u8> + Send + 'static) -> HostName {
    let server = Server::start(move |question| match question.kind {
        PTR => vec![reply(question)],
        _ => vec![question.reply(NOERROR, &[address(CLIENT)])],
    });
    client_name(&dns(&[&server]), CLIENT)
}

/// What the client's name is when the forward look-up is answered so.
fn name_by_address(reply: impl Fn(&Question) -> Vec<u8> + Send + 'static) -> HostName {
    let server = Server::start(move |question| match question.kind {
        PTR => vec![question.reply(NOERROR, &[pointer("a.example")])],
        _ => vec![reply(question)],
    });
    client_name(&dns(&[&server]), CLIENT)
}

#[test]
fn a_name_that_leads_back_to_the_address_is_the_clients() {
    let server = Server::start(|question| {
        let records = match question.kind {
            PTR => vec![pointer("Mail.Example"), pointer("other.example")],
            A => vec![address("198.51.100.1"), address(CLIENT)],
            _ => vec![],
        };
        vec![question.reply(NOERROR, &records)]
    });
    let dns = dns(&[&server]);
    assert_eq!(client_name(&dns, CLIENT), name("mail.example"));
    assert_eq!(client_name(&dns, "::ffff:192.0.2.1"), name("mail.example"));
    assert_eq!(
        server.asked(),
        [
            ("1.2.0.192.in-addr.arpa".to_owned(), PTR),
            ("mail.example".to_owned(), A)
        ]
    );
}

#[test]
fn loopback_and_localhost_are_asked_of_the_server() {
    let server = Server::start(|question| {
        vec![match question.kind {
            PTR => question.reply(NOERROR, &[pointer("localhost")]),
            A => question.reply(NOERROR, &[address("127.0.0.1")]),
            _ => question.reply(NOERROR, &[address("::1")]),
        }]
    });
    let dns = dns(&[&server]);
    assert_eq!(client_name(&dns, "127.0.0.1"), name("localhost"));
    assert_eq!(client_name(&dns, "::1"), name("localhost"));
    let reverse_v6 = format!("1.{}ip6.arpa", "0.".repeat(31));
    assert_eq!(
        server.asked(),
        [
            ("1.0.0.127.in-addr.arpa".to_owned(), PTR),
            ("localhost".to_owned(), A),
            (reverse_v6, PTR),
            ("localhost".to_owned(), AAAA),
        ]
    );
}

#[test]
fn a_name_with_other_addresses_is_unavailable() {
    let other = |question: &Question| question.reply(NOERROR, &[address("192.0.2.2")]);
    assert_eq!(name_by_address(other), HostName::Unavailable);
}

#[test]
fn what_is_not_found_at_either_step_is_unavailable() {
    for flags in [NXDOMAIN, NOERROR] {
        let nothing = move |question: &Question| question.reply(flags, &[]);
        assert_eq!(name_by_pointer(nothing), HostName::Unavailable);
        assert_eq!(name_by_address(nothing), HostName::Unavailable);
    }
}

#[test]
fn a_server_that_fails_is_a_temporary_failure() {
    for flags in [SERVFAIL, REFUSED, FORMERR, 0x8184, 0x818f, TRUNCATED] {
        let fails = move |question: &Question| question.reply(flags, &[]);
        assert_eq!(name_by_pointer(fails), HostName::TempUnavail);
        assert_eq!(name_by_address(fails), HostName::TempUnavail);
    }
}

#[test]
fn a_malformed_answer_is_a_temporary_failure() {
    let cut = |question: &Question| {
        let mut reply = question.reply(NOERROR, &[pointer("a.example")]);
        reply.truncate(reply.len() - 3);
        reply
    };
    let loops = |question: &Question| {
        question.reply(NOERROR, &[record(b"\xc0\xff", PTR, 9, &wire("a.example"))])
    };
    let overrun =
        |question: &Question| question.reply(NOERROR, &[record(ITSELF, PTR, 9, b"\x3fa\0")]);
    let echo = |question: &Question| question.packet.clone();
    assert_eq!(name_by_pointer(cut), HostName::TempUnavail);
    assert_eq!(name_by_pointer(loops), HostName::TempUnavail);
    assert_eq!(name_by_pointer(overrun), HostName::TempUnavail);
    assert_eq!(name_by_pointer(echo), HostName::TempUnavail);
    let short =
        |question: &Question| question.reply(NOERROR, &[record(ITSELF, A, 9, &[192, 0, 2])]);
    assert_eq!(name_by_address(short), HostName::TempUnavail);
}

#[test]
fn records_without_a_usable_pointer_are_a_temporary_failure() {
    let records: [Vec<u8>; 6] = [
        record(ITSELF, PTR, 9, b""),
        record(ITSELF, PTR, 9, b"\0"),
        record(ITSELF, DNAME, 9, &wire("other.example")),
        record(ITSELF, CNAME, 9, &wire("other.example")),
        record(ITSELF, TXT, 9, b"\x01x"),
        record(&wire("other.example"), PTR, 9, &wire("a.example")),
    ];
    for record in records {
        let reply = move |question: &Question| question.reply(NOERROR, slice::from_ref(&record));
        assert_eq!(name_by_pointer(reply), HostName::TempUnavail);
    }
}

#[test]
fn a_name_with_odd_characters_is_a_temporary_failure() {
    for odd in [
        "a\r\nRCPT.example",
        "a b.example",
        "a_b.example",
        "a\0.example",
        "a\\032b.example",
        "a+b.example",
        "\u{e4}.example",
        "[unavailable]",
    ] {
        let reply = move |question: &Question| question.reply(NOERROR, &[pointer(odd)]);
        assert_eq!(name_by_pointer(reply), HostName::TempUnavail, "{odd:?}");
    }
    let dot_in_label =
        |question: &Question| question.reply(NOERROR, &[record(ITSELF, PTR, 9, b"\x03a.b\x00")]);
    assert_eq!(name_by_pointer(dot_in_label), HostName::TempUnavail);
}

#[test]
fn alias_and_pointer_in_one_answer_count_and_names_may_be_uncompressed() {
    let classless = |question: &Question| {
        let own = wire(&question.name);
        let target = wire("1.0-25.2.0.192.in-addr.arpa");
        let records = [
            record(&own, CNAME, 9, &target),
            record(&target, PTR, 9, &wire("a.example")),
        ];
        question.reply(NOERROR, &records)
    };
    assert_eq!(name_by_pointer(classless), name("a.example"));
    let circle = |question: &Question| {
        let own = wire(&question.name);
        let records = [
            record(&own, CNAME, 9, &wire("b.example")),
            record(&wire("b.example"), CNAME, 9, &own),
        ];
        question.reply(NOERROR, &records)
    };
    assert_eq!(name_by_pointer(circle), HostName::TempUnavail);
}

#[test]
fn the_longest_name_is_taken_whole() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    let expected = name(&longest);
    let reply = move |question: &Question| question.reply(NOERROR, &[pointer(&longest)]);
    assert_eq!(name_by_pointer(reply), expected);
}

#[test]
fn silence_is_a_temporary_failure_after_the_timeout() {
    let server = Server::silent();
    let begun = Instant::now();
    let mut pending =
        dns(&[&server]).begin_client_name(CLIENT.parse().expect("address"), LIMIT, || {});
    assert_eq!(pending.try_get(), None);
    assert_eq!(pending.wait(soon()), HostName::TempUnavail);
    assert!(begun.elapsed() >= LIMIT && begun.elapsed() < 4 * LIMIT);
    assert_eq!(pending.failure(), Some("no DNS server answered in time"));
}

#[test]
fn each_of_the_two_look_ups_has_the_whole_timeout() {
    let server = Server::start(|question| match question.kind {
        PTR => {
            sleep(LIMIT / 2);
            vec![question.reply(NOERROR, &[pointer("a.example")])]
        }
        _ => vec![],
    });
    let begun = Instant::now();
    assert_eq!(client_name(&dns(&[&server]), CLIENT), HostName::TempUnavail);
    assert!(begun.elapsed() >= LIMIT * 3 / 2);
}

#[test]
fn waiting_ends_at_the_deadline() {
    let server = Server::silent();
    let begun = Instant::now();
    let limit = Duration::from_secs(30);
    let mut pending =
        dns(&[&server]).begin_client_name(CLIENT.parse().expect("address"), limit, || {});
    let deadline = begun + Duration::from_millis(100);
    assert_eq!(pending.wait(deadline), HostName::TempUnavail);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

fn answers() -> Server {
    Server::start(|question| {
        vec![match question.kind {
            PTR => question.reply(NOERROR, &[pointer("a.example")]),
            A => question.reply(NOERROR, &[address(CLIENT)]),
            _ => question.reply(NOERROR, &[]),
        }]
    })
}

#[test]
fn servers_are_asked_in_the_listed_order() {
    let (first, second) = (answers(), answers());
    for _ in 0..20 {
        let mut settings = settings(&[&first, &second]);
        settings.valid = Some(Duration::from_nanos(1));
        let dns = Dns::new(Some(&settings)).expect("resolver");
        assert_eq!(client_name(&dns, CLIENT), name("a.example"));
    }
    assert_eq!(first.asked().len(), 40);
    assert!(second.asked().is_empty());
}

#[test]
fn a_server_that_fails_or_is_silent_is_followed_by_the_next() {
    let refuses = Server::start(|question| vec![question.reply(REFUSED, &[])]);
    let (silent, second) = (Server::silent(), answers());
    assert_eq!(
        client_name(&dns(&[&silent, &second]), CLIENT),
        name("a.example")
    );
    let begun = Instant::now();
    assert_eq!(
        client_name(&dns(&[&refuses, &second]), CLIENT),
        name("a.example")
    );
    let mut nobody_listens = settings(&[&second]);
    let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    nobody_listens
        .servers
        .insert(0, free.local_addr().expect("address"));
    drop(free);
    let dns = Dns::new(Some(&nobody_listens)).expect("resolver");
    assert_eq!(client_name(&dns, CLIENT), name("a.example"));
    assert!(begun.elapsed() < LIMIT);
}

#[test]
fn a_slow_answer_counts_although_another_server_was_asked_meanwhile() {
    let slow = Server::start(|question| {
        if question.number > 1 {
            return vec![];
        }
        sleep(LIMIT / 2);
        vec![match question.kind {
            PTR => question.reply(NOERROR, &[pointer("a.example")]),
            _ => question.reply(NOERROR, &[address(CLIENT)]),
        }]
    });
    let silent = Server::silent();
    assert_eq!(
        client_name(&dns(&[&slow, &silent]), CLIENT),
        name("a.example")
    );
}

#[test]
fn forged_packets_are_ignored() {
    let server = Server::start(|question| {
        let (forged, good) = match question.kind {
            PTR => (pointer("forged.example"), pointer("a.example")),
            _ => (address("192.0.2.9"), address(CLIENT)),
        };
        let mut wrong_id = question.reply(NOERROR, slice::from_ref(&forged));
        wrong_id[0] ^= 1;
        let mut wrong_question = question.reply(NOERROR, &[forged]);
        wrong_question[13] ^= 1;
        vec![
            vec![],
            vec![0],
            wrong_id,
            wrong_question,
            question.reply(NOERROR, &[good]),
        ]
    });
    assert_eq!(client_name(&dns(&[&server]), CLIENT), name("a.example"));
}

#[test]
fn a_truncated_answer_is_fetched_over_tcp() {
    let server = Server::over_tcp(|question| match question.kind {
        PTR => {
            let many = vec![pointer("a.example"); 100];
            question.reply(NOERROR, &many)
        }
        _ => question.reply(NOERROR, &[address(CLIENT)]),
    });
    assert_eq!(client_name(&dns(&[&server]), CLIENT), name("a.example"));
}

#[test]
fn stalled_look_ups_delay_nobody() {
    let (silent, good) = (Server::silent(), answers());
    let stalls = dns(&[&silent]);
    let long = Duration::from_secs(30);
    let stalled: Vec<PendingName> = (0..300)
        .map(|_| stalls.begin_client_name(CLIENT.parse().expect("address"), long, || {}))
        .collect();
    let begun = Instant::now();
    assert_eq!(client_name(&dns(&[&good]), CLIENT), name("a.example"));
    assert!(begun.elapsed() < LIMIT);
    drop(stalled);
}

#[test]
fn answers_are_kept_for_all_sessions_and_shared_by_equal_settings() {
    let server = answers();
    for _ in 0..3 {
        let dns = dns(&[&server]);
        assert_eq!(client_name(&dns, CLIENT), name("a.example"));
        assert_eq!(client_name(&dns.clone(), CLIENT), name("a.example"));
        std::mem::forget(dns);
    }
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn neither_failures_nor_names_not_found_are_kept() {
    for flags in [SERVFAIL, NXDOMAIN, NOERROR] {
        let server = Server::start(move |question| {
            vec![match (question.number, question.kind) {
                (0, _) => question.reply(flags, &[]),
                (_, PTR) => question.reply(NOERROR, &[pointer("a.example")]),
                _ => question.reply(NOERROR, &[address(CLIENT)]),
            }]
        });
        let dns = dns(&[&server]);
        assert_ne!(client_name(&dns, CLIENT), name("a.example"));
        assert_eq!(client_name(&dns, CLIENT), name("a.example"));
    }
}

#[test]
fn the_ttl_ends_an_answer_unless_valid_replaces_it() {
    fn server(ttl: u32) -> Server {
        Server::start(move |question| {
            vec![match question.kind {
                PTR => question.reply(NOERROR, &[record(ITSELF, PTR, ttl, &wire("a.example"))]),
                _ => question.reply(NOERROR, &[record(ITSELF, A, ttl, &[192, 0, 2, 1])]),
            }]
        })
    }
    fn questions(ttl: u32, valid: Option<Duration>) -> (usize, usize) {
        let server = server(ttl);
        let settings = config::Resolver {
            valid,
            ..settings(&[&server])
        };
        let dns = Dns::new(Some(&settings)).expect("resolver");
        assert_eq!(client_name(&dns, CLIENT), name("a.example"));
        assert_eq!(client_name(&dns, CLIENT), name("a.example"));
        let at_once = server.asked().len();
        sleep(Duration::from_millis(1100));
        assert_eq!(client_name(&dns, CLIENT), name("a.example"));
        (at_once, server.asked().len())
    }
    let minute = Some(Duration::from_secs(60));
    let short = Some(Duration::from_millis(900));
    std::thread::scope(|scope| {
        for (ttl, valid, expected) in [
            (0, None, (4, 6)),
            (0x8000_0000, None, (4, 6)),
            (1, None, (2, 4)),
            (60, None, (2, 2)),
            (0, minute, (2, 2)),
            (60, short, (2, 4)),
        ] {
            scope.spawn(move || assert_eq!(questions(ttl, valid), expected, "{ttl} {valid:?}"));
        }
    });
}

#[test]
fn without_a_resolver_the_name_is_unavailable() {
    let dns = Dns::new(None).expect("the system's");
    assert_eq!(client_name(&dns, "127.0.0.1"), HostName::Unavailable);
}

#[test]
fn names_are_written_as_xclient_wants_them() {
    assert_eq!(name("a.example").to_string(), "a.example");
    assert_eq!(HostName::Unavailable.to_string(), "[UNAVAILABLE]");
    assert_eq!(HostName::TempUnavail.to_string(), "[TEMPUNAVAIL]");
    let mut known = PendingName::known(HostName::TempUnavail);
    assert_eq!(known.try_get(), Some(HostName::TempUnavail));
    assert_eq!(known.wait(Instant::now()), HostName::TempUnavail);
}

#[test]
fn a_switched_off_family_is_not_asked_for_when_a_name_is_confirmed() {
    let server = Server::start(|question| {
        vec![match question.kind {
            PTR => question.reply(NOERROR, &[pointer("a.example")]),
            A => question.reply(NOERROR, &[address(CLIENT)]),
            _ => question.reply(NOERROR, &[address("2001:db8::1")]),
        }]
    });
    let settings = config::Resolver {
        ipv4: false,
        ..settings(&[&server])
    };
    let dns = Dns::new(Some(&settings)).expect("resolver");
    assert_eq!(client_name(&dns, CLIENT), HostName::Unavailable);
    assert!(server.asked().iter().all(|(_, kind)| *kind != A));
}

#[test]
fn a_look_up_that_panics_is_a_failure_and_harms_no_other() {
    async fn fails() -> ClientName {
        let empty: [u8; 0] = [];
        ClientName::failed(Failure::Thread(
            empty[usize::from(CLIENT.is_empty())].to_string(),
        ))
    }
    let mut pending = PendingName {
        running: thread::start(fails()).ok(),
        answer: None,
    };
    assert_eq!(pending.wait(soon()), HostName::TempUnavail);
    let server = answers();
    assert_eq!(client_name(&dns(&[&server]), CLIENT), name("a.example"));
}

#[test]
fn random_answers_never_panic_or_hang() {
    let server = Server::start(|question| {
        let mut reply = match question.kind {
            PTR => question.reply(NOERROR, &[pointer("a.example"), pointer("b.example")]),
            _ => question.reply(NOERROR, &[address(CLIENT), address(CLIENT)]),
        };
        let mut random = [0; 4];
        getrandom::fill(&mut random).expect("random bytes");
        let at = 2 + usize::from(random[0]) % (reply.len() - 2);
        reply[at] = random[1];
        let at = 2 + usize::from(random[2]) % (reply.len() - 2);
        reply[at] = random[3];
        vec![reply]
    });
    let settings = config::Resolver {
        valid: Some(Duration::from_nanos(1)),
        ..settings(&[&server])
    };
    let dns = Dns::new(Some(&settings)).expect("resolver");
    let begun = Instant::now();
    let mut pending: Vec<PendingName> = (0..200)
        .map(|_| dns.begin_client_name(CLIENT.parse().expect("address"), LIMIT, || {}))
        .collect();
    for pending in &mut pending {
        pending.wait(soon());
        let failure = pending.failure().unwrap_or_default();
        assert!(!failure.contains("thread"), "{failure}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8));
}
