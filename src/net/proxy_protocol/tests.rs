//! Tests of PROXY headers: every split, every way to be wrong, and the way back.

use super::*;

fn pair(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
    Some((
        source.parse().expect("source address"),
        destination.parse().expect("destination address"),
    ))
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = v2::PROTOCOL_PREFIX.to_vec();
    header.extend([command, family]);
    header.extend(
        u16::try_from(block.len())
            .expect("block length")
            .to_be_bytes(),
    );
    header.extend(block);
    header
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0, 143];

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&IPV4, tlvs].concat())
}

/// A header is incomplete at every split, whole at its end, and blind to what follows.
fn assert_header(bytes: &[u8], version: Version, addresses: Option<(SocketAddr, SocketAddr)>) {
    for split in 0..bytes.len() {
        assert_eq!(
            parse(&bytes[..split]),
            Parsed::Incomplete,
            "at {split} of {bytes:?}"
        );
    }
    let header = Parsed::Header(Header {
        version,
        addresses,
        len: bytes.len(),
    });
    assert_eq!(parse(bytes), header);
    for glued in [
        &b"a LOGIN x y\r\n"[..],
        b"PROXY UNKNOWN\r\n",
        b"\r\n",
        &[0; 5000],
    ] {
        assert_eq!(parse(&[bytes, glued].concat()), header);
    }
}

#[test]
fn v1_is_read_at_any_split() {
    let addresses = pair("192.0.2.1:12345", "198.51.100.2:143");
    assert_header(
        b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 143\r\n",
        Version::V1,
        addresses,
    );
    for (line, source, destination) in [
        ("2001:db8::1 ::1 0 65535", "[2001:db8::1]:0", "[::1]:65535"),
        (":: 1:2:3:4:5:6:7:8 1 2", "[::]:1", "[1:2:3:4:5:6:7:8]:2"),
        (
            "1:: 64:ff9b::192.0.2.1 1 2",
            "[1::]:1",
            "[64:ff9b::c000:201]:2",
        ),
        (
            "1:2:3:4:5:6:192.0.2.1 A::f 1 2",
            "[1:2:3:4:5:6:c000:201]:1",
            "[a::f]:2",
        ),
    ] {
        assert_header(
            format!("PROXY TCP6 {line}\r\n").as_bytes(),
            Version::V1,
            pair(source, destination),
        );
    }
}

#[test]
fn ipv4_mapped_ipv6_is_ipv4() {
    let addresses = pair("192.0.2.1:1", "198.51.100.2:2");
    assert_header(
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1 2\r\n",
        Version::V1,
        addresses,
    );
    let mut block = Vec::new();
    for octets in [[192, 0, 2, 1], [198, 51, 100, 2]] {
        block.extend(Ipv4Addr::from(octets).to_ipv6_mapped().octets());
    }
    block.extend([0, 1, 0, 2]);
    assert_header(&v2(0x21, 0x21, &block), Version::V2, addresses);
}

#[test]
fn unknown_keeps_the_sockets_address_whatever_follows_it() {
    for line in [
        "PROXY UNKNOWN\r\n",
        "PROXY UNKNOWN \r\n",
        "PROXY UNKNOWN a b c d e f g h\r\n",
        "PROXY UNKNOWN \r \n +x\r\n",
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
    ] {
        assert_header(line.as_bytes(), Version::V1, None);
    }
    assert_header(b"PROXY UNKNOWN \xff\x00\r\n", Version::V1, None);
}

#[test]
fn v1_ends_after_107_bytes() {
    let line = |len: usize| [b"PROXY UNKNOWN ", &vec![b'x'; len - 16][..], b"\r\n"].concat();
    assert_header(&line(107), Version::V1, None);
    assert_eq!(parse(&line(108)), Parsed::Malformed);
    assert_eq!(parse(&line(108)[..107]), Parsed::Malformed);
    assert_eq!(parse(&line(108)[..106]), Parsed::Incomplete);
}

#[test]
fn v1_that_is_wrong_is_malformed() {
    for line in [
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP4 ::1 2.2.2.2 1 2\r\n",
        "PROXY TCP6 1.1.1.1 ::1 1 2\r\n",
        "PROXY TCP4 1.1.1.1 x 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2  2\r\n",
        "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n",
        "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 00\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 +2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1  2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2\r\n",
        "PROXY TCP4 1.1.1.1\t2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r \r\n",
        "PROXY TCP4 1.1.1.1\r2.2.2.2\r1\r2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\0\r\n",
        "PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
        "PROXY TCP6 1:::2 ::1 1 2\r\n",
        "PROXY TCP6 12345:: ::1 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\t\r\n",
        "PROXY UNKNOWN\rx\r\n",
        "A PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "EHLO x\r\n",
        "\r\nQUIT\r\n",
        "GET / HTTP/1.1\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Parsed::Malformed, "{line:?}");
    }
}

