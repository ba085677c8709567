//! `postern demo`: the proxy on loopback ports, with everything behind it that it needs to be tried.
//!
//! The proxy is the very same process that a configuration file starts; auth server and mail servers
//! are small ones in threads beside it. They demonstrate; they are no servers for real mail.

mod auth;
mod certificate;
mod imap;
mod peer;
mod pop3;
mod smtp;
mod store;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::config;
use crate::daemon::{self, Failure};
use crate::front::Listening;
use auth::Backends;
use certificate::Certificate;
use store::{Flags, INBOX, Store, USERS};

/// The services, in the order in which they are printed, with the ports that they take if they can:
/// plain text and STARTTLS, and TLS from the first byte.
const SERVICES: [(&str, u16, u16); 3] = [
    ("imap", 1143, 1993),
    ("pop3", 1110, 1995),
    ("smtp", 1587, 1465),
];

const WELCOME: &str = include_str!("welcome.txt");

/// Runs the demonstration until a signal ends it; `print` gets what the user should read.
///
/// # Errors
/// What kept it from starting.
pub(crate) fn run(print: impl FnOnce(&str)) -> Result<(), Failure> {
    let store = Arc::new(Store::new());
    welcome(&store);
    let auth = start_servers(&store).map_err(Failure::Running)?;
    let certificate = Certificate::make().map_err(Failure::Running)?;
    let text = configuration(auth, &certificate);
    let config = config::parse(&text, Path::new("demo.ini")).map_err(Failure::Configuration)?;
    daemon::run_with(&config, |listening| print(&guide(listening, &certificate)))
}

/// Everybody's first message.
fn welcome(store: &Store) {
    let now = Timestamp::now();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
    for user in &USERS {
        let text = WELCOME
            .replace("{name}", user.name)
            .replace("{date}", &date);
        if let Some(id) = store::find(user.name.as_bytes()) {
            let text = store::with_crlf(text.as_bytes());
            // An empty store has room for it.
            let _ = store.account(id).add(INBOX, text, Flags::default(), now);
        }
    }
}

/// Starts the mail servers and the auth server; returns where the latter is.
fn start_servers(store: &Arc<Store>) -> Result<SocketAddr, String> {
    let of_imap = Arc::clone(store);
    let of_pop3 = Arc::clone(store);
    let of_smtp = Arc::clone(store);
    let backends = Backends {
        imap: peer::start("IMAP", move |peer| imap::serve(peer, &of_imap))?,
        pop3: peer::start("POP3", move |peer| pop3::serve(peer, &of_pop3))?,
        smtp: peer::start("SMTP", move |peer| smtp::serve(peer, &of_smtp))?,
    };
    peer::start("auth", move |peer| auth::serve(peer, backends))
}

/// The proxy's configuration, as it could stand in a file.
fn configuration(auth: SocketAddr, certificate: &Certificate) -> String {
    let capabilities = imap::CAPABILITIES;
    let mut text = format!(
        "[postern]\nworkers = 16\nmax_sessions = 64\ncontrol = off\nerror_log = stderr info\n\n\
         [mail]\nserver_name = localhost\nauth_http = http://{auth}/auth\n\
         imap_capabilities = {capabilities}\npop3_capabilities = TOP USER UIDL PIPELINING\n\
         smtp_capabilities = \"SIZE {size}\" 8BITMIME PIPELINING ENHANCEDSTATUSCODES\n\
         starttls = on\nssl_certificate = {certificate}\nssl_certificate_key = {key}\n",
        certificate = certificate.certificate().display(),
        key = certificate.key().display(),
        size = store::MAX_MESSAGE,
    );
    for (name, port, tls_port) in SERVICES {
        let (port, tls_port) = (free_or_any(port), free_or_any(tls_port));
        text.push_str(&format!(
            "\n[server {name}]\nprotocol = {name}\nlisten = 127.0.0.1:{port}\n\
             listen = 127.0.0.1:{tls_port} ssl\n"
        ));
    }
    text
}

