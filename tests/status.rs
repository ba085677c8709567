//! `status`: numbers that are exact and that Prometheus can read, who is answered and who is not, what
//! hostile clients can do to it (nothing), and what a reload makes of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::browser::{browse, step};
use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::service;
use crate::common::tls::Client;
use crate::common::tools::{curl, run};
use crate::common::wait::{self, PATIENCE};
use crate::peers::dns::{A, DnsStub, NOERROR, Record};
use crate::peers::unruly::{pours_after_login, says_bye};
use crate::peers::{Peer, imap_server};
use crate::servers::pki::Pki;
use crate::servers::{dovecot, local};

/// A proxy whose status is answered on this port.
fn with_status(port: u16, servers: &str) -> Postern {
    Postern::start(&format!("[postern]\nstatus = {port}\n{servers}"))
}

/// What is answered to these bytes, up to the end of the connection.
fn ask(port: u16, request: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(local(port)).expect("somebody listens");
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("it is not zero");
    // Who is refused early need not be listened to.
    let _ = stream.write_all(request.as_ref());
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no answer: {error}"),
    }
    String::from_utf8(answer).expect("it is UTF-8")
}

/// A GET as a browser on this machine sends it.
fn get(port: u16, path: &str) -> String {
    ask(
        port,
        format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"),
    )
}

fn body(answer: &str) -> &str {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body
}

/// The numbers of this moment, which promtool has no complaint about.
struct Numbers(String);

impl Numbers {
    fn of(port: u16) -> Numbers {
        let text = body(&get(port, "/metrics")).to_owned();
        let checked = run("promtool", &["check", "metrics"], text.as_bytes());
        assert_eq!(checked.everything(), "", "{text}");
        assert!(checked.success);
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let series = series.filter_map(|line| Some(line.rsplit_once(' ')?.0));
        let mut series: Vec<&str> = series.collect();
        let all = series.len();
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), all, "a series stands twice:\n{text}");
        Numbers(text)
    }

    /// The value of a series; `None` if it is not there.
    fn find(&self, series: &str) -> Option<f64> {
        let line = self.0.lines().find_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            (name == series).then_some(value)
        });
        line.map(|value| value.parse().expect("a number"))
    }

    fn get(&self, series: &str) -> f64 {
        let found = self.find(series);
        found.unwrap_or_else(|| panic!("no {series} in:\n{}", self.0))
    }

    /// Insists on values, each in its line behind the series.
    fn expect(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let value: f64 = value.parse().expect("a number");
            assert_eq!(self.get(series), value, "{series}\n{}", self.0);
        }
    }
}

/// Waits until a series has this value.
fn until(port: u16, series: &str, value: f64) -> Numbers {
    wait::until(&format!("{series} {value}"), PATIENCE, || {
        let numbers = Numbers::of(port);
        (numbers.find(series) == Some(value)).then_some(numbers)
    })
}

fn imap_login(address: SocketAddr, login: &str) -> (LineClient, String) {
    let (mut client, _) = LineClient::greeted(address);
    client.send(&format!("a LOGIN {login}"));
    let answer = client.lines_until("a ").pop().unwrap_or_default();
    (client, answer)
}

