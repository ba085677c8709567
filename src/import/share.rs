//! Which settings stand in `[mail]`, and which in the servers.
//!
//! What all servers have in common is said once. Values are compared as text.

use super::translate::protocol_of;
use super::write::{Entry, Section};
use crate::protocol::Protocol;

/// One `mail {}` and its servers.
#[derive(Debug)]
pub(super) struct Group {
    /// What stands outside its servers.
    pub(super) mail: Section,
    /// In file order.
    pub(super) servers: Vec<Section>,
}

/// `[mail]`, and the servers of all blocks.
pub(super) fn share(groups: Vec<Group>) -> (Section, Vec<Section>) {
    let (mut mail, mut servers) = merge(groups);
    raise(&mut mail, &mut servers);
    (mail, servers)
}

/// Several blocks become one: what all of them say alike stays above the servers, the rest goes
/// down to them.
fn merge(mut groups: Vec<Group>) -> (Section, Vec<Section>) {
    if groups.len() == 1 {
        let only = groups.remove(0);
        return (only.mail, only.servers);
    }
    let is_common = |entry: &Entry| {
        let mut values = groups.iter().map(|group| group.mail.values(entry.key));
        let first = values.next();
        entry.key.is_empty() || values.all(|values| Some(&values) == first.as_ref())
    };
    let common =
        |group: &Group| -> Vec<bool> { group.mail.entries.iter().map(is_common).collect() };
    let common: Vec<Vec<bool>> = groups.iter().map(common).collect();

    let mut mail = Section::new("mail");
    let mut servers = Vec::new();
    for (index, (mut group, common)) in groups.into_iter().zip(common).enumerate() {
        let entries = group.mail.entries.into_iter().zip(common);
        let (stay, go): (Vec<_>, Vec<_>) = entries.partition(|(_, common)| *common);
        let go: Vec<Entry> = go.into_iter().map(|(entry, _)| entry).collect();
        for server in &mut group.servers {
            lower(server, &go);
        }
        let stay = stay.into_iter().map(|(entry, _)| entry);
        mail.entries
            .extend(stay.filter(|entry| index == 0 || entry.key.is_empty()));
        mail.comments.append(&mut group.mail.comments);
        mail.end.append(&mut group.mail.end);
        servers.append(&mut group.servers);
    }
    (mail, servers)
}

/// What a server has no lines of its own for, and what is for its protocol.
fn lower(server: &mut Section, entries: &[Entry]) {
    let protocol = protocol_of(server);
    let fits = |entry: &&Entry| {
        let word = entry.key.split('_').next().unwrap_or_default();
        let is_foreign = Protocol::by_name(word).is_some()
            && protocol.is_none_or(|protocol| protocol.name() != word);
        !is_foreign && server.values(entry.key).is_empty()
    };
    let missing: Vec<Entry> = entries.iter().filter(fits).cloned().collect();
    server.entries.extend(missing);
}

/// What every server says alike moves up.
fn raise(mail: &mut Section, servers: &mut [Section]) {
    let Some((first, others)) = servers
        .split_first_mut()
        .filter(|(_, rest)| !rest.is_empty())
    else {
        return;
    };
    let mut keys: Vec<&'static str> = first.entries.iter().map(|entry| entry.key).collect();
    keys.retain(|key| !["", "listen", "protocol"].contains(key));
    keys.dedup();
    for key in keys {
        let values = first.values(key);
        if values.is_empty() || others.iter().any(|other| other.values(key) != values) {
            continue;
        }
        let (raised, rest) = std::mem::take(&mut first.entries)
            .into_iter()
            .partition(|entry| entry.key == key);
        first.entries = rest;
        let mut raised: Vec<Entry> = raised;
        for other in others.iter_mut() {
            drop_key(other, key, &mut raised);
        }
        mail.entries.retain(|entry| entry.key != key);
        mail.entries.append(&mut raised);
    }
}

/// Removes a key's lines; comments that the raised ones do not have yet go with them.
fn drop_key(section: &mut Section, key: &str, raised: &mut [Entry]) {
    let entries = std::mem::take(&mut section.entries);
    let (dropped, rest) = entries.into_iter().partition(|entry| entry.key == key);
    section.entries = rest;
    let dropped: Vec<Entry> = dropped;
    for (entry, raised) in dropped.into_iter().zip(raised) {
        for comment in entry.comments {
            if !raised.comments.contains(&comment) {
                raised.comments.push(comment);
            }
        }
    }
}
