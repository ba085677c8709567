//! What a Postern that was started as root can still do when it is another user, and what the process that
//! keeps root's rights for it does not do for whoever has that user in hand.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::process::{Process, children_of};
use crate::common::temp::TempDir;
use crate::common::tls::Client;
use crate::common::tools::{curl, wait_for_line};
use crate::common::wait::{self, PATIENCE};
use crate::peers::{Peer, imap_server};
use crate::servers::pki::{Key, NAMES, Pair, Pki, State};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{EACCES, ELOOP, EMLINK, EPERM};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};

const READ_ANEW: &str = "the configuration was read anew";

fn nobody() -> User {
    assert!(Uid::effective().is_root(), "start the tests as root");
    let nobody = User::from_name("nobody").ok().flatten();
    nobody.expect("every system has the user nobody")
}

/// A proxy that has become nobody; its configuration is root's alone.
fn proxy(folder: TempDir, ini: &str) -> Postern {
    nobody();
    let ini = format!("[postern]\nuser = nobody\n{ini}");
    close(&folder.write("postern.ini", &ini));
    Postern::start_in(folder, &ini)
}

/// Nobody but root may read it from here on; its content may change.
fn close(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

fn imap(listen: &str, more: &str) -> String {
    format!("[server imap]\nprotocol = imap\nlisten = {listen}\nauth_http = 127.0.0.1:9\n{more}\n")
}

/// Puts another configuration in the place of the present one, and lets it be read.
fn reload(postern: &Postern, ini: &str, until: &str) {
    let before = postern.count(until);
    let ini = format!("[postern]\nuser = nobody\n{ini}");
    close(&postern.folder().write("postern.ini", ini));
    postern.signal(Signal::SIGHUP);
    wait::until_true(until, PATIENCE, || postern.count(until) > before);
}

/// The only child of a process.
fn keeper_of(parent: u32) -> u32 {
    let children = children_of(parent);
    assert_eq!(children.len(), 1, "children of {parent}: {children:?}");
    children[0]
}

fn end(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the process is there");
}

/// Fields of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}

fn descriptors(pid: u32) -> usize {
    let folder = fs::read_dir(format!("/proc/{pid}/fd"));
    folder.expect("the process is there").count()
}

/// A certificate and its key as certbot lays them: links in `live` to files in `archive`, folders that only
/// root can pass.
struct Live {
    pair: Pair,
    root: PathBuf,
}

impl Live {
    fn new(folder: &TempDir, first: &Pair) -> Live {
        let root = folder.path().to_owned();
        for name in ["live", "archive"] {
            fs::create_dir(root.join(name)).expect("the folder is ours");
            let closed = fs::Permissions::from_mode(0o700);
            fs::set_permissions(root.join(name), closed).expect("the folder is ours");
        }
        let pair = Pair {
            certificate: root.join("live/fullchain.pem"),
            key: root.join("live/privkey.pem"),
        };
        let live = Live { pair, root };
        live.renew(first, 1);
        live
    }

    fn renew(&self, new: &Pair, number: u32) {
        for (from, link) in [
            (&new.certificate, &self.pair.certificate),
            (&new.key, &self.pair.key),
        ] {
            let name = link.file_stem().expect("a name").to_string_lossy();
            let name = format!("{name}{number}.pem");
            let file = self.root.join("archive").join(&name);
            fs::copy(from, &file).expect("the folder is ours");
            close(&file);
            let beside = self.root.join("live/new");
            symlink(format!("../archive/{name}"), &beside).expect("the folder is ours");
            fs::rename(beside, link).expect("the folder is ours");
        }
    }
}

fn issue() -> Pair {
    Pki::shared().issue("mail.test", NAMES, Key::Ec, State::Good)
}

fn shown(address: SocketAddr) -> Vec<u8> {
    let client = Client::trusting(&Pki::shared().authority());
    client.connect(address).tls.peer_certificate()
}

#[test]
fn a_renewed_certificate_that_only_root_can_read_is_served() {
    for library in ["rustls", "native"] {
        let (old, new) = (issue(), issue());
        let folder = TempDir::of_root("keeper");
        let live = Live::new(&folder, &old);
        let more = format!("tls_library = {library}\n{}", live.pair.ssl_certificate());
        let postern = proxy(folder, &imap("127.0.0.1:0 ssl", &more));
        let address = postern.address("imap");
        assert!(shown(address) == old.der(), "{library}");
        live.renew(&new, 2);
        wait::until_true("the new one is served", PATIENCE, || {
            shown(address) == new.der()
        });
        postern.wait_for_log("certificates have changed");
        postern.stop();
    }
}

#[test]
fn hup_reads_what_only_root_can_read() {
    let (first, second) = (Peer::start(imap_server), Peer::start(imap_server));
    let folder = TempDir::of_root("keeper");
    let live = Live::new(&folder, &issue());
    close(&folder.write("map", "alice first\n"));
    let server = format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nlisten = 127.0.0.1:0 ssl\n\
         imap_capabilities = IMAP4rev1\n{}\n[backend first]\nhosts = {}\n[backend second]\n\
         hosts = {}\n[routes]\n",
        live.pair.ssl_certificate(),
        first.address(),
        second.address()
    );
    let postern = proxy(folder, &format!("{server}map = map\n"));
    let log_in = |login: &str| {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send(&format!("a LOGIN {login} secret"));
        client.line()
    };
    assert!(log_in("alice").starts_with("a OK"));
    assert!(log_in("bob").starts_with("a NO"));

    // A map that changes, without HUP.
    postern.folder().write("map", "alice first\nbob second\n");
    wait::until_true("the map was read again", PATIENCE, || {
        log_in("bob").starts_with("a OK")
    });
    // A map that the running configuration does not name yet.
    let more = postern.folder().write("more", "carol second\n");
    close(&more);
    reload(
        &postern,
        &format!("{server}map = map\nmap = more\n"),
        READ_ANEW,
    );
    assert!(log_in("carol").starts_with("a OK"));
    postern.stop();
}

