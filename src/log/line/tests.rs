//! Layouts byte by byte, at a fixed time.

use super::*;

const LIMIT: usize = super::super::LINE_LIMIT - 1;

fn line<'a>(severity: Severity, message: &'a str) -> Line<'a> {
    Line {
        time: "2026-11-22T11:14:09.123Z".parse().expect("a timestamp"),
        pid: 12,
        tid: 34,
        severity,
        src: "src/auth/auth_http.rs",
        message,
        error: None,
        context: None,
        tags: r#"["mail","edge"]"#,
    }
}

fn context() -> Context<'static> {
    Context {
        connection: 7,
        action: Some("connecting to upstream"),
        client: Some(([192, 0, 2, 1], 50000).into()),
        peer: Some(([192, 0, 2, 1], 50000).into()),
        server: Some(([0, 0, 0, 0], 143).into()),
        starttls: true,
        login: Some(b"jane"),
        upstream: Some("[::1]:1143"),
        closing: None,
    }
}

fn closing() -> Closing<'static> {
    Closing {
        protocol: "imap",
        method: Some("plain"),
        tls: Some("TLSv1.3 TLS_AES_128_GCM_SHA256"),
        backend: Some("[::1]:1143"),
        backend_tls: Some("TLSv1.2"),
        bytes_in: 10,
        bytes_out: 20,
        duration: Duration::from_millis(61_234),
        login_time: Some(Duration::from_micros(5_999)),
        auth_time: Some(Duration::from_millis(1)),
        backend_time: Some(Duration::from_millis(3)),
        undelivered: None,
        reason: "client closed",
    }
}

fn text(line: &Line<'_>) -> String {
    line.text(TextLayout::Angie, &TimeZone::UTC, LIMIT)
}

fn json(line: &Line<'_>) -> Value {
    serde_json::from_str(&line.json(LIMIT)).expect("valid JSON")
}

#[test]
fn text_outside_a_session_has_no_number_and_no_context() {
    assert_eq!(
        text(&line(Severity::Notice, "ready")),
        "2026/11/22 11:14:09 [notice] 12#34: ready"
    );
}

#[test]
fn text_of_a_session_names_all_that_is_known() {
    let context = context();
    let mut line = line(Severity::Info, "client logged in");
    line.context = Some(&context);
    assert_eq!(
        text(&line),
        "2026/11/22 11:14:09 [info] 12#34: *7 client logged in while connecting to upstream, \
         client: \"192.0.2.1:50000\", server: \"0.0.0.0:143\", starttls: \"true\", login: \"jane\", \
         upstream: \"[::1]:1143\""
    );
}

#[test]
fn text_of_a_session_leaves_out_what_is_unknown() {
    let context = Context {
        action: None,
        starttls: false,
        login: None,
        upstream: None,
        ..context()
    };
    let mut line = line(Severity::Info, "client connected");
    line.context = Some(&context);
    assert_eq!(
        text(&line),
        "2026/11/22 11:14:09 [info] 12#34: *7 client connected, client: \"192.0.2.1:50000\", \
         server: \"0.0.0.0:143\""
    );
}

#[test]
fn a_balancer_is_the_peer_of_the_client_behind_it() {
    let context = Context {
        peer: Some(([127, 0, 0, 1], 40000).into()),
        ..context()
    };
    let mut line = line(Severity::Info, "x");
    line.context = Some(&context);
    let text = text(&line);
    assert!(
        text.contains(
            "client: \"192.0.2.1:50000\", peer: \"127.0.0.1:40000\", server: \"0.0.0.0:143\""
        ),
        "{text}"
    );
    let mail = json(&line)["mail"].clone();
    assert_eq!(mail["client"], "192.0.2.1:50000");
    assert_eq!(mail["peer"], "127.0.0.1:40000");
    let behind_a_socket = Context {
        peer: None,
        ..context
    };
    line.context = Some(&behind_a_socket);
    assert_eq!(json(&line)["mail"]["peer"], "unix:");
}