#[test]
fn v1_is_incomplete_until_its_line_ends_or_is_too_long() {
    for wrong in [
        "PASS x",
        "PROXY TCP5",
        "PROXY TCP4 256",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rx",
        "PROXY UNKNOWNx",
    ] {
        assert_eq!(parse(wrong.as_bytes()), Parsed::Incomplete, "{wrong:?}");
        let ended = format!("{wrong}\r\n");
        assert_eq!(parse(ended.as_bytes()), Parsed::Malformed, "{wrong:?}");
        let long = format!("{wrong:x<107}");
        assert_eq!(parse(long.as_bytes()), Parsed::Malformed, "{wrong:?}");
        assert_eq!(parse(&long.as_bytes()[..106]), Parsed::Incomplete);
    }
    for other in ["E", "\u{e4}", " PROXY"] {
        assert_eq!(parse(other.as_bytes()), Parsed::Malformed, "{other:?}");
    }
}

#[test]
fn v1_destination_may_be_of_the_other_family() {
    for (line, source, destination) in [
        (
            "TCP4 192.0.2.1 2001:db8::1 1 2",
            "192.0.2.1:1",
            "[2001:db8::1]:2",
        ),
        (
            "TCP6 2001:db8::1 192.0.2.1 1 2",
            "[2001:db8::1]:1",
            "192.0.2.1:2",
        ),
    ] {
        assert_header(
            format!("PROXY {line}\r\n").as_bytes(),
            Version::V1,
            pair(source, destination),
        );
    }
}

#[test]
fn v2_is_read_at_any_split() {
    let addresses = pair("192.0.2.1:12345", "198.51.100.2:143");
    assert_header(&v2(0x21, 0x11, &IPV4), Version::V2, addresses);
    let mut block = [0; 36];
    block[15] = 1;
    block[16] = 0x20;
    block[35] = 9;
    assert_header(
        &v2(0x21, 0x21, &block),
        Version::V2,
        pair("[::1]:0", "[2000::]:9"),
    );
}

#[test]
fn v2_tlvs_are_walked_and_skipped() {
    let addresses = pair("192.0.2.1:12345", "198.51.100.2:143");
    // Authority, a checksum that is wrong, an empty one, one nobody knows.
    let tlvs = b"\x02\x00\x04mail\x03\x00\x04\0\0\0\0\x04\x00\x00\xee\x00\x01x";
    assert_header(&with_tlvs(tlvs), Version::V2, addresses);
    for overrun in [
        &b"\x02"[..],
        b"\x02\x00",
        b"\x02\x00\x01",
        b"\x02\xff\xff",
        b"\x02\x00\x04mail\x03",
        b"\x02\x00\x04mail\x03\x00\x05\0\0\0\0",
    ] {
        assert_eq!(parse(&with_tlvs(overrun)), Parsed::Malformed, "{overrun:?}");
    }
    let early = &with_tlvs(b"\x02\x00\x09mail")[..V2_FIXED + 12 + 3];
    assert_eq!(parse(early), Parsed::Malformed);
    assert_eq!(parse(&early[..early.len() - 1]), Parsed::Incomplete);
}

#[test]
fn v2_length_is_neither_too_short_nor_beyond_the_limit() {
    for (family, len) in [
        (0x11, 0),
        (0x11, 11),
        (0x21, 0),
        (0x21, 35),
        (0x31, 215),
        (0x12, 11),
    ] {
        let header = v2(0x21, family, &vec![0; len]);
        assert_eq!(parse(&header), Parsed::Malformed, "{family:x} {len}");
        assert_eq!(
            parse(&header[..V2_FIXED]),
            Parsed::Malformed,
            "{family:x} {len}"
        );
    }
    let filled = |len: usize| {
        let value = u16::try_from(len - 15).expect("TLV length").to_be_bytes();
        with_tlvs(&[&[4, value[0], value[1]], &vec![0; len - 15][..]].concat())
    };
    let largest = filled(MAX_HEADER - V2_FIXED);
    assert_header(
        &largest,
        Version::V2,
        pair("192.0.2.1:12345", "198.51.100.2:143"),
    );
    for len in [MAX_HEADER - V2_FIXED + 1, 65535] {
        assert_eq!(parse(&filled(len)), Parsed::Malformed);
        assert_eq!(parse(&filled(len)[..V2_FIXED]), Parsed::Malformed);
    }
}

#[test]
fn local_keeps_the_sockets_address_and_its_block_is_discarded() {
    for (family, block) in [
        (0x00, &b""[..]),
        (0x11, b""),
        (0x11, &IPV4),
        (0xff, b"anything"),
        (0x00, &[0xff; 300]),
    ] {
        assert_header(&v2(0x20, family, block), Version::V2, None);
    }
}

