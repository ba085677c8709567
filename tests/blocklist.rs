//! Who is not let in at all: `deny`, and bans by an operator.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::operate::{code, err, json, operate, well};
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tools::run;
use crate::common::wait::{PATIENCE, until_true};
use crate::peers::Peer;
use crate::peers::imap_server;
use crate::servers::haproxy::Haproxy;

struct Door {
    postern: Postern,
    auth: AuthServer,
    _backend: Peer,
}

/// A proxy with these lines in `[postern]` and in its server.
fn door(of_process: &str, of_server: &str) -> Door {
    door_in(TempDir::new("deny"), of_process, of_server)
}

fn door_in(folder: TempDir, of_process: &str, of_server: &str) -> Door {
    let backend = Peer::start(imap_server);
    let target = backend.address();
    let auth = AuthServer::start(move |_| Answer::ok(target));
    let server = crate::common::service("imap", &auth, of_server);
    let ini = format!("[postern]\ncontrol = control\n{of_process}\n{server}");
    Door {
        postern: Postern::start_in(folder, &ini),
        auth,
        _backend: backend,
    }
}

impl Door {
    fn address(&self) -> SocketAddr {
        self.postern.address("imap")
    }

    fn connect(&self, last: u8) -> LineClient {
        LineClient::connect_from([127, 0, 0, last], self.address())
    }

    /// Whether a client from 127.0.0.N is greeted, and not closed without a word.
    fn lets_in(&self, last: u8) -> bool {
        let mut client = self.connect(last);
        // A client that is let in says goodbye, and both hear something.
        let _ = client.stream().write_all(b"a LOGOUT\r\n");
        !client.rest().is_empty()
    }

    fn log_in(&self, last: u8) -> LineClient {
        let mut client = self.connect(last);
        client.expect("* OK IMAP4 ready");
        client.send("a LOGIN alice secret");
        client.lines_until("a OK");
        client
    }

    fn reload(&self) {
        let before = self.postern.count("the configuration was read anew");
        self.postern.signal(Signal::SIGHUP);
        until_true("it is read anew", PATIENCE, || {
            self.postern.count("the configuration was read anew") > before
        });
    }
}

#[test]
fn whom_deny_names_is_closed_without_a_word() {
    let folder = TempDir::new("deny");
    folder.write(
        "deny.list",
        "# of others\n127.0.0.9\n127.0.0.16/30 ; a range\n",
    );
    let door = door_in(
        folder,
        "deny = 127.0.0.7, deny.list\ndeny = 192.0.2.0/24",
        "",
    );
    for last in [7, 9, 16, 19] {
        assert!(!door.lets_in(last), "{last}");
    }
    for last in [1, 8, 15, 20] {
        assert!(door.lets_in(last), "{last}");
    }
    let line = door.postern.wait_for_log("connection of 127.0.0.7:");
    assert!(
        line.contains("to server \"imap\" closed: denied") && line.contains("[info]"),
        "{line}"
    );
    // It was no session.
    assert_eq!(door.postern.lines_with("client: \"127.0.0.7").len(), 0);
    door.postern.stop();
}

#[test]
fn a_crowd_that_is_denied_does_not_fill_the_log() {
    let door = door("deny = 127.0.0.7", "");
    for _ in 0..200 {
        door.connect(7).expect_close();
    }
    let lines = door.postern.count("closed: denied");
    assert!((1..=100).contains(&lines), "{lines}");
    door.postern
        .wait_for_log("more lines \"denied\" of 127.0.0.7");
    door.postern.stop();
}

