//! The kinds of values that directives have: switches, sizes, times, counts, lists, names.
//!
//! Text in, typed value or a sentence for the administrator out. Addresses and URLs are `address`'s
//! and `listen`'s, `error_log` is `log_target`'s. Nothing here knows which directive it serves.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{Capabilities, Mechanisms};
use crate::protocol::Protocol;
use crate::sasl::Mechanism;

/// Longest time that any directive takes.
const MAX_TIME: Duration = Duration::from_secs(365 * 86400);

/// Times that may be anything but zero.
pub(super) const POSITIVE: RangeInclusive<Duration> = Duration::from_millis(1)..=MAX_TIME;

/// Times that may be zero.
pub(super) const FROM_ZERO: RangeInclusive<Duration> = Duration::ZERO..=MAX_TIME;

/// Times between things that are done again and again.
pub(super) const FROM_A_SECOND: RangeInclusive<Duration> = Duration::from_secs(1)..=MAX_TIME;

/// How long an answer may be held back: beyond that clients have given up.
pub(super) const PENALTY: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(300);

/// Times of at most a day that may be zero.
pub(super) const UP_TO_A_DAY: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(86400);

/// Times of at most a day, and of a second at least.
pub(super) const UP_TO_A_DAY_FROM_A_SECOND: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86400);

/// Longest capability, so that a line made of it fits any client's buffer.
const MAX_CAPABILITY: usize = 500;

/// `on` or `off`, in any case.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    one_of(text, &[("on", true), ("off", false)])
}

/// One of some words, in any case.
pub(super) fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    for (word, value) in words {
        if word.eq_ignore_ascii_case(text) {
            return Ok(*value);
        }
    }
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    Err(unknown(text, "must be", &names))
}

/// A whole number within a range.
pub(super) fn count<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let (low, high) = (range.start(), range.end());
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{} is not a number", shown(text)));
    }
    match text.parse::<T>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("must be {low} to {high}")),
    }
}

/// `off`, or a whole number within a range.
pub(super) fn count_or_off<T>(text: &str, range: RangeInclusive<T>) -> Result<Option<T>, String>
where
    T: FromStr + PartialOrd + Display,
{
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    count(text, range).map(Some)
}

/// A size in bytes: `512`, `4k`, `1m`.
pub(super) fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1024),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1024 * 1024),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let text = shown(text);
        return Err(format!("{text} is not a size (bytes, 4k or 1m)"));
    }
    let bytes = digits.parse::<usize>().ok();
    match bytes.and_then(|number| number.checked_mul(unit)) {
        Some(bytes) if range.contains(&bytes) => Ok(bytes),
        _ => {
            let (low, high) = (show_size(*range.start()), show_size(*range.end()));
            Err(format!("must be {low} to {high}"))
        }
    }
}

/// A time: units `y M w d h m s ms`, largest first, each at most once; a bare number is seconds.
pub(super) fn time(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let total = sum_of_times(text).ok_or_else(|| {
        format!(
            "{} is not a time (500ms, 30s, 5m, 24h, 1d, 1h30m)",
            shown(text)
        )
    })?;
    match total.map(Duration::from_millis) {
        Some(total) if range.contains(&total) => Ok(total),
        _ => {
            let (low, high) = (show_time(*range.start()), show_time(*range.end()));
            Err(format!("must be {low} to {high}"))
        }
    }
}

/// `off`, or a time.
pub(super) fn time_or_off(
    text: &str,
    range: RangeInclusive<Duration>,
) -> Result<Option<Duration>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    time(text, range).map(Some)
}

/// Milliseconds; outer `None` for no time at all, inner for one that overflows.
fn sum_of_times(text: &str) -> Option<Option<u64>> {
    const UNITS: [(&str, u64); 9] = [
        ("y", 365 * 86_400_000),
        ("M", 30 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("", 1000),
        ("ms", 1),
    ];
    let mut rest = text;
    let mut total = Some(0u64);
    let mut next_unit = 0;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let found = UNITS.iter().position(|(name, _)| *name == unit)?;
        if found < next_unit {
            return None;
        }
        let number = number.parse::<u64>().ok();
        let part = number.and_then(|number| number.checked_mul(UNITS[found].1));
        total = total
            .zip(part)
            .and_then(|(sum, part)| sum.checked_add(part));
        if tail.is_empty() {
            return Some(total);
        }
        // Behind `s` only `ms` may follow, not a bare number of seconds.
        next_unit = found + 1 + usize::from(unit == "s");
        rest = tail;
    }
}

