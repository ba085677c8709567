//! TLS at the test's end of a connection, as client or as server, over rustls.
//!
//! It shows how a stream ended, which certificate came and what became of a session; it cuts
//! records, segments and connections as a test wants them. Two threads may share a connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion, RootCertStore,
    ServerConfig, ServerConnection, SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion,
};

use super::line_client::{LineClient, find};

/// How long an expected answer may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Most plain text in a record.
const RECORD: usize = 16 * 1024;

const ONLY_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// The peer has said close_notify.
    Notified,
    /// The connection ended without that.
    Cut,
}

/// One TLS connection; clones share it.
#[derive(Clone)]
pub(crate) struct Tls(Arc<Shared>);

struct Shared {
    socket: TcpStream,
    state: Mutex<State>,
    /// Held while ciphertext is taken out and sent, so that records keep their order.
    writing: Mutex<()>,
}

struct State {
    connection: Connection,
    unfed: Vec<u8>,
}

impl Tls {
    fn handshake(mut connection: Connection, mut socket: TcpStream) -> io::Result<Tls> {
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Tls(Arc::new(Shared {
            socket,
            state: Mutex::new(State {
                connection,
                unfed: Vec::new(),
            }),
            writing: Mutex::new(()),
        })))
    }

    /// Reads plain text, waiting for it.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Got> {
        let mut ciphertext = [0; RECORD];
        loop {
            if let Some(got) = self.state().read(buffer)? {
                return Ok(got);
            }
            let count = match (&self.0.socket).read(&mut ciphertext) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                count => count?,
            };
            let mut state = self.state();
            if count == 0 {
                state.connection.read_tls(&mut io::empty())?;
            }
            state.unfed.extend_from_slice(&ciphertext[..count]);
        }
    }

    /// Sends all of it, in records as large as can be.
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<()> {
        self.write_in_records(data, RECORD)
    }

    /// Sends all of it in records of so many bytes.
    pub(crate) fn write_in_records(&self, data: &[u8], size: usize) -> io::Result<()> {
        for record in data.chunks(size) {
            self.send(|connection| connection.writer().write_all(record))?;
        }
        Ok(())
    }

    /// Sends these records in one write.
    pub(crate) fn write_records<'a>(
        &self,
        mut records: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        self.send(|connection| records.try_for_each(|data| connection.writer().write_all(data)))
    }

    /// Sends all of it but for the last bytes of its last record, which follow after `between`.
    pub(crate) fn write_in_two(&self, data: &[u8], between: impl FnOnce()) -> io::Result<()> {
        const LAST: usize = 10;
        let _writing = self.0.writing.lock().expect("no holder panics");
        let ciphertext = self.ciphertext(|connection| connection.writer().write_all(data))?;
        let (begin, end) = ciphertext.split_at(ciphertext.len() - LAST);
        (&self.0.socket).write_all(begin)?;
        between();
        (&self.0.socket).write_all(end)
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.0.socket
    }

    /// Says close_notify; the connection stays open in both directions.
    pub(crate) fn close_notify(&self) -> io::Result<()> {
        self.send(|connection| {
            connection.send_close_notify();
            Ok(())
        })
    }

    /// Ends our direction in good order.
    pub(crate) fn half_close(&self) -> io::Result<()> {
        self.close_notify()?;
        self.cut()
    }

    /// Ends our direction without close_notify.
    pub(crate) fn cut(&self) -> io::Result<()> {
        self.0.socket.shutdown(Shutdown::Write)
    }

    /// Sends these bytes instead of a record.
    pub(crate) fn write_raw(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.0.socket).write_all(bytes)
    }

    /// Sends a KeyUpdate and asks for one (RFC 8446, section 4.6.3).
    pub(crate) fn update_keys(&self) -> io::Result<()> {
        self.send(|connection| connection.refresh_traffic_keys().map_err(io::Error::other))
    }

    /// The peer's own certificate, encoded.
    pub(crate) fn peer_certificate(&self) -> Vec<u8> {
        let state = self.state();
        let chain = state.connection.peer_certificates();
        chain.map_or(Vec::new(), |chain| chain[0].to_vec())
    }

    /// Whether an earlier session was resumed.
    pub(crate) fn is_resumed(&self) -> bool {
        self.state().connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether it is TLS 1.3.
    pub(crate) fn is_1_3(&self) -> bool {
        self.state().connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// The application protocol agreed on.
    pub(crate) fn alpn(&self) -> Option<String> {
        let state = self.state();
        let alpn = state.connection.alpn_protocol()?;
        Some(String::from_utf8_lossy(alpn).into_owned())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder panics")
    }

    fn send(&self, act: impl FnOnce(&mut Connection) -> io::Result<()>) -> io::Result<()> {
        let _writing = self.0.writing.lock().expect("no holder panics");
        let ciphertext = self.ciphertext(act)?;
        (&self.0.socket).write_all(&ciphertext)
    }

    fn ciphertext(
        &self,
        act: impl FnOnce(&mut Connection) -> io::Result<()>,
    ) -> io::Result<Vec<u8>> {
        let mut ciphertext = Vec::new();
        let mut state = self.state();
        act(&mut state.connection)?;
        while state.connection.wants_write() {
            state.connection.write_tls(&mut ciphertext)?;
        }
        Ok(ciphertext)
    }
}

impl State {
    /// What there is without the socket; `None` when that has to be read.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<Got>> {
        loop {
            match self.connection.reader().read(buffer) {
                Ok(0) => return Ok(Some(Got::Notified)),
                Ok(count) => return Ok(Some(Got::Bytes(count))),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Ok(Some(Got::Cut));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.unfed.is_empty() {
                return Ok(None);
            }
            let taken = self.connection.read_tls(&mut self.unfed.as_slice())?;
            self.unfed.drain(..taken);
            self.connection
                .process_new_packets()
                .map_err(io::Error::other)?;
        }
    }
}

/// A connection that speaks in lines.
pub(crate) struct TlsLines {
    /// The connection itself.
    pub(crate) tls: Tls,
    received: Vec<u8>,
}

impl TlsLines {
    /// Lines over this connection.
    pub(crate) fn over(tls: Tls) -> TlsLines {
        TlsLines {
            tls,
            received: Vec::new(),
        }
    }

    /// Sends a line; CRLF is added.
    pub(crate) fn send(&mut self, line: &str) {
        let line = format!("{line}\r\n");
        let sent = self.tls.write(line.as_bytes());
        sent.unwrap_or_else(|error| panic!("cannot send {line:?}: {error}"));
    }

    /// The next line, without its CRLF.
    pub(crate) fn line(&mut self) -> String {
        loop {
            if let Some(at) = find(&self.received, b"\r\n") {
                let line: Vec<u8> = self.received.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            let got = self.fill();
            let before = self.received.escape_ascii();
            assert!(
                matches!(got, Got::Bytes(_)),
                "{got:?} instead of a line; before: {before}"
            );
        }
    }

    /// Reads a line and insists on what it is.
    pub(crate) fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Sends a line and insists on the one-line answer.
    pub(crate) fn ask(&mut self, line: &str, answer: &str) {
        self.send(line);
        assert_eq!(self.line(), answer, "the answer to {line:?}");
    }

    /// Sends a line and reads up to and including the line that begins with `last`.
    pub(crate) fn ask_many(&mut self, line: &str, last: &str) -> Vec<String> {
        self.send(line);
        let mut lines = Vec::new();
        while !lines
            .last()
            .is_some_and(|line: &String| line.starts_with(last))
        {
            lines.push(self.line());
        }
        lines
    }

    /// Reads exactly so many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            let got = self.fill();
            let lacks = count - self.received.len().min(count);
            assert!(matches!(got, Got::Bytes(_)), "{got:?}, {lacks} bytes early");
        }
        self.received.drain(..count).collect()
    }

    /// Everything up to the end of the stream, and how that ended.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, Got) {
        loop {
            match self.fill() {
                Got::Bytes(_) => {}
                end => return (std::mem::take(&mut self.received), end),
            }
        }
    }

    /// Insists that the stream ends here, in good order.
    pub(crate) fn expect_close(&mut self) {
        let (rest, end) = self.rest();
        assert_eq!(rest.escape_ascii().to_string(), "", "before the close");
        assert_eq!(end, Got::Notified);
    }

    /// What was read and not asked for yet.
    pub(crate) fn take_received(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    fn fill(&mut self) -> Got {
        let mut buffer = [0; RECORD];
        let got = self.tls.read(&mut buffer);
        let got = got.unwrap_or_else(|error| panic!("cannot read: {error}"));
        if let Got::Bytes(count) = got {
            self.received.extend_from_slice(&buffer[..count]);
        }
        got
    }
}

