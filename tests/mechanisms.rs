//! How a configured backend is logged in to: by what it offers, by what is configured, and with a
//! token as a token.

use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::peers::{Peer, answering as backend};

/// `user=bob^Aauth=Bearer tok^A^A`
const XOAUTH2: &str = "dXNlcj1ib2IBYXV0aD1CZWFyZXIgdG9rAQE=";
/// `n,a=bob,^Aauth=Bearer tok^A^A`
const OAUTHBEARER: &str = "bixhPWJvYiwBYXV0aD1CZWFyZXIgdG9rAQE=";
/// `^@bob^@pw`
const PLAIN: &str = "AGJvYgBwdw==";

/// Fixed capabilities: nobody asks but for a login.
fn proxy(protocol: &str, backend: &Peer, more: &str) -> Postern {
    Postern::start(&format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n\
         {protocol}_auth = plain xoauth2 oauthbearer\n{protocol}_capabilities = TEST\n\
         [backend mail]\nhosts = {}\n{more}\n",
        backend.address()
    ))
}

fn says(postern: &Postern, protocol: &str, login: &str, answer: &str) -> LineClient {
    let (mut client, _) = LineClient::greeted(postern.address(protocol));
    client.ask(login, answer);
    client
}

const IMAP_OFFER: &str =
    "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2 AUTH=OAUTHBEARER] hi";

#[test]
fn imap_plain_goes_in_one_step_where_sasl_ir_is_offered() {
    let backend = backend(IMAP_OFFER, &[("a AUTHENTICATE", "a OK in")]);
    let postern = proxy("imap", &backend, "auth_mechanism = plain");
    says(&postern, "imap", "a LOGIN bob pw", "a OK in");
    assert_eq!(
        backend.lines(),
        [&format!("a AUTHENTICATE PLAIN {PLAIN}"), ""]
    );
}

#[test]
fn imap_plain_goes_in_two_steps_elsewhere() {
    let answers = &[
        (
            "p1 CAPABILITY",
            "* CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=PLAIN\r\np1 OK",
        ),
        ("a AUTHENTICATE", "+ "),
        ("AGJvYgBwdw==", "a OK in"),
    ];
    let backend = backend("* OK hi", answers);
    let postern = proxy("imap", &backend, "auth_mechanism = plain");
    says(&postern, "imap", "a LOGIN bob pw", "a OK in");
    assert_eq!(
        backend.lines(),
        ["p1 CAPABILITY", "a AUTHENTICATE PLAIN", PLAIN, ""]
    );
}

#[test]
fn imap_is_asked_for_plain_where_login_is_disabled_but_plain_is_not() {
    let backend = backend(
        "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGINDISABLED AUTH=PLAIN] hi",
        &[("a AUTHENTICATE", "a OK in")],
    );
    let postern = proxy("imap", &backend, "");
    says(&postern, "imap", "a LOGIN bob pw", "a OK in");
}

#[test]
fn no_password_goes_to_a_backend_that_disables_logins() {
    let backend = backend(
        "* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi",
        &[
            ("a LOGIN", "+ go on"),
            ("bob", "+ go on"),
            ("pw", "a OK in"),
        ],
    );
    let postern = proxy("imap", &backend, "");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN bob pw");
    assert!(!client.line().starts_with("a OK"));
    assert!(
        !backend.lines().concat().contains("pw"),
        "{:?}",
        backend.lines()
    );
    let line = postern.wait_for_log("proxy_ssl");
    assert!(line.contains("[error]"), "{line}");
}

#[test]
fn imap_tokens_go_on_as_tokens_by_the_clients_mechanism() {
    for (mechanism, message) in [("XOAUTH2", XOAUTH2), ("OAUTHBEARER", OAUTHBEARER)] {
        let backend = backend(IMAP_OFFER, &[("a AUTHENTICATE", "a OK in")]);
        let postern = proxy("imap", &backend, "");
        let login = format!("a AUTHENTICATE {mechanism} {message}");
        says(&postern, "imap", &login, "a OK in");
        assert_eq!(backend.lines(), [&login, ""]);
    }
}

