//! The system's own configuration: the hosts file, and the servers and search list of resolv.conf.
//!
//! Both are read again after a while, as the C library does, so that a change needs no reload.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::Hosts;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;

/// How long the files are believed.
pub(super) const REREAD: Duration = Duration::from_secs(5);

/// The two files.
pub(super) struct System {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    read: Mutex<Option<(Instant, Arc<Files>)>>,
}

impl System {
    pub(super) fn new(hosts: PathBuf, resolv_conf: PathBuf) -> System {
        System {
            hosts,
            resolv_conf,
            read: Mutex::new(None),
        }
    }

    /// What the files say, at most [`REREAD`] ago.
    pub(super) fn files(&self) -> Arc<Files> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, files)) = read.as_ref()
            && at.elapsed() < REREAD
        {
            return Arc::clone(files);
        }
        let files = Arc::new(self.read_files());
        *read = Some((Instant::now(), Arc::clone(&files)));
        files
    }

    fn read_files(&self) -> Files {
        let mut hosts = Hosts::default();
        if let Ok(file) = File::open(&self.hosts) {
            // Lines up to an unreadable one are kept.
            let _ = hosts.read_hosts_conf(file);
        }
        let parsed = fs::read(&self.resolv_conf)
            .ok()
            .and_then(|text| parse_resolv_conf(text).ok());
        let Some((config, options)) = parsed else {
            return Files {
                hosts,
                servers: Arc::new([]),
                search: Vec::new(),
                ndots: 1,
            };
        };
        Files {
            hosts,
            servers: config
                .name_servers()
                .iter()
                .map(|server| SocketAddr::new(server.ip, 53))
                .collect(),
            search: config.search().to_vec(),
            ndots: options.ndots,
        }
    }
}

/// What the two files say.
pub(super) struct Files {
    hosts: Hosts,
    servers: Arc<[SocketAddr]>,
    search: Vec<Name>,
    ndots: usize,
}

impl Files {
    /// Whether resolv.conf names a server.
    pub(super) fn name_a_server(&self) -> bool {
        !self.servers.is_empty()
    }

    /// The servers in their order; as resolv.conf(5) has it, the local one if none is named.
    pub(super) fn servers(&self) -> Arc<[SocketAddr]> {
        match self.name_a_server() {
            true => Arc::clone(&self.servers),
            false => Arc::new([SocketAddr::from((Ipv4Addr::LOCALHOST, 53))]),
        }
    }

    /// The names to ask for in turn; an absolute name stands for itself.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() {
            return vec![absolute];
        }
        let mut candidates: Vec<Name> = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok())
            .collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let place = if dots >= self.ndots {
            0
        } else {
            candidates.len()
        };
        candidates.insert(place, absolute);
        candidates
    }

    /// What the hosts file has for a name; `localhost` has addresses without it too (RFC 6761).
    pub(super) fn addresses(&self, name: &Name) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for kind in [RecordType::AAAA, RecordType::A] {
            let question = Query::query(name.clone(), kind);
            if let Some(lookup) = self.hosts.lookup_static_host(&question) {
                let found = lookup.answers().iter();
                addresses.extend(found.filter_map(|record| record.data.ip_addr()));
            }
        }
        let is_localhost = name.num_labels() == 1
            && name
                .iter()
                .all(|label| label.eq_ignore_ascii_case(b"localhost"));
        if addresses.is_empty() && is_localhost {
            addresses = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(hosts: &str, resolv_conf: &str) -> Arc<Files> {
        let folder = tempfile_folder();
        let hosts_path = folder.join("hosts");
        let conf_path = folder.join("resolv.conf");
        fs::write(&hosts_path, hosts).expect("write hosts");
        fs::write(&conf_path, resolv_conf).expect("write resolv.conf");
        let files = System::new(hosts_path, conf_path).files();
        fs::remove_dir_all(folder).expect("remove folder");
        files
    }

    fn tempfile_folder() -> PathBuf {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("random bytes");
        let name = format!("postern-system-{}", u64::from_ne_bytes(random));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("create folder");
        folder
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("name")
    }

    #[test]
    fn hosts_file_is_read_without_regard_to_case() {
        let files = files(
            "# comment\n192.0.2.1 Mail.Example alias # x\n2001:db8::1\talias\nnonsense x\n",
            "nameserver 192.0.2.53\n",
        );
        let v4: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
        assert_eq!(files.addresses(&name("mail.EXAMPLE")), [v4]);
        assert_eq!(files.addresses(&name("alias")).len(), 2);
        assert!(files.addresses(&name("other")).is_empty());
    }

    #[test]
    fn localhost_needs_no_hosts_file() {
        let files = System::new("/nonexistent/a".into(), "/nonexistent/b".into()).files();
        assert_eq!(files.addresses(&name("localhost")).len(), 2);
        assert!(files.addresses(&name("x.localhost")).is_empty());
        assert_eq!(
            files.servers()[..],
            [SocketAddr::from(([127, 0, 0, 1], 53))]
        );
        assert!(!files.name_a_server());
    }

    #[test]
    fn search_list_comes_before_a_short_name_and_after_a_long_one() {
        let files = files(
            "",
            "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a.example b.example\noptions ndots:2\n",
        );
        let candidates = |text| -> Vec<String> {
            let names = files.candidates(&name(text));
            names.iter().map(Name::to_ascii).collect()
        };
        assert_eq!(files.servers().len(), 2);
        assert_eq!(candidates("x"), ["x.a.example.", "x.b.example.", "x."]);
        assert_eq!(
            candidates("x.y"),
            ["x.y.a.example.", "x.y.b.example.", "x.y."]
        );
        assert_eq!(candidates("x.y.z")[0], "x.y.z.");
        assert_eq!(candidates("x.")[..], ["x."]);
    }
}
