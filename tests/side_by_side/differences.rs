//! Where the two proxies may differ, and why that is right: one table.

/// A place where the two said different things; lines are parted by ` / `.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// What nginx said.
    pub(crate) nginx: String,
    /// What Postern said instead.
    pub(crate) postern: String,
}

/// A difference that is right. In all texts `*` stands for anything.
pub(crate) struct Row {
    /// `PROTOCOL/NAME WAY` of the dialogues.
    dialogue: &'static str,
    party: Party,
    nginx: &'static str,
    postern: &'static str,
    /// Why it is so.
    reason: &'static str,
}

/// Who sees a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    /// The client alone.
    Client,
    /// The client; and nginx alone asks the auth server or logs in to the backend.
    ClientThenNginx,
    /// The client; and Postern alone does.
    ClientThenPostern,
    /// The auth server.
    Auth,
    /// The backend.
    Backend,
}

/// A row by its number, and whether it is what nginx or Postern alone did behind it.
pub(crate) type Met = (usize, bool);

impl Row {
    /// Everything that must be met. What nginx overlooks when it comes in one segment depends on whether
    /// the kernel delivers it in one, so that it need not be.
    pub(crate) fn all(&self, number: usize) -> Vec<Met> {
        match self.party {
            _ if self.nginx == "(open)" && self.dialogue.ends_with("at-once") => Vec::new(),
            Party::ClientThenNginx | Party::ClientThenPostern => {
                vec![(number, false), (number, true)]
            }
            _ => vec![(number, false)],
        }
    }

    /// Says that this has not been met.
    pub(crate) fn complaint(&self, (_, behind): Met) -> String {
        let Row {
            dialogue,
            party,
            nginx,
            postern,
            reason,
        } = self;
        let behind = if behind {
            ", behind what the client saw"
        } else {
            ""
        };
        format!(
            "listed, but not so{behind}: {dialogue}, {party:?}: {reason}\n    \
             nginx:   {nginx}\n    Postern: {postern}\n"
        )
    }

    fn allows(&self, party: &str, difference: &Difference) -> bool {
        let here = match self.party {
            Party::Auth => party == "auth",
            Party::Backend => party == "backend",
            _ => party == "client",
        };
        here && fits(&difference.nginx, self.nginx) && fits(&difference.postern, self.postern)
    }

    fn allows_behind(&self, party: &str, difference: &Difference) -> bool {
        let idle = match self.party {
            Party::ClientThenNginx => &difference.postern,
            Party::ClientThenPostern => &difference.nginx,
            _ => return false,
        };
        party != "client" && ["", "(connections: 0)"].contains(&idle.as_str())
    }
}

const fn row(
    dialogue: &'static str,
    party: Party,
    nginx: &'static str,
    postern: &'static str,
    reason: &'static str,
) -> Row {
    Row {
        dialogue,
        party,
        nginx,
        postern,
        reason,
    }
}

use Party::{Auth, Backend, Client, ClientThenNginx, ClientThenPostern};

