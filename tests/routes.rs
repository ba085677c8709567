//! `[routes]`: which backend a login goes to, and what it is called there.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::common::auth_server::{Answer, AuthServer};
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::tools::curl;
use crate::common::wait;
use crate::peers::{Peer, imap_server, pop3_server};
use crate::servers::dovecot::{self, Dovecot};

const REFUSED: &str = "NO [AUTHENTICATIONFAILED]";

/// Two IMAP backends that remember their logins, and a proxy in front of them.
struct Setting {
    postern: Postern,
    first: Peer,
    second: Peer,
}

fn proxy(server: &str, routes: &str) -> Setting {
    let (first, second) = (Peer::start(imap_server), Peer::start(imap_server));
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nimap_capabilities = IMAP4rev1\n\
         {server}\n[backend first]\nhosts = {}\n[backend second]\nhosts = {}\n[routes]\n{routes}\n",
        first.address(),
        second.address()
    ));
    Setting {
        postern,
        first,
        second,
    }
}

impl Setting {
    fn log_in(&self, login: &str) -> String {
        let (mut client, _) = LineClient::greeted(self.postern.address("imap"));
        client.send(&format!("a LOGIN \"{login}\" secret"));
        client.line()
    }

    /// Logs in and says which backend it was, and the name that it got.
    fn way_of(&self, login: &str) -> (&'static str, String) {
        self.first.forget();
        self.second.forget();
        let answer = self.log_in(login);
        assert!(answer.starts_with("a OK"), "{login}: {answer}");
        for (name, peer) in [("first", &self.first), ("second", &self.second)] {
            // The name stands before the announcement of the password.
            if let Some(line) = peer.lines().get(1)
                && let Some((shown, _)) = line.rsplit_once(" {")
            {
                return (name, shown.to_owned());
            }
        }
        panic!("{login} came to no backend");
    }

    fn backend_of(&self, login: &str) -> &'static str {
        self.way_of(login).0
    }
}

#[test]
fn the_first_route_that_fits_wins() {
    let setting = proxy(
        "",
        "route = anna@b.org second\nroute = @b.org first\nroute = carl second\n\
         route = @gone.org reject Gone: see \"news\"\nroute = * first\nroute = dora second",
    );
    for (login, backend) in [
        ("anna@b.org", "second"),
        ("ANNA@B.ORG", "second"),
        ("bert@b.org", "first"),
        ("Bert@B.Org", "first"),
        ("bert@sub.b.org", "first"),
        ("carl", "second"),
        ("CARL", "second"),
        ("carl@elsewhere.org", "second"),
        ("carl@b.org", "first"),
        ("dora", "first"),
        ("anything at all", "first"),
    ] {
        assert_eq!(setting.backend_of(login), backend, "{login}");
    }
    // The backend is shown what the client typed.
    assert_eq!(setting.way_of("ANNA@B.ORG").1, "ANNA@B.ORG");
}

#[test]
fn a_rejection_says_its_text_and_reaches_no_backend() {
    let setting = proxy(
        "",
        "route = @gone.org reject Gone: see \"news\"\nroute = * first",
    );
    for login in ["x@gone.org", "x@GONE.org"] {
        let answer = setting.log_in(login);
        assert_eq!(answer, format!("a {REFUSED} Gone: see \"news\""));
    }
    assert_eq!(
        (setting.first.accepted(), setting.second.accepted()),
        (0, 0)
    );
    setting
        .postern
        .wait_for_log("client login failed: \"Gone: see");
}

#[test]
fn no_route_is_a_failed_login_that_may_be_tried_again() {
    let setting = proxy("", "route = @a.org first\nroute = @b.org second");
    let (mut client, _) = LineClient::greeted(setting.postern.address("imap"));
    let refused = "NO [AUTHENTICATIONFAILED] Authentication failed";
    client.ask("a LOGIN x@c.org secret", &format!("a {refused}"));
    client.ask("b LOGIN a.org secret", &format!("b {refused}"));
    assert_eq!(
        (setting.first.accepted(), setting.second.accepted()),
        (0, 0)
    );
    client.send("c LOGIN x@b.org secret");
    assert!(client.line().starts_with("c OK"));
}