#[test]
fn v2_families_that_are_not_for_us_keep_the_sockets_address() {
    for (family, block) in [
        (0x00, &b""[..]),
        (0x00, b"anything"),
        (0x01, b""),
        (0x10, &IPV4),
        (0x12, &IPV4),
        (0x31, &[b'/'; 216]),
        (0x32, &[b'/'; 216]),
    ] {
        assert_header(&v2(0x21, family, block), Version::V2, None);
    }
}

#[test]
fn v2_that_is_wrong_is_malformed_at_once() {
    for (command, family) in [
        (0x11, 0x11),
        (0x31, 0x11),
        (0x01, 0x11),
        (0x22, 0x11),
        (0x2f, 0x11),
        (0x21, 0x13),
        (0x21, 0x1f),
        (0x21, 0x41),
        (0x21, 0xf1),
    ] {
        let header = v2(command, family, &IPV4);
        assert_eq!(parse(&header), Parsed::Malformed, "{command:x} {family:x}");
        let wrong = if command == 0x21 { 14 } else { 13 };
        assert_eq!(parse(&header[..wrong]), Parsed::Malformed);
        assert_eq!(parse(&header[..wrong - 1]), Parsed::Incomplete);
    }
    let good = v2(0x21, 0x11, &IPV4);
    for index in 0..v2::PROTOCOL_PREFIX.len() {
        let mut header = good.clone();
        header[index] ^= 1;
        assert_eq!(parse(&header), Parsed::Malformed);
        assert_eq!(parse(&header[..=index]), Parsed::Malformed);
    }
}

#[test]
fn what_is_encoded_is_read_back() {
    for (source, destination, v1_line) in [
        (
            "192.0.2.1:1",
            "198.51.100.2:143",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 143\r\n",
        ),
        (
            "[2001:db8::1]:1",
            "[::1]:143",
            "PROXY TCP6 2001:db8::1 ::1 1 143\r\n",
        ),
        (
            "[::ffff:192.0.2.1]:1",
            "[::ffff:198.51.100.2]:143",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 143\r\n",
        ),
        (
            "[::ffff:192.0.2.1]:1",
            "198.51.100.2:143",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 143\r\n",
        ),
        (
            "192.0.2.1:1",
            "[::1]:143",
            "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 143\r\n",
        ),
        (
            "[::1]:1",
            "192.0.2.1:143",
            "PROXY TCP6 ::1 ::ffff:192.0.2.1 1 143\r\n",
        ),
    ] {
        let addresses = pair(source, destination);
        let canonical = addresses.map(|(source, destination)| {
            (
                endpoint(source.ip(), source.port()),
                endpoint(destination.ip(), destination.port()),
            )
        });
        let text = encode(ProxyProtocol::V1, addresses);
        assert_eq!(text, v1_line.as_bytes());
        assert_header(&text, Version::V1, canonical);
        assert_header(
            &encode(ProxyProtocol::V2, addresses),
            Version::V2,
            canonical,
        );
        assert!(encode(ProxyProtocol::Off, addresses).is_empty());
    }
    assert_eq!(encode(ProxyProtocol::V1, None), b"PROXY UNKNOWN\r\n");
    assert_header(&encode(ProxyProtocol::V2, None), Version::V2, None);
    assert_eq!(encode(ProxyProtocol::V2, None).len(), V2_FIXED);
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % limit
    }
}

#[test]
fn random_bytes_never_panic_and_never_change_their_mind() {
    let mut random = Random(1);
    let starts = [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n".to_vec(),
        b"PROXY TCP6 ::1 2::3.4.5.6 9 10\r\n".to_vec(),
        b"PROXY UNKNOWN x\r\n".to_vec(),
        with_tlvs(b"\x02\x00\x04mail\x04\x00\x00"),
        v2(0x21, 0x21, &[0; 40]),
        v2(0x20, 0x00, &[0; 4]),
        Vec::new(),
    ];
    for _ in 0..20_000 {
        let mut bytes = starts[random.below(starts.len())].clone();
        for _ in 0..random.below(4) {
            let byte = u8::try_from(random.below(256)).unwrap_or_default();
            match bytes.len() {
                0 => bytes.push(byte),
                len if random.below(2) == 0 => bytes.insert(random.below(len + 1), byte),
                len => bytes[random.below(len)] = byte,
            }
        }
        let mut decided = Parsed::Incomplete;
        for end in 0..=bytes.len() {
            let parsed = parse(&bytes[..end]);
            if decided != Parsed::Incomplete {
                assert_eq!(parsed, decided, "{bytes:?} at {end}");
            }
            decided = parsed;
        }
    }
}
