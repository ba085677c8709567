//! The log from its API to files and sockets.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::*;

/// A folder of its own for each test, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("postern-log-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn to_file(path: &Path) -> LogTarget {
    LogTarget {
        destination: LogDestination::File(path.to_owned()),
        level: Severity::Info,
        format: LogFormat::Text,
        filter: None,
    }
}

fn to_syslog(server: SyslogServer) -> LogTarget {
    let syslog = Syslog {
        server,
        facility: 23,
        tag: "postern".to_owned(),
        severity: None,
        nohostname: true,
    };
    LogTarget {
        destination: LogDestination::Syslog(syslog),
        ..to_file(Path::new(""))
    }
}

fn open(targets: &[LogTarget]) -> Log {
    Log::open(targets, &[], TextLayout::Angie).expect("targets that open")
}

fn say(log: &Log, severity: Severity, message: &str) {
    log.write(severity, file!(), message, None, None);
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a log file")
}

#[test]
fn severities_have_the_names_and_the_order_of_syslog() {
    let names = [
        "debug", "info", "notice", "warn", "error", "crit", "alert", "emerg",
    ];
    let parsed: Vec<Severity> = names
        .iter()
        .filter_map(|name| Severity::parse(name))
        .collect();
    assert_eq!(parsed, Severity::ALL);
    assert!(parsed.is_sorted());
    assert_eq!(Severity::parse("INFO"), None);
}

#[test]
fn each_target_gets_its_level_and_everything_above() {
    let folder = Folder::new();
    let (all, severe) = (folder.file("all"), folder.file("severe"));
    let log = open(&[
        to_file(&all),
        LogTarget {
            level: Severity::Crit,
            ..to_file(&severe)
        },
    ]);
    assert!(!log.enabled(Severity::Debug));
    assert!(log.enabled(Severity::Info));
    for severity in Severity::ALL {
        say(&log, severity, severity.name());
    }
    assert_eq!(read(&all).lines().count(), 7);
    let severe = read(&severe);
    let levels: Vec<&str> = severe
        .lines()
        .filter_map(|line| line.rsplit(' ').next())
        .collect();
    assert_eq!(levels, ["crit", "alert", "emerg"]);
}

#[test]
fn filter_lets_lines_of_its_tag_pass_only() {
    let folder = Folder::new();
    let (one, other, mail) = (
        folder.file("one"),
        folder.file("other"),
        folder.file("mail"),
    );
    let tagged = |path: &Path, tag: &str| LogTarget {
        filter: Some(tag.to_owned()),
        ..to_file(path)
    };
    let targets = [
        tagged(&one, "one"),
        tagged(&other, "other"),
        tagged(&mail, "mail"),
    ];
    let server =
        Log::open(&targets, &["one".to_owned()], TextLayout::Angie).expect("a server's log");
    say(&server, Severity::Info, "server");
    let process = Log::open_process(&targets, &["other".to_owned()], TextLayout::Angie)
        .expect("the process's log");
    say(&process, Severity::Info, "process");
    assert!(read(&one).ends_with(": server\n") && read(&one).lines().count() == 1);
    assert!(read(&other).ends_with(": process\n") && read(&other).lines().count() == 1);
    assert!(read(&mail).ends_with(": server\n") && read(&mail).lines().count() == 1);
}

#[test]
fn log_whose_filters_match_nothing_is_disabled() {
    let folder = Folder::new();
    let target = LogTarget {
        filter: Some("x".to_owned()),
        ..to_file(&folder.file("log"))
    };
    assert!(!open(&[target]).enabled(Severity::Emerg));
}

