//! Which certificate a client gets, what becomes of its own, renewal while the proxy runs, and which
//! sessions are resumed.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer, Request};
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tls::{Client, TlsLines};
use crate::common::tools::run;
use crate::common::wait;
use crate::common::{proxy_to, service};
use crate::peers::imap::imap_server;
use crate::peers::{Peer, server_of};
use crate::servers::pki::{self, Key, NAMES, Pair, Pki, State};
use nix::sys::signal::Signal;
use openssl::x509::X509;

/// A proxy for IMAP over implicit TLS in front of a small server.
struct Setting {
    postern: Postern,
    auth: AuthServer,
    _backend: Peer,
}

fn proxy(lines: &str) -> Setting {
    let backend = Peer::start(imap_server);
    let lines = format!("listen = 127.0.0.1:0 ssl\n{lines}");
    let (postern, auth) = proxy_to("imap", backend.address(), &lines);
    Setting {
        postern,
        auth,
        _backend: backend,
    }
}

fn client() -> Client {
    Client::trusting(&Pki::shared().authority())
}

impl Setting {
    fn address(&self) -> SocketAddr {
        self.postern.addresses("imap")[1]
    }

    fn greeted(&self, client: &Client) -> TlsLines {
        let mut lines = client.connect(self.address());
        lines.expect("* OK IMAP4 ready");
        lines
    }

    fn shown(&self) -> Vec<u8> {
        self.greeted(&client()).tls.peer_certificate()
    }

    /// Runs `openssl s_client` up to the goodbye.
    fn s_client(&self, options: &[&str]) -> String {
        let server = self.address().to_string();
        let common = ["s_client", "-ign_eof", "-crlf", "-connect", &server];
        let said = run("openssl", &[&common, options].concat(), b"q LOGOUT\n").text();
        assert!(said.contains("q OK completed"), "{said}");
        said
    }
}

fn log_in(lines: &mut TlsLines) {
    let answer = lines.ask_many("a LOGIN alice secret", "a ");
    assert!(answer[0].starts_with("a OK"), "{answer:?}");
}

#[test]
fn the_certificate_is_chosen_by_name_and_key_type() {
    let pki = Pki::shared();
    let names = [
        ("mail.test", "DNS:mail.test"),
        ("other.test", "DNS:other.test,DNS:*.wild.test"),
    ];
    let keys = [(Key::Rsa, "RSA-PSS+SHA256"), (Key::Ec, "ECDSA+SHA256")];
    let mut pairs = Vec::new();
    for (name, alternatives) in names {
        for (key, algorithm) in keys {
            pairs.push((
                name,
                algorithm,
                pki.issue(name, alternatives, key, State::Good),
            ));
        }
    }
    let lines: String = pairs
        .iter()
        .map(|(_, _, pair)| pair.ssl_certificate())
        .collect();
    let setting = proxy(&lines);
    let shown = |options: &[&str]| {
        let said = setting.s_client(options);
        let begin = said.find("-----BEGIN").unwrap_or(0);
        let certificate = X509::from_pem(&said.as_bytes()[begin..]);
        let certificate = certificate.unwrap_or_else(|_| panic!("no certificate in {said}"));
        certificate.to_der().expect("it came from DER")
    };
    for (name, algorithm, pair) in &pairs {
        assert!(
            shown(&["-servername", name, "-sigalgs", algorithm]) == pair.der(),
            "{name} {algorithm}"
        );
    }
    let (rsa, other_rsa) = (&pairs[0].2, &pairs[2].2);
    let sigalgs = ["-sigalgs", "RSA-PSS+SHA256"];
    let asked_for = |name: &[&str]| shown(&[name, &sigalgs].concat());
    assert!(asked_for(&["-servername", "a.wild.test"]) == other_rsa.der());
    assert!(asked_for(&["-servername", "OTHER.test"]) == other_rsa.der());
    // Without a name that is known, the first stands in.
    assert!(asked_for(&["-servername", "unknown.test"]) == rsa.der());
    assert!(asked_for(&["-noservername"]) == rsa.der());
}

