//! The password field of a line: `{SCHEME}` and what it was made of, as Dovecot and crypt(3) write it, and
//! whether a password fits it.
//!
//! What a hash costs to check is bounded here, when it is read: whoever writes the file must not be able to
//! stop the service by accident. No text of this module shows any part of a field but the scheme's name.

use std::fmt;

use argon2::password_hash::PasswordVerifier as _;
use argon2::{Argon2, PasswordHash, PasswordHasher as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bcrypt::HashParts;
use openssl::memcmp;
use sha_crypt::{PasswordHashRef, ShaCrypt};
use sha2::{Digest as _, Sha256, Sha512};

use crate::secret::Secret;

/// Longest password that is looked at, in bytes, as in crypt(3): a longer one fits nothing.
pub(crate) const LONGEST_PASSWORD: usize = 512;

/// Most memory of an Argon2 hash, in KiB.
const MOST_MEMORY: u32 = 256 * 1024;

/// Most memory times passes of an Argon2 hash, in KiB: about a second.
const MOST_MOVED: u64 = 1024 * 1024;

/// Most lanes of an Argon2 hash; they are calculated one after another.
const MOST_LANES: u32 = 16;

/// Highest cost of bcrypt: about a second.
const MOST_COST: u32 = 14;

/// Most rounds of SHA-256-crypt and SHA-512-crypt: about a second.
const MOST_ROUNDS: u32 = 1_000_000;

/// What `postern passwd` writes: memory in KiB, passes and lanes. OWASP asks for 19 MiB and 2 passes at least.
const OWN: (u32, u32, u32) = (32 * 1024, 2, 1);

/// The schemes, for people.
pub(crate) const SCHEMES: &str = "ARGON2ID, ARGON2I, BLF-CRYPT, SHA512-CRYPT, SHA256-CRYPT, CRYPT, SSHA512, \
                                  SSHA256, PLAIN";

/// What a password is checked against.
pub(crate) struct Hash {
    /// Name of the scheme, for the log.
    pub scheme: &'static str,
    kind: Kind,
}

enum Kind {
    Argon2(Box<PasswordHash>),
    /// A whole crypt(3) string, which was looked through.
    ShaCrypt(String),
    Bcrypt(String),
    Salted {
        digest: Vec<u8>,
        salt: Vec<u8>,
    },
    Plain(Secret),
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({})", self.scheme)
    }
}

/// How long a hash takes to check: its scheme, and the parameters of that.
pub(crate) type Cost = (&'static str, [u32; 3]);

/// How a field is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// As the scheme has it.
    Own,
    Base64,
    Hex,
}

impl Hash {
    /// Reads a password field.
    ///
    /// # Errors
    /// What is wrong, for the administrator.
    pub(crate) fn parse(field: &str) -> Result<Self, String> {
        if field.is_empty() {
            return Err("there is no password".to_owned());
        }
        if field.starts_with('$') {
            return of_crypt(field);
        }
        let named = field
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let Some((name, value)) = named else {
            return Err(format!(
                "the password has no scheme: write {{SCHEME}} before it, one of {SCHEMES}"
            ));
        };
        let (name, encoding) = split_suffix(name);
        match name.to_ascii_uppercase().as_str() {
            "PLAIN" | "CLEARTEXT" | "CLEAR" => plain(value, encoding),
            "SSHA256" => salted("SSHA256", 32, value, encoding),
            "SSHA512" => salted("SSHA512", 64, value, encoding),
            "CRYPT" => of_crypt(&crypt_text(value, encoding)?),
            "ARGON2ID" => of_named_crypt(&["$argon2id$"], value, encoding),
            "ARGON2I" => of_named_crypt(&["$argon2i$"], value, encoding),
            "BLF-CRYPT" => of_named_crypt(&["$2"], value, encoding),
            "SHA512-CRYPT" => of_named_crypt(&["$6$"], value, encoding),
            "SHA256-CRYPT" => of_named_crypt(&["$5$"], value, encoding),
            _ => Err(format!("{}: one of {SCHEMES} is needed", unknown(name))),
        }
    }

    /// Whether the password fits; as much work whether it does or not. A password that no hash can be of is
    /// worked on as well.
    pub(crate) fn fits(&self, password: &[u8]) -> bool {
        let is_possible =
            (1..=LONGEST_PASSWORD).contains(&password.len()) && !password.contains(&0);
        let password = if is_possible { password } else { b"" };
        let fits = match &self.kind {
            Kind::Argon2(hash) => Argon2::default()
                .verify_password(password, hash.as_ref())
                .is_ok(),
            Kind::ShaCrypt(text) => PasswordHashRef::new(text)
                .is_ok_and(|hash| ShaCrypt::SHA512.verify_password(password, hash).is_ok()),
            Kind::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
            Kind::Salted { digest, salt } => match digest.len() {
                32 => memcmp::eq(
                    &Sha256::new()
                        .chain_update(password)
                        .chain_update(salt)
                        .finalize(),
                    digest,
                ),
                _ => memcmp::eq(
                    &Sha512::new()
                        .chain_update(password)
                        .chain_update(salt)
                        .finalize(),
                    digest,
                ),
            },
            // Of equal length, so that the time does not tell that of the password.
            Kind::Plain(secret) => {
                memcmp::eq(&Sha256::digest(password), &Sha256::digest(secret.expose()))
            }
        };
        fits && is_possible
    }

