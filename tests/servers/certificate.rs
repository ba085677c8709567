//! A self-signed certificate for `localhost` and 127.0.0.1, made by the openssl command.

use std::path::{Path, PathBuf};

use crate::common::tools::run;

/// A certificate and its key, both PEM files.
pub(crate) struct Certificate {
    /// The certificate.
    pub(crate) certificate: PathBuf,
    /// Its key, without a passphrase.
    pub(crate) key: PathBuf,
}

/// Makes a new pair in `folder`.
pub(crate) fn make(folder: &Path) -> Certificate {
    let pair = Certificate {
        certificate: folder.join("certificate.pem"),
        key: folder.join("key.pem"),
    };
    let certificate = pair.certificate.display().to_string();
    let key = pair.key.display().to_string();
    let arguments = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-out",
        &certificate,
        "-keyout",
        &key,
    ];
    run("openssl", &arguments, b"").text();
    pair
}