/// Items separated by spaces or commas; an item with spaces stands in double quotes.
pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    split(text, |c| c.is_whitespace() || c == ',')
}

/// Items separated by spaces alone.
pub(super) fn fields(text: &str) -> Result<Vec<String>, String> {
    split(text, char::is_whitespace)
}

/// One quoted item if the text begins with a quote, else the text itself.
pub(super) fn rest_of_line(text: &str) -> Result<String, String> {
    if !text.starts_with('"') {
        return Ok(text.to_owned());
    }
    let (item, rest) = quoted(text)?;
    if !rest.is_empty() {
        return Err("there is text behind the closing quote".to_owned());
    }
    Ok(item)
}

/// The first field, which stands in double quotes if it has spaces, and what follows it. Empty for no
/// text; the text must not begin with a space.
pub(super) fn take_field(text: &str) -> Result<(String, &str), String> {
    take_item(text, char::is_whitespace)
}

fn split(text: &str, is_separator: fn(char) -> bool) -> Result<Vec<String>, String> {
    let mut items = Vec::new();
    let mut rest = text.trim_start_matches(is_separator);
    while !rest.is_empty() {
        let (item, tail) = take_item(rest, is_separator)?;
        items.push(item);
        rest = tail;
    }
    Ok(items)
}

/// The item at the beginning, and what follows it without its separators.
fn take_item(text: &str, is_separator: fn(char) -> bool) -> Result<(String, &str), String> {
    let (item, tail) = if text.starts_with('"') {
        let (item, tail) = quoted(text)?;
        if !tail.is_empty() && !tail.starts_with(is_separator) {
            return Err("there is text behind a closing quote".to_owned());
        }
        (item, tail)
    } else {
        let (item, tail) = text.split_at(text.find(is_separator).unwrap_or(text.len()));
        if item.contains('"') {
            return Err("a quote may stand only around a whole item".to_owned());
        }
        (item.to_owned(), tail)
    };
    Ok((item, tail.trim_start_matches(is_separator)))
}

/// The item that begins with a quote, and what follows its closing one.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut item = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((index, c)) = chars.next() {
        match (c, chars.peek()) {
            ('"', _) => return Ok((item, &text[index + 1..])),
            ('\\', Some((_, escaped @ ('"' | '\\')))) => {
                item.push(*escaped);
                chars.next();
            }
            _ => item.push(c),
        }
    }
    Err("a closing quote is missing".to_owned())
}

/// The words for the ways to log in that a protocol's clients can be offered.
pub(super) fn mechanism_words(protocol: Protocol) -> Vec<&'static str> {
    let sasl = Mechanism::configurable(protocol).map(|row| row.word);
    sasl.chain(protocol.record().own_login).collect()
}

/// Ways to log in that the protocol's clients are offered. At least one. The second value names one that
/// stands twice.
pub(super) fn mechanisms(
    text: &str,
    protocol: Protocol,
) -> Result<(Mechanisms, Option<String>), String> {
    let known = mechanism_words(protocol);
    let mut set = Mechanisms::default();
    let mut twice = None;
    for word in list(text)? {
        let is_it = |known: &str| known.eq_ignore_ascii_case(&word);
        let sasl = Mechanism::configurable(protocol).find(|row| is_it(row.word));
        let is_new = match sasl {
            Some(mechanism) if set.has(mechanism) => false,
            Some(mechanism) => {
                set.sasl.push(mechanism);
                true
            }
            None if protocol.record().own_login.is_some_and(is_it) => {
                !std::mem::replace(&mut set.own_login, true)
            }
            None => return Err(unknown(&word, "methods are", &known)),
        };
        if !is_new {
            twice = Some(format!("{} stands twice", shown(&word)));
        }
    }
    if set == Mechanisms::default() {
        return Err(format!("is empty; methods are {}", known.join(", ")));
    }
    Ok((set, twice))
}

/// `auto`, or capabilities: words or quoted phrases of printable ASCII.
pub(super) fn capabilities(text: &str) -> Result<Capabilities, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(Capabilities::Auto);
    }
    let items = list(text)?;
    for item in &items {
        if item.is_empty() || item.len() > MAX_CAPABILITY {
            return Err(format!("an item has 1 to {MAX_CAPABILITY} characters"));
        }
        if !item.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            let item = shown(item);
            return Err(format!("{item} has characters outside printable ASCII"));
        }
    }
    Ok(Capabilities::Fixed(items))
}

