//! The configurations that README.md and packaging/examples show: each is started against the real servers
//! it is for, with names and ports of this machine in place of those in the text.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tools::{curl, run, swaks, wait_for_line};
use crate::common::wait::{self, PATIENCE};
use crate::servers::dovecot::{self, Dovecot};
use crate::servers::haproxy::Haproxy;
use crate::servers::local;
use crate::servers::pki::{Pki, fingerprint};
use crate::servers::postfix::Postfix;
use crate::servers::redis::Redis;

const README: &str = include_str!("../README.md");
const DOVECOT: &str = include_str!("../packaging/examples/dovecot.txt");
const POSTFIX: &str = include_str!("../packaging/examples/postfix.txt");
const EXCHANGE: &str = include_str!("../packaging/examples/exchange.txt");
const NGINX: &str = include_str!("../packaging/examples/nginx.txt");
const HAPROXY: &str = include_str!("../packaging/examples/haproxy.txt");
const LOG: &str = include_str!("../packaging/examples/log.txt");
const UPGRADE: &str = include_str!("../packaging/examples/upgrade.txt");

const SHOWN_FINGERPRINT: &str = "DF:5C:52:6A:9F:45:B3:0A:1A:46:99:32:01:FC:4B:EF:57:2D:A6:49:29:60:81:62:\
                                 D8:ED:49:EB:8A:13:ED:11";
const SHOWN_AUTH_SOCKET: &str = "/var/spool/postfix/private/auth";

/// The first block behind these words: lines four spaces to the right, and empty ones among them.
fn block(text: &str, words: &str) -> String {
    let (_, rest) = text
        .split_once(words)
        .unwrap_or_else(|| panic!("nowhere: {words}"));
    let is_in = |line: &&str| line.starts_with("    ");
    let lines = rest.lines().skip(1).skip_while(|line| !is_in(line));
    let lines = lines.take_while(|line| line.is_empty() || is_in(line));
    let lines = lines.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line)));
    lines.collect()
}

/// Replaces each, and insists that it is there.
fn replace(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "no {from} in {text}");
        text.replace(from, to)
    })
}

fn at(line: &str, protocol: &str) -> (String, String) {
    let here = format!("listen = 127.0.0.1:0\nprotocol = {protocol}");
    (format!("listen = {line}\n"), format!("{here}\n"))
}

/// As it stands it is good, and nothing in it is without effect.
fn check(ini: &str) {
    let folder = TempDir::new("guide");
    let file = folder.write("postern.ini", ini).display().to_string();
    let program = env!("CARGO_BIN_EXE_postern");
    let said = run(program, &["check", "--config", &file], b"");
    assert!(
        said.success && !said.everything().contains("warn"),
        "{}",
        said.everything()
    );
}

/// Logs in and asks for the folders, from this address of loopback.
fn read_mail(address: SocketAddr, from: &str, user: &str) {
    let url = format!("imap://{address}/");
    let said = curl(&[
        "--interface",
        from,
        "--user",
        &format!("{user}:secret"),
        &url,
    ]);
    assert!(said.text().contains("INBOX"));
}

/// Logs in and sends, from this address of loopback.
fn send_mail(postern: &Postern, postfix: &Postfix, from: &str) {
    let address = postern.address("submission");
    let said = swaks(&[
        "--server",
        &address.to_string(),
        "--local-interface",
        from,
        "--to",
        "bob@example.test",
        "--from",
        "alice@example.test",
        "--auth",
        "PLAIN",
        "--auth-user",
        "alice",
        "--auth-password",
        "secret",
    ]);
    let everything = said.everything();
    let log = fs::read_to_string(&postfix.log).unwrap_or_default();
    assert!(said.success, "{everything}\n{}\n{log}", postern.log());
}

/// Dovecot with these lines of a text, and the socket at which Postfix asks it.
fn dovecot_with(lines: &str) -> (Dovecot, String) {
    let dovecot = Dovecot::start_with(&lines.replace(SHOWN_AUTH_SOCKET, "auth-office"));
    let socket = dovecot.auth_socket.with_file_name("auth-office");
    (dovecot, socket.display().to_string())
}