/// The port, or 0, which is any, if somebody else has it.
fn free_or_any(port: u16) -> u16 {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => port,
        Err(_) => 0,
    }
}

/// What the user should read: what runs where, and what to try.
fn guide(listening: &[Listening], certificate: &Certificate) -> String {
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    // In the order of the configuration: plain text first. By name, since mbsync, fetchmail and
    // offlineimap find no address in a certificate.
    let addresses = |server: &str| {
        let mut of_server = listening.iter().filter(|it| it.server == server);
        let mut next = || {
            let address = of_server.next().map_or("", |it| it.address.as_str());
            format!("localhost:{}", port(address))
        };
        (next(), next())
    };
    let [alice, bob] = &USERS;
    let (a, b) = (
        format!("{}:{}", alice.name, alice.password),
        format!("{}:{}", bob.name, bob.password),
    );
    let (imap, imaps) = addresses("imap");
    let (pop3, pop3s) = addresses("pop3");
    let (smtp, smtps) = addresses("smtp");
    format!(
        "
Postern is running, with a small mail store behind it:

  IMAP  {imap} (plain text, STARTTLS)   {imaps} (TLS)
  POP3  {pop3} (plain text, STARTTLS)   {pop3s} (TLS)
  SMTP  {smtp} (plain text, STARTTLS)   {smtps} (TLS)

Two users, with a welcome message each:

  {alice}@demo.test   login {alice}   password {alices}
  {bob}@demo.test     login {bob}     password {bobs}

Try it in another terminal. Read Alice's welcome message over IMAP, then over POP3:

  curl -s -u {a} 'imap://{imap}/INBOX;MAILINDEX=1'
  curl -s -u {a} pop3://{pop3}/1

Let Alice write to Bob, and read Bob's newest message:

  printf 'From: alice@demo.test\\r\\nTo: bob@demo.test\\r\\nSubject: Hello\\r\\n\\r\\nHello Bob!\\r\\n' | curl -s -u {a} smtp://{smtp} --mail-from alice@demo.test --mail-rcpt bob@demo.test -T -
  curl -s -u {b} 'imap://{imap}/INBOX;MAILINDEX=*'

The same over TLS, with a certificate made a moment ago for this demonstration:

  curl -s --cacert {ca} -u {a} 'imaps://{imaps}/INBOX;MAILINDEX=1'
  curl -s --cacert {ca} --ssl-reqd -u {a} pop3://{pop3}/1

For a mail program: server localhost, normal password; connection security STARTTLS (accept the
certificate) or none; incoming IMAP port {imap_port} or POP3 port {pop3_port}, outgoing SMTP port {smtp_port}.

What the proxy does is logged below. Ctrl-C ends it.

",
        alice = alice.name,
        alices = alice.password,
        bob = bob.name,
        bobs = bob.password,
        imap_port = port(&imap),
        pop3_port = port(&pop3),
        smtp_port = port(&smtp),
        ca = certificate.certificate().display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_configuration_is_good() {
        let certificate = Certificate::make().expect("a certificate");
        let text = configuration(([127, 0, 0, 1], 9).into(), &certificate);
        let config = config::parse(&text, Path::new("demo.ini")).expect("good");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!(config.servers.len(), SERVICES.len());
    }

    #[test]
    fn everybody_has_a_welcome_message() {
        let store = Store::new();
        welcome(&store);
        for user in &USERS {
            let id = store::find(user.name.as_bytes()).expect("a user");
            let account = store.account(id);
            let [message] = account.folder(INBOX).messages.as_slice() else {
                panic!("one message");
            };
            let text = String::from_utf8_lossy(&message.text);
            assert!(text.contains(&format!("To: {0} <{0}@demo.test>\r\n", user.name)));
            assert!(!text.contains('{'), "{text}");
        }
    }
}