/// Names for `filter=tag:`.
pub(super) fn tags(text: &str) -> Result<Vec<String>, String> {
    let items = list(text)?;
    if items.iter().any(|item| item.trim().is_empty()) {
        return Err("a tag must not be empty".to_owned());
    }
    Ok(items)
}

/// A host name (letters, digits, `-`, `_`, `.`) or an address literal in brackets.
pub(super) fn server_name(text: &str) -> Result<String, String> {
    let literal = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let fits = match literal {
        Some(inside) => {
            !inside.is_empty()
                && inside
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".:-".contains(&byte))
        }
        None => is_host_name(text),
    };
    if !fits || text.len() > 255 {
        let text = shown(text);
        return Err(format!("{text} is not a host name or [ADDRESS]"));
    }
    Ok(text.to_owned())
}

/// Whether this could be the name of a host: labels of letters, digits, `-` and `_`.
pub(super) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A header of requests to the auth server: `NAME VALUE`. The value may be a secret: it stands in
/// no message.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let Some((name, value)) = text.split_once(char::is_whitespace) else {
        return Err("write NAME VALUE".to_owned());
    };
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.bytes().all(is_token) {
        return Err("NAME may hold letters, digits and !#$%&'*+-.^_`|~ only".to_owned());
    }
    let value = rest_of_line(value.trim())?;
    if value.chars().any(char::is_control) {
        return Err("VALUE must not hold control characters".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// A user or group: looked up by `check`.
pub(super) fn account(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(char::is_whitespace) {
        return Err(format!("{} is not a name", shown(text)));
    }
    Ok(text.to_owned())
}

/// A file name, relative to the configuration's folder.
pub(super) fn path(text: &str, folder: &Path) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("a file name is missing".to_owned());
    }
    Ok(folder.join(text))
}

/// What a directive or value says that is known and refused.
pub(super) fn not_yet(what: &str) -> String {
    format!("{what} is not supported yet by this version")
}

/// Says that a word is unknown, which ones are known, and which one may be meant.
pub(super) fn unknown(word: &str, are: &str, known: &[&str]) -> String {
    let all = match known {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => known.concat(),
    };
    if word.is_empty() {
        return format!("a value is missing; {are} {all}");
    }
    let hint = match nearest(word, known) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    };
    format!("{} is unknown; {are} {all}{hint}", shown(word))
}

/// The known word that was probably meant.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let distances = known.iter().map(|name| {
        let distance = strsim::damerau_levenshtein(&word, &name.to_ascii_lowercase());
        (distance, *name)
    });
    let rank = |(distance, name): &(usize, &str)| (*distance, !name.starts_with(&word));
    let (distance, name) = distances.min_by_key(rank)?;
    (distance <= 1.max(name.len() / 4)).then_some(name)
}

/// Text from the file in a message: in backticks, shortened.
pub(super) fn shown(text: &str) -> String {
    if text.is_empty() {
        return "the empty value".to_owned();
    }
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

fn show_size(bytes: usize) -> String {
    if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) {
        return format!("{}m", bytes >> 20);
    }
    if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) {
        return format!("{}k", bytes >> 10);
    }
    bytes.to_string()
}

