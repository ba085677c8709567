//! The engine over the operating system's library: native-tls on an in-memory pipe.
//!
//! The library does not tell version, cipher, resumption and ALPN, and cannot refuse a wrong ALPN:
//! these are read from the hello messages that pass the pipe. Setting it up is `native_setup`.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ::rustls::pki_types::CertificateDer;
use native_tls::{HandshakeError, MidHandshakeTlsStream, TlsAcceptor, TlsConnector, TlsStream};

use super::ciphers::openssl_name;
use super::error::TlsError;
use super::facts::{Facts, Verdict};
use super::hello::{self, FirstMessage};
use super::rustls::written_after_close;
use super::rustls_client::Demands;
use super::words::{self, Failure, Opening, Peer};
use super::{Engine, Plain, verify};

/// Ciphertext that may wait to be read by the library.
const INPUT_LIMIT: usize = 32 * 1024;
/// Output that may be pending before `write` takes nothing more.
const OUTPUT_LIMIT: usize = 40 * 1024;
/// Output that may be pending at all; reached only by peers that make us answer without listening.
const OUTPUT_CAPACITY: usize = 64 * 1024;
/// Longest plaintext of one record.
const RECORD: usize = 16 * 1024;

/// One connection of the operating system's library.
pub(super) struct NativeEngine {
    pipe: Pipe,
    role: Role,
    state: State,
    closed: bool,
    failure: Option<TlsError>,
    facts: OnceLock<Facts>,
}

/// Which side we are.
pub(super) enum Role {
    Server {
        acceptor: TlsAcceptor,
        alpn: Arc<str>,
    },
    Client {
        connector: TlsConnector,
        name: String,
        demands: Arc<Demands>,
    },
}

impl Role {
    fn peer(&self) -> Peer {
        match self {
            Role::Server { .. } => Peer::Client,
            Role::Client { demands, .. } => Peer::Server(demands.directives),
        }
    }
}

enum State {
    Fresh,
    Handshaking(MidHandshakeTlsStream<Pipe>),
    Open(TlsStream<Pipe>),
    Broken,
}

impl NativeEngine {
    pub(super) fn new(role: Role) -> NativeEngine {
        NativeEngine {
            pipe: Pipe::default(),
            role,
            state: State::Fresh,
            closed: false,
            failure: None,
            facts: OnceLock::new(),
        }
    }

    fn fail(&mut self, failure: TlsError) -> TlsError {
        self.failure = Some(failure.clone());
        failure
    }

    fn check_failure(&self) -> Result<(), TlsError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn step(&mut self) -> Result<bool, TlsError> {
        let result = match (
            std::mem::replace(&mut self.state, State::Broken),
            &self.role,
        ) {
            (State::Fresh, Role::Server { acceptor, .. }) => acceptor.accept(self.pipe.clone()),
            (
                State::Fresh,
                Role::Client {
                    connector, name, ..
                },
            ) => connector.connect(name, self.pipe.clone()),
            (State::Handshaking(stream), _) => stream.handshake(),
            (state, _) => {
                self.state = state;
                return Ok(true);
            }
        };
        match result {
            Ok(stream) => {
                self.check_backend(&stream)?;
                self.state = State::Open(stream);
                Ok(true)
            }
            Err(HandshakeError::WouldBlock(stream)) => {
                self.state = State::Handshaking(stream);
                Ok(false)
            }
            Err(HandshakeError::Failure(error)) => Err(self.explain(&error.to_string())),
        }
    }

    /// What the library does not check by itself.
    fn check_backend(&self, stream: &TlsStream<Pipe>) -> Result<(), TlsError> {
        let Role::Client { name, demands, .. } = &self.role else {
            return Ok(());
        };
        demands.check_pin(&peer_der(stream).unwrap_or_default(), name)
    }

