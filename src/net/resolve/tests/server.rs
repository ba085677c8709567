//! A DNS server for tests that says whatever it is told to, and remembers what it was asked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(super) const A: u16 = 1;
pub(super) const CNAME: u16 = 5;
pub(super) const PTR: u16 = 12;
pub(super) const TXT: u16 = 16;
pub(super) const AAAA: u16 = 28;
pub(super) const DNAME: u16 = 39;

pub(super) const NOERROR: u16 = 0x8180;
pub(super) const FORMERR: u16 = 0x8181;
pub(super) const SERVFAIL: u16 = 0x8182;
pub(super) const NXDOMAIN: u16 = 0x8183;
pub(super) const REFUSED: u16 = 0x8185;
pub(super) const TRUNCATED: u16 = 0x8380;

/// The name in the question, compressed.
pub(super) const ITSELF: &[u8] = b"\xc0\x0c";

pub(super) struct Question {
    pub(super) packet: Vec<u8>,
    pub(super) name: String,
    pub(super) kind: u16,
    /// How many were asked before it.
    pub(super) number: usize,
}

impl Question {
    fn read(packet: &[u8], number: usize) -> Question {
        let mut labels = Vec::new();
        let mut at = 12;
        while packet[at] != 0 {
            let end = at + 1 + usize::from(packet[at]);
            labels.push(String::from_utf8_lossy(&packet[at + 1..end]).into_owned());
            at = end;
        }
        assert_eq!(packet.len(), at + 5, "nothing stands behind the question");
        Question {
            packet: packet.to_vec(),
            name: labels.join("."),
            kind: u16::from_be_bytes([packet[at + 1], packet[at + 2]]),
            number,
        }
    }

    /// An answer with these flags and records.
    pub(super) fn reply(&self, flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
        let mut reply = self.packet[..2].to_vec();
        reply.extend(flags.to_be_bytes());
        reply.extend([0, 1, 0, u8::try_from(records.len()).expect("few records")]);
        reply.extend([0; 4]);
        reply.extend(&self.packet[12..]);
        reply.extend(records.concat());
        reply
    }
}

/// A name on the wire, uncompressed.
pub(super) fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

pub(super) fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
    record.extend(data);
    record
}

/// A PTR for the name in the question.
pub(super) fn pointer(target: &str) -> Vec<u8> {
    record(ITSELF, PTR, 300, &wire(target))
}

/// An address for the name in the question.
pub(super) fn address(text: &str) -> Vec<u8> {
    match text.parse().expect("address") {
        IpAddr::V4(address) => record(ITSELF, A, 300, &address.octets()),
        IpAddr::V6(address) => record(ITSELF, AAAA, 300, &address.octets()),
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Packets to answer a question with, in order.
type Packets = Vec<Vec<u8>>;

impl Server {
    pub(super) fn start(answer: impl Fn(&Question) -> Packets + Send + 'static) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        Server::on(socket, answer)
    }

    fn on(socket: UdpSocket, answer: impl Fn(&Question) -> Packets + Send + 'static) -> Server {
        let address = socket.local_addr().expect("local address");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("set timeout");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut packet = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, client)) = socket.recv_from(&mut packet) else {
                    continue;
                };
                let mut log = log.lock().expect("log");
                let question = Question::read(&packet[..len], log.len());
                log.push((question.name.clone(), question.kind));
                drop(log);
                for reply in answer(&question) {
                    socket.send_to(&reply, client).expect("send");
                }
            }
        });
        Server {
            address,
            asked,
            stop,
            threads: vec![thread],
        }
    }

    /// One that says over UDP that the answer is too long for it.
    pub(super) fn over_tcp(answer: impl Fn(&Question) -> Vec<u8> + Send + 'static) -> Server {
        let (listener, socket) = (0..50)
            .find_map(|_| {
                let listener = TcpListener::bind("127.0.0.1:0").ok()?;
                let socket = UdpSocket::bind(listener.local_addr().ok()?).ok()?;
                Some((listener, socket))
            })
            .expect("a port free for both");
        let mut server = Server::on(socket, |question| vec![question.reply(TRUNCATED, &[])]);
        listener.set_nonblocking(true).expect("set nonblocking");
        let stop = Arc::clone(&server.stop);
        server.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).expect("set blocking");
                let mut len = [0; 2];
                stream.read_exact(&mut len).expect("read length");
                let mut packet = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut packet).expect("read question");
                let reply = answer(&Question::read(&packet, 0));
                let len = u16::try_from(reply.len()).expect("length").to_be_bytes();
                stream
                    .write_all(&[&len, &reply[..]].concat())
                    .expect("write answer");
            }
        }));
        server
    }

    /// A server that never answers.
    pub(super) fn silent() -> Server {
        Server::start(|_| Vec::new())
    }

    /// Names and types of all questions so far.
    pub(super) fn asked(&self) -> Vec<(String, u16)> {
        self.asked.lock().expect("log").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}
