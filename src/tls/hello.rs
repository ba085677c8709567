//! Reads the two hello messages that pass in the clear, for libraries that do not say what was
//! agreed on. Bounded, and never certain: an unreadable message is simply no knowledge.

/// A hello message may have this many bytes; what is longer is not looked at.
const LONGEST_HELLO: usize = 16 * 1024 + 4;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Collects the first handshake message of one direction.
#[derive(Debug, Default)]
pub(super) struct FirstMessage {
    /// Bytes of the record at hand that have not been sorted yet, header included.
    record: Vec<u8>,
    message: Vec<u8>,
    done: bool,
}

impl FirstMessage {
    /// Looks at bytes on their way; returns the message, with its header, when it is complete.
    pub(super) fn look(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        while !self.done && !bytes.is_empty() {
            let wanted = match self.record.get(3..5) {
                Some(length) => 5 + usize::from(length[0]) * 256 + usize::from(length[1]),
                None => 5,
            };
            let missing = wanted.saturating_sub(self.record.len());
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.record.extend_from_slice(now);
            bytes = later;
            if self.record.len() < wanted || wanted == 5 && self.record[3..] != [0, 0] {
                continue;
            }
            self.sort_record();
            if let Some(message) = self.complete() {
                *self = FirstMessage {
                    done: true,
                    ..FirstMessage::default()
                };
                return Some(message);
            }
        }
        None
    }

    /// The message, if all of it is there.
    fn complete(&mut self) -> Option<Vec<u8>> {
        let header = self.message.get(1..4)?;
        let length = header.iter().fold(0, |n, b| n << 8 | usize::from(*b)) + 4;
        self.done |= length > LONGEST_HELLO;
        self.message.get(..length).map(<[u8]>::to_vec)
    }

    fn sort_record(&mut self) {
        const HANDSHAKE: u8 = 22;
        if self.record[0] != HANDSHAKE || self.message.len() > LONGEST_HELLO {
            self.done = true;
            return;
        }
        self.message.extend_from_slice(&self.record[5..]);
        self.record.clear();
    }
}

/// What a ClientHello asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ClientHello {
    pub(super) session_id: Vec<u8>,
    /// Cipher suites in the client's order.
    pub(super) ciphers: Vec<[u8; 2]>,
    pub(super) sni: Option<String>,
    /// `None` without the extension.
    pub(super) alpn: Option<Vec<Vec<u8>>>,
}

/// What a ServerHello grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerHello {
    /// 0x0303 is TLS 1.2.
    pub(super) version: u16,
    pub(super) session_id: Vec<u8>,
    pub(super) cipher: [u8; 2],
    pub(super) alpn: Option<Vec<u8>>,
    /// TLS 1.3: a pre-shared key was accepted.
    pub(super) pre_shared_key: bool,
}

/// Reads a ClientHello message, header included (RFC 8446, section 4.1.2).
pub(super) fn client_hello(message: &[u8]) -> Option<ClientHello> {
    let mut body = Cursor(message);
    if body.u8()? != CLIENT_HELLO {
        return None;
    }
    body.bytes(3 + 2 + 32)?;
    let mut hello = ClientHello {
        session_id: body.vector8()?.to_vec(),
        ..ClientHello::default()
    };
    let ciphers = body.vector16()?.chunks_exact(2);
    hello.ciphers = ciphers.map(|pair| [pair[0], pair[1]]).collect();
    body.vector8()?;
    let mut extensions = Cursor(body.vector16().unwrap_or_default());
    while let Some(kind) = extensions.u16() {
        let mut data = Cursor(extensions.vector16()?);
        match kind {
            0 => {
                let mut names = Cursor(data.vector16()?);
                names.u8()?;
                hello.sni = String::from_utf8(names.vector16()?.to_vec()).ok();
            }
            16 => {
                let mut names = Cursor(data.vector16()?);
                let mut offered = Vec::new();
                while let Some(name) = names.vector8() {
                    offered.push(name.to_vec());
                }
                hello.alpn = Some(offered);
            }
            _ => {}
        }
    }
    Some(hello)
}

