//! The control socket and its commands, by the command line and spoken to directly.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::operate::{code, command, err, json, operate, out, well};
use crate::common::postern::Postern;
use crate::common::process::Process;
use crate::common::temp::TempDir;
use crate::common::wait::{self, PATIENCE, until_true};
use crate::peers::unruly::{echoes_after_login, pours_after_login, stalls_after_greeting};
use crate::peers::{Peer, imap_server};
use crate::servers::dovecot;

const SOON: Duration = Duration::from_secs(5);

/// A proxy with a control socket beside its configuration, and what more stands in `[postern]`.
fn proxy(of_process: &str, servers: &str) -> Postern {
    Postern::start(&ini(of_process, servers))
}

fn ini(of_process: &str, servers: &str) -> String {
    format!("[postern]\ncontrol = control\n{of_process}\n{servers}")
}

fn socket(postern: &Postern) -> PathBuf {
    postern.folder().path().join("control")
}

fn imap(auth: &AuthServer, more: &str) -> String {
    crate::common::service("imap", auth, more)
}

/// The sessions that fit, as JSON has them.
fn sessions(postern: &Postern, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["sessions", "--json"], arguments].concat();
    let listed = json(&well(operate(postern, &arguments)));
    listed.as_array().expect("an array").clone()
}

/// What the socket says to these bytes.
fn said_to(socket: &Path, bytes: &[u8]) -> Vec<Value> {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(bytes).expect("it takes that");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.map(|line| json(&line)).collect()
}

fn nobody() -> User {
    assert!(Uid::effective().is_root(), "start the tests as root");
    let nobody = User::from_name("nobody").ok().flatten();
    nobody.expect("every system has the user nobody")
}

/// The same command by nobody, who can get at the binary and the folder.
fn by_nobody(folder: &TempDir, arguments: &[&str]) -> Output {
    let nobody = nobody();
    // The tree that the binary was built in may be root's alone.
    let binary = folder.path().join("postern");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_postern"), &binary).expect("there is room");
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", nobody.uid));
    command.arg(format!("--regid={}", nobody.gid));
    command.arg("--clear-groups").arg(binary).args(arguments);
    command.output().expect("setpriv can be started")
}

