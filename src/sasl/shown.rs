//! What peers say, as it may stand in the log: without the secrets of the login that they were told.
//!
//! A backend or an auth server that does not understand us says back what it got. All text of peers
//! passes here before it is logged; text of our own does not, since a password that is one of our
//! words must not make a line unreadable to those who look for it.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::{Identity, Mechanism, Message, ToBackend};
use crate::log::escape;
use crate::secret::Secret;

/// What stands for a secret.
pub(crate) const BLOT: &str = "***";

/// So many bytes in a row are taken for all of a secret: peers shorten what they quote, at either end.
const PART: usize = size_of::<u64>();

/// Secrets shorter than this are parts of many words; they are cut out as whole words only.
const SHORT: usize = 4;

/// The secrets of a login, once as the client said them and once as the backend is told.
#[derive(Debug, Default)]
pub(crate) struct LoginSecrets {
    said: Vec<Said>,
}

#[derive(Debug)]
struct Said {
    login: Vec<u8>,
    authzid: Option<Vec<u8>>,
    secret: Secret,
}

impl LoginSecrets {
    /// Remembers a secret, and with which login and authorization identity it is said.
    pub(crate) fn add(&mut self, login: &[u8], authzid: Option<&[u8]>, secret: &Secret) {
        if secret.is_empty() {
            return;
        }
        self.said.push(Said {
            login: login.to_vec(),
            authzid: authzid.map(<[u8]>::to_vec),
            secret: secret.clone(),
        });
    }

    /// Forgets and wipes them.
    pub(crate) fn clear(&mut self) {
        self.said.clear();
    }

    /// A peer's text for a message, as `log::escape` makes it, with every form of the secrets blotted out.
    pub(crate) fn quote(&self, text: &[u8]) -> String {
        if self.said.is_empty() {
            return escape(text);
        }
        let mut text = Searched::new(text);
        let forms = self.said.iter().flat_map(Said::forms);
        let (short, long): (Vec<_>, Vec<_>) = forms.partition(|form| form.len() < PART);
        text.blot_parts_of(&long);
        text.blot_all(short);
        text.render()
    }
}

/// A text in which secrets are looked for.
struct Searched<'a> {
    text: &'a [u8],
    is_secret: Vec<bool>,
    /// Where each `PART` bytes in a row stand, in lower case, as long as they are no part of a secret: each
    /// place is blotted once, however often a hostile text or secret repeats itself.
    parts: HashMap<u64, Vec<usize>>,
    /// The marks of all of them.
    marks: Vec<bool>,
}

impl<'a> Searched<'a> {
    fn new(text: &'a [u8]) -> Self {
        let mut parts: HashMap<_, Vec<usize>> = HashMap::new();
        let mut marks = vec![false; 1 << 12];
        for (at, part) in parts_of(text).enumerate() {
            parts.entry(part).or_default().push(at);
            marks[mark(part)] = true;
        }
        Self {
            text,
            is_secret: vec![false; text.len()],
            parts,
            marks,
        }
    }

    /// Blots out forms of secrets, in any case, wherever a part of one stands.
    fn blot_parts_of(&mut self, forms: &[Message]) {
        let parts = forms.iter().flat_map(|form| parts_of(form));
        for part in parts {
            if !self.marks[mark(part)] {
                continue;
            }
            for at in self.parts.remove(&part).unwrap_or_default() {
                self.is_secret[at..at + PART].fill(true);
            }
        }
    }

    /// Blots out forms that are shorter than a part, in any case: the text is searched once for each length,
    /// not for each form, of which a password with many spaces has thousands.
    fn blot_all(&mut self, mut forms: Vec<Message>) {
        forms
            .iter_mut()
            .for_each(|form| form.make_ascii_lowercase());
        forms.sort_unstable_by(|one, other| one[..].cmp(&other[..]));
        forms.dedup();
        let lengths: BTreeSet<usize> = forms.iter().map(|form| form.len()).collect();
        let text = Message::new(self.text.to_ascii_lowercase());
        for length in lengths.into_iter().filter(|&length| length > 0) {
            for (at, found) in text.windows(length).enumerate() {
                let is_form = || forms.binary_search_by(|form| form[..].cmp(found)).is_ok();
                if (length >= SHORT || is_word(&text, at, length)) && is_form() {
                    self.is_secret[at..at + length].fill(true);
                }
            }
        }
    }

    fn render(&self) -> String {
        let mut kept = Vec::with_capacity(self.text.len());
        let mut after_secret = false;
        for (&byte, &is_secret) in self.text.iter().zip(&self.is_secret) {
            if !is_secret {
                kept.push(byte);
            } else if !after_secret {
                kept.extend_from_slice(BLOT.as_bytes());
            }
            after_secret = is_secret;
        }
        escape(&kept)
    }
}

