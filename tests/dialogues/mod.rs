//! Plays the text files below this folder against the proxy: what a client says (`C:`) and what it
//! gets (`S:`), byte for byte. How such a file reads is told in FORMAT.txt.
//!
//! Each dialogue is played four ways: line by line, sent at once, with every byte in a segment of its
//! own, and with the session asleep before every byte; what the proxy says must be the same.

mod play;
pub(crate) mod script;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use script::Script;

/// Plays all dialogues of a protocol, several at a time.
///
/// # Panics
/// With every dialogue that went otherwise, if one did.
pub(crate) fn play_all(protocol: &str) {
    let files = files(protocol);
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = play_file(protocol, file);
                    failures.lock().expect("no holder panics").extend(found);
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no holder panics");
    failures.sort();
    assert!(
        failures.is_empty(),
        "{} of {} dialogues went otherwise:\n\n{}",
        failures.len(),
        files.len(),
        failures.join("\n")
    );
}

fn files(protocol: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/dialogues")
        .join(protocol);
    let entries = fs::read_dir(&folder).expect("the folder is part of the source");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    assert!(!files.is_empty(), "no dialogues in {}", folder.display());
    files.sort();
    files
}

fn play_file(protocol: &str, file: &PathBuf) -> Option<String> {
    let text = fs::read_to_string(file).expect("a listed file can be read");
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let result = Script::parse(&text).and_then(|script| {
        // A proxy that does not start is one dialogue's failure, not the end of all.
        thread::spawn({
            let protocol = protocol.to_owned();
            move || play::all_ways(&protocol, &script)
        })
        .join()
        .unwrap_or_else(|cause| Err(panic_text(&*cause)))
    });
    result.err().map(|why| format!("{protocol}/{name}: {why}"))
}

fn panic_text(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without text")
        .to_owned()
}
