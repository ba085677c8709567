//! What is done in the store in one step each, as Lua scripts, and what the keys are called.
//!
//! All times are the store's own (`TIME`), in milliseconds, so that clocks of nodes do not matter. Every key but
//! those of bans has an end. There are no user names in keys, only their hashes: who reads the store, or what
//! it logs, sees none, but can look for one that he knows.

use std::fmt::Write;

use redis::Script;

use super::super::store::{FailuresOf, UserSession};
use crate::net::address::LimitKey;

/// The bans, each with its end.
pub(super) const BANS: &str = "postern:bans";

/// Which store this is (`epoch`), and how often its bans have changed (`version`).
pub(super) const BANS_STATE: &str = "postern:bans:state";

/// A count of failures: what `penalty` does in memory. ARGV: the time of a step back, the most, how many to add.
const FAILURES: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local leak, most, more = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.call('HMGET', KEYS[1], 'count', 'since')
local count, since = tonumber(held[1] or 0) or 0, tonumber(held[2] or now) or now
local steps = math.max(0, math.floor((now - since) / leak))
if count > steps then
  count, since = count - steps, since + steps * leak
else
  count, since = 0, now
end
if more > 0 then
  count = math.max(1, math.min(count + more, most))
  redis.call('HSET', KEYS[1], 'count', string.format('%.0f', count), 'since', string.format('%.0f', since))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', count * leak))
end
return count
";

/// Counts a session in. KEYS: the user's sessions, and those of them from one address. ARGV: the most of either
/// or -1, the member, the lease. Returns 0 if it is counted, 1 or 2 if that limit is reached.
const BEGIN: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 1, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', string.format('%.0f', now))
  redis.call('ZREM', KEYS[i], ARGV[3])
end
for i = 2, 1, -1 do
  local most = tonumber(ARGV[i])
  if most >= 0 and redis.call('ZCARD', KEYS[i]) >= most then
    return i
  end
end
for i = 1, 2 do
  redis.call('ZADD', KEYS[i], string.format('%.0f', now + ARGV[4]), ARGV[3])
  redis.call('PEXPIRE', KEYS[i], ARGV[4])
end
return 0
";

/// Changes bans and says which store this is. KEYS: bans, their state. ARGV: an epoch for a store that has none,
/// then each range with its time in milliseconds, -1 without end, 0 to lift it. Returns epoch and version.
const CHANGE_BANS: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local epoch = redis.call('HGET', KEYS[2], 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'version', 0)
end
local changed = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
for i = 2, #ARGV, 2 do
  local left = tonumber(ARGV[i + 1])
  changed = changed + 1
  if left == 0 then
    redis.call('ZREM', KEYS[1], ARGV[i])
  elseif left < 0 then
    redis.call('ZADD', KEYS[1], '+inf', ARGV[i])
  else
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + left), ARGV[i])
  end
end
if changed > 0 then
  redis.call('HINCRBY', KEYS[2], 'version', 1)
end
return {epoch, redis.call('HGET', KEYS[2], 'version')}
";

/// All bans. KEYS: bans. ARGV: how many at most. Returns each range and its time, as `CHANGE_BANS` takes them.
const LIST_BANS: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local held = redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 2, #held, 2 do
  local ends = tonumber(held[i])
  if ends == nil or ends == math.huge then
    held[i] = '-1'
  else
    held[i] = string.format('%.0f', math.max(1, ends - now))
  end
end
return held
";

/// The scripts.
pub(super) struct Scripts {
    pub(super) failures: Script,
    pub(super) begin: Script,
    pub(super) change_bans: Script,
    pub(super) list_bans: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            failures: Script::new(FAILURES),
            begin: Script::new(BEGIN),
            change_bans: Script::new(CHANGE_BANS),
            list_bans: Script::new(LIST_BANS),
        }
    }
}

/// Where failures are counted.
pub(super) fn failures_key(of: FailuresOf<'_>) -> String {
    match of {
        FailuresOf::Address(address) => format!("postern:failures:address:{}", place(address)),
        FailuresOf::User(login) => format!("postern:failures:user:{}", hash(&[login])),
    }
}

/// Where a user's sessions are counted, and those of them from one address.
pub(super) fn session_keys(session: &UserSession) -> [String; 2] {
    let user = hash(&[session.protocol.name().as_bytes(), b"\0", &session.user]);
    let of_address = format!("postern:sessions:{{{user}}}:{}", place(session.address));
    [format!("postern:sessions:{{{user}}}"), of_address]
}

/// A sign of life of a node.
pub(super) fn node_key(node: &str) -> String {
    format!("postern:node:{node}")
}

fn place(address: LimitKey) -> String {
    match address {
        LimitKey::Ip(ip) => ip.to_string(),
        LimitKey::Unix => "unix".to_owned(),
    }
}

/// The first half of SHA-256, in hex: the same on every node.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = openssl::sha::Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let digest = hasher.finish();
    digest[..16].iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    #[test]
    fn keys_hold_no_name_and_are_the_same_everywhere() {
        let session = UserSession {
            protocol: Protocol::Imap,
            user: b"anna@example.org".to_vec(),
            address: LimitKey::Ip([192, 0, 2, 1].into()),
            number: 7,
        };
        let keys = session_keys(&session);
        assert_eq!(keys[1], format!("{}:192.0.2.1", keys[0]));
        let smtp = UserSession {
            protocol: Protocol::Smtp,
            ..session
        };
        assert_ne!(session_keys(&smtp), keys);
        let of_user = failures_key(FailuresOf::User(b"anna@example.org"));
        // Taken from sha256sum(1).
        assert_eq!(
            of_user,
            "postern:failures:user:a3bf86238a1c59bd2f0a648af9293620"
        );
    }
}