/// Each `PART` bytes in a row, in lower case, as one number.
fn parts_of(text: &[u8]) -> impl Iterator<Item = u64> {
    let mut part = 0;
    let parts = text.iter().map(move |byte| {
        part = part << 8 | u64::from(byte.to_ascii_lowercase());
        part
    });
    parts.skip(PART - 1)
}

/// Some of the bits of a part, well mixed: where the text has no part with them, it has not this one. Asking
/// the map for each part of a secret of 16 KiB in all its forms would take milliseconds.
fn mark(part: u64) -> usize {
    (part.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

/// Whether so many bytes from `at` on are no part of a longer word.
fn is_word(text: &[u8], at: usize, length: usize) -> bool {
    let goes_on = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    !goes_on(before) && !goes_on(text.get(at + length))
}

impl Said {
    /// All that a peer can have got of the secret: itself, in an HTTP header, in a quoted string, and in the
    /// messages of SASL. A peer that took a line for several commands quotes a word of it.
    fn forms(&self) -> Vec<Message> {
        let secret = self.secret.expose();
        let login = self.login.as_slice();
        let encoded = |message: &[u8]| Message::new(STANDARD_NO_PAD.encode(message).into_bytes());
        let mut forms = vec![
            Message::new(secret.to_vec()),
            percent_encoded(secret),
            quoted_string(secret),
            encoded(secret),
            // CRAM-MD5's answer.
            encoded(&Message::new([login, b" ", secret].concat())),
        ];
        for authzid in [None, Some(login), self.authzid.as_deref()] {
            forms.extend(self.messages(authzid).map(|message| encoded(&message)));
        }
        let words = secret.split(|&byte| byte == b' ');
        let words = words.filter(|word| word.len() >= SHORT);
        forms.extend(words.map(|word| Message::new(word.to_vec())));
        // In the middle of any other message.
        forms.extend([0, 1, 2].map(|bytes_before| encoded_behind(bytes_before, secret)));
        forms
    }

    /// What each mechanism says of them in one message.
    fn messages<'a>(
        &'a self,
        authzid: Option<&'a [u8]>,
    ) -> impl Iterator<Item = Message> + use<'a> {
        let identity = Identity {
            authzid,
            login: (&self.login).into(),
            secret: &self.secret,
        };
        Mechanism::all().filter_map(move |row| match row.to_backend {
            ToBackend::Message(encode) => encode(&identity),
            ToBackend::TwoAnswers | ToBackend::Never => None,
        })
    }
}

/// The characters of base64 that are made of the secret alone, where so many bytes (0 to 2) stand before it
/// in the first three.
fn encoded_behind(bytes_before: usize, secret: &[u8]) -> Message {
    let message = Message::new([&[0; 2][..bytes_before], secret].concat());
    let encoded = Message::new(STANDARD_NO_PAD.encode(&*message).into_bytes());
    let first = (bytes_before * 8).div_ceil(6);
    let last = message.len() * 8 / 6;
    Message::new(encoded.get(first..last).unwrap_or_default().to_vec())
}