#[test]
fn tls_1_2_chooses_by_cipher_between_key_types() {
    let pki = Pki::shared();
    let rsa = pki.issue("mail.test", NAMES, Key::Rsa, State::Good);
    let ec = pki.issue("mail.test", NAMES, Key::Ec, State::Good);
    let setting = proxy(&(rsa.ssl_certificate() + &ec.ssl_certificate()));
    for (cipher, kind) in [
        ("ECDHE-RSA-AES128-GCM-SHA256", "Peer signature type: RSA"),
        (
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "Peer signature type: ECDSA",
        ),
    ] {
        let said = setting.s_client(&["-tls1_2", "-cipher", cipher]);
        assert!(
            said.contains(kind) && said.contains(&format!("Cipher is {cipher}")),
            "{said}"
        );
    }
}

#[test]
fn ssl_protocols_and_ssl_ciphers_hold() {
    let more = "ssl_protocols = TLSv1.2\nssl_ciphers = ECDHE-ECDSA-CHACHA20-POLY1305:!aNULL\n";
    let setting = proxy(&format!(
        "{more}{}",
        Pki::shared().server().ssl_certificate()
    ));
    let said = setting.s_client(&[]);
    assert!(
        said.contains("TLSv1.2, Cipher is ECDHE-ECDSA-CHACHA20-POLY1305"),
        "{said}"
    );
    for refused in [
        &["-tls1_3"][..],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
    ] {
        let server = setting.address().to_string();
        let arguments = [&["s_client", "-connect", &server], refused].concat();
        assert!(!run("openssl", &arguments, b"").success);
    }
}

#[test]
fn nothing_in_common_is_the_alert_handshake_failure_and_told_in_words() {
    let pki = Pki::shared();
    let rsa = pki.issue("mail.test", NAMES, Key::Rsa, State::Good);
    let ciphers = "ssl_ciphers = ECDHE-RSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256\n";
    let setting = proxy(&format!("{ciphers}{}", rsa.ssl_certificate()));
    let no_cipher = "no shared cipher: the client offers none that ssl_ciphers";
    let no_signature = "no shared signature algorithms: the client takes none";
    let cases: [(&[&str], &str); 5] = [
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"],
            no_cipher,
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            no_cipher,
        ),
        (
            &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
            no_cipher,
        ),
        (&["-tls1_3", "-sigalgs", "ECDSA+SHA256"], no_signature),
        (
            &[
                "-tls1_3",
                "-sigalgs",
                "ECDSA+SHA256",
                "-servername",
                "other.test",
            ],
            no_signature,
        ),
    ];
    for (number, (options, log)) in cases.iter().enumerate() {
        let server = setting.address().to_string();
        let arguments = [&["s_client", "-connect", &server], *options].concat();
        let said = run("openssl", &arguments, b"").everything();
        assert!(said.contains("SSL alert number 40"), "{options:?}: {said}");
        let line = setting
            .postern
            .wait_for_log(&format!("*{} TLS with client failed", number + 1));
        assert!(
            line.contains(log) && line.contains("[info]"),
            "{options:?}: {line}"
        );
    }
}

/// Whether the second of two connections resumes the first one's session, by `openssl s_client`.
fn is_resumed(first: SocketAddr, second: SocketAddr, version: &str) -> bool {
    is_resumed_after(first, second, version, || {})
}

/// The same, with something that happens in between.
fn is_resumed_after(
    first: SocketAddr,
    second: SocketAddr,
    version: &str,
    between: impl FnOnce(),
) -> bool {
    let folder = TempDir::new("sessions");
    let file = folder.path().join("session").display().to_string();
    let connect = |address: SocketAddr, option: &str| {
        let server = address.to_string();
        let common = [
            "s_client", "-ign_eof", "-crlf", version, "-connect", &server,
        ];
        let said = run(
            "openssl",
            &[&common[..], &[option, &file]].concat(),
            b"q LOGOUT\n",
        )
        .text();
        assert!(said.contains("q OK completed"), "{said}");
        said
    };
    let said = connect(first, "-sess_out");
    assert!(said.contains("New, TLSv1."), "{said}");
    if fs::metadata(&file).is_err() {
        return false;
    }
    between();
    let said = connect(second, "-sess_in");
    assert!(
        said.contains("New, TLSv1.") != said.contains("Reused, TLSv1."),
        "{said}"
    );
    said.contains("Reused, TLSv1.")
}

