//! `postern demo` as a newcomer meets it: what it prints can be pasted, mail programs can use it,
//! Ctrl-C ends it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::line_client::LineClient;
use crate::common::temp::TempDir;
use crate::common::{janitor, tools, wait};

/// A running demo and what it has printed.
struct Demo {
    child: Child,
    printed: Vec<String>,
    /// Where it keeps its certificate; gone with the test even if the demo is killed.
    _folder: TempDir,
}

impl Demo {
    /// Starts the demo and reads until it says how to end it.
    fn start() -> Demo {
        // Two that look for free ports at the same moment could find the same.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().expect("no holder panics");
        let folder = TempDir::new("demo");
        let child = Command::new("setsid")
            .env("TMPDIR", folder.path())
            .args([env!("CARGO_BIN_EXE_postern"), "demo"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the demo can be started");
        janitor::end_later(child.id());
        let mut demo = Demo {
            child,
            printed: Vec::new(),
            _folder: folder,
        };
        let stdout = demo.child.stdout.take().expect("the pipe was asked for");
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let last = line.contains("Ctrl-C ends it");
            demo.printed.push(line);
            if last {
                return demo;
            }
        }
        panic!("the demo ended; it had printed {:#?}", demo.printed);
    }

    /// The printed commands that begin with this program.
    fn commands(&self, program: &str) -> Vec<&str> {
        let lines = self.printed.iter().map(|line| line.trim_start());
        lines.filter(|line| line.starts_with(program)).collect()
    }

    /// The printed address of a service.
    fn address(&self, service: &str) -> SocketAddr {
        let lines = self.printed.iter();
        let mut found = lines.filter_map(|line| {
            line.trim()
                .strip_prefix(service)?
                .split(' ')
                .find(|it| !it.is_empty())?
                .strip_prefix("localhost:")?
                .parse()
                .ok()
        });
        let port: u16 = found.next().expect("each service has its line");
        ([127, 0, 0, 1], port).into()
    }

    /// Ctrl-C, and the status that follows.
    fn interrupt(&mut self) -> Option<i32> {
        let id = Pid::from_raw(self.child.id().cast_signed());
        kill(id, Signal::SIGINT).expect("it is there to get a signal");
        wait::until("the demo ends", Duration::from_secs(5), || {
            self.child.try_wait().expect("a child of ours")
        })
        .code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        janitor::has_ended(self.child.id());
    }
}

/// Runs a command as a person would who pastes it.
fn paste(command: &str) -> String {
    let direct = format!("unset ALL_PROXY all_proxy\n{command}");
    tools::run("sh", &["-c", &direct], b"").text()
}

#[test]
fn the_printed_commands_work_as_printed() {
    let mut demo = Demo::start();
    let curl = demo.commands("curl");
    let [over_imap, over_pop3, of_bob, over_imaps, over_stls] = curl.as_slice() else {
        panic!("five commands: {curl:#?}");
    };
    let [send] = demo.commands("printf")[..] else {
        panic!("one command that sends");
    };
    assert!(over_imap.contains("imap://"), "{over_imap}");
    assert!(over_pop3.contains("pop3://"), "{over_pop3}");
    assert!(send.contains("smtp://"), "{send}");

    assert!(over_imaps.contains("imaps://"), "{over_imaps}");
    assert!(over_stls.contains("--ssl-reqd"), "{over_stls}");

    for command in [over_imap, over_pop3, over_imaps, over_stls] {
        let message = paste(command);
        assert!(
            message.contains("Subject: Welcome to Postern\r\n"),
            "{message}"
        );
        assert!(message.contains("\r\nHello alice,\r\n"), "{message}");
    }
    assert!(paste(of_bob).contains("\r\nHello bob,\r\n"));
    paste(send);
    let message = paste(of_bob);
    assert!(
        message.contains("Subject: Hello\r\n\r\nHello Bob!\r\n"),
        "{message}"
    );
    assert!(message.contains("(logged in as alice)"), "{message}");
    assert_eq!(demo.interrupt(), Some(0));
}

const SESSION: &str = r#"
import imaplib, poplib, smtplib, sys, time
host = "localhost"
imap_port, pop3_port, smtp_port = map(int, sys.argv[1:4])

def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]

wrong = imaplib.IMAP4(host, imap_port)
try:
    wrong.login("alice", "builder")
    raise SystemExit("a wrong password was accepted")
except imaplib.IMAP4.error:
    pass
wrong.logout()

imap = imaplib.IMAP4(host, imap_port)
ok(imap.login("alice@demo.test", "wonderland"))
assert b'"/" INBOX' in ok(imap.list())[0], imap.list()
assert ok(imap.select()) == [b"1"]
assert ok(imap.search(None, "UNSEEN")) == [b"1"]
[(start, header), end] = ok(imap.fetch("1", "(UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (Subject)])"))
assert b"UID 1" in start and header == b"Subject: Welcome to Postern\r\n\r\n", (start, header)
assert b"ENVELOPE (" in ok(imap.fetch("1", "(ENVELOPE BODYSTRUCTURE)"))[0]
assert ok(imap.search(None, "UNSEEN")) == [b"1"]
[(_, whole), _] = ok(imap.uid("FETCH", "1", "(BODY[])"))
assert b"Hello alice," in whole
assert ok(imap.search(None, "SEEN", "SUBJECT", "welcome")) == [b"1"]
assert b"\\Flagged" in ok(imap.store("1", "+FLAGS", "(\\Flagged)"))[0]

