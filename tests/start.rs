//! The command line and the process: exit statuses, limits, privileges, signals, log files, and what
//! must never stand in a log.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::process::children_of;
use crate::common::started::{RUN, Started, field, idle};
use crate::common::temp::TempDir;
use crate::common::tools::wait_for_line;
use crate::common::wait::{self, PATIENCE};
use crate::common::{proxy_to, service};
use crate::peers::{Peer, server_of};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use openssl::base64::encode_block;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// The whole command; it ends by itself.
fn postern(arguments: &[&str]) -> Output {
    let output = Command::new(POSTERN).args(arguments).output();
    output.expect("postern runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it with this configuration, which must keep it from starting.
fn run_with(ini: &str) -> Output {
    let folder = TempDir::new("start");
    let file = folder.write("postern.ini", ini);
    postern(&["--config", &file.display().to_string()])
}

#[test]
fn version_and_help_go_to_standard_output() {
    let version = postern(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    let expected = format!("postern {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&version), expected);

    let help = postern(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in ["check", "reference", "--config <FILE>", "mail proxy"] {
        assert!(stdout(&help).contains(word), "{word}: {}", stdout(&help));
    }
    assert_eq!(stderr(&help) + &stderr(&version), "");
}

#[test]
fn a_wrong_command_line_ends_with_status_2() {
    for arguments in [
        &["--nonsense"][..],
        &["dance"],
        &["check", "--config"],
        &["a", "b"],
    ] {
        let output = postern(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!stderr(&output).is_empty());
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn a_missing_file_is_named_and_ends_with_status_2() {
    for arguments in [
        &["--config", "/no/such.ini"][..],
        &["check", "--config", "/no/such.ini"],
    ] {
        let output = postern(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).starts_with("/no/such.ini: "),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn every_mistake_is_told_at_once_by_run_and_by_check() {
    let ini = "[postern]\nworkers = many\nuser = nosuchuser\n[mail]\ntimeout = 3 parsecs\nproxi_timeout = 1h\n\
               [server imap]\nlisten = 127.0.0.1:0\nlisten = 127.0.0.1:x\n";
    let folder = TempDir::new("start");
    let file = folder.write("postern.ini", ini);
    let file = file.display().to_string();
    for arguments in [&["--config", &file[..]][..], &["check", "--config", &file]] {
        let output = postern(arguments);
        assert_eq!(output.status.code(), Some(2));
        for mistake in [
            "2: [postern] workers: ",
            "3: [postern] user: ",
            "5: [mail] timeout: ",
            "6: [mail] proxi_timeout: ",
            "9: [server imap] listen: ",
        ] {
            let line = format!("{file}:{mistake}");
            let told = stderr(&output);
            assert!(
                told.lines().any(|told| told.starts_with(&line)),
                "{line}\n{told}"
            );
        }
        assert!(stderr(&output).contains("did you mean `proxy_timeout`?"));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn check_binds_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the system has a port");
    let address = listener.local_addr().expect("a listener has an address");
    let ini = idle("").replace("127.0.0.1:0", &address.to_string());
    let folder = TempDir::new("start");
    let file = folder.write("postern.ini", &ini);
    let output = postern(&["check", "--config", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).contains(&format!("imap  {address}")),
        "{}",
        stdout(&output)
    );

    let output = run_with(&ini);
    assert_eq!(output.status.code(), Some(1));
    let text = format!("server \"imap\" cannot listen on {address}: Address already in use");
    assert!(stderr(&output).contains(&text), "{}", stderr(&output));
}

#[test]
fn reference_prints_every_directive() {
    let output = postern(&["reference"]);
    assert_eq!(output.status.code(), Some(0));
    let reference = stdout(&output);
    for directive in "listen protocol server_name timeout max_errors max_commands resolver \
        resolver_timeout auth_http auth_http_timeout auth_http_keepalive auth_http_header \
        auth_http_pass_client_cert imap_auth imap_capabilities imap_client_buffer pop3_auth pop3_capabilities \
        pop3_client_buffer smtp_auth smtp_capabilities smtp_client_buffer smtp_greeting_delay \
        proxy_buffer proxy_timeout proxy_pass_error_message proxy_protocol proxy_smtp_auth xclient \
        error_log error_log_user_tag set_real_ip_from plain_login_answer starttls ssl_certificate workers \
        client_wait send_timeout hibernate_timeout accept_queue max_sessions max_prelogin_per_ip \
        shutdown_timeout user group pid"
        .split_ascii_whitespace()
    {
        assert!(
            reference.lines().any(|line| line == directive),
            "{directive}"
        );
    }
}

#[test]
fn what_fails_while_starting_is_named_and_ends_with_status_1() {
    for (process, named) in [
        ("pid = /no/such/folder/pid", "/no/such/folder/pid"),
        ("error_log = /dev", "/dev"),
    ] {
        let output = run_with(&idle(process));
        assert_eq!(
            output.status.code(),
            Some(1),
            "{process}: {}",
            stderr(&output)
        );
        assert!(stderr(&output).contains(named), "{}", stderr(&output));
    }
}

/// Runs it under a limit of open files.
fn run_limited(ini: &str, limit: &str) -> Output {
    let folder = TempDir::new("start");
    let file = folder.write("postern.ini", ini);
    let script = format!("ulimit {limit} && exec \"$0\" --config \"$1\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, POSTERN]).arg(file);
    command.output().expect("sh runs")
}

#[test]
fn max_sessions_above_the_limit_of_open_files_is_an_error_that_says_what_to_do() {
    let output = run_limited(&idle(""), "-n 1000");
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    for part in [
        "`max_sessions = 4096` needs 8448 open files",
        "the limit is 1000",
        "LimitNOFILE=8448",
        "set `max_sessions = 372`",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_limit_below_every_max_sessions_does_not_suggest_an_impossible_one() {
    let output = run_limited(&idle(""), "-n 64");
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("the limit is 64"), "{told}");
    assert!(!told.contains("max_sessions = 0`"), "{told}");
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_allowed() {
    let started = Started::by(&format!("ulimit -Sn 64 && ulimit -Hn 9000 && {RUN}"), "");
    let limit = started.limit("Max open files");
    let words: Vec<&str> = limit.split_ascii_whitespace().collect();
    assert_eq!(words[3..5], ["9000", "9000"], "{limit}");
}

#[test]
fn the_largest_max_sessions_of_a_limit_starts() {
    let script = format!("ulimit -n 1000 && {RUN}");
    drop(Started::by(&script, "max_sessions = 372"));
}

#[test]
fn the_pid_file_is_written_and_removed() {
    let mut started = Started::by(RUN, "");
    let content = fs::read_to_string(started.pid_file()).expect("the file is there");
    assert_eq!(content, format!("{}\n", started.process.id()));
    started.process.signal(Signal::SIGTERM);
    let status = started.process.wait(Duration::from_secs(5));
    assert!(status.success(), "{status}");
    assert!(!started.pid_file().exists());
}

/// Insists on user, group and other groups of every thread.
fn expect_rights(started: &Started, uid: u32, gid: u32, groups: &[&str]) {
    for (status, name) in started.tasks() {
        let (uid, gid) = (uid.to_string(), gid.to_string());
        // Real, effective, saved, of files.
        assert_eq!(field(&status, "Uid"), [&uid[..]; 4], "{name}");
        assert_eq!(field(&status, "Gid"), [&gid[..]; 4], "{name}");
        assert_eq!(field(&status, "Groups"), groups, "{name}");
    }
}

#[test]
fn root_becomes_the_user_in_every_thread_and_for_good() {
    assert!(Uid::effective().is_root(), "start the tests as root");
    let nobody = User::from_name("nobody").ok().flatten();
    let nobody = nobody.expect("every system has the user nobody");
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());

    let started = Started::by(RUN, "user = nobody");
    expect_rights(&started, uid, gid, &[&gid.to_string()]);
    for (status, name) in started.tasks() {
        assert_eq!(field(&status, "NoNewPrivs"), ["1"], "{name}");
        assert_eq!(field(&status, "CapEff"), ["0000000000000000"], "{name}");
        assert_eq!(field(&status, "CapPrm"), ["0000000000000000"], "{name}");
    }
    let limit = started.limit("Max core file size");
    let words: Vec<&str> = limit.split_ascii_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limit}");

    // Another group of ours: mail is 8 in Debian.
    let started = Started::by(RUN, "user = nobody\ngroup = mail");
    expect_rights(&started, uid, 8, &["8"]);
}

#[test]
fn who_is_not_root_stays_what_he_is() {
    let script = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" --config \"$1\"";
    let started = Started::by(script, "user = mail");
    expect_rights(&started, 65534, 65534, &[]);
    // Without root's rights there is nothing to keep.
    assert_eq!(children_of(started.process.id()), Vec::<u32>::new());
}

#[test]
fn the_process_ends_within_two_seconds_whatever_a_hundred_sessions_do() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let backend = Peer::start(server_of("imap"));
        let address = backend.address();
        let auth = AuthServer::start(move |request| match request.header("Auth-User") {
            Some("alice") => Answer::ok(address),
            Some("later") => Answer::headers(&["Auth-Status: no", "Auth-Wait: 60"]),
            _ => Answer::Stall,
        });
        let ini = service("imap", &auth, "");
        let ini = format!("[postern]\nmax_prelogin_per_ip = 100\n{ini}");
        let postern = Postern::start(&ini);
        let address = postern.address("imap");
        let relayed: Vec<_> = (0..40).map(|_| LineClient::imap_login(address)).collect();
        let mut others = Vec::new();
        for login in [
            "",
            "a LOGIN stalled secret",
            "a LOGIN later secret",
            "a LOGIN {9",
        ] {
            for _ in 0..15 {
                let (mut client, _) = LineClient::greeted(address);
                client.send_raw(login.as_bytes());
                if !login.is_empty() && !login.ends_with("{9") {
                    client.send("");
                }
                others.push(client);
            }
        }
        auth.wait_for_request(40 + 30);

        let start = Instant::now();
        postern.signal(signal);
        let (status, log) = postern.wait_for_end(Duration::from_secs(5));
        let took = start.elapsed();
        assert!(status.success(), "{signal}: {status}\n{log}");
        assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
        assert!(!log.contains("panicked"), "{log}");
        // Credentials on their way to an auth server that is silent cannot be called back.
        let closed = log.matches("session closed").count();
        assert!((85..=100).contains(&closed), "{signal}\n{log}");
        let left = format!("sessions cut off: {}\n", 100 - closed);
        assert!(format!("{log}\n").contains(&left), "{signal}\n{log}");
        drop((relayed, others));
    }
}

#[test]
fn who_has_to_go_because_the_process_ends_made_room_for_nobody() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let postern = Postern::start(&service("imap", &auth, ""));
    let (_client, _) = LineClient::greeted(postern.address("imap"));
    let log = postern.stop();
    assert!(log.contains("session closed"), "{log}");
    assert!(!log.contains("made room"), "{log}");
}

#[test]
fn quit_lets_sessions_in_the_relay_go_on_and_takes_no_new_ones() {
    let backend = Peer::start(server_of("imap"));
    let (postern, _auth) = proxy_to("imap", backend.address(), "");
    let address = postern.address("imap");
    let mut client = LineClient::imap_login(address);
    postern.signal(Signal::SIGQUIT);
    wait::until_true("the door is closed", PATIENCE, || {
        client.ask("a NOOP", "a OK backend NOOP");
        match std::net::TcpStream::connect(address) {
            Err(_) => true,
            Ok(stream) => !is_greeted(stream),
        }
    });
    thread::sleep(Duration::from_millis(300));
    client.ask("b NOOP", "b OK backend NOOP");
    client.send("c LOGOUT");
    client.lines_until("c OK backend LOGOUT");
    client.expect_close();
    drop(client);
    let (status, log) = postern.wait_for_end(Duration::from_secs(2));
    assert!(status.success(), "{status}\n{log}");
}

fn is_greeted(mut stream: std::net::TcpStream) -> bool {
    let limit = Some(Duration::from_millis(200));
    let set = stream.set_read_timeout(limit);
    set.is_ok() && matches!(std::io::Read::read(&mut stream, &mut [0]), Ok(1))
}

/// Starts a session that leaves lines in the log.
fn greet(address: SocketAddr) {
    let (mut client, _) = LineClient::greeted(address);
    client.send("a LOGOUT");
    client.lines_until("a OK");
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn usr1_opens_log_files_again() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let folder = TempDir::new("logs");
    let (log, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let more = format!("error_log = {} info", log.display());
    let postern = Postern::start(&service("imap", &auth, &more));
    greet(postern.address("imap"));
    wait_for_line(&log, "session closed");

    fs::rename(&log, &old).expect("the folder is ours");
    greet(postern.address("imap"));
    wait::until_true("the renamed file grows", PATIENCE, || {
        let content = fs::read_to_string(&old).unwrap_or_default();
        content.matches("session closed").count() == 2
    });
    assert!(!log.exists());
    let before = lines(&old);
    postern.signal(Signal::SIGUSR1);
    wait::until_true("the file is there again", PATIENCE, || log.exists());
    greet(postern.address("imap"));
    wait_for_line(&log, "session closed");
    assert_eq!(lines(&old), before);
}

#[test]
fn usr1_opens_log_files_again_after_root_was_given_up() {
    let started = Started::by(RUN, "user = nobody\nerror_log = log info");
    let (log, old) = (
        started.folder.path().join("log"),
        started.folder.path().join("log.1"),
    );
    wait_for_line(&log, "ready");
    fs::rename(&log, &old).expect("the folder is ours");
    started.process.signal(Signal::SIGUSR1);
    wait::until_true("the file is there again", PATIENCE, || log.exists());

    // The file that root has made, once more: nothing was renamed.
    fs::rename(&old, &log).expect("the folder is ours");
    started.process.signal(Signal::SIGUSR1);
    thread::sleep(Duration::from_millis(300));
    started.process.signal(Signal::SIGTERM);
    wait_for_line(&log, "stopping");
}

#[test]
fn each_server_has_log_files_of_its_own() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let folder = TempDir::new("logs");
    let file = |name: &str| folder.path().join(name);
    let own = |name: &str| {
        let (all, bad) = (file(name), file(&format!("{name}.error")));
        format!(
            "error_log = {} info\nerror_log = {}",
            all.display(),
            bad.display()
        )
    };
    let imap = service("imap", &auth, &own("imap"));
    let pop3 = service("pop3", &auth, &own("pop3"));
    let smtp = service("smtp", &auth, "");
    let postern = Postern::start(&format!("{imap}{pop3}{smtp}"));
    for name in ["imap", "pop3", "smtp"] {
        drop(LineClient::greeted(postern.address(name)));
    }
    let closed = |protocol: &str| format!("session closed protocol={protocol} ");
    for name in ["imap", "pop3"] {
        let line = wait_for_line(&file(name), "session closed");
        assert!(line.contains(&format!("protocol={name}")), "{line}");
        assert_eq!(postern.lines_with(&closed(name)), Vec::<String>::new());
        // Without a level only errors count.
        assert_eq!(lines(&file(&format!("{name}.error"))), 0);
    }
    let line = postern.wait_for_log("session closed");
    assert!(line.contains("protocol=smtp"), "{line}");
}

/// The password of every login, and the token; its letters are the same in every encoding of headers
/// and URIs.
const PASSWORD: &str = "Tr0ub4dorHorseStaple";
/// What the auth server replaces it with.
const REPLACED: &str = "BackendOnlyKnowsThis";

/// How a password would look in a log: as it is, and in base64 at each of its three alignments.
fn traces(password: &str) -> Vec<String> {
    let mut traces = vec![password.to_owned()];
    for shift in 0..3 {
        let padded = [&vec![0; shift][..], password.as_bytes()].concat();
        let encoded = encode_block(&padded);
        // Characters that only the password's own bits decide.
        let first = (shift * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        traces.push(encoded[first..last].to_owned());
    }
    traces
}

fn expect_no_password(log: &str) {
    for password in [PASSWORD, REPLACED] {
        for trace in traces(password) {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(&trace)).collect();
            assert_eq!(lines, Vec::<&str>::new(), "{trace}");
        }
    }
}

fn plain(login: &str) -> String {
    encode_block(format!("\0{login}\0{PASSWORD}").as_bytes())
}

/// Every way to log in, as lines to send; each has an answer.
fn logins(protocol: &str, login: &str) -> Vec<Vec<String>> {
    let name = encode_block(login.as_bytes());
    let secret = encode_block(PASSWORD.as_bytes());
    let xoauth2 =
        encode_block(format!("user={login}\x01auth=Bearer {PASSWORD}\x01\x01").as_bytes());
    let bearer = encode_block(format!("n,a={login},\x01auth=Bearer {PASSWORD}\x01\x01").as_bytes());
    let auth = match protocol {
        "imap" => "a AUTHENTICATE",
        _ => "AUTH",
    };
    let mut all = vec![
        vec![format!("{auth} PLAIN {}", plain(login))],
        vec![format!("{auth} PLAIN"), plain(login)],
        vec![format!("{auth} LOGIN"), name.clone(), secret.clone()],
        vec![format!("{auth} LOGIN {name}"), secret.clone()],
        vec![format!("{auth} XOAUTH2 {xoauth2}")],
        vec![format!("{auth} XOAUTH2"), xoauth2],
        vec![format!("{auth} OAUTHBEARER {bearer}")],
        // What goes wrong: no base64, no NUL, one line too many.
        vec![format!("{auth} PLAIN {}!", plain(login))],
        vec![format!("{auth} PLAIN {secret}")],
        vec![format!("{auth} NONSENSE {secret}")],
        vec![format!("{auth} CRAM-MD5"), secret.clone()],
    ];
    match protocol {
        "imap" => all.extend([
            vec![format!("a LOGIN {login} {PASSWORD}")],
            vec![format!("a LOGIN {login} \"{PASSWORD}\"")],
            vec![format!("a LOGIN {login} {{20+}}\r\n{PASSWORD}")],
            vec![format!("a LOGIN {login} {PASSWORD} more")],
            vec![format!("a LOGIN \"{login} {PASSWORD}")],
            vec![format!("LOGIN {login} {PASSWORD}")],
        ]),
        "pop3" => all.extend([
            vec![format!("USER {login}"), format!("PASS {PASSWORD}")],
            vec![format!("PASS {PASSWORD}")],
            vec![format!("LOGIN {login} {PASSWORD}")],
        ]),
        _ => all.extend([vec![format!("LOGIN {login} {PASSWORD}")]]),
    }
    all
}

fn try_every_login(protocol: &str, user: &str, address: SocketAddr) {
    for lines in logins(protocol, user) {
        let (mut client, _) = LineClient::greeted(address);
        for line in lines {
            client.send(&line);
            client.line();
        }
    }
}

#[test]
fn no_login_good_or_failed_leaves_a_password_in_the_debug_log() {
    for protocol in ["imap", "pop3", "smtp"] {
        let backend = Peer::start(server_of(protocol));
        let address = backend.address();
        let auth = AuthServer::start(move |request| match request.header("Auth-User") {
            Some("good") => Answer::ok(address),
            Some("replaced") => Answer::ok_with(address, &[&format!("Auth-Pass: {REPLACED}")]),
            Some("refused") => Answer::ok_with(address, &["Auth-Pass: refused"]),
            Some("dead") => Answer::ok(([127, 0, 0, 1], 9).into()),
            Some("stranger") => Answer::refuse("who are you?"),
            Some("garbage") => Answer::RawThenClose(b"no HTTP at all\r\n\r\n".to_vec()),
            _ => Answer::Close,
        });
        let login = if protocol == "pop3" { "apop" } else { "login" };
        let more = format!(
            "{protocol}_auth = plain {login} cram-md5 external xoauth2 oauthbearer\n\
             proxy_smtp_auth = on\nproxy_pass_error_message = on\nerror_log = stderr debug\n\
             max_errors = 3\n{protocol}_client_buffer = 4k"
        );
        let ini = format!(
            "[postern]\nerror_log = stderr debug\n{}",
            service(protocol, &auth, &more)
        );
        let postern = Postern::start(&ini);
        let address = postern.address(protocol);
        let users = [
            "good", "replaced", "refused", "dead", "stranger", "garbage", "closed",
        ];
        let users =
            users.map(|user| thread::spawn(move || try_every_login(protocol, user, address)));
        for user in users {
            user.join().expect("every login gets its answers");
        }
        // A command that does not fit, and a client that hangs up in the middle of one.
        let long = format!("a LOGIN alice {}", PASSWORD.repeat(300));
        let (mut client, _) = LineClient::greeted(address);
        drop(client.stream());
        client.send_raw(long.as_bytes());
        client.line();
        let (mut client, _) = LineClient::greeted(address);
        client.send_raw(format!("PASS {PASSWORD}").as_bytes());
        drop(client);
        let log = postern.stop();
        assert!(log.contains("client logged in"), "{log}");
        expect_no_password(&log);
    }
}

#[test]
fn a_login_where_a_proxy_header_is_due_leaves_no_password_in_the_log() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let ini = service("imap", &auth, "").replace(":0\n", ":0 proxy_protocol\n");
    let postern = Postern::start(&ini);
    let mut client = LineClient::connect(postern.address("imap"));
    client.send(&format!("a LOGIN alice {PASSWORD}"));
    client.expect_close();
    postern.wait_for_log("broken header");
    expect_no_password(&postern.log());
}

#[test]
fn a_login_before_a_delayed_greeting_leaves_no_password_in_the_log() {
    let auth = AuthServer::start(|_| Answer::Stall);
    let postern = Postern::start(&service("smtp", &auth, "smtp_greeting_delay = 5s"));
    let mut client = LineClient::connect(postern.address("smtp"));
    client.send(&format!("AUTH PLAIN {}", plain("alice")));
    client.line();
    postern.wait_for_log("rejected before greeting");
    expect_no_password(&postern.log());
}

#[test]
fn a_limit_that_allows_fewer_threads_than_sessions_may_need_is_told_at_the_start() {
    let script = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \
                  prlimit --nproc=4000 \"$0\" --config \"$1\"";
    let started = Started::by(
        script,
        "max_sessions = 3000\nworkers = 100\nerror_log = log info",
    );
    let log = started.log();
    let line =
        "may need 6164 threads when all sessions are busy, but the limit of processes and threads";
    assert!(log.contains(line) && log.contains("allows 4000"), "{log}");

    let started = Started::by(
        script,
        "max_sessions = 1000\nworkers = 100\nerror_log = log info",
    );
    assert!(!started.log().contains("may need"), "{}", started.log());
}

#[test]
fn a_clock_that_cannot_be_right_is_told_at_the_start() {
    let told = "the system's clock is wrong";
    let started = Started::by(
        "export LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME_DONT_FAKE_MONOTONIC=1; \
         FAKETIME='2001-01-01 00:00:00' exec \"$0\" --config \"$1\"",
        "error_log = log info",
    );
    assert!(started.log().contains(told), "{}", started.log());
    let started = Started::by(RUN, "error_log = log info");
    assert!(!started.log().contains(told), "{}", started.log());
}