#[test]
fn usr1_makes_a_log_in_a_folder_of_roots() {
    let folder = TempDir::of_root("keeper");
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).expect("the folder is ours");
    let (log, old) = (logs.join("log"), logs.join("log.1"));
    let ini = format!(
        "error_log = logs/log info\nerror_log = stderr info\n{}",
        imap("127.0.0.1:0", "")
    );
    let postern = proxy(folder, &ini);
    wait_for_line(&log, "ready");
    fs::rename(&log, &old).expect("the folder is ours");
    postern.signal(Signal::SIGUSR1);
    wait::until_true("the log is there again", PATIENCE, || log.exists());
    let found = fs::metadata(&log).expect("it is there");
    assert_eq!(found.uid(), nobody().uid.as_raw());
    assert_eq!(found.mode() & 0o777, 0o640);
    assert_eq!(postern.count("cannot open"), 0);
    // And HUP takes a log in a folder that we cannot even look into.
    reload(&postern, &ini, READ_ANEW);
    postern.signal(Signal::SIGTERM);
    wait_for_line(&log, "stopping");
}

/// A port below 1024 at which nobody listens at this address, and at which we can.
fn low_port(address: Ipv4Addr) -> u16 {
    // Each once: another test may open the same one at another address, or at all of them.
    static NEXT: AtomicU16 = AtomicU16::new(1023);
    let next = || Some(NEXT.fetch_sub(1, Ordering::Relaxed)).filter(|port| *port > 700);
    let free = std::iter::from_fn(next).find(|port| TcpListener::bind((address, *port)).is_ok());
    free.expect("not all are taken")
}