#[test]
fn numbers_are_those_of_real_logins() {
    let dovecot = dovecot::shared();
    let (imap, pop3) = (dovecot.imap.port(), dovecot.pop3.port());
    let pair = Pki::shared().server();
    let certificate = pair.ssl_certificate();
    let port = free_port();
    let postern = with_status(
        port,
        &format!(
            "[server office]\nprotocol = imap\nlisten = 127.0.0.1:0\nlisten = 127.0.0.1:0 ssl\n{certificate}\
             [server pop3]\nprotocol = pop3\nlisten = 127.0.0.1:0\nmax_errors = 1\n\
             [backend mail]\nhosts = 127.0.0.1\nimap_port = {imap}\npop3_port = {pop3}\n"
        ),
    );
    let plain = postern.addresses("office")[0];
    let (mut first, answer) = imap_login(plain, "alice secret");
    assert!(answer.starts_with("a OK"), "{answer}");
    let (mut second, answer) = imap_login(plain, "alice wrong");
    assert!(answer.starts_with("a NO"), "{answer}");
    second.ask("b NOOP", "b OK completed");
    let client = Client::trusting(&Pki::shared().authority());
    let mut third = client.connect(postern.addresses("office")[1]);
    third.line();
    third.ask_many("a AUTHENTICATE PLAIN AGFsaWNlAHNlY3JldA==", "a OK");
    let (mut fourth, _) = LineClient::greeted(postern.address("pop3"));
    fourth.ask("nonsense", "-ERR invalid command");

    // A client hears that it is in a moment before it is counted.
    let succeeded = "protocol=\"imap\",server=\"office\",mechanism=\"plain\",outcome=\"success\"";
    let numbers = until(port, &format!("postern_logins_total{{{succeeded}}}"), 2.0);
    numbers.expect(
        r#"
        postern_sessions{protocol="imap",server="office",state="before_login"} 1
        postern_sessions{protocol="imap",server="office",state="logging_in"} 0
        postern_sessions{protocol="imap",server="office",state="relaying"} 2
        postern_sessions{protocol="pop3",server="pop3",state="relaying"} 0
        postern_sessions_accepted_total{protocol="imap",server="office"} 3
        postern_sessions_accepted_total{protocol="pop3",server="pop3"} 1
        postern_logins_total{protocol="imap",server="office",mechanism="plain",outcome="success"} 2
        postern_logins_total{protocol="imap",server="office",mechanism="plain",outcome="refused"} 1
        postern_logins_total{protocol="imap",server="office",mechanism="plain",outcome="aborted"} 0
        postern_tls_handshakes_total{protocol="imap",server="office",version="TLSv1.3"} 1
        postern_tls_handshakes_total{protocol="imap",server="office",version="TLSv1.2"} 0
        postern_login_seconds_count{protocol="imap",server="office"} 2
        postern_login_seconds_bucket{protocol="imap",server="office",le="+Inf"} 2
        postern_auth_seconds_count{protocol="imap",server="office"} 2
        postern_backend_connect_seconds_count{protocol="imap",server="office"} 3
        postern_backend_login_seconds_count{protocol="imap",server="office"} 2
        postern_login_seconds_count{protocol="pop3",server="pop3"} 0
        postern_sessions_limit 4096
        postern_config_last_reload_successful 1
        "#,
    );
    for (protocol, at) in [("imap", imap), ("pop3", pop3)] {
        let host = format!("backend=\"mail\",protocol=\"{protocol}\",host=\"127.0.0.1:{at}\"");
        assert_eq!(numbers.get(&format!("postern_backend_up{{{host}}}")), 1.0);
    }
    assert!(numbers.get("postern_login_seconds_sum{protocol=\"imap\",server=\"office\"}") > 0.0);
    assert!(numbers.get("postern_threads") >= 4.0 && numbers.get("process_open_fds") >= 8.0);
    let version = format!(
        "postern_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(numbers.get(&version), 1.0);
    let file = pair.certificate.display();
    let certificate = format!("{{protocol=\"imap\",server=\"office\",certificate=\"{file}\"}}");
    let expiry = numbers.get(&format!(
        "postern_certificate_expiry_timestamp_seconds{certificate}"
    ));
    let end = ["x509", "-noout", "-enddate", "-in", &file.to_string()].map(str::to_owned);
    let end = run("openssl", &end.each_ref().map(String::as_str), b"").text();
    let end = end.trim().trim_start_matches("notAfter=");
    let seconds = run("date", &["-d", end, "+%s"], b"").text();
    assert_eq!(expiry.to_string(), seconds.trim());

    // What is still open counts, and what has ended counts once.
    let bytes = |numbers: &Numbers, direction: &str| {
        let labels = format!("protocol=\"imap\",server=\"office\",direction=\"{direction}\"");
        numbers.get(&format!("postern_relayed_bytes_total{{{labels}}}"))
    };
    let (up, down) = (bytes(&numbers, "from_client"), bytes(&numbers, "to_client"));
    first.send("c NOOP");
    let answer = first.line();
    let expected = down + answer.len() as f64 + 2.0;
    let numbers = until(
        port,
        "postern_relayed_bytes_total{protocol=\"imap\",server=\"office\",direction=\"to_client\"}",
        expected,
    );
    assert_eq!(bytes(&numbers, "from_client"), up + 8.0);
    for client in [first, second, fourth] {
        client.half_closed_to_the_end();
    }
    drop(third);
    let numbers = until(
        port,
        "postern_sessions{protocol=\"imap\",server=\"office\",state=\"relaying\"}",
        0.0,
    );
    assert_eq!(bytes(&numbers, "from_client"), up + 8.0);
    let numbers = until(
        port,
        "postern_session_seconds_count{protocol=\"imap\",server=\"office\"}",
        3.0,
    );
    numbers.expect(
        r#"
        postern_sessions_ended_total{protocol="imap",server="office",reason="client_closed"} 3
        postern_evictions_total{protocol="imap",server="office"} 0
        "#,
    );
    postern.stop();
}

/// Ends a client and reads what its server still says.
trait ToTheEnd {
    fn half_closed_to_the_end(self);
}

impl ToTheEnd for LineClient {
    fn half_closed_to_the_end(mut self) {
        self.half_close();
        self.rest();
    }
}

#[test]
fn failures_are_counted_by_what_failed() {
    let full = Peer::start(says_bye);
    let dead = local(free_port());
    let good = Peer::start(imap_server);
    let (full_at, good_at) = (full.address(), good.address());
    let auth = AuthServer::start(move |request| match request.header("Auth-User") {
        Some("full") => Answer::ok(full_at),
        Some("dead") => Answer::ok(dead),
        Some("good") => Answer::ok(good_at),
        Some("broken") => Answer::RawThenClose(b"nonsense\r\n\r\n".to_vec()),
        _ => Answer::headers(&["Auth-Status: Not you", "Auth-Wait: 1"]),
    });
    let port = free_port();
    let postern = with_status(port, &service("imap", &auth, "timeout = 1h"));
    let address = postern.address("imap");
    for login in ["full pw", "dead pw", "broken pw", "good refused"] {
        let (mut client, _) = LineClient::greeted(address);
        client.send(&format!("a LOGIN {login}"));
        let answer = String::from_utf8(client.rest()).expect("it is UTF-8");
        assert!(!answer.contains("OK backend login"), "{login}: {answer}");
    }
    let (mut client, _) = LineClient::greeted(address);
    client.send("a LOGIN nobody pw");
    assert!(client.line().starts_with("a NO"));
    drop(client);
    let series = |outcome: &str| {
        let labels = "protocol=\"imap\",server=\"imap\",mechanism=\"plain\"";
        format!("postern_logins_total{{{labels},outcome=\"{outcome}\"}}")
    };
    let numbers = until(port, &series("backend_refused"), 1.0);
    assert_eq!(numbers.get(&series("backend_unavailable")), 2.0);
    assert_eq!(numbers.get(&series("auth_unavailable")), 1.0);
    assert_eq!(numbers.get(&series("refused")), 1.0);
    assert_eq!(numbers.get(&series("success")), 0.0);
    // Nobody on the network makes a series: no login, no address, no backend that an auth server names.
    for word in ["full", "dead", "nobody", "127.0.0.1"] {
        assert!(!numbers.0.contains(word), "{word} in:\n{}", numbers.0);
    }
    postern.stop();
}

#[test]
fn a_host_is_down_until_it_answers() {
    let (full, good) = (Peer::start(says_bye), Peer::start(imap_server));
    let port = free_port();
    let postern = with_status(
        port,
        &format!(
            "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nimap_capabilities = TEST\n\
             [backend mail]\nhosts = {} {}\n",
            full.address(),
            good.address()
        ),
    );
    let up = |address: SocketAddr| {
        let labels = format!("backend=\"mail\",protocol=\"imap\",host=\"{address}\"");
        Numbers::of(port).get(&format!("postern_backend_up{{{labels}}}"))
    };
    assert_eq!((up(full.address()), up(good.address())), (1.0, 1.0));
    let (_client, answer) = imap_login(postern.address("imap"), "alice secret");
    assert!(answer.starts_with("a OK"), "{answer}");
    assert_eq!((up(full.address()), up(good.address())), (0.0, 1.0));
    postern.stop();
}

#[test]
fn a_host_whose_name_has_moved_is_not_down_for_its_old_address() {
    let good = Peer::start(imap_server);
    // Nobody listens at the first.
    let last = Arc::new(AtomicU8::new(9));
    let now = Arc::clone(&last);
    let dns = DnsStub::start(move |question| {
        let record = Record::loopback(&question.name, now.load(Ordering::SeqCst)).ttl(1);
        let records = (question.kind == A).then_some(record);
        Some(question.answer(NOERROR, records.as_slice()))
    });
    let port = free_port();
    let postern = with_status(
        port,
        &format!(
            "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nimap_capabilities = TEST\n\
             resolver = {}\n[backend mail]\nhosts = mail.example.test:{}\n",
            dns.address(),
            good.address().port()
        ),
    );
    let host = format!("mail.example.test:{}", good.address().port());
    let up = format!("postern_backend_up{{backend=\"mail\",protocol=\"imap\",host=\"{host}\"}}");
    let log_in = || imap_login(postern.address("imap"), "alice secret").1;
    assert!(!log_in().starts_with("a OK"));
    until(port, &up, 0.0);
    last.store(1, Ordering::SeqCst);
    wait::until_true("a login at the new address", PATIENCE, || {
        log_in().starts_with("a OK")
    });
    until(port, &up, 1.0);
    postern.stop();
}

#[test]
fn those_who_find_no_room_are_counted() {
    let port = free_port();
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = Postern::start(&format!(
        "[postern]\nstatus = {port}\nmax_sessions = 1\n{}",
        service("imap", &auth, "")
    ));
    let (waits, _) = LineClient::greeted(postern.address("imap"));
    let sleeping = "postern_sessions_sleeping{protocol=\"imap\",server=\"imap\"}";
    until(port, sleeping, 1.0);
    // It makes room for this one, which is logged in and never does.
    let (_logged_in, answer) = imap_login(postern.address("imap"), "alice secret");
    assert!(answer.starts_with("a OK"), "{answer}");
    until(
        port,
        "postern_evictions_total{protocol=\"imap\",server=\"imap\"}",
        1.0,
    );
    drop(waits);
    let mut late = LineClient::connect(postern.address("imap"));
    assert!(late.line().starts_with("* BYE"));
    let numbers = Numbers::of(port);
    numbers.expect(
        r#"
        postern_connections_refused_total{protocol="imap",server="imap",reason="max_sessions"} 1
        postern_sessions_ended_total{protocol="imap",server="imap",reason="made_room"} 1
        "#,
    );
    postern.stop();
}

#[test]
fn only_who_names_this_host_is_answered() {
    let port = free_port();
    let auth = AuthServer::start(|_| Answer::Close);
    let postern = with_status(port, &service("imap", &auth, ""));
    for host in [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1",
        "[::1]:9",
        "192.0.2.1",
    ] {
        let answer = ask(
            port,
            format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        );
        assert_eq!(body(&answer), "ok\n", "{host}");
        for header in [
            "Content-Security-Policy: default-src 'none'; ",
            "X-Frame-Options: DENY",
            "X-Content-Type-Options: nosniff",
            "Cache-Control: no-store",
        ] {
            assert!(answer.contains(&format!("\r\n{header}")), "{answer}");
        }
    }
    for path in ["/", "/metrics", "/sessions", "/healthz", "/kick"] {
        for host in [
            "evil.example",
            "localhost.evil.example:80",
            "127.0.0.1.evil.example",
            "",
        ] {
            let answer = ask(port, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
        }
    }
    let head = ask(port, "HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    for (request, status) in [
        ("GET /nothing HTTP/1.0\r\n\r\n", 404),
        ("DELETE / HTTP/1.0\r\n\r\n", 405),
        ("GET /kick HTTP/1.0\r\n\r\n", 405),
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (
            "POST /kick HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            413,
        ),
    ] {
        let answer = ask(port, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
    postern.stop();
}

#[test]
fn who_holds_connections_open_or_sends_without_end_holds_nobody_up() {
    let port = free_port();
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = with_status(port, &service("imap", &auth, ""));
    let threads = postern.threads();
    let endless = ask(port, vec![b'a'; 1 << 20]);
    assert!(
        endless.is_empty() || endless.starts_with("HTTP/1.1 431 "),
        "{endless}"
    );
    let header = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(1 << 20));
    let endless = ask(port, header);
    assert!(
        endless.is_empty() || endless.starts_with("HTTP/1.1 431 "),
        "{endless}"
    );
    let large = "POST /kick HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\n";
    assert!(ask(port, large).starts_with("HTTP/1.1 413 "));

    let mut held = Vec::new();
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(local(port)).expect("somebody listens");
        // The older ones are closed meanwhile.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ");
        held.push(stream);
    }
    let (_client, answer) = imap_login(postern.address("imap"), "alice secret");
    assert!(answer.starts_with("a OK"), "{answer}");
    // They are all still there, and the newest is answered.
    let began = Instant::now();
    assert_eq!(body(&get(port, "/healthz")), "ok\n");
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert!(
        postern.threads() <= threads + 40,
        "{} threads",
        postern.threads()
    );
    // Who says nothing more is closed in time.
    let mut last = held.pop().expect("there are a thousand");
    let limit = Some(Duration::from_secs(15));
    last.set_read_timeout(limit).expect("it is not zero");
    let end = last.read(&mut [0; 1]);
    assert!(matches!(end, Ok(0) | Err(_)) && began.elapsed() < Duration::from_secs(14));
    drop(held);
    // Who asks and does not read what is answered.
    let lazy: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(local(port)).expect("somebody listens");
            let _ = stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
            stream
        })
        .collect();
    assert_eq!(body(&get(port, "/healthz")), "ok\n");
    drop(lazy);
    wait::until_true("its threads have ended", PATIENCE, || {
        postern.threads() <= threads + 8
    });
    postern.stop();
}

