//! Records on the wire after the handshake: small ones, floods, new keys, all kinds of endings.

use super::pki::Recipe;
use super::*;

const NAME: &str = "mail.example.com";

/// All pairs of libraries and versions, opened.
fn links() -> Vec<Link> {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let mut links = Vec::new();
    for server in LIBRARIES {
        for client in LIBRARIES {
            for version in ["TLSv1.2", "TLSv1.3"] {
                if server == Library::Native && version == "TLSv1.3" {
                    continue;
                }
                let acceptor = acceptor(&server_settings(&folder, server, &[&own]));
                let mut settings = client_settings(&folder, client, &own);
                settings.proxy_ssl_protocols = vec![version.to_owned()];
                links.push(Link::of(&connector(&settings), NAME, &acceptor).open());
            }
        }
    }
    links
}

#[test]
fn records_of_one_byte_pass_in_order() {
    for mut link in links() {
        link.step = 1;
        for byte in 0..200 {
            assert_eq!(link.say(&[byte]), [byte]);
            assert_eq!(link.answer(&[byte]), [byte]);
        }
    }
}

#[test]
fn pending_output_stays_under_64_kib() {
    for mut link in links() {
        for engine in [&mut link.client, &mut link.server] {
            let mut total = 0;
            for _ in 0..1000 {
                total += engine.write(&[b'x'; 5000]).expect("written");
            }
            assert!(total > 16 * 1024);
            assert_eq!(engine.write(b"x"), Ok(0));
            let mut out = Vec::new();
            engine.give(&mut out, usize::MAX);
            assert!(out.len() < 64 * 1024, "{}", out.len());
            assert!(!engine.has_output());
            assert_eq!(engine.write(b"x"), Ok(1));
        }
    }
}

#[test]
fn floods_both_ways_arrive_whole_with_bounded_buffers() {
    const AMOUNT: usize = 1_000_000;
    for mut link in links() {
        let mut sent = [0, 0];
        let mut heard = [0, 0];
        let mut waiting: [Vec<u8>; 2] = Default::default();
        let byte = |at: usize| at.to_le_bytes()[0] ^ at.to_le_bytes()[1];
        for round in 0.. {
            let done = heard == [AMOUNT, AMOUNT];
            assert!(round < 10_000, "no progress: {sent:?} {heard:?}");
            if done {
                break;
            }
            for side in [0, 1] {
                let (from, to) = match side {
                    0 => (&mut link.client, &mut link.server),
                    _ => (&mut link.server, &mut link.client),
                };
                let end = AMOUNT.min(sent[side] + 20_000);
                let text: Vec<u8> = (sent[side]..end).map(byte).collect();
                sent[side] += from.write(&text).expect("written");
                let way = &mut waiting[side];
                if way.len() < 16 * 1024 {
                    from.give(way, 16 * 1024);
                }
                let taken = to.take(way).expect("taken");
                way.drain(..taken);
                // A slow reader: less than was sent.
                let mut buffer = [0; 3000];
                for _ in 0..3 {
                    match to.read(&mut buffer).expect("read") {
                        Plain::Bytes(count) => {
                            for got in &buffer[..count] {
                                assert_eq!(*got, byte(heard[side]));
                                heard[side] += 1;
                            }
                        }
                        other => assert_eq!(other, Plain::NeedMore),
                    }
                }
            }
        }
    }
}

#[test]
fn an_unread_engine_stops_taking() {
    for mut link in links() {
        let mut taken = 0;
        for _ in 0..200 {
            let _ = link.client.write(&[b'x'; 8000]).expect("written");
            let mut moving = Vec::new();
            link.client.give(&mut moving, 16 * 1024);
            let count = link.server.take(&moving).expect("taken");
            taken += count;
            if count < moving.len() {
                break;
            }
        }
        assert!(taken < 200 * 1024, "{taken} bytes are held");
    }
}

#[test]
fn close_notify_ends_one_direction_only() {
    for mut link in links() {
        assert_eq!(link.client.write(b"QUIT\r\n"), Ok(6));
        link.client.close();
        link.client.close();
        assert!(link.client.write(b"x").is_err());
        link.carry();
        assert_eq!(read_all(&mut link.server), b"QUIT\r\n");
        assert_eq!(at_end(&mut link.server), Plain::Closed);
        assert_eq!(at_end(&mut link.server), Plain::Closed);
        let long = vec![b'y'; 50_000];
        assert_eq!(link.answer(&long), long);
        assert_eq!(at_end(&mut link.client), Plain::NeedMore);
        link.server.close();
        link.carry();
        assert_eq!(at_end(&mut link.client), Plain::Closed);
        assert!(!link.client.has_output() && !link.server.has_output());
    }
}

#[test]
fn an_end_without_close_notify_is_told_after_the_last_byte() {
    for mut link in links() {
        assert_eq!(link.server.write(b"+OK\r\n"), Ok(5));
        link.carry();
        link.client.take_eof();
        assert_eq!(read_all(&mut link.client), b"+OK\r\n");
        assert_eq!(at_end(&mut link.client), Plain::Truncated);
        // The other direction is not touched.
        assert_eq!(link.say(b"x"), b"x");
    }
}