#[test]
fn login_domain_is_appended_for_the_route_alone() {
    let setting = proxy(
        "login_domain = b.org",
        "route = @b.org second\nroute = * first",
    );
    assert_eq!(setting.way_of("anna"), ("second", "anna".to_owned()));
    assert_eq!(
        setting.way_of("anna@c.org"),
        ("first", "anna@c.org".to_owned())
    );
}

#[test]
fn login_domain_pass_shows_it_to_the_backend() {
    let setting = proxy(
        "login_domain = B.org\nlogin_domain_pass = on",
        "route = @b.org second\nroute = * first",
    );
    assert_eq!(setting.way_of("anna").0, "second");
    assert!(setting.way_of("anna").1.eq_ignore_ascii_case("anna@b.org"));
    assert_eq!(
        setting.way_of("anna@c.org"),
        ("first", "anna@c.org".to_owned())
    );
}

#[test]
fn strip_domain_takes_it_away_for_the_backend() {
    let setting = proxy(
        "strip_domain = on",
        "route = @b.org second\nroute = * first",
    );
    assert_eq!(setting.way_of("anna@b.org"), ("second", "anna".to_owned()));
    assert_eq!(setting.way_of("a@c@b.org"), ("second", "a@c".to_owned()));
    assert_eq!(setting.way_of("anna"), ("first", "anna".to_owned()));
}

#[test]
fn a_single_backend_takes_everyone() {
    let backend = Peer::start(pop3_server);
    let postern = Postern::start(&format!(
        "[server pop3]\nprotocol = pop3\nlisten = 127.0.0.1:0\n[backend only]\nhosts = {}\n",
        backend.address()
    ));
    for login in ["anna", "bert@b.org"] {
        let (mut client, _) = LineClient::greeted(postern.address("pop3"));
        client.ask(&format!("USER {login}"), "+OK");
        client.ask("PASS secret", "+OK backend PASS");
        backend.wait_for(&format!("USER {login}\r\nPASS secret\r\n"));
    }
}

/// A proxy whose routes stand in a map beside the configuration.
fn proxy_with_map(map: &str) -> (Setting, crate::common::temp::TempDir) {
    let folder = crate::common::temp::TempDir::new("map");
    let file = folder.write("users.map", map);
    let routes = format!(
        "route = top@b.org second\nmap = {}\nroute = * reject not listed",
        file.display()
    );
    (proxy("", &routes), folder)
}

#[test]
fn a_map_stands_where_it_is_named() {
    let (setting, _folder) = proxy_with_map(
        "# ours\n\nanna first\n@b.org first\n; x\nBert SECOND\n"
            .replace("SECOND", "second")
            .as_str(),
    );
    assert_eq!(setting.backend_of("anna"), "first");
    assert_eq!(setting.backend_of("top@b.org"), "second");
    assert_eq!(setting.backend_of("other@b.org"), "first");
    assert_eq!(setting.backend_of("BERT@c.org"), "second");
    assert_eq!(setting.log_in("nobody"), format!("a {REFUSED} not listed"));
}

#[test]
fn a_map_that_changes_is_read_again_while_running() {
    let (setting, folder) = proxy_with_map("anna first\n");
    assert_eq!(setting.backend_of("anna"), "first");
    folder.write("users.map", "anna second\nbert first\n");
    let limit = Duration::from_secs(3);
    wait::until_true("the new map is in use", limit, || {
        setting.backend_of("anna") == "second"
    });
    assert_eq!(setting.backend_of("bert"), "first");
    // As editors do it: a new file takes the name of the old one, and has its size.
    let new = folder.write("new", "anna first\nbert second\n");
    std::fs::rename(new, folder.path().join("users.map")).expect("the folder is ours");
    wait::until_true("the newest map is in use", limit, || {
        setting.backend_of("anna") == "first"
    });
    wait::until_true("both changes are told", limit, || {
        setting.postern.lines_with("was read again").len() == 2
    });
}