fn open_folder() -> TempDir {
    let folder = TempDir::new("control");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

#[test]
fn a_session_with_a_real_server_is_listed_and_kicked() {
    let dovecot = dovecot::shared();
    let backend = dovecot.imap;
    let auth = AuthServer::start(move |_| Answer::ok(backend));
    let postern = proxy("", &imap(&auth, ""));
    let mut client = LineClient::imap_login(postern.address("imap"));
    let listed = sessions(&postern, &["--address", "127.0.0.0/8"]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let session = &listed[0];
    for (member, value) in [
        ("protocol", "imap"),
        ("server", "imap"),
        ("state", "relaying"),
        ("action", "proxying"),
        ("backend", backend.to_string().as_str()),
        ("client", client.local_address().to_string().as_str()),
    ] {
        assert_eq!(session[member], value, "{member}: {session}");
    }
    assert!(session["bytes_out"].as_u64().is_some(), "{session}");
    let user = session["user"].as_str().expect("it is logged in");
    let table = well(operate(&postern, &["sessions", "--user", user]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID  PROTO  SERVER"), "{table}");
    assert!(lines[1].contains(user) && lines.len() == 2, "{table}");
    assert!(sessions(&postern, &["--user", "somebody-else"]).is_empty());
    assert!(sessions(&postern, &["--backend", "192.0.2.1"]).is_empty());
    assert_eq!(sessions(&postern, &["--backend", "127.0.0.1"]).len(), 1);

    let status = json(&well(operate(&postern, &["status", "--json"])));
    assert_eq!(status["status"]["sessions"]["by_state"]["relaying"], 1);
    assert_eq!(status["status"]["pid"], postern.id());
    let shown = well(operate(&postern, &["status"]));
    assert!(
        shown.contains("1 of at most 4096, 1 imap, 1 relaying"),
        "{shown}"
    );

    let kicked = well(operate(&postern, &["kick", user]));
    assert!(kicked.contains(user), "{kicked}");
    client.expect_close();
    let line = postern.wait_for_log("reason=\"kicked\"");
    assert!(line.contains("session closed"), "{line}");
    let text = format!("uid 0 (root) asks for the end of 1 sessions: user \"{user}\"");
    postern.wait_for_log(&text);
    until_true("it is gone", SOON, || sessions(&postern, &[]).is_empty());
    let again = operate(&postern, &["kick", user]);
    assert_eq!((code(&again), out(&again)), (1, String::new()));
    postern.stop();
}

/// Where a session stands when others are kicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Silent,
    HalfACommand,
    AtAuth,
    AtBackend,
    Relaying,
    Hibernating,
}

const STANDS: [Stand; 6] = [
    Stand::Silent,
    Stand::HalfACommand,
    Stand::AtAuth,
    Stand::AtBackend,
    Stand::Relaying,
    Stand::Hibernating,
];

#[test]
fn kick_ends_exactly_those_who_are_meant_wherever_they_stand() {
    const EACH: usize = 30;
    let (good, stalls) = (
        Peer::start(echoes_after_login),
        Peer::start(stalls_after_greeting("* OK ready")),
    );
    let (good, stalls) = (good.address(), stalls.address());
    let auth = AuthServer::start(move |request| match request.header("Auth-User") {
        Some("auth") => {
            thread::sleep(Duration::from_secs(4));
            Answer::ok(good)
        }
        Some("backend") => Answer::ok(stalls),
        _ => Answer::ok(good),
    });
    let more = "timeout = 20s\nauth_http_timeout = 10s\nhibernate_timeout = 300ms\n";
    let postern = proxy("workers = 1000", &imap(&auth, more));
    let address = postern.address("imap");
    let stand = |stand: Stand, source: u8| {
        let mut client = LineClient::connect_from([127, 0, 0, source], address);
        client.expect("* OK IMAP4 ready");
        match stand {
            Stand::Silent => {}
            Stand::HalfACommand => client.send_raw(b"a LOGIN {3"),
            Stand::AtAuth => client.send("a LOGIN auth pw"),
            Stand::AtBackend => client.send("a LOGIN backend pw"),
            Stand::Relaying | Stand::Hibernating => {
                client.send("a LOGIN bob pw");
                client.lines_until("a OK");
            }
        }
        client
    };
    // Who hibernates has to be there for a while; the others come behind them.
    let mut clients = Vec::new();
    for kind in STANDS.into_iter().rev() {
        for number in 0..EACH {
            let source = if number % 2 == 0 { 2 } else { 3 };
            clients.push((kind, source, stand(kind, source)));
        }
        if kind == Stand::Hibernating {
            until_true("they hibernate", SOON, || {
                let listed = sessions(&postern, &[]);
                listed
                    .iter()
                    .filter(|it| it["state"] == "hibernating")
                    .count()
                    == EACH
            });
        }
    }
    // At this moment they are at any point of what they do.
    let kicked = json(&well(operate(&postern, &["kick", "127.0.0.2", "--json"])));
    let kicked = kicked.as_array().expect("an array");
    assert_eq!(kicked.len(), STANDS.len() * EACH / 2);
    assert!(
        kicked
            .iter()
            .all(|it| it["client"].to_string().starts_with("\"127.0.0.2:"))
    );
    let (gone, kept): (Vec<_>, Vec<_>) =
        clients.into_iter().partition(|(_, source, _)| *source == 2);
    for (stand, _, mut client) in gone {
        // The auth server answers after four seconds; the backend never does.
        if stand != Stand::AtBackend {
            client.rest();
        }
    }
    for (kind, _, mut client) in kept {
        match kind {
            Stand::Silent => client.ask("b NOOP", "b OK completed"),
            Stand::HalfACommand => client.send_raw(b"}\r\n"),
            Stand::Relaying | Stand::Hibernating => {
                client.send("hello");
                assert!(client.line().contains("hello"));
            }
            Stand::AtAuth => {
                client.lines_until("a OK");
            }
            Stand::AtBackend => client.expect_silence(Duration::from_millis(1)),
        }
    }
    postern.stop();
}

#[test]
fn kicks_at_any_moment_leave_others_alone_and_nothing_behind() {
    let backend = Peer::start(echoes_after_login);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = proxy("", &imap(&auth, "hibernate_timeout = 10ms\n"));
    let target = postern.address("imap");
    let over = Arc::new(AtomicBool::new(false));
    let crowd = |source: u8, others_mind: bool| {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let mut whole = 0;
            while !over.load(Ordering::SeqCst) {
                match whole_session(source, target) {
                    Ok(()) => whole += 1,
                    Err(error) => assert!(!others_mind, "127.0.0.{source}: {error}"),
                }
            }
            whole
        })
    };
    let meant: Vec<_> = (0..12).map(|_| crowd(2, false)).collect();
    let others: Vec<_> = (0..12).map(|_| crowd(3, true)).collect();
    let began = Instant::now();
    let kick = b"{\"postern\":1,\"do\":\"kick\",\"address\":\"127.0.0.2\"}\n";
    let mut kicked = 0;
    while kicked < 300 && began.elapsed() < PATIENCE {
        let said = said_to(&socket(&postern), kick);
        let (last, sessions) = said.split_last().expect("there is an answer");
        assert_eq!(last["sessions"], sessions.len());
        kicked += sessions.len();
    }
    over.store(true, Ordering::SeqCst);
    for one in meant {
        one.join().expect("they do not mind");
    }
    for other in others {
        assert!(other.join().expect("nobody of them was kicked") > 0);
    }
    assert!(kicked >= 300, "{kicked}");
    until_true("all are gone", SOON, || sessions(&postern, &[]).is_empty());
    assert_eq!(postern.count("fault in the program"), 0);
    postern.stop();
}

/// From the connection to the end, with a sleep in the relay.
fn whole_session(source: u8, target: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, source], 0)).into())?;
    socket.connect(&target.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let stream = std::net::TcpStream::from(socket);
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut next = |wanted: &str| loop {
        let line = lines
            .next()
            .unwrap_or(Err(ErrorKind::UnexpectedEof.into()))?;
        if line.contains(wanted) {
            return Ok::<(), std::io::Error>(());
        }
        if line.starts_with("* BYE") {
            return Err(ErrorKind::ConnectionAborted.into());
        }
    };
    next("* OK")?;
    (&stream).write_all(b"a LOGIN bob pw\r\n")?;
    next("a OK")?;
    for text in ["one", "two"] {
        (&stream).write_all(format!("{text}\r\n").as_bytes())?;
        next(text)?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_reload_says_what_is_wrong_and_what_was_refused() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let servers = imap(&auth, "");
    let postern = proxy("", &servers);
    let before = well(operate(&postern, &["status"]));
    assert!(!before.contains("the last reload"), "{before}");

    postern
        .folder()
        .write("postern.ini", ini("", &format!("{servers}timeuot = 5s\n")));
    let reload = operate(&postern, &["reload"]);
    assert_eq!(code(&reload), 1);
    let told = err(&reload);
    let place = format!("postern.ini:{}: ", ini("", &servers).lines().count() + 1);
    assert!(
        told.contains(&place) && told.contains("did you mean `timeout`"),
        "{told}"
    );
    let status = operate(&postern, &["status"]);
    assert_eq!(code(&status), 1);
    let status = out(&status);
    assert!(status.contains("the last reload was refused"), "{status}");
    assert!(status.contains("timeuot"), "{status}");
    postern.wait_for_log("uid 0 (root) asks for a reload");

    let warned = ini("accept_queue = 5", &servers);
    postern.folder().write("postern.ini", warned);
    let reload = operate(&postern, &["reload"]);
    assert!(err(&reload).contains("warning: ") && err(&reload).contains("accept_queue"));
    assert_eq!(well(reload), "the configuration was read anew\n");
    assert!(well(operate(&postern, &["status"])).contains("the last reload came about"));
    postern.stop();
}

#[test]
fn the_socket_follows_a_reload() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let servers = imap(&auth, "");
    let postern = proxy("", &servers);
    let (old, new) = (socket(&postern), postern.folder().path().join("new"));
    let moved = ini("", &servers).replace("control = control", "control = new");
    postern.folder().write("postern.ini", &moved);
    let by_old = ["reload", "--control", old.to_str().expect("a name")];
    let reload = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(by_old)
        .output();
    well(reload.expect("it can be started"));
    until_true("the old one is gone", SOON, || !old.exists());
    assert!(new.exists());

    // One that cannot be made refuses the reload, and changes nothing.
    let nowhere = moved.replace("control = new", "control = no/such/folder");
    postern.folder().write("postern.ini", nowhere);
    let by_new = ["status", "--control", new.to_str().expect("a name")];
    let ask = |arguments: &[&str]| {
        let asked = Command::new(env!("CARGO_BIN_EXE_postern"))
            .args(arguments)
            .output();
        asked.expect("it can be started")
    };
    let refused = ask(&["reload", by_new[1], by_new[2]]);
    assert_eq!(code(&refused), 1);
    assert!(
        err(&refused).contains("cannot make the control socket"),
        "{}",
        err(&refused)
    );
    assert_eq!(code(&ask(&by_new)), 1);

    postern.folder().write(
        "postern.ini",
        moved.replace("control = new", "control = off"),
    );
    well(ask(&["reload", by_new[1], by_new[2]]));
    until_true("the socket is gone", SOON, || !new.exists());
    let off = operate(&postern, &["status"]);
    assert_eq!(code(&off), 3);
    assert!(err(&off).contains("`control = off`"), "{}", err(&off));
    postern.stop();
}