/// How a client speaks TLS. Connections of one `Client` resume each other's sessions.
pub(crate) struct Client {
    roots: RootCertStore,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: Vec<Vec<u8>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    pkcs1: bool,
    name: String,
    hello: Hello,
    config: OnceLock<Arc<ClientConfig>>,
}

/// How a client's first message travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// In one segment.
    Whole,
    /// In one segment with these bytes before it.
    Behind(Vec<u8>),
    /// A byte a segment.
    InBytes,
    /// In many records.
    InRecords,
}

impl Client {
    /// A client that trusts this authority, speaks TLS 1.2 and 1.3, and looks for mail.test.
    pub(crate) fn trusting(authority: &Path) -> Client {
        Client {
            roots: roots(authority),
            versions: rustls::DEFAULT_VERSIONS,
            alpn: Vec::new(),
            identity: None,
            pkcs1: false,
            name: "mail.test".to_owned(),
            hello: Hello::Whole,
            config: OnceLock::new(),
        }
    }

    /// Speaks TLS 1.2 only.
    pub(crate) fn only_1_2(self) -> Client {
        let versions = ONLY_1_2;
        Client { versions, ..self }
    }

    /// Offers this application protocol.
    pub(crate) fn alpn(self, protocol: &str) -> Client {
        let alpn = vec![protocol.as_bytes().to_vec()];
        Client { alpn, ..self }
    }