#[test]
fn a_broken_map_leaves_the_old_one_in_use_and_is_told_once() {
    let (setting, folder) = proxy_with_map("anna first\n");
    folder.write("users.map", "anna second\nbert nowhere\n");
    wait::until_true("the new map is judged", Duration::from_secs(3), || {
        assert_eq!(setting.backend_of("anna"), "first");
        !setting.postern.lines_with("stays in use").is_empty()
    });
    let line = setting.postern.wait_for_log("stays in use");
    assert!(
        line.contains("[error]") && line.contains("users.map:2: "),
        "{line}"
    );
    std::fs::remove_file(folder.path().join("users.map")).expect("the folder is ours");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(setting.backend_of("anna"), "first");
    wait::until_true("the missing map is told", Duration::from_secs(3), || {
        setting.backend_of("anna") == "first"
            && setting.postern.lines_with("stays in use").len() == 2
    });
    folder.write("users.map", "anna second\n");
    wait::until_true("the mended map is in use", Duration::from_secs(3), || {
        setting.backend_of("anna") == "second"
    });
}

#[test]
fn a_map_is_not_waited_for_where_something_else_stands_in_its_place() {
    let (setting, folder) = proxy_with_map("anna first\n");
    let map = folder.path().join("users.map");
    std::fs::remove_file(&map).expect("the folder is ours");
    nix::unistd::mkfifo(&map, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    setting.postern.wait_for_log("stays in use");
    assert_eq!(setting.backend_of("anna"), "first");
    std::fs::remove_file(&map).expect("the folder is ours");
    folder.write("users.map", "anna second\n");
    wait::until_true("the new map is in use", Duration::from_secs(3), || {
        setting.backend_of("anna") == "second"
    });
}

#[test]
fn a_map_that_could_not_be_read_for_want_of_a_descriptor_is_read_later() {
    let (setting, folder) = proxy_with_map("anna first\n");
    setting.postern.leave_descriptors(0);
    folder.write("users.map", "anna second\n");
    let line = setting.postern.wait_for_log("stays in use");
    assert!(line.contains("Too many open files"), "{line}");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(setting.postern.lines_with("stays in use").len(), 1);
    setting.postern.leave_descriptors(100);
    wait::until_true("the new map is in use", Duration::from_secs(5), || {
        setting.backend_of("anna") == "second"
    });
}

#[test]
fn a_map_that_is_byte_order_marked_or_not_text_is_judged_alike_at_start_and_later() {
    let (setting, folder) = proxy_with_map("\u{feff}anna first\n");
    assert_eq!(setting.backend_of("anna"), "first");
    folder.write("users.map", "\u{feff}anna second\n");
    wait::until_true("the new map is in use", Duration::from_secs(3), || {
        setting.backend_of("anna") == "second"
    });
}

#[test]
fn two_dovecots_serve_a_domain_each() {
    let (one, two) = (dovecot::shared(), Dovecot::start());
    one.deliver("anna", b"Subject: x\n\nFrom one.\n");
    two.deliver("anna", b"Subject: x\n\nFrom two.\n");
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         [backend one]\nhosts = {}\n[backend two]\nhosts = {}\n\
         [routes]\nroute = @one.test one\nroute = @two.test two\n",
        one.imap, two.imap
    ));
    let url = format!("imap://{}/INBOX;UID=1", postern.address("imap"));
    for (domain, text) in [("one.test", "From one."), ("two.test", "From two.")] {
        let user = format!("anna@{domain}:secret");
        let message = curl(&["--user", &user, &url]).text();
        assert!(message.contains(text), "{domain}: {message}");
    }
    let said = curl(&["--user", "anna@three.test:secret", &url]);
    assert!(!said.success, "{}", said.everything());
}