#[test]
fn a_forged_record_is_an_error_after_what_came_before_it() {
    for mut link in links() {
        let mut moving = Vec::new();
        for part in [&b"good"[..], b"forged"] {
            link.client.write(part).expect("written");
        }
        link.client.give(&mut moving, usize::MAX);
        let last = moving.len() - 1;
        moving[last] ^= 1;
        let taken = link.server.take(&moving);
        assert_eq!(link.server.read(&mut [0; 100]), Ok(Plain::Bytes(4)));
        let error = match taken {
            Err(error) => error,
            Ok(_) => link.server.read(&mut [0; 100]).expect_err("forged"),
        };
        assert_eq!(error.kind(), TlsErrorKind::Protocol);
        assert!(link.server.has_output(), "an alert");
        assert!(link.server.write(b"x").is_err());
        assert!(link.server.take(b"x").is_err());
        link.carry();
        let told = link
            .client
            .take(b"")
            .and_then(|_| link.client.read(&mut [0; 10]));
        let told = told.expect_err("alert");
        assert_eq!(told.kind(), TlsErrorKind::PeerAlert);
        assert!(told.to_string().ends_with("alert bad_record_mac"), "{told}");
    }
}

#[test]
fn new_keys_in_mid_stream_change_nothing() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    let acceptor = acceptor(&server_settings(&folder, Library::Rustls, &[&own]));
    for library in LIBRARIES {
        let connector = connector(&client_settings(&folder, library, &own));
        let mut server = rustls_engine(&acceptor);
        let mut client = connector.engine(NAME).expect("client");
        let mut moving = Vec::new();
        while !(client.handshake().expect("client") && server.handshake().expect("server")) {
            client.give(&mut moving, usize::MAX);
            server.take(&moving).expect("taken");
            moving.clear();
            server.give(&mut moving, usize::MAX);
            client.take(&moving).expect("taken");
            moving.clear();
        }
        for round in 0..20_u8 {
            server
                .connection
                .refresh_traffic_keys()
                .expect("key update");
            server.write(&[round; 100]).expect("written");
            server.give(&mut moving, usize::MAX);
            for byte in moving.drain(..) {
                assert_eq!(client.take(&[byte]), Ok(1));
            }
            assert_eq!(client.read(&mut [0; 200]), Ok(Plain::Bytes(100)));
            // Its answer goes out before the next record.
            client.write(&[round; 50]).expect("written");
            client.give(&mut moving, usize::MAX);
            server.take(&moving).expect("taken");
            moving.clear();
            assert_eq!(server.read(&mut [0; 200]), Ok(Plain::Bytes(50)));
        }
    }
}

fn rustls_engine(acceptor: &Acceptor) -> rustls::RustlsEngine {
    let config = acceptor.rustls_config().expect("rustls");
    let connection = ::rustls::ServerConnection::new(config).expect("server");
    rustls::RustlsEngine::new(connection.into(), rustls::Role::Server(None))
}

#[test]
fn a_client_that_asks_for_new_keys_or_handshakes_without_end_is_cut_off_or_bounded() {
    let folder = Folder::new();
    let own = Recipe {
        rsa: true,
        ..Recipe::named(NAME)
    }
    .self_signed();
    let acceptor = acceptor(&server_settings(&folder, Library::Rustls, &[&own]));
    let mut flooding = rustls_engine(&acceptor);
    let settings = client_settings(&folder, Library::Native, &own);
    let mut victim = connector(&settings).engine(NAME).expect("client");
    let mut moving = Vec::new();
    while !(victim.handshake().expect("client") && flooding.handshake().expect("server")) {
        victim.give(&mut moving, usize::MAX);
        flooding.take(&moving).expect("taken");
        moving.clear();
        flooding.give(&mut moving, usize::MAX);
        victim.take(&moving).expect("taken");
        moving.clear();
    }
    for _ in 0..5000 {
        flooding
            .connection
            .refresh_traffic_keys()
            .expect("key update");
        flooding.give(&mut moving, usize::MAX);
        let taken = victim.take(&moving).and_then(|_| victim.read(&mut [0; 10]));
        moving.clear();
        if taken.is_err() {
            break;
        }
    }
    victim.give(&mut moving, usize::MAX);
    assert!(moving.len() <= 64 * 1024);
}

#[test]
fn a_changed_byte_in_a_handshake_does_no_harm() {
    let folder = Folder::new();
    let own = Recipe::named(NAME).self_signed();
    for server in LIBRARIES {
        let mut settings = server_settings(&folder, server, &[&own]);
        if server == Library::Rustls {
            settings.ssl_verify_client = VerifyClient::OptionalNoCa;
        }
        let acceptor = acceptor(&settings);
        for client in LIBRARIES {
            let mut settings = client_settings(&folder, client, &own);
            settings.proxy_ssl_certificate = Some(folder.certificate(&own));
            settings.proxy_ssl_certificate_key = Some(folder.key(&own));
            let connector = connector(&settings);
            for position in (0..3000).step_by(13) {
                let mut link = Link::of(&connector, NAME, &acceptor);
                let mut passed = 0;
                for _ in 0..6 {
                    let _ = (link.client.handshake(), link.server.handshake());
                    for forth in [true, false] {
                        let (from, to) = match forth {
                            true => (&mut link.client, &mut link.server),
                            false => (&mut link.server, &mut link.client),
                        };
                        let mut moving = Vec::new();
                        from.give(&mut moving, usize::MAX);
                        if let Some(byte) = moving.get_mut(position - position.min(passed)) {
                            *byte ^= u8::from(passed <= position) << (position % 8);
                        }
                        passed += moving.len();
                        let _ = to.take(&moving);
                    }
                }
                let _ = (link.client.facts(), link.server.facts());
                let _ = (link.client.write(b"x"), link.server.write(b"x"));
            }
        }
    }
}
