//! IMAP before and after login: every dialogue, and real clients in front of Dovecot.

use std::time::Duration;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::tools::{checksum, curl, python};
use crate::common::{proxy_to, service};
use crate::servers::dovecot::{self, USERS};
use crate::servers::local;

#[test]
fn dialogues_go_as_written() {
    crate::dialogues::play_all("imap");
}

#[test]
fn curl_fetches_a_message() {
    let dovecot = dovecot::shared();
    dovecot.deliver("imap-curl", b"Subject: one\n\nThe text.\n");
    let (postern, _auth) = proxy_to("imap", dovecot.imap, "");
    let url = format!("imap://{}/INBOX;UID=1", postern.address("imap"));
    let message = curl(&["--user", "imap-curl:secret", &url]).text();
    assert_eq!(message, "Subject: one\r\n\r\nThe text.\r\n");
    postern.stop();
}

#[test]
fn curl_logs_in_with_plain_and_login_and_initial_response() {
    let dovecot = dovecot::shared();
    let more = "imap_auth = plain login\nimap_capabilities = IMAP4rev1 SASL-IR";
    let (postern, auth) = proxy_to("imap", dovecot.imap, more);
    let url = format!("imap://{}/", postern.address("imap"));
    for mechanism in ["AUTH=PLAIN", "AUTH=LOGIN"] {
        for option in ["--sasl-ir", "--no-sasl-ir"] {
            let login = [
                "--user",
                "alice:secret",
                "--login-options",
                mechanism,
                option,
            ];
            let said = curl(&[&login[..], &[&url]].concat()).text();
            assert!(said.contains("INBOX"), "{mechanism} {option}: {said}");
        }
    }
    assert!(auth.requests().len() >= 4);
}

#[test]
fn imaplib_logs_in_with_every_odd_password() {
    const SCRIPT: &str = r#"
import imaplib, sys
host, port, user, password = sys.argv[1:]
plain = lambda _: b'\0' + user.encode() + b'\0' + password.encode()
with imaplib.IMAP4(host, int(port)) as client:
    client.authenticate('PLAIN', plain)
    client.select('INBOX')
if password.isascii():
    with imaplib.IMAP4(host, int(port)) as client:
        client.login(user, password)
        client.select('INBOX')
"#;
    let dovecot = dovecot::shared();
    let (postern, _auth) = proxy_to("imap", dovecot.imap, "");
    let port = postern.address("imap").port().to_string();
    for (user, password) in USERS {
        // A NUL cannot be an argument; everything else can.
        python(SCRIPT, &["127.0.0.1", &port, user, password]).text();
    }
}

#[test]
fn literals_carry_every_odd_password() {
    let dovecot = dovecot::shared();
    let (postern, _auth) = proxy_to("imap", dovecot.imap, "");
    for (user, password) in USERS {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        let (first, second) = (user.len(), password.len());
        client.send(&format!(
            "a LOGIN {{{first}+}}\r\n{user} {{{second}+}}\r\n{password}"
        ));
        let answer = client.lines_until("a ").pop().unwrap_or_default();
        assert!(answer.starts_with("a OK"), "{user}: {answer}");
    }
}

#[test]
fn imaplib_logs_in_with_cram_md5() {
    const SCRIPT: &str = r#"
import imaplib, sys
with imaplib.IMAP4(sys.argv[1], int(sys.argv[2])) as client:
    client.login_cram_md5('alice', 'secret')
    client.select('INBOX')
"#;
    let backend = dovecot::shared().imap;
    let auth = AuthServer::start(move |_| Answer::ok_with(backend, &["Auth-Pass: secret"]));
    let postern = Postern::start(&service("imap", &auth, "imap_auth = cram-md5"));
    let port = postern.address("imap").port().to_string();
    python(SCRIPT, &["127.0.0.1", &port]).text();
    let request = auth.wait_for_request(1);
    assert_eq!(request.header("Auth-Method"), Some("cram-md5"));
    let digest = request.header("Auth-Pass").unwrap_or_default();
    let salt = request.header("Auth-Salt").unwrap_or_default();
    assert_eq!(digest, hmac_md5("secret", salt));
}