#[test]
fn the_auth_server_may_name_a_backend() {
    let (first, second) = (Peer::start(imap_server), Peer::start(imap_server));
    let auth = AuthServer::start(|request| {
        let backend = match request.header("Auth-User") {
            Some("anna") => "Auth-Backend: first",
            Some("bert") => "Auth-Backend: second",
            _ => "Auth-Backend: third",
        };
        Answer::headers(&["Auth-Status: OK", backend, "Auth-User: renamed"])
    });
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_http = {}\n\
         [backend first]\nhosts = {}\n[backend second]\nhosts = {}\n",
        auth.url(),
        first.address(),
        second.address()
    ));
    for (login, backend) in [("anna", &first), ("bert", &second)] {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send(&format!("a LOGIN {login} secret"));
        let answer = client.lines_until("a ").pop().unwrap_or_default();
        assert!(answer.starts_with("a OK"), "{answer}");
        backend.wait_for("renamed {6}\r\nsecret\r\n");
    }
    let (mut client, _) = LineClient::greeted(postern.address("imap"));
    client.ask("a LOGIN carl secret", "* BAD internal server error");
    client.expect_close();
    let line = postern.wait_for_log("third");
    assert!(line.contains("[error]"), "{line}");
}

/// What a login is answered, and after how long.
fn timed(client: &mut LineClient, login: &str) -> (String, Duration) {
    let began = Instant::now();
    client.send(login);
    (client.line(), began.elapsed())
}

#[test]
fn a_login_without_a_route_is_refused_as_late_as_one_with() {
    const REFUSES_AFTER: Duration = Duration::from_millis(400);
    let backend = Peer::start(|talk| {
        talk.say("* OK hi")?;
        for _ in 0..2 {
            talk.line()?;
            talk.say("+ go on")?;
        }
        talk.line()?;
        std::thread::sleep(REFUSES_AFTER);
        talk.say("a NO no")
    });
    let postern = Postern::start(&format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         [backend one]\nhosts = {}\n[routes]\nroute = @a.org one\n\
         route = @b.org reject Gone\n",
        backend.address()
    ));
    let refused = "a NO [AUTHENTICATIONFAILED] Authentication failed";
    let greeted = || LineClient::greeted(postern.address("imap")).0;
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        let (answer, time) = timed(&mut greeted(), "a LOGIN x@a.org secret");
        assert_eq!(answer, refused);
        longest = longest.max(time);
    }
    // One without a password is shown to no backend either.
    let unseen = [
        "a LOGIN x@c.org secret",
        "a LOGIN x@c.org \"\"",
        "a LOGIN x@a.org \"\"",
    ];
    for login in unseen {
        let (answer, time) = timed(&mut greeted(), login);
        let in_time = REFUSES_AFTER..longest + Duration::from_secs(1);
        assert_eq!(answer, refused, "{login}");
        assert!(
            in_time.contains(&time),
            "{login}: {time:?}, not {in_time:?}"
        );
    }
    // The last refusal of a session too.
    let mut client = greeted();
    for _ in 0..5 {
        let (answer, time) = timed(&mut client, unseen[0]);
        assert_eq!(answer, refused);
        assert!(time >= REFUSES_AFTER, "{time:?}");
    }
    client.expect_close();
    // What the operator has to say comes at once.
    let (answer, time) = timed(&mut greeted(), "a LOGIN x@b.org secret");
    assert_eq!(answer, format!("a {REFUSED} Gone"));
    assert!(time < REFUSES_AFTER, "{time:?}");
}

