//! Logging in to backends that break rules, wait for ever or die.

use std::time::{Duration, Instant};

use crate::common::auth_server::AuthServer;
use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::proxy_to;
use crate::peers::smtp::{smtp_server, smtp_server_without_xclient};
use crate::peers::unruly::{
    floods_untagged, never_ends_its_line, never_greets, one_byte_at_a_time, says_and_closes,
    says_bye, says_more_behind_its_ok, says_preauth, stalls_after_greeting,
};
use crate::peers::{Peer, Talk};

const INTERNAL: &str = "* BAD internal server error";

struct Setting {
    postern: Postern,
    backend: Peer,
    _auth: AuthServer,
}

fn proxy(
    protocol: &str,
    more: &str,
    play: impl Fn(&mut Talk) -> std::io::Result<()> + Send + Sync + 'static,
) -> Setting {
    let backend = Peer::start(play);
    let (postern, auth) = proxy_to(protocol, backend.address(), more);
    Setting {
        postern,
        backend,
        _auth: auth,
    }
}

impl Setting {
    fn imap(&self) -> LineClient {
        LineClient::greeted(self.postern.address("imap")).0
    }

    fn smtp(&self) -> LineClient {
        LineClient::greeted(self.postern.address("smtp")).0
    }
}

#[test]
fn answers_of_single_bytes_are_put_together() {
    let setting = proxy("imap", "", one_byte_at_a_time);
    let mut client = setting.imap();
    client.send("a LOGIN alice secret");
    client.expect("* CAPABILITY IMAP4rev1 SLOW");
    client.expect("a OK slow login");
}

#[test]
fn untagged_lines_around_the_ok_and_behind_it_reach_the_client() {
    let setting = proxy("imap", "", says_more_behind_its_ok);
    let mut client = setting.imap();
    client.send("a LOGIN alice secret");
    client.expect("* 1 EXISTS");
    client.expect("* CAPABILITY IMAP4rev1");
    client.expect("a OK in");
    client.expect("* 2 EXISTS");
}

#[test]
fn a_backend_that_says_preauth_is_unavailable() {
    let setting = proxy("imap", "", says_preauth);
    let mut client = setting.imap();
    client.send("a LOGIN alice secret");
    let line = client.line();
    assert!(line.starts_with("a NO [UNAVAILABLE]"), "{line}");
    client.expect_close();
    setting
        .postern
        .wait_for_log("upstream sent invalid response: \"* PREAUTH");
    assert!(setting.backend.received().is_empty());
}

#[test]
fn a_backend_that_says_bye_is_unavailable() {
    let setting = proxy("imap", "proxy_pass_error_message = on", says_bye);
    let mut client = setting.imap();
    client.send("a LOGIN alice secret");
    let line = client.line();
    assert!(line.starts_with("a NO [UNAVAILABLE]"), "{line}");
    client.expect_close();
}

#[test]
fn a_backend_that_never_greets_times_out() {
    let setting = proxy("imap", "timeout = 1s", never_greets);
    let mut client = setting.imap();
    let start = Instant::now();
    client.ask("a LOGIN alice secret", INTERNAL);
    assert!(start.elapsed() < Duration::from_secs(5));
    client.expect_close();
    setting.postern.wait_for_log("upstream timed out");
}

#[test]
fn a_backend_that_stalls_after_its_greeting_times_out() {
    let cases = [
        ("imap", "* OK ready", "a LOGIN alice secret", INTERNAL),
        (
            "pop3",
            "+OK ready",
            "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
            "-ERR internal server error",
        ),
        (
            "smtp",
            "220 ready",
            "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
            "451 4.3.2 Internal server error",
        ),
    ];
    for (protocol, greeting, login, answer) in cases {
        let setting = proxy(protocol, "timeout = 1s", stalls_after_greeting(greeting));
        let (mut client, _) = LineClient::greeted(setting.postern.address(protocol));
        client.ask(login, answer);
        client.expect_close();
        let line = setting.postern.wait_for_log("upstream timed out");
        assert!(line.contains(" to upstream, "), "{line}");
    }
}

#[test]
fn a_flood_of_untagged_lines_is_bounded() {
    let setting = proxy("imap", "", floods_untagged);
    let mut client = setting.imap();
    client.ask("a LOGIN alice secret", INTERNAL);
    client.expect_close();
}