#[test]
fn sessions_are_resumed_as_configured() {
    let cases = [
        ("", true),
        (
            "ssl_session_tickets = off\nssl_session_cache = shared:SSL:1m",
            true,
        ),
        (
            "ssl_session_tickets = off\nssl_session_cache = builtin",
            true,
        ),
        ("ssl_session_tickets = off\nssl_session_cache = none", false),
        ("ssl_session_tickets = off\nssl_session_cache = off", false),
        ("ssl_session_tickets = off", false),
    ];
    let certificate = Pki::shared().server().ssl_certificate();
    for (lines, resumes) in cases {
        let setting = proxy(&format!("{certificate}{lines}"));
        for version in ["-tls1_2", "-tls1_3"] {
            let resumed = is_resumed(setting.address(), setting.address(), version);
            assert_eq!(resumed, resumes, "{version} with {lines:?}");
        }
    }
}

#[test]
fn sessions_outlive_a_reload() {
    let certificate = Pki::shared().server().ssl_certificate();
    let builtin = "ssl_session_tickets = off\nssl_session_cache = builtin\n";
    let shared = "ssl_session_tickets = off\nssl_session_cache = shared:SSL:1m\n";
    let larger = "ssl_session_tickets = off\nssl_session_cache = shared:SSL:2m\n";
    for (before, after, resumes) in [
        ("", "", true),
        (builtin, builtin, true),
        (shared, shared, true),
        (shared, larger, false),
        ("", "ssl_session_timeout = 4m\n", false),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let backend = Peer::start(imap_server).address();
            let auth = AuthServer::start(move |_| Answer::ok(backend));
            let listen = format!("listen = 127.0.0.1:{} ssl\n{certificate}", free_port());
            let ini = |lines: &str| service("imap", &auth, &format!("{listen}{lines}"));
            let postern = Postern::start(&ini(before));
            let address = postern.addresses("imap")[1];
            // The second reload shows that what is kept is kept again.
            let reload = || {
                for number in 1..=2 {
                    postern.folder().write("postern.ini", ini(after));
                    postern.signal(Signal::SIGHUP);
                    wait::until_true("the reload is done", Duration::from_secs(10), || {
                        postern.lines_with("was read anew").len() == number
                    });
                }
            };
            let resumed = is_resumed_after(address, address, version, reload);
            assert_eq!(resumed, resumes, "{version}, {before:?} then {after:?}");
        }
    }
}

#[test]
fn native_resumes_tls_1_2() {
    let certificate = Pki::shared().server().ssl_certificate();
    let setting = proxy(&format!("{certificate}tls_library = native"));
    assert!(is_resumed(setting.address(), setting.address(), "-tls1_2"));
    let said = setting.s_client(&["-reconnect", "-tls1_2"]);
    assert_eq!(said.matches("Reused, TLSv1.2").count(), 5, "{said}");
}

#[test]
fn reconnecting_five_times_resumes_five_times() {
    let setting = proxy(&Pki::shared().server().ssl_certificate());
    let said = setting.s_client(&["-reconnect", "-tls1_2"]);
    assert_eq!(said.matches("Reused, TLSv1.2").count(), 5, "{said}");
}

#[test]
fn a_resumed_session_can_log_in() {
    let setting = proxy(&Pki::shared().server().ssl_certificate());
    for client in [client(), client().only_1_2()] {
        let mut first = setting.greeted(&client);
        log_in(&mut first);
        assert!(!first.tls.is_resumed());
        let mut second = setting.greeted(&client);
        assert!(second.tls.is_resumed());
        log_in(&mut second);
    }
}

