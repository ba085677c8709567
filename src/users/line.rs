//! One line of a password file, in Dovecot's two forms: `login:password[:key=value …]`, and
//! `login:password:uid:gid:gecos:home:shell:key=value …` with five fields that are overlooked.
//!
//! They are told apart by what follows the password: with a `=` before the next colon, or a field's name in
//! front, it is the short form, whose rest is all fields, so that an IPv6 range may stand there. What is wrong with a line is said without
//! any part of it that may be a secret.

use ipnet::IpNet;

use super::scheme::Hash;
use crate::secret::Secret;

/// Longest login, in bytes.
const LONGEST_LOGIN: usize = 400;

/// Longest line, in bytes.
pub(super) const LONGEST_LINE: usize = 4096;

/// The fields that mean something here.
const KEYS: [&str; 5] = ["backend", "user", "pass", "allow_nets", "nologin"];

/// One user.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// What its password is checked against.
    pub hash: Hash,
    /// `backend`: where the login goes, whatever the routes say.
    pub backend: Option<&'a str>,
    /// `user`: the login towards the backend.
    pub user: Option<&'a str>,
    /// `pass`: the password towards the backend.
    pub pass: Option<Secret>,
    /// `allow_nets`: from where it may log in; `None` is from everywhere.
    pub allow_nets: Option<Vec<Net>>,
    /// `nologin`: it may not log in at all.
    pub nologin: bool,
}

/// One item of `allow_nets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    /// An address or a range.
    Ip(IpNet),
    /// `local`: who has no address, as over a Unix socket.
    Local,
}

impl<'a> Entry<'a> {
    fn new(hash: Hash) -> Self {
        Self {
            hash,
            backend: None,
            user: None,
            pass: None,
            allow_nets: None,
            nologin: false,
        }
    }

    /// Whether a client of this address may log in; `None` is a client without one.
    pub(crate) fn allows(&self, client: Option<std::net::IpAddr>) -> bool {
        let fits = |net: &Net| match (net, client) {
            (Net::Ip(net), Some(ip)) => net.contains(&ip),
            (Net::Local, None) => true,
            (Net::Ip(_), None) | (Net::Local, Some(_)) => false,
        };
        let nets = self.allow_nets.as_ref();
        nets.is_none_or(|nets| nets.iter().any(fits))
    }

    fn set(&mut self, key: &str, value: Option<&'a str>) -> Result<(), String> {
        let needed = || {
            let value = value.filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{key} has no value"))
        };
        let twice = || Err(format!("{key} stands twice"));
        match key {
            "backend" if self.backend.is_some() => return twice(),
            "backend" => self.backend = Some(needed()?),
            "user" if self.user.is_some() => return twice(),
            "user" => self.user = Some(needed()?),
            "pass" if self.pass.is_some() => return twice(),
            "pass" => self.pass = Some(pass(needed()?)?),
            "allow_nets" if self.allow_nets.is_some() => return twice(),
            "allow_nets" => {
                let nets = needed()?.split(',').map(net);
                self.allow_nets = Some(nets.collect::<Result<_, _>>()?);
            }
            // Dovecot takes any value of it.
            _ => self.nologin = true,
        }
        Ok(())
    }
}

/// Reads a line without its end; `None` is an empty one or a remark.
///
/// # Errors
/// What is wrong, for the administrator.
pub(crate) fn parse(line: &[u8]) -> Result<Option<Entry<'_>>, String> {
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    if line.len() > LONGEST_LINE {
        return Err(format!("longer than {LONGEST_LINE} bytes"));
    }
    let line = std::str::from_utf8(line).map_err(|_| "not valid UTF-8")?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return Err("a control character".to_owned());
    }
    let (login, rest) = line
        .split_once(':')
        .ok_or("no colon: write LOGIN:{SCHEME}PASSWORD")?;
    check_login(login)?;
    let (password, rest) = match rest.split_once(':') {
        None => (rest, ""),
        Some((password, rest)) => (password, rest),
    };
    let mut entry = Entry::new(Hash::parse(password)?);
    for (index, field) in fields(rest)?.split([' ', '\t']).enumerate() {
        if field.is_empty() {
            continue;
        }
        let (key, value) = match field.split_once('=') {
            None => (field, None),
            Some((key, value)) => (key, Some(value)),
        };
        match KEYS.iter().find(|known| **known == key) {
            Some(key) => entry.set(key, value)?,
            // They are for Dovecot's own use of such a line.
            None if key.starts_with("userdb_") => {}
            None => return Err(unknown(index + 1, key)),
        }
    }
    Ok(Some(entry))
}

