//! `auth = file`: users in a file, in front of Dovecot and Postfix. The hashes are doveadm's own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tools::{curl, python, run, swaks, wait_for_line};
use crate::common::wait::{self, PATIENCE};
use crate::peers::{Peer, imap_server};
use crate::servers::{dovecot, postfix};

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

const REFUSED: &str = "NO [AUTHENTICATIONFAILED] Authentication failed";

/// Schemes that doveadm can write.
const SCHEMES: &[&str] = &[
    "ARGON2ID",
    "ARGON2I",
    "BLF-CRYPT",
    "SHA512-CRYPT",
    "SHA256-CRYPT",
    "CRYPT",
    "SSHA512",
    "SSHA256",
    "PLAIN",
    "SSHA512.HEX",
    "SSHA256.B64",
    "PLAIN.B64",
    "PLAIN.HEX",
    "ARGON2ID.B64",
    "SHA512-CRYPT.HEX",
    "BLF-CRYPT.B64",
];

fn doveadm_pw(scheme: &str, password: &str) -> String {
    let said = run("doveadm", &["pw", "-s", scheme, "-p", password], b"");
    said.text().trim_end().to_owned()
}

/// Replaces the file as an editor does that is careful.
fn write_users(folder: &Path, text: &str) {
    let (new, file) = (folder.join("users.new"), folder.join("users"));
    fs::write(&new, text).expect("the folder is ours");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("it is ours");
    fs::rename(&new, &file).expect("the folder is ours");
}

/// One service of each protocol in front of a Dovecot and a Postfix.
fn office(users: &str, more: &str) -> Postern {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let (imap, pop3) = (dovecot.imap.port(), dovecot.pop3.port());
    let smtp = postfix.smtp_auth.port();
    let mut ini = format!(
        "[postern]\nerror_log = stderr debug\n[mail]\nauth_file = users\nauth_penalty_max = off\n{more}\n\
         [backend office]\nhosts = 127.0.0.1\nimap_port = {imap}\npop3_port = {pop3}\n\
         smtp_port = {smtp}\n"
    );
    for protocol in ["imap", "pop3", "smtp"] {
        ini += &format!("[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n");
    }
    let folder = TempDir::new("users");
    write_users(folder.path(), users);
    Postern::start_in(folder, &ini)
}

/// IMAP alone in front of two backends that remember their logins.
fn two_backends(users: &str, more: &str) -> (Postern, Peer, Peer) {
    let (first, second) = (Peer::start(imap_server), Peer::start(imap_server));
    let ini = format!(
        "[postern]\nerror_log = stderr debug\n[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         imap_capabilities = IMAP4rev1\nauth_file = users\nauth_penalty_max = off\n\
         [backend first]\nhosts = {}\n[backend second]\nhosts = {}\n{more}\n",
        first.address(),
        second.address()
    );
    let folder = TempDir::new("users");
    write_users(folder.path(), users);
    (Postern::start_in(folder, &ini), first, second)
}

fn log_in(address: SocketAddr, login: &str, password: &str) -> String {
    let (mut client, _) = LineClient::greeted(address);
    client.send(&format!("a LOGIN {login} {password}"));
    client.lines_until("a ").pop().unwrap_or_default()
}

fn is_in(postern: &Postern, login: &str, password: &str) -> bool {
    let said = log_in(postern.address("imap"), login, password);
    if !said.starts_with("a OK") {
        assert_eq!(said, format!("a {REFUSED}"));
        return false;
    }
    true
}

fn wait_until_in(postern: &Postern, login: &str, password: &str) {
    wait::until_true("the new file holds", PATIENCE, || {
        is_in(postern, login, password)
    });
}