#[test]
fn the_small_office_of_the_readme_knows_the_clients_on_both_sides() {
    let office = README.split_once("## A small office").expect("a section").1;
    let ini = block(office, "");
    check(&ini);
    let [imap_port, smtp_port] = [free_port(), free_port()].map(|port| port.to_string());
    let conf = block(office, "99-postern.conf`:");
    let conf = replace(&conf, &[("192.0.2.10", "127.0.0.1"), ("10143", &imap_port)]);
    let (dovecot, socket) = dovecot_with(&conf);
    let main = replace(&block(office, "main.cf`:"), &[("private/auth", &socket)]);
    let smtp_inet = format!("127.0.0.1:{smtp_port} inet n - n");
    let master = block(office, "master.cf`:");
    let master = replace(&master, &[("10587 inet n - y", &smtp_inet)]);
    let postfix = Postfix::start_with(&dovecot, &main, &master);

    let pins = [&dovecot.certificate, &postfix.certificate].map(|file| fingerprint(file));
    let (imap, smtp) = (at("143", "imap"), at("587", "smtp"));
    let postern = Postern::start(&replace(
        &ini,
        &[
            (&imap.0, &imap.1),
            (&smtp.0, &smtp.1),
            ("mail.internal", "127.0.0.1"),
            ("10143", &imap_port),
            ("10587", &smtp_port),
            (SHOWN_FINGERPRINT, &pins.join("\nproxy_ssl_fingerprint = ")),
        ],
    ));
    read_mail(postern.address("imap"), "127.0.0.9", "office");
    let line = wait_for_line(&dovecot.log, "imap-login: Info: Login: user=<office>");
    assert!(line.contains("rip=127.0.0.9,"), "{line}");
    send_mail(&postern, &postfix, "127.0.0.9");
    wait_for_line(&postfix.log, "postern/smtpd");
    wait_for_line(&postfix.log, "connect from unknown[127.0.0.9]");
}

/// With a user of this machine for `postern`, and a Dovecot that knows every user.
#[test]
fn the_users_of_the_readme_come_in_with_the_passwords_of_the_file() {
    let section = README
        .split_once("## Users of one's own")
        .expect("a section")
        .1;
    let dovecot = Dovecot::start();
    // Where the keeper may open what only root reads.
    let folder = TempDir::of_root("users");
    let lines = block(section, "as it is:");
    let lines = replace(
        &lines,
        &[
            ("192.0.2.0/24", "127.0.0.0/30"),
            ("pass=s3cret", "pass=secret"),
        ],
    );
    let users = folder.write("users", lines);
    let group = Permissions::from_mode(0o640);
    fs::set_permissions(&users, group).expect("ours");
    let file = users.display().to_string();
    let ini = replace(
        &block(section, "`/etc/postern/postern.ini`:"),
        &[
            ("user = postern", "user = mail"),
            ("/etc/postern/users", &file),
            (&at("143", "imap").0, &at("143", "imap").1),
            (&at("587", "smtp").0, &at("587", "smtp").1),
            ("mail.internal", &format!("{}", dovecot.imap)),
        ],
    );
    let postern = Postern::start_in(folder, &ini);
    let program = env!("CARGO_BIN_EXE_postern");
    for (command, input) in [
        ("--delete bert@example.org", ""),
        ("bert@example.org", "secret"),
    ] {
        assert!(block(section, "service alone:").contains(&format!("postern passwd {command}\n")));
        let arguments = format!("passwd --file {file} {command}");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        // There is nobody to take out yet.
        let said = run(program, &arguments, format!("{input}\n").as_bytes());
        assert_eq!(said.success, !input.is_empty(), "{}", said.everything());
    }
    let says = |login: &str, password: &str| {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send(&format!("a LOGIN {login} {password}"));
        let said = client.lines_until("a ").pop();
        said.is_some_and(|line| line.starts_with("a OK"))
    };
    wait::until_true("bert is in", PATIENCE, || says("bert", "secret"));
    assert!(says("scanner", "only-from-here"));
    assert!(says("anna", "secret") && says("Anna@Example.org", "secret"));
    assert!(!says("anna", "geheim!") && !says("nobody", "secret"));
    // Its hash is of another password than Dovecot's.
    assert!(!says("carl", "secret"));
}

