//! Ends processes and removes folders that the test process leaves behind.
//!
//! Statics are never dropped, and a killed test drops nothing. One shell per test binary listens on
//! a pipe whose other end only the test process holds; when that end closes, for whatever reason,
//! the shell ends the process groups it was told of and removes the folders.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

const SCRIPT: &str = r#"
trap '' INT TERM HUP
while read -r what name; do
    case $what in
        group) eval "group_$name=1" ;;
        ended) unset "group_$name" ;;
        folder) folders="$folders $name" ;;
    esac
done
groups=$(set | sed -n 's/^group_\([0-9]*\)=.*/\1/p')
for group in $groups; do kill -s TERM -- "-$group"; done
for round in 1 2 3 4 5 6 7 8 9 10; do
    alive=
    for group in $groups; do kill -s 0 -- "-$group" && alive=1; done
    [ -n "$alive" ] || break
    sleep 0.2
done
for group in $groups; do kill -s KILL -- "-$group"; done
[ -z "$folders" ] || rm -rf $folders
"#;

struct Janitor {
    orders: ChildStdin,
    // Held so that the shell counts as running for as long as the test does.
    _shell: Child,
}

static JANITOR: LazyLock<Mutex<Janitor>> = LazyLock::new(|| {
    let mut shell = Command::new("setsid")
        .args(["sh", "-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid and sh are there");
    let orders = shell.stdin.take().expect("the pipe was asked for");
    Mutex::new(Janitor {
        orders,
        _shell: shell,
    })
});

/// Ends this process group when the test process is gone.
pub(crate) fn end_later(group: u32) {
    order(&format!("group {group}"));
}

/// The group has ended: its number may belong to somebody else soon.
pub(crate) fn has_ended(group: u32) {
    order(&format!("ended {group}"));
}

/// Removes this folder when the test process is gone; its name has no spaces.
pub(crate) fn remove_later(folder: &Path) {
    order(&format!("folder {}", folder.display()));
}

fn order(line: &str) {
    let mut janitor = JANITOR.lock().expect("no holder of this lock panics");
    writeln!(janitor.orders, "{line}").expect("the janitor listens");
}