#[test]
fn an_endless_line_is_bounded() {
    let setting = proxy("imap", "", never_ends_its_line);
    let mut client = setting.imap();
    client.send("a LOGIN alice secret");
    let line = client.line();
    assert!(
        line == INTERNAL || line.starts_with("a NO [UNAVAILABLE]"),
        "{line}"
    );
    client.expect_close();
}

#[test]
fn a_greeting_of_another_protocol_lets_nobody_in() {
    for greeting in ["+OK POP3", "220 SMTP", "HTTP/1.1 400 Bad Request", ""] {
        let setting = proxy("imap", "", says_and_closes(greeting));
        let mut client = setting.imap();
        client.send("a LOGIN alice secret");
        let line = client.line();
        assert!(
            line == INTERNAL || line.starts_with("a NO [UNAVAILABLE]"),
            "{line}"
        );
        client.expect_close();
    }
}

#[test]
fn a_refused_xclient_is_an_internal_error() {
    let setting = proxy("smtp", "", smtp_server_without_xclient);
    let mut client = setting.smtp();
    client.ask(
        "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
        "451 4.3.2 Internal server error",
    );
    client.expect_close();
    let line = setting.postern.wait_for_log("insufficient authorization");
    assert!(line.contains("[error]"), "{line}");
    assert!(
        line.contains(" while sending XCLIENT to upstream, "),
        "{line}"
    );
}

#[test]
fn a_refused_xclient_is_handed_on_when_configured() {
    let more = "proxy_pass_error_message = on";
    let setting = proxy("smtp", more, smtp_server_without_xclient);
    let mut client = setting.smtp();
    client.ask(
        "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
        "550 5.7.0 backend: insufficient authorization",
    );
    client.expect_close();
}

#[test]
fn a_refusal_of_several_lines_is_handed_on_whole() {
    let more = "proxy_pass_error_message = on";
    let setting = proxy("smtp", more, |talk| {
        talk.send(b"554-5.7.1 go\r\n554-5.7.1 right\r\n554 5.7.1 away\r\n")?;
        talk.wait_for_end()
    });
    let mut client = setting.smtp();
    client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "554-5.7.1 go");
    client.expect("554-5.7.1 right");
    client.expect("554 5.7.1 away");
    client.expect_close();
}

#[test]
fn xclient_auto_is_sent_only_to_a_backend_that_lists_it() {
    let setting = proxy("smtp", "xclient = auto", smtp_server);
    setting
        .smtp()
        .ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK");
    setting
        .backend
        .wait_for("XCLIENT ADDR=127.0.0.1 LOGIN=alice NAME=[UNAVAILABLE]\r\n");

    let setting = proxy("smtp", "xclient = auto", |talk| {
        talk.say("220 backend")?;
        talk.line()?;
        talk.send(b"250-backend\r\n250-XCLIENTX NAME\r\n250 8BITMIME\r\n")?;
        talk.wait_for_end()
    });
    setting
        .smtp()
        .ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK");
    assert!(
        !setting
            .backend
            .lines()
            .iter()
            .any(|line| line.starts_with("XCLIENT"))
    );
}

#[test]
fn xclient_full_sends_every_attribute_the_backend_lists() {
    let setting = proxy("smtp", "xclient = full", smtp_server);
    let mut client = setting.smtp();
    client.ask("HELO client.test", "250 proxy.test");
    client.ask("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235 2.0.0 OK");
    let lines = setting.backend.lines();
    let line = lines
        .iter()
        .find(|line| line.starts_with("XCLIENT "))
        .expect("one was sent");
    let (from, to) = (client.local_address(), setting.postern.address("smtp"));
    let wanted = [
        "ADDR=127.0.0.1".to_owned(),
        "LOGIN=alice".to_owned(),
        "NAME=[UNAVAILABLE]".to_owned(),
        format!("PORT={}", from.port()),
        "PROTO=SMTP".to_owned(),
        "HELO=client.test".to_owned(),
        "DESTADDR=127.0.0.1".to_owned(),
        format!("DESTPORT={}", to.port()),
    ];
    for attribute in wanted {
        assert!(
            line.split(' ').any(|word| word == attribute),
            "no {attribute} in {line}"
        );
    }
}
