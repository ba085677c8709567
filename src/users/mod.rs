//! A file of users with their passwords, as Dovecot's passwd-file has them: its text, its lines, and who is
//! in it. Who may log in where is decided in `auth`.
//!
//! `line` reads one line, `scheme` one password, `edit` changes a line and leaves the rest as it is. Only
//! `read` here opens a file.

pub(crate) mod edit;
mod line;
mod scheme;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::secret::Wiped;
use crate::system::files;

pub(crate) use line::{Entry, check_login};
pub(crate) use scheme::{Cost, make};

/// Largest file, in bytes.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Most lines.
const MAX_LINES: usize = 1_000_000;

/// Mistakes that are told one by one.
const MAX_MISTAKES: usize = 100;

/// One thing that is wrong in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Line, from 1; `None` for the file as a whole.
    pub line: Option<usize>,
    /// What is wrong, for the administrator.
    pub text: String,
}

/// The users of a file. Its text is held once, and wiped; a line is read again for each login.
pub(crate) struct Users {
    text: Wiped<Vec<u8>>,
    /// In the order of their logins.
    places: Vec<Place>,
    /// Whose password is checked in the place of a user's that is not there.
    stand_in: Option<Place>,
    /// Lines that do not say where their login goes.
    unrouted: usize,
}

/// Where a line stands, without its end.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u32,
    end: u32,
    line: u32,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.places.len())
    }
}

/// The bytes of a file, or why there are none.
///
/// # Errors
/// It cannot be read, which says nothing about what is in it; or it is larger than 64 MiB.
pub(crate) fn read(path: &Path) -> Result<Wiped<Vec<u8>>, String> {
    let bytes = files::read(path, MAX_FILE).map_err(|error| format!("cannot be read: {error}"))?;
    let bytes = Wiped(bytes);
    match bytes.len() as u64 > MAX_FILE {
        true => Err("larger than 64 MiB".to_owned()),
        false => Ok(bytes),
    }
}

impl Users {
    /// Reads the text of a file; `is_backend` knows the names that exist.
    ///
    /// # Errors
    /// Every mistake, a hundred at most, in the order of the lines. A file with one is not to be used.
    pub(crate) fn parse(
        text: Wiped<Vec<u8>>,
        is_backend: &dyn Fn(&str) -> bool,
    ) -> Result<Self, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let mut places = Vec::new();
        let mut costs: HashMap<Cost, (usize, Place)> = HashMap::new();
        let mut unrouted = 0;
        for place in lines(&text).take(MAX_LINES + 1) {
            if place.line as usize > MAX_LINES {
                let text = format!("more than {MAX_LINES} lines");
                wrong.push(Wrong { line: None, text });
                break;
            }
            match place.entry(&text, is_backend) {
                Ok(None) => {}
                Ok(Some(entry)) => {
                    costs.entry(entry.hash.cost()).or_insert((0, place)).0 += 1;
                    unrouted += usize::from(entry.backend.is_none());
                    places.push(place);
                }
                Err(text) => wrong.push(Wrong {
                    line: Some(place.line as usize),
                    text,
                }),
            }
        }
        places.sort_by(|a, b| compare(a.login(&text), b.login(&text)).then(a.line.cmp(&b.line)));
        wrong.extend(twice(&places, &text));
        if !wrong.is_empty() {
            return Err(shortened(wrong));
        }
        let most = costs
            .into_values()
            .max_by_key(|(count, place)| (*count, u32::MAX - place.line));
        Ok(Self {
            stand_in: most.map(|(_, place)| place),
            places,
            text,
            unrouted,
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// How many of them do not say where they go.
    pub(crate) fn unrouted(&self) -> usize {
        self.unrouted
    }

    /// The user of this login. The case of ASCII letters does not matter.
    pub(crate) fn find(&self, login: &[u8]) -> Option<Entry<'_>> {
        let found = self
            .places
            .binary_search_by(|place| compare(place.login(&self.text), login));
        self.entry(*self.places.get(found.ok()?)?)
    }

    /// A user whose password takes as long to check as most do: for a login that is not there, so that the
    /// time does not tell. `None` where there is nobody.
    pub(crate) fn stand_in(&self) -> Option<Entry<'_>> {
        self.entry(self.stand_in?)
    }

    fn entry(&self, place: Place) -> Option<Entry<'_>> {
        // It was read once already.
        line::parse(place.text(&self.text)).ok()?
    }
}

impl Place {
    fn text(self, of: &[u8]) -> &[u8] {
        &of[self.start as usize..self.end as usize]
    }

    fn login(self, of: &[u8]) -> &[u8] {
        let text = self.text(of);
        let colon = text.iter().position(|&byte| byte == b':');
        &text[..colon.unwrap_or(text.len())]
    }

    fn entry<'a>(
        self,
        of: &'a [u8],
        is_backend: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Entry<'a>>, String> {
        let entry = line::parse(self.text(of))?;
        if let Some(name) = entry.as_ref().and_then(|entry| entry.backend)
            && !is_backend(name)
        {
            return Err(format!("backend={name}: there is no [backend {name}]"));
        }
        Ok(entry)
    }
}

