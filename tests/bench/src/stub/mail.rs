//! What the mail servers say: everybody is let in, and everything is all right.
//!
//! Two commands of IMAP are known here alone, for clients that are logged in: `DOWN n` is answered
//! with n bytes of letters and line ends before the OK, and `UP n` with OK once n bytes have followed.

/// What a line leads to.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) text: String,
    /// Bytes of content to send behind the text, and what is said after them.
    pub(super) content: usize,
    /// Bytes of content to swallow before `finally`.
    pub(super) swallow: usize,
    pub(super) finally: String,
    pub(super) ends: bool,
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

fn goodbye(text: String) -> Reply {
    Reply {
        text,
        ends: true,
        ..Reply::default()
    }
}

/// The tag of an IMAP login whose name or password is still to come, and how many of the two.
pub(super) type Login = Option<(String, usize)>;

/// IMAP. The `login` is what is in between of two lines.
pub(super) fn imap(line: &str, login: &mut Login) -> Reply {
    // A literal of these clients has no line end in it: one line holds it and what follows.
    if let Some((tag, missing)) = login.take() {
        if missing > 1 && line.ends_with('}') {
            *login = Some((tag, missing - 1));
            return continuation(line);
        }
        return logged_in(&tag);
    }
    let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut words = rest.split(' ');
    let word = words.next().unwrap_or_default().to_ascii_uppercase();
    let bytes = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    match word.as_str() {
        "LOGIN" if line.ends_with('}') => {
            *login = Some((tag.to_owned(), 2));
            continuation(line)
        }
        "LOGIN" | "AUTHENTICATE" => logged_in(tag),
        "CAPABILITY" => {
            format!("* CAPABILITY IMAP4rev1 IDLE\r\n{tag} OK backend CAPABILITY\r\n").into()
        }
        "DOWN" => Reply {
            content: bytes,
            finally: format!("{tag} OK backend DOWN\r\n"),
            ..Reply::default()
        },
        "UP" => Reply {
            swallow: bytes,
            finally: format!("{tag} OK backend UP\r\n"),
            ..Reply::default()
        },
        "LOGOUT" => goodbye(format!("* BYE backend\r\n{tag} OK backend LOGOUT\r\n")),
        _ => format!("{tag} OK backend\r\n").into(),
    }
}

fn logged_in(tag: &str) -> Reply {
    format!("{tag} OK [CAPABILITY IMAP4rev1] backend login\r\n").into()
}

/// What a server says to an announced literal: nothing if the client does not wait for it.
fn continuation(line: &str) -> Reply {
    if line.ends_with("+}") {
        Reply::default()
    } else {
        "+ backend waits\r\n".into()
    }
}

/// POP3.
pub(super) fn pop3(line: &str) -> Reply {
    match line {
        "CAPA" => "+OK\r\nUSER\r\nUIDL\r\n.\r\n".into(),
        "QUIT" => goodbye("+OK backend QUIT\r\n".to_owned()),
        _ => "+OK backend\r\n".into(),
    }
}

/// SMTP.
pub(super) fn smtp(line: &str) -> Reply {
    let word = line.split(' ').next().unwrap_or_default();
    match word.to_ascii_uppercase().as_str() {
        "EHLO" => "250-backend\r\n250-XCLIENT NAME ADDR PROTO HELO LOGIN\r\n\
                   250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n"
            .into(),
        "XCLIENT" => "220 backend ESMTP again\r\n".into(),
        "AUTH" => "235 2.7.0 backend\r\n".into(),
        "QUIT" => goodbye("221 2.0.0 backend\r\n".to_owned()),
        _ => "250 2.0.0 backend\r\n".into(),
    }
}