    /// Refuses a client that wants another protocol; the library would let it in.
    fn check_alpn(&self) -> Result<(), TlsError> {
        let Role::Server { alpn, .. } = &self.role else {
            return Ok(());
        };
        let mut pipe = self.pipe.lock();
        let offered = pipe
            .client_hello
            .as_ref()
            .and_then(|hello| hello.alpn.as_ref());
        if offered.is_none_or(|names| names.iter().any(|name| name == alpn.as_bytes())) {
            return Ok(());
        }
        // A fatal no_application_protocol (RFC 7301, section 3.2).
        pipe.output = vec![21, 3, 3, 0, 2, 2, 120];
        Err(words::explain(Peer::Client, &pipe.opening, Failure::Alpn))
    }

    fn explain(&self, error: &str) -> TlsError {
        if let Role::Client { name, demands, .. } = &self.role {
            // "… certificate verify failed … (self-signed certificate)"
            let cause = error
                .strip_suffix(')')
                .and_then(|error| error.rsplit_once(" ("));
            if let Some((_, cause)) = cause.filter(|_| error.contains("verify failed")) {
                return demands.distrust(name, cause);
            }
        }
        words::explain(self.role.peer(), &self.pipe.lock().opening, failure(error))
    }

    fn explain_end(&mut self) -> TlsError {
        let peer = self.role.peer();
        let failure = words::explain(peer, &self.pipe.lock().opening, Failure::Closed);
        self.fail(failure)
    }

    fn learn_facts(&self, stream: &TlsStream<Pipe>) -> Facts {
        let der = peer_der(stream);
        let (verdict, asked) = match &self.role {
            Role::Server { .. } => (Verdict::NotAsked, None),
            Role::Client { name, demands, .. } if demands.trust.is_some() => {
                (Verdict::Success, Some(name.clone()))
            }
            Role::Client { name, .. } => (Verdict::NotAsked, Some(name.clone())),
        };
        let pipe = self.pipe.lock();
        let client = pipe.client_hello.clone().unwrap_or_default();
        let server = pipe.server_hello.clone().unwrap_or_default();
        let same_id = !server.session_id.is_empty() && server.session_id == client.session_id;
        Facts {
            protocol: hello::version_name(server.version).to_owned(),
            cipher: openssl_name(u16::from_be_bytes(server.cipher)),
            alpn: server
                .alpn
                .map(|name| String::from_utf8_lossy(&name).into_owned()),
            sni: asked.or(client.sni),
            verdict,
            peer: der.and_then(|der| verify::describe(&CertificateDer::from(der))),
            resumed: match server.version {
                0x0304 => server.pre_shared_key,
                _ => same_id,
            },
        }
    }
}

fn peer_der(stream: &TlsStream<Pipe>) -> Option<Vec<u8>> {
    stream.peer_certificate().ok()??.to_der().ok()
}

/// What the library's error means.
fn failure(error: &str) -> Failure<'_> {
    let alert = error.split_once("SSL alert number ");
    let number = alert.map(|(_, number)| number.trim_end_matches(|c: char| !c.is_ascii_digit()));
    if let Some(number) = number.and_then(|number| number.parse().ok()) {
        return Failure::Alert(number);
    }
    match reason(error) {
        "unsupported protocol" | "version too low" | "wrong ssl version" => Failure::Version,
        "no shared cipher" => Failure::Cipher,
        "no suitable signature algorithm" | "no shared signature algorithms" => Failure::Signature,
        "no suitable key share" | "no shared groups" => Failure::Group,
        words => Failure::Other(words),
    }
}

/// The fourth field of `error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:`.
fn reason(error: &str) -> &str {
    let error = error.trim();
    match error.starts_with("error:") {
        true => error.split(':').nth(4).unwrap_or(error),
        false => error,
    }
}

impl Engine for NativeEngine {
    fn take(&mut self, ciphertext: &[u8]) -> Result<usize, TlsError> {
        self.check_failure()?;
        let taken = self.pipe.lock().take(ciphertext);
        if let Err(failure) = self.check_alpn() {
            self.state = State::Broken;
            return Err(self.fail(failure));
        }
        Ok(taken)
    }

    fn take_eof(&mut self) {
        self.pipe.lock().ended = true;
    }