#[test]
fn every_scheme_of_doveadm_logs_in_over_every_protocol() {
    let mut users = String::new();
    for scheme in SCHEMES {
        let field = doveadm_pw(scheme, "secret");
        users += &format!("file-{}:{field}\n", scheme.to_lowercase());
        // The same without its scheme, where it says what it is, in Dovecot's long form.
        if let Some((_, bare)) = field.split_once('}')
            && bare.starts_with('$')
        {
            users += &format!(
                "bare-{}:{bare}:1000:1000::/home/x::\n",
                scheme.to_lowercase()
            );
        }
    }
    let postern = office(&users, "");
    let postfix = postfix::shared();
    for login in users.lines().filter_map(|line| line.split(':').next()) {
        for protocol in ["imap", "pop3"] {
            let url = format!("{protocol}://{}/", postern.address(protocol));
            let right = format!("{login}:secret");
            let said = curl(&["--user", &right, &url]);
            assert!(said.success, "{login} {protocol}: {}", said.everything());
            let said = curl(&["--user", &format!("{login}:wrong"), &url]);
            assert!(!said.success, "{login} {protocol}");
        }
        let server = postern.address("smtp").to_string();
        let to = format!("{login}@example.test");
        let swaks = |password: &str| {
            swaks(&[
                "--server",
                &server,
                "--to",
                &to,
                "--from",
                &to,
                "--auth",
                "PLAIN",
                "--auth-user",
                login,
                "--auth-password",
                password,
            ])
        };
        let said = swaks("secret");
        assert!(said.success, "{login}: {}", said.everything());
        wait_for_line(&postfix.log, &format!("sasl_username={login}"));
        assert!(!swaks("wrong").success, "{login}");
    }
    // No password, and nothing made of one, is in the log.
    let log = postern.log();
    for line in users.lines() {
        let field = line.split(':').nth(1).expect("a password field");
        assert!(!log.contains(field), "{field}");
    }
}

#[test]
fn cram_md5_and_apop_work_with_plain_entries_alone() {
    const SCRIPT: &str = r#"
import imaplib, poplib, smtplib, sys
imap, pop3, smtp, user, password = sys.argv[1:]
def does(what):
    try:
        what()
        return 'yes'
    except Exception as error:
        return 'no'
def cram_imap():
    with imaplib.IMAP4('127.0.0.1', int(imap)) as client:
        client.login_cram_md5(user, password)
        client.select('INBOX')
def apop():
    client = poplib.POP3('127.0.0.1', int(pop3))
    client.apop(user, password)
    client.stat()
    client.quit()
def cram_smtp():
    with smtplib.SMTP('127.0.0.1', int(smtp)) as client:
        client.ehlo()
        client.user, client.password = user, password
        client.auth('CRAM-MD5', client.auth_cram_md5)
print(does(cram_imap), does(apop), does(cram_smtp))
"#;
    let hashed = doveadm_pw("SHA512-CRYPT", "secret");
    let users = format!(
        "plain:{{PLAIN}}secret\nbob:{{PLAIN}}for-here:pass=hunter2\nhashed:{hashed}\nempty:{hashed}:pass=x\n"
    );
    let postern = office(
        &users,
        "imap_auth = plain cram-md5\npop3_auth = plain apop cram-md5\nsmtp_auth = plain cram-md5",
    );
    let ports = ["imap", "pop3", "smtp"].map(|name| postern.address(name).port().to_string());
    let says = |user: &str, password: &str| {
        let arguments = [&ports[0], &ports[1], &ports[2], user, password];
        python(SCRIPT, &arguments).text().trim().to_owned()
    };
    assert_eq!(says("plain", "secret"), "yes yes yes");
    assert_eq!(says("PLAIN", "secret"), "yes yes yes");
    // Dovecot gets the password that stands for it in the file.
    assert_eq!(says("bob", "for-here"), "yes yes yes");
    for (user, password) in [
        ("plain", "wrong"),
        ("plain", "Secret"),
        ("bob", "hunter2"),
        ("hashed", "secret"),
        // The answer that nothing makes is no password.
        ("hashed", ""),
        ("empty", ""),
        ("nobody", "secret"),
        ("nobody", ""),
    ] {
        assert_eq!(says(user, password), "no no no", "{user} {password}");
    }
}

