//! A certificate authority for one test run, made by the openssl command: server and client
//! certificates of any name and key type, expired, revoked and self-signed ones, a revocation list.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use openssl::x509::X509;

use crate::common::temp::TempDir;
use crate::common::tools::{checksum, run};

/// The names a server has unless a test wants others.
pub(crate) const NAMES: &str = "DNS:mail.test,DNS:localhost,IP:127.0.0.1";

const CONFIG: &str = "
[ca]
default_ca = test
[test]
dir = @DIR@
database = $dir/index.txt
new_certs_dir = $dir
rand_serial = yes
certificate = $dir/authority.pem
private_key = $dir/authority.key
default_md = sha256
default_days = 30
default_crl_days = 30
policy = any
unique_subject = no
copy_extensions = copy
[any]
organizationName = optional
commonName = supplied
emailAddress = optional
";

/// A certificate and its key, both PEM files; the key has no passphrase.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// The certificate alone.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

impl Pair {
    /// The two lines that give the pair to a server.
    pub(crate) fn ssl_certificate(&self) -> String {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        format!("ssl_certificate = {certificate}\nssl_certificate_key = {key}\n")
    }

    /// The certificate, encoded.
    pub(crate) fn der(&self) -> Vec<u8> {
        der_of(&self.certificate)
    }
}

/// The certificate in a PEM file, encoded.
pub(crate) fn der_of(certificate: &Path) -> Vec<u8> {
    let pem = std::fs::read(certificate).expect("the file can be read");
    let certificate = X509::from_pem(&pem).expect("it is a certificate");
    certificate.to_der().expect("it came from DER")
}

/// The SHA-256 of the certificate in a PEM file, as `proxy_ssl_fingerprint` takes it.
pub(crate) fn fingerprint(certificate: &Path) -> String {
    checksum(&der_of(certificate))
}

/// Kinds of keys.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Key {
    /// P-256.
    Ec,
    /// 2048 bits.
    Rsa,
}

/// What is the matter with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Good,
    /// It was valid for one month of 2020.
    Expired,
    /// It will stand in the revocation list.
    Revoked,
    /// Nobody but itself has issued it.
    SelfSigned,
}

/// A certificate authority in a folder of its own.
pub(crate) struct Pki {
    folder: TempDir,
    /// The openssl command keeps its list of certificates in one file.
    turn: Mutex<()>,
}

