//! Tests of the engines against each other, in memory: no sockets, no clocks.

mod backends;
mod clients;
mod handshakes;
mod key_files;
mod peer;
mod pki;
mod refreshing;
mod resumption;
mod wire;

use super::*;
use pki::{Folder, Made};

/// Both libraries.
const LIBRARIES: [Library; 2] = [Library::Rustls, Library::Native];

/// A server of `library` with these certificates; nothing else is set.
fn server_settings(folder: &Folder, library: Library, pairs: &[&Made]) -> ServerSettings {
    let mut settings = ServerSettings {
        tls_library: library,
        ..ServerSettings::default()
    };
    for made in pairs {
        let (certificate, key) = folder.pair(made);
        settings.ssl_certificate.push(certificate);
        settings.ssl_certificate_key.push(key);
    }
    settings
}

fn acceptor(settings: &ServerSettings) -> Acceptor {
    let made = Acceptor::new(settings.clone(), "imap", "imap", &SessionCaches::default());
    made.expect("settings are good").0
}

/// A client of `library` that trusts `root`.
fn client_settings(folder: &Folder, library: Library, root: &Made) -> ClientSettings {
    ClientSettings {
        tls_library: library,
        proxy_ssl_trusted_certificate: Some(folder.certificate(root)),
        ..ClientSettings::default()
    }
}

fn connector(settings: &ClientSettings) -> Connector {
    Connector::new(settings.clone())
        .expect("settings are good")
        .0
}

/// Two engines and what is on its way between them.
struct Link {
    client: Box<dyn Engine>,
    server: Box<dyn Engine>,
    /// Bytes moved at once.
    step: usize,
}

impl Link {
    fn new(client: Box<dyn Engine>, server: Box<dyn Engine>) -> Link {
        Link {
            client,
            server,
            step: 4096,
        }
    }

    fn of(connector: &Connector, name: &str, acceptor: &Acceptor) -> Link {
        let client = connector.engine(name).expect("client");
        Link::new(client, acceptor.engine().expect("server"))
    }

    /// Steps both sides until they are done or stuck; what each side says about the handshake.
    fn shake(&mut self) -> (Result<bool, TlsError>, Result<bool, TlsError>) {
        let mut results = (Ok(false), Ok(false));
        for _ in 0..50 {
            results = (self.client.handshake(), self.server.handshake());
            self.carry();
        }
        results
    }

    /// Shakes hands, successfully.
    fn open(mut self) -> Link {
        assert_eq!(self.shake(), (Ok(true), Ok(true)));
        self
    }

    /// Moves all pending ciphertext both ways.
    fn carry(&mut self) {
        let _ = carry(&mut self.client, &mut self.server, self.step);
        let _ = carry(&mut self.server, &mut self.client, self.step);
    }

    /// Sends `text` from the client and returns what the server reads.
    fn say(&mut self, text: &[u8]) -> Vec<u8> {
        say(&mut self.client, &mut self.server, text, self.step)
    }

    /// The same the other way round.
    fn answer(&mut self, text: &[u8]) -> Vec<u8> {
        say(&mut self.server, &mut self.client, text, self.step)
    }
}

/// Moves the pending ciphertext of one engine to the other, which must have room for it.
fn carry(
    from: &mut Box<dyn Engine>,
    to: &mut Box<dyn Engine>,
    step: usize,
) -> Result<(), TlsError> {
    while from.has_output() {
        let mut moving = Vec::new();
        from.give(&mut moving, step);
        assert!(!moving.is_empty() && moving.len() <= step);
        assert_eq!(to.take(&moving)?, moving.len());
    }
    Ok(())
}

fn say(from: &mut Box<dyn Engine>, to: &mut Box<dyn Engine>, text: &[u8], step: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let count = from.write(&rest[..rest.len().min(8192)]).expect("written");
        assert!(count > 0, "output is given away after each write");
        rest = &rest[count..];
        carry(from, to, step).expect("taken");
        heard.extend(read_all(to));
    }
    heard
}

/// Reads all plaintext that is there.
fn read_all(engine: &mut Box<dyn Engine>) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut buffer = [0; 1000];
    while let Plain::Bytes(count) = engine.read(&mut buffer).expect("read") {
        heard.extend_from_slice(&buffer[..count]);
    }
    heard
}

/// What reading gives when there is no plaintext.
fn at_end(engine: &mut Box<dyn Engine>) -> Plain {
    engine.read(&mut [0; 10]).expect("read")
}