/// Two servers with the same tickets and cache, of which the second has these lines besides.
fn resumes_across(second: &str) -> [bool; 2] {
    let backend = Peer::start(imap_server).address();
    let auth = AuthServer::start(move |_| Answer::ok(backend));
    let key = TempDir::new("ticket-key");
    let key = key.write("key", [7; 80]);
    let certificate = Pki::shared().server().ssl_certificate();
    let lines = format!(
        "{certificate}ssl_session_ticket_key = {}\nssl_session_cache = shared:SSL:1m\n",
        key.display()
    );
    let server = |name: &str, more: &str| {
        let text = service(
            "imap",
            &auth,
            &format!("listen = 127.0.0.1:0 ssl\n{lines}{more}"),
        );
        text.replace("[server imap]", &format!("[server {name}]"))
    };
    let postern = Postern::start(&(server("a", "") + &server("b", second)));
    let (a, b) = (postern.addresses("a")[1], postern.addresses("b")[1]);
    ["-tls1_2", "-tls1_3"].map(|version| is_resumed(a, b, version))
}

#[test]
fn servers_with_one_ticket_key_resume_each_others_sessions() {
    assert_eq!(resumes_across(""), [true, true]);
}

/// As behind a balancer that sends a client here today and there tomorrow.
#[test]
fn nodes_with_one_ticket_key_resume_each_others_sessions_and_others_do_not() {
    let backend = Peer::start(imap_server).address();
    let auth = AuthServer::start(move |_| Answer::ok(backend));
    let folder = TempDir::new("ticket-key");
    let certificate = Pki::shared().server().ssl_certificate();
    let node = |key: u8| {
        let file = folder.write(&format!("key{key}"), [key; 80]);
        let more = format!(
            "listen = 127.0.0.1:0 ssl\n{certificate}ssl_session_ticket_key = {}\n",
            file.display()
        );
        Postern::start(&service("imap", &auth, &more))
    };
    let (first, second, other) = (node(7), node(7), node(8));
    let at = |node: &Postern| node.addresses("imap")[1];
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(is_resumed(at(&first), at(&second), version), "{version}");
        assert!(is_resumed(at(&second), at(&first), version), "{version}");
        assert!(!is_resumed(at(&first), at(&other), version), "{version}");
    }
}

#[test]
fn sessions_do_not_cross_to_a_server_with_other_rules_for_client_certificates() {
    let authority = Pki::shared().authority();
    let authority = authority.display();
    for second in [
        format!("ssl_verify_client = optional\nssl_client_certificate = {authority}"),
        "ssl_verify_client = optional_no_ca".to_owned(),
    ] {
        assert_eq!(resumes_across(&second), [false, false], "{second}");
    }
}

/// What a client may have.
struct Identities {
    good: Pair,
    expired: Pair,
    revoked: Pair,
    self_signed: Pair,
}

impl Identities {
    fn make() -> Identities {
        let issue = |state| {
            let name = format!("{state:?} client");
            Pki::shared().issue(&name, "email:client@example.test", Key::Ec, state)
        };
        Identities {
            good: issue(State::Good),
            expired: issue(State::Expired),
            revoked: issue(State::Revoked),
            self_signed: issue(State::SelfSigned),
        }
    }
}

fn verifying(mode: &str) -> String {
    let pki = Pki::shared();
    format!(
        "ssl_verify_client = {mode}\nssl_client_certificate = {}\nssl_crl = {}\n{}",
        pki.authority().display(),
        pki.crl().display(),
        pki.server().ssl_certificate()
    )
}

fn with(pair: &Pair) -> Client {
    client().with(&pair.certificate, &pair.key)
}