/// Every line, without its end.
fn lines(text: &[u8]) -> impl Iterator<Item = Place> {
    let mut at = match text.starts_with(b"\xef\xbb\xbf") {
        true => 3,
        false => 0,
    };
    let mut line = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..).filter(|rest| !rest.is_empty())?;
        let length = rest.iter().position(|&byte| byte == b'\n');
        let end = at + length.unwrap_or(rest.len());
        let cut = text[at..end].strip_suffix(b"\r").map_or(end, |_| end - 1);
        line += 1;
        let place = Place {
            start: number(at),
            end: number(cut),
            line,
        };
        at = end + 1;
        Some(place)
    })
}

/// A place in a file, which has at most `MAX_FILE` bytes.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Logins, as if their ASCII letters were small.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let lowered = |(a, b): (&u8, &u8)| a.to_ascii_lowercase().cmp(&b.to_ascii_lowercase());
    let differs = one
        .iter()
        .zip(other)
        .map(lowered)
        .find(|order| order.is_ne());
    differs.unwrap_or(one.len().cmp(&other.len()))
}

/// Logins that stand in the file more than once; `places` are sorted.
fn twice(places: &[Place], text: &[u8]) -> Vec<Wrong> {
    let mut first = None;
    let mut wrong = Vec::new();
    for place in places {
        let login = place.login(text);
        match first {
            Some((known, line)) if compare(known, login).is_eq() => wrong.push(Wrong {
                line: Some(place.line as usize),
                text: format!(
                    "login {:?} stands in line {line} already",
                    String::from_utf8_lossy(login)
                ),
            }),
            _ => first = Some((login, place.line)),
        }
    }
    wrong
}

fn shortened(mut wrong: Vec<Wrong>) -> Vec<Wrong> {
    wrong.sort_by_key(|wrong| wrong.line.unwrap_or(usize::MAX));
    if wrong.len() > MAX_MISTAKES {
        wrong.truncate(MAX_MISTAKES);
        let text = "and more mistakes".to_owned();
        wrong.push(Wrong { line: None, text });
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Result<Users, Vec<Wrong>> {
        Users::parse(Wiped(text.as_bytes().to_vec()), &|name| name == "office")
    }

    fn told(text: &str) -> Vec<String> {
        let wrong = users(text).expect_err("mistakes");
        let line = |line: Option<usize>| line.map_or("-".to_owned(), |line| line.to_string());
        let wrong = wrong.into_iter();
        wrong
            .map(|wrong| format!("{}: {}", line(wrong.line), wrong.text))
            .collect()
    }

    #[test]
    fn a_login_is_found_in_any_case() {
        let users = users(
            "\u{feff}# ours\r\nbert:{PLAIN}b\r\n\nAnna@Example.org:{PLAIN}a:backend=office\nanna:{PLAIN}c",
        );
        let users = users.expect("good");
        assert_eq!((users.len(), users.unrouted()), (3, 2));
        let password_of = |login: &str| {
            let entry = users.find(login.as_bytes())?;
            ["a", "b", "c"]
                .into_iter()
                .find(|password| entry.hash.fits(password.as_bytes()))
        };
        assert_eq!(password_of("aNNa@example.ORG"), Some("a"));
        assert_eq!(password_of("BERT"), Some("b"));
        assert_eq!(password_of("anna"), Some("c"));
        for login in ["", "ann", "annaa", "bert:", "# ours", "carl"] {
            assert!(users.find(login.as_bytes()).is_none(), "{login}");
        }
    }

    #[test]
    fn every_wrong_line_is_told_with_its_number() {
        let told = told(
            "anna:{PLAIN}a\nbert\n\nANNA:{PLAIN}b\ncarl:{PLAIN}c:backend=ofice\nanna:{PLAIN}a\n",
        );
        assert_eq!(
            told,
            [
                "2: no colon: write LOGIN:{SCHEME}PASSWORD",
                "4: login \"ANNA\" stands in line 1 already",
                "5: backend=ofice: there is no [backend ofice]",
                "6: login \"anna\" stands in line 1 already",
            ]
        );
        assert_eq!(
            super::tests::told(&"x\n".repeat(1000)).len(),
            MAX_MISTAKES + 1
        );
    }

    #[test]
    fn a_file_has_a_million_lines_at_most() {
        assert!(users(&"#\n".repeat(MAX_LINES)).is_ok());
        assert_eq!(
            told(&"#\n".repeat(MAX_LINES + 1)),
            ["-: more than 1000000 lines"]
        );
    }

    #[test]
    fn the_stand_in_costs_what_most_cost() {
        let (five, six) = (
            "$5$rounds=1000$cnSIR7Brk73mQLlZ$wtjk4uyg8uiRIJHfDTPRFCIYgdUtT9rqTaT86apCZv2",
            "$2y$05$FOdSE3PgsWhIfFQiR2xtMedimxdt3AOuyyTk2nYkm2dXJujnAa2wS",
        );
        let text = format!("a:{{PLAIN}}a\nb:{six}\nc:{five}\nd:{six}\n");
        let users = users(&text).expect("good");
        assert_eq!(
            users.stand_in().map(|entry| entry.hash.scheme),
            Some("BLF-CRYPT")
        );
        assert!(
            super::tests::users("# nobody\n")
                .expect("good")
                .stand_in()
                .is_none()
        );
    }
}
