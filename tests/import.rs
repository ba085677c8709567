//! `postern import-nginx` on configurations as they are found, good and broken.
//!
//! Each `good/NAME.conf` has what it becomes beside it, `NAME.ini`, and its warnings, `NAME.warn`;
//! each `bad/NAME.conf` its complaints, `NAME.err`. `UPDATE_IMPORT=1` writes them anew. Our own
//! folder is called /etc/nginx in them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import");

fn import(path: &Path) -> Output {
    let file = path.file_name().expect("a name");
    // On one processor, whatever the machine has, for `worker_processes auto`.
    Command::new("taskset")
        .args(["-c", &a_processor(), env!("CARGO_BIN_EXE_postern")])
        .arg("import-nginx")
        .arg(file)
        .current_dir(path.parent().expect("a folder"))
        .output()
        .expect("postern runs")
}

fn a_processor() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    let first = allowed.expect("processors").split(['-', ',']).next();
    first.expect("one at least").to_owned()
}

/// Every example of a kind, those in folders below it included.
fn examples(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(FOLDER).join(kind);
    let entries = std::fs::read_dir(&folder).expect("the folder is there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|name| name == "conf"));
    if kind == "good" {
        paths.push(folder.join("zimbra/conf/nginx.conf"));
        paths.push(folder.join("zimbra_lookup/conf/nginx.conf"));
    }
    paths.sort();
    paths
}

/// Compares, or writes anew. A file without text does not exist.
fn compare(path: &Path, extension: &str, text: &str) {
    let path = path.with_extension(extension);
    if std::env::var_os("UPDATE_IMPORT").is_some() {
        match text {
            "" => drop(std::fs::remove_file(&path)),
            text => std::fs::write(&path, text).expect("the file is written"),
        }
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{}", path.display());
}

fn shown(bytes: &[u8], path: &Path) -> String {
    let folder = path.parent().expect("a folder").canonicalize();
    let folder = folder.expect("it is there").display().to_string();
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    // Before the folder itself: what an installation from source has above it.
    let prefix = folder.strip_suffix("/conf").unwrap_or(&folder).to_owned();
    text.replace(&folder, "/etc/nginx")
        .replace(&prefix, "/etc/nginx/..")
}

#[test]
fn good_configurations_become_ours() {
    for path in examples("good") {
        let output = import(&path);
        // Those about what was written depend on the machine's files.
        let warnings = shown(&output.stderr, &path);
        let warnings: String = warnings
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("warning: "))
            .collect();
        let status = if warnings.is_empty() { 0 } else { 3 };
        assert_eq!(
            output.status.code(),
            Some(status),
            "{}: {warnings}",
            path.display()
        );
        compare(&path, "ini", &shown(&output.stdout, &path));
        compare(&path, "warn", &warnings);
    }
}

#[test]
fn what_is_written_is_accepted() {
    for path in examples("good") {
        let output = import(&path);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let config = postern::config::parse(&text, Path::new("postern.ini"));
        assert!(config.is_ok(), "{}: {:?}", path.display(), config.err());
    }
}

#[test]
fn check_complains_about_missing_files_alone() {
    let name = format!("postern-import-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("postern.ini");
    for path in examples("good") {
        std::fs::write(&file, import(&path).stdout).expect("a file");
        let mut check = Command::new(env!("CARGO_BIN_EXE_postern"));
        let output = check.arg("check").arg("--config").arg(&file).output();
        let output = output.expect("postern runs");
        let printed = String::from_utf8_lossy(&output.stderr);
        let mut errors = printed
            .lines()
            .filter(|line| !line.starts_with("warning: "));
        let missing = ["cannot be read", "No such file", "there is no folder"];
        assert!(
            errors.all(|line| missing.iter().any(|words| line.contains(words))),
            "{}: {printed}",
            path.display()
        );
    }
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

#[test]
fn broken_configurations_are_refused_with_their_line() {
    for path in examples("bad") {
        let output = import(&path);
        assert_eq!(output.status.code(), Some(2), "{}", path.display());
        assert_eq!(output.stdout, b"", "{}", path.display());
        let errors = shown(&output.stderr, &path);
        assert!(errors.lines().count() > 0, "{}", path.display());
        compare(&path, "err", &errors);
    }
}

/// Each beginning of each of these is read too: most are broken, none may do harm.
#[test]
fn what_is_cut_off_is_refused_or_accepted() {
    let name = format!("postern-import-cut-{}.conf", std::process::id());
    let file = std::env::temp_dir().join(name);
    for name in ["quotes_and_comments", "lost", "openresty", "angie_logs"] {
        let path = Path::new(FOLDER).join(format!("good/{name}.conf"));
        let whole = std::fs::read(path).expect("the example");
        for length in 0..whole.len() {
            std::fs::write(&file, &whole[..length]).expect("a file");
            if let Ok(imported) = postern::import::import(&file) {
                let config = postern::config::parse(&imported.ini, Path::new("postern.ini"));
                assert!(config.is_ok(), "{name}, {length}: {:?}", config.err());
            }
        }
    }
    std::fs::remove_file(&file).expect("the file goes");
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    let output = import(&Path::new(FOLDER).join("nowhere.conf"));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.starts_with("nowhere.conf: cannot be read: "),
        "{errors}"
    );
}

/// A folder of its own that everybody may enter.
fn open_folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("postern-import-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("permissions");
    folder
}

/// nginx reads such a key, as root, and its configuration is imported without loss all the same.
#[test]
fn what_the_later_user_may_not_read_is_told() {
    let folder = open_folder("access");
    for (name, mode) in [("mail.pem", 0o644), ("mail.key", 0o600)] {
        let file = folder.join(name);
        std::fs::write(&file, "").expect("a file");
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).expect("permissions");
    }
    let conf = "user nobody nogroup; mail { auth_http 127.0.0.1:9000/auth; error_log stderr;
                ssl_certificate mail.pem; ssl_certificate_key mail.key; server { listen 993 ssl; } }";
    let file = folder.join("nginx.conf");
    std::fs::write(&file, conf).expect("a file");
    let output = import(&file);
    assert_eq!(output.status.code(), Some(0));
    let ini = String::from_utf8(output.stdout).expect("UTF-8");
    let line = 1 + ini
        .lines()
        .position(|line| line.starts_with("ssl_certificate_key = "))
        .expect("the key");
    let warnings = String::from_utf8(output.stderr).expect("UTF-8");
    let key = format!("warning: line {line}: [mail] ssl_certificate_key: nobody may not read ");
    let is_root = nix::unistd::Uid::effective().is_root();
    assert_eq!(warnings.contains(&key), is_root, "{warnings}");
    assert!(!warnings.contains("mail.pem"), "{warnings}");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

/// The number of sessions, and whether it is what nginx has room for or our own default.
#[test]
fn room_for_sessions_is_what_nginx_has_or_more() {
    let folder = open_folder("room");
    let file = folder.join("nginx.conf");
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let ours = 4096;
    let cases = [
        ("", ours),
        ("events {}", ours),
        (
            "worker_processes 4; events { worker_connections 10240; }",
            20480,
        ),
        (
            "worker_processes 1; events { worker_connections 768; }",
            ours,
        ),
        ("events { worker_connections 8192; }", ours),
        ("events { worker_connections 8194; }", 4097),
        ("worker_processes 64;", 16384),
        (
            "worker_processes auto; events { worker_connections 20000; }",
            10000 * processors,
        ),
        (
            "events { worker_connections 18446744073709551615; }",
            1_000_000,
        ),
        (
            "worker_processes 18446744073709551615; events { worker_connections 9; }",
            1_000_000,
        ),
        ("events { worker_connections 18446744073709551616; }", ours),
        (
            "worker_processes many; events { worker_connections -1; }",
            ours,
        ),
        ("worker_processes; events { worker_connections; }", ours),
    ];
    for (limits, most) in cases {
        let mail = "mail { auth_http 127.0.0.1:9000/auth; server { listen 143; } }";
        std::fs::write(&file, format!("{limits} {mail}")).expect("a file");
        let imported = postern::import::import(&file).expect(limits);
        let config = postern::config::parse(&imported.ini, Path::new("postern.ini"));
        let process = config.expect(limits).process;
        assert_eq!(process.max_sessions, most, "{limits}: {}", imported.ini);
        assert_eq!(process.max_prelogin_per_ip, None, "{limits}");
    }
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

/// The files are gone when the output is read.
#[test]
fn the_output_of_nginx_becomes_what_its_files_become() {
    let folder = open_folder("dump");
    std::fs::create_dir_all(folder.join("mail.d")).expect("a folder");
    let module = "/usr/lib/nginx/modules/ngx_mail_module.so";
    let load = match Path::new(module).exists() {
        true => format!("load_module {module};"),
        false => String::new(),
    };
    let place = folder.display();
    let main = format!(
        "{load} pid {place}/pid; error_log {place}/log; worker_processes 3;
         events {{ worker_connections 9000; }} http {{ include h.conf; }}
         mail {{ auth_http 127.0.0.1:9000/auth; include mail.d/*.conf; include last; }}"
    );
    let files = [
        ("nginx.conf", main.as_str()),
        ("h.conf", "server { listen 127.0.0.1:18080; }"),
        (
            "mail.d/2.conf",
            "server { listen 127.0.0.1:18110; protocol pop3; }",
        ),
        (
            "mail.d/1.conf",
            "server { listen 127.0.0.1:18143; protocol imap; }",
        ),
        (
            "last",
            "server { listen 127.0.0.1:18025; protocol smtp; }\n\n",
        ),
    ];
    for (name, text) in files {
        std::fs::write(folder.join(name), text).expect("a file");
    }
    let file = folder.join("nginx.conf");
    let printed = Command::new("nginx")
        .arg("-T")
        .arg("-c")
        .arg(&file)
        .output();
    let printed = printed.expect("nginx runs");
    assert!(printed.status.success(), "{printed:?}");
    let expected = import(&file);
    let dump = folder.join("dump.txt");
    std::fs::write(&dump, [printed.stderr, printed.stdout].concat()).expect("a file");
    for (name, _) in files {
        std::fs::remove_file(folder.join(name)).expect("the file goes");
    }
    let output = import(&dump);
    let ini = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(ini, String::from_utf8_lossy(&expected.stdout));
    assert_eq!(ini.matches("[server ").count(), 3, "{ini}");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

/// What is said of `stream {}`, written down.
#[test]
fn what_replaces_a_stream_is_accepted() {
    let text = "[mail]\nssl_certificate = a.pem\nssl_certificate_key = a.key\nauth_http = 127.0.0.1:9000/auth\n
        [server imap]\nlisten = 993 ssl\nauth = passthrough\n
        [server pop3]\nlisten = [::]:995 ssl ipv6only=on\nlisten = 995 ssl\nauth = passthrough\n
        [server submission]\nlisten = 587\n
        [backend office]\nhosts = 10.0.0.11:993 10.0.0.12:993\nproxy_ssl = on\n";
    let config = postern::config::parse(text, Path::new("postern.ini"));
    assert!(config.is_ok(), "{:?}", config.err());
}

#[test]
fn no_warning_tells_a_secret() {
    for name in ["good/lost.conf", "good/zimbra_lookup/conf/nginx.conf"] {
        let output = import(&Path::new(FOLDER).join(name));
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(warnings.contains("auth_http") && !warnings.contains("geheim"));
    }
}