#[test]
fn whose_socket_it_is_decides_who_may_use_it() {
    let nobody = nobody();
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let folder = open_folder();
    let path = folder.path().join("control");
    let path = path.to_str().expect("a name").to_owned();
    let servers = imap(&auth, "");
    let postern = Postern::start_in(folder, &ini("control_group = nogroup", &servers));
    let seen = fs::symlink_metadata(&path).expect("it is there");
    assert!(seen.file_type().is_socket());
    let of_nobody = (nobody.gid.as_raw(), 0o660);
    assert_eq!((seen.gid(), seen.mode() & 0o7777), of_nobody);
    let status = ["status", "--control", &path];
    let expect_denied = |group: &str| {
        let denied = by_nobody(postern.folder(), &status);
        assert_eq!(code(&denied), 3);
        assert!(err(&denied).contains(group), "{}", err(&denied));
    };
    well(by_nobody(postern.folder(), &status));

    // A reload opens it to a group, to another one, and to none.
    let reload = |line: &str| {
        let ini = ini(line, &servers);
        postern.folder().write("postern.ini", ini);
        well(operate(&postern, &["reload"]));
        let seen = fs::symlink_metadata(&path).expect("it is there");
        (seen.gid(), seen.mode() & 0o7777)
    };
    assert_eq!(reload("control_group = root"), (0, 0o660));
    expect_denied("be root or a member of the group root\n");
    assert_eq!(reload("").1, 0o600);
    expect_denied("be root\n");
    assert_eq!(reload("control_group = nogroup"), of_nobody);
    well(by_nobody(
        postern.folder(),
        &["log-level", "debug", "--control", &path],
    ));
    let who = format!("uid {} (nobody) asks for the log level debug", nobody.uid);
    postern.wait_for_log(&who);
    postern.stop();
}