impl Pki {
    /// The one of this test binary.
    pub(crate) fn shared() -> &'static Pki {
        static SHARED: OnceLock<Pki> = OnceLock::new();
        SHARED.get_or_init(Pki::new)
    }

    /// Makes a new authority.
    pub(crate) fn new() -> Pki {
        let folder = TempDir::new("pki");
        folder.write("index.txt", "");
        let config = CONFIG.replace("@DIR@", &folder.path().display().to_string());
        folder.write("openssl.cnf", config);
        let pki = Pki {
            folder,
            turn: Mutex::new(()),
        };
        let pair = Pair {
            certificate: pki.authority(),
            key: pki.folder.path().join("authority.key"),
        };
        self_sign(&pair, "/O=Postern tests/CN=Test CA", "DNS:ca.test", Key::Ec);
        pki
    }

    /// The authority's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// A server's pair for `NAMES`, always the same one.
    pub(crate) fn server(&self) -> &'static Pair {
        static SERVER: OnceLock<Pair> = OnceLock::new();
        SERVER.get_or_init(|| Pki::shared().issue("mail.test", NAMES, Key::Ec, State::Good))
    }

    /// A new pair: `common_name`, alternative names as openssl writes them.
    pub(crate) fn issue(&self, common_name: &str, names: &str, key: Key, state: State) -> Pair {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |end: &str| self.folder.path().join(format!("{number}.{end}"));
        let pair = Pair {
            certificate: file("pem"),
            key: file("key"),
        };
        let subject = format!("/O=Postern tests/CN={common_name}");
        if state == State::SelfSigned {
            self_sign(&pair, &subject, names, key);
            return pair;
        }
        let request = file("csr");
        request_for(&pair.key, &request, &subject, names, key);
        let (request, out) = (text(&request), text(&pair.certificate));
        let mut arguments = vec!["-in", &request, "-out", &out];
        if state == State::Expired {
            let dates = "-startdate 20200101000000Z -enddate 20200201000000Z";
            arguments.extend(dates.split(' '));
        }
        self.ca(&arguments);
        if state == State::Revoked {
            self.revoke(&pair);
        }
        pair
    }

    /// Puts a certificate into all lists to come.
    pub(crate) fn revoke(&self, pair: &Pair) {
        self.ca(&["-revoke", &text(&pair.certificate)]);
    }

    /// A new list of what was revoked so far.
    pub(crate) fn crl(&self) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = self.folder.path().join(format!("crl-{number}.pem"));
        self.ca(&["-gencrl", "-out", &text(&file)]);
        file
    }

    /// A new OCSP response in DER that says what is known of `pair` now.
    pub(crate) fn ocsp(&self, pair: &Pair) -> Vec<u8> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |name: String| text(&self.folder.path().join(name));
        let (question, answer) = (
            file(format!("{number}.ask")),
            file(format!("{number}.ocsp")),
        );
        let (index, key) = (
            file("index.txt".to_owned()),
            file("authority.key".to_owned()),
        );
        let (authority, certificate) = (text(&self.authority()), text(&pair.certificate));
        let ask = ["ocsp", "-issuer", &authority, "-cert", &certificate];
        run(
            "openssl",
            &[&ask[..], &["-reqout", &question]].concat(),
            b"",
        )
        .text();
        let own = [
            "ocsp", "-index", &index, "-CA", &authority, "-rsigner", &authority,
        ];
        let files = ["-rkey", &key, "-reqin", &question, "-respout", &answer];
        let _turn = self.turn.lock().expect("no holder panics");
        run(
            "openssl",
            &[&own[..], &files, &["-ndays", "7"]].concat(),
            b"",
        )
        .text();
        std::fs::read(answer).expect("openssl wrote it")
    }

    /// The pair, with the authority's certificate behind its own.
    pub(crate) fn with_chain(&self, pair: &Pair) -> Pair {
        let files = [&pair.certificate, &self.authority()];
        let read = files.map(|file| std::fs::read(file).expect("the file can be read"));
        let certificate = pair.certificate.with_extension("chain.pem");
        std::fs::write(&certificate, read.concat()).expect("the folder is ours");
        Pair {
            certificate,
            key: pair.key.clone(),
        }
    }

    fn ca(&self, arguments: &[&str]) {
        let _turn = self.turn.lock().expect("no holder panics");
        let config = text(&self.folder.path().join("openssl.cnf"));
        let common = ["ca", "-config", &config, "-batch", "-notext"];
        run("openssl", &[&common, arguments].concat(), b"").text();
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn self_sign(pair: &Pair, subject: &str, names: &str, key: Key) {
    let (certificate, file) = (pair.certificate.display(), pair.key.display());
    let command = format!(
        "req -x509 -days 30 -nodes {} -out {certificate} -keyout {file}",
        key_of(key)
    );
    request(&command, subject, names);
}

fn request_for(file: &Path, out: &Path, subject: &str, names: &str, key: Key) {
    let (file, out) = (file.display(), out.display());
    let command = format!("req -new -nodes {} -out {out} -keyout {file}", key_of(key));
    request(&command, subject, names);
}

fn key_of(key: Key) -> &'static str {
    match key {
        Key::Ec => "-newkey ec -pkeyopt ec_paramgen_curve:P-256",
        Key::Rsa => "-newkey rsa:2048",
    }
}

/// Runs openssl with these words; no temporary folder's name has a space.
fn request(command: &str, subject: &str, names: &str) {
    let names = format!("subjectAltName={names}");
    let mut arguments: Vec<&str> = command.split(' ').collect();
    arguments.extend(["-subj", subject, "-addext", &names]);
    run("openssl", &arguments, b"").text();
}
