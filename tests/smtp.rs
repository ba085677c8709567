//! SMTP before and after login: every dialogue, and real clients in front of Postfix.

use std::fs;
use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::{LineClient, find};
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tools::{checksum, curl, python, swaks, wait_for_line};
use crate::common::{proxy_to, service, wait};
use crate::peers::{Peer, smtp_server};
use crate::servers::dnsmasq::{self, Dnsmasq};
use crate::servers::{dovecot, postfix};

#[test]
fn dialogues_go_as_written() {
    crate::dialogues::play_all("smtp");
}

#[test]
fn swaks_sends_with_plain_login_and_cram_md5() {
    let postfix = postfix::shared();
    let (postern, auth) = proxy_to("smtp", postfix.smtp, "smtp_auth = plain login cram-md5");
    let server = postern.address("smtp").to_string();
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
        let from = format!("{}@example.test", mechanism.to_lowercase());
        let said = swaks(&[
            "--server",
            &server,
            "--to",
            "bob@example.test",
            "--from",
            &from,
            "--auth",
            mechanism,
            "--auth-user",
            "alice",
            "--auth-password",
            "secret",
        ])
        .text();
        assert!(said.contains("250 2.0.0 Ok: queued"), "{said}");
        // Postfix names a sender once it has queued the mail.
        wait_for_line(&postfix.log, &format!("from=<{from}>"));
    }
    let methods: Vec<String> = auth
        .requests()
        .iter()
        .map(|request| request.header("Auth-Method").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(methods, ["plain", "plain", "cram-md5"]);
}

#[test]
fn postfix_logs_the_address_and_login_of_the_client() {
    let postfix = postfix::shared();
    let (postern, _auth) = proxy_to("smtp", postfix.smtp, "");
    let server = postern.address("smtp").to_string();
    swaks(&[
        "--server",
        &server,
        "--to",
        "bob@example.test",
        "--from",
        "a@example.test",
        "--local-interface",
        "127.0.0.77",
        "--ehlo",
        "client.test",
        "--auth",
        "PLAIN",
        "--auth-user",
        "frances+x y",
        "--auth-password",
        "secret",
    ])
    .text();
    let line = wait_for_line(&postfix.log, "client=unknown[127.0.0.77]");
    assert!(line.contains("sasl_username=frances+x y"), "{line}");
}

#[test]
fn postfix_logs_the_name_of_the_client() {
    let postfix = postfix::shared();
    let names = dnsmasq::named(78, "client.example.test");
    let records: Vec<&str> = names.iter().map(String::as_str).collect();
    let dns = Dnsmasq::start(&records);
    let more = format!("resolver = {}", dns.address);
    let (postern, auth) = proxy_to("smtp", postfix.smtp, &more);
    let server = postern.address("smtp").to_string();
    swaks(&[
        "--server",
        &server,
        "--to",
        "bob@example.test",
        "--from",
        "a@example.test",
        "--local-interface",
        "127.0.0.78",
        "--auth",
        "PLAIN",
        "--auth-user",
        "alice",
        "--auth-password",
        "secret",
    ])
    .text();
    let request = auth.wait_for_request(1);
    assert_eq!(
        request.header("Client-Host"),
        Some("client.example.test"),
        "{}",
        dns.log()
    );
    wait_for_line(&postfix.log, "client=client.example.test[127.0.0.78]");
}

#[test]
fn a_name_that_does_not_lead_back_is_unavailable() {
    let backend = Peer::start(smtp_server);
    let dns = Dnsmasq::start(&[
        "ptr-record=79.0.0.127.in-addr.arpa,liar.example.test",
        "host-record=liar.example.test,127.0.0.1",
    ]);
    let more = format!("resolver = {}", dns.address);
    let (postern, auth) = proxy_to("smtp", backend.address(), &more);
    for (source, number) in [([127, 0, 0, 79], 1), ([127, 0, 0, 80], 2)] {
        let mut client = LineClient::connect_from(source, postern.address("smtp"));
        client.expect("220 proxy.test ESMTP ready");
        client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK");
        let request = auth.wait_for_request(number);
        assert_eq!(
            request.header("Client-Host"),
            Some("[UNAVAILABLE]"),
            "{}",
            dns.log()
        );
    }
}

#[test]
fn a_dns_server_that_is_not_there_makes_the_name_temporarily_unavailable() {
    let backend = Peer::start(smtp_server);
    let nobody = crate::common::ports::free_port();
    let more = format!("resolver = 127.0.0.1:{nobody}\nresolver_timeout = 500ms");
    let (postern, auth) = proxy_to("smtp", backend.address(), &more);
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK");
    let request = auth.wait_for_request(1);
    assert_eq!(request.header("Client-Host"), Some("[TEMPUNAVAIL]"));
    backend.wait_for("NAME=[TEMPUNAVAIL]");
}

#[test]
fn a_refused_xclient_fails_the_login_and_the_log_says_what_to_set() {
    let (postern, _auth) = proxy_to("smtp", postfix::shared().smtp_plain, "");
    let (mut client, _) = LineClient::greeted(postern.address("smtp"));
    client.ask(
        "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
        "451 4.3.2 Internal server error",
    );
    client.expect_close();
    postern.wait_for_log("smtpd_authorized_xclient_hosts");
}