#[test]
fn a_token_goes_by_the_other_mechanism_where_only_that_is_offered() {
    let backend = backend(
        "* OK hi",
        &[
            (
                "p1 CAPABILITY",
                "* CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2\r\np1 OK",
            ),
            ("a AUTHENTICATE", "a OK in"),
        ],
    );
    let postern = proxy("imap", &backend, "");
    let login = format!("a AUTHENTICATE OAUTHBEARER {OAUTHBEARER}");
    says(&postern, "imap", &login, "a OK in");
    let expected = format!("a AUTHENTICATE XOAUTH2 {XOAUTH2}");
    assert_eq!(backend.lines(), ["p1 CAPABILITY", &expected, ""]);
}

#[test]
fn a_refused_token_is_a_refused_login_after_the_dummy_answer() {
    for (mechanism, message, dummy) in [
        ("XOAUTH2", XOAUTH2, ""),
        ("OAUTHBEARER", OAUTHBEARER, "AQ=="),
    ] {
        let backend = backend(
            IMAP_OFFER,
            &[
                ("a AUTHENTICATE", "+ eyJzdGF0dXMiOiI0MDAifQ=="),
                ("", "a NO [AUTHENTICATIONFAILED] expired"),
            ],
        );
        let postern = proxy("imap", &backend, "");
        let login = format!("a AUTHENTICATE {mechanism} {message}");
        let refused = "a NO [AUTHENTICATIONFAILED] Authentication failed";
        let mut client = says(&postern, "imap", &login, refused);
        client.ask("b NOOP", "b OK completed");
        let lines = backend.lines();
        assert_eq!(lines, [&login, dummy, "p9 LOGOUT", ""]);
    }
}

#[test]
fn pop3_uses_user_and_pass_or_what_is_configured() {
    let answers = &[
        ("USER bob", "+OK"),
        ("PASS pw", "+OK in"),
        ("AUTH PLAIN", "+ "),
        (PLAIN, "+OK in"),
    ];
    let cases = [
        ("", &["USER bob", "PASS pw", ""]),
        ("auth_mechanism = off", &["USER bob", "PASS pw", ""]),
        ("auth_mechanism = plain", &["AUTH PLAIN", PLAIN, ""]),
    ];
    for (more, lines) in cases {
        let backend = backend("+OK hi", answers);
        let postern = proxy("pop3", &backend, more);
        let login = format!("AUTH PLAIN {PLAIN}");
        says(&postern, "pop3", &login, "+OK in");
        assert_eq!(backend.lines(), *lines, "{more}");
    }
}

#[test]
fn pop3_tokens_go_on_as_tokens() {
    let answers = &[
        ("CAPA", "+OK\r\nTOP\r\nSASL PLAIN XOAUTH2 OAUTHBEARER\r\n."),
        ("AUTH ", "+ "),
        (XOAUTH2, "+OK in"),
        (OAUTHBEARER, "+OK in"),
    ];
    for (mechanism, message) in [("XOAUTH2", XOAUTH2), ("OAUTHBEARER", OAUTHBEARER)] {
        let backend = backend("+OK hi", answers);
        let postern = proxy("pop3", &backend, "");
        let login = format!("AUTH {mechanism} {message}");
        says(&postern, "pop3", &login, "+OK in");
        assert_eq!(
            backend.lines(),
            ["CAPA", &format!("AUTH {mechanism}"), message, ""]
        );
    }
}

#[test]
fn pop3_refused_tokens_get_the_dummy_answer() {
    let answers = &[
        ("CAPA", "+OK\r\nSASL XOAUTH2\r\n."),
        ("AUTH ", "+ "),
        (XOAUTH2, "+ eyJzdGF0dXMiOiI0MDAifQ=="),
        ("", "-ERR [AUTH] expired"),
    ];
    let backend = backend("+OK hi", answers);
    let postern = proxy("pop3", &backend, "");
    let login = format!("AUTH XOAUTH2 {XOAUTH2}");
    says(
        &postern,
        "pop3",
        &login,
        "-ERR [AUTH] Authentication failed",
    );
    let lines = backend.lines();
    assert_eq!(lines, ["CAPA", "AUTH XOAUTH2", XOAUTH2, "", "QUIT", ""]);
}

