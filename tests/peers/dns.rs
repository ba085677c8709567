//! A DNS server over UDP that says what no proper one says: a closure makes each answer, byte by byte
//! where it has to. It remembers what it was asked.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const PTR: u16 = 12;
pub(crate) const AAAA: u16 = 28;
pub(crate) const DNAME: u16 = 39;

pub(crate) const NOERROR: u8 = 0;
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;
pub(crate) const REFUSED: u8 = 5;

/// One question.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The name in lower case, without final dot.
    pub(crate) name: String,
    /// The record type.
    pub(crate) kind: u16,
    /// How many questions came before it.
    pub(crate) before: usize,
    raw: Vec<u8>,
}

/// A record of an answer; names are written out, not compressed.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    owner: Vec<u8>,
    kind: u16,
    ttl: u32,
    data: Vec<u8>,
}

impl Record {
    /// Any record of `owner`.
    pub(crate) fn new(owner: &str, kind: u16, data: Vec<u8>) -> Record {
        Record {
            owner: wire(owner),
            kind,
            ttl: 60,
            data,
        }
    }

    /// The record that says `owner` is `target`: PTR, CNAME, DNAME.
    pub(crate) fn name(owner: &str, kind: u16, target: &str) -> Record {
        Record::new(owner, kind, wire(target))
    }

    /// The IPv4 address 127.0.0.N.
    pub(crate) fn loopback(owner: &str, last: u8) -> Record {
        Record::new(owner, A, vec![127, 0, 0, last])
    }

    /// The same with another TTL in seconds.
    pub(crate) fn ttl(mut self, ttl: u32) -> Record {
        self.ttl = ttl;
        self
    }
}

impl Question {
    /// The N of the address 127.0.0.N whose name is asked for.
    pub(crate) fn last_octet(&self) -> Option<u8> {
        let rest = self.name.strip_suffix(".0.0.127.in-addr.arpa")?;
        rest.parse().ok()
    }

    /// A well-formed answer.
    pub(crate) fn answer(&self, code: u8, records: &[Record]) -> Vec<u8> {
        let end = self.end();
        let mut bytes = self.raw[..end].to_vec();
        // An answer, recursion desired and available.
        bytes[2] = 0x81;
        bytes[3] = 0x80 | code;
        let count = u16::try_from(records.len()).expect("few records");
        bytes[6..12].copy_from_slice(&[0; 6]);
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        for record in records {
            bytes.extend(&record.owner);
            bytes.extend(record.kind.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(record.ttl.to_be_bytes());
            let length = u16::try_from(record.data.len()).expect("short data");
            bytes.extend(length.to_be_bytes());
            bytes.extend(&record.data);
        }
        bytes
    }

    /// A well-formed answer of one record that belongs to the name asked for.
    pub(crate) fn answer_name(&self, target: &str) -> Vec<u8> {
        self.answer(NOERROR, &[Record::name(&self.name, self.kind, target)])
    }

    /// Where the question section ends.
    fn end(&self) -> usize {
        let name = self.raw[12..].iter().position(|byte| *byte == 0);
        12 + name.expect("a name ends") + 5
    }
}

/// A name as it stands in a message, uncompressed.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a label of 63 bytes"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A running server.
pub(crate) struct DnsStub {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Question>>>,
    stopped: Arc<AtomicBool>,
}

impl DnsStub {
    /// Starts one; `None` is no answer at all. Each question has a thread, so answers may take time.
    pub(crate) fn start(
        answer: impl Fn(&Question) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> DnsStub {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("the system has a port");
        let address = socket.local_addr().expect("a socket has an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let stub = DnsStub {
            address,
            asked: Arc::clone(&asked),
            stopped: Arc::clone(&stopped),
        };
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let mut asked = asked.lock().expect("no holder panics");
                let question = parse(&buffer[..count], asked.len());
                asked.push(question.clone());
                drop(asked);
                let answer = Arc::clone(&answer);
                let socket = socket.try_clone().expect("a socket can be duplicated");
                thread::spawn(move || {
                    if let Some(bytes) = answer(&question) {
                        // Who asked may be gone.
                        let _ = socket.send_to(&bytes, from);
                    }
                });
            }
        });
        stub
    }

    /// A server that knows 127.0.0.N as `nN.example.test`, both ways, with this TTL.
    pub(crate) fn proper(ttl: u32) -> DnsStub {
        DnsStub::start(move |question| Some(proper(question, ttl)))
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it was asked for records of this type.
    pub(crate) fn count(&self, kind: u16) -> usize {
        let asked = self.asked.lock().expect("no holder panics");
        asked
            .iter()
            .filter(|question| question.kind == kind)
            .count()
    }
}

impl Drop for DnsStub {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // The thread looks at the flag after its next datagram.
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(&[], self.address);
        }
    }
}

/// What a proper server says that knows 127.0.0.N as `nN.example.test`.
pub(crate) fn proper(question: &Question, ttl: u32) -> Vec<u8> {
    let forward = question.name.strip_suffix(".example.test");
    let number = forward.and_then(|name| name.strip_prefix('n')?.parse().ok());
    match (question.last_octet(), number) {
        (Some(last), _) => {
            let name = format!("n{last}.example.test");
            let record = Record::name(&question.name, PTR, &name).ttl(ttl);
            question.answer(NOERROR, &[record])
        }
        (None, Some(last)) if question.kind == A => {
            let record = Record::loopback(&question.name, last).ttl(ttl);
            question.answer(NOERROR, &[record])
        }
        (None, Some(_)) => question.answer(NOERROR, &[]),
        _ => question.answer(NXDOMAIN, &[]),
    }
}

fn parse(raw: &[u8], before: usize) -> Question {
    let mut labels = Vec::new();
    let mut at = 12;
    while raw[at] != 0 {
        let length = usize::from(raw[at]);
        let label = &raw[at + 1..at + 1 + length];
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += 1 + length;
    }
    Question {
        name: labels.join("."),
        kind: u16::from_be_bytes([raw[at + 1], raw[at + 2]]),
        before,
        raw: raw.to_vec(),
    }
}