/// All of them: dialogues, who sees it, what nginx says, what Postern says, why.
pub(crate) const TABLE: &[Row] = &[
    // Lines that nginx takes apart otherwise.
    row(
        "imap/spaces_before_and_behind *",
        Client,
        " BAD invalid command",
        "* BAD invalid command",
        "nginx answers under an empty tag",
    ),
    row(
        "imap/tags_that_rfc_9051_allows *",
        Client,
        "* BAD invalid command",
        "a/1 OK completed / 5~#~x OK completed / 0f8fad5b-d9cb-469f-a165-70867728950e OK completed",
        "nginx takes tags of up to 32 letters, digits, dots, hyphens and underscores alone",
    ),
    row(
        "imap/tags_of_up_to_128_characters_are_echoed *",
        Client,
        "* BAD invalid command",
        "* OK completed",
        "the same",
    ),
    row(
        "imap/a_login_under_a_tag_with_signs *",
        ClientThenPostern,
        "* BAD invalid command",
        "5~#~x OK [CAPABILITY IMAP4rev1] backend login",
        "the same",
    ),
    row(
        "imap/broken_quoted_strings_are_bad *",
        ClientThenNginx,
        "a3 OK [CAPABILITY IMAP4rev1] backend login / a4 OK backend NOOP",
        "a3 BAD invalid command / a4 OK completed",
        "nginx takes a string that goes on behind its closing quote",
    ),
    row(
        "imap/broken_quoted_strings_three_times *",
        Client,
        "(open)",
        "(closed)",
        "nginx ends a quoted string with the line, so that nothing is broken",
    ),
    row(
        "imap/max_errors_counts_lines_that_cannot_be_parsed *",
        Client,
        "(open)",
        "(closed)",
        "the same",
    ),
    row(
        "imap/broken_literals_are_bad *",
        Client,
        "+ OK",
        "a3 BAD* / a4 BAD* / a5 BAD* / a6 BAD*",
        "nginx takes `{}` for a literal",
    ),
    row(
        "imap/broken_literals_are_bad *",
        Client,
        "",
        "a7 BAD invalid command / a8 OK completed",
        "the same: it still reads that literal",
    ),
    row(
        "imap/empty_literals_are_empty_strings *",
        ClientThenNginx,
        "a1 OK [CAPABILITY IMAP4rev1] backend login / *",
        "a1 BAD invalid command / *",
        "nginx reads one byte too many behind `{0}`",
    ),
    row(
        "imap/a_synchronizing_literal_too_large_is_bad_without_being_asked_for *",
        Client,
        "+ OK",
        "a1 BAD* / a2 OK completed / a3 BAD* / a4 OK completed",
        "nginx asks for a literal that does not fit",
    ),
    row(
        "imap/a_non_synchronizing_literal_too_large_closes *",
        Client,
        "(open)",
        "a1 BAD invalid command / (closed)",
        "nginx reads a literal that does not fit until it times out",
    ),
    row(
        "smtp/bdat_before_login_is_refused_and_its_bytes_are_no_commands *",
        Client,
        "",
        "250 2.0.0 OK",
        "nginx runs the payload of BDAT, a QUIT here",
    ),
    row(
        "smtp/http_on_a_mail_port_is_closed_at_once *",
        Client,
        "500 5.5.1 Invalid command / 500* / 500* / 530* / (open)",
        "(closed)",
        "nginx runs what a browser was made to send",
    ),
    row(
        "pop3/a_long_password_fits *",
        ClientThenPostern,
        "*(closed)",
        "+OK backend PASS / (open)",
        "nginx has 128 bytes for a line of POP3; its reset can destroy the answer",
    ),
    row(
        "imap/id_is_answered_with_nil *",
        ClientThenPostern,
        "a1 BAD* / a2 BAD* / a3 BAD* / (closed)",
        "* ID NIL / a1 OK completed / * ID NIL / *",
        "nginx has no ID",
    ),
    // What nginx loses that it has read already.
    row(
        "*/a_client_that_ends_its_stream_is_closed at-once",
        Client,
        "(open)",
        "(closed)",
        "nginx overlooks an end of stream that came with a command",
    ),
    row(
        "imap/a_proxy_header_from_the_client at-once",
        Client,
        "(open)",
        "a OK [CAPABILITY IMAP4rev1] backend login / * / (closed)",
        "nginx overlooks what came in one segment with the PROXY header",
    ),
    row(
        "imap/a_proxy_header_from_the_client bytes",
        ClientThenPostern,
        "",
        "* OK IMAP4 ready / a OK [CAPABILITY IMAP4rev1] backend login / *",
        "nginx wants the PROXY header in one segment",
    ),
    row(
        "smtp/mail_without_login_needs_authentication at-once",
        Client,
        "",
        "530 5.7.1 Authentication required / 503* / 250 2.0.0 OK",
        "nginx drops what came behind a MAIL that it refuses",
    ),
    row(
        "smtp/starttls_only_hinders_logins_before at-once",
        Client,
        "(open)",
        "250 2.0.0 OK / 221 2.0.0 Bye / (closed)",
        "the same",
    ),
    // SASL.
    row(
        "imap/bad_base64_is_bad *",
        ClientThenNginx,
        "a2 OK [CAPABILITY IMAP4rev1] backend login / *",
        "a2 BAD invalid command / *",
        "nginx takes base64 without its padding",
    ),
    row(
        "imap/malformed_plain_messages_are_bad *",
        ClientThenNginx,
        "a3 OK [CAPABILITY IMAP4rev1] backend login / *",
        "a3 BAD invalid command / *",
        "nginx takes a third NUL for a part of the password",
    ),
    row(
        "pop3/bad_base64_and_malformed_messages_are_bad *",
        ClientThenNginx,
        "+OK backend PASS / +OK backend NOOP",
        "-ERR invalid command / +OK",
        "nginx takes an empty login",
    ),
    row(
        "smtp/bad_base64_and_malformed_messages_are_bad *",
        ClientThenNginx,
        "235 2.0.0 OK / 250 2.0.0 backend NOOP",
        "500 5.5.1 Invalid command / 250 2.0.0 OK",
        "the same",
    ),
    row(
        "imap/mechanisms_that_are_off_are_bad *",
        ClientThenNginx,
        "* BAD internal server error / (closed)",
        "a3 BAD* / a9 OK completed / (open)",
        "nginx asks for EXTERNAL with an initial response though it is off",
    ),
    row(
        "pop3/mechanisms_that_are_off_are_bad *",
        ClientThenNginx,
        "-ERR internal server error / (closed)",
        "-ERR invalid command / * / +OK / (open)",
        "the same",
    ),
    row(
        "smtp/mechanisms_that_are_off_are_bad *",
        ClientThenNginx,
        "235 2.0.0 OK / *",
        "500 5.5.1 Invalid command / * / 250 2.0.0 OK",
        "the same; and in SMTP nobody needs a password",
    ),
    row(
        "smtp/a_star_cancels_authentication *",
        Client,
        "500 5.5.1 Invalid command",
        "501 5.7.0 Authentication cancelled",
        "nginx does not know the cancelling `*` (RFC 4954, section 4)",
    ),
    row(
        "imap/an_authorization_id_of_another_is_refused *",
        ClientThenNginx,
        "a1 OK [CAPABILITY IMAP4rev1] backend login / (open)",
        "a1 NO * / (closed)",
        "nginx drops the authorization identity in silence",
    ),
    row(
        "imap/an_authorization_id_of_another_is_refused *",
        Auth,
        "",
        "Auth-Authzid: bob",
        "the same",
    ),
    row(
        "smtp/no_credential_of_a_failed_login_remains_for_none *",
        Auth,
        "Auth-User: alice / Auth-Pass: wrong",
        "Auth-User:  / Auth-Pass: ",
        "nginx sends the credentials of a failed login with a method that has none",
    ),
    row(
        "smtp/no_credential_of_a_failed_login_remains_for_none *",
        Backend,
        "XCLIENT ADDR=127.0.0.1 LOGIN=alice NAME=[UNAVAILABLE]",
        "XCLIENT ADDR=127.0.0.1 NAME=[UNAVAILABLE]",
        "the same",
    ),
    // The auth server.
    row(
        "imap/an_auth_server_that_is_broken_but_says_ok *",
        ClientThenNginx,
        "a OK [CAPABILITY IMAP4rev1] backend login / (open)",
        "* BAD internal server error / (closed)",
        "nginx lets in whatever the HTTP status",
    ),
    row(
        "imap/an_auth_server_without_a_status *",
        ClientThenNginx,
        "a OK [CAPABILITY IMAP4rev1] backend login / (open)",
        "* BAD internal server error / (closed)",
        "nginx lets in without an Auth-Status",
    ),
    // Backends.
    row(
        "imap/a_backend_that_says_more *",
        Client,
        "* BAD internal server error / (closed)",
        "* 1 EXISTS / * CAPABILITY IMAP4rev1 / a OK in / * 2 EXISTS / (open)",
        "nginx takes an untagged line before the tagged OK for a refusal",
    ),
    row(
        "imap/a_backend_one_byte_at_a_time *",
        Client,
        "* BAD internal server error / (closed)",
        "* CAPABILITY IMAP4rev1 SLOW / a OK slow login / (open)",
        "the same",
    ),
    row(
        "imap/a_backend_that_says_preauth *",
        Client,
        "* BAD internal server error",
        "a NO [UNAVAILABLE] mail server is not available",
        "the client hears that it may try again",
    ),
    row(
        "imap/a_backend_that_says_preauth_which_is_passed_on *",
        Client,
        "* PREAUTH backend knows you",
        "a NO [UNAVAILABLE] mail server is not available",
        "nginx tells the client that it is logged in",
    ),
    row(
        "imap/a_backend_that_says_bye_and_refuses *",
        Client,
        "* BYE sorry",
        "",
        "a goodbye of the backend is not ours",
    ),
    row(
        "smtp/* *",
        Backend,
        "XCLIENT ADDR=127.0.0.1 LOGIN=al ice NAME=[UNAVAILABLE]",
        "XCLIENT ADDR=127.0.0.1 LOGIN=al+20ice NAME=[UNAVAILABLE]",
        "nginx does not encode the login, which so becomes more attributes or lines",
    ),
    row(
        "smtp/* *",
        Backend,
        "XCLIENT ADDR=127.0.0.1 LOGIN=a=b+c NAME=[UNAVAILABLE]",
        "XCLIENT ADDR=127.0.0.1 LOGIN=a+3Db+2Bc NAME=[UNAVAILABLE]",
        "the same",
    ),
    row(
        "smtp/logins_go_into_xclient_as_xtext *",
        Backend,
        "XCLIENT ADDR=127.0.0.1 LOGIN=a b+c=d\u{e9}\n NAME=[UNAVAILABLE]",
        "XCLIENT ADDR=127.0.0.1 LOGIN=a+20b+2Bc+3Dd+C3+A9+0A NAME=[UNAVAILABLE]",
        "the same",
    ),
    row(
        "imap/a_backend_that_says_bad_to_login *",
        Backend,
        "",
        "p9 LOGOUT",
        "a host that welcomed us and did not get the credentials is told goodbye; nginx just closes",
    ),
    row(
        "pop3/a_backend_that_refuses_user *",
        Backend,
        "",
        "QUIT",
        "the same",
    ),
    row(
        "smtp/a_backend_that_refuses_xclient *",
        Backend,
        "",
        "QUIT",
        "the same",
    ),
    row(
        "smtp/a_backend_that_refuses_xclient_in_secret *",
        Backend,
        "",
        "QUIT",
        "the same",
    ),
    row(
        "smtp/none_with_a_sender_that_is_refused *",
        Backend,
        "",
        "QUIT",
        "the same",
    ),
    row(
        "imap/a_backend_that_refuses_with_more_lines *",
        Backend,
        "",
        "p9 LOGOUT",
        "so is a host that has refused the credentials",
    ),
    row(
        "imap/a_backend_that_says_bye_and_refuses *",
        Backend,
        "",
        "p9 LOGOUT",
        "the same",
    ),
    row(
        "imap/the_backend_refusal_is_*",
        Backend,
        "",
        "p9 LOGOUT",
        "the same",
    ),
    row(
        "pop3/the_backend_refusal_is_*",
        Backend,
        "",
        "QUIT",
        "the same",
    ),
    row(
        "smtp/a_backend_that_refuses_auth *",
        Backend,
        "",
        "QUIT",
        "the same",
    ),
    // TLS.
    row(
        "*/plain_text_on_an_implicit_tls_port *",
        Client,
        "",
        "(unfinished) \\x15\\x03\\x03\\x00\\x02\\x022",
        "OpenSSL closes without an alert, rustls with decode_error",
    ),
];

