//! The configuration through the binary: `postern check` and `postern reference`.
//!
//! Which mistakes a file has is tested beside the parser; here it counts that all of them reach the
//! administrator, with the right exit status.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/configs");

fn postern(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("postern runs")
}

fn check(path: &Path) -> Output {
    let folder = path.parent().expect("a folder");
    let file = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    postern(folder, &["check", "--config", file])
}

/// Everything that was printed.
fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(Path::new(CONFIGS).join(folder)).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|name| name == "ini"))
        .collect()
}

#[test]
fn check_accepts_every_good_file() {
    for path in files("good") {
        let output = check(&path);
        let printed = text(&output);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}: {printed}",
            path.display()
        );
        let warnings = std::fs::read_to_string(path.with_extension("warn")).unwrap_or_default();
        for line in warnings.lines() {
            assert!(printed.contains(line), "{}: {line}", path.display());
        }
    }
}

#[test]
fn check_prints_every_mistake_and_ends_with_status_2() {
    for path in files("bad") {
        let output = check(&path);
        let printed = text(&output);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{}: {printed}",
            path.display()
        );
        let expected = std::fs::read_to_string(path.with_extension("err")).expect("NAME.err");
        for line in expected.lines() {
            assert!(printed.contains(line), "{}: {line}", path.display());
        }
    }
}

#[test]
fn check_says_what_would_listen_where() {
    let path = Path::new(CONFIGS).join("good/three_protocols.ini");
    let printed = text(&check(&path));
    for line in [
        "imap  0.0.0.0:143  [server imap]  auth_http http://127.0.0.1:9000/auth",
        "imap  [::]:143  [server imap]  auth_http http://127.0.0.1:9000/auth",
        "smtp  0.0.0.0:587  [server submission]  auth_http http://127.0.0.1:9000/auth",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
}

#[test]
fn check_says_which_backends_and_routes_there_are() {
    let path = Path::new(CONFIGS).join("good/backends.ini");
    let printed = text(&check(&path));
    for line in [
        "imap  0.0.0.0:143  [server imap]  passthrough\n",
        "[backend office]  imap1.example.org 192.0.2.7 [2001:db8::7]  imap 1143  pop3 1110  smtp 1587  \
         proxy_ssl starttls  round_robin\n",
        "[backend branch]  branch.example.org  imap 993  pop3 995  smtp 465  proxy_ssl\n",
        "route  @branch.example.org  [backend branch]\n",
        "route  guest  reject no guests \n",
        "/good/backends.map\nroute  guest",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
}

/// A self-signed certificate and its key, `NAME.pem` and `NAME.key`.
fn make_certificate(folder: &Path, name: &str) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=localhost", "-out", &format!("{name}.pem")])
        .args(["-keyout", &format!("{name}.key")])
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", text(&made));
}

#[test]
fn check_reads_keys_and_certificates() {
    let name = format!("postern-check-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    make_certificate(&folder, "a");
    make_certificate(&folder, "b");
    let good = "[mail]\nauth_http = 127.0.0.1\nssl_certificate = a.pem\n\
        ssl_certificate_key = a.key\nstarttls = only\n[server imap]\nlisten = 993 ssl\n\
        listen = 143\n[server pop3]\nlisten = 995 ssl\nstarttls = off\ntls_library = native\n";
    let path = folder.join("postern.ini");

    std::fs::write(&path, good).expect("a file");
    let output = check(&path);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    for line in [
        "imap  0.0.0.0:993  [server imap]  ssl  auth_http",
        "imap  0.0.0.0:143  [server imap]  starttls only  auth_http",
        "pop3  0.0.0.0:995  [server pop3]  ssl  auth_http",
    ] {
        assert!(printed.contains(line), "{printed}");
    }

    std::fs::write(&path, good.replace("a.key", "b.key")).expect("a file");
    let output = check(&path);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(2), "{printed}");
    let line = "postern.ini:4: [mail] ssl_certificate_key: the key in ";
    assert_eq!(printed.matches(line).count(), 1, "{printed}");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

#[test]
fn the_sample_passes_check() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/postern.ini");
    let output = check(&path);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn reference_prints_every_directive_of_the_sample() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = postern(folder, &["reference"]);
    assert_eq!(output.status.code(), Some(0));
    let reference = text(&output);
    let sample = std::fs::read_to_string(folder.join("etc/postern.ini")).expect("the sample");
    let settings = sample.lines().filter(|line| !line.starts_with('#'));
    for (name, _) in settings.filter_map(|line| line.split_once(" = ")) {
        let name = name.trim_start_matches(';');
        assert!(reference.lines().any(|line| line == name), "{name}");
    }
}