#[test]
fn tags_of_servers_begin_with_mail_and_those_of_the_process_do_not() {
    let folder = Folder::new();
    let path = folder.file("log");
    let targets = [LogTarget {
        format: LogFormat::Json,
        ..to_file(&path)
    }];
    let tags = ["a\"b".to_owned()];
    say(
        &Log::open(&targets, &tags, TextLayout::Angie).expect("a log"),
        Severity::Info,
        "1",
    );
    say(
        &Log::open_process(&targets, &[], TextLayout::Angie).expect("a log"),
        Severity::Info,
        "2",
    );
    let lines: Vec<serde_json::Value> = read(&path)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines[0]["tags"], serde_json::json!(["mail", "a\"b"]));
    assert_eq!(lines[0]["src"], "tests.rs");
    assert_eq!(lines[1]["tags"], serde_json::json!([]));
}

#[test]
fn no_targets_stand_for_stderr_info() {
    let log = open(&[]);
    assert!(log.enabled(Severity::Info) && !log.enabled(Severity::Debug));
}

#[test]
fn file_is_appended_to_and_not_for_everybody_to_read() {
    let folder = Folder::new();
    let path = folder.file("log");
    let log = open(&[to_file(&path)]);
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
    say(&log, Severity::Info, "first");
    drop(log);
    say(&open(&[to_file(&path)]), Severity::Info, "second");
    assert_eq!(read(&path).lines().count(), 2);
}

#[test]
fn file_that_cannot_be_opened_is_named() {
    let error = Log::open(
        &[to_file(Path::new("/nowhere/at/all.log"))],
        &[],
        TextLayout::Angie,
    )
    .expect_err("no such folder");
    assert!(
        error.starts_with("cannot open log file /nowhere/at/all.log: No such file"),
        "{error}"
    );
}

#[test]
fn destination_of_two_sections_is_opened_once() {
    let folder = Folder::new();
    let path = folder.file("log");
    let (one, two) = (open(&[to_file(&path)]), open(&[to_file(&path)]));
    assert!(Arc::ptr_eq(
        &one.section.targets[0].destination,
        &two.section.targets[0].destination
    ));
}

#[test]
fn files_are_reopened_after_a_rename_and_kept_when_that_fails() {
    let folder = Folder::new();
    let path = folder.file("log");
    let renamed = folder.file("log.1");
    let log = open(&[to_file(&path)]);
    say(&log, Severity::Info, "before");
    fs::rename(&path, &renamed).expect("a rename");
    say(&log, Severity::Info, "between");
    assert!(
        !reopen()
            .iter()
            .any(|error| error.contains(&*path.to_string_lossy()))
    );
    say(&log, Severity::Info, "after");
    assert_eq!(read(&renamed).lines().count(), 2);
    assert!(read(&path).ends_with(": after\n"));

    let gone = folder.file("gone");
    let kept = folder.file("kept");
    fs::create_dir(&gone).expect("a folder");
    let log = open(&[to_file(&gone.join("log"))]);
    fs::rename(&gone, &kept).expect("a rename");
    assert!(
        reopen()
            .iter()
            .any(|error| error.contains(&*gone.to_string_lossy()))
    );
    say(&log, Severity::Info, "still here");
    assert!(read(&kept.join("log")).ends_with(": still here\n"));
}

#[test]
fn lines_of_many_threads_stay_whole() {
    let folder = Folder::new();
    let path = folder.file("log");
    let log = open(&[to_file(&path)]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = log.clone();
            scope.spawn(move || {
                let message = format!("{thread}-").repeat(100);
                for _ in 0..200 {
                    say(&log, Severity::Info, &message);
                }
            });
        }
    });
    let text = read(&path);
    assert_eq!(text.lines().count(), 1600);
    for line in text.lines() {
        let (_, message) = line
            .split_once("#")
            .and_then(|(_, rest)| rest.split_once(": "))
            .expect("a whole line");
        assert!(line.starts_with("20") && message.len() == 200, "{line}");
        assert_eq!(message, message[..2].repeat(100));
    }
}

#[test]
fn pipe_that_nobody_empties_delays_nobody_and_holds_whole_lines() {
    let folder = Folder::new();
    let path = folder.file("pipe");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .expect("a reader");
    let log = open(&[to_file(&path)]);
    for _ in 0..3000 {
        say(&log, Severity::Info, &"x".repeat(1000));
    }
    drop(log);
    let mut text = String::new();
    reader
        .read_to_string(&mut text)
        .expect("what the pipe held");
    assert!(text.ends_with("x\n"));
    let lengths: HashSet<usize> = text.lines().map(str::len).collect();
    assert_eq!(lengths.len(), 1);
}

