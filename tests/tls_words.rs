//! What the log says of handshakes that fail: the same sentence with both libraries, for old versions,
//! plain text, distrust and the rest that happens in practice. Peers are openssl's, Dovecot's and curl's.

use std::net::SocketAddr;
use std::path::Path;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::process::Process;
use crate::common::temp::TempDir;
use crate::common::tools::{curl, run};
use crate::common::{proxy_to, service};
use crate::peers::Peer;
use crate::servers::pki::{Key, NAMES, Pair, Pki, State};
use crate::servers::{dovecot, local, wait_until_listening};

const LIBRARIES: [&str; 2] = ["rustls", "native"];

/// The proxy with implicit TLS and this certificate; nobody gets as far as the backend.
fn proxy(library: &str, pair: &Pair) -> (Postern, AuthServer, SocketAddr) {
    let lines = format!(
        "listen = 127.0.0.1:0 ssl\ntls_library = {library}\n{}",
        pair.ssl_certificate()
    );
    let (postern, auth) = proxy_to("imap", local(1), &lines);
    let address = postern.addresses("imap")[1];
    (postern, auth, address)
}

fn s_client(address: SocketAddr, options: &[&str]) {
    let address = address.to_string();
    let said = run(
        "openssl",
        &[&["s_client", "-connect", &address], options].concat(),
        b"",
    );
    assert!(!said.success, "{}", said.everything());
}

fn sends(address: SocketAddr, bytes: &[u8]) {
    let mut client = LineClient::connect(address);
    client.send_raw(bytes);
    client.half_close();
    client.rest();
}

/// The one line about the client says exactly this of TLS.
fn expect_words(postern: &Postern, words: &str) {
    let expected = format!("TLS with client failed: {words} while SSL handshaking, client: ");
    let line = postern.wait_for_log("TLS with client failed: ");
    assert!(line.contains(&expected), "no {expected:?} in {line}");
    assert!(line.contains("[info]"), "{line}");
}

#[test]
fn a_client_that_speaks_old_tls_only_is_told_to_the_administrator() {
    let pair = Pki::shared().issue("mail.test", NAMES, Key::Rsa, State::Good);
    for library in LIBRARIES {
        for (option, name) in [("-tls1_1", "TLS 1.1"), ("-tls1", "TLS 1.0")] {
            let (postern, _auth, address) = proxy(library, &pair);
            s_client(address, &[option, "-cipher", "DEFAULT:@SECLEVEL=0"]);
            let words =
                format!("a client that speaks {name} only: see tls_library and ssl_protocols");
            expect_words(&postern, &words);
        }
    }
}

#[test]
fn a_client_that_does_not_speak_tls_is_told_by_what_it_sent() {
    let cases: [(&[u8], &str); 3] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP request"),
        (
            b"a LOGIN alice secret\r\n",
            "plain text; is TLS switched on in the mail program?",
        ),
        (
            &[3, 0, 0, 0x13, 0x0e, 0xe0, 0, 0],
            "bytes that mean nothing",
        ),
    ];
    for library in LIBRARIES {
        for (bytes, sent) in cases {
            let (postern, _auth, address) = proxy(library, Pki::shared().server());
            sends(address, bytes);
            expect_words(
                &postern,
                &format!("client does not speak TLS: it sent {sent}"),
            );
            assert!(!postern.log().contains("secret"), "{}", postern.log());
        }
    }
}

#[test]
fn a_client_that_does_not_trust_the_certificate_is_told_with_its_reason() {
    let pki = Pki::shared();
    let authority = pki.authority().display().to_string();
    let trusting = ["-verify_return_error", "-CAfile", &authority];
    let misnamed = [&trusting[..], &["-verify_hostname", "other.test"]].concat();
    // A clock in the year 2100.
    let late = [&trusting[..], &["-attime", "4102444800"]].concat();
    let cases: [(&[&str], &str); 3] = [
        (
            &["-verify_return_error"],
            "it does not know the issuer; does ssl_certificate hold the whole chain? \
             (alert unknown_ca)",
        ),
        (
            &late,
            "it has expired (renew ssl_certificate), or the client's clock is wrong \
             (alert certificate_expired)",
        ),
        (
            &misnamed,
            "its name, issuer or dates are not what the client wants; see ssl_certificate \
             (alert bad_certificate)",
        ),
    ];
    for library in LIBRARIES {
        for (options, why) in &cases {
            let (postern, _auth, address) = proxy(library, pki.server());
            s_client(address, options);
            expect_words(
                &postern,
                &format!("the client does not trust our certificate: {why}"),
            );
        }
        let (postern, _auth, address) = proxy(library, pki.server());
        assert!(!curl(&[&format!("imaps://{address}/")]).success);
        expect_words(
            &postern,
            &format!("the client does not trust our certificate: {}", cases[0].1),
        );
    }
}

#[test]
fn a_client_that_hangs_up_in_the_handshake_is_told_apart_from_one_that_looks_in() {
    for library in LIBRARIES {
        let (postern, _auth, address) = proxy(library, Pki::shared().server());
        sends(address, b"");
        let line = postern.wait_for_log("while SSL handshaking");
        assert!(line.contains("client closed connection"), "{line}");
        sends(address, &[22, 3, 1]);
        expect_words(
            &postern,
            "client closed the connection during the TLS handshake, as programs do that do not \
             trust our certificate",
        );
    }
}