#[test]
fn a_file_of_deny_is_read_again_and_a_broken_one_changes_nothing() {
    let folder = TempDir::new("deny");
    let file = folder.write("deny.list", "127.0.0.7\n");
    let door = door_in(folder, "deny = deny.list", "");
    assert!(!door.lets_in(7) && door.lets_in(8));
    let mut many: String = (0..100_000_u32)
        .map(|n| format!("{}\n", std::net::Ipv4Addr::from(0x0a00_0000 + 2 * n)))
        .collect();
    many.push_str("127.0.0.8\n");
    fs::write(&file, many).expect("it is ours");
    door.postern
        .wait_for_log("deny.list was read again, 100001 entries");
    assert!(door.lets_in(7) && !door.lets_in(8));
    let began = Instant::now();
    for _ in 0..50 {
        assert!(door.lets_in(7));
    }
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );

    fs::write(&file, "127.0.0.7\nnobody\n127.0.0.300\n").expect("it is ours");
    let line = door
        .postern
        .wait_for_log("what it held before stays in use");
    assert!(
        line.contains("deny.list:2:") && line.contains("deny.list:3:"),
        "{line}"
    );
    assert!(door.lets_in(7) && !door.lets_in(8));
    // Told once.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(door.postern.count("what it held before stays in use"), 1);
    fs::write(&file, "127.0.0.7\n").expect("it is ours");
    door.postern
        .wait_for_log("deny.list was read again, 1 entries");
    assert!(!door.lets_in(7) && door.lets_in(8));
    door.postern.stop();
}

#[test]
fn a_reload_takes_another_deny_and_refuses_a_broken_one() {
    let door = door("deny = 127.0.0.7", "");
    assert!(!door.lets_in(7));
    let file = door.postern.folder().path().join("postern.ini");
    let ini = fs::read_to_string(&file).expect("it is there");
    let with = |deny: &str| {
        fs::write(&file, ini.replace("deny = 127.0.0.7", deny)).expect("it is ours");
    };
    with("deny = 127.0.0.8");
    door.reload();
    assert!(door.lets_in(7) && !door.lets_in(8));
    with("deny = 127.0.0.7 missing.list");
    let refused = operate(&door.postern, &["reload"]);
    assert_eq!(code(&refused), 1);
    assert!(err(&refused).contains("missing.list"), "{}", err(&refused));
    assert!(door.lets_in(7) && !door.lets_in(8));
    with("");
    door.reload();
    assert!(door.lets_in(8));
    door.postern.stop();
}

#[test]
fn a_ban_keeps_out_and_ends_the_sessions_of_the_address_alone() {
    let door = door("", "");
    let (mut banned, mut waiting, mut other) = (door.log_in(7), door.connect(7), door.log_in(8));
    waiting.expect("* OK IMAP4 ready");
    let said = well(operate(&door.postern, &["ban", "127.0.0.7"]));
    assert_eq!(
        said,
        "127.0.0.7 is banned until it is unbanned; 2 sessions were ended\n"
    );
    banned.expect_close();
    // Nothing is said to it, not even goodbye.
    waiting.expect_close();
    other.ask("n NOOP", "n OK backend NOOP");
    assert!(!door.lets_in(7) && door.lets_in(8));
    door.postern.wait_for_log("session closed");
    assert_eq!(
        door.postern.count("reason=\"banned\""),
        2,
        "{}",
        door.postern.log()
    );
    door.postern.wait_for_log("asks for a ban of 127.0.0.7");

    let said = well(operate(
        &door.postern,
        &["ban", "127.0.0.128/25", "1h30m", "--json"],
    ));
    let said = json(&said);
    assert_eq!(said["address"], "127.0.0.128/25");
    assert_eq!(
        (&said["time"], &said["sessions"]),
        (&5400.into(), &0.into())
    );
    assert!(!door.lets_in(200));
    let listed = json(&well(operate(&door.postern, &["bans", "--json"])));
    let listed = listed.as_array().expect("an array");
    assert_eq!(
        listed[0],
        serde_json::json!({ "address": "127.0.0.7", "left": Value::Null })
    );
    let left = listed[1]["left"].as_u64().expect("a number");
    assert!(
        (5000..=5400).contains(&left) && listed.len() == 2,
        "{listed:?}"
    );
    let table = well(operate(&door.postern, &["bans"]));
    assert!(
        table.starts_with("ADDRESS") && table.contains("127.0.0.128/25"),
        "{table}"
    );

    // A part of a range cannot be let in alone.
    let refused = operate(&door.postern, &["unban", "127.0.0.200"]);
    assert_eq!(code(&refused), 1);
    let text = "127.0.0.200 is not banned by itself, but with 127.0.0.128/25";
    assert!(err(&refused).contains(text), "{}", err(&refused));
    well(operate(&door.postern, &["unban", "127.0.0.128/25"]));
    well(operate(&door.postern, &["unban", "127.0.0.7"]));
    assert_eq!(code(&operate(&door.postern, &["unban", "127.0.0.7"])), 1);
    assert!(door.lets_in(7) && door.lets_in(200));
    assert_eq!(well(operate(&door.postern, &["bans", "--json"])), "[]\n");
    for wrong in [&["ban", "nobody"][..], &["ban", "127.0.0.1/99"]] {
        assert_eq!(code(&operate(&door.postern, wrong)), 1, "{wrong:?}");
    }
    assert_eq!(
        code(&operate(&door.postern, &["ban", "127.0.0.1", "soon"])),
        2
    );
    door.postern.stop();
}

