//! `deny`: who is not let in, as addresses and ranges in the configuration or in files of their own.
//!
//! A file has one address or range a line. `#` and `;` begin a remark, behind an address too, as lists that
//! are handed round have them. How an address is looked up is the business of `blocklist`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::address::range;
use super::mistake::Mistake;
use super::value;
use crate::system::files;

/// Largest file, in bytes: more than half a million addresses.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Most mistakes of a file that are told.
const MAX_MISTAKES: usize = 100;

/// One item of `deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenyItem {
    /// An address or a range, without low bits; IPv4 as IPv4.
    Net(IpNet),
    /// A file of them.
    File(PathBuf),
}

/// The items of a line, and what of it is without effect.
///
/// # Errors
/// For people: what is neither.
pub(super) fn deny_items(
    text: &str,
    folder: &Path,
) -> Result<(Vec<DenyItem>, Vec<String>), String> {
    let words = value::list(text)?;
    if words.is_empty() {
        return Err("is empty".to_owned());
    }
    let mut items = Vec::new();
    let mut notes = Vec::new();
    for word in words {
        if !begins_with_address(&word) {
            items.push(DenyItem::File(value::path(&word, folder)?));
            continue;
        }
        let (net, note) = range(&word)?;
        notes.extend(note);
        items.push(DenyItem::Net(net));
    }
    Ok((items, notes))
}

/// A file whose name begins so would have to be written as `./NAME`.
fn begins_with_address(word: &str) -> bool {
    let address = word.split('/').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok()
}

/// The bytes of a file, or why there are none.
///
/// # Errors
/// It cannot be read, which says nothing about what is in it; or it is larger than 16 MiB.
pub(crate) fn read_deny(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = files::read(path, MAX_FILE).map_err(|error| format!("cannot be read: {error}"))?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err("larger than 16 MiB".to_owned()),
        false => Ok(bytes),
    }
}

/// The addresses and ranges in the text of the file `path`.
///
/// # Errors
/// Every mistake, a hundred at most.
pub(crate) fn parse_deny(path: &Path, bytes: &[u8]) -> Result<Vec<IpNet>, Vec<Mistake>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut nets = Vec::new();
    let mut mistakes = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        match file_line(line) {
            Ok(None) => {}
            Ok(Some(net)) => nets.push(net),
            Err(_) if mistakes.len() == MAX_MISTAKES => {
                mistakes.push(Mistake::of_file(path, "and more mistakes"));
                break;
            }
            Err(text) => mistakes.push(Mistake::of_line(path, index + 1, text)),
        }
    }
    match mistakes.is_empty() {
        true => Ok(nets),
        false => Err(mistakes),
    }
}

fn file_line(line: &[u8]) -> Result<Option<IpNet>, String> {
    let said = line.split(|byte| b"#;".contains(byte)).next();
    let said = std::str::from_utf8(said.unwrap_or_default()).map_err(|_| "not valid UTF-8")?;
    match said.trim() {
        "" => Ok(None),
        said => Ok(Some(range(said)?.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_addresses_ranges_and_files() {
        let folder = Path::new("/etc/postern");
        let (items, notes) = deny_items(
            "192.0.2.1, 10.1.0.0/8 ::ffff:10.0.0.0/104 2001:db8::/32 deny.list ./10.0.0.1",
            folder,
        )
        .expect("items");
        let net = |text: &str| DenyItem::Net(text.parse().expect("a literal"));
        let expected = [
            net("192.0.2.1/32"),
            net("10.0.0.0/8"),
            net("10.0.0.0/8"),
            net("2001:db8::/32"),
            DenyItem::File(folder.join("deny.list")),
            DenyItem::File(folder.join("./10.0.0.1")),
        ];
        assert_eq!(items, expected);
        assert_eq!(notes, ["low bits of `10.1.0.0/8` are ignored"]);
        for text in ["", "10.0.0.0/33", "10.0.0.1/x", "::1/129", "\"a"] {
            assert!(deny_items(text, folder).is_err(), "{text}");
        }
    }

    #[test]
    fn every_bad_line_of_a_file_is_told_with_its_number() {
        let path = Path::new("deny.list");
        let text = b"\xef\xbb\xbf192.0.2.1\r\n# x\n\n 10.1.2.0/8 ; a list\n2001:db8::1 # y\n";
        let nets = parse_deny(path, text).expect("addresses");
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["192.0.2.1/32", "10.0.0.0/8", "2001:db8::1/128"]);

        let mistakes = parse_deny(path, b"192.0.2.1\nhost\n\xff\n1.2.3.4 5.6.7.8").expect_err("3");
        let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [Some(2), Some(3), Some(4)]);
        let mistakes = parse_deny(path, "x\n".repeat(1000).as_bytes()).expect_err("many");
        assert_eq!(mistakes.len(), MAX_MISTAKES + 1);
    }
}
