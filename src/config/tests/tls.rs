//! TLS in whole files, with certificates made for the purpose: what the engines find, and on which
//! line of the configuration it is reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::{X509, X509Name};

use super::super::*;
use crate::tls::{DEFAULT_SESSION_TIMEOUT, DEFAULT_VERIFY_DEPTH, Library, SessionCache};

/// What stands above the servers of each test.
const MAIL: &str = "[mail]\nauth_http = 127.0.0.1\n";

/// A folder with a configuration and what it names, removed on drop.
struct Folder(PathBuf);

impl Folder {
    /// With `good.pem`, `good.key`, `other.pem`, `other.key`, `expired.pem` and `expired.key`.
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("postern-config-{}-{number}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir_all(&folder.0).expect("a folder");
        for (name, until) in [
            ("good", 4_000_000_000),
            ("other", 4_000_000_000),
            ("expired", 1),
        ] {
            let key = key();
            folder.write(&format!("{name}.pem"), &certificate(&key, until));
            let pem = key.private_key_to_pem_pkcs8().expect("a PEM key");
            folder.write(&format!("{name}.key"), &pem);
        }
        folder
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.0.join(name), content).expect("a file");
    }

    /// Reads a configuration; messages come without the folder's name.
    fn load(&self, servers: &str) -> Result<Config, Vec<String>> {
        self.write("f", format!("{MAIL}{servers}").as_bytes());
        let folder = format!("{}/", self.0.display());
        let bare = |lines: Vec<String>| lines.iter().map(|l| l.replace(&folder, "")).collect();
        let lines = |mistakes: Vec<Mistake>| mistakes.iter().map(Mistake::to_string).collect();
        let config = load(&self.0.join("f")).map_err(|mistakes| bare(lines(mistakes)))?;
        Ok(Config {
            warnings: bare(config.warnings),
            ..config
        })
    }

    fn mistakes(&self, servers: &str) -> Vec<String> {
        self.load(servers).err().unwrap_or_default()
    }

    fn warnings(&self, servers: &str) -> Vec<String> {
        self.load(servers).expect("no mistakes").warnings
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
    let key = EcKey::generate(&group).expect("a key");
    PKey::from_ec_key(key).expect("a key")
}

fn certificate(key: &PKey<Private>, until: i64) -> Vec<u8> {
    let mut name = X509Name::builder().expect("a name");
    name.append_entry_by_text("CN", "mail.example.org")
        .expect("a name");
    let name = name.build();
    let mut builder = X509::builder().expect("a certificate");
    let time = |seconds| Asn1Time::from_unix(seconds).expect("a time");
    builder.set_subject_name(&name).expect("a subject");
    builder.set_issuer_name(&name).expect("an issuer");
    builder.set_pubkey(key).expect("a key");
    builder.set_not_before(&time(0)).expect("a time");
    builder.set_not_after(&time(until)).expect("a time");
    builder
        .sign(key, MessageDigest::sha256())
        .expect("a signature");
    builder.build().to_pem().expect("a PEM certificate")
}

/// A server with TLS and its `good` pair; lines are added from line 7 on.
const GOOD: &str = "[server imap]\nlisten = 993 ssl\nssl_certificate = good.pem\n\
    ssl_certificate_key = good.key\n";

fn with(lines: &str) -> String {
    format!("{GOOD}{lines}")
}