#[test]
fn a_ban_has_an_end_and_outlives_a_reload() {
    let door = door("", "");
    well(operate(&door.postern, &["ban", "127.0.0.7", "1s"]));
    well(operate(&door.postern, &["ban", "127.0.0.8"]));
    door.reload();
    assert!(!door.lets_in(8));
    until_true("the ban is over", PATIENCE, || door.lets_in(7));
    until_true("it is listed no longer", PATIENCE, || {
        let listed = json(&well(operate(&door.postern, &["bans", "--json"])));
        listed.as_array().is_some_and(|bans| bans.len() == 1)
    });
    door.postern.stop();
}

#[test]
fn refused_connections_are_counted() {
    let port = crate::common::ports::free_port();
    let door = door(&format!("deny = 127.0.0.7\nstatus = {port}"), "");
    well(operate(&door.postern, &["ban", "127.0.0.8"]));
    for last in [7, 7, 8] {
        assert!(!door.lets_in(last));
    }
    let url = format!("http://127.0.0.1:{port}/metrics");
    let metrics = run("curl", &["-s", &url], b"").text();
    for (reason, count) in [("denied", 2), ("banned", 1)] {
        let line = format!("reason=\"{reason}\"}} {count}\n");
        let found = metrics
            .lines()
            .filter(|line| line.contains("connections_refused"));
        assert!(
            found
                .map(|found| format!("{found}\n"))
                .any(|found| found.contains(&line)),
            "{metrics}"
        );
    }
    door.postern.stop();
}

/// With a balancer in front it is the client who counts, as soon as it is known, and never the balancer.
#[test]
fn behind_haproxy_the_client_is_kept_out_and_not_the_balancer() {
    for send in ["send-proxy", "send-proxy-v2"] {
        let door = door(
            "deny = 127.0.0.7 127.0.0.1",
            "listen = 127.0.0.1:0 proxy_protocol\nset_real_ip_from = 127.0.0.1",
        );
        let haproxy = Haproxy::start(proxied(&door), send);
        let connect = |last| LineClient::connect_from([127, 0, 0, last], haproxy.address);
        let lets_in = |last| {
            let mut client = connect(last);
            let _ = client.stream().write_all(b"a LOGOUT\r\n");
            !client.rest().is_empty()
        };
        assert!(!lets_in(7));
        assert!(lets_in(8));
        // Haproxy was looked at from 127.0.0.1 before.
        until_true("it is told", PATIENCE, || {
            let lines = door
                .postern
                .lines_with("client is not let in: `deny` names");
            let is_its =
                |line: &String| line.contains("client: \"127.0.0.7:") && line.contains("[info]");
            lines.iter().any(is_its)
        });
        let mut client = connect(8);
        client.expect("* OK IMAP4 ready");
        client.send("a LOGIN alice secret");
        client.lines_until("a OK");
        // The balancer's own address: nobody's session ends, and clients come in as before.
        let said = well(operate(&door.postern, &["ban", "127.0.0.1"]));
        assert!(said.ends_with("; 0 sessions were ended\n"), "{said}");
        client.ask("n NOOP", "n OK backend NOOP");
        assert!(lets_in(9));
        let said = well(operate(&door.postern, &["ban", "127.0.0.8"]));
        assert!(said.ends_with("; 1 sessions were ended\n"), "{said}");
        client.expect_close();
        assert!(!lets_in(8) && lets_in(9));
        assert!(door.auth.requests().len() == 1);
        door.postern.stop();
    }
}

