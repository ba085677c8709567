//! `[routes]`: which backend serves which login, and the lines of map files, which have the same form.
//!
//! Text in, rules out. Finding the rule of a login, and reading map files again when they change, is
//! for the code that routes sessions.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::mistake::Mistake;
use super::value::{nearest, rest_of_line, shown, take_field};
use crate::system::files;

/// Largest map file, in bytes.
const MAX_MAP: u64 = 64 * 1024 * 1024;

/// Mistakes of a map that are told one by one.
const MAX_MISTAKES: usize = 100;

/// Longest pattern, and longest text of a rejection: it fits any protocol's line.
const MAX_TEXT: usize = 400;

/// The word in the place of a backend's name that makes a route a rejection.
pub(super) const REJECT: &str = "reject";

const FORM: &str = "write PATTERN BACKEND or PATTERN reject TEXT";

/// One line of `[routes]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteLine {
    /// `route`.
    Route(Route),
    /// `map`: a file of routes, one a line.
    Map(PathBuf),
}

/// `PATTERN BACKEND` or `PATTERN reject TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whose logins.
    pub pattern: Pattern,
    /// What becomes of them.
    pub target: RouteTarget,
}

/// What a login is compared with, lowered by `str::to_lowercase`, as the login has to be then too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pattern<Text = String> {
    /// `*`: every login.
    Any,
    /// `@domain`, here without the `@`: what follows the login's last `@`.
    Domain(Text),
    /// `user`: what stands before it.
    User(Text),
    /// `user@domain`: both.
    Address(Text),
}

impl<Text> Pattern<Text> {
    /// The same kind of pattern, of another form of its text.
    pub fn map<'a, Other>(&'a self, form: impl FnOnce(&'a Text) -> Other) -> Pattern<Other> {
        match self {
            Self::Any => Pattern::Any,
            Self::Domain(text) => Pattern::Domain(form(text)),
            Self::User(text) => Pattern::User(form(text)),
            Self::Address(text) => Pattern::Address(form(text)),
        }
    }
}

/// What a route leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteTarget {
    /// NAME of a `[backend NAME]`.
    Backend(String),
    /// The login fails; what the client is told, in printable ASCII and never empty.
    Reject(String),
}

/// Reads `PATTERN BACKEND` or `PATTERN reject TEXT`, TEXT being the rest of the line; a PATTERN with
/// spaces stands in double quotes. Whether there is such a backend is not known here.
///
/// # Errors
/// What is wrong, for the administrator.
pub fn parse_route(text: &str) -> Result<Route, String> {
    let (first, rest) = take_field(text.trim())?;
    if first.is_empty() || rest.is_empty() {
        return Err(FORM.to_owned());
    }
    let pattern = pattern(&first)?;
    let (target, reason) = take_field(rest)?;
    if target.eq_ignore_ascii_case(REJECT) {
        let target = RouteTarget::Reject(reject_text(reason)?);
        return Ok(Route { pattern, target });
    }
    if target.is_empty() || !reason.is_empty() {
        return Err(FORM.to_owned());
    }
    let target = RouteTarget::Backend(target);
    Ok(Route { pattern, target })
}

/// The routes of a map file, in its order. All patterns are one text, and each target stands once: maps
/// have hundreds of thousands of lines, and are there twice while they are read again.
#[derive(Debug, Default)]
pub struct RouteMap {
    patterns: String,
    /// Where in `patterns` it stands, and which of `targets` it leads to.
    lines: Vec<(Pattern<Range<u32>>, u32)>,
    targets: Vec<RouteTarget>,
}

impl RouteMap {
    /// Every pattern with its target.
    pub fn routes(&self) -> impl Iterator<Item = (Pattern<&str>, &RouteTarget)> {
        self.lines.iter().filter_map(|(pattern, target)| {
            let text =
                |place: &Range<u32>| &self.patterns[place.start as usize..place.end as usize];
            Some((pattern.map(text), self.targets.get(*target as usize)?))
        })
    }

