//! What a Postern that runs can no longer do, whoever has it in hand, and what it must still be able to do: what
//! a reload, a renewal and a rotation ask for.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::started::{RUN, Started, field};
use crate::common::temp::TempDir;
use crate::common::tls::Client;
use crate::common::tools::wait_for_line;
use crate::common::wait::{self, PATIENCE};
use crate::peers::{Peer, imap_server};
use crate::servers::pki::{Key, NAMES, Pair, Pki, State};
use nix::libc::{ENOSYS, EPERM, SYS_capset, SYS_landlock_create_ruleset, c_long};
use nix::sys::signal::Signal;

const READ_ANEW: &str = "the configuration was read anew";
const UNCHANGED: &str = "the old one stays in use";

const NONE: &str = "0000000000000000";

/// Insists on the sets of every thread, by their names in /proc/PID/status.
fn expect_capabilities(started: &Started, sets: &[(&str, &str)]) {
    let tasks = started.tasks();
    assert!(tasks.len() > 3, "{}", tasks.len());
    for (status, name) in tasks {
        assert_eq!(field(&status, "NoNewPrivs"), ["1"], "{name}");
        for (set, expected) in sets {
            assert_eq!(field(&status, set), [*expected], "{set} of {name}");
        }
    }
}

/// The line about it, once the proxy is ready.
fn told(started: &Started) -> String {
    let log = started.folder.path().join("log");
    wait_for_line(&log, "ready");
    let log = started.log();
    let mut lines = log.lines().filter(|line| line.contains("confined"));
    let line = lines.next().expect("it says what holds").to_owned();
    assert_eq!(lines.next(), None, "once");
    line
}

#[test]
fn who_becomes_another_user_has_no_capability_left() {
    let started = Started::by(RUN, "user = nobody\nerror_log = log info");
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    expect_capabilities(&started, &sets.map(|set| (set, NONE)));
    let line = told(&started);
    assert!(line.contains("confined: Landlock ABI "), "{line}");
    assert!(
        line.contains(", no new privileges, capabilities: none"),
        "{line}"
    );
    let own = started.folder.path().canonicalize().expect("it is there");
    assert!(
        line.contains(&format!("logs under {}, /var/log", own.display())),
        "{line}"
    );
    assert!(
        line.contains(&format!("the pid file under {}", own.display())),
        "{line}"
    );
}

#[test]
fn who_stays_root_keeps_what_opens_files_and_ports() {
    let started = Started::by(RUN, "error_log = log info");
    let kept = "0000000000001406";
    expect_capabilities(
        &started,
        &[
            ("CapInh", NONE),
            ("CapPrm", kept),
            ("CapEff", kept),
            ("CapBnd", kept),
            ("CapAmb", NONE),
        ],
    );
    let line = told(&started);
    let names = "capabilities: dac_override dac_read_search net_bind_service net_admin";
    assert!(line.contains(names), "{line}");
}

#[test]
fn an_ordinary_user_keeps_low_ports_of_what_was_given() {
    let script = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \
                  --bounding-set=-all,+net_bind_service,+sys_ptrace \
                  --inh-caps=-all,+net_bind_service,+sys_ptrace \
                  --ambient-caps=+net_bind_service,+sys_ptrace \"$0\" --config \"$1\"";
    let started = Started::by(script, "error_log = log info");
    let (low_ports, both) = ("0000000000000400", "0000000000080400");
    expect_capabilities(
        &started,
        &[
            ("CapInh", NONE),
            ("CapPrm", low_ports),
            ("CapEff", low_ports),
            // It takes CAP_SETPCAP to change this one; without new privileges it gives nothing to anybody.
            ("CapBnd", both),
            ("CapAmb", NONE),
        ],
    );
    let line = told(&started);
    assert!(line.contains("capabilities: net_bind_service"), "{line}");
}

fn issue() -> Pair {
    Pki::shared().issue("mail.test", NAMES, Key::Ec, State::Good)
}

/// A copy of a pair in another folder.
fn copy_into(folder: &Path, pair: &Pair) -> Pair {
    fs::create_dir_all(folder).expect("the folder is ours");
    let own = Pair {
        certificate: folder.join("certificate.pem"),
        key: folder.join("key.pem"),
    };
    fs::copy(&pair.certificate, &own.certificate).expect("it can be copied");
    fs::copy(&pair.key, &own.key).expect("it can be copied");
    own
}