#[test]
fn hup_adds_ports_below_1024_and_moves_them() {
    let one = Ipv4Addr::new(127, 0, 0, 77);
    let port = low_port(one);
    let ini = imap(&format!("{one}:{port}"), "");
    let postern = proxy(TempDir::of_root("keeper"), &ini);
    drop(LineClient::greeted((one, port).into()));
    // To all addresses: beside the one that was opened by root and is about to close, which only works where
    // both are one user's.
    reload(&postern, &imap(&format!("*:{port}"), ""), READ_ANEW);
    drop(LineClient::greeted((Ipv4Addr::LOCALHOST, port).into()));
    // Back, beside one that the keeper has opened, and one more.
    let more = low_port(one);
    let both = format!("{one}:{port}\nlisten = {one}:{more}");
    reload(&postern, &imap(&both, ""), READ_ANEW);
    for port in [port, more] {
        drop(LineClient::greeted((one, port).into()));
    }
    // And somebody else's is in the way, as ever.
    let other = low_port(one);
    let _taken = TcpListener::bind((one, other)).expect("it was free");
    let ini = imap(&format!("{one}:{other}"), "");
    reload(&postern, &ini, "the old one stays in use");
    postern.wait_for_log("Address already in use");
    // In a folder of root's.
    let path = postern.folder().path().join("socket");
    let ini = imap("unix:socket", "");
    reload(&postern, &ini, READ_ANEW);
    let socket = std::os::unix::net::UnixStream::connect(path).expect("it listens");
    let mut greeting = [0; 4];
    (&socket).read_exact(&mut greeting).expect("a greeting");
    postern.stop();
}

#[test]
fn the_keeper_is_small_and_has_few_rights() {
    let postern = proxy(TempDir::of_root("keeper"), &imap("127.0.0.1:0", ""));
    let keeper = keeper_of(postern.id());
    assert_eq!(status(keeper, "Name"), "postern-keeper");
    assert_eq!(status(keeper, "Threads"), "1");
    assert_eq!(status(keeper, "NoNewPrivs"), "1");
    assert_eq!(status(keeper, "Groups"), "");
    // CHOWN, DAC_OVERRIDE and NET_BIND_SERVICE.
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(status(keeper, set), "0000000000000403", "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(keeper, set), "0000000000000000", "{set}");
    }
    let output = |number: u32| fs::read_link(format!("/proc/{keeper}/fd/{number}"));
    for number in [1, 2] {
        assert_eq!(output(number).expect("it is open"), Path::new("/dev/null"));
    }
    let environment = fs::read(format!("/proc/{keeper}/environ")).expect("it is there");
    assert_eq!(environment, b"");
    let limits = fs::read_to_string(format!("/proc/{keeper}/limits")).expect("it is there");
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words = cores.expect("it is listed").split_ascii_whitespace();
    assert_eq!(words.collect::<Vec<_>>()[4..6], ["0", "0"]);

    // What is asked for leaves nothing behind, on either side.
    let count = |pid| descriptors(pid);
    let before = (count(keeper), count(postern.id()), postern.threads());
    for _ in 0..20 {
        reload(&postern, &imap("127.0.0.1:0", "timeout = 30s"), READ_ANEW);
    }
    wait::until_true("all is closed again", PATIENCE, || {
        (count(keeper), count(postern.id()), postern.threads()) == before
    });
    // A terminal sends these to both.
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        kill(Pid::from_raw(keeper.cast_signed()), signal).expect("it is there");
    }
    reload(&postern, &imap("127.0.0.1:0", ""), READ_ANEW);
    assert_eq!(keeper_of(postern.id()), keeper);
    postern.stop();
    expect_gone(keeper);
}

/// A zombie that nobody has waited for yet is gone too.
fn expect_gone(pid: u32) {
    let is_gone = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.map_or(true, |text| text.contains("\nState:\tZ"))
    };
    wait::until_true("the keeper is gone", Duration::from_secs(1), is_gone);
}

#[test]
fn the_two_end_together() {
    let postern = proxy(TempDir::of_root("keeper"), &imap("127.0.0.1:0", ""));
    let keeper = keeper_of(postern.id());
    postern.signal(Signal::SIGKILL);
    expect_gone(keeper);
    drop(postern);

    let postern = proxy(TempDir::of_root("keeper"), &imap("127.0.0.1:0", ""));
    end(keeper_of(postern.id()));
    let (status, log) = postern.wait_for_end(Duration::from_secs(3));
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("[alert]") && log.contains("the keeper has ended"),
        "{log}"
    );
    assert!(log.contains("stopped; sessions cut off: 0"), "{log}");
}