    /// Has a certificate of its own.
    pub(crate) fn with(self, certificate: &Path, key: &Path) -> Client {
        let identity = Some((certificates(certificate), private_key(key)));
        Client { identity, ..self }
    }

    /// Signs with its RSA key by PKCS#1 v1.5, in TLS 1.3 too, which forbids that.
    pub(crate) fn signing_by_pkcs1(self) -> Client {
        let pkcs1 = true;
        Client { pkcs1, ..self }
    }

    /// Sends its first message like this.
    pub(crate) fn hello(self, hello: Hello) -> Client {
        Client { hello, ..self }
    }

    /// Connects and begins with the handshake.
    pub(crate) fn connect(&self, address: SocketAddr) -> TlsLines {
        let tls = self.try_connect(address);
        TlsLines::over(tls.unwrap_or_else(|error| panic!("TLS failed: {error}")))
    }

    /// The same, for a handshake that may fail.
    pub(crate) fn try_connect(&self, address: SocketAddr) -> io::Result<Tls> {
        self.handshake(LineClient::connect(address).stream())
    }

    /// Runs the handshake on a connection whose plain text is over.
    pub(crate) fn handshake(&self, mut socket: TcpStream) -> io::Result<Tls> {
        socket.set_read_timeout(Some(DEADLINE))?;
        let config = self.config.get_or_init(|| Arc::new(self.make_config()));
        let name = ServerName::try_from(self.name.clone()).expect("tests use names that can be");
        let connection = ClientConnection::new(Arc::clone(config), name);
        let mut connection = connection.expect("the configuration is complete");
        let mut hello = match &self.hello {
            Hello::Behind(bytes) => bytes.clone(),
            _ => Vec::new(),
        };
        connection.write_tls(&mut hello)?;
        let size = if self.hello == Hello::InBytes {
            1
        } else {
            hello.len()
        };
        for segment in hello.chunks(size) {
            socket.write_all(segment)?;
        }
        Tls::handshake(connection.into(), socket)
    }