#[test]
fn a_process_that_has_become_nobody_keeps_its_socket() {
    let nobody = nobody();
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let folder = open_folder();
    let path = folder.path().join("control");
    let servers = imap(&auth, "");
    let postern = Postern::start_in(folder, &ini("user = nobody", &servers));
    let seen = fs::symlink_metadata(&path).expect("it is there");
    // Others than nobody are in his group.
    let owner = (seen.uid(), seen.mode() & 0o7777);
    assert_eq!(owner, (nobody.uid.as_raw(), 0o600));
    well(operate(&postern, &["status"]));
    well(operate(&postern, &["reload"]));
    well(operate(&postern, &["status"]));
    postern.stop();
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let servers = imap(&auth, "");
    let folder = TempDir::new("control");
    // Left behind by somebody who is gone.
    drop(UnixListener::bind(folder.path().join("control")).expect("the folder is ours"));
    let postern = Postern::start_in(folder, &ini("", &servers));
    well(operate(&postern, &["status"]));

    // Another process does not take it away.
    let path = socket(&postern);
    let refused = |control: &Path| {
        let folder = TempDir::new("other");
        let text = format!("[postern]\ncontrol = {}\n{servers}", control.display());
        let file = folder.write("postern.ini", text);
        let arguments = ["--config", file.to_str().expect("a name")];
        let started = Command::new(env!("CARGO_BIN_EXE_postern"))
            .args(arguments)
            .output();
        let started = started.expect("it can be started");
        assert_eq!(code(&started), 1, "{}", err(&started));
        err(&started)
    };
    let told = refused(&path);
    assert!(told.contains("cannot make the control socket"), "{told}");
    well(operate(&postern, &["status"]));
    let file = postern.folder().write("precious", "text");
    assert!(refused(&file).contains("is no socket"));
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "text");

    postern.stop();

    // At the end it removes its own, and not what stands in its place.
    let elsewhere = TempDir::new("elsewhere");
    let path = elsewhere.path().join("control");
    let text = ini("", &servers).replace("= control", &format!("= {}", path.display()));
    let postern = Postern::start(&text);
    assert!(path.exists());
    postern.stop();
    assert!(!path.exists());
    let postern = Postern::start(&text);
    fs::remove_file(&path).expect("the folder is ours");
    let _other = UnixListener::bind(&path).expect("the folder is ours");
    postern.stop();
    assert!(path.exists());
}