#[test]
fn proxy_smtp_auth_logs_in_to_postfix() {
    let postfix = postfix::shared();
    let more = "proxy_smtp_auth = on\nxclient = off";
    let (postern, _auth) = proxy_to("smtp", postfix.smtp_auth, more);
    let server = postern.address("smtp").to_string();
    swaks(&[
        "--server",
        &server,
        "--to",
        "bob@example.test",
        "--from",
        "smtp-auth@example.test",
        "--auth",
        "PLAIN",
        "--auth-user",
        "bob",
        "--auth-password",
        "hunter2",
    ])
    .text();
    let line = wait_for_line(&postfix.log, "sasl_method=PLAIN, sasl_username=bob");
    assert!(line.contains("client="), "{line}");
}

#[test]
fn smtplib_sends_with_utf8_login_and_password() {
    const SCRIPT: &str = r#"
import smtplib, sys
with smtplib.SMTP(sys.argv[1], int(sys.argv[2])) as client:
    client.ehlo('client.test')
    client.login('alice', 'secret')
    client.sendmail('lib@example.test', ['bob@example.test'], 'Subject: lib\r\n\r\n.\r\n..x\r\n')
"#;
    let postfix = postfix::shared();
    let (postern, _auth) = proxy_to("smtp", postfix.smtp, "");
    let port = postern.address("smtp").port().to_string();
    python(SCRIPT, &["127.0.0.1", &port]).text();
    wait_for_line(&postfix.log, "from=<lib@example.test>");
}

#[test]
fn mail_without_login_passes_with_none() {
    let postfix = postfix::shared();
    let (postern, auth) = proxy_to("smtp", postfix.smtp, "smtp_auth = none");
    let server = postern.address("smtp").to_string();
    let mail = [
        "--server",
        &server,
        "--to",
        "bob@example.test",
        "--from",
        "none@example.test",
    ];
    let said = swaks(&mail).text();
    assert!(said.contains("250 2.0.0 Ok: queued"), "{said}");
    let request = auth.wait_for_request(1);
    assert_eq!(
        request.header("Auth-SMTP-From"),
        Some("MAIL FROM:<none@example.test>")
    );
    assert_eq!(
        request.header("Auth-SMTP-To"),
        Some("RCPT TO:<bob@example.test>")
    );
}

#[test]
fn a_message_of_100_mib_sent_by_smtp_is_fetched_by_imap_and_pop3() {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let backends = [
        ("imap", dovecot.imap),
        ("pop3", dovecot.pop3),
        ("smtp", postfix.smtp),
    ];
    let auth = AuthServer::start(move |request| {
        let protocol = request.header("Auth-Protocol").unwrap_or_default();
        let backend = backends.iter().find(|(name, _)| *name == protocol);
        Answer::ok(backend.map_or_else(|| panic!("{protocol}?"), |(_, address)| *address))
    });
    let ini = backends.map(|(protocol, _)| service(protocol, &auth, ""));
    let postern = Postern::start(&ini.concat());

    let body = huge_body();
    let folder = TempDir::new("huge");
    let file = folder.write("message", [b"Subject: huge\r\n\r\n", &body[..]].concat());
    let smtp = format!("smtp://{}/client.test", postern.address("smtp"));
    let file = file.display().to_string();
    curl(&[
        "--user",
        "alice:secret",
        "--mail-from",
        "huge@example.test",
        "--mail-rcpt",
        "huge@example.test",
        "--upload-file",
        &file,
        &smtp,
    ])
    .text();

    let imap = format!(
        "imap://{}/INBOX;UID=1;SECTION=TEXT",
        postern.address("imap")
    );
    let fetched = wait::until("the message arrives", Duration::from_secs(60), || {
        let said = curl(&["--user", "huge:secret", &imap]);
        said.success.then_some(said.stdout)
    });
    assert_eq!(fetched.len(), body.len());
    assert_eq!(checksum(&fetched), checksum(&body));

    let out = folder.path().join("fetched").display().to_string();
    let pop3 = format!("pop3://{}/1", postern.address("pop3"));
    curl(&["--user", "huge:secret", "--output", &out, &pop3]).text();
    let fetched = fs::read(out).expect("curl has written it");
    let start = find(&fetched, b"\r\n\r\n").expect("a message has an empty line") + 4;
    assert_eq!(checksum(&fetched[start..]), checksum(&body));
}

/// 100 MiB in lines; each line differs from its neighbours, and some begin with dots.
fn huge_body() -> Vec<u8> {
    let size = 100 << 20;
    let mut body = Vec::with_capacity(size + 100);
    let mut number = 0_u64;
    while body.len() < size {
        number += 1;
        let dots = &b".."[..(number % 3) as usize];
        let word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        body.extend_from_slice(dots);
        body.extend_from_slice(format!("{number:016x}{word:016x}{word:064b}\r\n").as_bytes());
    }
    body
}