/// A peer that is not trusted is itself the client, whatever it says.
#[test]
fn the_header_of_a_stranger_saves_nobody_from_deny() {
    let door = door(
        "deny = 127.0.0.7",
        "listen = 127.0.0.1:0 proxy_protocol\nset_real_ip_from = 127.0.0.1",
    );
    let from = |last: u8, header: &[u8]| {
        let mut client = LineClient::connect_from([127, 0, 0, last], proxied(&door));
        let _ = client
            .stream()
            .write_all(&[header, b"a LOGOUT\r\n"].concat());
        !client.rest().is_empty()
    };
    let good = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 143\r\n";
    let bad = b"PROXY TCP4 127.0.0.7 198.51.100.1 1234 143\r\n";
    assert!(!from(7, good));
    assert!(
        from(8, bad),
        "what a stranger says of its client is not believed"
    );
    assert!(!from(1, bad) && from(1, good));
    assert!(from(1, b"PROXY UNKNOWN\r\n"));
    door.postern.stop();
}

#[test]
fn check_tells_the_mistakes_of_deny_and_of_its_files() {
    let folder = TempDir::new("deny");
    folder.write("bad.list", "127.0.0.1\nx\n");
    let file = folder.write(
        "postern.ini",
        "[postern]\ndeny = 10.0.0.0/33\ndeny = bad.list missing.list\n[server imap]\n\
         listen = 127.0.0.1:143\nauth_http = 127.0.0.1:9\n",
    );
    let checked = std::process::Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .expect("it can be started");
    assert_eq!(code(&checked), 2);
    let told = err(&checked);
    for text in [
        "postern.ini:2: [postern] deny: `10.0.0.0/33` is not an address or a range",
        "bad.list:2: `x` is not an address or a range",
        "missing.list\": cannot be read",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }
}

/// The listener behind a balancer.
fn proxied(door: &Door) -> SocketAddr {
    let all = door.postern.addresses("imap");
    *all.last().expect("it listens")
}

/// Neither the user nor Landlock lets the process read it by itself, or only one of them.
#[test]
fn a_file_elsewhere_that_is_roots_alone_is_read_again_all_the_same() {
    let lists = TempDir::of_root("lists");
    let file = lists.write("deny.list", "127.0.0.7\n");
    let close = || {
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&file, mode).expect("it is ours");
    };
    close();
    for user in ["", "user = nobody\n"] {
        let of_process = format!("{user}deny = {}", file.display());
        let door = door_in(TempDir::of_root("deny"), &of_process, "");
        assert!(!door.lets_in(7) && door.lets_in(8));
        // As editors do it.
        let new = lists.write("new.list", "127.0.0.8\n");
        fs::rename(new, &file).expect("it is ours");
        close();
        door.postern
            .wait_for_log("deny.list was read again, 1 entries");
        assert!(door.lets_in(7) && !door.lets_in(8));
        fs::write(&file, "127.0.0.7\n").expect("it is ours");
        door.postern.stop();
    }
}