/// What is to become of a client.
enum Fate {
    /// It may log in, and this is `Auth-SSL-Verify`.
    Passes(&'static str),
    /// It hears this line, and the log says this.
    Hears(&'static str, &'static str),
}

use Fate::{Hears, Passes};

const ERROR: &str = "* BYE SSL certificate error";

fn expect_fate(setting: &Setting, what: &str, client: &Client, fate: &Fate) {
    let before = setting.auth.requests().len();
    let mut lines = client.connect(setting.address());
    match fate {
        Passes(verify) => {
            lines.expect("* OK IMAP4 ready");
            log_in(&mut lines);
            let request = setting.auth.wait_for_request(before + 1);
            assert_eq!(request.header("Auth-SSL-Verify"), Some(*verify), "{what}");
        }
        Hears(line, log) => {
            assert_eq!(lines.line(), *line, "{what}");
            lines.expect_close();
            let line = setting.postern.wait_for_log(log);
            assert!(
                line.contains("[info]") && line.contains("while SSL handshaking"),
                "{line}"
            );
            assert_eq!(setting.auth.requests().len(), before, "{what}");
        }
    }
}

#[test]
fn each_verify_mode_treats_each_client_certificate_as_nginx_does() {
    const EXPIRED: Fate = Hears(
        ERROR,
        "client SSL certificate verify error: (10:certificate has expired)",
    );
    const REVOKED: Fate = Hears(
        ERROR,
        "client SSL certificate verify error: (23:certificate revoked)",
    );
    const SELF_SIGNED: Fate = Hears(
        ERROR,
        "client SSL certificate verify error: (18:self-signed certificate)",
    );
    const MISSING: Fate = Hears(
        "* BYE No required SSL certificate",
        "client sent no required SSL certificate",
    );
    let identities = Identities::make();
    let modes = [
        ("on", SELF_SIGNED, MISSING),
        ("optional", SELF_SIGNED, Passes("NONE")),
        (
            "optional_no_ca",
            Passes("FAILED:self-signed certificate"),
            Passes("NONE"),
        ),
    ];
    for (mode, self_signed, missing) in modes {
        let setting = proxy(&verifying(mode));
        for old in [false, true] {
            let check = |what: &str, client: Client, fate: &Fate| {
                let client = if old { client.only_1_2() } else { client };
                expect_fate(&setting, &format!("{what} with {mode}"), &client, fate);
            };
            check("good", with(&identities.good), &Passes("SUCCESS"));
            check("expired", with(&identities.expired), &EXPIRED);
            check("revoked", with(&identities.revoked), &REVOKED);
            check("self-signed", with(&identities.self_signed), &self_signed);
            check("none", client(), &missing);
        }
    }
}

#[test]
fn a_client_may_sign_by_pkcs1_in_tls_1_2_only() {
    let own = Pki::shared().issue("rsa client", "DNS:c.test", Key::Rsa, State::Good);
    let setting = proxy(&verifying("on"));
    let honest = with(&own);
    let old = with(&own).only_1_2().signing_by_pkcs1();
    for (what, client) in [("PSS", &honest), ("TLS 1.2", &old)] {
        expect_fate(&setting, what, client, &Passes("SUCCESS"));
    }
    let forbidden = with(&own).signing_by_pkcs1();
    let tls = forbidden
        .try_connect(setting.address())
        .expect("its side is done");
    let error = tls.read(&mut [0; 100]).expect_err("an alert");
    assert!(error.to_string().contains("IllegalParameter"), "{error}");
    drop(tls);
    let line = setting.postern.wait_for_log("signed with a scheme");
    assert!(line.contains("[info]"), "{line}");
}

#[test]
fn verify_client_off_asks_for_none_and_says_nothing_of_one() {
    let good = Identities::make().good;
    let setting = proxy(&Pki::shared().server().ssl_certificate());
    log_in(&mut setting.greeted(&with(&good)));
    let request = setting.auth.wait_for_request(1);
    assert_eq!(
        names_of_tls_headers(&request),
        ["Auth-SSL", "Auth-SSL-Protocol", "Auth-SSL-Cipher"]
    );
}

#[test]
fn a_client_certificate_that_is_trusted_itself_is_good() {
    let own = Pki::shared().issue("device", "DNS:device.test", Key::Rsa, State::SelfSigned);
    let setting = proxy(&format!(
        "ssl_verify_client = on\nssl_client_certificate = {}\nssl_trusted_certificate = {}\n{}",
        Pki::shared().authority().display(),
        own.certificate.display(),
        Pki::shared().server().ssl_certificate()
    ));
    expect_fate(&setting, "trusted", &with(&own), &Passes("SUCCESS"));
}

#[test]
fn the_refusal_has_its_line_in_every_protocol_behind_starttls_too() {
    let lines = [
        (
            "pop3",
            "STLS",
            "+OK",
            "-ERR SSL certificate error",
            "-ERR No required SSL certificate",
        ),
        (
            "smtp",
            "STARTTLS",
            "220 2.0.0 Start TLS",
            "421 4.7.1 SSL certificate error",
            "421 4.7.1 No required SSL certificate",
        ),
        (
            "imap",
            "t STARTTLS",
            "t OK completed",
            ERROR,
            "* BYE No required SSL certificate",
        ),
    ];
    let stranger = Pki::shared().issue("stranger", "DNS:a.test", Key::Ec, State::SelfSigned);
    for (protocol, command, begin, error, missing) in lines {
        let backend = Peer::start(server_of(protocol));
        let tls = format!(
            "listen = 127.0.0.1:0 ssl\nstarttls = on\n{}",
            verifying("on")
        );
        let (postern, auth) = proxy_to(protocol, backend.address(), &tls);
        for (client, line) in [(with(&stranger), error), (client(), missing)] {
            let mut implicit = client.connect(postern.addresses(protocol)[1]);
            implicit.expect(line);
            implicit.expect_close();

            let (mut plain, _) =
                crate::common::line_client::LineClient::greeted(postern.address(protocol));
            plain.ask(command, begin);
            let tls = client.handshake(plain.stream());
            let mut behind = TlsLines::over(tls.expect("the handshake lets everybody in"));
            behind.expect(line);
            behind.expect_close();
        }
        assert!(auth.requests().is_empty());
    }
}

fn names_of_tls_headers(request: &Request) -> Vec<&str> {
    let headers = request.headers().into_iter();
    let names = headers.filter_map(|line| Some(line.split_once(": ")?.0));
    names.filter(|name| name.starts_with("Auth-SSL")).collect()
}

/// What the openssl command says of a certificate, without the name before `=`.
fn said_of(pair: &Pair, options: &[&str]) -> String {
    let file = pair.certificate.display().to_string();
    let common = ["x509", "-noout", "-nameopt", "RFC2253", "-in", &file];
    let said = run("openssl", &[&common, options].concat(), b"").text();
    let (_, value) = said.trim_end().split_once('=').expect("it says NAME=VALUE");
    value.trim_start().to_owned()
}

#[test]
fn the_auth_server_gets_the_certificate_as_openssl_spells_it() {
    let pair = Identities::make().good;
    let setting = proxy(&format!(
        "auth_http_pass_client_cert = on\n{}",
        verifying("on")
    ));
    log_in(&mut setting.greeted(&with(&pair)));
    let request = setting.auth.wait_for_request(1);
    let fingerprint = said_of(&pair, &["-fingerprint", "-sha1"])
        .replace(':', "")
        .to_lowercase();
    let pem = fs::read_to_string(&pair.certificate).expect("the file can be read");
    let expected = [
        "Auth-SSL: on".to_owned(),
        "Auth-SSL-Protocol: TLSv1.3".to_owned(),
        "Auth-SSL-Cipher: TLS_AES_256_GCM_SHA384".to_owned(),
        "Auth-SSL-Verify: SUCCESS".to_owned(),
        format!("Auth-SSL-Subject: {}", said_of(&pair, &["-subject"])),
        format!("Auth-SSL-Issuer: {}", said_of(&pair, &["-issuer"])),
        format!("Auth-SSL-Serial: {}", said_of(&pair, &["-serial"])),
        format!("Auth-SSL-Fingerprint: {fingerprint}"),
        format!(
            "Auth-SSL-Cert: {}",
            pem.replace(' ', "%20").replace('\n', "%0A")
        ),
    ];
    let mut headers = request.headers();
    headers.retain(|line| line.starts_with("Auth-SSL"));
    assert_eq!(headers, expected);
    assert_eq!(
        expected[4],
        "Auth-SSL-Subject: CN=Good client,O=Postern tests"
    );
}

#[test]
fn a_resumed_session_is_judged_by_the_certificate_of_its_first() {
    let pair = Identities::make().good;
    let setting = proxy(&verifying("on"));
    for client in [with(&pair), with(&pair).only_1_2()] {
        log_in(&mut setting.greeted(&client));
        let mut again = setting.greeted(&client);
        assert!(again.tls.is_resumed());
        log_in(&mut again);
    }
    let requests = setting.auth.requests();
    assert_eq!(requests.len(), 4);
    for request in requests {
        assert_eq!(request.header("Auth-SSL-Verify"), Some("SUCCESS"));
        let subject = request.header("Auth-SSL-Subject");
        assert_eq!(subject, Some("CN=Good client,O=Postern tests"));
    }
}

/// A folder whose pair is replaced while the proxy runs.
struct Live {
    folder: TempDir,
    pair: Pair,
}

impl Live {
    fn new(first: &Pair) -> Live {
        let folder = TempDir::new("live");
        let pair = Pair {
            certificate: folder.path().join("live.pem"),
            key: folder.path().join("live.key"),
        };
        let live = Live { folder, pair };
        live.renew(first);
        live
    }