#[test]
fn tls_settings_are_typed_and_paths_absolute() {
    let folder = Folder::new();
    let lines = "ssl_certificate = other.pem\nssl_certificate_key = other.key\n\
        ssl_ciphers = \"HIGH:!aNULL\"\nssl_protocols = TLSv1.3 TLSv1.2\nssl_ecdh_curve = auto\n\
        ssl_session_cache = builtin shared:SSL:1m\nssl_session_timeout = 1h\nssl_verify_depth = 0\n\
        ssl_verify_client = on\nssl_client_certificate = good.pem\nstarttls = only\nlisten = 143\n\
        proxy_ssl = starttls\nproxy_ssl_trusted_certificate = good.pem\n";
    let config = folder.load(&with(lines)).expect("no mistakes");
    assert_eq!(config.warnings, Vec::<String>::new());
    let server = &config.servers[0];
    let tls = &server.tls;
    let path = |name: &str| folder.0.join(name);
    assert_eq!(tls.ssl_certificate, [path("good.pem"), path("other.pem")]);
    assert_eq!(
        tls.ssl_certificate_key,
        [path("good.key"), path("other.key")]
    );
    assert_eq!(tls.ssl_ciphers.as_deref(), Some("HIGH:!aNULL"));
    assert_eq!(tls.ssl_protocols, ["TLSv1.3", "TLSv1.2"]);
    assert_eq!(tls.ssl_ecdh_curve, None);
    assert!(matches!(
        tls.ssl_session_cache,
        Some(SessionCache::Shared { .. })
    ));
    assert_eq!(tls.ssl_session_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(tls.ssl_verify_depth, Some(0));
    assert_eq!(server.proxy_ssl, ProxySsl::StartTls);
    let trusted = &server.proxy_tls.proxy_ssl_trusted_certificate;
    assert_eq!(trusted, &Some(path("good.pem")));
    let described = "imap  0.0.0.0:993  [server imap]  ssl  auth_http http://127.0.0.1:80/\n\
        imap  0.0.0.0:143  [server imap]  starttls only  auth_http http://127.0.0.1:80/\n";
    assert_eq!(describe(&config), described);
}

#[test]
fn what_is_not_set_is_left_to_the_library() {
    let config = Folder::new().load(GOOD).expect("no mistakes");
    let server = &config.servers[0];
    let tls = &server.tls;
    assert!(tls.ssl_protocols.is_empty() && tls.ssl_ciphers.is_none());
    assert!(tls.ssl_prefer_server_ciphers.is_none() && tls.ssl_session_cache.is_none());
    assert!(tls.ssl_session_tickets.is_none() && tls.ssl_session_timeout.is_none());
    assert!(server.has_tls() && server.proxy_ssl == ProxySsl::Off);
    assert!(server.proxy_tls.proxy_ssl_verify && server.auth_http_tls.proxy_ssl_verify);

    let default = |name| directives::find(name).expect("a directive").default_text();
    let timeout = value::time(&default("ssl_session_timeout"), value::POSITIVE);
    assert_eq!(timeout, Ok(DEFAULT_SESSION_TIMEOUT));
    let depth = default("ssl_verify_depth").parse();
    assert_eq!(depth, Ok(DEFAULT_VERIFY_DEPTH));
}

#[test]
fn tls_library_holds_for_all_legs() {
    let config = Folder::new().load(&with("tls_library = native\n"));
    let server = &config.expect("no mistakes").servers[0];
    let libraries = [
        server.tls.tls_library,
        server.proxy_tls.tls_library,
        server.auth_http_tls.tls_library,
    ];
    assert_eq!(libraries, [Library::Native; 3]);
}

#[test]
fn text_is_parsed_without_reading_files() {
    let text = format!("{MAIL}{GOOD}");
    let config = parse(&text, Path::new("/nonexistent/f")).expect("no mistakes");
    assert_eq!(
        config.servers[0].tls.ssl_certificate,
        [Path::new("/nonexistent/good.pem")]
    );
}

#[test]
fn mistakes_stand_on_the_line_of_their_own_entry() {
    let lines = "ssl_certificate = good.pem\nssl_certificate_key = other.key\n\
        ssl_certificate = expired.pem\nssl_certificate_key = expired.key\n\
        ssl_ciphers = AES128-SHA\nssl_ecdh_curve = secp521r1\n";
    let mistakes = Folder::new().mistakes(&with(lines));
    let beginnings = [
        "f:8: [server imap] ssl_certificate_key: the key in \"other.key\" does not fit the \
         certificate in \"good.pem\"",
        "f:9: [server imap] ssl_certificate: the certificate in \"expired.pem\" has expired on ",
        "f:11: [server imap] ssl_ciphers: no cipher is left of \"AES128-SHA\"; ",
        "f:12: [server imap] ssl_ecdh_curve: no group is left of \"secp521r1\"; ",
    ];
    assert_eq!(mistakes.len(), beginnings.len(), "{mistakes:#?}");
    for (mistake, beginning) in mistakes.iter().zip(beginnings) {
        assert!(mistake.starts_with(beginning), "{mistake}");
    }
}

#[test]
fn inherited_mistakes_are_told_once_on_their_line_of_mail() {
    let servers = "ssl_certificate = good.pem\nssl_certificate_key = other.key\n\
        [server imap]\nlisten = 993 ssl\n[server smtp]\nlisten = 25\nstarttls = on\n";
    let expected = "f:4: [mail] ssl_certificate_key: the key in \"other.key\" does not fit the \
                    certificate in \"good.pem\"";
    assert_eq!(Folder::new().mistakes(servers), [expected]);
}

#[test]
fn encrypted_keys_need_their_passphrase() {
    let folder = Folder::new();
    let key = key();
    folder.write("secret.pem", &certificate(&key, 4_000_000_000));
    let pem = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"geheim");
    folder.write("secret.key", &pem.expect("a PEM key"));
    folder.write("wrong", b"falsch\n");
    folder.write("right", b"falsch\ngeheim\n");

    let server = "[server imap]\nlisten = 993 ssl\nssl_certificate = secret.pem\n\
        ssl_certificate_key = secret.key\n";
    assert_eq!(
        folder.mistakes(server),
        [
            "f:6: [server imap] ssl_certificate_key: the key in \"secret.key\" is encrypted: name a \
          file with its passphrase in ssl_password_file"
        ]
    );
    assert_eq!(
        folder
            .mistakes(&format!("{server}ssl_password_file = wrong\n"))
            .len(),
        1
    );
    assert_eq!(
        folder
            .warnings(&format!("{server}ssl_password_file = right\n"))
            .len(),
        0
    );

    let auth = "[server imap]\nlisten = 143\nauth_http = https://127.0.0.1/\n\
        auth_http_ssl_verify = off\nauth_http_ssl_certificate = secret.pem\n\
        auth_http_ssl_certificate_key = secret.key\n";
    assert_eq!(
        folder.mistakes(auth),
        [
            "f:8: [server imap] auth_http_ssl_certificate_key: the key in \"secret.key\" is \
          encrypted: name a file with its passphrase in auth_http_ssl_password_file"
        ]
    );
    let opened = format!("{auth}auth_http_ssl_password_file = right\n");
    assert_eq!(folder.warnings(&opened), Vec::<String>::new());
}

