//! A proxy between a client and a backend whose connections are in plain text or over TLS, of either
//! library; and both ends of them, which a test holds and treats alike.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::tls::{self, Client, Got, Tls, server_config};
use crate::servers::pki::Pki;

/// How long one end waits for the other.
const DEADLINE: Duration = Duration::from_secs(20);

/// How the proxy speaks on a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    /// In plain text.
    Plain,
    /// Over TLS, by rustls.
    Rustls,
    /// Over TLS, by the system's library.
    Native,
}

impl Leg {
    /// All of them.
    pub(crate) const ALL: [Leg; 3] = [Leg::Plain, Leg::Rustls, Leg::Native];

    fn library(self) -> Option<&'static str> {
        match self {
            Leg::Plain => None,
            Leg::Rustls => Some("rustls"),
            Leg::Native => Some("native"),
        }
    }
}

/// A running proxy, or two in a row where the legs want different libraries.
pub(crate) struct Stage {
    /// The one that the client talks to is the last.
    pub(crate) proxies: Vec<(Postern, AuthServer)>,
    address: SocketAddr,
    client: Option<Client>,
}

impl Stage {
    /// Starts them with these lines for `[postern]` and these for `[server imap]`, in front of a backend
    /// that lets everybody in and then plays.
    pub(crate) fn start(
        (client, backend): (Leg, Leg),
        process: &str,
        more: &str,
        play: impl Fn(End, &str) + Send + Sync + 'static,
    ) -> Stage {
        let mut address = End::serve(backend != Leg::Plain, move |end| {
            if let Ok(user) = end.let_in() {
                play(end, &user);
            }
        });
        let rows = match (client.library(), backend.library()) {
            (Some(first), Some(second)) if first != second => {
                vec![(backend, backend), (client, client)]
            }
            _ => vec![(client, backend)],
        };
        let mut proxies = Vec::new();
        for (client, backend) in rows {
            let server = lines(client, backend) + more;
            // Connections to the auth server that are kept would count as descriptors.
            let auth = AuthServer::start(move |_| Answer::ok_with(address, &["Connection: close"]));
            let server = service("imap", &auth, &server);
            let postern = Postern::start(&format!("[postern]\n{process}\n{server}"));
            address = postern.addresses("imap")[usize::from(client != Leg::Plain)];
            proxies.push((postern, auth));
        }
        let trusting = || Client::trusting(&Pki::shared().authority());
        Stage {
            proxies,
            address,
            client: (client != Leg::Plain).then(trusting),
        }
    }

    /// The proxy that the client talks to.
    pub(crate) fn postern(&self) -> &Postern {
        &self.proxies.last().expect("there is at least one").0
    }

    /// A client that has connected and, where there is TLS, shaken hands.
    pub(crate) fn connect(&self) -> End {
        let plain = LineClient::connect(self.address).stream();
        let end = match &self.client {
            None => End::Plain(Arc::new(plain)),
            Some(client) => End::Tls(
                client
                    .handshake(plain)
                    .unwrap_or_else(|error| panic!("TLS failed: {error}")),
            ),
        };
        end.wait_at_most(DEADLINE);
        end
    }

    /// A client that has logged in.
    pub(crate) fn log_in(&self, user: &str) -> End {
        let end = self.connect();
        end.expect("* OK IMAP4 ready");
        end.send(&format!("in LOGIN {user} secret"));
        end.expect("in OK in");
        end
    }

    /// Waits until the last of the proxies has put so many relays to sleep.
    pub(crate) fn wait_until_asleep(&self, relays: usize) {
        let postern = self.postern();
        let what = format!("{relays} relays sleep");
        crate::common::wait::until_true(&what, DEADLINE, || {
            let (asleep, awake) = (postern.count("relay sleeps"), postern.count("relay wakes"));
            asleep - awake.min(asleep) == relays
        });
    }
}

/// What makes the legs of a server what they are.
fn lines(client: Leg, backend: Leg) -> String {
    let pki = Pki::shared();
    let mut lines = String::from("error_log = stderr debug\n");
    if let Some(library) = client.library().or(backend.library()) {
        lines += &format!("tls_library = {library}\n");
    }
    if client != Leg::Plain {
        lines += "listen = 127.0.0.1:0 ssl\n";
        lines += &pki.server().ssl_certificate();
    }
    if backend != Leg::Plain {
        let authority = pki.authority();
        lines += &format!(
            "proxy_ssl = on\nproxy_ssl_trusted_certificate = {}\n",
            authority.display()
        );
    }
    lines
}

