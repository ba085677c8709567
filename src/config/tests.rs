//! Whole files: the good and bad samples of `tests/configs`, inheritance, and damaged text.

mod files;
mod tls;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::*;
use crate::log::{LogDestination, LogFormat, Severity};

const CONFIGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/configs");

/// Never asks the network.
fn lookup(_: &str) -> Vec<IpAddr> {
    vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(Path::new(CONFIGS).join(folder)).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let is_config = |path: &PathBuf| path.extension().is_some_and(|name| name == "ini");
    let mut paths: Vec<PathBuf> = paths.filter(is_config).collect();
    paths.sort();
    paths
}

/// Messages with the bare name of the file.
fn bare(lines: &[impl ToString], path: &Path) -> String {
    let folder = format!("{}/", path.parent().expect("a folder").display());
    lines
        .iter()
        .map(|line| format!("{}\n", line.to_string().replace(&folder, "")))
        .collect()
}

fn lines(mistakes: &[Mistake]) -> Vec<String> {
    mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn good_files_have_no_mistakes_and_the_warnings_beside_them() {
    assert!(files("good").len() >= 12);
    for path in files("good") {
        let config = load(&path).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        let expected = std::fs::read_to_string(path.with_extension("warn")).unwrap_or_default();
        assert_eq!(
            bare(&config.warnings, &path),
            expected,
            "{}",
            path.display()
        );
        let listeners: usize = config
            .servers
            .iter()
            .map(|server| server.listen.len())
            .sum();
        let status = usize::from(config.process.status.is_some());
        let others = config.backends.len() + config.routes.len() + status;
        assert_eq!(describe(&config).lines().count(), listeners + others);
    }
}

#[test]
fn bad_files_have_exactly_the_mistakes_beside_them() {
    assert!(files("bad").len() >= 30);
    for path in files("bad") {
        let mistakes = load(&path).err().unwrap_or_default();
        let expected = std::fs::read_to_string(path.with_extension("err")).expect("NAME.err");
        assert_eq!(bare(&mistakes, &path), expected, "{}", path.display());
    }
}

#[test]
fn messages_never_hold_a_secret() {
    for path in files("bad") {
        for mistake in load(&path).err().unwrap_or_default() {
            assert!(!mistake.to_string().contains("secret"), "{mistake}");
        }
    }
}

#[test]
fn own_lines_replace_all_inherited_ones() {
    let path = Path::new(CONFIGS).join("good/server_replaces_mail.ini");
    let config = load(&path).expect("a good file");
    let [a, b] = &config.servers[..] else {
        panic!("two servers");
    };
    assert_eq!((a.auth_http.len(), b.auth_http.len()), (1, 2));
    assert_eq!((a.auth_http_header.len(), b.auth_http_header.len()), (2, 1));
    assert_eq!(a.timeout, Duration::from_secs(5400));
    assert_eq!(b.timeout, Duration::from_secs(30));
    assert_eq!((a.xclient, b.xclient), (Xclient::Off, Xclient::Off));
}

#[test]
fn defaults_are_those_of_the_reference() {
    let config = load(&Path::new(CONFIGS).join("good/smallest.ini")).expect("a good file");
    let server = &config.servers[0];
    assert_eq!(
        (server.name.as_str(), server.protocol),
        ("imap", Protocol::Imap)
    );
    assert_eq!((server.max_errors, server.max_commands), (5, 1000));
    assert_eq!(server.timeout, Duration::from_secs(60));
    assert_eq!(server.proxy_timeout, Duration::from_secs(86400));
    assert_eq!(
        server.of_protocol.imap.capabilities.fixed(),
        ["IMAP4", "IMAP4rev1", "UIDPLUS"]
    );
    assert_eq!(
        (server.of_protocol.imap.client_buffer, server.proxy_buffer),
        (16384, None)
    );
    assert_eq!(
        (server.xclient, server.starttls),
        (Xclient::On, Starttls::Off)
    );
    let of_smtp = &server.of_protocol.smtp.auth;
    let words: Vec<&str> = of_smtp.sasl.iter().map(|row| row.word).collect();
    assert_eq!((words, of_smtp.own_login), (vec!["plain", "login"], false));
    assert!(server.error_log.is_empty() && server.resolver.is_none());
    assert!(!server.server_name.is_empty());

    let process = &config.process;
    assert_eq!(process.workers, 1024);
    assert_eq!(process.client_wait, Duration::from_millis(20));
    assert_eq!(process.send_timeout, Duration::from_secs(5));
    assert_eq!(server.hibernate_timeout, Some(Duration::from_secs(5)));
    assert_eq!(
        (process.max_sessions, process.max_prelogin_per_ip),
        (4096, Some(256))
    );
    assert_eq!(process.reload_timeout, None);
    let target = LogTarget {
        destination: LogDestination::Stderr,
        level: Severity::Info,
        format: LogFormat::Text,
        filter: None,
    };
    assert_eq!(process.error_log, [target]);
}

#[test]
fn limits_that_can_be_off_are_none() {
    let text = "[postern]\nmax_prelogin_per_ip = OFF\nclient_wait = 0\n[server imap]\nlisten = 143\n\
                auth_http = 127.0.0.1\nhibernate_timeout = off\n";
    let config = parse(text, Path::new("f")).expect("a good file");
    assert_eq!(config.process.max_prelogin_per_ip, None);
    assert_eq!(config.process.client_wait, Duration::ZERO);
    assert_eq!(config.servers[0].hibernate_timeout, None);
}

#[test]
fn file_names_are_relative_to_the_folder_of_the_configuration() {
    let path = Path::new(CONFIGS).join("good/every_process_setting.ini");
    let config = load(&path).expect("a good file");
    assert_eq!(config.process.pid, Some(path.with_file_name("postern.pid")));
    let file = LogDestination::File(path.with_file_name("postern.log"));
    assert_eq!(config.process.error_log[0].destination, file);
}

#[test]
fn a_server_uses_the_log_of_mail_before_that_of_the_process() {
    let config = load(&Path::new(CONFIGS).join("good/logs.ini")).expect("a good file");
    assert_eq!(config.servers[0].error_log.len(), 1);
    assert_eq!(config.servers[1].error_log.len(), 2);
    assert_eq!(config.servers[1].error_log_user_tag, ["office", "branch"]);
}

#[test]
fn a_file_that_cannot_be_read_is_one_mistake() {
    let mistakes = load(Path::new("/nonexistent/postern.ini")).expect_err("no such file");
    assert_eq!(mistakes.len(), 1);
    let line = mistakes[0].to_string();
    assert!(line.starts_with("/nonexistent/postern.ini: cannot be read: "));
    assert!(load(Path::new("/dev")).is_err());
}

#[test]
fn a_file_above_one_mebibyte_is_refused() {
    let text = "#\n".repeat(600_000);
    let mistakes = parse(&text, Path::new("big.ini")).expect_err("too large");
    assert_eq!(lines(&mistakes), ["big.ini: larger than 1 MiB"]);
    let endless = load(Path::new("/dev/zero")).expect_err("too large");
    assert_eq!(lines(&endless), ["/dev/zero: larger than 1 MiB"]);
}

#[test]
fn an_unknown_host_name_is_a_mistake() {
    let text = b"[server imap]\nlisten = imap.example.org:143\nauth_http = 127.0.0.1\n";
    let mistakes =
        build(text, Path::new("f"), |_| Vec::new(), Files::Leave).expect_err("no address");
    let expected = "f:2: [server imap] listen: the host name in `imap.example.org:143` cannot be \
                    resolved";
    assert_eq!(lines(&mistakes), [expected]);
    assert_eq!(mistakes[0].kind, MistakeKind::UnresolvedName);
}

const DAMAGED: &str = "[postern]\nworkers=4\nreload_timeout=1h30m\nerror_log=syslog:server=[::1]:514,\
    facility=mail,tag=t info filter=tag:x\n[mail]\nauth_http=http://[::1]:90/a\n\
    auth_http_header=X \"a \\\" b\"\nresolver=[::1]:53 valid=30s\nset_real_ip_from=10.0.0.0/8\n\
    smtp_capabilities=\"SIZE 1\",X\nserver_name=[1.2.3.4]\n[server imap]\n\
    listen=[::]:143-145 so_keepalive=1m::9 ipv6only=off\nlisten=unix:/x ssl\nproxy_buffer=4k\n\
    starttls=only\nssl_session_cache=builtin:9 shared:A:1m\nssl_protocols=TLSv1.2 TLSv1.3\n\
    ssl_conf_command=A \"b\"\nproxy_ssl_name=::1\n";

const DAMAGED_BACKENDS: &str = "[server pop3]\nlisten=110\nauth=passthrough\n\
    login_domain=a.b\npop3_capabilities=auto\n[backend b]\nhosts=a.b:1,[::1]:2 c\nproxy_ssl=on\n\
    [routes]\nroute=\"x y@a.b\" b\nroute=@c.d reject \"no \\\"\"\nmap=m\n";

#[test]
fn damaged_files_never_panic() {
    for good in [DAMAGED, DAMAGED_BACKENDS] {
        let good = good.as_bytes();
        build(good, Path::new("f"), lookup, Files::Leave).expect("the undamaged file is good");
        for index in 0..good.len() {
            let mut damaged = good.to_vec();
            damaged.remove(index);
            let _ = build(&damaged, Path::new("f"), lookup, Files::Leave);
            let _ = build(&good[..index], Path::new("f"), lookup, Files::Leave);
            for byte in *b"\0\n\r\t \"\\#,-/09:=[]kz\xc3\xff" {
                let mut damaged = good.to_vec();
                damaged[index] = byte;
                let _ = build(&damaged, Path::new("f"), lookup, Files::Leave);
            }
        }
    }
}

#[test]
fn long_values_never_panic() {
    for filler in ["9", "é", "\"", "\\", ",", "[", ":", "1h", "a=", "-"] {
        let long = filler.repeat(5000);
        let lines = directives::DIRECTIVES
            .iter()
            .map(|d| format!("{} = {long}\n", d.name));
        let lines: String = lines.collect();
        let text = format!(
            "[postern]\n{lines}[mail]\n{lines}[server {long}]\n{lines}[{long}]\n\
            [backend {long}]\n{lines}[routes]\n{lines}"
        );
        assert!(build(text.as_bytes(), Path::new("f"), lookup, Files::Leave).is_err());
    }
}

fn with_logins(protocol: Protocol) -> Purpose {
    Purpose {
        protocol,
        all_log_in: true,
    }
}

/// The port of a backend's host for each server, with the kinds of TLS in turn.
fn smtp_ports(smtp_auth: &str) -> [u16; 3] {
    ["off", "starttls", "on"].map(|ssl| {
        let ini = format!(
            "[server a]\nprotocol = smtp\nlisten = 127.0.0.1:0\nauth_http = 127.0.0.1:9\n\
             smtp_auth = {smtp_auth}\n[backend b]\nhosts = h.test\nproxy_ssl = {ssl}\n"
        );
        let config = parse(&ini, Path::new("ports.ini")).expect("a good file");
        config.backends[0].port(config.servers[0].purpose())
    })
}

#[test]
fn smtp_goes_to_the_port_of_submission_where_every_client_has_to_log_in() {
    assert_eq!(smtp_ports("plain login"), [587, 587, 465]);
    assert_eq!(smtp_ports("none"), [25, 25, 465]);
    assert_eq!(smtp_ports("plain none"), [25, 25, 465]);
}

#[test]
fn a_single_backend_needs_no_routes() {
    let config = load(&Path::new(CONFIGS).join("good/small_office.ini")).expect("a good file");
    let [office] = &config.backends[..] else {
        panic!("one backend");
    };
    let ports = Protocol::ALL.map(|protocol| office.port(with_logins(protocol)));
    assert_eq!((office.name.as_str(), ports), ("office", [143, 110, 587]));
    assert_eq!(office.hosts.len(), 1);
    assert_eq!(
        (office.xclient, office.balance, office.auth_mechanism),
        (Xclient::Auto, Balance::Failover, AuthMechanism::Auto)
    );
    assert_eq!(office.connect_timeout, Duration::from_secs(10));
    assert_eq!(office.fail_timeout, Duration::from_secs(30));
    assert_eq!(office.health_check, None);
    assert!(config.routes.is_empty());
    for server in &config.servers {
        assert_eq!(server.auth, AuthKind::Passthrough);
        assert_eq!(server.login_domain.as_deref(), Some("example.org"));
        assert!(!server.login_domain_pass && !server.strip_domain && server.proxy_smtp_auth);
        assert_eq!(server.of_protocol.imap.capabilities, Capabilities::Auto);
        assert_eq!(server.of_protocol.smtp.capabilities, Capabilities::Auto);
    }
}

#[test]
fn a_backend_has_its_own_settings_and_none_of_mail() {
    let config = load(&Path::new(CONFIGS).join("good/backends.ini")).expect("a good file");
    let [office, branch] = &config.backends[..] else {
        panic!("two backends");
    };
    let purposes = Protocol::ALL.map(with_logins);
    assert_eq!(purposes.map(|p| office.port(p)), [1143, 1110, 1587]);
    assert_eq!(purposes.map(|p| branch.port(p)), [993, 995, 465]);
    assert_eq!(
        (office.proxy_ssl, office.proxy_protocol, office.xclient),
        (ProxySsl::StartTls, ProxyProtocol::V2, Xclient::Full)
    );
    assert_eq!(office.proxy_tls.tls_library, crate::tls::Library::Native);
    assert!(!office.proxy_tls.proxy_ssl_verify && branch.proxy_tls.proxy_ssl_verify);
    assert_eq!(branch.proxy_tls.tls_library, crate::tls::Library::Rustls);
    assert_eq!(office.fail_timeout, Duration::ZERO);
    assert_eq!(office.health_check, Some(Duration::from_secs(60)));

    let [imap, pop3, _] = &config.servers[..] else {
        panic!("three servers");
    };
    assert_eq!((imap.proxy_ssl, imap.xclient), (ProxySsl::Off, Xclient::On));
    assert!(imap.login_domain_pass && pop3.strip_domain && !pop3.login_domain_pass);
    assert_eq!(
        imap.of_protocol.imap.capabilities.fixed(),
        ["IMAP4rev1", "IDLE"]
    );
    assert_eq!(pop3.of_protocol.pop3.capabilities, Capabilities::Auto);
}

#[test]
fn routes_and_maps_keep_the_order_of_the_file() {
    let config = load(&Path::new(CONFIGS).join("good/backends.ini")).expect("a good file");
    let shown = |line: &RouteLine| match line {
        RouteLine::Map(_) => "map".to_owned(),
        RouteLine::Route(route) => route.pattern.to_string(),
    };
    let order: Vec<String> = config.routes.iter().map(shown).collect();
    let expected = [
        "map",
        "boss@example.org",
        "old@example.org",
        "@branch.example.org",
        "map",
        "guest",
        "*",
    ];
    assert_eq!(order, expected);
}

#[test]
fn auto_without_backends_is_the_fixed_list() {
    let path = Path::new(CONFIGS).join("good/auth_http_without_effect.ini");
    let config = load(&path).expect("a good file");
    let [imap, smtp] = &config.servers[..] else {
        panic!("two servers");
    };
    let expected = ["IMAP4", "IMAP4rev1", "UIDPLUS"];
    assert_eq!(imap.of_protocol.imap.capabilities.fixed(), expected);
    assert_eq!(
        smtp.of_protocol.smtp.capabilities,
        Capabilities::Fixed(Vec::new())
    );
}