#[test]
fn the_level_of_all_logs_holds_until_a_reload() {
    let backend = Peer::start(imap_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = proxy("error_log = stderr notice", &imap(&auth, ""));
    let say_something = || {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send("a LOGOUT");
        client.rest();
    };
    say_something();
    well(operate(&postern, &["log-level", "debug"]));
    say_something();
    postern.wait_for_log("session closed");
    assert_eq!(postern.count("session closed"), 1);
    assert!(well(operate(&postern, &["status"])).contains("log level: debug"));
    well(operate(&postern, &["reload"]));
    assert!(well(operate(&postern, &["status"])).contains("log level: configured"));
    say_something();
    well(operate(&postern, &["log-level", "info"]));
    say_something();
    until_true("a second one is told of", SOON, || {
        postern.count("session closed") == 2
    });
    let wrong = operate(&postern, &["log-level", "loud"]);
    assert_eq!(code(&wrong), 1);
    assert!(
        err(&wrong).contains("debug, info, notice"),
        "{}",
        err(&wrong)
    );
    well(operate(&postern, &["log-level", "configured"]));
    postern.stop();
}

#[test]
fn stop_and_drain_return_when_the_process_is_gone() {
    let backend = Peer::start(echoes_after_login);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let servers = imap(&auth, "");
    // The answer is not lost, however fast the end is.
    for _ in 0..10 {
        let postern = proxy("", &servers);
        well(operate(&postern, &["stop"]));
    }
    let postern = proxy("", &servers);
    let path = socket(&postern);
    let told = well(operate(&postern, &["stop"]));
    assert!(
        told.contains(&format!("process {} ends", postern.id())),
        "{told}"
    );
    assert!(told.ends_with("it has ended\n") && !path.exists());
    let again = operate(&postern, &["status"]);
    assert_eq!(code(&again), 3);
    let (status, _) = postern.wait_for_end(Duration::from_secs(1));
    assert!(status.success());

    let postern = proxy("shutdown_timeout = 1m", &servers);
    let mut client = LineClient::imap_login(postern.address("imap"));
    let file = postern.folder().path().join("postern.ini");
    let drain = thread::spawn(move || command(&file, &["drain"]).output().expect("it starts"));
    postern.wait_for_log("sessions may end by themselves");
    // Until then it can be asked, and the session goes on.
    let status = well(operate(&postern, &["status"]));
    assert!(status.contains("about to end"), "{status}");
    assert_eq!(sessions(&postern, &[]).len(), 1);
    let reload = operate(&postern, &["reload"]);
    assert_eq!(code(&reload), 1);
    client.send("hello");
    assert!(client.line().contains("hello"));
    assert!(!drain.is_finished());
    drop(client);
    let drained = drain.join().expect("it does not panic");
    assert!(well(drained).ends_with("it has ended\n"));
    assert!(postern.wait_for_end(Duration::from_secs(1)).0.success());
}

#[test]
fn a_table_is_no_wider_than_the_terminal() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let postern = proxy("", &imap(&auth, ""));
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    let long = "a-name-that-is-longer-than-any-terminal-is-wide".repeat(4);
    client.send(&format!("a LOGIN {long} pw"));
    client.lines_until("a NO");
    let file = postern.folder().path().join("postern.ini");
    for width in [20, 80, 130] {
        let mut command = command(&file, &["sessions"]);
        let table = command.env("COLUMNS", width.to_string()).output();
        let table = well(table.expect("it can be started"));
        assert_eq!(table.lines().count(), 2);
        for line in table.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
    assert!(well(operate(&postern, &["sessions"])).contains(&long));
    postern.stop();
}

#[test]
fn what_is_no_request_is_refused_with_what_is_known() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let postern = proxy("", &imap(&auth, ""));
    let path = socket(&postern);
    let long = [b"x".repeat(1 << 20), b"\n".to_vec()].concat();
    for (bytes, told) in [
        (&b"{\"postern\":7,\"do\":\"status\"}\n"[..], "version 7"),
        (b"{\"postern\":1,\"do\":\"dance\"}\n", "dance"),
        (b"GET / HTTP/1.1\r\n", "no line of JSON"),
        (b"\xff\xfe\n", "no line of JSON"),
        (b"{\"postern\":1,\"do\":\"kick\",\"usr\":\"bob\"}\n", "whom"),
    ] {
        let said = said_to(&path, bytes);
        let error = said[0]["error"].as_str().expect("an error");
        assert!(error.contains(told), "{error}");
        assert_eq!(said[0]["versions"][0], 1);
        let commands = said[0]["commands"].as_array().expect("a list");
        assert!(commands.contains(&"sessions".into()));
    }
    // More than a line may have: nobody reads the rest.
    let mut stream = UnixStream::connect(&path).expect("it listens");
    let _ = stream.write_all(&long);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    let said = said_to(
        &path,
        b"{\"postern\":1,\"do\":\"status\"}\n{\"postern\":1,\"do\":\"stop\"}\n",
    );
    // A connection is one request.
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["ok"], true);
    well(operate(&postern, &["status"]));
    postern.stop();
}

