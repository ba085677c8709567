//! What a further protocol or SASL mechanism would touch: the source files that name one of those that
//! there are. Everything else finds them through their rows.
//!
//! A file that comes to name one is listed here with the reason, or rather reads a row instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that name a protocol. A further one is a variant and a row in `protocol.rs`, a folder in
/// `dialect`, and its directives; the rest of the list asks for a look.
const PROTOCOLS: &[(&str, &str)] = &[
    (
        "config/check.rs",
        "stands in where a mistake left the protocol open",
    ),
    (
        "config/directives.rs",
        "the rows of the directives that each protocol has for itself",
    ),
    (
        "config/draft.rs",
        "stands in until a server's section is read",
    ),
    ("dialect/mod.rs", "which protocol is which folder"),
    ("protocol.rs", "the rows"),
];

/// Files that name a protocol as text. The demo has servers of its own for them.
const PROTOCOL_WORDS: &[(&str, &str)] = &[
    ("config/check_tls.rs", "any ALPN name does to build a setup"),
    (
        "config/directives.rs",
        "an example of a value of `protocol`",
    ),
    ("demo/auth.rs", "the demo's servers"),
    ("demo/mod.rs", "the demo's servers"),
    ("import/translate.rs", "defaults in which nginx differs"),
    ("protocol.rs", "the rows"),
];

/// Files that name a mechanism, outside `sasl`. A further one is a file in `sasl` and a row there.
const MECHANISMS: &[(&str, &str)] = &[
    ("backend/grant.rs", "PLAIN is what a login falls back on"),
    (
        "demo/imap/mod.rs",
        "the demo's servers have PLAIN and no other",
    ),
    (
        "dialect/imap/backend.rs",
        "PLAIN takes the place of a LOGIN command that is disabled",
    ),
    (
        "dialect/mod.rs",
        "where POP3 announces PLAIN, it announces LOGIN",
    ),
    (
        "import/directives.rs",
        "words by which a file is known as Angie's",
    ),
];

#[test]
fn protocols_are_named_in_these_files_alone() {
    let own_folder = |file: &str| file.starts_with("dialect/") && file != "dialect/mod.rs";
    let named = files_with(&["Imap", "Pop3", "Smtp"], own_folder);
    assert_listed(&named, PROTOCOLS);
    let named = files_with(&["\"imap\"", "\"pop3\"", "\"smtp\""], own_folder);
    assert_listed(&named, PROTOCOL_WORDS);
}

#[test]
fn mechanisms_are_named_in_these_files_alone() {
    let words = [
        "&PLAIN",
        "AUTH=PLAIN",
        "CRAM_MD5",
        "CRAM-MD5\"",
        "EXTERNAL",
        "XOAUTH2",
        "OAUTHBEARER",
        "\"cram-md5\"",
        "\"xoauth2\"",
        "\"oauthbearer\"",
    ];
    let named = files_with(&words, |file| file.starts_with("sasl/"));
    assert_listed(&named, MECHANISMS);
}

fn assert_listed(named: &BTreeMap<String, String>, listed: &[(&str, &str)]) {
    for (file, line) in named {
        let is_listed = listed.iter().any(|(of_list, _)| of_list == file);
        assert!(
            is_listed,
            "src/{file} is not listed but says: {}",
            line.trim()
        );
    }
    for (file, why) in listed {
        assert!(
            named.contains_key(*file),
            "src/{file} need no longer be listed for: {why}"
        );
    }
}

/// The files of `src`, but for tests, that have one of the words in their code, each with its first such
/// line. A word that begins or ends with a letter stands alone there.
fn files_with(words: &[&str], is_exempt: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    let mut found = BTreeMap::new();
    for path in files {
        let file = path.strip_prefix(&source).expect("below src");
        let file = file.to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests").next();
        let lines = code.unwrap_or_default().lines();
        let mut lines = lines.filter(|line| !line.trim_start().starts_with("//"));
        let line = lines.find(|line| words.iter().any(|word| has_word(line, word)));
        if let Some(line) = line.filter(|_| !is_exempt(&file)) {
            found.insert(file, line.to_owned());
        }
    }
    found
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() && !is_test {
            collect(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") && !is_test {
            files.push(path);
        }
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, behind) = (&line[..at], &line[at + word.len()..]);
        let goes_on_before = before.ends_with(is_of_word) && word.starts_with(is_of_word);
        let goes_on_behind = behind.starts_with(is_of_word) && word.ends_with(is_of_word);
        !goes_on_before && !goes_on_behind
    })
}