#[test]
fn a_reload_keeps_counts_and_moves_the_page() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let (first, second) = (free_port(), free_port());
    let server = |name: &str| {
        let port = free_port();
        service("imap", &auth, "")
            .replace("[server imap]", &format!("[server {name}]"))
            .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
    };
    let (kept, gone) = (server("kept"), server("gone"));
    let with = |status: &str, servers: &str| format!("[postern]\n{status}\n{servers}");
    let postern = Postern::start(&with(
        &format!("status = {first}"),
        &format!("{kept}{gone}"),
    ));
    let mut reloads = 0;
    let mut reload = |ini: &str, text: &str| {
        postern.folder().write("postern.ini", ini);
        postern.signal(Signal::SIGHUP);
        reloads += 1;
        wait::until_true("it was read anew or not", PATIENCE, || {
            let done = postern.count("the configuration was read anew")
                + postern.count("the new configuration has mistakes");
            done == reloads
        });
        assert!(postern.count(text) > 0, "{}", postern.log());
    };
    let (of_kept, _) = imap_login(postern.address("kept"), "alice secret");
    let (of_gone, _) = imap_login(postern.address("gone"), "alice secret");
    let logins = |server: &str| {
        let labels = format!("protocol=\"imap\",server=\"{server}\",mechanism=\"plain\"");
        format!("postern_logins_total{{{labels},outcome=\"success\"}}")
    };
    until(first, &logins("kept"), 1.0);
    until(first, &logins("gone"), 1.0);

    // Nothing of a configuration that cannot be used is used.
    let broken = with(
        &format!("status = {second}"),
        "[server x]\nlisten = nowhere\n",
    );
    reload(&broken, "has mistakes");
    let numbers = Numbers::of(first);
    assert_eq!(numbers.get("postern_config_last_reload_successful"), 0.0);
    assert!(TcpStream::connect(local(second)).is_err());
    let taken = std::net::TcpListener::bind(local(second)).expect("it is free");
    reload(
        &with(&format!("status = {second}"), &kept),
        "`status` cannot listen on",
    );
    assert_eq!(Numbers::of(first).get(&logins("gone")), 1.0);
    drop(taken);

    // A server that is gone is shown as long as a session of it lasts.
    reload(&with(&format!("status = {second}"), &kept), "was read anew");
    assert!(TcpStream::connect(local(first)).is_err());
    let numbers = Numbers::of(second);
    assert_eq!(numbers.get("postern_config_last_reload_successful"), 1.0);
    numbers.expect(&format!("{} 1\n{} 1", logins("kept"), logins("gone")));
    // When it comes back meanwhile it goes on counting.
    let both = format!("{kept}{gone}");
    reload(&with(&format!("status = {second}"), &both), "was read anew");
    Numbers::of(second).expect(&format!("{} 1", logins("gone")));
    reload(&with(&format!("status = {second}"), &kept), "was read anew");
    of_gone.half_closed_to_the_end();
    of_kept.half_closed_to_the_end();
    wait::until_true("its series has ended", PATIENCE, || {
        Numbers::of(second).find(&logins("gone")).is_none()
    });
    let sessions = "postern_sessions{protocol=\"imap\",server=\"kept\",state=\"relaying\"}";
    until(second, sessions, 0.0);
    // From this machine to all addresses, on the same port.
    reload(
        &with(&format!("status = *:{second}"), &kept),
        "was read anew",
    );
    assert_eq!(Numbers::of(second).get(&logins("kept")), 1.0);
    reload(&with("status = off", &kept), "was read anew");
    assert!(TcpStream::connect(local(second)).is_err());
    reload(&with(&format!("status = {first}"), &kept), "was read anew");
    assert_eq!(Numbers::of(first).get(&logins("kept")), 1.0);
    postern.stop();
}