#[test]
fn nginx_layout_is_that_of_ngx_mail_log_error() {
    let nginx = |context: &Context<'_>| {
        let mut line = line(Severity::Info, "x");
        line.context = Some(context);
        line.text(TextLayout::Nginx, &TimeZone::UTC, LIMIT)
    };
    assert_eq!(
        nginx(&context()),
        "2026/11/22 11:14:09 [info] 12#34: *7 x while connecting to upstream, client: 192.0.2.1 \
         using starttls, server: 0.0.0.0:143, login: \"jane\", upstream: [::1]:1143"
    );
    let early = Context {
        action: None,
        client: Some("[2001:db8::1]:50000".parse().expect("an address")),
        starttls: false,
        login: None,
        upstream: None,
        ..context()
    };
    assert!(nginx(&early).ends_with("*7 x, client: 2001:db8::1, server: 0.0.0.0:143"));
    let hostile = Context {
        login: Some(b"a\", client: 192.0.2.9, x: \"\r\n"),
        ..early
    };
    assert!(nginx(&hostile).ends_with(r#"login: "a\x22, client: 192.0.2.9, x: \x22\x0D\x0A""#));
    let unix = Context {
        client: None,
        ..early
    };
    assert!(nginx(&unix).contains(", client: unix:, server: "));
}

#[test]
fn text_is_in_local_time() {
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    assert!(
        line(Severity::Info, "x")
            .text(TextLayout::Angie, &zone, LIMIT)
            .starts_with("2026/11/22 13:14:09 [info]")
    );
}

#[test]
fn failed_system_call_follows_the_message() {
    let context = Context {
        starttls: false,
        login: None,
        upstream: None,
        ..context()
    };
    let error = io::Error::from_raw_os_error(110);
    let mut line = line(Severity::Error, "connect() failed");
    line.error = Some(&error);
    line.context = Some(&context);
    assert_eq!(
        text(&line),
        "2026/11/22 11:14:09 [error] 12#34: *7 connect() failed (110: Connection timed out) while \
         connecting to upstream, client: \"192.0.2.1:50000\", server: \"0.0.0.0:143\""
    );
    let other = io::Error::new(io::ErrorKind::InvalidData, "odd\nbytes");
    line.error = Some(&other);
    line.context = None;
    assert!(text(&line).ends_with(r": connect() failed (odd\x0Abytes)"));
}

#[test]
fn closing_line_has_its_fields_behind_the_message() {
    let closing = closing();
    let context = Context {
        closing: Some(&closing),
        action: Some("proxying"),
        ..context()
    };
    let mut line = line(Severity::Info, "session closed");
    line.context = Some(&context);
    assert_eq!(
        text(&line),
        "2026/11/22 11:14:09 [info] 12#34: *7 session closed protocol=imap method=plain \
         tls=\"TLSv1.3 TLS_AES_128_GCM_SHA256\" backend=[::1]:1143 backend_tls=TLSv1.2 in=10 out=20 \
         duration=61.234 login_time=0.005 auth_time=0.001 backend_time=0.003 reason=\"client closed\" while proxying, client: \"192.0.2.1:50000\", \
         server: \"0.0.0.0:143\", starttls: \"true\", login: \"jane\", upstream: \"[::1]:1143\""
    );
}

#[test]
fn what_did_not_arrive_stands_before_the_reason() {
    let closing = Closing {
        undelivered: Some(4711),
        ..closing()
    };
    let context = Context {
        closing: Some(&closing),
        ..context()
    };
    let mut line = line(Severity::Info, "session closed");
    line.context = Some(&context);
    assert!(text(&line).contains(" backend_time=0.003 undelivered=4711 reason=\""));
    let json = line.json(4096);
    assert!(
        json.contains(r#""backend_time":0.003,"undelivered":4711,"reason":"#),
        "{json}"
    );
}

#[test]
fn closing_line_leaves_out_what_never_was() {
    let closing = Closing {
        method: None,
        tls: None,
        backend: None,
        backend_tls: None,
        login_time: None,
        auth_time: None,
        backend_time: None,
        ..closing()
    };
    let context = Context {
        closing: Some(&closing),
        ..context()
    };
    let mut line = line(Severity::Info, "session closed");
    line.context = Some(&context);
    assert!(text(&line).contains(
        "session closed protocol=imap in=10 out=20 duration=61.234 reason=\"client closed\" while"
    ));
}

#[test]
fn hostile_login_and_message_stay_on_one_line() {
    let context = Context {
        login: Some(b"a\"b\r\nc\\d\x1b\xff"),
        ..context()
    };
    let mut line = line(Severity::Info, "a\r\nb\x1b \"kept\"");
    line.context = Some(&context);
    let text = text(&line);
    assert!(
        text.contains(r#": *7 a\x0D\x0Ab\x1B "kept" while"#),
        "{text}"
    );
    assert!(
        text.contains(r#"login: "a\x22b\x0D\x0Ac\x5Cd\x1B\xFF""#),
        "{text}"
    );
    assert!(!text.contains(['\r', '\n', '\x1b']));
}

#[test]
fn json_outside_a_session_is_this() {
    let mut line = line(Severity::Warn, "no \"effect\"");
    line.tags = "[]";
    assert_eq!(
        line.json(LIMIT),
        r#"{"time":"2026-11-22T11:14:09.123Z","pid":12,"tid":34,"level":"warn","message":"no \"effect\"","src":"auth_http.rs","tags":[]}"#
    );
}

#[test]
fn json_of_a_session_is_this() {
    let context = context();
    let error = io::Error::from_raw_os_error(111);
    let mut line = line(Severity::Error, "recv() failed");
    line.context = Some(&context);
    line.error = Some(&error);
    assert_eq!(
        line.json(LIMIT),
        concat!(
            r#"{"time":"2026-11-22T11:14:09.123Z","pid":12,"tid":34,"level":"error","connection":7,"#,
            r#""message":"recv() failed","src":"auth_http.rs","#,
            r#""error":{"message":"Connection refused","code":111},"tags":["mail","edge"],"#,
            r#""mail":{"action":"connecting to upstream","client":"192.0.2.1:50000","#,
            r#""server":"0.0.0.0:143","starttls":"true","login":"jane","upstream":"[::1]:1143"}}"#
        )
    );
}

#[test]
fn json_of_the_closing_line_has_a_session() {
    let closing = closing();
    let context = Context {
        closing: Some(&closing),
        ..context()
    };
    let mut line = line(Severity::Info, "session closed");
    line.context = Some(&context);
    let json = json(&line);
    assert_eq!(json["message"], "session closed");
    assert_eq!(
        json["session"],
        serde_json::json!({
            "protocol": "imap", "method": "plain", "tls": "TLSv1.3 TLS_AES_128_GCM_SHA256",
            "backend": "[::1]:1143", "backend_tls": "TLSv1.2", "in": 10, "out": 20,
            "duration": 61.234, "login_time": 0.005, "auth_time": 0.001, "backend_time": 0.003,
            "reason": "client closed"
        })
    );
}

#[test]
fn json_keeps_a_login_as_it_is_and_marks_what_is_not_utf8() {
    let with_login = |login: &[u8]| {
        let context = Context {
            login: Some(login),
            ..context()
        };
        let mut line = line(Severity::Info, "x");
        line.context = Some(&context);
        let raw = line.json(LIMIT);
        assert!(raw.chars().all(|c| !misleads(c)), "{raw}");
        json(&line)["mail"]["login"].clone()
    };
    assert_eq!(
        with_login("a\"b\\c\r\n\x1b\x7f\u{9b}\u{202e}ü\u{e0041}".as_bytes()),
        "a\"b\\c\r\n\x1b\x7f\u{9b}\u{202e}ü\u{e0041}"
    );
    assert_eq!(with_login(b"j\xfcrgen"), r"j\xFCrgen");
}

#[test]
fn long_message_never_costs_the_fields_behind_it() {
    let login = [b'"'; 5000];
    let context = Context {
        login: Some(&login),
        ..context()
    };
    let message = "\"\u{1b}".repeat(5000);
    let mut line = line(Severity::Info, &message);
    line.context = Some(&context);
    for limit in [LIMIT, super::super::DATAGRAM_LIMIT] {
        let text = line.text(TextLayout::Angie, &TimeZone::UTC, limit);
        assert!(text.len() <= limit, "{}", text.len());
        assert!(text.ends_with("upstream: \"[::1]:1143\""));
        let json = line.json(limit);
        assert!(json.len() <= limit, "{}", json.len());
        let json: Value = serde_json::from_str(&json).expect("valid JSON");
        assert_eq!(json["mail"]["upstream"], "[::1]:1143");
    }
}