draft = b"Subject: a draft\r\n\r\n.\r\n..two\r\n"
ok(imap.append("INBOX", "(\\Draft)", imaplib.Time2Internaldate(time.time()), draft))
assert ok(imap.uid("SEARCH", None, "DRAFT")) == [b"2"]
[(_, text), _] = ok(imap.fetch("2", "(BODY[TEXT]<1.4>)"))
assert text == b"\r\n..", text

# IDLE, by hand: a message arrives by SMTP meanwhile.
imap.send(b"idle1 IDLE\r\n")
assert imap.readline().startswith(b"+ ")
with smtplib.SMTP(host, smtp_port) as smtp:
    smtp.login("bob", "builder")
    try:
        smtp.sendmail("bob@demo.test", ["carol@demo.test"], "x")
        raise SystemExit("mail to nobody was accepted")
    except smtplib.SMTPRecipientsRefused:
        pass
    smtp.sendmail("bob@demo.test", ["alice@demo.test"], "Subject: by SMTP\n\n.dotted\n..twice\n")
assert imap.readline() == b"* 3 EXISTS\r\n"
imap.send(b"DONE\r\n")
assert imap.readline().startswith(b"idle1 OK")
[(_, text), _] = ok(imap.fetch("3", "(BODY[TEXT])"))
assert text == b".dotted\r\n..twice\r\n", text

ok(imap.uid("COPY", "2", "Trash"))
ok(imap.store("2", "+FLAGS.SILENT", "\\Deleted"))
assert ok(imap.expunge()) == [b"2"]
assert ok(imap.uid("SEARCH", None, "ALL")) == [b"1 3"]
assert b"MESSAGES 1" in ok(imap.status("Trash", "(MESSAGES UNSEEN)"))[0]
assert imap.create("Elsewhere")[0] == "NO"
ok(imap.select("INBOX", readonly=True))
assert imap.store("1", "+FLAGS", "\\Deleted")[0] == "NO"
ok(imap.close())

pop = poplib.POP3(host, pop3_port)
pop.user("alice")
pop.pass_("wonderland")
assert pop.stat()[0] == 2
assert len(pop.uidl()[1]) == 2
assert pop.retr(2)[1][-2:] == [b".dotted", b"..twice"], pop.retr(2)
assert b"Subject: by SMTP" in pop.top(2, 0)[1]
pop.dele(2)
pop.rset()
pop.dele(1)
pop.quit()

ok(imap.select())
assert ok(imap.search(None, "ALL")) == [b"1"]
imap.logout()
"#;

#[test]
fn pythons_libraries_can_use_the_mail_store() {
    let demo = Demo::start();
    let port = |service| demo.address(service).port().to_string();
    let (imap, pop3, smtp) = (port("IMAP"), port("POP3"), port("SMTP"));
    tools::python(SESSION, &[&imap, &pop3, &smtp]).text();
}

#[test]
fn a_second_demo_takes_other_ports() {
    let (first, second) = (Demo::start(), Demo::start());
    for service in ["IMAP", "POP3", "SMTP"] {
        assert_ne!(first.address(service), second.address(service));
        let (_, greeting) = LineClient::greeted(second.address(service));
        assert!(greeting.contains("ready"), "{greeting}");
    }
}

#[test]
fn commands_that_are_too_large_or_broken_cost_nothing() {
    let demo = Demo::start();
    let (mut client, _) = LineClient::greeted(demo.address("IMAP"));
    client.send("a LOGIN alice wonderland");
    client.lines_until("a OK");
    client.ask(
        "b APPEND INBOX {99999999}",
        "b NO [TOOBIG] literal too large",
    );
    client.ask(
        "c APPEND INBOX {99999999999999999999999}",
        "c NO [TOOBIG] literal too large",
    );
    client.ask("d SELECT {70000}", "d NO [TOOBIG] literal too large");
    for broken in [
        "FETCH 1 ALL",
        "SELECT",
        "UID",
        "SELECT \"x",
        "X",
        "STATUS INBOX (",
    ] {
        client.ask(&format!("e {broken}"), "e BAD invalid command");
    }
    client.ask("(", "* BAD invalid command");
    client.ask("", "* BAD invalid command");
    client.send("f SELECT INBOX");
    client.lines_until("f OK");
    for broken in [
        "FETCH 0 ALL",
        "FETCH 1 (",
        "STORE 1 FLAGS",
        "SEARCH",
        "SEARCH ((((((((((ALL",
        "COPY 1",
    ] {
        client.ask(&format!("g {broken}"), "g BAD invalid command");
    }
    client.send(&format!("h FETCH 1 {}", "(".repeat(70_000)));
    client.expect_close();
    let (mut client, _) = LineClient::greeted(demo.address("IMAP"));
    client.send("a LOGIN alice wonderland");
    client.lines_until("a OK");
    client.send("b LOGOUT");
    client.expect("* BYE Bye");
    client.expect("b OK LOGOUT completed");
    client.expect_close();
}
