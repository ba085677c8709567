//! The method against an auth server on a real socket, without a session and without a service.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread::JoinHandle;

use super::*;
use crate::backend::grant::Target;
use crate::config::AuthMechanism;
use crate::log::{Log, Severity, TextLayout};
use crate::net::resolve::{Dns, HostName};
use crate::sasl::{Mechanism, Method};
use crate::secret::Secret;
use crate::tls::PeerCertificate;

/// An auth server that gives one answer, and then the request that it got.
struct Server {
    address: SocketAddr,
    asked: JoinHandle<Vec<String>>,
}

impl Server {
    /// `head` is the answer's head without its last line.
    fn answering(head: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let answer = format!("{head}\r\nConnection: close\r\n\r\n");
        let asked = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut reader = BufReader::new(socket.try_clone().expect("a second handle"));
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                match line.strip_suffix("\r\n").expect("CRLF") {
                    "" => break,
                    line => lines.push(line.to_owned()),
                }
            }
            socket.write_all(answer.as_bytes()).expect("written");
            lines
        });
        Self { address, asked }
    }

    fn lines(self) -> Vec<String> {
        self.asked.join().expect("a request")
    }
}

/// An address where nobody listens, and what keeps it so.
fn dead() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a port");
    let address = socket.local_addr().expect("its address").as_socket();
    (address.expect("an IP address"), socket)
}

/// The method of a `[server]` with these auth servers and further lines.
fn method(servers: &[SocketAddr], lines: &str) -> AuthHttp {
    let urls = servers
        .iter()
        .map(|at| format!("auth_http = http://{at}/auth\n"));
    let text = format!(
        "[server s]\nlisten = 127.0.0.1:0\n{lines}\n{}",
        urls.collect::<String>()
    );
    let config = config::parse(&text, Path::new("test.ini")).expect("a good configuration");
    let conf = &config.servers[0];
    let dns = Dns::new(None).expect("a resolver");
    let clients = conf.auth_http.iter();
    let clients = clients.map(|url| HttpClient::new(url.clone(), dns.clone(), None, 0));
    let router = Router::new(
        Vec::new(),
        &[],
        Log::open_process(&[], &[], TextLayout::Angie).expect("standard error"),
    )
    .expect("no routes");
    let no_tls = Err("no certificates".to_owned());
    AuthHttp::new(conf, clients.collect(), Arc::new(router), no_tls)
}

fn bob() -> Credentials {
    Credentials::new(Method::PLAIN, b"bob".to_vec(), Secret::from(&b"p w"[..]))
}

fn request(credentials: &Credentials) -> Request<'_> {
    Request {
        credentials,
        attempt: 1,
        client: SocketAddr::from(([192, 0, 2, 9], 4000)).into(),
        client_host: None,
        proxied: None,
        tls: None,
        secrets: Box::leak(Box::default()),
        is_debugged: false,
    }
}

/// What an IMAP client's login comes to when the server answers so.
fn verdict(head: &str) -> Result<Verdict, AuthError> {
    let server = Server::answering(head);
    let method = method(&[server.address], "protocol = imap");
    let verdict = method.authenticate(&request(&bob()), &|warning| panic!("{warning:?}"));
    server.lines();
    verdict
}