#[test]
fn a_client_that_wants_another_protocol_or_cipher_is_told_alike_by_both_libraries() {
    let rsa = Pki::shared().issue("mail.test", NAMES, Key::Rsa, State::Good);
    let cases: [(&[&str], &str); 2] = [
        (
            &["-alpn", "h2"],
            "client asked for another application protocol (ALPN) than this port's, as a browser \
             does, a scanner, or a mail program with the wrong port",
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            "no shared cipher: the client offers none that ssl_ciphers and the key of the \
             certificate allow",
        ),
    ];
    for library in LIBRARIES {
        for (options, words) in cases {
            let (postern, _auth, address) = proxy(library, &rsa);
            s_client(address, options);
            expect_words(&postern, words);
        }
    }
}

/// `openssl s_server` with this certificate.
struct Server {
    address: SocketAddr,
    _folder: TempDir,
    _process: Process,
}

fn s_server(pair: &Pair, options: &[&str]) -> Server {
    let folder = TempDir::new("s_server");
    let address = local(free_port());
    let (text, certificate) = (address.to_string(), pair.certificate.display().to_string());
    let key = pair.key.display().to_string();
    let common = ["s_server", "-accept", &text, "-cert", &certificate];
    let arguments = [&common[..], &["-key", &key, "-quiet"], options].concat();
    let mut process = Process::start_silent("openssl", arguments);
    wait_until_listening(&mut process, &[address.port()], folder.path());
    Server {
        address,
        _folder: folder,
        _process: process,
    }
}

/// One login fails, and the loud line begins like this, the same with both libraries.
fn expect_backend_words(backend: SocketAddr, lines: &str, words: &str) {
    for library in LIBRARIES {
        let lines = format!("tls_library = {library}\n{lines}");
        let (postern, _auth) = proxy_to("imap", backend, &lines);
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send("a LOGIN alice secret");
        client.rest();
        let line = postern.wait_for_log("[error]");
        assert!(line.contains(words), "{library}: no {words:?} in {line}");
    }
}

fn trusting(authority: &Path) -> String {
    format!(
        "proxy_ssl = on\nproxy_ssl_trusted_certificate = {}\n",
        authority.display()
    )
}

#[test]
fn a_backend_whose_certificate_is_not_good_is_told_with_the_directive_that_helps() {
    let pki = Pki::shared();
    let expired = pki.issue("mail.test", NAMES, Key::Ec, State::Expired);
    let other = pki.issue("other.test", "DNS:other.test", Key::Ec, State::Good);
    let trust = trusting(&pki.authority());
    let cases = [
        (
            &expired,
            trust.as_str(),
            "certificate of \"127.0.0.1\" is not valid now (renew it on the backend): ",
        ),
        (
            &other,
            trust.as_str(),
            "certificate is not for \"127.0.0.1\" (set proxy_ssl_name to a name it has): ",
        ),
        (
            pki.server(),
            "proxy_ssl = on\n",
            "certificate of \"127.0.0.1\" is not trusted (put its issuer into \
             proxy_ssl_trusted_certificate, or the certificate's SHA-256 into \
             proxy_ssl_fingerprint with proxy_ssl_verify off): ",
        ),
    ];
    for (pair, lines, words) in cases {
        let server = s_server(pair, &[]);
        let words = format!("TLS with upstream failed: {words}");
        expect_backend_words(server.address, lines, &words);
    }
}

#[test]
fn a_backend_that_speaks_old_tls_only_is_told_to_the_administrator() {
    let pair = Pki::shared().issue("mail.test", NAMES, Key::Rsa, State::Good);
    let old = ["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"];
    let server = s_server(&pair, &old);
    let words = "TLS with upstream failed: unsupported protocol: the backend speaks no version that \
                 proxy_ssl_protocols allows; for TLS 1.1 and older see tls_library";
    expect_backend_words(server.address, &trusting(&Pki::shared().authority()), words);
}

#[test]
fn a_backend_that_wants_a_certificate_is_told_with_the_directive_that_gives_one() {
    let server = s_server(Pki::shared().server(), &["-Verify", "1", "-tls1_2"]);
    let words = "see proxy_ssl_protocols and proxy_ssl_certificate (alert handshake_failure)";
    expect_backend_words(server.address, &trusting(&Pki::shared().authority()), words);
}

#[test]
fn tls_at_a_port_for_plain_text_names_the_way_out() {
    let words = "TLS with upstream failed: backend does not speak TLS on this port: it sent plain text; \
                 set `proxy_ssl` to `starttls` or `off`, or name its port for TLS";
    expect_backend_words(dovecot::shared().imap, "proxy_ssl = on", words);
}

#[test]
fn plain_text_at_a_port_for_tls_names_the_way_out() {
    let words = "upstream timed out without a greeting; if this port waits for TLS, set `proxy_ssl` to \
                 `on` while reading response from upstream";
    for ssl in ["off", "starttls"] {
        let lines = format!("proxy_ssl = {ssl}\ntimeout = 1s");
        expect_backend_words(dovecot::shared().imaps, &lines, words);
    }
}

#[test]
fn an_auth_server_without_tls_is_called_an_auth_server() {
    let unused = AuthServer::start(|_| Answer::ok(local(1)));
    let auth = Peer::start(|talk| {
        talk.bytes(6)?;
        talk.say("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n")
    });
    for library in LIBRARIES {
        let ini = service("imap", &unused, &format!("tls_library = {library}"));
        let url = format!("https://{}/auth", auth.address());
        let postern = Postern::start(&ini.replace(&unused.url(), &url));
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send("a LOGIN alice secret");
        let line = postern.wait_for_log("[error]");
        let words = "auth server does not speak TLS on this port";
        assert!(line.contains(words) && line.contains("`http://`"), "{line}");
    }
}