#[test]
fn the_routes_of_the_readme_are_good() {
    let routes = block(README, "get a `[routes]` section:");
    let folder = TempDir::new("routes");
    let map = folder
        .write("routes.map", "alice branch\n")
        .display()
        .to_string();
    let routes = replace(&routes, &[("/etc/postern/routes.map", &map)]);
    check(&format!(
        "[server imap]\nlisten = 143\n[backend office]\nhosts = a.test\n\
         [backend branch]\nhosts = b.test\n{routes}"
    ));
}

/// With somebody else's name for `postern`, and folders of this test for those in /etc and /var.
#[test]
fn the_service_of_the_readme_can_read_its_keys_and_open_its_log_for_ever() {
    let section = README.split_once("## With a service").expect("a section").1;
    let folder = TempDir::new("service");
    let root = folder.path();
    // The user must get as far as the folders.
    fs::set_permissions(root, Permissions::from_mode(0o755)).expect("ours");
    let lineage = root.join("letsencrypt/live/mail.example.org");
    fs::create_dir_all(&lineage).expect("ours");
    fs::create_dir_all(root.join("letsencrypt/renewal-hooks/deploy")).expect("ours");
    fs::create_dir_all(root.join("log")).expect("ours");
    let pair = Pki::shared().server();
    fs::copy(&pair.certificate, lineage.join("fullchain.pem")).expect("copied");
    fs::copy(&pair.key, lineage.join("privkey.pem")).expect("copied");
    let paths = root.display().to_string();
    let of_this_test = |text: &str| {
        text.replace("/etc/letsencrypt", &format!("{paths}/letsencrypt"))
            .replace("/etc/postern", &format!("{paths}/etc"))
            .replace("/var/log/postern", &format!("{paths}/log/postern"))
            .replace("-o postern", "-o mail")
            .replace("-g postern", "-g mail")
            .replace("user = postern", "user = mail")
    };
    let hook = of_this_test(include_str!("../packaging/examples/certbot-deploy-hook"));
    let hook = folder.write("hook", hook).display().to_string();
    let commands = [
        block(section, "A user of its own"),
        block(section, "certbot's keys are root's"),
    ];
    let commands = of_this_test(&commands.concat());
    let commands = commands.replace("packaging/examples/certbot-deploy-hook", &hook);
    // The machine has users enough.
    let (useradd, commands) = commands.split_once('\n').expect("several");
    assert!(useradd.starts_with("useradd --system "), "{useradd}");
    let said = run("sh", &["-e", "-c", commands], b"");
    assert!(said.success, "{}", said.everything());
    let key = fs::metadata(root.join("etc/tls/privkey.pem")).expect("it is there");
    assert_eq!((key.uid(), key.mode() & 0o777), (0, 0o640));

    let ini = of_this_test(&block(section, "`/etc/postern/postern.ini`, which"));
    let file = folder.write("etc/postern.ini", ini);
    let text = file.display().to_string();
    run("chown", &["root:mail", &text], b"").text();
    run("chmod", &["0640", &text], b"").text();
    let program = env!("CARGO_BIN_EXE_postern");
    let said = run(program, &["check", "--config", &text], b"");
    assert!(said.success, "{}", said.everything());
    assert_eq!(said.stderr, "");
}

