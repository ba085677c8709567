//! `postern import-nginx` on configurations as they are found, good and broken.
//!
//! Each `good/NAME.conf` has what it becomes beside it, `NAME.ini`, and its warnings, `NAME.warn`;
//! each `bad/NAME.conf` its complaints, `NAME.err`. `UPDATE_IMPORT=1` writes them anew. Our own
//! folder is called /etc/nginx in them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import");

fn import(path: &Path) -> Output {
    let file = path.file_name().expect("a name");
    Command::new(env!("CARGO_BIN_EXE_postern"))
        .arg("import-nginx")
        .arg(file)
        .current_dir(path.parent().expect("a folder"))
        .output()
        .expect("postern runs")
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
        let warnings = shown(&output.stderr, &path);
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

#[test]
fn no_warning_tells_a_secret() {
    let output = import(&Path::new(FOLDER).join("good/lost.conf"));
    let warnings = String::from_utf8_lossy(&output.stderr);
    assert!(warnings.contains("auth_http_header") && !warnings.contains("geheim"));
}
