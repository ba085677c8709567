//! `postern try-login`: in front of Dovecot, Postfix and stubs, what it finds of a login and says in the end;
//! that the password is in none of it; and what it does with the terminal.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::ports::free_port;
use crate::common::service;
use crate::common::temp::TempDir;
use crate::common::tls::{serve_in_front_of, server_config};
use crate::common::tools::python;
use crate::peers::{Peer, server_of};
use crate::servers::pki::{Key, NAMES, Pair, Pki, State};
use crate::servers::{dovecot, local, postfix};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// A password that stands nowhere else.
const SECRET: &str = "Xyzzy-4711-Plugh";

/// What was printed, and the exit status.
struct Tried {
    said: String,
    status: Option<i32>,
}

impl Tried {
    /// Insists on the status, and on each text.
    fn expect(&self, status: i32, texts: &[&str]) {
        let said = &self.said;
        assert_eq!(self.status, Some(status), "{said}");
        for text in texts {
            assert!(said.contains(text), "no {text:?} in:\n{said}");
        }
    }
}

fn try_login(ini: &str, arguments: &[&str], password: &str) -> Tried {
    let folder = TempDir::new("try-login");
    let file = folder.write("postern.ini", ini);
    let mut child = Command::new(POSTERN)
        .args(["try-login", "--password-stdin", "--config"])
        .arg(file)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("it is piped");
    // It need not be read where the arguments are wrong.
    let _ = input.write_all(format!("{password}\n").as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    Tried {
        said: String::from_utf8(said).expect("text"),
        status: output.status.code(),
    }
}

/// The backend decides.
fn passthrough(protocol: &str, host: SocketAddr, more: &str) -> String {
    format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n\
         [backend office]\nhosts = {host}\n{more}\n"
    )
}

/// A small server behind TLS with this certificate.
fn stub(pair: &Pair) -> (Peer, SocketAddr) {
    let plain = Peer::start(server_of("imap"));
    let config = server_config(&pair.certificate, &pair.key, None);
    let address = serve_in_front_of(plain.address(), config);
    (plain, address)
}

fn trusting(authority: &Path) -> String {
    let authority = authority.display();
    format!("proxy_ssl = on\nproxy_ssl_trusted_certificate = {authority}\n")
}

#[test]
fn dovecot_and_postfix_are_logged_in_to_and_left() {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    for (protocol, host, goodbye) in [
        ("imap", dovecot.imap, "a OK "),
        ("pop3", dovecot.pop3, "+OK Logged in."),
        ("smtp", postfix.smtp_auth, "235 2.7.0 "),
    ] {
        let tried = try_login(&passthrough(protocol, host, ""), &["alice"], "secret");
        let logged_in = format!("\nok: logged in at {host}\n");
        tried.expect(
            0,
            &[
                "from 127.0.0.1\n",
                "login goes to backend \"office\"",
                &format!("trying host 127.0.0.1 at {host}"),
                goodbye,
                "ok      client logged in",
                &logged_in,
            ],
        );
        // The session's client, not a hang-up of ours, has ended it.
        assert!(tried.said.contains("backend closed"), "{}", tried.said);
    }
}

#[test]
fn an_auth_server_is_asked_and_told_without_the_password() {
    let dovecot = dovecot::shared();
    let user = "Auth-User: bob";
    let password = "Auth-Pass: hunter2";
    let backend = dovecot.imap;
    let auth = AuthServer::start(move |_| Answer::ok_with(backend, &[user, password]));
    let tried = try_login(&service("imap", &auth, ""), &["ext"], SECRET);
    tried.expect(
        0,
        &[
            "sent to auth http server: ",
            "Auth-User: ext",
            "Auth-User: bob",
            "Auth-Pass: ***",
            "ok: logged in at",
        ],
    );
    for secret in [SECRET, "hunter2"] {
        assert!(!tried.said.contains(secret), "{}", tried.said);
    }
    let request = auth.wait_for_request(1);
    assert_eq!(request.header("Auth-Pass"), Some(SECRET));
    assert_eq!(request.header("Client-IP"), Some("127.0.0.1"));
}