    fn push(&mut self, route: Route, known: &mut HashMap<RouteTarget, u32>) {
        let target = *known.entry(route.target).or_insert_with_key(|target| {
            self.targets.push(target.clone());
            place(self.targets.len() - 1)
        });
        let pattern = route.pattern.map(|text| {
            let start = place(self.patterns.len());
            self.patterns.push_str(text);
            start..place(self.patterns.len())
        });
        self.lines.push((pattern, target));
    }
}

/// A place in a map's texts: lowering makes no text of `MAX_MAP` bytes longer than 4 GiB.
fn place(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The bytes of a map, or why there are none.
///
/// # Errors
/// It cannot be read, which says nothing about what is in it; or it is larger than 64 MiB.
pub fn read_map(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = files::read(path, MAX_MAP).map_err(|error| format!("cannot be read: {error}"))?;
    match bytes.len() as u64 > MAX_MAP {
        true => Err("larger than 64 MiB".to_owned()),
        false => Ok(bytes),
    }
}

/// Reads the text of a map, of the file `path`: a route a line, as `parse_route` takes them; empty lines and
/// those that begin with `#` or `;` are remarks. `backends` are the names that exist.
///
/// # Errors
/// Every mistake, a hundred at most.
pub fn parse_map(path: &Path, bytes: &[u8], backends: &[&str]) -> Result<RouteMap, Vec<Mistake>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut map = RouteMap {
        patterns: String::with_capacity(bytes.len()),
        lines: Vec::with_capacity(bytes.iter().filter(|byte| **byte == b'\n').count() + 1),
        targets: Vec::new(),
    };
    let mut known = HashMap::new();
    let mut mistakes = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        match map_line(line, backends) {
            Ok(None) => {}
            Ok(Some(route)) => map.push(route, &mut known),
            Err(_) if mistakes.len() == MAX_MISTAKES => {
                mistakes.push(Mistake::of_file(path, "and more mistakes"));
                break;
            }
            Err(text) => mistakes.push(Mistake::of_line(path, index + 1, text)),
        }
    }
    if mistakes.is_empty() {
        map.patterns.shrink_to_fit();
        map.lines.shrink_to_fit();
        Ok(map)
    } else {
        Err(mistakes)
    }
}

fn map_line(line: &[u8], backends: &[&str]) -> Result<Option<Route>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "not valid UTF-8")?;
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Ok(None);
    }
    let route = parse_route(line)?;
    if let RouteTarget::Backend(name) = &route.target
        && !backends.contains(&name.as_str())
    {
        return Err(unknown_backend(name, backends));
    }
    Ok(Some(route))
}

/// Says that there is no such backend, and which one may be meant.
pub(super) fn unknown_backend(name: &str, backends: &[&str]) -> String {
    match nearest(name, backends) {
        Some(meant) => format!("there is no [backend {name}]; did you mean `{meant}`?"),
        None => format!("there is no [backend {name}]"),
    }
}

/// A domain as logins have it, lowered, without `@`.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || "@*\"\\".contains(c);
    let fits = text.len() <= 253
        && !text.contains(is_odd)
        && text.split('.').all(|label| !label.is_empty());
    if !fits {
        let hint = match text.strip_prefix('@') {
            Some(_) => "; leave the `@` out",
            None => "",
        };
        return Err(format!("{} is not a domain{hint}", shown(text)));
    }
    Ok(text.to_lowercase())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    if text == "*" {
        return Ok(Pattern::Any);
    }
    let bad = || {
        format!(
            "{} is not a pattern: user@domain, @domain, user or *",
            shown(text)
        )
    };
    if text.contains('*') {
        let text = shown(text);
        return Err(format!(
            "{text}: `*` stands alone; everyone of a domain is @domain"
        ));
    }
    if text.len() > MAX_TEXT || text.contains(char::is_control) {
        return Err(bad());
    }
    let Some((user, of)) = text.rsplit_once('@') else {
        return Ok(Pattern::User(text.to_lowercase()));
    };
    let of = domain(of).map_err(|_| bad())?;
    if user.is_empty() {
        return Ok(Pattern::Domain(of));
    }
    Ok(Pattern::Address(text.to_lowercase()))
}