/// The text of an answer that lets nobody in, behind the server's name.
fn unusable(head: &str) -> String {
    match verdict(head) {
        Err(AuthError::Service(text, None)) => {
            let rest = text
                .strip_prefix("auth http server 127.0.0.1:")
                .expect("a server");
            rest.split_once(' ').expect("a reason").1.to_owned()
        }
        other => panic!("{other:?}"),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 192.0.2.1\r\nAuth-Port: 1143";

#[test]
fn the_headers_of_a_request_have_their_order() {
    let server = Server::answering(OK);
    let method = method(
        &[server.address],
        "protocol = smtp\nauth_http_header = X-Key a b\nauth_http_pass_client_cert = on",
    );
    let mut credentials = bob();
    credentials.authzid = Some(b"alice".to_vec());
    credentials.envelope = Some(Envelope {
        helo: b"mx".to_vec(),
        from: b"MAIL FROM:<a@b>".to_vec(),
        to: b"RCPT TO:<c@d>".to_vec(),
    });
    let tls = Facts {
        protocol: "TLSv1.3".into(),
        cipher: "TLS_AES_256_GCM_SHA384".into(),
        verdict: Certificate::Success,
        peer: Some(PeerCertificate {
            subject: "CN=b\r\nob".into(),
            issuer: "CN=ca".into(),
            serial: "0A".into(),
            fingerprint: "ab".into(),
            pem: "P M\n".into(),
        }),
        ..Facts::default()
    };
    let request = Request {
        attempt: 3,
        client_host: Some(HostName::Unavailable),
        proxied: Some((
            SocketAddr::from(([192, 0, 2, 7], 7)),
            SocketAddr::from(([192, 0, 2, 8], 25)),
        )),
        tls: Some(&tls),
        ..request(&credentials)
    };
    let _ = method.authenticate(&request, &|_| {});
    let expected = [
        "GET /auth HTTP/1.0",
        "Host: 127.0.0.1",
        "Auth-Method: plain",
        "Auth-User: bob",
        "Auth-Pass: p%20w",
        "Auth-Protocol: smtp",
        "Auth-Login-Attempt: 3",
        "Client-IP: 192.0.2.9",
        "Client-Host: [UNAVAILABLE]",
        "Proxy-Protocol-Addr: 192.0.2.7",
        "Proxy-Protocol-Port: 7",
        "Proxy-Protocol-Server-Addr: 192.0.2.8",
        "Proxy-Protocol-Server-Port: 25",
        "Auth-SMTP-Helo: mx",
        "Auth-SMTP-From: MAIL FROM:<a@b>",
        "Auth-SMTP-To: RCPT TO:<c@d>",
        "Auth-SSL: on",
        "Auth-SSL-Protocol: TLSv1.3",
        "Auth-SSL-Cipher: TLS_AES_256_GCM_SHA384",
        "Auth-SSL-Verify: SUCCESS",
        "Auth-SSL-Subject: CN=bob",
        "Auth-SSL-Issuer: CN=ca",
        "Auth-SSL-Serial: 0A",
        "Auth-SSL-Fingerprint: ab",
        "Auth-SSL-Cert: P%20M%0A",
        "Auth-Authzid: alice",
        "X-Key: a b",
    ];
    assert_eq!(server.lines(), expected);
}

#[test]
fn ok_grants_the_clients_login_to_the_named_address() {
    let Ok(Verdict::Granted(grant)) = verdict(OK) else {
        panic!("not granted");
    };
    match &grant.target {
        Target::Address { host, port } => assert_eq!((host.as_str(), *port), ("192.0.2.1", 1143)),
        Target::Backend(backend) => panic!("{backend:?}"),
    }
    assert_eq!(grant.login, b"bob");
    assert_eq!(
        grant.identity().map(|said| said.secret.expose()),
        Ok(&b"p w"[..])
    );
    assert_eq!(grant.mechanism, AuthMechanism::Auto);
    let renamed = format!("{OK}\r\nAuth-User: b\r\nAuth-Pass: q");
    let Ok(Verdict::Granted(grant)) = verdict(&renamed) else {
        panic!("not granted");
    };
    assert_eq!(
        (
            grant.login.as_slice(),
            grant.identity().map(|said| said.secret.expose())
        ),
        (&b"b"[..], Ok(&b"q"[..]))
    );
}

#[test]
fn any_other_status_is_what_the_client_is_told_after_the_wait() {
    let refused = |head: &str| match verdict(head) {
        Ok(Verdict::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let refusal = refused(
        "HTTP/1.1 200 OK\r\nAuth-Status: Go away\r\nAuth-Wait: 3\r\nAuth-Error-Code: 535 5.7.8",
    );
    assert_eq!(refusal.text, b"Go away");
    assert_eq!(refusal.again, Some(Duration::from_secs(3)));
    assert_eq!(refusal.code.as_deref(), Some(&b"535 5.7.8"[..]));
    assert!(!refusal.is_ours);
    for no_wait in ["", "\r\nAuth-Wait: 0", "\r\nAuth-Wait: x"] {
        let refusal = refused(&format!("HTTP/1.1 403 No\r\nAuth-Status: No{no_wait}"));
        assert_eq!(refusal.again, None);
    }
}

#[test]
fn wait_asks_for_another_question_after_its_time() {
    for (wait, expected) in [
        ("", 1),
        ("\r\nAuth-Wait: 7", 7),
        ("\r\nAuth-Wait: 999999", 86400),
    ] {
        match verdict(&format!("HTTP/1.1 200 OK\r\nAuth-Status: WAIT{wait}")) {
            Ok(Verdict::Wait(time)) => assert_eq!(time, Duration::from_secs(expected)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_no_complete_and_consistent_ok_lets_nobody_in() {
    for (head, reason) in [
        ("HTTP/1.1 200 OK", "did not send Auth-Status"),
        (
            "HTTP/1.1 200 OK\r\nAuth-Status:",
            "did not send Auth-Status",
        ),
        (
            "HTTP/1.1 200 OK\r\nAuth-Status: OK",
            "did not send server or port",
        ),
        (
            &OK.replace("200 OK", "500 Oops"),
            "sent OK with HTTP status 500",
        ),
        (
            &format!("{OK}\r\nAuth-Server: 192.0.2.2"),
            "sent two different Auth-Server",
        ),
        (&OK.replace("1143", "0"), "sent invalid server port:\"0\""),
        (&OK.replace("1143", "+1"), "sent invalid server port:\"+1\""),
        (
            &OK.replace("192.0.2.1", "a b"),
            "sent invalid server address:\"a b\"",
        ),
        (
            &format!("{OK}\r\nAuth-SSL-Backend: yes"),
            "sent an Auth-SSL-Backend other than off, on, starttls",
        ),
        (
            &format!("{OK}\r\nAuth-Backend: office"),
            "named an unknown backend:\"office\"",
        ),
    ] {
        assert_eq!(unusable(head), reason);
    }
    let twice_the_same = format!("{OK}\r\nAuth-Server: 192.0.2.1");
    assert!(matches!(verdict(&twice_the_same), Ok(Verdict::Granted(_))));
}

#[test]
fn a_method_without_password_needs_one_of_the_auth_server() {
    let ask = |head: &str| {
        let server = Server::answering(head);
        let method = method(&[server.address], "protocol = imap\nimap_auth = cram-md5");
        let mut credentials = bob();
        let cram_md5 = Mechanism::by_name(b"CRAM-MD5");
        credentials.method = cram_md5.expect("a row").method;
        method.authenticate(&request(&credentials), &|_| {})
    };
    match ask(OK) {
        Err(error) => assert!(error.to_string().ends_with("did not send password")),
        Ok(other) => panic!("{other:?}"),
    }
    let with_password = format!("{OK}\r\nAuth-Pass: q");
    assert!(matches!(ask(&with_password), Ok(Verdict::Granted(_))));
}

#[test]
fn an_authorization_identity_must_be_repeated() {
    let ask = |head: &str| {
        let server = Server::answering(head);
        let method = method(&[server.address], "protocol = imap");
        let mut credentials = bob();
        credentials.authzid = Some(b"alice".to_vec());
        method.authenticate(&request(&credentials), &|_| {})
    };
    match ask(OK) {
        Ok(Verdict::Refused(refusal)) => {
            assert!(refusal.is_ours);
            assert_eq!(refusal.text, b"authorization identity refused");
        }
        other => panic!("{other:?}"),
    }
    match ask(&format!("{OK}\r\nAuth-Authzid: alice")) {
        Ok(Verdict::Granted(grant)) => assert_eq!(grant.authzid.as_deref(), Some(&b"alice"[..])),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_next_server_is_asked_when_one_is_dead() {
    let ((dead, _bound), server) = (dead(), Server::answering(OK));
    let method = method(&[dead, server.address], "protocol = imap");
    let warnings = RefCell::new(Vec::new());
    let note = |warning: &Note| {
        assert_eq!(warning.severity, Severity::Warn);
        assert_eq!(warning.src, "src/auth/http.rs");
        assert!(warning.error.is_some());
        warnings.borrow_mut().push(warning.text.clone());
    };
    let verdict = method.authenticate(&request(&bob()), &note);
    assert!(matches!(verdict, Ok(Verdict::Granted(_))), "{verdict:?}");
    let expected = format!("auth http server {dead}: connect() failed, trying the next");
    assert_eq!(warnings.take(), [expected]);
    assert_eq!(server.lines()[0], "GET /auth HTTP/1.0");
}

#[test]
fn the_last_servers_failure_is_the_answer() {
    let (dead, _bound) = dead();
    let method = method(&[dead], "protocol = imap");
    match method.authenticate(&request(&bob()), &|warning| panic!("{warning:?}")) {
        Err(AuthError::Service(text, Some(_))) => assert_eq!(text, "recv() failed"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_controls_space_and_percent_are_encoded() {
    let mut head = Head(Line::new(Vec::new()));
    head.add_encoded("Auth-User", b"a b%c\r\n\x7f\xc3\xa9\"+");
    assert_eq!(*head.0, b"Auth-User: a%20b%25c%0D%0A\x7f\xc3\xa9\"+\r\n");
}

#[test]
fn an_error_code_refuses() {
    for good in [&b"535 5.7.8"[..], b"454 4.7.0", b"550"] {
        assert!(is_error_code(good));
    }
    for bad in [&b"250 OK"[..], b"", b"5", b"535-5.7.8", b"5x5"] {
        assert!(!is_error_code(bad));
    }
}

#[test]
fn interim_answers_are_bounded_in_number() {
    let few = "HTTP/1.1 102 Processing\r\n\r\n".repeat(16);
    assert!(matches!(
        verdict(&format!("{few}{OK}")),
        Ok(Verdict::Granted(_))
    ));
    let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(17);
    let reason = unusable(&format!("{many}{OK}"));
    assert_eq!(reason, "sent more than 16 interim answers");
}