#[test]
fn a_wrong_password_is_told_from_a_refusal_of_the_auth_server() {
    let dovecot = dovecot::shared();
    let tried = try_login(&passthrough("imap", dovecot.imap, ""), &["alice"], SECRET);
    tried.expect(
        1,
        &[
            &format!("failed: the backend {} refuses the login: ", dovecot.imap),
            "what to do: the password is wrong, or the backend does not want this user",
        ],
    );
    assert!(!tried.said.contains(SECRET), "{}", tried.said);

    let auth = AuthServer::start(|_| Answer::refuse("Mailbox is over its age"));
    let tried = try_login(&service("pop3", &auth, ""), &["alice"], SECRET);
    tried.expect(
        1,
        &[
            "failed  client login failed: \"Mailbox is over its age\"",
            "\nfailed: the auth server refuses the login: Mailbox is over its age\n",
            "what to do: the password is wrong, or the auth server does not want this user here",
        ],
    );
    assert!(!tried.said.contains(SECRET), "{}", tried.said);

    // It lets everybody pass, and Dovecot does not.
    let backend = dovecot.imap;
    let auth = AuthServer::start(move |_| Answer::ok(backend));
    let tried = try_login(&service("imap", &auth, ""), &["alice"], SECRET);
    tried.expect(
        1,
        &[
            "\nfailed: the backend does not accept a login that may pass: ",
            "what to do: auth server and backend know different logins or passwords",
        ],
    );
    assert!(!tried.said.contains(SECRET), "{}", tried.said);
}

#[test]
fn a_backend_or_an_auth_server_that_is_down_is_named() {
    let nobody = local(free_port());
    let tried = try_login(&passthrough("imap", nobody, ""), &["alice"], SECRET);
    tried.expect(
        1,
        &[
            &format!("\nfailed: no backend serves: {nobody}: connect() failed: Connection refused"),
            "what to do: see whether the backend runs, whether host and port are right",
        ],
    );
    let ini = format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_http = http://{nobody}/auth\n"
    );
    let tried = try_login(&ini, &["alice"], SECRET);
    tried.expect(
        1,
        &[
            "\nfailed: the auth server does not decide: ",
            "what to do: see whether it runs and answers at `auth_http`",
        ],
    );
}

#[test]
fn it_is_tried_as_the_user_that_the_service_becomes() {
    let dovecot = dovecot::shared();
    let backend = dovecot.imap;
    let folder = TempDir::new("try-login");
    let socket = folder.path().join("auth");
    let _auth = AuthServer::start_unix(&socket, move |_| Answer::ok(backend));
    // Nobody but root can connect.
    let nobody_else = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&socket, nobody_else).expect("the socket is ours");
    let url = format!("http://unix:{}:/auth", socket.display());
    let ini = format!("[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_http = {url}\n");
    try_login(&ini, &["alice"], "secret").expect(0, &["ok: logged in at"]);
    let ini = format!("[postern]\nuser = nobody\n{ini}");
    try_login(&ini, &["alice"], "secret").expect(1, &["the auth server does not decide: "]);
}

#[test]
fn a_login_without_a_route_goes_nowhere() {
    let dovecot = dovecot::shared();
    let routes = "[routes]\nroute = @known.test office\n";
    let ini = passthrough("imap", dovecot.imap, routes);
    let tried = try_login(&ini, &["alice@other.test"], SECRET);
    tried.expect(
        1,
        &[
            "no route fits",
            "\nfailed: the login goes to no backend: no backend was asked: no route fits the login",
            "what to do: see [routes] and its maps",
        ],
    );
}

#[test]
fn certificates_are_shown_and_judged() {
    let pki = Pki::shared();
    let (_peer, good) = stub(pki.server());
    let ini = passthrough("imap", good, &trusting(&pki.authority()));
    try_login(&ini, &["alice"], SECRET).expect(
        0,
        &[
            "TLS with upstream: TLSv1.3 ",
            "certificate of CN=mail.test,O=Postern tests, issued by CN=Test CA,O=Postern tests, good for ",
            " days, verified",
        ],
    );
    for (state, why) in [
        (State::Expired, "expired"),
        (State::SelfSigned, "self-signed certificate"),
    ] {
        let pair = pki.issue("mail.test", NAMES, Key::Ec, state);
        let (_peer, host) = stub(&pair);
        let ini = passthrough("imap", host, &trusting(&pki.authority()));
        let tried = try_login(&ini, &["alice"], SECRET);
        let found = format!("\nfailed: no backend serves: {host}: TLS with upstream failed: ");
        let advice = "what to do: see the certificate of the backend: it must be valid now";
        tried.expect(1, &[&found, why, advice]);
        assert!(!tried.said.contains(SECRET), "{}", tried.said);
    }
}