/// Reads a ServerHello message, header included (RFC 8446, section 4.1.3).
pub(super) fn server_hello(message: &[u8]) -> Option<ServerHello> {
    let mut body = Cursor(message);
    if body.u8()? != SERVER_HELLO {
        return None;
    }
    body.bytes(3)?;
    let mut hello = ServerHello {
        version: body.u16()?,
        ..ServerHello::default()
    };
    body.bytes(32)?;
    hello.session_id = body.vector8()?.to_vec();
    let cipher = body.bytes(2)?;
    hello.cipher = [cipher[0], cipher[1]];
    body.u8()?;
    let mut extensions = Cursor(body.vector16().unwrap_or_default());
    while let Some(kind) = extensions.u16() {
        let mut data = Cursor(extensions.vector16()?);
        match kind {
            16 => hello.alpn = Some(Cursor(data.vector16()?).vector8()?.to_vec()),
            41 => hello.pre_shared_key = true,
            43 => hello.version = data.u16()?,
            _ => {}
        }
    }
    Some(hello)
}

/// The name of a version number.
pub(super) fn version_name(version: u16) -> &'static str {
    match version {
        0x0300 => "SSLv3",
        0x0301 => "TLSv1",
        0x0302 => "TLSv1.1",
        0x0303 => "TLSv1.2",
        0x0304 => "TLSv1.3",
        _ => "unknown",
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (now, later) = self.0.split_at_checked(count)?;
        self.0 = later;
        Some(now)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let count = self.u8()?;
        self.bytes(usize::from(count))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let count = self.u16()?;
        self.bytes(usize::from(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with SNI `a.b` and ALPN `imap`, in one record.
    fn record() -> Vec<u8> {
        let sni = [0, 0, 0, 8, 0, 6, 0, 0, 3, b'a', b'.', b'b'];
        let alpn = [0, 16, 0, 7, 0, 5, 4, b'i', b'm', b'a', b'p'];
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([2, 9, 9, 0, 4, 0x13, 1, 0xc0, 0x2f, 1, 0, 0, 23]);
        body.extend(sni);
        body.extend(alpn);
        let length = u8::try_from(body.len()).expect("short");
        let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        record.extend(body);
        record
    }

    #[test]
    fn a_client_hello_is_read_in_any_pieces() {
        let record = record();
        for step in 1..=record.len() {
            let mut first = FirstMessage::default();
            let found: Vec<Vec<u8>> = record.chunks(step).filter_map(|p| first.look(p)).collect();
            assert_eq!(found.len(), 1);
            let hello = client_hello(&found[0]).expect("hello");
            assert_eq!(hello.sni.as_deref(), Some("a.b"));
            assert_eq!(hello.alpn, Some(vec![b"imap".to_vec()]));
            assert_eq!(hello.ciphers, [[0x13, 1], [0xc0, 0x2f]]);
            assert_eq!(hello.session_id, [9, 9]);
            assert_eq!(first.look(&record), None, "only the first counts");
        }
    }

    #[test]
    fn broken_hellos_are_no_knowledge() {
        let record = record();
        for length in 0..record.len() - 5 {
            let _ = client_hello(&record[5..5 + length]);
            let _ = server_hello(&record[5..5 + length]);
            for value in [0, 2, 255] {
                let mut broken = record.clone();
                broken[5 + length] = value;
                let _ = client_hello(&broken[5..]);
                let _ = server_hello(&broken[5..]);
                let _ = FirstMessage::default().look(&broken);
            }
        }
    }

    #[test]
    fn an_endless_hello_is_not_collected() {
        let mut first = FirstMessage::default();
        let mut record = vec![22, 3, 1, 0x40, 0, 1, 255, 255, 255];
        record.resize(5 + 0x4000, 0);
        for _ in 0..100 {
            assert_eq!(first.look(&record), None);
        }
        assert!(first.message.len() + first.record.len() < 64 * 1024);
    }
}