    fn make_config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(self.versions)
            .expect("the provider knows both versions")
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) if self.pkcs1 => {
                let key = Pkcs1Key(PKey::private_key_from_der(key.secret_der()).expect("a key"));
                let certified = CertifiedKey::new(chain.clone(), Arc::new(key));
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .expect("the key fits its certificate"),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        if self.hello == Hello::InRecords {
            config.max_fragment_size = Some(40);
        }
        config
    }
}

/// An RSA key that signs by PKCS#1 v1.5 with SHA-256, whatever it is asked for.
#[derive(Debug, Clone)]
struct Pkcs1Key(PKey<Private>);

impl SigningKey for Pkcs1Key {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(self.clone()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }
}

impl Signer for Pkcs1Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signer = openssl::sign::Signer::new(MessageDigest::sha256(), &self.0);
        let signature = signer.and_then(|mut signer| signer.sign_oneshot_to_vec(message));
        signature.map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::RSA_PKCS1_SHA256
    }
}

/// Serves TLS on a port chosen by the system, each connection on a thread of its own, for as long as
/// the test binary runs.
pub(crate) fn serve(
    config: ServerConfig,
    play: impl Fn(TlsLines) + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the system has a port");
    let address = listener.local_addr().expect("a listener has an address");
    let (config, play) = (Arc::new(config), Arc::new(play));
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (config, play) = (Arc::clone(&config), Arc::clone(&play));
            thread::spawn(move || {
                // Whether the handshake succeeds is the other side's business.
                if let Ok(tls) = accept(config, socket) {
                    play(TlsLines::over(tls));
                }
            });
        }
    });
    address
}

/// The server's handshake on a connection whose plain text is over.
pub(crate) fn accept(config: Arc<ServerConfig>, socket: TcpStream) -> io::Result<Tls> {
    let connection = ServerConnection::new(config).expect("it is complete");
    Tls::handshake(connection.into(), socket)
}

/// TLS in front of a server in plain text.
pub(crate) fn serve_in_front_of(inner: SocketAddr, config: ServerConfig) -> SocketAddr {
    serve(config, move |lines| {
        let Ok(plain) = TcpStream::connect(inner) else {
            return;
        };
        let Ok(mut down) = plain.try_clone() else {
            return;
        };
        let tls = lines.tls.clone();
        thread::spawn(move || drop(io::copy(&mut down, &mut Sink(tls))));
        // Either side may go away at any time; that is its business.
        drop(pass(&lines.tls, plain));
    })
}

/// Passes plain text on until its end, and the end too.
fn pass(from: &Tls, mut to: TcpStream) -> io::Result<()> {
    let mut buffer = [0; RECORD];
    while let Got::Bytes(count) = from.read(&mut buffer)? {
        to.write_all(&buffer[..count])?;
    }
    to.shutdown(Shutdown::Write)
}

/// Writes into a connection and ends it in good order when dropped.
struct Sink(Tls);

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data).map(|()| data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.0.half_close());
    }
}

/// A server with this certificate; with `clients`, only for those that have one by that authority.
pub(crate) fn server_config(
    certificate: &Path,
    key: &Path,
    clients: Option<&Path>,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider knows both versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(roots(authority));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.expect("there is an authority"))
        }
    };
    builder
        .with_single_cert(certificates(certificate), private_key(key))
        .expect("the key fits its certificate")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(authority: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority) {
        roots.add(certificate).expect("it is a certificate");
    }
    roots
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    let pem = std::fs::read(file).expect("the file can be read");
    let certificates = X509::stack_from_pem(&pem).expect("these are certificates");
    let encoded = certificates.iter().map(|certificate| certificate.to_der());
    encoded
        .map(|der| CertificateDer::from(der.expect("it came from DER")))
        .collect()
}

fn private_key(file: &Path) -> PrivateKeyDer<'static> {
    let pem = std::fs::read(file).expect("the file can be read");
    let key = PKey::private_key_from_pem(&pem).expect("it is a key");
    let der = key.private_key_to_pkcs8().expect("every key can be PKCS#8");
    PrivatePkcs8KeyDer::from(der).into()
}