/// Stands bare on the line that the client gets.
fn reject_text(text: &str) -> Result<String, String> {
    let text = rest_of_line(text)?;
    if text.trim().is_empty() {
        return Err("a text for the client is missing behind `reject`".to_owned());
    }
    if text.len() > MAX_TEXT || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(format!(
            "the text behind `reject` must be printable ASCII of at most {MAX_TEXT} characters"
        ));
    }
    Ok(text)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Domain(domain) => write!(f, "@{domain}"),
            Self::User(text) | Self::Address(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> (Pattern, RouteTarget) {
        let route = parse_route(text).expect(text);
        (route.pattern, route.target)
    }

    #[test]
    fn patterns_are_lowered_and_told_apart() {
        let backend = RouteTarget::Backend("Office".to_owned());
        for (text, pattern) in [
            ("* Office", Pattern::Any),
            (
                "@Example.ORG  Office",
                Pattern::Domain("example.org".to_owned()),
            ),
            ("Anna\tOffice", Pattern::User("anna".to_owned())),
            (
                "Anna@Example.org Office",
                Pattern::Address("anna@example.org".to_owned()),
            ),
            ("a@b@c.org Office", Pattern::Address("a@b@c.org".to_owned())),
            ("\"Anna B\" Office", Pattern::User("anna b".to_owned())),
            (
                "ÄRGER@büro.example Office",
                Pattern::Address("ärger@büro.example".to_owned()),
            ),
        ] {
            assert_eq!(route(text), (pattern, backend.clone()), "{text}");
        }
    }

    #[test]
    fn a_rejection_has_the_rest_of_the_line_as_its_text() {
        let text = |line| match route(line).1 {
            RouteTarget::Reject(text) => text,
            RouteTarget::Backend(name) => panic!("a backend: {name}"),
        };
        assert_eq!(
            text("* reject Closed, see \"news\""),
            "Closed, see \"news\""
        );
        assert_eq!(text("@b.org REJECT \"moved \""), "moved ");
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for text in [
            "",
            "*",
            "* ",
            "a b c",
            "a = b",
            "* reject",
            "* reject \"\"",
            "* reject \"x\" y",
            "* reject é",
            "@ b",
            "a@ b",
            "@a..b x",
            "*@a.org x",
            "a* x",
            "\"a x",
            "\"\" x",
            "a\u{7f} x",
            "a\"b\" x",
        ] {
            assert!(parse_route(text).is_err(), "{text}");
        }
        assert!(parse_route(&format!("* reject {}", "x".repeat(401))).is_err());
        assert!(parse_route(&format!("{} x", "x".repeat(401))).is_err());
    }

    #[test]
    fn domains_have_no_at_sign() {
        assert_eq!(domain("Example.org").as_deref(), Ok("example.org"));
        let text = domain("@example.org").expect_err("an @");
        assert_eq!(text, "`@example.org` is not a domain; leave the `@` out");
        for text in ["", ".", "a.", "a b", "a\r\nb", "*"] {
            assert!(domain(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_bad_line_of_a_map_is_told() {
        let path = Path::new("users.map");
        let text = b"\xef\xbb\xbfanna office\r\n# x\n\n bert  ofice\n\xff x\n@b.org\n; y\n";
        let mistakes = parse_map(path, text, &["office"]).expect_err("mistakes");
        let file = path.display();
        let expected = [
            format!("{file}:4: there is no [backend ofice]; did you mean `office`?"),
            format!("{file}:5: not valid UTF-8"),
            format!("{file}:6: {FORM}"),
        ];
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(lines, expected);

        let many = "x\n".repeat(1000);
        let mistakes = parse_map(path, many.as_bytes(), &[]).expect_err("mistakes");
        assert_eq!(mistakes.len(), 101);
        let good = parse_map(path, b"anna office\n* reject no", &["office"]);
        assert_eq!(good.map(|map| map.routes().count()), Ok(2));
    }
}