    /// The password itself, where it is there to be read.
    pub(crate) fn plain(&self) -> Option<&Secret> {
        match &self.kind {
            Kind::Plain(secret) => Some(secret),
            _ => None,
        }
    }

    /// How long it takes to check.
    pub(crate) fn cost(&self) -> Cost {
        let cost = match &self.kind {
            Kind::Argon2(hash) => argon2::Params::try_from(hash.as_ref())
                .map(|params| [params.m_cost(), params.t_cost(), params.p_cost()])
                .unwrap_or_default(),
            Kind::ShaCrypt(text) => [rounds(text).unwrap_or_default(), 0, 0],
            Kind::Bcrypt(text) => {
                let parts = text.parse::<HashParts>();
                [parts.map_or(0, |parts| parts.get_cost()), 0, 0]
            }
            Kind::Salted { .. } | Kind::Plain(_) => [0; 3],
        };
        (self.scheme, cost)
    }
}

/// A new field for a password, with a salt of its own.
///
/// # Errors
/// For people: no password that a hash can be of, or the system has no random numbers.
pub(crate) fn make(password: &[u8]) -> Result<String, String> {
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if password.len() > LONGEST_PASSWORD {
        return Err(format!(
            "the password is longer than {LONGEST_PASSWORD} bytes"
        ));
    }
    if password.contains(&0) {
        return Err("the password has a NUL in it".to_owned());
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| format!("no random numbers: {error}"))?;
    let (memory, passes, lanes) = OWN;
    let failed = |error: &dyn fmt::Display| format!("no hash can be calculated: {error}");
    let params =
        argon2::Params::new(memory, passes, lanes, None).map_err(|error| failed(&error))?;
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash = argon2.hash_password_with_salt(password, &salt);
    Ok(format!(
        "{{ARGON2ID}}{}",
        hash.map_err(|error| failed(&error))?
    ))
}

/// `.b64`, `.base64` and `.hex`, in any case.
fn split_suffix(name: &str) -> (&str, Encoding) {
    let Some((scheme, suffix)) = name.rsplit_once('.') else {
        return (name, Encoding::Own);
    };
    match suffix.to_ascii_lowercase().as_str() {
        "b64" | "base64" => (scheme, Encoding::Base64),
        "hex" => (scheme, Encoding::Hex),
        _ => (name, Encoding::Own),
    }
}

/// A scheme by its name, unless that may be something else, such as a password.
fn unknown(name: &str) -> String {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-' || c == '.';
    match name.len() <= 20 && name.chars().all(is_name) {
        true => format!("scheme {name} is not known here"),
        false => "what stands in braces is no scheme known here".to_owned(),
    }
}