#[test]
fn check_says_where_the_page_would_be() {
    let good = "tests/configs/good/every_process_setting.ini";
    let folder = env!("CARGO_MANIFEST_DIR");
    let file = format!("{folder}/{good}");
    let said = run(
        env!("CARGO_BIN_EXE_postern"),
        &["check", "--config", &file],
        b"",
    );
    assert!(said.text().contains("\nstatus  http://[::1]:9180/\n"));
}

#[test]
fn the_numbers_are_there_for_curl_too_and_end_with_the_process() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let port = free_port();
    let postern = with_status(port, &service("imap", &auth, ""));
    let line = postern.wait_for_log("the status page is at ");
    assert!(
        line.ends_with(&format!("http://127.0.0.1:{port}/")),
        "{line}"
    );
    let url = format!("http://localhost:{port}/metrics");
    assert!(curl(&[&url]).text().contains("\npostern_build_info{"));
    let (client, _) = imap_login(postern.address("imap"), "alice secret");
    // While sessions may end by themselves the next process can have the port.
    postern.signal(Signal::SIGQUIT);
    wait::until_true("the port is free", PATIENCE, || {
        TcpStream::connect(local(port)).is_err()
    });
    client
        .stream()
        .shutdown(Shutdown::Both)
        .expect("it is open");
    let (status, log) = postern.wait_for_end(PATIENCE);
    assert!(status.success(), "{log}");
}

