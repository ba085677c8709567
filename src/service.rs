//! One `[server]` at work: its configuration and what was built from it. Sessions share it and keep
//! it as long as they live, so that a reload does not touch them.

use std::sync::Arc;

use crate::auth::http::AuthHttp;
use crate::config::{self, Config, Protocol};
use crate::dialect::{self, Record};
use crate::log::Log;
use crate::net::address::Address;
use crate::net::http::HttpClient;
use crate::net::relay::Relays;
use crate::net::resolve::{Dns, PendingName};
use crate::system::threads::Threads;

/// A server that sessions can run on.
#[derive(Debug)]
pub struct Service {
    /// What the configuration says.
    pub conf: config::Server,
    /// What its protocol fixes.
    pub record: &'static Record,
    /// Where its lines go.
    pub log: Log,
    /// Who decides about logins.
    pub auth: AuthHttp,
    /// Who knows names and addresses.
    pub dns: Dns,
    /// Relay threads, shared by the process.
    pub threads: Threads,
    /// Sessions in their relay, shared by the process.
    pub relays: Arc<Relays>,
}

/// Builds the servers of a configuration.
///
/// # Errors
/// What is wrong, for people: a log that cannot be opened, a resolver that cannot be set up.
pub fn build(
    config: &Config,
    threads: &Threads,
    relays: &Arc<Relays>,
) -> Result<Vec<Arc<Service>>, String> {
    let build = |conf: &config::Server| Service::build(config, conf, threads, relays);
    config.servers.iter().map(build).collect()
}

impl Service {
    fn build(
        config: &Config,
        conf: &config::Server,
        threads: &Threads,
        relays: &Arc<Relays>,
    ) -> Result<Arc<Self>, String> {
        let targets = match conf.error_log.as_slice() {
            [] => config.process.error_log.as_slice(),
            own => own,
        };
        let dns = Dns::new(conf.resolver.as_ref())?;
        let servers = conf.auth_http.iter().cloned();
        let servers = servers.map(|url| HttpClient::new(url, dns.clone(), None));
        Ok(Arc::new(Self {
            record: dialect::record(conf.protocol),
            log: Log::open(targets, &conf.error_log_user_tag)?,
            auth: AuthHttp::new(servers.collect()),
            dns,
            threads: threads.clone(),
            relays: Arc::clone(relays),
            conf: conf.clone(),
        }))
    }

    /// Bytes of a client's command, as the protocol's directive says.
    pub fn client_buffer(&self) -> usize {
        match self.conf.protocol {
            Protocol::Imap => self.conf.imap_client_buffer,
            Protocol::Pop3 => self.conf.pop3_client_buffer,
            Protocol::Smtp => self.conf.smtp_client_buffer,
        }
    }

    /// Starts looking up the name of an SMTP client, if there is a `resolver` to ask.
    pub fn begin_host_name(&self, client: Address) -> Option<PendingName> {
        if self.conf.protocol != Protocol::Smtp || self.conf.resolver.is_none() {
            return None;
        }
        let limit = self.conf.resolver_timeout;
        Some(self.dns.begin_client_name(client.ip()?, limit))
    }
}