#[test]
fn refusals_that_are_held_back_hold_no_worker() {
    let setting = Postern::start(
        "[postern]\nworkers = 1\n[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\n\
         imap_capabilities = IMAP4rev1\n[backend one]\nhosts = 127.0.0.1:1\n\
         [routes]\nroute = @a.org one\n",
    );
    let mut clients: Vec<_> = (0..8)
        .map(|_| LineClient::greeted(setting.address("imap")).0)
        .collect();
    let began = Instant::now();
    for client in &mut clients {
        client.send("a LOGIN x@c.org secret");
    }
    for client in &mut clients {
        client.expect("a NO [AUTHENTICATIONFAILED] Authentication failed");
    }
    // Two seconds each, as long as no backend has refused anything.
    let time = began.elapsed();
    assert!((2..6).contains(&time.as_secs()), "{time:?}");
}

#[test]
fn a_login_that_breaks_a_line_is_refused_as_late_as_others() {
    let postern = Postern::start(
        "[server pop3]\nprotocol = pop3\nlisten = 127.0.0.1:0\n\
         pop3_capabilities = USER\n[backend one]\nhosts = 127.0.0.1:1\n",
    );
    let mut client = LineClient::greeted(postern.address("pop3")).0;
    // A carriage return in the password, which no line of POP3 can carry.
    let (answer, time) = timed(&mut client, "AUTH PLAIN AHhAYS5vcmcAc2UNY3JldA==");
    assert_eq!(answer, "-ERR [AUTH] Authentication failed");
    assert!(time >= Duration::from_secs(2), "{time:?}");
}

#[test]
fn a_login_without_a_route_waits_for_the_clients_name_as_others_do() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let resolver = silent.local_addr().expect("a bound socket has an address");
    let postern = Postern::start(&format!(
        "[server smtp]\nprotocol = smtp\nlisten = 127.0.0.1:0\nsmtp_capabilities = PIPELINING\n\
         resolver = {resolver}\nresolver_timeout = 2s\n\
         [backend one]\nhosts = 127.0.0.1:1\nxclient = on\n[routes]\nroute = @a.org one\n"
    ));
    let mut client = LineClient::greeted(postern.address("smtp")).0;
    let (answer, time) = timed(&mut client, "AUTH PLAIN AHhAYy5vcmcAc2VjcmV0");
    assert_eq!(answer, "535 5.7.8 Authentication failed");
    // Two seconds each: the name, and a refusal before there was any.
    assert!(time >= Duration::from_millis(3500), "{time:?}");
}

/// Memory of the process in MiB, as the kernel counts it.
fn resident_mib(postern: &Postern) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", postern.id()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("a number")
        / 1024
}

#[test]
fn a_large_map_that_is_read_again_and_again_takes_no_more_memory() {
    const LINES: usize = 200_000;
    /// Ten times the file's 9 MB, in MiB: the old map, the new one, the file and what the heap keeps of
    /// them come to half of that, however often it is read.
    const MORE: usize = 90;
    let map = |target: &str| {
        let line = |n: usize| format!("user{n}@subsidiary-{}.example.org {target}\n", n % 100);
        (0..LINES).map(line).collect::<String>()
    };
    let maps = [map("first"), map("second")];
    let (setting, folder) = proxy_with_map(&maps[0]);
    let before = resident_mib(&setting.postern);
    for number in 1..=6 {
        folder.write("new", &maps[number % 2]);
        std::fs::rename(folder.path().join("new"), folder.path().join("users.map"))
            .expect("the folder is ours");
        wait::until_true("it is read again", Duration::from_secs(30), || {
            // Logins on many workers at a time: each of them would have a heap of its own.
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| setting.log_in("user7@subsidiary-7.example.org"));
                }
            });
            setting.postern.lines_with("was read again").len() == number
        });
        let after = resident_mib(&setting.postern);
        assert!(
            after <= before + MORE,
            "{number}: {before} MiB, then {after} MiB"
        );
    }
    let backend = setting.backend_of("user7@subsidiary-7.example.org");
    assert_eq!(backend, "first");
}
