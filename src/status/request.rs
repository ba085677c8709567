//! A request: what of it is looked at, and what it may be. Bytes in, values out.

/// Longest head.
pub(super) const HEAD: usize = 8 * 1024;

/// Most headers.
const HEADERS: usize = 64;

/// Longest body.
const BODY: usize = 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// Anything else.
    Other,
}

/// A whole request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// What is asked for.
    pub method: Method,
    /// The target up to `?`.
    pub path: String,
    /// What stands behind `?`.
    query: String,
    /// `Host`
    pub host: Option<String>,
    /// `Origin`
    pub origin: Option<String>,
    /// `Sec-Fetch-Site`
    pub fetch_site: Option<String>,
    /// `Content-Type`
    pub content_type: Option<String>,
    body: String,
}

/// Why a request cannot be answered otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no HTTP.
    Malformed,
    /// Its head is too long.
    LongHead,
    /// Its body is too long, or does not say how long it is.
    LongBody,
}

impl Refusal {
    /// The status code and what is said with it.
    pub(super) fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (400, "This is no HTTP request.\n"),
            Self::LongHead => (431, "The head of the request is too long.\n"),
            Self::LongBody => (413, "The body of the request is too long.\n"),
        }
    }
}

/// The request that these bytes begin with, or nothing as long as they are not all of it.
///
/// # Errors
/// It will be none, whatever comes.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Request>, Refusal> {
    let ends = |window: &[u8]| window == b"\n\n" || window == b"\n\r";
    if !bytes.windows(2).any(ends) {
        return match bytes.len() < HEAD {
            true => Ok(None),
            false => Err(Refusal::LongHead),
        };
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Refusal::LongHead),
        Err(_) => return Err(Refusal::Malformed),
    };
    let header = |name: &str| {
        let mut named = parsed.headers.iter();
        let mut named = named
            .by_ref()
            .filter(|header| header.name.eq_ignore_ascii_case(name));
        let first = named.next();
        // Twice is what somebody sends who hopes that two of us read different ones.
        match named.next() {
            Some(_) => Err(Refusal::Malformed),
            None => Ok(first.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())),
        }
    };
    if header("Transfer-Encoding")?.is_some() {
        return Err(Refusal::LongBody);
    }
    let body = match header("Content-Length")? {
        None => 0,
        Some(digits) => digits.parse().map_err(|_| Refusal::Malformed)?,
    };
    if body > BODY {
        return Err(Refusal::LongBody);
    }
    let Some(body) = bytes.get(length..length + body) else {
        return Ok(None);
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Request {
        method: match parsed.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("POST") => Method::Post,
            _ => Method::Other,
        },
        path: path.to_owned(),
        query: query.to_owned(),
        host: header("Host")?,
        origin: header("Origin")?,
        fetch_site: header("Sec-Fetch-Site")?,
        content_type: header("Content-Type")?,
        body: String::from_utf8_lossy(body).into_owned(),
    }))
}

impl Request {
    /// A value of the query.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        form_value(&self.query, name)
    }

    /// A value of the body.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        form_value(&self.body, name)
    }
}

/// A value of `application/x-www-form-urlencoded`.
fn form_value(form: &str, name: &str) -> Option<String> {
    let mut fields = form.split('&').filter_map(|field| field.split_once('='));
    let (_, value) = fields.find(|(key, _)| *key == name)?;
    let value = value.replace('+', " ");
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let code = behind.get(..2).filter(|_| byte == b'%');
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &behind[2..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Request {
        parse(text.as_bytes()).expect("HTTP").expect("all of it")
    }

    #[test]
    fn a_request_is_read_with_its_query_and_body() {
        let request = whole(
            "POST /kick?a=%3Cb%3E+c&d=%zz HTTP/1.1\r\nhOsT: localhost:1\r\nOrigin: http://x\r\n\
             Content-Length: 11\r\n\r\nsession=7&xGET / HTTP/1.1\r\n",
        );
        assert_eq!(
            (request.method, request.path.as_str()),
            (Method::Post, "/kick")
        );
        assert_eq!(request.query("a").as_deref(), Some("<b> c"));
        assert_eq!(request.query("d").as_deref(), Some("%zz"));
        assert_eq!(request.host.as_deref(), Some("localhost:1"));
        assert_eq!(request.field("session").as_deref(), Some("7"));
        assert_eq!(request.field("x"), None);
    }

    #[test]
    fn what_is_not_all_there_is_waited_for() {
        let text = "POST /kick HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
        assert_eq!(whole(text).body, "abc");
    }

    #[test]
    fn what_is_too_much_is_refused_before_it_is_there() {
        let refused = |text: &str| parse(text.as_bytes()).expect_err("it is refused");
        assert_eq!(refused(&"a".repeat(HEAD)), Refusal::LongHead);
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65))),
            Refusal::LongHead
        );
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEAD));
        assert_eq!(refused(&long), Refusal::LongHead);
        for head in ["Content-Length: 1025", "Transfer-Encoding: chunked"] {
            assert_eq!(
                refused(&format!("POST / HTTP/1.1\r\n{head}\r\n\r\n")),
                Refusal::LongBody
            );
        }
        for head in [
            "Content-Length: -1",
            "Content-Length: 1\r\nContent-Length: 1",
            "Host: a\r\nHost: b",
        ] {
            assert_eq!(
                refused(&format!("POST / HTTP/1.1\r\n{head}\r\n\r\n")),
                Refusal::Malformed
            );
        }
        assert_eq!(refused("* OK\r\n\r\n"), Refusal::Malformed);
    }
}