/// One end of a connection. Clones share it, so that one thread may read while another writes.
#[derive(Clone)]
pub(crate) enum End {
    /// In plain text.
    Plain(Arc<TcpStream>),
    /// Over TLS.
    Tls(Tls),
}

impl End {
    /// Serves each connection on a thread of its own, for as long as the test binary runs.
    pub(crate) fn serve(over_tls: bool, play: impl Fn(End) + Send + Sync + 'static) -> SocketAddr {
        if over_tls {
            let pair = Pki::shared().server();
            let config = server_config(&pair.certificate, &pair.key, None);
            return tls::serve(config, move |lines| {
                let end = End::Tls(lines.tls);
                end.wait_at_most(DEADLINE);
                play(end);
            });
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("the system has a port");
        let address = listener.local_addr().expect("a listener has an address");
        let play = Arc::new(play);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let play = Arc::clone(&play);
                thread::spawn(move || {
                    let end = End::Plain(Arc::new(stream));
                    end.wait_at_most(DEADLINE);
                    play(end);
                });
            }
        });
        address
    }

    /// Plays the backend of an IMAP login that succeeds; the user's name.
    fn let_in(&self) -> io::Result<String> {
        self.write(b"* OK ready\r\n")?;
        let line = self.line()?;
        let tag = line.split(' ').next().unwrap_or_default();
        self.write(b"+ login\r\n")?;
        let user = self.line()?;
        self.write(b"+ password\r\n")?;
        self.line()?;
        self.write(format!("{tag} OK in\r\n").as_bytes())?;
        // The length of the password follows.
        Ok(user.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Sends a line; CRLF is added.
    pub(crate) fn send(&self, line: &str) {
        let sent = self.write(format!("{line}\r\n").as_bytes());
        sent.unwrap_or_else(|error| panic!("cannot send {line:?}: {error}"));
    }

    /// Reads a line and insists on what it is.
    pub(crate) fn expect(&self, line: &str) {
        match self.line() {
            Ok(got) => assert_eq!(got, line),
            Err(error) => panic!("{error} instead of {line:?}"),
        }
    }

    /// The next line without its CRLF. Nothing behind it is read.
    ///
    /// # Errors
    /// `UnexpectedEof` where the stream ends before.
    pub(crate) fn line(&self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            match self.read(&mut byte)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ => line.push(byte[0]),
            }
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Reads once; 0 is the end of the stream, in whatever manner.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            End::Plain(stream) => match (&**stream).read(buffer) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(0),
                read => read,
            },
            End::Tls(tls) => match tls.read(buffer)? {
                Got::Bytes(count) => Ok(count),
                Got::Notified | Got::Cut => Ok(0),
            },
        }
    }

    /// Reads exactly so many bytes.
    pub(crate) fn bytes(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut at = 0;
        while at < count {
            match self.read(&mut bytes[at..]) {
                Ok(0) => panic!("the stream ended {} bytes early", count - at),
                Ok(n) => at += n,
                Err(error) => panic!("{error} after {at} of {count} bytes"),
            }
        }
        bytes
    }

    /// Insists that the stream ends here.
    pub(crate) fn expect_end(&self) {
        let read = self.read(&mut [0; 64]);
        let read = read.unwrap_or_else(|error| panic!("{error} instead of the end"));
        assert_eq!(read, 0, "bytes instead of the end");
    }

    /// Sends all of it.
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<()> {
        match self {
            End::Plain(stream) => (&**stream).write_all(data),
            End::Tls(tls) => tls.write(data),
        }
    }

    /// Ends our direction in good order.
    pub(crate) fn half_close(&self) -> io::Result<()> {
        match self {
            End::Plain(stream) => stream.shutdown(Shutdown::Write),
            End::Tls(tls) => tls.half_close(),
        }
    }

    /// Breaks the connection; this is to be the last handle of it.
    pub(crate) fn reset(self) {
        let linger = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
        linger.expect("every TCP socket can be reset");
    }

    /// Reads give up after this time.
    pub(crate) fn wait_at_most(&self, limit: Duration) {
        let set = self.socket().set_read_timeout(Some(limit));
        set.expect("the limit is not zero");
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            End::Plain(stream) => stream,
            End::Tls(tls) => tls.socket(),
        }
    }
}