/// The secret in the page.
fn token(port: u16) -> String {
    let page = get(port, "/");
    let (_, rest) = page.split_once("name=\"token\" value=\"").expect("a form");
    rest.split('"').next().unwrap_or_default().to_owned()
}

fn kick(port: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    let head = format!(
        "POST /kick HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n{headers}\r\n\r\n"
    );
    ask(port, head + body)
}

/// A proxy in front of a server that lets everybody in, but for the password `refused`.
fn open_house(port: u16) -> (Postern, AuthServer, Peer) {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |request| match request.header("Auth-Pass") {
        Some("refused") => Answer::headers(&["Auth-Status: Go <away> \"now\"", "Auth-Wait: 1"]),
        _ => Answer::ok(address),
    });
    let postern = with_status(port, &service("imap", &auth, ""));
    (postern, auth, backend)
}

#[test]
fn the_page_shows_what_clients_say_as_text() {
    let port = free_port();
    let (postern, _auth, _backend) = open_house(port);
    let address = postern.address("imap");
    let hostile = "<script>alert(1)</script>\\\"'&amp;";
    let (_client, answer) = imap_login(address, &format!("\"{hostile}\" pw"));
    assert!(answer.starts_with("a OK"), "{answer}");
    let (mut refused, _) = LineClient::greeted(address);
    refused.send("a LOGIN \"<b>mallory</b>\" refused");
    assert!(refused.line().starts_with("a NO"));
    let relaying = "postern_sessions{protocol=\"imap\",server=\"imap\",state=\"relaying\"}";
    until(port, relaying, 1.0);
    let page = get(port, "/");
    let html = body(&page);
    let shown = "&lt;script&gt;alert(1)&lt;/script&gt;\\x22&#39;&amp;amp;";
    assert!(html.contains(&format!("<div>{shown}</div>")), "{html}");
    assert!(
        html.contains(&format!("aria-label=\"End session 1 of {shown}\"")),
        "{html}"
    );
    assert!(html.contains("&lt;b&gt;mallory&lt;/b&gt;"), "{html}");
    assert!(
        html.contains("The login was refused <span class=\"more\">Go &lt;away&gt; \\x22now\\x22"),
        "{html}"
    );
    assert!(
        !html.contains("<b>") && !html.contains("<script>") && !html.contains("pw"),
        "{html}"
    );
    // Nothing runs but our own script, which has this page's number used once.
    let (_, nonce) = page.split_once("script-src 'nonce-").expect("a policy");
    let nonce = nonce.split('\'').next().expect("a number");
    assert_eq!(html.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert_eq!(html.matches("<script").count(), 1);
    assert!(!get(port, "/").contains(nonce));
    for word in [
        " onclick",
        " onload",
        " onerror",
        " style=",
        "javascript:",
        "http://",
        "https://",
    ] {
        assert!(!html.contains(word), "{word}");
    }
    // A search finds, and is text itself.
    let found = get(port, "/?search=ALERT%281%29");
    assert!(
        found.contains(shown) && found.contains("value=\"ALERT(1)\""),
        "{found}"
    );
    let none = get(port, "/?search=%22%3E%3Cscript%3Ebob");
    assert!(
        none.contains("value=\"&quot;&gt;&lt;script&gt;bob\"") && none.contains("No session fits."),
        "{none}"
    );
    assert!(!none.contains(&format!("<div>{shown}</div>")));
    let json: serde_json::Value =
        serde_json::from_str(body(&get(port, "/sessions?search=alert"))).expect("JSON");
    assert_eq!(json["found"], 1);
    let session = &json["sessions"][0];
    assert_eq!(session["user"], "<script>alert(1)</script>\\x22'&amp;");
    assert_eq!(
        (session["state"].as_str(), session["protocol"].as_str()),
        (Some("relaying"), Some("imap"))
    );
    let listed: serde_json::Value =
        serde_json::from_str(body(&get(port, "/sessions"))).expect("JSON");
    assert_eq!(listed["found"], 2);
    // Numbers are for everybody who may read them; names are not among them.
    assert!(!Numbers::of(port).0.contains("mallory"));
    postern.stop();
}

#[test]
fn a_session_is_ended_by_our_own_page_alone() {
    let port = free_port();
    let (postern, _auth, _backend) = open_house(port);
    let (mut client, _) = imap_login(postern.address("imap"), "alice pw");
    let token = token(port);
    let host = format!("Host: localhost:{port}");
    let origin =
        format!("{host}\r\nOrigin: http://localhost:{port}\r\nSec-Fetch-Site: same-origin");
    let good = format!("session=1&token={token}");
    let guess = format!("session=1&token={}", "0".repeat(token.len()));
    for (headers, body, status) in [
        (origin.clone(), "session=1".to_owned(), 403),
        (origin.clone(), "session=1&token=".to_owned(), 403),
        (origin.clone(), guess, 403),
        (origin.clone(), format!("token={token}"), 400),
        (
            format!("{host}\r\nOrigin: http://evil.example"),
            good.clone(),
            403,
        ),
        (format!("{host}\r\nOrigin: null"), good.clone(), 403),
        (
            format!("{host}\r\nOrigin: https://localhost:{port}"),
            good.clone(),
            403,
        ),
        (
            format!("{host}\r\nOrigin: http://localhost:1"),
            good.clone(),
            403,
        ),
        (
            format!("{host}\r\nSec-Fetch-Site: cross-site"),
            good.clone(),
            403,
        ),
        (
            format!("{host}\r\nSec-Fetch-Site: same-site"),
            good.clone(),
            403,
        ),
        ("Host: evil.example".to_owned(), good.clone(), 421),
        ("X: no host".to_owned(), good.clone(), 421),
    ] {
        let answer = kick(port, &headers, &body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{headers}: {answer}"
        );
    }
    let plain = format!(
        "POST /kick HTTP/1.1\r\n{host}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{good}",
        good.len()
    );
    assert!(ask(port, plain).starts_with("HTTP/1.1 403 "));
    client.ask("b NOOP", "b OK backend NOOP");
    let answer = kick(port, &origin, &good);
    assert!(
        answer.starts_with("HTTP/1.1 303 ") && answer.contains("\r\nLocation: /?ended=1\r\n"),
        "{answer}"
    );
    client.expect_close();
    assert!(get(port, "/?ended=1").contains("Session 1 was told to end."));
    assert!(!get(port, "/?ended=%3Cb%3E").contains("was told to end"));
    let line = postern.wait_for_log("the status page ended session *1");
    assert!(
        line.contains("[notice]") && line.contains("127.0.0.1"),
        "{line}"
    );
    assert!(
        postern
            .wait_for_log("session closed")
            .contains("reason=\"kicked\"")
    );
    // Who is gone cannot be ended, and that is no failure.
    assert!(kick(port, &origin, &good).starts_with("HTTP/1.1 303 "));
    assert_eq!(postern.count("the status page ended session"), 1);
    postern.stop();
}

#[test]
fn a_session_is_ended_by_the_page_whose_client_does_not_read() {
    const MUCH: usize = 64 * 1024 * 1024;
    let port = free_port();
    let backend = Peer::start(pours_after_login(MUCH));
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = with_status(port, &service("imap", &auth, ""));
    // It takes the answer to its login, and of the rest what its system takes for it.
    let (_client, answer) = imap_login(postern.address("imap"), "alice pw");
    assert!(answer.starts_with("a OK"), "{answer}");
    let passed = || {
        let listed: serde_json::Value =
            serde_json::from_str(body(&get(port, "/sessions"))).expect("JSON");
        listed["sessions"][0]["bytes_to_client"].as_u64()
    };
    let mut before = None;
    wait::until_true("nothing moves", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        let now = passed();
        std::mem::replace(&mut before, now) == now && now > Some(0)
    });
    let host = format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}");
    let answer = kick(port, &host, &format!("session=1&token={}", token(port)));
    assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
    let line = postern.wait_for_log("session closed");
    assert!(line.contains("reason=\"kicked\""), "{line}");
    postern.stop();
}

