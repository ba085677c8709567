//! Debian's nginx with its mail module, as one process in a folder of its own.
//!
//! The `mail {}` part is the test's; its ports have to be free ones.

use std::path::PathBuf;

use super::wait_until_listening;
use crate::common::process::Process;
use crate::common::temp::TempDir;

const MODULE: &str = "/usr/lib/nginx/modules/ngx_mail_module.so";

/// A running nginx.
pub(crate) struct Nginx {
    /// Its configuration file.
    pub(crate) config: PathBuf,
    /// Its log, at level info.
    pub(crate) log: PathBuf,
    _process: Process,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one with this `mail {}` and waits until it listens on `port`.
    pub(crate) fn start(mail: &str, port: u16) -> Nginx {
        let folder = TempDir::new("nginx");
        let (path, log) = (folder.path().display(), folder.path().join("error.log"));
        // Without a master there are neither another user nor a second process.
        let config = format!(
            "load_module {MODULE};\ndaemon off;\nmaster_process off;\npid {path}/nginx.pid;\n\
             error_log {} info;\nevents {{\n    worker_connections 2048;\n}}\n{mail}",
            log.display()
        );
        let config = folder.write("nginx.conf", config);
        let text = |path: &PathBuf| path.display().to_string();
        let arguments = [
            "-p".to_owned(),
            path.to_string(),
            "-e".to_owned(),
            text(&log),
            "-c".to_owned(),
            text(&config),
        ];
        let mut process = Process::start_silent("nginx", arguments);
        wait_until_listening(&mut process, &[port], &log);
        Nginx {
            config,
            log,
            _process: process,
            _folder: folder,
        }
    }
}