#[test]
fn a_late_answer_is_not_taken_for_that_to_another_question() {
    let folder = TempDir::of_root("keeper");
    let log = folder.path().join("log");
    let server = imap("127.0.0.1:0", "");
    let ini = format!("error_log = log info\nerror_log = stderr info\n{server}");
    let postern = proxy(folder, &ini);
    let keeper = Pid::from_raw(keeper_of(postern.id()).cast_signed());
    kill(keeper, Signal::SIGSTOP).expect("it is there");
    fs::rename(&log, log.with_extension("1")).expect("the folder is ours");
    postern.signal(Signal::SIGUSR1);
    // It waits no longer than for a slow file system, and goes on with the file that it has.
    postern.wait_for_log("cannot open log file");
    let told = postern.count("the keeper does not answer");
    assert_eq!(told, 1, "{}", postern.log());
    kill(keeper, Signal::SIGCONT).expect("it is there");
    // The log that it opens now is no configuration.
    reload(&postern, &ini, READ_ANEW);
    assert_eq!(postern.count("the old one stays in use"), 0);
    postern.stop();
}

#[test]
fn who_stays_root_has_no_keeper() {
    let postern = Postern::start(&imap("127.0.0.1:0", ""));
    assert_eq!(children_of(postern.id()), Vec::<u32>::new());
    postern.stop();
}

/// The answering side, asked by a process that an attacker has in hand.
struct Asked {
    socket: OwnedFd,
    process: Process,
    folder: TempDir,
}

impl Asked {
    fn start(ini: &str) -> Asked {
        nobody();
        let folder = TempDir::of_root("keeper");
        let file = folder.write("postern.ini", ini);
        let kind = SocketType::SEQPACKET;
        let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.expect("a pair of sockets");
        let patience = Some(Duration::from_secs(10));
        set_socket_timeout(&socket, Timeout::Recv, patience).expect("a socket takes a limit");
        let arguments = ["keeper", "--config", path_text(&file), "--user", "nobody"];
        let process = Process::start_given(env!("CARGO_BIN_EXE_postern"), arguments, theirs);
        let asked = Asked {
            socket,
            process,
            folder,
        };
        assert_eq!(asked.answer().map(|given| given.is_some()), Some(false));
        asked
    }