#[test]
fn a_browser_shows_the_page_on_every_screen() {
    let port = free_port();
    let (postern, _auth, _backend) = open_house(port);
    let address = postern.address("imap");
    let long = "a-login-that-goes-on-for-quite-a-while-without-an-end@".to_owned()
        + &"mail.".repeat(30)
        + "example";
    let (mut alice, _) = imap_login(address, "alice pw");
    let (_long, answer) = imap_login(address, &format!("{long} pw"));
    assert!(answer.starts_with("a OK"), "{answer}");
    let (_hostile, _) = imap_login(address, "\"<img src=x onerror='document.title=1'>\" pw");
    let (mut refused, _) = LineClient::greeted(address);
    refused.send(&format!("a LOGIN {long} refused"));
    assert!(refused.line().starts_with("a NO"));

    let url = format!("http://localhost:{port}/");
    let folder = postern.folder().path().display().to_string();
    let shot = |name: &str| step("shot", format!("{folder}/{name}.png"));
    let wide = "[innerWidth, document.documentElement.scrollWidth]";
    let rows = "document.querySelectorAll('#sessions tbody tr').length";
    let seen = browse(&serde_json::Value::Array(vec![
        step("size", vec![1280, 900]),
        step("dark", false),
        step("open", url.as_str()),
        step("eval", rows),
        step(
            "eval",
            "document.querySelector('#sessions tbody td').innerText",
        ),
        step("eval", "document.title"),
        step("eval", "document.querySelectorAll('img').length"),
        step(
            "eval",
            "document.getElementById('refresh').parentElement.hidden",
        ),
        step("eval", wide),
        shot("light"),
        step("dark", true),
        shot("dark"),
        step("size", vec![768, 900]),
        step("eval", wide),
        step("size", vec![360, 740]),
        step("eval", wide),
        shot("phone"),
        step("scripts", false),
        step("open", url.as_str()),
        step("scripts", true),
        step("eval", rows),
        step("open", format!("{url}?search=alice")),
        step("eval", rows),
        step(
            "leave",
            "document.querySelector('#sessions button').click()",
        ),
        step("eval", "document.querySelector('[role=status]').innerText"),
        step("eval", "location.pathname"),
    ]));
    let mut results = seen.results.iter();
    let mut next = || results.next().expect("a result").clone();
    assert_eq!(next(), 4);
    assert_eq!(next(), "alice");
    let title = next();
    assert!(
        title
            .as_str()
            .is_some_and(|title| title.starts_with("All is well – Postern on ")),
        "{title}"
    );
    assert_eq!(next(), 0);
    assert_eq!(next(), false, "our script runs");
    assert_eq!(next(), serde_json::json!([1280, 1280]));
    let look = |seen: serde_json::Value| {
        let number = |at: usize| seen[at].as_u64().expect("a number");
        (number(0), number(1))
    };
    let (light, dark) = (look(next()), look(next()));
    assert!(light.0 > 20 && light.1 > 200, "{light:?}");
    assert!(dark.0 > 20 && dark.1 < 80, "{dark:?}");
    assert_eq!(next(), serde_json::json!([768, 768]));
    assert_eq!(next(), serde_json::json!([360, 360]));
    assert!(look(next()).0 > 20);
    assert_eq!(next(), 4, "without a script as well");
    assert_eq!(next(), 1);
    // A click ends the session, after a question.
    assert_eq!(next(), "Session 1 was told to end.");
    assert_eq!(next(), "/");
    assert_eq!(seen.console, ["dialog: End session 1 of alice?"]);
    alice.expect_close();
    postern.stop();
}