/// As IMAP has a string between quotes (RFC 3501, section 4.3), without these.
fn quoted_string(value: &[u8]) -> Message {
    let mut quoted = Message::new(Vec::with_capacity(value.len() * 2));
    for &byte in value {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted
}

/// As `Auth-User` and `Auth-Pass` have a value: controls, space and `%` encoded, and nothing else.
pub(crate) fn percent_encoded(value: &[u8]) -> Message {
    let mut encoded = Message::new(Vec::with_capacity(value.len() * 3));
    for &byte in value {
        match byte {
            0..=b' ' | b'%' => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => encoded.push(byte),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::sasl::oauth;

    fn secrets(login: &[u8], authzid: Option<&[u8]>, secret: &[u8]) -> LoginSecrets {
        let mut secrets = LoginSecrets::default();
        secrets.add(login, authzid, &secret.into());
        secrets
    }

    #[test]
    fn every_form_of_a_password_is_blotted_out() {
        let secrets = secrets(b"bob", Some(b"boss"), b"hunter 2%");
        for message in [
            &b"hunter 2%"[..],
            b"\0bob\0hunter 2%",
            b"bob\0bob\0hunter 2%",
            b"boss\0bob\0hunter 2%",
        ] {
            let text = format!("-ERR what is {}?", STANDARD.encode(message));
            let shown = secrets.quote(text.as_bytes());
            assert!(shown.starts_with("-ERR what is ***"), "{shown}");
            assert!(
                shown.trim_end_matches(['=', '?']).ends_with("***"),
                "{shown}"
            );
        }
        assert_eq!(secrets.quote(b"PASS hunter 2%!"), "PASS ***!");
        assert_eq!(secrets.quote(b"PASS HUNTER 2%"), "PASS ***");
        assert_eq!(secrets.quote(b"Auth-Pass: hunter%202%25"), "Auth-Pass: ***");
    }

    #[test]
    fn a_password_in_any_other_message_is_blotted_out() {
        let secrets = secrets(b"bob", None, b"hunter2");
        for before in ["", "x", "xy", "xyz"] {
            let message = STANDARD.encode(format!("{before}hunter2, and more"));
            let shown = secrets.quote(message.as_bytes());
            assert!(shown.contains("***"), "{message}: {shown}");
        }
    }

    #[test]
    fn tokens_are_blotted_out_in_the_messages_of_both_mechanisms() {
        let token = Secret::from(&b"eyJhbGciOi.J9"[..]);
        let mut secrets = LoginSecrets::default();
        secrets.add(b"bob@x", None, &token);
        let identity = Identity {
            authzid: None,
            login: b"bob@x".into(),
            secret: &token,
        };
        for encode in [oauth::encode_xoauth2, oauth::encode_oauthbearer] {
            let message = encode(&identity).expect("a login without NUL");
            let shown = secrets.quote(STANDARD.encode(&*message).as_bytes());
            assert_eq!(shown.trim_end_matches('='), "***");
            let shown = secrets.quote(&message);
            assert!(!shown.contains("eyJ"), "{shown}");
        }
    }

    #[test]
    fn the_beginning_of_a_shortened_secret_is_blotted_out() {
        let secrets = secrets(b"bob", None, b"correct horse battery staple");
        assert_eq!(secrets.quote(b"unknown: correct hor..."), "unknown: ***...");
        let long = [&b"x".repeat(505)[..], b"correct horse battery staple"].concat();
        assert!(!secrets.quote(&long).contains("corr"));
    }

    #[test]
    fn any_part_of_a_password_is_blotted_out() {
        let secrets = secrets(b"bob", None, b"correct horse battery staple");
        let shown = secrets.quote(b"correct BAD unknown command: horse battery s");
        assert_eq!(shown, "***BAD unknown command:***");
        assert_eq!(
            secrets.quote(b"syntax near \"horse\""),
            r"syntax near \x22***\x22"
        );
        assert_eq!(secrets.quote(b"...se battery stap..."), "...***...");
    }

    #[test]
    fn a_quoted_string_is_blotted_out() {
        let secrets = secrets(b"bob", None, br#"a"b\c"#);
        let shown = secrets.quote(br#"BAD LOGIN "bob" "a\"b\\c""#);
        assert_eq!(shown, r"BAD LOGIN \x22bob\x22 \x22***\x22");
    }

    #[test]
    fn a_short_secret_is_cut_out_as_a_word_only() {
        let secrets = secrets(b"bob", None, b"a");
        assert_eq!(
            secrets.quote(b"authentication failed: PASS a"),
            "authentication failed: PASS ***"
        );
    }

    #[test]
    fn nothing_is_cut_out_where_no_secret_is_known() {
        let mut secrets = secrets(b"bob", None, b"hunter2");
        secrets.clear();
        secrets.add(b"bob", None, &Secret::default());
        assert_eq!(secrets.quote(b"hunter2\n"), r"hunter2\x0A");
    }

    #[test]
    fn many_words_of_a_password_cost_no_more_than_one() {
        let words: Vec<u8> = (0..3200)
            .flat_map(|word| format!("{word:04} ").into_bytes())
            .collect();
        let secrets = secrets(b"bob", None, &words);
        let began = std::time::Instant::now();
        let shown = secrets.quote(&b"0001 nothing 000a ".repeat(3600));
        assert!(shown.starts_with("*** nothing 000a ***"), "{shown:.40}");
        assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
    }

    #[test]
    fn hostile_text_costs_no_more_than_its_length() {
        let secrets = secrets(b"bob", None, &[b'a'; 16_000]);
        let began = std::time::Instant::now();
        secrets.quote(&b"aaaaaaab".repeat(8_000));
        secrets.quote(&b"a".repeat(64_000));
        secrets.quote(
            &(0..64_000_u32)
                .map(|number| (number % 251) as u8)
                .collect::<Vec<_>>(),
        );
        assert!(began.elapsed().as_secs() < 2);
    }
}