#[test]
fn records_of_dependencies_do_not_appear() {
    let folder = Folder::new();
    let path = folder.file("log");
    let log = open(&[LogTarget {
        level: Severity::Debug,
        ..to_file(&path)
    }]);
    assert_eq!(::log::max_level(), ::log::LevelFilter::Off);
    for target in [
        "rustls::conn",
        "postern",
        &*path.to_string_lossy(),
        log.section.targets[0].destination.name(),
    ] {
        let record = ::log::Record::builder()
            .target(target)
            .level(::log::Level::Error)
            .args(format_args!("x"))
            .build();
        ::log::logger().log(&record);
    }
    assert_eq!(read(&path), "");
    say(&log, Severity::Debug, "ours");
    assert_eq!(read(&path).lines().count(), 1);
}

#[test]
fn syslog_over_udp_gets_the_whole_line_behind_its_header() {
    let collector = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    collector
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let port = collector.local_addr().expect("an address").port();
    let log = open(&[to_syslog(SyslogServer::Udp("localhost".to_owned(), port))]);
    say(&log, Severity::Warn, "hello");
    let mut datagram = [0; 4096];
    let length = collector.recv(&mut datagram).expect("a datagram");
    let text = std::str::from_utf8(&datagram[..length]).expect("UTF-8");
    let (header, line) = text.split_once(" postern: ").expect("a tag");
    assert!(
        header.starts_with("<188>") && header.len() == "<188>Nov 22 11:14:09".len(),
        "{text}"
    );
    assert!(
        line.contains(" [warn] ") && line.ends_with(": hello"),
        "{text}"
    );
}

#[test]
fn collector_that_is_away_misses_its_lines_and_gets_the_next() {
    let folder = Folder::new();
    let path = folder.file("collector");
    let log = open(&[to_syslog(SyslogServer::Unix(path.clone()))]);
    say(&log, Severity::Info, "lost");
    let receive = || {
        let collector = UnixDatagram::bind(&path).expect("a socket");
        collector
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        say(&log, Severity::Info, "heard");
        let mut datagram = [0; 4096];
        let length = collector.recv(&mut datagram).expect("a datagram");
        assert!(datagram[..length].ends_with(b": heard"));
        fs::remove_file(&path).expect("removed");
    };
    receive();
    say(&log, Severity::Info, "lost again");
    receive();
}

#[test]
fn collector_that_does_not_read_delays_nobody() {
    let folder = Folder::new();
    let path = folder.file("collector");
    let _collector = UnixDatagram::bind(&path).expect("a socket");
    let log = open(&[to_syslog(SyslogServer::Unix(path.clone()))]);
    for _ in 0..5000 {
        say(&log, Severity::Info, "unread");
    }
}

#[test]
fn long_line_becomes_one_bounded_datagram() {
    let collector = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    collector
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let port = collector.local_addr().expect("an address").port();
    let log = open(&[to_syslog(SyslogServer::Udp("127.0.0.1".to_owned(), port))]);
    say(&log, Severity::Info, &"x".repeat(100_000));
    let mut datagram = [0; 8192];
    let length = collector.recv(&mut datagram).expect("a datagram");
    assert!(length <= DATAGRAM_LIMIT + 64, "{length}");
    assert!(datagram[..length].ends_with(b")"));
}

#[test]
fn syslog_server_that_cannot_be_used_is_named() {
    let far = PathBuf::from(format!("/{}", "x".repeat(200)));
    let error = Log::open(
        &[to_syslog(SyslogServer::Unix(far))],
        &[],
        TextLayout::Angie,
    )
    .expect_err("a path too long");
    assert!(error.starts_with("syslog server unix:/xxx"), "{error}");
}