    /// As certbot does it: new files take the old names.
    fn renew(&self, new: &Pair) {
        for (from, to) in [
            (&new.certificate, &self.pair.certificate),
            (&new.key, &self.pair.key),
        ] {
            let beside = self.folder.path().join("new");
            fs::copy(from, &beside).expect("the folder is ours");
            fs::rename(&beside, to).expect("the folder is ours");
        }
    }
}

/// The proxy looks at its files once a second at most.
fn let_a_second_pass() {
    thread::sleep(Duration::from_millis(1100));
}

#[test]
fn a_renewed_certificate_serves_the_next_handshake_and_leaves_sessions_alone() {
    for library in ["rustls", "native"] {
        let issue = || Pki::shared().issue("mail.test", NAMES, Key::Ec, State::Good);
        let (old, new) = (issue(), issue());
        let live = Live::new(&old);
        let setting = proxy(&format!(
            "tls_library = {library}\n{}",
            live.pair.ssl_certificate()
        ));
        let mut before_login = setting.greeted(&client());
        let mut relayed = setting.greeted(&client());
        log_in(&mut relayed);
        assert!(relayed.tls.peer_certificate() == old.der());

        live.renew(&new);
        let_a_second_pass();
        assert!(setting.shown() == new.der(), "{library}");
        setting.postern.wait_for_log("certificates have changed");
        relayed.ask("b NOOP", "b OK backend NOOP");
        log_in(&mut before_login);
    }
}

#[test]
fn a_certificate_revoked_meanwhile_is_refused_even_on_resumption() {
    let pki = Pki::shared();
    let pair = pki.issue("former client", "email:a@b.test", Key::Ec, State::Good);
    let folder = TempDir::new("crl");
    let crl = folder.path().join("crl.pem");
    fs::copy(pki.crl(), &crl).expect("the folder is ours");
    let setting = proxy(&format!(
        "ssl_verify_client = on\nssl_client_certificate = {}\nssl_crl = {}\n{}",
        pki.authority().display(),
        crl.display(),
        pki.server().ssl_certificate()
    ));
    let client = with(&pair);
    log_in(&mut setting.greeted(&client));

    pki.revoke(&pair);
    fs::rename(pki.crl(), &crl).expect("both are in the same file system");
    let_a_second_pass();
    let mut again = client.connect(setting.address());
    again.expect(ERROR);
    again.expect_close();
}

#[test]
fn a_broken_new_file_keeps_the_old_certificate_and_is_logged_once() {
    for library in ["rustls", "native"] {
        let issue = || Pki::shared().issue("mail.test", NAMES, Key::Ec, State::Good);
        let (old, new) = (issue(), issue());
        let live = Live::new(&old);
        let setting = proxy(&format!(
            "tls_library = {library}\n{}",
            live.pair.ssl_certificate()
        ));

        // Garbage; then a certificate whose key has not come yet.
        for content in [
            b"-----BEGIN NONSENSE-----\n".to_vec(),
            fs::read(&new.certificate).expect("it is there"),
        ] {
            fs::write(&live.pair.certificate, content).expect("the folder is ours");
            let_a_second_pass();
            for _ in 0..3 {
                assert!(setting.shown() == old.der(), "{library}");
            }
        }
        let lines = setting.postern.lines_with("the old ones stay in use");
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in lines {
            let file = live.pair.certificate.display().to_string();
            assert!(line.contains("[error]") && line.contains(&file), "{line}");
        }

        live.renew(&new);
        let_a_second_pass();
        assert!(setting.shown() == new.der(), "{library}");
        assert!(pki::fingerprint(&live.pair.certificate) == pki::fingerprint(&new.certificate));
    }
}

#[test]
fn an_ocsp_response_is_sent_and_read_again_when_it_changes() {
    let pki = Pki::shared();
    let pair = pki.issue("mail.test", NAMES, Key::Ec, State::Good);
    let folder = TempDir::new("stapling");
    let file = folder.write("ocsp.der", pki.ocsp(&pair));
    let chain = pki.with_chain(&pair).ssl_certificate();
    let setting = proxy(&format!("{chain}ssl_stapling_file = {}\n", file.display()));
    let status_is = |status: &str| {
        for version in ["-tls1_2", "-tls1_3"] {
            let said = setting.s_client(&["-status", version]);
            assert!(said.contains("OCSP Response Status: successful"), "{said}");
            assert!(said.contains(&format!("Cert Status: {status}")), "{said}");
        }
    };
    status_is("good");
    let unasked = setting.s_client(&[]);
    assert!(!unasked.contains("OCSP Response"), "{unasked}");

    pki.revoke(&pair);
    folder.write("ocsp.der", pki.ocsp(&pair));
    let_a_second_pass();
    status_is("revoked");

    folder.write("ocsp.der", "no response at all");
    let_a_second_pass();
    status_is("revoked");
    let line = setting.postern.wait_for_log("the old ones stay in use");
    assert!(
        line.contains("ssl_stapling_file: no OCSP response in DER"),
        "{line}"
    );
}

#[test]
fn each_certificate_has_its_own_ocsp_response() {
    let pki = Pki::shared();
    let folder = TempDir::new("stapling");
    let [ec, rsa] = [Key::Ec, Key::Rsa]
        .map(|key| pki.with_chain(&pki.issue("mail.test", NAMES, key, State::Good)));
    let [first, second] = [("rsa", &rsa), ("ec", &ec)].map(|(name, pair)| {
        let file = folder.write(name, pki.ocsp(pair));
        format!("ssl_stapling_file = {}\n", file.display())
    });
    let (ec_lines, rsa_lines) = (ec.ssl_certificate(), rsa.ssl_certificate());
    let setting = proxy(&format!("{ec_lines}{rsa_lines}{first}{second}"));
    for (algorithm, pair) in [("ECDSA+SHA256", &ec), ("RSA-PSS+SHA256", &rsa)] {
        let said = setting.s_client(&["-status", "-sigalgs", algorithm]);
        let pem = fs::read(&pair.certificate).expect("it is there");
        let own = X509::from_pem(&pem).expect("the first is its own");
        let number = own.serial_number().to_bn().expect("a number");
        let number = number.to_hex_str().expect("a number").to_string();
        let asked = format!("Serial Number: {number}");
        assert!(said.contains(&asked), "{algorithm}: {asked}: {said}");
    }
}

#[test]
fn check_looks_into_ocsp_responses() {
    let pki = Pki::shared();
    let [own, other] = [(); 2].map(|()| pki.issue("mail.test", NAMES, Key::Ec, State::Good));
    let folder = TempDir::new("stapling");
    folder.write("own", pki.ocsp(&own));
    folder.write("other", pki.ocsp(&other));
    pki.revoke(&own);
    folder.write("revoked", pki.ocsp(&own));
    folder.write("garbage", "no response at all");
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let chain = pki.with_chain(&own).ssl_certificate();
    for (file, success, text) in [
        ("own", true, ""),
        ("other", true, "is for none of the certificates"),
        (
            "revoked",
            true,
            "says that the certificate has been revoked",
        ),
        ("garbage", false, "no OCSP response in DER"),
        ("nowhere", false, "cannot read"),
    ] {
        let lines = format!("listen = 127.0.0.1:0 ssl\n{chain}ssl_stapling_file = {file}\n");
        let ini = folder.write("postern.ini", service("imap", &auth, &lines));
        let ini = ini.display().to_string();
        let program = env!("CARGO_BIN_EXE_postern");
        let said = run(program, &["check", "--config", &ini], b"");
        assert_eq!(said.success, success, "{file}: {}", said.everything());
        let said = said.everything();
        let told = said
            .lines()
            .find(|line| line.contains("ssl_stapling_file: "));
        match text {
            "" => assert_eq!(told, None),
            text => assert!(
                told.is_some_and(|told| told.contains(text)),
                "{file}: {said}"
            ),
        }
    }
}
