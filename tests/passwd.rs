//! `postern passwd`: by standard input, at a terminal, and what it leaves alone in the file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use crate::common::line_client::LineClient;
use crate::common::postern::Postern;
use crate::common::temp::TempDir;
use crate::common::tools::{Said, python, run};
use crate::common::wait::{self, PATIENCE};
use crate::servers::dovecot;

const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

fn passwd(arguments: &[&str], input: &str) -> Said {
    run(
        POSTERN,
        &[&["passwd"], arguments].concat(),
        input.as_bytes(),
    )
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("it is there")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

/// The password field of a login.
fn field(text: &str, login: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{login}:")));
    let line = line.unwrap_or_else(|| panic!("no {login} in {text}"));
    line.split(':').next().unwrap_or_default().to_owned()
}

/// What doveadm says of a hash: it is Dovecot's own judgement.
fn doveadm_takes(field: &str, password: &str) -> bool {
    run("doveadm", &["pw", "-t", field, "-p", password], b"").success
}

#[test]
fn a_line_is_made_changed_and_taken_out_and_the_rest_stays() {
    let folder = TempDir::new("passwd");
    let file = folder.path().join("users");
    let name = file.display().to_string();
    let said = passwd(&["--file", &name, "anna"], "first one\n");
    assert_eq!(said.text(), format!("anna was added to {name}\n"));
    assert_eq!(mode(&file), 0o600);
    let made = field(&text(&file), "anna");
    assert!(made.starts_with("{ARGON2ID}$argon2id$v=19$m="), "{made}");
    assert!(doveadm_takes(&made, "first one") && !doveadm_takes(&made, "first"));

    let before = format!(
        "# ours\r\n\nBert:{{PLAIN}}x:1000:1000::/home/bert::allow_nets=10.0.0.0/8\nanna:{made}:backend=a\n  \n#end"
    );
    fs::write(&file, &before).expect("it is ours");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
    chown(&file, Some(7), Some(8)).expect("the tests run as root");
    passwd(&["--file", &name, "bert"], "second\r\n").text();
    let after = text(&file);
    let changed = field(&after, "Bert");
    assert_eq!(after, before.replace("{PLAIN}x", &changed));
    assert!(doveadm_takes(&changed, "second"));
    let data = fs::metadata(&file).expect("it is there");
    assert_eq!((data.uid(), data.gid(), mode(&file)), (7, 8, 0o640));

    let said = passwd(&["--file", &name, "--delete", "ANNA"], "");
    assert_eq!(said.text(), format!("ANNA was taken out of {name}\n"));
    assert_eq!(
        text(&file),
        after.replace(&format!("anna:{made}:backend=a\n"), "")
    );
    let now = text(&file);
    for (arguments, input) in [
        (["--delete", "anna"], ""),
        (["--", "a:b"], "x\n"),
        (["--", "carl"], "\n"),
        (["--", "carl"], ""),
        (["--", " carl"], "x\n"),
    ] {
        let said = passwd(
            &[&["--file", name.as_str()], &arguments[..]].concat(),
            input,
        );
        assert!(!said.success, "{arguments:?}");
        assert_eq!(text(&file), now);
    }
    assert!(!passwd(&["--file", &name, "carl"], &"x".repeat(513)).success);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn a_link_is_followed() {
    let folder = TempDir::new("passwd");
    let target = folder.write("real", "anna:{PLAIN}x\n");
    let link = folder.path().join("users");
    symlink("real", &link).expect("a link");
    passwd(&["--file", &link.display().to_string(), "bert"], "secret\n").text();
    assert!(
        fs::symlink_metadata(&link)
            .expect("it is there")
            .is_symlink()
    );
    assert!(text(&target).starts_with("anna:{PLAIN}x\nbert:{ARGON2ID}"));
}

#[test]
fn the_configuration_says_which_file_and_whose_group_may_read_a_new_one() {
    let folder = TempDir::new("passwd");
    let mut ini = "[postern]\nuser = nobody\ngroup = mail\n[mail]\nauth_file = users\n".to_owned();
    let file = folder.write("postern.ini", &ini);
    let config = file.display().to_string();
    passwd(&["--config", &config, "anna"], "secret\n").text();
    let users = folder.path().join("users");
    assert_eq!(mode(&users), 0o640);
    let group = nix::unistd::Group::from_name("mail").ok().flatten();
    let gid = group.expect("every system has the group mail").gid;
    assert_eq!(
        fs::metadata(&users).expect("it is there").gid(),
        gid.as_raw()
    );
    ini += "[server a]\nauth_file = others\n";
    folder.write("postern.ini", &ini);
    let said = passwd(&["--config", &config, "anna"], "secret\n");
    assert!(
        said.stderr.contains("choose one with --file"),
        "{}",
        said.stderr
    );
    folder.write("postern.ini", "[mail]\n");
    let said = passwd(&["--config", &config, "anna"], "secret\n");
    assert!(said.stderr.contains("has no auth_file"), "{}", said.stderr);
}

#[test]
fn a_mistake_elsewhere_in_the_file_is_told() {
    let folder = TempDir::new("passwd");
    let file = folder.write("users", "anna:secret\n");
    let name = file.display().to_string();
    let said = passwd(&["--file", &name, "bert"], "pw\n");
    assert!(said.success);
    assert!(
        said.stderr
            .contains(&format!("warning: {name}:1: the password has no scheme")),
        "{}",
        said.stderr
    );
    assert!(!said.stderr.contains("secret"));
    assert!(text(&file).starts_with("anna:secret\nbert:{ARGON2ID}"));
}

#[test]
fn at_a_terminal_it_is_asked_for_twice_and_never_shown() {
    const SCRIPT: &str = r#"
import os, pty, sys, select, time
program, file, first, second = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(program, [program, 'passwd', '--file', file, 'anna'])
said = b''
def wait_for(text):
    global said
    end = time.time() + 60
    while text not in said:
        if not select.select([terminal], [], [], max(0, end - time.time()))[0]:
            sys.exit('not said: %r in %r' % (text, said))
        try:
            piece = os.read(terminal, 1000)
        except OSError:
            piece = b''
        if not piece:
            sys.exit('ended before %r: %r' % (text, said))
        said += piece
wait_for(b'New password of anna: ')
os.write(terminal, first.encode() + b'\n')
wait_for(b'The same again: ')
os.write(terminal, second.encode() + b'\n')
try:
    while piece := os.read(terminal, 1000):
        said += piece
except OSError:
    pass
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(status, said.decode())
"#;
    let folder = TempDir::new("passwd");
    let file = folder.path().join("users");
    let name = file.display().to_string();
    let differ = python(SCRIPT, &[POSTERN, &name, "xyzzy-1", "xyzzy-2"]).text();
    assert!(
        differ.starts_with("2 ") && differ.contains("the two passwords differ"),
        "{differ}"
    );
    assert!(!file.exists());
    let same = python(SCRIPT, &[POSTERN, &name, "xyzzy-1", "xyzzy-1"]).text();
    assert!(
        same.starts_with("0 ") && same.contains("anna was added"),
        "{same}"
    );
    assert!(
        !differ.contains("xyzzy") && !same.contains("xyzzy"),
        "{differ}{same}"
    );
    assert!(doveadm_takes(&field(&text(&file), "anna"), "xyzzy-1"));
}

#[test]
fn a_running_process_takes_the_new_password() {
    let folder = TempDir::new("passwd");
    let users = folder.write("users", "anna:{PLAIN}old:pass=secret\n");
    let host = dovecot::shared().imap;
    let ini = format!(
        "[server imap]\nprotocol = imap\nlisten = 127.0.0.1:0\nauth_file = users\nauth_penalty_max = off\n[backend a]\nhosts = {host}\n"
    );
    let postern = Postern::start_in(folder, &ini);
    let is_in = |password: &str| {
        let (mut client, _) = LineClient::greeted(postern.address("imap"));
        client.send(&format!("a LOGIN anna {password}"));
        client
            .lines_until("a ")
            .pop()
            .is_some_and(|line| line.starts_with("a OK"))
    };
    assert!(is_in("old"));
    passwd(&["--file", &users.display().to_string(), "anna"], "new\n").text();
    wait::until_true("the new password holds", PATIENCE, || is_in("new"));
    assert!(!is_in("old"));
}
