//! What an answer of a DNS server means: records, an alias, nothing, or nonsense. No I/O.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record};

/// Addresses taken from one answer; the rest is dropped.
pub(super) const MAX_ADDRESSES: usize = 64;

/// What an answer says about its question.
#[derive(Debug, PartialEq)]
pub(super) enum Reading<'a> {
    /// The records asked for, at the end of any chain of CNAMEs; never empty.
    Found(Vec<&'a RData>, Duration),
    /// Only that the name is another one, which the server leaves to us to ask for.
    Alias(Name, Duration),
    /// NXDOMAIN, or no record at all.
    NotFound,
    /// Records, but none that answers the question.
    Unusable,
}

/// Reads an answer whose code is NOERROR or NXDOMAIN. The time is the smallest TTL on the way.
pub(super) fn read<'a>(message: &'a Message, question: &Query) -> Reading<'a> {
    if message.response_code == ResponseCode::NXDomain || message.answers.is_empty() {
        return Reading::NotFound;
    }
    let mut name = question.name();
    let mut ttl = u32::MAX;
    // A chain has no more links than the answer has records; more is a loop.
    for _ in 0..=message.answers.len() {
        let here = || records_at(message, name);
        let found: Vec<&Record> = here()
            .filter(|record| record.record_type() == question.query_type())
            .collect();
        if !found.is_empty() {
            let ttl = found
                .iter()
                .map(|record| seconds(record))
                .fold(ttl, u32::min);
            let data = found.iter().map(|record| &record.data).collect();
            return Reading::Found(data, Duration::from_secs(ttl.into()));
        }
        let alias = here().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, seconds(record))),
            _ => None,
        });
        match alias {
            Some((target, its_ttl)) => {
                name = target;
                ttl = ttl.min(its_ttl);
            }
            None if name == question.name() => return Reading::Unusable,
            None => return Reading::Alias(name.clone(), Duration::from_secs(ttl.into())),
        }
    }
    Reading::Unusable
}

/// The first PTR as a host name in lower case without final dot; `None` if it cannot be one.
///
/// The labels are judged as they came: once rendered, their odd bytes would be escaped.
pub(super) fn host_name(pointers: &[&RData]) -> Option<String> {
    let RData::PTR(target) = pointers.first()? else {
        return None;
    };
    let mut text = String::with_capacity(target.0.len());
    for label in target.0.iter() {
        let fits = label
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        if !fits || label.is_empty() {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(
            label
                .iter()
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        );
    }
    (!text.is_empty() && text.len() <= 253).then_some(text)
}

/// The addresses among some records.
pub(super) fn addresses(records: &[&RData]) -> Vec<IpAddr> {
    records
        .iter()
        .filter_map(|data| data.ip_addr())
        .take(MAX_ADDRESSES)
        .collect()
}

fn records_at<'a>(message: &'a Message, name: &Name) -> impl Iterator<Item = &'a Record> {
    message
        .answers
        .iter()
        .filter(move |record| record.dns_class == DNSClass::IN && record.name == *name)
}

/// RFC 2181, section 8: a TTL with the highest bit set is zero.
fn seconds(record: &Record) -> u32 {
    match record.ttl {
        ttl @ 0..=0x7fff_ffff => ttl,
        _ => 0,
    }
}