#[test]
fn smtp_that_offers_login_alone_gets_login() {
    let answers = &[
        ("EHLO", "250-b\r\n250-AUTH LOGIN\r\n250 8BITMIME"),
        ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
        ("Ym9i", "334 UGFzc3dvcmQ6"),
        ("cHc=", "235 2.7.0 in"),
    ];
    let backend = backend("220 hi", answers);
    let postern = proxy("smtp", &backend, "");
    says(
        &postern,
        "smtp",
        &format!("AUTH PLAIN {PLAIN}"),
        "235 2.0.0 OK",
    );
    let lines = backend.lines();
    assert_eq!(lines[1..], ["AUTH LOGIN", "Ym9i", "cHc=", ""]);
}

#[test]
fn smtp_mechanism_is_what_is_configured() {
    let answers = &[
        ("EHLO", "250-b\r\n250 AUTH PLAIN LOGIN"),
        ("AUTH PLAIN", "235 2.7.0 in"),
        ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
        ("Ym9i", "334 UGFzc3dvcmQ6"),
        ("cHc=", "235 2.7.0 in"),
    ];
    for (more, first) in [
        ("", "AUTH PLAIN AGJvYgBwdw=="),
        ("auth_mechanism = plain", "AUTH PLAIN AGJvYgBwdw=="),
        ("auth_mechanism = login", "AUTH LOGIN"),
    ] {
        let backend = backend("220 hi", answers);
        let postern = proxy("smtp", &backend, more);
        says(
            &postern,
            "smtp",
            &format!("AUTH PLAIN {PLAIN}"),
            "235 2.0.0 OK",
        );
        assert_eq!(backend.lines()[1], first, "{more}");
    }
}

#[test]
fn smtp_tokens_go_on_as_tokens() {
    let answers = &[
        ("EHLO", "250-b\r\n250 AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER"),
        ("AUTH ", "235 2.7.0 in"),
    ];
    for (mechanism, message) in [("XOAUTH2", XOAUTH2), ("OAUTHBEARER", OAUTHBEARER)] {
        let backend = backend("220 hi", answers);
        let postern = proxy("smtp", &backend, "");
        let login = format!("AUTH {mechanism} {message}");
        says(&postern, "smtp", &login, "235 2.0.0 OK");
        assert_eq!(backend.lines()[1], login);
    }
}

#[test]
fn smtp_refused_tokens_get_the_dummy_answer() {
    let answers = &[
        ("EHLO", "250-b\r\n250 AUTH OAUTHBEARER"),
        ("AUTH ", "334 eyJzdGF0dXMiOiI0MDAifQ=="),
        ("AQ==", "535 5.7.8 expired"),
    ];
    let backend = backend("220 hi", answers);
    let postern = proxy("smtp", &backend, "");
    let login = format!("AUTH OAUTHBEARER {OAUTHBEARER}");
    let mut client = says(&postern, "smtp", &login, "535 5.7.8 Authentication failed");
    client.ask("NOOP", "250 2.0.0 OK");
    assert_eq!(backend.lines()[2], "AQ==");
}

#[test]
fn xclient_stands_before_auth_where_it_is_offered() {
    let offers = &[
        (
            "EHLO",
            "250-b\r\n250-XCLIENT NAME ADDR LOGIN\r\n250 AUTH PLAIN",
        ),
        ("XCLIENT", "220 again"),
        ("AUTH PLAIN", "235 2.7.0 in"),
    ];
    let backend = backend("220 hi", offers);
    let postern = proxy("smtp", &backend, "");
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.send("EHLO me.test");
    client.lines_until("250 ");
    client.ask(&format!("AUTH PLAIN {PLAIN}"), "235 2.0.0 OK");
    let lines = backend.lines();
    assert_eq!(lines[1], "XCLIENT ADDR=127.0.0.1 NAME=[UNAVAILABLE]");
    assert_eq!(lines[2..4], ["EHLO me.test", "AUTH PLAIN AGJvYgBwdw=="]);
}