/// What may stand before the first colon.
///
/// # Errors
/// What is wrong with it, for the administrator.
pub(crate) fn check_login(login: &str) -> Result<(), String> {
    if login.is_empty() {
        return Err("no login before the first colon".to_owned());
    }
    if login.len() > LONGEST_LOGIN {
        return Err(format!("the login is longer than {LONGEST_LOGIN} bytes"));
    }
    let is_odd = |c: char| c.is_control() || c == ':';
    if login.trim() != login || login.starts_with('#') || login.contains(is_odd) {
        let text = "a login has no space around it, no `#` in front, no colon and no control character in it";
        return Err(text.to_owned());
    }
    Ok(())
}

/// The fields of either form.
fn fields(rest: &str) -> Result<&str, String> {
    let (first, behind) = rest.split_once(':').unwrap_or((rest, ""));
    let word = first.split([' ', '\t']).find(|word| !word.is_empty());
    if first.contains('=') || word.is_some_and(|word| KEYS.contains(&word)) {
        return Ok(rest);
    }
    // A password with a colon in it would be cut there without a word.
    let is_account = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !first.chars().all(is_account) {
        let text = "what follows the password is neither KEY=VALUE nor a user id; a password with a colon in it \
                    is written {PLAIN.B64} or {PLAIN.HEX}";
        return Err(text.to_owned());
    }
    // gid, gecos, home, shell.
    Ok(behind.splitn(5, ':').nth(4).unwrap_or_default())
}

/// By its number: its text may be half a password that had a colon in it.
fn unknown(number: usize, key: &str) -> String {
    let near = KEYS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, key), known));
    let near = near.min().filter(|(distance, _)| *distance <= 2);
    let hint = near.map(|(_, known)| format!("; did you mean `{known}`?"));
    format!(
        "field {number} behind the password is unknown: those known are {}, and userdb_… is overlooked{}",
        KEYS.join(", "),
        hint.unwrap_or_default()
    )
}

/// A password towards the backend, bare, or as {PLAIN.B64} where it has spaces in it.
fn pass(value: &str) -> Result<Secret, String> {
    if !value.starts_with('{') {
        return Ok(value.as_bytes().into());
    }
    let hash = Hash::parse(value).map_err(|error| format!("pass: {error}"))?;
    let secret = hash.plain().cloned();
    secret.ok_or_else(|| "pass: a backend needs the password itself, no hash of it".to_owned())
}