#[test]
fn a_line_says_backend_login_password_and_who_may_come() {
    let users = "anna:{PLAIN}pw:backend=second user=a2 pass=p2\n\
                 bert@example.org:{PLAIN}pw::::::backend=first userdb_home=/x\n\
                 carl:{PLAIN}pw:allow_nets=127.0.0.2,10.0.0.0/8 backend=first\n\
                 dora:{PLAIN}pw:nologin backend=first\n\
                 erik@example.org:{PLAIN}pw\n\
                 fred:{PLAIN}pw\n";
    let more = "[mail]\nlogin_domain = example.org\n[routes]\nroute = erik@example.org second\n\
                route = fred@example.org reject Closed\n";
    let (postern, first, second) = two_backends(users, more);
    assert!(is_in(&postern, "ANNA", "pw"));
    second.wait_for("a2 {2}\r\np2\r\n");
    // With the domain of the server; the backend is shown what was typed.
    assert!(is_in(&postern, "bert", "pw"));
    first.wait_for("bert {2}");
    assert!(is_in(&postern, "Bert@Example.org", "pw"));
    assert!(is_in(&postern, "erik", "pw"));
    second.wait_for("erik {2}");
    first.forget();
    second.forget();
    for login in [
        "carl",
        "dora",
        "nobody",
        "anna@example.org",
        "bert@example.net",
    ] {
        assert!(!is_in(&postern, login, "pw"), "{login}");
    }
    let rejected = log_in(postern.address("imap"), "fred", "pw");
    assert_eq!(rejected, "a NO [AUTHENTICATIONFAILED] Closed");
    assert!(!is_in(&postern, "fred", "wrong"));
    let mut client = LineClient::connect_from([127, 0, 0, 2], postern.address("imap"));
    client.line();
    client.send("a LOGIN carl pw");
    assert!(client.line().starts_with("a OK"));
    postern.wait_for_log("allow_nets does not have the client's address");
    postern.wait_for_log("nologin stands behind the user");
}

#[test]
fn nobody_becomes_somebody_else() {
    let (postern, first, _) = two_backends("anna:{PLAIN}pw:backend=first\n", "");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    // bob, anna, pw: an authorization identity.
    client.ask(
        "a AUTHENTICATE PLAIN Ym9iAGFubmEAcHc=",
        &format!("a {REFUSED}"),
    );
    // Mechanisms that the file cannot decide about are off.
    client.send("b AUTHENTICATE EXTERNAL YW5uYQ==");
    assert!(client.line().starts_with("b BAD"));
    client.send("c AUTHENTICATE XOAUTH2 dXNlcj1hbm5hAWF1dGg9QmVhcmVyIHB3AQE=");
    assert!(client.line().starts_with("c BAD"));
    assert_eq!(first.accepted(), 0);
    client.send("d LOGIN anna pw");
    assert!(client.line().starts_with("d OK"));
}

#[test]
fn a_login_that_is_there_costs_as_many_hashes_as_one_that_is_not() {
    let hashed = doveadm_pw("BLF-CRYPT", "secret");
    let users = format!(
        "anna:{hashed}\nbert:{hashed}:nologin\ncarl:{hashed}:allow_nets=10.0.0.1\nplain:{{PLAIN}}x\n"
    );
    let postern = office(&users, "");
    let checked = |scheme: &str| postern.count(&format!("a password is checked by {scheme}"));
    let mut tried = 0;
    for (login, password) in [
        ("anna", "wrong"),
        ("bert", "secret"),
        ("bert", "wrong"),
        ("carl", "secret"),
        ("nobody", "secret"),
        ("nobody@example.org", "wrong"),
    ] {
        assert!(!is_in(&postern, login, password), "{login}");
        tried += 1;
        wait::until_true("its hash is told", PATIENCE, || {
            checked("BLF-CRYPT") == tried
        });
    }
    // A password that no hash is of is worked on too.
    assert!(!is_in(&postern, "anna", &"x".repeat(600)));
    assert!(is_in(&postern, "anna", "secret"));
    tried += 2;
    wait::until_true("their hashes are told", PATIENCE, || {
        checked("BLF-CRYPT") == tried
    });
    assert_eq!(checked("PLAIN"), 0);
    assert_eq!(checked(""), tried);
}

#[test]
fn a_file_that_changes_is_read_again_and_a_broken_one_is_not_taken() {
    let postern = office("anna:{PLAIN}secret\n", "");
    let folder = postern.folder().path().to_owned();
    assert!(is_in(&postern, "anna", "secret") && !is_in(&postern, "bert", "secret"));
    write_users(&folder, "# new\nanna:{PLAIN}secret\nbert:{PLAIN}secret\n");
    wait_until_in(&postern, "bert", "secret");
    postern.wait_for_log("users was read again: 2 users");
    let file = folder.join("users").display().to_string();
    for (text, said) in [
        ("bert:{PLAIN}secret\ncarl\n", format!("{file}:2: no colon")),
        (
            "bert:{PLAIN}secret\nbert:{PLAIN}other\n",
            format!("{file}:2: login \"bert\" stands in line 1 already"),
        ),
        (
            "bert:{PLAIN}secret:backend=gone\n",
            format!("{file}:1: backend=gone: there is no [backend gone]"),
        ),
    ] {
        write_users(&folder, text);
        let line = postern.wait_for_log(&said);
        assert!(line.contains("; the old users stay in use"), "{line}");
        assert!(is_in(&postern, "anna", "secret") && is_in(&postern, "bert", "secret"));
    }
    fs::remove_file(folder.join("users")).expect("it is ours");
    postern.wait_for_log("users: cannot be read: ");
    assert!(is_in(&postern, "anna", "secret"));
    write_users(&folder, "carl:{PLAIN}secret\n");
    wait_until_in(&postern, "carl", "secret");
    assert!(!is_in(&postern, "anna", "secret"));
    // One line for each change, however often it was looked at.
    assert_eq!(postern.count("the old users stay in use"), 4);
}