fn imap(port: u16, more: &str) -> String {
    format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:{port} ssl\nauth_http = 127.0.0.1:9\n{more}\n"
    )
}

fn reload(postern: &Postern, ini: &str, until: &str) {
    let before = postern.count(until);
    postern.folder().write("postern.ini", ini);
    postern.signal(Signal::SIGHUP);
    wait::until_true(until, PATIENCE, || postern.count(until) > before);
}

fn shown(port: u16) -> Vec<u8> {
    let client = Client::trusting(&Pki::shared().authority());
    let address = ([127, 0, 0, 1], port).into();
    client.connect(address).tls.peer_certificate()
}

fn is_closed(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
}

#[test]
fn a_reload_that_names_a_file_elsewhere_changes_nothing_and_says_why() {
    let elsewhere = TempDir::in_home("confinement");
    let (first, second) = (issue(), copy_into(elsewhere.path(), &issue()));
    let (port, other) = (free_port(), free_port());
    let before = imap(port, &first.ssl_certificate());
    let postern = Postern::start(&before);
    let file = |line: usize| {
        let ini = postern.folder().path().join("postern.ini");
        format!("{}:{line}: ", ini.display())
    };
    let log = elsewhere.path().join("log");
    let socket = elsewhere.path().join("socket");
    for (line, key, ini) in [
        (5, "ssl_certificate", imap(port, &second.ssl_certificate())),
        (
            7,
            "error_log",
            imap(
                port,
                &format!(
                    "{}error_log = {} info",
                    first.ssl_certificate(),
                    log.display()
                ),
            ),
        ),
        (
            7,
            "listen",
            imap(
                port,
                &format!(
                    "{}listen = unix:{}",
                    first.ssl_certificate(),
                    socket.display()
                ),
            ),
        ),
    ] {
        // Another port tells whether half of it took effect.
        let ini = ini.replace(
            "auth_http",
            &format!("listen = 127.0.0.1:{other}\nauth_http"),
        );
        reload(&postern, &ini, UNCHANGED);
        let mistake = format!("{}[server imap] {key}: ", file(line + 1));
        let told = postern.lines_with(&mistake);
        assert_eq!(told.len(), 1, "{mistake}\n{}", postern.log());
        let advice = [
            "since the start Landlock allows ",
            " only under ",
            "restart the service",
        ];
        assert!(
            advice.iter().all(|part| told[0].contains(part)),
            "{}",
            told[0]
        );
        assert!(is_closed(other) && !log.exists() && !socket.exists());
        assert!(shown(port) == first.der());
    }
    reload(&postern, &before, READ_ANEW);
    postern.stop();

    // And with it switched off, nothing of that.
    let switched_off = |ini: &str| format!("[postern]\nlandlock = off\n{ini}");
    let postern = Postern::start(&switched_off(&before));
    postern.wait_for_log("not confined to its files: `landlock = off`; no new privileges, ");
    reload(
        &postern,
        &switched_off(&imap(port, &second.ssl_certificate())),
        READ_ANEW,
    );
    assert!(shown(port) == second.der());
    let text = "a change of `landlock` takes effect at the next start";
    reload(&postern, &before, text);
    postern.stop();
}

#[test]
fn the_keeper_opens_what_lies_elsewhere() {
    let elsewhere = TempDir::in_home("confinement");
    let (first, second) = (issue(), copy_into(elsewhere.path(), &issue()));
    let port = free_port();
    let ini = |more: &str| format!("[postern]\nuser = nobody\n{}", imap(port, more));
    let folder = TempDir::of_root("confinement");
    let postern = Postern::start_in(folder, &ini(&first.ssl_certificate()));
    let (log, socket) = (
        elsewhere.path().join("log"),
        elsewhere.path().join("socket"),
    );
    let more = format!(
        "{}error_log = {} info\nerror_log = stderr info\nlisten = unix:{}",
        second.ssl_certificate(),
        log.display(),
        socket.display()
    );
    reload(&postern, &ini(&more), READ_ANEW);
    assert!(shown(port) == second.der());
    wait_for_line(&log, "session closed");
    drop(UnixStream::connect(&socket).expect("it listens"));
    postern.stop();
}