fn decode(value: &str, encoding: Encoding) -> Result<Vec<u8>, String> {
    match encoding {
        Encoding::Own => Ok(value.as_bytes().to_vec()),
        Encoding::Base64 => STANDARD
            .decode(value)
            .map_err(|_| "what follows the scheme is not base64".to_owned()),
        Encoding::Hex => {
            hex(value).ok_or_else(|| "what follows the scheme is not hexadecimal".to_owned())
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok();
    digits.chunks(2).map(byte).collect()
}

/// A password that can be read. It may go to a backend, so nothing in it breaks a line there.
fn plain(value: &str, encoding: Encoding) -> Result<Hash, String> {
    let secret = Secret::new(decode(value, encoding)?);
    let text = secret.expose();
    if text.is_empty() || text.len() > LONGEST_PASSWORD {
        return Err(format!("a password has 1 to {LONGEST_PASSWORD} bytes"));
    }
    if text.iter().any(u8::is_ascii_control) {
        return Err("the password has a control character in it".to_owned());
    }
    Ok(Hash {
        scheme: "PLAIN",
        kind: Kind::Plain(secret),
    })
}

/// A digest of so many bytes with its salt behind it. Without a suffix it is base64.
fn salted(
    scheme: &'static str,
    length: usize,
    value: &str,
    encoding: Encoding,
) -> Result<Hash, String> {
    let encoding = match encoding {
        Encoding::Own => Encoding::Base64,
        other => other,
    };
    let mut digest = decode(value, encoding)?;
    if digest.len() <= length {
        return Err(format!("{scheme} has no salt behind its {length} bytes"));
    }
    let salt = digest.split_off(length);
    Ok(Hash {
        scheme,
        kind: Kind::Salted { digest, salt },
    })
}

fn crypt_text(value: &str, encoding: Encoding) -> Result<String, String> {
    let text = decode(value, encoding)?;
    String::from_utf8(text).map_err(|_| "what follows the scheme is no text".to_owned())
}

fn of_named_crypt(begins: &[&str], value: &str, encoding: Encoding) -> Result<Hash, String> {
    let text = crypt_text(value, encoding)?;
    match begins.iter().any(|begin| text.starts_with(begin)) {
        true => of_crypt(&text),
        false => Err(format!(
            "what follows the scheme does not begin with {}",
            begins.join(" or ")
        )),
    }
}

/// A string of crypt(3), or of Argon2, which looks like one.
fn of_crypt(text: &str) -> Result<Hash, String> {
    let id = text.split('$').nth(1).unwrap_or_default();
    match id {
        "argon2id" => argon2_hash("ARGON2ID", text),
        "argon2i" => argon2_hash("ARGON2I", text),
        "5" => sha_crypt_hash("SHA256-CRYPT", 43, text),
        "6" => sha_crypt_hash("SHA512-CRYPT", 86, text),
        "2a" | "2b" | "2y" => bcrypt_hash(text),
        "y" | "gy" | "7" => Err("yescrypt and scrypt are not known here".to_owned()),
        "1" | "apr1" => Err("MD5 is no longer fit for passwords".to_owned()),
        _ => {
            Err("the hash is of no kind known here, such as $argon2id$, $2y$, $6$, $5$".to_owned())
        }
    }
}

fn argon2_hash(scheme: &'static str, text: &str) -> Result<Hash, String> {
    let malformed = || format!("malformed {scheme} hash");
    let hash = PasswordHash::new(text).map_err(|_| malformed())?;
    let is_whole = hash.salt.is_some() && hash.hash.is_some();
    let is_known_version = hash
        .version
        .is_none_or(|version| matches!(version, 0x10 | 0x13));
    let params = argon2::Params::try_from(&hash).map_err(|_| malformed())?;
    if !is_whole || !is_known_version {
        return Err(malformed());
    }
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    let moved = u64::from(memory) * u64::from(passes);
    if memory > MOST_MEMORY || moved > MOST_MOVED || lanes > MOST_LANES {
        return Err(format!(
            "{scheme} with m={memory},t={passes},p={lanes} takes too much: m may be {MOST_MEMORY} KiB, m times \
             t {MOST_MOVED}, p {MOST_LANES}"
        ));
    }
    Ok(Hash {
        scheme,
        kind: Kind::Argon2(Box::new(hash)),
    })
}

/// `digits` is the length of the hash at the end.
fn sha_crypt_hash(scheme: &'static str, digits: usize, text: &str) -> Result<Hash, String> {
    let malformed = || format!("malformed {scheme} hash");
    let rounds = rounds(text).ok_or_else(malformed)?;
    if !(1000..=MOST_ROUNDS).contains(&rounds) {
        return Err(format!(
            "{scheme} with rounds={rounds}: 1000 to {MOST_ROUNDS} are possible"
        ));
    }
    let mut fields = text.split('$').skip(2).peekable();
    fields.next_if(|field| field.starts_with("rounds="));
    let (salt, hash, end) = (fields.next(), fields.next(), fields.next());
    let is_crypt = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '/';
    let is_hash = |hash: &str| hash.len() == digits && hash.chars().all(is_crypt);
    let is_salt = |salt: &str| !salt.is_empty() && salt.len() <= 64;
    let is_whole = salt.is_some_and(is_salt) && hash.is_some_and(is_hash) && end.is_none();
    // The library's own reading must not fail later, when a login depends on it.
    if !is_whole || PasswordHashRef::new(text).is_err() {
        return Err(malformed());
    }
    Ok(Hash {
        scheme,
        kind: Kind::ShaCrypt(text.to_owned()),
    })
}

/// Those of a SHA-crypt string; 5000 where it says nothing.
fn rounds(text: &str) -> Option<u32> {
    match text.split('$').nth(2)?.strip_prefix("rounds=") {
        None => Some(5000),
        Some(number) => number.parse().ok(),
    }
}

fn bcrypt_hash(text: &str) -> Result<Hash, String> {
    let parts = text.parse::<HashParts>();
    let cost = parts
        .map_err(|_| "malformed BLF-CRYPT hash".to_owned())?
        .get_cost();
    if !(4..=MOST_COST).contains(&cost) {
        return Err(format!(
            "BLF-CRYPT with cost {cost}: 4 to {MOST_COST} are possible"
        ));
    }
    Ok(Hash {
        scheme: "BLF-CRYPT",
        kind: Kind::Bcrypt(text.to_owned()),
    })
}

#[cfg(test)]
mod tests;