#[test]
fn check_looks_at_the_file_and_at_who_may_read_it() {
    let folder = TempDir::new("users-check");
    let ini = folder.write(
        "postern.ini",
        "[server imap]\nlisten = 143\nauth_file = users\n[backend a]\nhosts = 192.0.2.1\n[backend b]\nhosts = \
         192.0.2.2\n",
    );
    let check = || {
        run(
            POSTERN,
            &["check", "--config", &ini.display().to_string()],
            b"",
        )
    };
    let file = folder.path().join("users").display().to_string();
    let said = check();
    assert!(!said.success);
    let missing = format!("[server imap] auth_file: {file:?}: cannot be read: No such file");
    assert!(said.stderr.contains(&missing), "{}", said.stderr);
    write_users(folder.path(), "anna:{PLAIN}secret:backend=a\n");
    let said = check();
    assert_eq!(said.stderr, "");
    assert!(
        said.text()
            .contains(&format!("[server imap]  auth_file {file}\n"))
    );
    write_users(
        folder.path(),
        "anna:{PLAIN}secret\n# one more\nbert:{MD5}secret\n",
    );
    let said = check();
    assert!(!said.success);
    assert!(
        said.stderr
            .starts_with(&format!("{file}:3: scheme MD5 is not known here")),
        "{}",
        said.stderr
    );
    assert!(!said.stderr.contains("secret"), "{}", said.stderr);
    fs::write(&file, "anna:{PLAIN}secret\n").expect("it is ours");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let said = check();
    assert!(said.success, "{}", said.stderr);
    for part in [
        "everybody on this machine may read",
        "1 users of",
        "no [routes]",
    ] {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
}

#[test]
fn check_says_when_the_service_could_not_read_the_file_again() {
    // Its user can write to the folder, so that no keeper helps.
    let folder = TempDir::new("users-check");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    write_users(folder.path(), "anna:{PLAIN}secret\n");
    let ini = folder.write(
        "postern.ini",
        "[postern]\nuser = nobody\n[server imap]\nlisten = 143\nauth_file = users\n[backend a]\nhosts = 192.0.2.1\n",
    );
    let said = run(
        POSTERN,
        &["check", "--config", &ini.display().to_string()],
        b"",
    );
    assert!(said.success, "{}", said.stderr);
    let file = folder.path().join("users");
    let expected = format!(
        "[server imap] auth_file: nobody may not read {}",
        file.display()
    );
    assert!(said.stderr.contains(&expected), "{}", said.stderr);
}

#[test]
fn a_confined_and_unprivileged_process_reads_the_file_again() {
    let dovecot = dovecot::shared();
    let folder = TempDir::of_root("users");
    let users = folder.write("users", "anna:{PLAIN}secret\n");
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let ini = format!(
        "[postern]\nuser = nobody\nerror_log = stderr info\n[server imap]\nprotocol = imap\n\
         listen = 127.0.0.1:0\nauth_file = users\nauth_penalty_max = off\n[backend office]\nhosts = {}\n",
        dovecot.imap
    );
    let postern = Postern::start_in(folder, &ini);
    assert!(is_in(&postern, "anna", "secret"));
    let file = users.display().to_string();
    let said = run(POSTERN, &["passwd", "--file", &file, "bert"], b"secret\n");
    assert!(said.success, "{}", said.everything());
    wait_until_in(&postern, "bert", "secret");
}

#[test]
fn a_hundred_slow_hashes_hold_neither_memory_nor_workers() {
    let hashed = doveadm_pw("ARGON2ID", "secret");
    assert!(hashed.contains("m=65536,"), "{hashed}");
    let dovecot = dovecot::shared();
    let folder = TempDir::new("users");
    write_users(folder.path(), &format!("slow:{hashed}\n"));
    let server = |name: &str| {
        format!(
            "[server {name}]\nprotocol = imap\nlisten = 127.0.0.1:0\nimap_capabilities = IMAP4rev1\n"
        )
    };
    let ini = format!(
        "[postern]\nworkers = 8\n[mail]\nauth_penalty_max = off\n{}auth_file = users\n{}auth = passthrough\n[backend office]\nhosts = {}\n",
        server("file"),
        server("other"),
        dovecot.imap
    );
    let postern = Postern::start_in(folder, &ini);
    let before = peak_memory(postern.id());
    let mut crowd: Vec<LineClient> = (0..100)
        .map(|_| LineClient::greeted(postern.address("file")).0)
        .collect();
    for client in &mut crowd {
        client.send("a LOGIN slow wrong");
    }
    let began = Instant::now();
    let said = log_in(postern.address("other"), "meanwhile", "secret");
    let other = began.elapsed();
    assert!(said.starts_with("a OK"), "{said}");
    assert!(other < Duration::from_secs(1), "{other:?}");
    // In the same line, behind those who came first.
    let (mut client, _) = LineClient::greeted(postern.address("file"));
    client.send("a LOGIN slow secret");
    let said = client.line_within(Duration::from_secs(200));
    assert!(
        said.starts_with("* CAPABILITY") || said.starts_with("a OK"),
        "{said}"
    );
    for client in &mut crowd {
        assert_eq!(
            client.line_within(Duration::from_secs(200)),
            format!("a {REFUSED}")
        );
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let grown = peak_memory(postern.id()) - before;
    assert!(grown < (cores * 64 + 48) * 1024, "{grown} KiB");
}

/// Pieces of this size are those that glibc would keep in the heap of each thread.
#[test]
fn the_memory_of_a_hundred_smaller_hashes_goes_back_at_once() {
    let hash = "$argon2id$v=19$m=19456,t=1,p=1$8mdzze7iXOc86MMobC9B5w$m0M3gUF7r9ZZw3p8ux41TMo/HUgyj89CdknV6cko4DE";
    let (postern, first, _) = two_backends(&format!("slow:{hash}:backend=first\n"), "");
    let before = peak_memory(postern.id());
    let mut crowd: Vec<LineClient> = (0..100)
        .map(|_| LineClient::greeted(postern.address("imap")).0)
        .collect();
    for client in &mut crowd {
        client.send("a LOGIN slow wrong");
    }
    for client in &mut crowd {
        let said = client.line_within(Duration::from_secs(200));
        assert_eq!(said, format!("a {REFUSED}"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let grown = peak_memory(postern.id()) - before;
    assert!(grown < (cores * 19 + 48) * 1024, "{grown} KiB");
    assert_eq!(first.accepted(), 0);
}

/// VmHWM in KiB.
fn peak_memory(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    words
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

#[test]
fn a_refusal_of_the_backend_is_the_clients_where_the_password_is() {
    // Dovecot has another password for bob.
    let users = "bob:{PLAIN}here\nalice:{PLAIN}here:pass=wrong\n";
    let postern = office(users, "");
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.send("a LOGIN bob here");
    let said = client.line();
    assert!(said.starts_with("a NO [AUTHENTICATIONFAILED]"), "{said}");
    client.send("b NOOP");
    assert!(client.line().starts_with("b OK"));
    // A password of the operator's is the operator's mistake.
    client.send("c LOGIN alice here");
    assert!(!client.line().contains("AUTHENTICATIONFAILED"));
    postern.wait_for_log("backend refused the login");
}

#[test]
fn try_login_says_that_the_file_refuses() {
    let folder = TempDir::new("users");
    write_users(folder.path(), "anna:{PLAIN}secret\n");
    let host = dovecot::shared().imap;
    let ini = folder.write(
        "postern.ini",
        format!(
            "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_file = users\nauth_penalty_max = off\n[backend a]\nhosts = {host}\n"
        ),
    );
    let ini = ini.display().to_string();
    let tried = |login: &str| {
        let arguments = ["try-login", "--password-stdin", "--config", &ini, login];
        run(POSTERN, &arguments, b"secret\n").everything()
    };
    assert!(tried("anna").contains("ok: logged in at"));
    let said = tried("bert");
    assert!(
        said.contains("failed: the file of users refuses the login"),
        "{said}"
    );
    assert!(
        said.contains("no such user") && !said.contains("secret"),
        "{said}"
    );
}