/// Connects again and again, and holds on to the last thousand: some say nothing, some half a line, some ask for
/// everything and never read.
const CROWD: &str = r#"
import collections, os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[2]))
held = collections.deque(maxlen=1000)
n = 0
while True:
    n += 1
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(sys.argv[1])
        s.send([b'', b'{"postern":1', b'{"postern":1,"do":"sessions"}\n'][n % 3])
    except OSError:
        pass
    held.append(s)
"#;

#[test]
fn a_crowd_of_the_group_does_not_keep_root_out() {
    let nobody = nobody();
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let folder = open_folder();
    let text = ini("control_group = nogroup", &imap(&auth, ""));
    let postern = Postern::start_in(folder, &text);
    let path = socket(&postern);
    let control = path.to_str().expect("a name");
    well(by_nobody(
        postern.folder(),
        &["status", "--control", control],
    ));
    let before = (postern.threads(), postern.descriptors());
    let (user, group) = (nobody.uid.to_string(), nobody.gid.to_string());
    let crowd = Process::start("python3", ["-c", CROWD, control, &user, &group]);
    // As many as one user may have are there.
    until_true("it is crowded", PATIENCE, || {
        let busy = by_nobody(postern.folder(), &["status", "--control", control]);
        code(&busy) == 1 && err(&busy).contains("too many connections")
    });
    let began = Instant::now();
    well(operate(&postern, &["status"]));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(postern.threads() <= before.0 + 10);
    drop(crowd);
    let what = "threads and descriptors are given back";
    until_true(what, PATIENCE, || {
        (postern.threads(), postern.descriptors()) <= before
    });
    well(by_nobody(
        postern.folder(),
        &["status", "--control", control],
    ));
    postern.stop();
}

#[test]
fn who_never_reads_is_given_up() {
    let auth = AuthServer::start(|_| Answer::refuse("no"));
    let postern = proxy("max_prelogin_per_ip = off", &imap(&auth, ""));
    let address = postern.address("imap");
    let clients: Vec<_> = (0..2000).map(|_| LineClient::connect(address)).collect();
    until_true("they are there", PATIENCE, || {
        sessions(&postern, &[]).len() == clients.len()
    });
    let before = postern.descriptors();
    let mut stream = UnixStream::connect(socket(&postern)).expect("it listens");
    stream
        .write_all(b"{\"postern\":1,\"do\":\"sessions\"}\n")
        .expect("it takes that");
    until_true("it is served", SOON, || postern.descriptors() > before);
    // What the kernel takes in our stead is less than the answer.
    wait::until_true("it is given up", PATIENCE, || {
        postern.descriptors() == before
    });
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("what was under way");
    assert!(
        !heard.ends_with(b"\"sessions\":2000}\n"),
        "it was small enough"
    );
    postern.stop();
}

