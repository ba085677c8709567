//! POP3 before and after login: every dialogue, and real clients in front of Dovecot.

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::tools::{checksum, curl, python};
use crate::common::{proxy_to, service};
use crate::servers::dovecot::{self, USERS};

#[test]
fn dialogues_go_as_written() {
    crate::dialogues::play_all("pop3");
}

#[test]
fn curl_fetches_a_message() {
    let dovecot = dovecot::shared();
    dovecot.deliver("pop3-curl", b"Subject: one\n\nThe text.\n.\n");
    let (postern, _auth) = proxy_to("pop3", dovecot.pop3, "");
    let url = format!("pop3://{}/1", postern.address("pop3"));
    for option in ["AUTH=PLAIN", "AUTH=LOGIN", "AUTH=*"] {
        let login = [
            "--user",
            "pop3-curl:secret",
            "--login-options",
            option,
            &url,
        ];
        let message = curl(&login).text();
        assert_eq!(
            message, "Subject: one\r\n\r\nThe text.\r\n.\r\n",
            "{option}"
        );
    }
    postern.stop();
}

#[test]
fn poplib_logs_in_with_every_odd_password() {
    const SCRIPT: &str = r#"
import poplib, sys
host, port, user, password = sys.argv[1:]
client = poplib.POP3(host, int(port))
client.encoding = 'UTF-8'
client.user(user)
client.pass_(password)
client.stat()
client.quit()
"#;
    let (postern, _auth) = proxy_to("pop3", dovecot::shared().pop3, "");
    let port = postern.address("pop3").port().to_string();
    // Leading spaces are not part of a PASS argument.
    for (user, password) in USERS.iter().filter(|(_, word)| !word.starts_with(' ')) {
        python(SCRIPT, &["127.0.0.1", &port, user, password]).text();
    }
}

#[test]
fn poplib_logs_in_with_apop() {
    const SCRIPT: &str = r#"
import hashlib, poplib, sys
client = poplib.POP3(sys.argv[1], int(sys.argv[2]))
salt = client.welcome[client.welcome.index(b'<'):]
client.apop('alice', 'secret')
print(salt.decode(), hashlib.md5(salt + b'secret').hexdigest())
client.quit()
"#;
    let backend = dovecot::shared().pop3;
    let auth = AuthServer::start(move |_| Answer::ok_with(backend, &["Auth-Pass: secret"]));
    let postern = Postern::start(&service("pop3", &auth, "pop3_auth = apop"));
    let port = postern.address("pop3").port().to_string();
    let said = python(SCRIPT, &["127.0.0.1", &port]).text();
    let request = auth.wait_for_request(1);
    let salt = request.header("Auth-Salt").unwrap_or_default();
    let digest = request.header("Auth-Pass").unwrap_or_default();
    assert_eq!(said.trim(), format!("{salt} {digest}"));
}

#[test]
fn two_thousand_messages_arrive_byte_for_byte() {
    const SCRIPT: &str = r#"
import hashlib, socket, sys
whole = hashlib.sha256()
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
lines = client.makefile('rb')
lines.readline()
# All commands at once, behind the login, as a client with PIPELINING may do.
commands = ['USER pop3-many', 'PASS secret'] + [f'RETR {n}' for n in range(1, 2001)] + ['QUIT']
import threading
text = ''.join(command + '\r\n' for command in commands).encode()
threading.Thread(target=client.sendall, args=(text,)).start()
for _ in range(2):
    assert lines.readline().startswith(b'+OK')
count = 0
for _ in range(2000):
    assert lines.readline().startswith(b'+OK')
    while (line := lines.readline()) != b'.\r\n':
        whole.update(line[1:] if line.startswith(b'.') else line)
    count += 1
assert lines.readline().startswith(b'+OK')
assert lines.read() == b''
print(count, whole.hexdigest())
"#;
    let dovecot = dovecot::shared();
    let messages: Vec<Vec<u8>> = (0..2000).map(message).collect();
    dovecot.fill_mailbox("pop3-many", &messages);
    let sent: String = messages
        .iter()
        .map(|message| String::from_utf8_lossy(message).replace('\n', "\r\n"))
        .collect();
    let (postern, _auth) = proxy_to("pop3", dovecot.pop3, "");
    let port = postern.address("pop3").port().to_string();
    let said = python(SCRIPT, &["127.0.0.1", &port]).text();
    assert_eq!(said.trim(), format!("2000 {}", checksum(sent.as_bytes())));
}

/// A message whose text and length depend on its number.
fn message(number: usize) -> Vec<u8> {
    let line = format!("{number} lines of mail\n.\n..\n.dots\n");
    let text = line.repeat(number % 40 + 1);
    format!("Subject: message {number}\nFrom: a@example.test\n\n{text}").into_bytes()
}

#[test]
fn quit_behind_dele_deletes() {
    let dovecot = dovecot::shared();
    dovecot.deliver("pop3-dele", b"Subject: one\n\nGone soon.\n");
    let (postern, _auth) = proxy_to("pop3", dovecot.pop3, "");
    let mut client = LineClient::connect(postern.address("pop3"));
    client.send_raw(b"USER pop3-dele\r\nPASS secret\r\nDELE 1\r\nQUIT\r\n");
    client.half_close();
    let all = String::from_utf8_lossy(&client.rest()).into_owned();
    assert_eq!(all.matches("+OK").count(), 5, "{all}\n{}", postern.log());
    let (mut again, _) = LineClient::greeted(dovecot.pop3);
    again.ask("USER pop3-dele", "+OK");
    again.ask("PASS secret", "+OK Logged in.");
    again.ask("STAT", "+OK 0 0");
}