#[test]
fn dovecot_behind() {
    let ini = block(DOVECOT, "/etc/postern/postern.ini:");
    check(&ini);
    let [imap_port, pop3_port] = [free_port(), free_port()].map(|port| port.to_string());
    let ports = [("10143", &*imap_port), ("10110", &*pop3_port)];
    let conf = replace(&block(DOVECOT, "99-postern.conf:"), &ports);
    let (dovecot, _) = dovecot_with(&replace(&conf, &[("192.0.2.10", "127.0.0.1")]));
    let (imap, pop3) = (at("143", "imap"), at("110", "pop3"));
    let ini = replace(&ini, &[(&imap.0, &imap.1), (&pop3.0, &pop3.1)]);
    let pin = fingerprint(&dovecot.certificate);
    let names = [("mail.internal", "127.0.0.1"), (SHOWN_FINGERPRINT, &*pin)];
    let postern = Postern::start(&replace(&replace(&ini, &ports), &names));
    read_mail(postern.address("imap"), "127.0.0.9", "guide");
    let line = wait_for_line(&dovecot.log, "imap-login: Info: Login: user=<guide>");
    assert!(line.contains("rip=127.0.0.9,"), "{line}");
    let url = format!("pop3://{}/", postern.address("pop3"));
    curl(&["--interface", "127.0.0.9", "--user", "guide:secret", &url]).text();
    let line = wait_for_line(&dovecot.log, "pop3-login: Info: Login: user=<guide>");
    assert!(line.contains("rip=127.0.0.9,"), "{line}");
}

#[test]
fn postfix_behind() {
    let ini = block(POSTFIX, "/etc/postern/postern.ini:");
    check(&ini);
    let (dovecot, socket) = dovecot_with(&block(POSTFIX, "99-postern.conf:"));
    let main = replace(&block(POSTFIX, "main.cf:"), &[("private/auth", &socket)]);
    let port = free_port();
    let inet = format!("127.0.0.1:{port} inet n - n");
    let master = block(POSTFIX, "master.cf:");
    let names = [
        ("submission inet n - y", &*inet),
        ("192.0.2.10", "127.0.0.1"),
    ];
    let postfix = Postfix::start_with(&dovecot, &main, &replace(&master, &names));
    let pin = fingerprint(&postfix.certificate);
    let listen = at("587", "smtp");
    let host = format!("127.0.0.1:{port}");
    let postern = Postern::start(&replace(
        &ini,
        &[
            (&listen.0, &listen.1),
            ("mail.internal", &host),
            (SHOWN_FINGERPRINT, &pin),
        ],
    ));
    send_mail(&postern, &postfix, "127.0.0.9");
    let line = wait_for_line(&postfix.log, "sasl_username=alice");
    assert!(line.contains("submission/smtpd"), "{line}");
    assert!(line.contains("[127.0.0.9]"), "{line}");
}

#[test]
fn exchange_behind_is_a_good_configuration() {
    check(&block(EXCHANGE, "/etc/postern/postern.ini:"));
    assert!(EXCHANGE.contains("Not tried"));
}

#[test]
fn from_nginx() {
    let dovecot = dovecot::shared();
    let auth = AuthServer::start(|_| Answer::ok(dovecot.imap));
    let url = auth.url();
    let there = url.strip_prefix("http://").expect("a URL");
    let conf = replace(
        &block(NGINX, "/etc/nginx/nginx.conf:"),
        &[("127.0.0.1:9000/auth", there)],
    );
    let folder = TempDir::new("nginx");
    let file = folder.write("nginx.conf", conf).display().to_string();
    let program = env!("CARGO_BIN_EXE_postern");
    let said = run(program, &["import-nginx", &file], b"");
    let ini = said.text();
    // The log is read where the other tests have it.
    let ini = replace(
        &ini,
        &[
            ("user = nobody\n", ""),
            ("error_log = /var/log/nginx/error.log error\n", ""),
            ("listen = 143", "listen = 127.0.0.1:0"),
            ("listen = 587", "listen = 127.0.0.1:0"),
        ],
    );
    let postern = Postern::start(&ini);
    read_mail(postern.address("imap"), "127.0.0.9", "from-nginx");
    let request = auth.wait_for_request(1);
    assert_eq!(request.header("Client-IP"), Some("127.0.0.9"));
}