#[test]
fn another_sites_page_ends_no_session() {
    let port = free_port();
    let (postern, _auth, _backend) = open_house(port);
    let (mut client, _) = imap_login(postern.address("imap"), "alice pw");
    let form = format!(
        "<form method=post action=http://localhost:{port}/kick><input name=session value=1>\
         <input name=token value={}></form>",
        token(port)
    );
    let page = postern.folder().write("evil.html", form);
    let frame = format!("<iframe src=http://localhost:{port}/></iframe>");
    let framing = postern.folder().write("frame.html", frame);
    let seen = browse(&serde_json::Value::Array(vec![
        step("open", format!("file://{}", page.display())),
        step("leave", "document.forms[0].submit()"),
        step("eval", "document.body.innerText"),
        step("open", format!("file://{}", framing.display())),
    ]));
    assert_eq!(seen.results[0], "Another site's page asked for this.\n");
    let refused =
        |line: &String| line.contains("frame-ancestors") || line.contains("X-Frame-Options");
    assert!(seen.console.iter().any(refused), "{:?}", seen.console);
    client.ask("b NOOP", "b OK backend NOOP");
    postern.stop();
}

#[test]
fn reasons_are_told_in_plain_words() {
    let (full, dead) = (Peer::start(says_bye), local(free_port()));
    let port = free_port();
    let postern = with_status(
        port,
        &format!(
            "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nimap_capabilities = TEST\n\
             [backend mail]\nhosts = {} {dead}\n\
             [routes]\nroute = @mail.test mail\nroute = @gone.test reject This domain has moved\n",
            full.address()
        ),
    );
    for login in ["a@mail.test", "b@gone.test", "c@nowhere.test"] {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send(&format!("a LOGIN {login} pw"));
        client.lines_until("a NO");
    }
    let page = get(port, "/");
    for (why, detail) in [
        (
            "The mail server was not available",
            format!("{dead}: connect() failed: Connection refused"),
        ),
        ("The login was refused", "This domain has moved".to_owned()),
        (
            "The login was refused",
            "no backend was asked: no route fits the login".to_owned(),
        ),
    ] {
        let shown = format!("<div>{why} <span class=\"more\">{detail}");
        assert!(page.contains(&shown), "{shown} in:\n{page}");
    }
    assert!(page.contains("2 things need attention"), "{page}");
    let trouble =
        format!("<li>{dead} of the backend mail did not serve IMAP when it was last tried.</li>");
    assert!(page.contains(&trouble), "{page}");
    // The page of a moment ago has the failures in the figure too.
    assert!(
        page.contains("0 logins succeeded and 3 failed within the last hour."),
        "{page}"
    );
    postern.stop();
}