#[test]
fn directives_have_their_own_names_and_files_keep_theirs() {
    let server = "[server imap]\nlisten = 143\nauth_http = https://127.0.0.1/\n\
        auth_http_ssl_trusted_certificate = proxy_ssl_ca.pem\n";
    assert_eq!(
        Folder::new().mistakes(server),
        [
            "f:6: [server imap] auth_http_ssl_trusted_certificate: cannot read \"proxy_ssl_ca.pem\": \
             No such file or directory (os error 2)"
        ]
    );
}

#[test]
fn a_refused_line_is_not_reported_again_by_what_follows_from_it() {
    let lines = "ssl_certificate =\nssl_certificate_key = other.key\nssl_verify_client = on\n\
        ssl_client_certificate =\nssl_ciphers = AES128-SHA\n";
    let mistakes = Folder::new().mistakes(&with(lines));
    assert_eq!(mistakes.len(), 3, "{mistakes:#?}");
    assert!(mistakes[0].starts_with("f:7: [server imap] ssl_certificate: a file name"));
    assert!(mistakes[1].starts_with("f:10: [server imap] ssl_client_certificate: a file name"));
    assert!(mistakes[2].starts_with("f:11: [server imap] ssl_ciphers: no cipher"));
}

#[test]
fn what_the_library_ignores_is_said_once() {
    let lines = "ssl_ciphers = HIGH:NONSENSE\nssl_ecdh_curve = X25519:secp521r1\n\
        ssl_dhparam = dh.pem\nssl_conf_command = Options Foo\nssl_conf_command = Groups P-256\n";
    assert_eq!(
        Folder::new().warnings(&with(lines)),
        [
            "f:7: [server imap] ssl_ciphers: `NONSENSE` has no effect: rustls offers no such cipher",
            "f:8: [server imap] ssl_ecdh_curve: `secp521r1` has no effect: rustls offers no such \
             group",
            "f:9: [server imap] ssl_dhparam: has no effect: rustls exchanges keys over elliptic \
             curves only",
            "f:10: [server imap] ssl_conf_command: `Options Foo` has no effect, it is for OpenSSL \
             alone: the library's own choice holds",
            "f:11: [server imap] ssl_conf_command: `Groups P-256` has no effect, it is for OpenSSL \
             alone: use ssl_ecdh_curve",
        ]
    );
}

#[test]
fn lines_for_client_certificates_need_ssl_verify_client() {
    let lines = "starttls = on\nssl_client_certificate = good.pem\nssl_verify_depth = 2\n\
        auth_http_pass_client_cert = on\n";
    let text = "has no effect without ssl_verify_client";
    assert_eq!(
        Folder::new().warnings(&with(lines)),
        [
            "f:7: [server imap] starttls: has no effect: every listener has ssl".to_owned(),
            format!("f:8: [server imap] ssl_client_certificate: {text}"),
            format!("f:9: [server imap] ssl_verify_depth: {text}"),
            "f:10: [server imap] auth_http_pass_client_cert: has no effect without TLS and \
             ssl_verify_client"
                .to_owned(),
        ]
    );
    let lines = format!("{lines}ssl_verify_client = optional\n");
    assert_eq!(Folder::new().warnings(&with(&lines)).len(), 1);
    let lines = with("ssl_verify_client = optional_no_ca\n");
    assert_eq!(Folder::new().warnings(&lines), Vec::<String>::new());
}

#[test]
fn inherited_tls_lines_are_for_those_servers_that_have_tls() {
    let servers = "ssl_certificate = good.pem\nssl_certificate_key = good.key\n\
        [server imap]\nlisten = 993 ssl\n[server smtp]\nlisten = 25\n";
    let folder = Folder::new();
    assert_eq!(folder.warnings(servers), Vec::<String>::new());
    let plain = folder.warnings(&servers.replace("993 ssl", "143"));
    assert_eq!(plain.len(), 2, "{plain:#?}");
    assert!(plain[0].starts_with("f:3: [mail] ssl_certificate: has no effect"));
}

#[test]
fn a_shared_cache_has_one_size() {
    let pair = "ssl_certificate = good.pem\nssl_certificate_key = good.key\n";
    let servers = format!(
        "{pair}[server imap]\nlisten = 993 ssl\nssl_session_cache = shared:SSL:1m\n\
         [server pop3]\nlisten = 995 ssl\nssl_session_cache = shared:SSL:2m\n"
    );
    let mistakes = Folder::new().mistakes(&servers);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    let beginning = "f:10: [server pop3] ssl_session_cache: session cache `SSL` has ";
    assert!(mistakes[0].starts_with(beginning), "{}", mistakes[0]);
}