    fn handshake(&mut self) -> Result<bool, TlsError> {
        self.check_failure()?;
        match self.step() {
            Ok(true) => Ok(true),
            Ok(false) if self.pipe.lock().ended => Err(self.explain_end()),
            Ok(false) => Ok(false),
            Err(failure) => Err(self.fail(failure)),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<Plain, TlsError> {
        self.check_failure()?;
        let State::Open(stream) = &mut self.state else {
            return Ok(Plain::NeedMore);
        };
        if buf.is_empty() {
            return Ok(Plain::NeedMore);
        }
        let failure = match stream.read(buf) {
            Ok(0) => return Ok(Plain::Closed),
            Ok(count) => return Ok(Plain::Bytes(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ended = self.pipe.lock().ended;
                return Ok(if ended {
                    Plain::Truncated
                } else {
                    Plain::NeedMore
                });
            }
            Err(error) => self.explain(&error.to_string()),
        };
        Err(self.fail(failure))
    }

    fn write(&mut self, plain: &[u8]) -> Result<usize, TlsError> {
        self.check_failure()?;
        if self.closed {
            return Err(written_after_close());
        }
        let State::Open(stream) = &mut self.state else {
            return Ok(0);
        };
        let mut taken = 0;
        while taken < plain.len() && self.pipe.lock().output.len() < OUTPUT_LIMIT {
            let end = plain.len().min(taken + RECORD);
            match stream.write(&plain[taken..end]) {
                Ok(0) => break,
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    let failure = self.explain(&error.to_string());
                    return Err(self.fail(failure));
                }
            }
        }
        Ok(taken)
    }

    fn give(&mut self, out: &mut Vec<u8>, limit: usize) {
        let mut pipe = self.pipe.lock();
        let count = pipe.output.len().min(limit);
        out.extend_from_slice(&pipe.output[..count]);
        pipe.output.drain(..count);
        if pipe.output.is_empty() {
            // A silent direction holds no buffer.
            pipe.output = Vec::new();
        }
    }

    fn has_output(&self) -> bool {
        !self.pipe.lock().output.is_empty()
    }

    fn close(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        if let State::Open(stream) = &mut self.state {
            // An error here is one that reading or writing has met before.
            let _ = stream.shutdown();
        }
    }

    fn facts(&self) -> Facts {
        match &self.state {
            State::Open(stream) => self.facts.get_or_init(|| self.learn_facts(stream)).clone(),
            _ => Facts::default(),
        }
    }
}

/// What the library takes for a socket. Shared, because a failed handshake takes the stream with it
/// and would take the alert too.
#[derive(Debug, Clone, Default)]
struct Pipe(Arc<Mutex<Channels>>);

#[derive(Debug, Default)]
struct Channels {
    input: Vec<u8>,
    /// How much of `input` has been read.
    start: usize,
    output: Vec<u8>,
    ended: bool,
    opening: Opening,
    from_peer: FirstMessage,
    to_peer: FirstMessage,
    client_hello: Option<hello::ClientHello>,
    server_hello: Option<hello::ServerHello>,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channels {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let count = bytes
            .len()
            .min(INPUT_LIMIT - (self.input.len() - self.start));
        let bytes = &bytes[..count];
        self.opening.look(bytes);
        if let Some(message) = self.from_peer.look(bytes) {
            self.note(&message);
        }
        self.input.drain(..self.start);
        self.start = 0;
        self.input.extend_from_slice(bytes);
        count
    }

    fn note(&mut self, message: &[u8]) {
        if let Some(hello) = hello::client_hello(message) {
            self.client_hello = Some(hello);
        } else if let Some(hello) = hello::server_hello(message) {
            self.server_hello = Some(hello);
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut channels = self.lock();
        let waiting = &channels.input[channels.start..];
        if waiting.is_empty() {
            // The end of the stream is told by the engine, without the library.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = waiting.len().min(buf.len());
        buf[..count].copy_from_slice(&waiting[..count]);
        channels.start += count;
        if channels.start == channels.input.len() {
            // A silent direction holds no buffer.
            channels.input = Vec::new();
            channels.start = 0;
        }
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut channels = self.lock();
        if channels.output.len() + bytes.len() > OUTPUT_CAPACITY && !channels.output.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(message) = channels.to_peer.look(bytes) {
            channels.note(&message);
        }
        channels.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