fn hmac_md5(key: &str, message: &str) -> String {
    const SCRIPT: &str = "import hmac, sys; \
        print(hmac.new(sys.argv[1].encode(), sys.argv[2].encode(), 'md5').hexdigest())";
    python(SCRIPT, &[key, message]).text().trim().to_owned()
}

#[test]
fn two_thousand_messages_arrive_byte_for_byte() {
    const SCRIPT: &str = r#"
import hashlib, imaplib, sys
imaplib._MAXLINE = 10_000_000
whole = hashlib.sha256()
with imaplib.IMAP4(sys.argv[1], int(sys.argv[2])) as client:
    client.login('imap-many', 'secret')
    client.select('INBOX', readonly=True)
    _, found = client.fetch('1:*', '(BODY.PEEK[])')
    messages = [item[1] for item in found if isinstance(item, tuple)]
    for message in messages:
        whole.update(message)
print(len(messages), whole.hexdigest())
"#;
    let dovecot = dovecot::shared();
    let messages: Vec<Vec<u8>> = (0..2000).map(message).collect();
    dovecot.fill_mailbox("imap-many", &messages);
    let sent: String = messages
        .iter()
        .map(|message| String::from_utf8_lossy(message).replace('\n', "\r\n"))
        .collect();
    let (postern, _auth) = proxy_to("imap", dovecot.imap, "");
    let port = postern.address("imap").port().to_string();
    let said = python(SCRIPT, &["127.0.0.1", &port]).text();
    assert_eq!(said.trim(), format!("2000 {}", checksum(sent.as_bytes())));
}

/// A message whose text and length depend on its number.
fn message(number: usize) -> Vec<u8> {
    let line = format!("{number} lines of mail, dots and (parentheses) {{3}}\n.\n..\n");
    let text = line.repeat(number % 40 + 1);
    format!("Subject: message {number}\nFrom: a@example.test\n\n{text}").into_bytes()
}

#[test]
fn idle_hears_of_a_message_that_arrives() {
    let dovecot = dovecot::shared();
    let (postern, _auth) = proxy_to("imap", dovecot.imap, "");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN imap-idle secret");
    client.lines_until("a OK");
    client.send("b SELECT INBOX");
    client.lines_until("b OK");
    client.send("c IDLE");
    client.expect("+ idling");
    dovecot.deliver("imap-idle", b"Subject: while idle\n\nHere.\n");
    let line = client.line_within(Duration::from_secs(20));
    assert_eq!(line, "* 1 EXISTS");
    client.lines_until("* 1 RECENT");
    client.send("DONE");
    client.lines_until("c OK");
}

#[test]
fn the_client_learns_the_capabilities_of_the_backend() {
    let (postern, _auth) = proxy_to("imap", dovecot::shared().imap, "");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN alice secret");
    let lines = client.lines_until("a ").join("\n");
    assert!(lines.contains("CAPABILITY IMAP4rev1"), "{lines}");
    assert!(lines.contains("IDLE"), "{lines}");
}

#[test]
fn commands_behind_the_login_reach_dovecot_once() {
    let (postern, _auth) = proxy_to("imap", dovecot::shared().imap, "");
    let mut client = LineClient::connect(postern.address("imap"));
    client.send_raw(b"a LOGIN bob hunter2\r\nb CREATE once\r\nc LIST \"\" once\r\nd LOGOUT\r\n");
    let all = String::from_utf8_lossy(&client.rest()).into_owned();
    assert_eq!(all.matches("b OK").count(), 1, "{all}");
    assert_eq!(all.matches("* LIST ").count(), 1, "{all}");
    assert!(all.contains("d OK"), "{all}");
}

#[test]
fn a_backend_that_is_not_there_is_an_internal_error() {
    let nobody = local(crate::common::ports::free_port());
    let (postern, _auth) = proxy_to("imap", nobody, "");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask("a LOGIN alice secret", "* BAD internal server error");
    client.expect_close();
    postern.wait_for_log("(111: Connection refused) while connecting to upstream");
}