#[test]
fn where_nobody_listens_the_command_line_says_so() {
    let folder = TempDir::new("control");
    let file = folder.write(
        "postern.ini",
        "[postern]\ncontrol = control\nthis is no line\n",
    );
    let ask = |arguments: &[&str]| command(&file, arguments).output().expect("it starts");
    let nothing = ask(&["status"]);
    assert_eq!(code(&nothing), 3);
    assert!(
        err(&nothing).contains("there is no control socket"),
        "{}",
        err(&nothing)
    );
    drop(UnixListener::bind(folder.path().join("control")).expect("the folder is ours"));
    let stale = ask(&["status"]);
    assert_eq!(code(&stale), 3);
    assert!(err(&stale).contains("nobody listens"), "{}", err(&stale));
    let stale = ask(&["sessions", "--json"]);
    assert_eq!(code(&stale), 3);
    assert!(json(&out(&stale))["error"].is_string());
    assert_eq!(code(&ask(&["kick"])), 2);
    let missing = folder.path().join("missing.ini");
    let missing = command(&missing, &["status"]).output().expect("it starts");
    assert_eq!(code(&missing), 3);
    assert!(
        err(&missing).contains("missing.ini cannot be read"),
        "{}",
        err(&missing)
    );
}

/// A session that is told the message, and says the password.
fn read_mail(address: SocketAddr, user: &str) -> LineClient {
    let (mut client, _) = LineClient::greeted(address);
    client.send(&format!("a LOGIN {user} {PASSWORD}"));
    let answer = client.lines_until("a ").pop().expect("an answer");
    assert!(answer.starts_with("a OK"), "{answer}");
    client.send("b SELECT INBOX");
    client.lines_until("b OK");
    client.send("c FETCH 1 BODY[]");
    let told = client.lines_until("c OK").join("\n");
    assert!(told.contains("the secret text"), "{told}");
    client
}

const PASSWORD: &str = "hunter2-of-the-test";

fn mail_server(talk: &mut crate::peers::Talk) -> std::io::Result<()> {
    talk.say("* OK [CAPABILITY IMAP4rev1] ready")?;
    loop {
        let line = talk.line()?;
        let tag = line.split(' ').next().unwrap_or_default().to_owned();
        if line.ends_with("{3}") || line.ends_with('}') {
            let length = line.rsplit('{').next().unwrap_or_default();
            let length = length.trim_end_matches(['}', '+']).parse().unwrap_or(0);
            talk.say("+ go on")?;
            talk.bytes(length)?;
            continue_literals(talk)?;
        }
        if line.contains("FETCH") {
            talk.say("* 1 FETCH (BODY[] {45}")?;
            talk.send(b"Subject: x\r\n\r\nthe secret text 250 OK\r\na5 FETCH\r\n")?;
            talk.say(")")?;
        }
        talk.say(&format!("{tag} OK done"))?;
    }
}

/// The rest of a command whose first literal has been read.
fn continue_literals(talk: &mut crate::peers::Talk) -> std::io::Result<()> {
    loop {
        let line = talk.line()?;
        let Some((_, length)) = line.trim_end_matches(['}', '+']).rsplit_once('{') else {
            return Ok(());
        };
        talk.say("+ go on")?;
        talk.bytes(length.parse().unwrap_or(0))?;
    }
}