    /// An answer: a descriptor or an error; `None` when the keeper has ended.
    fn answer(&self) -> Option<Option<Result<OwnedFd, i32>>> {
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut parts, &mut control, flags);
        match received.expect("an answer in time").bytes {
            0 => return None,
            length => assert_eq!(length, 8),
        }
        let mut given = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                given.extend(descriptors);
            }
        }
        let error = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        assert!(given.len() <= usize::from(error == 0));
        match error {
            0 => Some(given.pop().map(Ok)),
            error => Some(Some(Err(error))),
        }
    }

    fn send(&self, request: &[u8]) {
        send(&self.socket, request, SendFlags::NOSIGNAL).expect("the keeper is there");
    }

    fn ask(&self, kind: u8, what: &str) -> Result<OwnedFd, i32> {
        self.send(&[&[kind, 1, 0, 0, 0], what.as_bytes()].concat());
        let answer = self.answer().expect("the keeper goes on");
        answer.expect("a descriptor or an error")
    }

    /// Asks for a file in its folder.
    fn ask_for(&self, kind: u8, name: &str) -> Result<OwnedFd, i32> {
        self.ask(kind, path_text(&self.path(name)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder that belongs to the user.
    fn folder_of_nobody(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("the folder is ours");
        chown(&path, Some(nobody().uid.as_raw()), None).expect("we are root");
        path
    }
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn text_of(descriptor: OwnedFd) -> String {
    let mut text = String::new();
    File::from(descriptor)
        .read_to_string(&mut text)
        .expect("it can be read");
    text
}

const NAMING: &str = "[postern]\nuser = nobody\nerror_log = log\nerror_log = link.log\n\
    error_log = two.log\nerror_log = his/log\nerror_log = a.folder\n[routes]\nmap = map\nmap = his/map\n\
    map = to-map\nmap = to-his\nmap = gone\nmap = up/../map\nmap = round\nmap = shared/map\n\
    map = open/map\nmap = listed/map\nmap = a.folder\n[server imap]\nlisten = 127.0.0.1:0\nlisten = unix:his/socket\n\
    listen = localhost:0\n";

#[test]
fn only_what_the_configuration_names_is_opened() {
    let asked = Asked::start(NAMING);
    asked.folder.write("map", "the map");
    asked.folder.write("other", "another");
    fs::create_dir(asked.path("up")).expect("the folder is ours");
    assert_eq!(
        asked.ask_for(b'r', "map").map(text_of).as_deref(),
        Ok("the map")
    );
    let configuration = asked.ask_for(b'r', "postern.ini").map(text_of);
    assert_eq!(configuration.as_deref(), Ok(NAMING));
    let through = asked.ask_for(b'r', "up/../map").map(text_of);
    assert_eq!(through.as_deref(), Ok("the map"));
    for (kind, name) in [
        (b'r', "other"),
        (b'r', "log"),
        (b'r', "up/../other"),
        (b'r', "his/../map"),
        (b'r', "up/../up/../map"),
        (b'r', "nothing"),
        (b'l', "map"),
        (b'l', "new"),
        (b'l', "../log"),
        (b'b', "unix:log"),
    ] {
        assert_eq!(asked.ask_for(kind, name).map(text_of), Err(EPERM), "{name}");
    }
    for (kind, what) in [
        (b'r', "/etc/shadow"),
        (b'r', "map"),
        (b'r', "/"),
        (b'l', "/etc/passwd"),
        (b'b', "127.0.0.1:25"),
        (b'b', "0.0.0.0:0"),
        (b's', "[::1]:0"),
        (b'b', "unix:/run/postern-test"),
    ] {
        assert_eq!(asked.ask(kind, what).map(text_of), Err(EPERM), "{what}");
    }
    assert_eq!(
        asked.ask_for(b'r', "gone").map(text_of),
        Err(nix::libc::ENOENT)
    );

    // As it stands now, not as it stood.
    asked.folder.write("postern.ini", "[routes]\nmap = other\n");
    assert_eq!(
        asked.ask_for(b'r', "other").map(text_of).as_deref(),
        Ok("another")
    );
    assert_eq!(asked.ask_for(b'r', "map").map(text_of), Err(EPERM));
}

/// As `setfacl -m u:UID:rwx` does it: acl(5), as the kernel keeps it.
fn let_write_by_list(folder: &Path, uid: Uid) {
    const NONE: u32 = u32::MAX;
    let entries = [
        (1_u16, 7_u16, NONE),
        (2, 7, uid.as_raw()),
        (4, 5, NONE),
        (16, 7, NONE),
        (32, 5, NONE),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let name = "system.posix_acl_access";
    let set = rustix::fs::setxattr(folder, name, &list, rustix::fs::XattrFlags::empty());
    set.expect("the file system keeps access control lists");
}

#[test]
fn nothing_is_opened_where_the_user_could_put_a_link() {
    let asked = Asked::start(NAMING);
    let his = asked.folder_of_nobody("his");
    let map = asked.folder.write("map", "the map");
    fs::write(his.join("map"), "his own").expect("we are root");
    symlink("/etc/shadow", his.join("log")).expect("we are root");
    symlink("map", asked.path("to-map")).expect("the folder is ours");
    // Through his folder to root's own file: he could lead it elsewhere.
    symlink(&map, his.join("back")).expect("we are root");
    symlink("his/back", asked.path("to-his")).expect("the folder is ours");
    symlink("round", asked.path("round")).expect("the folder is ours");

    assert_eq!(
        asked.ask_for(b'r', "to-map").map(text_of).as_deref(),
        Ok("the map")
    );
    for name in ["his/map", "to-his"] {
        assert_eq!(
            asked.ask_for(b'r', name).map(text_of),
            Err(EACCES),
            "{name}"
        );
    }
    assert_eq!(asked.ask_for(b'r', "round").map(text_of), Err(ELOOP));
    assert_eq!(asked.ask_for(b'l', "his/log").map(text_of), Err(EACCES));
    let socket = format!("unix:{}", path_text(&his.join("socket")));
    assert_eq!(asked.ask(b'b', &socket).map(text_of), Err(EACCES));
    assert!(!his.join("socket").exists());

    // His group's, everybody's, and by an access control list.
    let gid = nobody().gid.as_raw();
    for (name, group, mode) in [("shared", Some(gid), 0o775), ("open", None, 0o1777)] {
        let folder = asked.path(name);
        fs::create_dir(&folder).expect("the folder is ours");
        fs::write(folder.join("map"), "x").expect("the folder is ours");
        let file = format!("{name}/map");
        assert_eq!(asked.ask_for(b'r', &file).map(text_of).as_deref(), Ok("x"));
        chown(&folder, None, group).expect("we are root");
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("it is ours");
        assert_eq!(
            asked.ask_for(b'r', &file).map(text_of),
            Err(EACCES),
            "{name}"
        );
    }
    let file = asked.path("listed/map");
    fs::create_dir(asked.path("listed")).expect("the folder is ours");
    fs::write(&file, "x").expect("the folder is ours");
    assert_eq!(
        asked.ask_for(b'r', "listed/map").map(text_of).as_deref(),
        Ok("x")
    );
    let_write_by_list(&asked.path("listed"), nobody().uid);
    assert_eq!(asked.ask_for(b'r', "listed/map").map(text_of), Err(EACCES));
    // No file at all.
    fs::create_dir(asked.path("a.folder")).expect("the folder is ours");
    for kind in [b'r', b'l'] {
        assert!(asked.ask_for(kind, "a.folder").is_err());
    }
}

#[test]
fn a_log_is_no_link_has_one_name_and_is_given_to_the_user() {
    let asked = Asked::start(NAMING);
    let victim = asked.folder.write("victim", "root's own");
    symlink(&victim, asked.path("link.log")).expect("the folder is ours");
    fs::hard_link(&victim, asked.path("two.log")).expect("one file system");
    assert_eq!(asked.ask_for(b'l', "link.log").map(text_of), Err(ELOOP));
    assert_eq!(asked.ask_for(b'l', "two.log").map(text_of), Err(EMLINK));
    let found = fs::metadata(&victim).expect("it is there");
    assert_eq!((found.uid(), found.len()), (0, 10));

    let log = File::from(asked.ask_for(b'l', "log").expect("it is named"));
    let found = log.metadata().expect("it is open");
    assert_eq!(
        (found.uid(), found.mode() & 0o777),
        (nobody().uid.as_raw(), 0o640)
    );
    let flags = fcntl(&log, FcntlArg::F_GETFL).expect("it is open");
    let flags = OFlag::from_bits_truncate(flags);
    assert!(
        flags.contains(OFlag::O_APPEND | OFlag::O_WRONLY),
        "{flags:?}"
    );
}

#[test]
fn a_socket_is_given_to_the_user() {
    let asked = Asked::start(NAMING);
    for kind in [b'b', b's'] {
        let socket = asked.ask(kind, "127.0.0.1:0").expect("it is named");
        let owner = nix::sys::stat::fstat(socket.as_fd()).expect("it is open");
        assert_eq!(owner.st_uid, nobody().uid.as_raw());
    }
    // No name is looked up as root.
    assert_eq!(asked.ask(b'b', "[::1]:0").map(text_of), Err(EPERM));
}

#[test]
fn a_configuration_within_the_users_reach_opens_nothing() {
    let asked = Asked::start("[routes]\nmap = map\n");
    asked.folder.write("map", "the map");
    let (file, his) = (asked.path("postern.ini"), nobody().uid.as_raw());
    assert!(asked.ask_for(b'r', "map").is_ok());
    for (mode, owner) in [(0o600, his), (0o646, 0)] {
        chown(&file, Some(owner), None).expect("we are root");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("we are root");
        for name in ["map", "postern.ini"] {
            assert_eq!(
                asked.ask_for(b'r', name).map(text_of),
                Err(EACCES),
                "{mode:o}"
            );
        }
    }
    chown(asked.folder.path(), Some(his), None).expect("we are root");
    chown(&file, Some(0), None).expect("we are root");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("we are root");
    assert_eq!(asked.ask_for(b'r', "map").map(text_of), Err(EACCES));
}

#[test]
fn nonsense_ends_the_keeper() {
    let long = [&b"r\x01\0\0\0/"[..], &[b'x'; 4096]].concat();
    let longer = [&b"r\x01\0\0\0/"[..], &[b'x'; 20_000]].concat();
    for request in [
        &b"r"[..],
        b"r\x01\0\0\0",
        b"x\x01\0\0\0/etc/passwd",
        b"\0\0\0\0\0\0\0\0\0\0",
        b"r\x01\0\0\0/etc/passwd\0/map",
        &long,
        &longer,
        b"GET / HTTP/1.0\r\n\r\n",
    ] {
        let mut asked = Asked::start("[routes]\nmap = map\n");
        asked.send(request);
        assert!(asked.answer().is_none(), "{request:?}");
        let status = asked.process.wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(1), "{request:?}");
    }
    // The longest path is none.
    let asked = Asked::start("[routes]\nmap = map\n");
    let longest = format!("/{}", "x".repeat(4095));
    assert_eq!(asked.ask(b'r', &longest).map(text_of), Err(EPERM));
    let Asked {
        socket,
        mut process,
        folder,
    } = asked;
    drop(socket);
    let status = process.wait(Duration::from_secs(1));
    assert!(status.success(), "{status}");
    drop(folder);
}

#[test]
fn what_is_sent_along_stays_with_nobody() {
    let asked = Asked::start("[routes]\nmap = map\n");
    asked.folder.write("map", "the map");
    let before = descriptors(asked.process.id());
    for _ in 0..20 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sent = [asked.socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&sent)));
        let path = asked.path("map");
        let request = [b"r\x01\0\0\0", path_text(&path).as_bytes()].concat();
        let parts = [IoSlice::new(&request)];
        sendmsg(&asked.socket, &parts, &mut control, SendFlags::NOSIGNAL).expect("it is sent");
        assert!(matches!(asked.answer(), Some(Some(Ok(_)))));
    }
    // It closes its copy of what it gives a moment after the answer.
    wait::until_true("nothing stays open", PATIENCE, || {
        descriptors(asked.process.id()) == before
    });
}

