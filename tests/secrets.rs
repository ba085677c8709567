//! What the process remembers of passwords once a login is over: its memory is searched for them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::common::postern::Postern;
use crate::common::wait;
use crate::legs::{End, Leg, Stage};

const SESSIONS: usize = 20;

const PAGE: usize = 4096;

/// Everything that the process may write to.
fn memory(postern: &Postern) -> Vec<u8> {
    let folder = format!("/proc/{}", postern.id());
    let maps = fs::read_to_string(format!("{folder}/maps")).expect("it runs");
    let file = File::open(format!("{folder}/mem")).expect("its parent may look");
    let mut memory = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').expect("a range");
        let [start, end] =
            [start, end].map(|text| u64::from_str_radix(text, 16).expect("an address"));
        let mut piece = vec![0; usize::try_from(end - start).expect("a piece of memory")];
        // Pieces that went away meanwhile hold nothing.
        if file.read_exact_at(&mut piece, start).is_ok() {
            // Most of it was never written to.
            let written = piece.chunks(PAGE).filter(|page| *page != [0; PAGE]);
            written.for_each(|page| memory.extend_from_slice(page));
        }
    }
    memory
}

/// How often a text stands in it.
fn count(memory: &[u8], text: &str) -> usize {
    let windows = memory.windows(text.len());
    windows.filter(|window| *window == text.as_bytes()).count()
}

/// The passwords of all sessions end alike, in base64 too.
const ENDS: [&str; 2] = ["-of-nobody-else", "LW9mLW5vYm9keS1l"];

fn log_in(stage: &Stage, number: usize) -> End {
    let end = stage.connect();
    end.expect("* OK IMAP4 ready");
    // Of a length at which base64 begins a new group with the end.
    let password = format!("Pw-{number:02}-of-nobody-else");
    if number.is_multiple_of(2) {
        end.send(&format!("in LOGIN alice {password}"));
    } else {
        let response = openssl::base64::encode_block(format!("\0alice\0{password}").as_bytes());
        assert!(response.contains(ENDS[1]), "{response}");
        end.send(&format!("in AUTHENTICATE PLAIN {response}"));
    }
    end.expect("in OK in");
    end
}

/// Logs sessions in that then idle, awake and asleep, and counts what of their passwords the memory
/// comes to hold, `most` at most.
fn hunt(legs: (Leg, Leg), most: usize) {
    for hibernate in ["off", "200ms"] {
        let more = format!("hibernate_timeout = {hibernate}\n");
        let stage = Stage::start(legs, "", &more, |end, _| {
            let _ = end.read(&mut [0]);
        });
        let clients: Vec<End> = (0..SESSIONS).map(|n| log_in(&stage, n)).collect();
        if hibernate != "off" {
            stage.wait_until_asleep(SESSIONS);
        }
        let postern = stage.postern();
        // The worker of the last login may still be about to forget it.
        wait::until_at_most(
            &format!("{legs:?} {hibernate}"),
            most,
            wait::PATIENCE,
            || {
                let memory = memory(postern);
                ENDS.iter().map(|end| count(&memory, end)).sum()
            },
        );
        // The memory was read, and what is in it can be found.
        assert!(count(&memory(postern), "127.0.0.1") > 0);
        drop(clients);
    }
}

#[test]
fn no_password_is_in_memory_while_a_session_idles() {
    for leg in [Leg::Plain, Leg::Rustls] {
        hunt((leg, Leg::Plain), 0);
        hunt((Leg::Plain, leg), 0);
    }
}

/// OpenSSL frees what it has decrypted into without wiping it: the latest may be left behind.
#[test]
fn the_systems_library_leaves_few_passwords_behind() {
    hunt((Leg::Native, Leg::Plain), SESSIONS / 2);
    hunt((Leg::Plain, Leg::Native), SESSIONS / 2);
}