#[test]
fn a_certificate_is_renewed_behind_links() {
    // As certbot lays them, and as others do: the folder behind a link is another one each time.
    for library in ["rustls", "native"] {
        let root = TempDir::in_home("confinement");
        let at = |name: &str| root.path().join(name);
        let (old, new, newest) = (issue(), issue(), issue());
        copy_into(&at("sets/1"), &old);
        symlink("1", at("sets/current")).expect("the folder is ours");
        fs::create_dir(at("live")).expect("the folder is ours");
        for name in ["certificate.pem", "key.pem"] {
            let target = format!("../sets/current/{name}");
            symlink(target, at("live").join(name)).expect("the folder is ours");
        }
        let live = Pair {
            certificate: at("live/certificate.pem"),
            key: at("live/key.pem"),
        };
        let port = free_port();
        let more = format!("tls_library = {library}\n{}", live.ssl_certificate());
        let postern = Postern::start(&imap(port, &more));
        assert!(shown(port) == old.der(), "{library}");
        for (number, pair) in [("2", &new), ("3", &newest)] {
            copy_into(&at("sets").join(number), pair);
            symlink(number, at("sets/next")).expect("the folder is ours");
            fs::rename(at("sets/next"), at("sets/current")).expect("the folder is ours");
            wait::until_true("the new one is served", PATIENCE, || {
                shown(port) == pair.der()
            });
        }
        // Where nobody could know of: the old one stays, and the log tells what to do.
        let elsewhere = TempDir::in_home("confinement");
        copy_into(elsewhere.path(), &issue());
        symlink(elsewhere.path(), at("sets/next")).expect("the folder is ours");
        fs::rename(at("sets/next"), at("sets/current")).expect("the folder is ours");
        let asked = || {
            let served = shown(port);
            assert!(served == newest.der(), "{library}");
            postern.count("since the start Landlock allows reading only under ") > 0
        };
        wait::until_true("it is told", PATIENCE, asked);
        postern.stop();
    }
}

#[test]
fn a_map_is_replaced_and_a_log_is_rotated_in_folders_that_were_named() {
    let root = TempDir::in_home("confinement");
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("maps")).expect("the folder is ours");
    fs::create_dir(at("logs")).expect("the folder is ours");
    fs::write(at("maps/map"), "alice mail\n").expect("the folder is ours");
    let backend = Peer::start(imap_server);
    let ini = |more: &str| {
        format!(
            "[postern]\nerror_log = {} info\nerror_log = stderr info\n[server imap]\nprotocol = imap\n\
             listen = 127.0.0.1:0\nimap_capabilities = IMAP4rev1\n{more}\n[backend mail]\nhosts = {}\n\
             [routes]\nmap = {}\n",
            at("logs/log").display(),
            backend.address(),
            at("maps/map").display()
        )
    };
    let postern = Postern::start(&ini(""));
    let log_in = |login: &str| {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send(&format!("a LOGIN {login} secret"));
        client.line()
    };
    assert!(log_in("bob").starts_with("a NO"));
    fs::write(at("maps/new"), "bob mail\n").expect("the folder is ours");
    fs::rename(at("maps/new"), at("maps/map")).expect("the folder is ours");
    wait::until_true("the map was read again", PATIENCE, || {
        log_in("bob").starts_with("a OK")
    });

    fs::rename(at("logs/log"), at("logs/log.1")).expect("the folder is ours");
    postern.signal(Signal::SIGUSR1);
    wait::until_true("the log is there again", PATIENCE, || {
        at("logs/log").exists()
    });
    assert_eq!(postern.count("cannot open"), 0);
    // One more beside it.
    let more = format!("error_log = {} info", at("logs/more").display());
    reload(&postern, &ini(&more), READ_ANEW);
    assert!(at("logs/more").exists());
    postern.stop();
}