#[test]
fn nobody_starts_a_keeper_by_hand() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["keeper", "--config", "/etc/passwd", "--user", "nobody"])
        .stdin(std::process::Stdio::null())
        .output();
    let output = output.expect("postern runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("started by Postern itself"), "{said}");
}

#[test]
fn hup_moves_the_status_page_to_a_port_below_1024_and_to_all_addresses() {
    let one = Ipv4Addr::new(127, 0, 0, 79);
    let server = imap("127.0.0.1:0", "");
    let (port, more) = (low_port(one), low_port(one));
    let with = |status: String| format!("status = {status}\n{server}");
    let answers = |address: Ipv4Addr, port: u16| {
        let url = format!("http://{address}:{port}/healthz");
        curl(&[&url]).text() == "ok\n"
    };
    let postern = proxy(TempDir::of_root("keeper"), &with(format!("{one}:{port}")));
    assert!(answers(one, port));
    reload(&postern, &with(format!("*:{port}")), READ_ANEW);
    assert!(answers(Ipv4Addr::LOCALHOST, port));
    reload(&postern, &with("off".to_owned()), READ_ANEW);
    reload(&postern, &with(format!("{one}:{more}")), READ_ANEW);
    assert!(answers(one, more));
    postern.stop();
}

#[test]
fn a_port_that_nobody_may_open_is_told_with_what_it_takes() {
    let one = Ipv4Addr::new(127, 0, 0, 78);
    let port = low_port(one);
    // The folder of the configuration is open to all.
    let postern = proxy(TempDir::new("keeper"), &imap("127.0.0.1:0", ""));
    let folder = postern.folder().path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let file = folder.join("postern.ini");
    let ini = format!(
        "[postern]\nuser = nobody\n{}",
        imap(&format!("{one}:{port}"), "")
    );
    fs::write(&file, ini).expect("it is ours");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it is ours");
    postern.signal(Signal::SIGHUP);
    let line = postern.wait_for_log(&format!("cannot listen on {one}:{port}: Permission denied"));
    assert!(
        line.contains("an address that stands as such in the file"),
        "{line}"
    );
    postern.stop();
}