/// What allows this difference, if it is allowed.
pub(crate) fn met(name: &str, party: &str, difference: &Difference) -> Option<Met> {
    let of_dialogue = || {
        let rows = TABLE.iter().enumerate();
        rows.filter(|(_, row)| fits(name, row.dialogue))
    };
    let here = of_dialogue().find(|(_, row)| row.allows(party, difference));
    if let Some((number, _)) = here {
        return Some((number, false));
    }
    let (number, _) = of_dialogue().find(|(_, row)| row.allows_behind(party, difference))?;
    Some((number, true))
}

/// Where two lists of lines differ: what is between the lines of a longest common sequence.
pub(crate) fn between(nginx: &[String], postern: &[String]) -> Vec<Difference> {
    let common = lengths(nginx, postern);
    let (mut at, mut to) = (0, 0);
    let mut found = Vec::new();
    let mut hunk = (Vec::new(), Vec::new());
    loop {
        let (left, right) = (nginx.get(at), postern.get(to));
        if left == right {
            if !hunk.0.is_empty() || !hunk.1.is_empty() {
                let (nginx, postern) = std::mem::take(&mut hunk);
                found.push(Difference {
                    nginx: nginx.join(" / "),
                    postern: postern.join(" / "),
                });
            }
            if left.is_none() {
                return found;
            }
            (at, to) = (at + 1, to + 1);
        } else if to == postern.len()
            || (at < nginx.len() && common[at + 1][to] >= common[at][to + 1])
        {
            hunk.0.extend(left.map(String::as_str));
            at += 1;
        } else {
            hunk.1.extend(right.map(String::as_str));
            to += 1;
        }
    }
}

/// How long the longest common sequence is from each pair of places on.
fn lengths(left: &[String], right: &[String]) -> Vec<Vec<usize>> {
    let mut lengths = vec![vec![0; right.len() + 1]; left.len() + 1];
    for at in (0..left.len()).rev() {
        for to in (0..right.len()).rev() {
            lengths[at][to] = if left[at] == right[to] {
                lengths[at + 1][to + 1] + 1
            } else {
                lengths[at + 1][to].max(lengths[at][to + 1])
            };
        }
    }
    lengths
}

/// Whether the text is the pattern, in which `*` stands for anything.
fn fits(text: &str, pattern: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(text) = text.strip_prefix(before) else {
        return false;
    };
    let mut places = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    places.any(|at| fits(&text[at..], rest))
}