#[test]
fn a_rawlog_shows_what_chosen_sessions_say_and_no_secret() {
    let backend = Peer::start(mail_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = proxy("", &imap(&auth, "hibernate_timeout = 300ms\n"));
    let file = |name: &str| postern.folder().path().join(name);
    let on = |name: &str, more: &[&str]| {
        let to = file(name);
        let to = to.to_str().expect("a name");
        operate(&postern, &[&["rawlog", "on", "--to", to], more].concat())
    };
    let read = |name: &str| fs::read_to_string(file(name)).expect("it is there");
    // One that is relayed already is read from now on.
    let mut before = read_mail(postern.address("imap"), "bob");
    well(on("bob", &["--user", "bob"]));
    well(on("all", &["--address", "127.0.0.0/8", "--with-content"]));
    postern.wait_for_log("uid 0 (root) asks for a rawlog without content: user \"bob\"");
    let mode = fs::metadata(file("bob")).expect("it is there").mode();
    assert_eq!(mode & 0o7777, 0o600);
    before.send("d NOOP");
    before.lines_until("d OK");
    drop(read_mail(postern.address("imap"), "bob"));
    drop(read_mail(postern.address("imap"), "alice"));
    until_true("it is written", SOON, || {
        read("bob").matches("FETCH").count() >= 2 && read("all").contains("alice")
    });
    let ended = well(operate(&postern, &["rawlog", "off"]));
    assert_eq!(ended, "2 rawlogs ended\n");
    postern.wait_for_log("the rawlog of user \"bob\" has ended: it was told to");
    let (bob, all) = (read("bob"), read("all"));
    for text in [
        "sent to upstream: ",
        "*** NOOP *** (8 bytes)",
        "client: *** FETCH *** (18 bytes)",
        "backend: * *** FETCH *** (24 bytes)",
    ] {
        assert!(bob.contains(text), "{text}:\n{bob}");
    }
    assert!(!bob.contains("alice") && !bob.contains("secret"), "{bob}");
    for text in [
        "received from client: \"a LOGIN ***\"",
        "sent to client: \"* OK IMAP4 ready\"",
        r#"client: "c FETCH 1 BODY[]\r\n""#,
        "the secret text 250 OK",
        "d NOOP",
    ] {
        assert!(all.contains(text), "{text}:\n{all}");
    }
    assert!(!bob.contains(PASSWORD) && !all.contains(PASSWORD), "{all}");
    // Afterwards nothing more is written.
    drop(read_mail(postern.address("imap"), "bob"));
    assert_eq!(read("bob"), bob);
    postern.stop();
}

#[test]
fn nothing_is_spliced_while_a_rawlog_reads_along() {
    const SIZE: usize = 32 << 20;
    for reads_along in [false, true] {
        let backend = Peer::start(pours_after_login(SIZE));
        let address = backend.address();
        let auth = AuthServer::start(move |_| Answer::ok(address));
        let postern = proxy("error_log = stderr debug", &imap(&auth, ""));
        if reads_along {
            let file = postern.folder().path().join("raw");
            let to = file.to_str().expect("a name");
            let on = ["rawlog", "on", "--to", to, "--user", "alice"];
            well(operate(&postern, &on));
        }
        let mut client = LineClient::imap_login(postern.address("imap"));
        // What is between them is full when the first byte is read.
        thread::sleep(Duration::from_millis(500));
        assert_eq!(client.bytes(SIZE).len(), SIZE);
        assert_eq!(postern.count("relay splices") > 0, !reads_along);
        postern.stop();
    }
}

#[test]
fn a_rawlog_is_bounded_and_is_given_a_new_file() {
    let backend = Peer::start(mail_server);
    let address = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(address));
    let postern = proxy("", &imap(&auth, ""));
    let on = |name: &str, more: &[&str]| {
        let to = postern.folder().path().join(name);
        let to = to.to_str().expect("a name");
        let said = ["rawlog", "on", "--to", to, "--user", "bob"];
        operate(&postern, &[&said, more].concat())
    };
    well(on("small", &["--size", "2000"]));
    well(on("short", &["--time", "1"]));
    for _ in 0..20 {
        drop(read_mail(postern.address("imap"), "bob"));
    }
    postern.wait_for_log("has ended: it has 2000 bytes");
    postern.wait_for_log("has ended: its time is over");
    let small = fs::metadata(postern.folder().path().join("small")).expect("it is there");
    assert!((1000..=2000).contains(&small.len()), "{}", small.len());

    // A file that is there, a link: neither is written to.
    let again = on("small", &[]);
    assert_eq!(code(&again), 1);
    assert!(err(&again).contains("cannot be made"), "{}", err(&again));
    let link = postern.folder().path().join("link");
    std::os::unix::fs::symlink("/nowhere/at/all", &link).expect("the folder is ours");
    assert_eq!(code(&on("link", &[])), 1);
    let nobody_is_meant = operate(&postern, &["rawlog", "on", "--to", "/tmp/x"]);
    assert_eq!(code(&nobody_is_meant), 2);
    for number in 0..4 {
        well(on(&format!("r{number}"), &[]));
    }
    let refused = on("r4", &[]);
    assert_eq!(code(&refused), 1);
    assert!(
        err(&refused).contains("there are 4 rawlogs already"),
        "{}",
        err(&refused)
    );
    assert!(!postern.folder().path().join("r4").exists());
    let said = said_to(
        &socket(&postern),
        b"{\"postern\":1,\"do\":\"rawlog\",\"user\":\"bob\"}\n",
    );
    assert!(
        said[0]["error"]
            .to_string()
            .contains("a file must come along")
    );
    postern.stop();
}