#[test]
fn haproxy_in_front() {
    let ini = block(HAPROXY, "/etc/postern/postern.ini:");
    check(&ini);
    let dovecot = dovecot::shared().imap.to_string();
    let redis = Redis::start();
    let store = redis.address.to_string();
    let start = || {
        Postern::start(&replace(
            &ini,
            &[
                ("192.0.2.20", &store),
                ("listen = 10143", "listen = 127.0.0.1:0"),
                ("192.0.2.5", "127.0.0.1"),
                ("mail.internal", &dovecot),
            ],
        ))
    };
    let posterns = [start(), start()];
    let port = free_port();
    let addresses = [0, 1].map(|at: usize| posterns[at].address("imap").to_string());
    let bind = format!("bind 127.0.0.1:{port}");
    let sections = replace(
        &block(HAPROXY, "/etc/haproxy/haproxy.cfg:"),
        &[
            ("bind :143", &bind),
            ("192.0.2.11:10143", &addresses[0]),
            ("192.0.2.12:10143", &addresses[1]),
        ],
    );
    let haproxy = Haproxy::start_with(port, &sections);
    // Each has one, for they take turns.
    let from = [9, 8].map(|last| {
        let mut client = LineClient::connect_from([127, 0, 0, last], haproxy.address);
        client.line();
        client.send("a LOGIN front secret");
        client.lines_until("a OK");
        client
    });
    for postern in &posterns {
        postern.wait_for_log(": is in use");
        let line = postern.wait_for_log("client logged in");
        assert!(line.contains("client: \"127.0.0.9:") || line.contains("client: \"127.0.0.8:"));
        assert!(postern.lines_with("[error]").is_empty());
    }
    drop(from);
}

/// All source, with the line breaks in its texts taken out.
fn source(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).expect("the source is here") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all += &source(&path);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let pieces: Vec<&str> = text.split("\\\n").map(str::trim_start).collect();
            all += &pieces.concat();
        }
    }
    all.replace("\\\"", "\"")
}

#[test]
fn every_line_that_the_guide_explains_is_one_of_the_program() {
    let source = source(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    let is_message = |line: &&str| line.starts_with("    ") && !line.starts_with("     ");
    let messages: Vec<&str> = LOG.lines().filter(is_message).collect();
    assert!(messages.len() > 10, "{messages:?}");
    for message in messages {
        for piece in message.trim().split('…') {
            let piece = piece.trim_matches(|c| " :;,\"".contains(c));
            assert!(source.contains(piece), "nowhere said: {piece:?}");
        }
    }
}

#[test]
fn an_upgrade_with_quit_leaves_sessions_alone() {
    let ini = block(UPGRADE, "/etc/postern/postern.ini:");
    check(&ini);
    let port = free_port();
    let listen = format!("listen = {}\nprotocol = imap\n", local(port));
    let dovecot = dovecot::shared().imap.to_string();
    let ini = replace(
        &ini,
        &[("listen = 143\n", &listen), ("mail.internal", &dovecot)],
    );
    let log_in = |user: &str| {
        let (mut client, _) = LineClient::greeted(local(port));
        client.send(&format!("a LOGIN {user} secret"));
        client.lines_until("a OK");
        client
    };
    let old = Postern::start(&ini);
    let mut session = log_in("upgrade-1");
    old.signal(Signal::SIGQUIT);
    wait::until("the port is free", PATIENCE, || {
        std::net::TcpListener::bind(local(port)).ok()
    });
    let new = Postern::start(&ini);
    let mut later = log_in("upgrade-2");
    for client in [&mut session, &mut later] {
        client.send("b NOOP");
        client.lines_until("b OK");
    }
    session.send("c LOGOUT");
    session.lines_until("c OK");
    drop(session);
    let (status, _) = old.wait_for_end(PATIENCE);
    assert!(status.success());
    new.stop();
}