#[test]
fn the_backend_is_told_of_the_client_as_configured() {
    let dovecot = dovecot::shared();
    let ini = passthrough("imap", dovecot.imap_haproxy, "proxy_protocol = v1\n");
    let told = "sent to upstream: \"PROXY TCP4 127.0.0.1 127.0.0.1 ";
    try_login(&ini, &["alice"], "secret").expect(0, &[told]);
    // Without the header Dovecot waits for it.
    let ini = passthrough("imap", dovecot.imap_haproxy, "connect_timeout = 2s\n");
    try_login(&ini, &["alice"], "secret")
        .expect(1, &["\nfailed: no backend serves: ", "(`proxy_protocol`)"]);
}

#[test]
fn who_does_not_say_where_is_asked_to() {
    let dovecot = dovecot::shared();
    let mut ini = passthrough("imap", dovecot.imap, "");
    ini += "[server other]\nprotocol = imap\nlisten = 127.0.0.1:0\n";
    let several = "name one of the servers with --server: imap, other";
    try_login(&ini, &["alice"], "secret").expect(2, &[several]);
    let none = "there is no such server; there are: imap, other";
    try_login(&ini, &["alice", "--server", "x"], "secret").expect(2, &[none]);
    try_login(&ini, &["alice", "--server", "other"], "secret").expect(0, &["ok: logged in"]);
    try_login(&ini, &["alice", "--server", "imap"], "").expect(2, &["neither may be empty"]);
    try_login("nonsense\n", &["alice"], "secret").expect(2, &["postern.ini"]);
}

#[test]
fn scripts_get_a_line_of_json_for_each_step_and_one_for_the_end() {
    let dovecot = dovecot::shared();
    let ini = passthrough("imap", dovecot.imap, "");
    let tried = try_login(&ini, &["alice", "--json"], SECRET);
    assert_eq!(tried.status, Some(1));
    let lines = tried.said.lines();
    let lines: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let end = lines.last().expect("a line");
    assert_eq!(end["outcome"], "refused", "{}", tried.said);
    assert!(end["advice"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(
        lines
            .iter()
            .any(|line| line["mail"]["upstream"].is_string())
    );
    assert!(!tried.said.contains(SECRET), "{}", tried.said);
}

/// Runs the command at a terminal of its own; `%` says what is typed at the question, and prints what the
/// terminal showed, whether it echoed at the question and behind it, and how the command ended.
const AT_A_TERMINAL: &str = r#"
import os, pty, signal, sys, termios, time
typed, command = sys.argv[1].encode().decode('unicode_escape').encode(), sys.argv[2:]
echo = lambda: bool(termios.tcgetattr(ends)[3] & termios.ECHO)
pid, ours = pty.fork()
if pid == 0:
    os.execv(command[0], command)
ends = ours
shown = b''
def read():
    global shown
    try:
        piece = os.read(ours, 4096)
    except OSError:
        piece = b''
    shown += piece
    return piece
while b'Password of alice: ' not in shown:
    assert read(), shown
print('echo at the question:', echo())
os.write(ours, typed)
while read():
    pass
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print('echo behind it:', echo())
print('status:', status)
print(shown.decode(errors='replace'))
"#;

fn at_a_terminal(typed: &str) -> String {
    let dovecot = dovecot::shared();
    let folder = TempDir::new("try-login");
    let file = folder.write("postern.ini", passthrough("imap", dovecot.imap, ""));
    let file = file.display().to_string();
    let command = [typed, POSTERN, "try-login", "alice", "--config", &file];
    python(AT_A_TERMINAL, &command).text()
}

#[test]
fn the_terminal_does_not_echo_the_password_and_echoes_again_afterwards() {
    let shown = at_a_terminal(&format!("{SECRET}\\n"));
    for text in [
        "echo at the question: False\n",
        "echo behind it: True\n",
        "status: 1\n",
        "refuses the login",
    ] {
        assert!(shown.contains(text), "no {text:?} in:\n{shown}");
    }
    assert!(!shown.contains(SECRET), "{shown}");
    let shown = at_a_terminal("secret\\n");
    assert!(shown.contains("ok: logged in at"), "{shown}");
}

#[test]
fn whoever_breaks_off_at_the_question_has_a_terminal_that_echoes() {
    let shown = at_a_terminal("half a pass\\x03");
    for text in [
        "echo at the question: False\n",
        "echo behind it: True\n",
        "status: -2\n",
    ] {
        assert!(shown.contains(text), "no {text:?} in:\n{shown}");
    }
}