#[test]
fn a_log_on_standard_output_is_opened_again_and_opens_no_folder() {
    let script = "exec \"$0\" --config \"$1\" >\"$1.out\"";
    let logs = TempDir::new("confinement");
    let (log, old) = (logs.path().join("log"), logs.path().join("log.1"));
    let more = format!(
        "error_log = /dev/stdout info\nerror_log = {} info",
        log.display()
    );
    let started = Started::by(script, &more);
    let output = started.folder.path().join("postern.ini.out");
    let line = wait_for_line(&output, "confined: ");
    let (_, of_logs) = line.split_once("logs under ").expect("it names them");
    let of_logs = of_logs.split(';').next().unwrap_or_default();
    assert!(of_logs.starts_with("/dev/stdout, /"), "{line}");
    assert!(
        !of_logs.contains(&started.folder.path().display().to_string()),
        "{line}"
    );
    fs::rename(&log, &old).expect("the folder is ours");
    started.process.signal(Signal::SIGUSR1);
    wait::until_true("the log is there again", PATIENCE, || log.exists());
    started.process.signal(Signal::SIGHUP);
    wait_for_line(&log, READ_ANEW);
    wait_for_line(&output, READ_ANEW);
    let log = fs::read_to_string(&log).expect("it is there");
    assert!(!log.contains("cannot open"), "{log}");
}

#[test]
fn a_unix_socket_comes_and_goes_where_one_was_named() {
    let root = TempDir::in_home("confinement");
    let at = |name: &str| root.path().join(name);
    let port = free_port();
    let pair = issue().ssl_certificate();
    let ini = |name: &str| {
        let listen = format!("listen = unix:{}", at(name).display());
        imap(port, &format!("{pair}{listen}"))
    };
    let postern = Postern::start(&ini("first"));
    UnixStream::connect(at("first")).expect("it listens");
    reload(&postern, &ini("second"), READ_ANEW);
    UnixStream::connect(at("second")).expect("it listens");
    wait::until_true("the first is gone", PATIENCE, || !at("first").exists());
    // A file that an unclean end has left behind.
    drop(std::os::unix::net::UnixListener::bind(at("third")).expect("the folder is ours"));
    reload(&postern, &ini("third"), READ_ANEW);
    UnixStream::connect(at("third")).expect("it listens");
    postern.stop();
    assert!(!at("third").exists());
}

/// Answers one system call (first argument) with an error (second), and becomes what the other arguments name.
/// The filter is classic BPF, its numbers those of <linux/seccomp.h>.
const WITHOUT_A_CALL: &str = "\
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, int(sys.argv[1])), (6, 0, 0, 0x50000 | int(sys.argv[2])), (6, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *one) for one in code))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
program = Program(4, ctypes.addressof(code))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(program), 0, 0) == 0
os.execv(sys.argv[3], sys.argv[3:])
";

/// The command that runs the rest of its line without this system call, as any user.
fn without(folder: &TempDir, call: c_long, error: i32) -> String {
    let script = folder.write("without.py", WITHOUT_A_CALL);
    format!("/usr/bin/python3 {} {call} {error}", script.display())
}

#[test]
fn a_unit_that_refuses_to_change_capabilities_does_not_keep_it_from_starting() {
    let folder = TempDir::new("confinement");
    let without = without(&folder, SYS_capset, EPERM);
    let script = format!(
        "exec setpriv --reuid=65534 --regid=65534 --clear-groups \
         --bounding-set=-all,+net_bind_service --inh-caps=-all,+net_bind_service \
         --ambient-caps=+net_bind_service {without} \"$0\" --config \"$1\""
    );
    let started = Started::by(&script, "error_log = log info");
    let low_ports = "0000000000000400";
    expect_capabilities(
        &started,
        &[
            ("CapPrm", low_ports),
            ("CapEff", low_ports),
            ("CapBnd", low_ports),
            ("CapAmb", NONE),
        ],
    );
    let line = told(&started);
    assert!(line.contains("capabilities: net_bind_service"), "{line}");
}

#[test]
fn a_system_without_landlock_is_told_once_and_served() {
    let folder = TempDir::new("confinement");
    // As a kernel before 5.13 answers.
    let script = without(&folder, SYS_landlock_create_ruleset, ENOSYS);
    let script = format!("exec {script} \"$0\" --config \"$1\"");
    let mut started = Started::by(&script, "user = nobody\nerror_log = log info");
    let line = told(&started);
    let text = "not confined to its files: this system has no Landlock";
    assert!(line.contains("[notice]") && line.contains(text), "{line}");
    assert!(
        line.contains("no new privileges, capabilities: none"),
        "{line}"
    );
    started.process.signal(Signal::SIGHUP);
    wait_for_line(&started.folder.path().join("log"), READ_ANEW);
    started.process.signal(Signal::SIGTERM);
    assert!(started.process.wait(Duration::from_secs(5)).success());
    assert_eq!(started.log().matches("Landlock").count(), 1);
}