fn net(text: &str) -> Result<Net, String> {
    if text == "local" {
        return Ok(Net::Local);
    }
    let bad = || format!("allow_nets: {text:?} is no address, no range, and not `local`");
    let net = match text.split_once('/') {
        Some(_) => text.parse::<IpNet>().map_err(|_| bad())?,
        None => IpNet::from(text.parse::<std::net::IpAddr>().map_err(|_| bad())?),
    };
    // Clients' addresses are held as IPv4 where they are.
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => IpNet::new(v4.into(), v6.prefix_len() - 96)
                .map(Net::Ip)
                .map_err(|_| bad()),
            None => Ok(Net::Ip(net)),
        },
        IpNet::V4(_) | IpNet::V6(_) => Ok(Net::Ip(net)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Entry<'_> {
        parse(line.as_bytes()).expect(line).expect(line)
    }

    fn error(line: &str) -> String {
        parse(line.as_bytes()).expect_err(line)
    }

    #[test]
    fn both_forms_have_their_fields() {
        for line in [
            "anna:{PLAIN}pw:backend=office user=a2 pass=p=w allow_nets=10.0.0.0/8,2001:db8::/32,local",
            "anna:{PLAIN}pw:1000:1000:Anna, A.:/home/a=b::userdb_mail=x:y backend=office user=a2 pass=p=w \
             allow_nets=10.0.0.0/8,2001:db8::/32,local",
            "anna:{PLAIN}pw::::::backend=office user=a2  pass=p=w allow_nets=10.0.0.0/8,2001:db8::/32,local",
        ] {
            let entry = entry(line);
            assert!(entry.hash.fits(b"pw"));
            assert_eq!((entry.backend, entry.user), (Some("office"), Some("a2")));
            assert_eq!(entry.pass.as_ref().map(Secret::expose), Some(&b"p=w"[..]));
            let allows = |ip: &str| entry.allows(Some(ip.parse().expect("an address")));
            assert!(allows("10.1.2.3") && allows("2001:db8::1") && entry.allows(None));
            assert!(!allows("192.0.2.1") && !allows("2001:db9::1"));
        }
    }

    #[test]
    fn lines_that_were_made_for_dovecot_are_taken() {
        for line in [
            "anna:{PLAIN}pw",
            "anna:{PLAIN}pw:",
            "anna:{PLAIN}pw::",
            "anna:{PLAIN}pw:1000",
            "anna:{PLAIN}pw:vmail:vmail::/srv/mail/%u::",
            "anna:{PLAIN}pw::::::",
            "anna:{PLAIN}pw::::/home/x::userdb_quota_rule=*:storage=5G",
        ] {
            let entry = entry(line);
            assert!(
                entry.allow_nets.is_none() && entry.backend.is_none(),
                "{line}"
            );
            assert!(entry.allows(None));
        }
        assert!(entry("anna:{PLAIN}pw::::::nologin").nologin);
        for line in [
            "anna:{PLAIN}pw:nologin=y",
            "anna:{PLAIN}pw:nologin",
            "anna:{PLAIN}pw: nologin user=a",
        ] {
            assert!(entry(line).nologin, "{line}");
        }
        for line in ["", "# anna:x", "  "] {
            assert!(parse(line.as_bytes()).expect(line).is_none());
        }
    }

    #[test]
    fn a_password_for_the_backend_may_have_spaces() {
        let entry = entry("a:{PLAIN}pw:pass={PLAIN.B64}YSBi");
        assert_eq!(entry.pass.as_ref().map(Secret::expose), Some(&b"a b"[..]));
        assert!(error("a:{PLAIN}pw:pass=$6$x {x").contains("field 2"));
        assert!(
            error("a:{PLAIN}pw:pass={SSHA256}nEq2FvMcmWhRSaO+5s+BZ9M3HdNo+NoA42iRWaoC5zWESKNc")
                .contains("itself")
        );
    }

    #[test]
    fn a_range_of_mapped_addresses_is_that_of_ipv4() {
        let entry = entry("a:{PLAIN}pw:allow_nets=::ffff:10.0.0.0/104");
        assert!(entry.allows(Some([10, 9, 9, 9].into())));
        assert!(!entry.allows(Some([11, 9, 9, 9].into())));
    }

    #[test]
    fn what_is_wrong_is_said_without_a_secret() {
        for (line, part) in [
            ("xyzzy", "no colon"),
            (":{PLAIN}xyzzy", "no login"),
            (" a:{PLAIN}xyzzy", "a login has"),
            ("a:xyzzy", "no scheme"),
            ("a:{PLAIN}x:y zzy", "with a colon in it"),
            (
                "a:{PLAIN}x:xyzzy=1",
                "field 1 behind the password is unknown",
            ),
            (
                "a:{PLAIN}x:alow_nets=10.0.0.1",
                "did you mean `allow_nets`?",
            ),
            ("a:{PLAIN}x:backend=", "backend has no value"),
            ("a:{PLAIN}x:user=a user=b", "user stands twice"),
            (
                "a:{PLAIN}x:allow_nets=10.0.0.0/33",
                "\"10.0.0.0/33\" is no address",
            ),
            ("a:{PLAIN}x:allow_nets=10.0.0.1,", "\"\" is no address"),
            ("a:{PLAIN}x\r:user=b", "a control character"),
            ("a:{PLAIN}x::::::host=10.0.0.1", "is unknown"),
        ] {
            let said = error(line);
            assert!(said.contains(part), "{line}: {said}");
            assert!(!said.contains("xyzzy"), "{said}");
        }
        assert!(parse(b"a:{PLAIN}\xff").is_err());
        assert!(error(&"a".repeat(4097)).contains("longer than 4096"));
    }
}
