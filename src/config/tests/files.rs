//! The files that a configuration names, and what the user of `[postern]` may do with them later.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{Uid, User};

use super::super::*;

/// A folder that all may pass, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        Folder::within(&std::env::temp_dir())
    }

    /// Where nobody but root can write to a folder above it.
    fn of_root() -> Folder {
        Folder::within(Path::new("/var/lib"))
    }

    fn within(above: &Path) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("postern-files-{}-{number}", std::process::id());
        let folder = Folder(above.join(name));
        fs::create_dir_all(&folder.0).expect("a folder");
        folder
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
        path
    }

    fn load(&self, ini: &str, mode: u32) -> Result<Config, Vec<Mistake>> {
        load(&self.write("f", ini, mode))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

const SERVER: &str = "[server imap]\nlisten = 143\nauth_http = 127.0.0.1\n";

#[test]
fn what_the_later_user_may_not_do_is_told_at_its_line() {
    assert!(Uid::effective().is_root(), "start the tests as root");
    let nobody = User::from_name("nobody").ok().flatten();
    let nobody = nobody.expect("every system has the user nobody");
    let folder = Folder::new();
    folder.write("of-root.map", "* office\n", 0o600);
    let shared = folder.write("shared.map", "* office\n", 0o640);
    chown(&shared, None, Some(nobody.gid.as_raw())).expect("we are root");
    let own = folder.write("own/log", "", 0o600);
    let own = own.parent().expect("a folder");
    chown(own, Some(nobody.uid.as_raw()), None).expect("we are root");
    let ini = format!(
        "[postern]\nuser = nobody\npid = pid\nerror_log = log info\nerror_log = own/log info\nerror_log = stderr\n\
         {SERVER}[backend office]\nhosts = 192.0.2.1\n\
         [routes]\nmap = of-root.map\nmap = shared.map\n"
    );
    let config = folder.load(&ini, 0o600).expect("it can be used");
    let begins = [
        "f:2: [postern] user: ",
        "f:3: [postern] pid: ",
        "f:4: [postern] error_log: ",
        "f:13: [routes] map: ",
    ];
    let warnings: Vec<String> = config
        .warnings
        .iter()
        .map(|line| line.replace(&format!("{}/", folder.0.display()), ""))
        .collect();
    let told = warnings
        .iter()
        .filter(|line| line.contains("nobody may not"));
    let told: Vec<&String> = told.collect();
    assert_eq!(told.len(), begins.len(), "{warnings:#?}");
    for (line, begin) in told.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line}");
    }

    let open = ini
        .replace("pid = pid\nerror_log = log info\n", "")
        .replace("map = of-root.map\n", "");
    let config = folder.load(&open, 0o644).expect("it can be used");
    let denied = config.warnings.iter().find(|line| line.contains("may not"));
    assert_eq!(denied, None);
    // What is only to be translated is asked about too, where it is there.
    let config = parse(&ini, &folder.0.join("f")).expect("it is text");
    assert!(
        config
            .warnings
            .iter()
            .any(|line| line.contains("of-root.map"))
    );
    assert!(
        parse(&ini, Path::new("/no/such"))
            .expect("it is text")
            .warnings
            .iter()
            .all(|line| !line.contains("may not"))
    );
}

#[test]
fn what_the_keeper_opens_is_not_warned_of() {
    assert!(Uid::effective().is_root(), "start the tests as root");
    let nobody = User::from_name("nobody").ok().flatten();
    let his = nobody.map(|nobody| nobody.uid.as_raw());
    let folder = Folder::of_root();
    folder.write("map", "* office\n", 0o600);
    let map = folder.write("his/map", "* office\n", 0o600);
    fs::create_dir(folder.0.join("his/logs")).expect("a folder");
    let ini = format!(
        "[postern]\nuser = nobody\npid = pid\nerror_log = log info\nerror_log = his/logs/log info\n\
         {SERVER}[backend office]\nhosts = 192.0.2.1\n[routes]\nmap = map\nmap = his/map\n"
    );
    let warned = |of: &Path| -> Vec<String> {
        let config = load(of).expect("it can be used");
        let of_files = config.warnings.into_iter();
        of_files
            .filter(|line| line.contains("nobody may not"))
            .collect()
    };
    // The keeper makes no pid file, so that one is told in any case.
    let file = folder.write("f", &ini, 0o600);
    let told = warned(&file);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("[postern] pid: "), "{told:?}");

    let above = map.parent().expect("a folder");
    chown(above, his, None).expect("we are root");
    let told = warned(&file);
    assert_eq!(told.len(), 3, "{told:#?}");
    let why = format!("not opened since nobody can write to {}", above.display());
    for (line, begin) in told[1..]
        .iter()
        .zip(["f:5: [postern] error_log: ", "f:13: [routes] map: "])
    {
        assert!(line.contains(begin) && line.contains(&why), "{line}");
    }

    // A configuration in his hands opens nothing.
    chown(&file, his, None).expect("we are root");
    let told = warned(&file);
    assert_eq!(told.len(), 5, "{told:#?}");
    let why = format!("not opened since nobody can write to {}", file.display());
    assert_eq!(told.iter().filter(|line| line.contains(&why)).count(), 4);
}

#[test]
fn a_log_in_a_folder_that_is_not_there_is_a_mistake() {
    let folder = Folder::new();
    let ini = format!("[postern]\nerror_log = gone/log info\n{SERVER}");
    let mistakes = folder
        .load(&ini, 0o644)
        .expect_err("it could not be opened");
    let text = mistakes[0].to_string();
    assert!(
        text.contains("f:2: [postern] error_log: there is no folder "),
        "{text}"
    );
    assert_eq!(mistakes.len(), 1);
}

#[test]
fn ports_of_tls_without_ssl_are_odd() {
    for (port, words) in [
        ("993", 1),
        ("995", 1),
        ("465", 1),
        ("143", 0),
        ("587", 0),
        ("993 ssl", 0),
    ] {
        let ini = format!("[server mail]\nlisten = {port}\nauth_http = 127.0.0.1\n");
        let warnings = match parse(&ini, Path::new("/f")) {
            Ok(config) => config.warnings,
            // There is no certificate here.
            Err(mistakes) => panic!("{mistakes:?}"),
        };
        let told = warnings
            .iter()
            .filter(|line| line.contains("speak TLS from the first byte"));
        assert_eq!(told.count(), words, "{port}: {warnings:?}");
    }
}
