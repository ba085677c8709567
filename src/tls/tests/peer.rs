//! An OpenSSL client with its own ideas, behind the engine's interface: for what our own client
//! never does (ALPN, odd signature schemes, old ciphers).

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use openssl::ssl::{ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslStream};

use super::*;

/// An OpenSSL client.
pub(super) struct Peer {
    stream: SslStream<Wire>,
    wire: Wire,
    failure: Option<TlsError>,
}

/// Makes a client that checks nothing and asks for `name`.
pub(super) fn openssl_client(
    name: Option<&str>,
    configure: impl FnOnce(&mut SslContextBuilder),
) -> Box<dyn Engine> {
    let mut context = SslContext::builder(SslMethod::tls_client()).expect("context");
    configure(&mut context);
    let mut ssl = Ssl::new(&context.build()).expect("client");
    if let Some(name) = name {
        ssl.set_hostname(name).expect("name");
    }
    let wire = Wire::default();
    let stream = SslStream::new(ssl, wire.clone()).expect("stream");
    Box::new(Peer {
        stream,
        wire,
        failure: None,
    })
}

impl Engine for Peer {
    fn take(&mut self, ciphertext: &[u8]) -> Result<usize, TlsError> {
        self.wire
            .0
            .lock()
            .expect("wire")
            .0
            .extend_from_slice(ciphertext);
        Ok(ciphertext.len())
    }

    fn take_eof(&mut self) {}

    fn handshake(&mut self) -> Result<bool, TlsError> {
        if self.stream.ssl().is_init_finished() {
            return Ok(true);
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        match self.stream.connect() {
            Ok(()) => Ok(true),
            Err(error) if error.code() == ErrorCode::WANT_READ => Ok(false),
            Err(error) => {
                let failure = TlsError::new(TlsErrorKind::Protocol, error.to_string());
                self.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<Plain, TlsError> {
        match self.stream.read(buf) {
            Ok(0) => Ok(Plain::Closed),
            Ok(count) => Ok(Plain::Bytes(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Plain::NeedMore),
            Err(error) => Err(TlsError::new(TlsErrorKind::Protocol, error.to_string())),
        }
    }

    fn write(&mut self, plain: &[u8]) -> Result<usize, TlsError> {
        Ok(self.stream.write(plain).expect("written"))
    }

    fn give(&mut self, out: &mut Vec<u8>, limit: usize) {
        let mut wire = self.wire.0.lock().expect("wire");
        let count = wire.1.len().min(limit);
        out.extend(wire.1.drain(..count));
    }

    fn has_output(&self) -> bool {
        !self.wire.0.lock().expect("wire").1.is_empty()
    }

    fn close(&mut self) {
        let _ = self.stream.shutdown();
    }

    fn facts(&self) -> Facts {
        let ssl = self.stream.ssl();
        let alpn = ssl.selected_alpn_protocol();
        let der = ssl.peer_certificate().and_then(|peer| peer.to_der().ok());
        Facts {
            protocol: ssl.version_str().to_owned(),
            cipher: ssl
                .current_cipher()
                .map_or("", |cipher| cipher.name())
                .to_owned(),
            alpn: alpn.map(|name| String::from_utf8_lossy(name).into_owned()),
            peer: der.and_then(|der| verify::describe(&der.into())),
            resumed: ssl.session_reused(),
            ..Facts::default()
        }
    }
}

/// What came from the other side, and what goes there.
#[derive(Debug, Clone, Default)]
struct Wire(Arc<Mutex<(Vec<u8>, Vec<u8>)>>);

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.lock().expect("wire");
        let count = wire.0.len().min(buf.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf[..count].copy_from_slice(&wire.0[..count]);
        wire.0.drain(..count);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("wire").1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