fn show_time(time: Duration) -> String {
    let millis = time.as_millis();
    if millis == 0 {
        return "0".to_owned();
    }
    for (length, unit) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
    ] {
        if millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{millis}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> Option<u128> {
        time(text, FROM_ZERO).ok().map(|time| time.as_millis())
    }

    #[test]
    fn times_have_units_and_sums() {
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("30"), Some(30_000));
        assert_eq!(ms("5m"), Some(300_000));
        assert_eq!(ms("24h"), ms("1d"));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("1d1ms"), Some(86_400_001));
        assert_eq!(ms("1m30"), Some(90_000));
        assert_eq!(ms("0"), Some(0));
        assert_eq!(ms("1y"), ms("365d"));
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for text in [
            "",
            "s",
            "1x",
            "1h1h",
            "30m1h",
            "-1",
            "+1",
            "1.5s",
            "1 s",
            "1sm",
            "ms",
            "5m ",
            "366d",
            "99999999999999999999s",
            "18446744073709551615d",
            "1ms5",
            "1s1",
            "１s",
            "1é",
        ] {
            assert_eq!(ms(text), None, "{text}");
        }
        let zero = time("0", POSITIVE).expect_err("zero is out of range");
        assert_eq!(zero, "must be 1ms to 365d");
    }

    #[test]
    fn sizes_have_units_and_limits() {
        let any = 0..=usize::MAX;
        assert_eq!(size("4k", any.clone()), Ok(4096));
        assert_eq!(size("1M", any.clone()), Ok(1 << 20));
        assert_eq!(size("512", any.clone()), Ok(512));
        for text in [
            "",
            "k",
            "4g",
            "-1k",
            "4 k",
            "1.5k",
            "99999999999999999999",
            "4é",
            "é",
        ] {
            assert!(size(text, any.clone()).is_err(), "{text}");
        }
        assert!(size("18446744073709551615k", any).is_err());
        let low = size("1", 1024..=1 << 20).expect_err("too small");
        assert_eq!(low, "must be 1k to 1m");
    }

    #[test]
    fn counts_are_digits_within_a_range() {
        assert_eq!(count("7", 1..=10u32), Ok(7));
        for text in ["0", "11", "", "+1", "1k", " 1", "4294967296"] {
            assert!(count(text, 1..=10u32).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_take_spaces_commas_and_quotes() {
        let items = list("\"SIZE 10485760\" 8BITMIME,, \t DSN").expect("a list");
        assert_eq!(items, ["SIZE 10485760", "8BITMIME", "DSN"]);
        assert_eq!(list(r#""a\"b\\c\n""#).expect("a list"), [r#"a"b\c\n"#]);
        assert_eq!(list(r#""a, b",c"#).expect("a list"), ["a, b", "c"]);
        assert!(list(" , ").expect("a list").is_empty());
        for text in ["\"a", "\"a\"b", "a\"b\"", "\"a\\\"", "\""] {
            assert!(list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn switches_are_read_in_any_case() {
        assert_eq!(flag("ON"), Ok(true));
        assert_eq!(flag("off"), Ok(false));
        let text = flag("of").expect_err("no switch");
        assert_eq!(
            text,
            "`of` is unknown; must be on or off; did you mean `off`?"
        );
        assert!(flag("yes").is_err() && flag("").is_err());
    }

    #[test]
    fn methods_of_another_protocol_are_refused() {
        let (set, twice) = mechanisms("CRAM-MD5, none", Protocol::Smtp).expect("methods");
        let words: Vec<&str> = set.sasl.iter().map(|row| row.word).collect();
        assert_eq!(
            (words, set.own_login, twice),
            (vec!["cram-md5"], true, None)
        );
        assert!(
            mechanisms("plain plain", Protocol::Smtp)
                .expect("methods")
                .1
                .is_some()
        );
        assert!(mechanisms("apop", Protocol::Smtp).is_err());
        assert!(mechanisms(" ,", Protocol::Smtp).is_err());
    }

    #[test]
    fn server_names_fit_a_protocol_line() {
        for text in [
            "mail.example.org",
            "localhost",
            "a_b",
            "[192.0.2.1]",
            "[IPv6:2001:db8::1]",
        ] {
            assert_eq!(server_name(text).as_deref(), Ok(text));
        }
        for text in [
            "", "a b", "a..b", ".a", "a.", "ä.org", "a\r\nb", "[]", "[x", "-a", "a@b",
        ] {
            assert!(server_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_are_a_token_and_the_rest_of_the_line() {
        let value = |text| header(text).map(|(_, value)| value);
        assert_eq!(value("X-Key a b").as_deref(), Ok("a b"));
        assert_eq!(value("X-Key  \"a \\\" b\"").as_deref(), Ok("a \" b"));
        assert_eq!(value("X-Key \"\"").as_deref(), Ok(""));
        assert_eq!(value("X-Key a \"b\"").as_deref(), Ok("a \"b\""));
        for text in [
            "",
            "X-Key",
            "X: y",
            "X\u{e9} y",
            "X \"y",
            "X \"y\" z",
            "X a\u{7f}b",
            "\"X\" y",
        ] {
            assert!(header(text).is_err(), "{text}");
        }
        let secret = header("X: geheim").expect_err("no token");
        assert!(!secret.contains("geheim"));
    }

    #[test]
    fn capabilities_are_printable_ascii() {
        let items = capabilities("IMAP4rev1 \"A B\"").expect("items");
        assert_eq!(items.fixed(), ["IMAP4rev1", "A B"]);
        assert_eq!(capabilities("AUTO"), Ok(Capabilities::Auto));
        assert!(capabilities("\"\"").is_err() && capabilities("ä").is_err());
        assert!(capabilities(&"x".repeat(501)).is_err());
    }
}
