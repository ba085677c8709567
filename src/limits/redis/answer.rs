//! Where an answer of the store ends, before anybody reads what is in it: RESP2, in a bounded number of values
//! and levels. What has passed here is no longer than it says, so that its parser allocates nothing beyond it.

/// Most values of an answer, arrays included.
const VALUES: usize = 64 * 1024;

/// Deepest array.
const DEPTH: usize = 4;

/// Longest number behind a type, in digits and sign.
const DIGITS: usize = 20;

/// The length of the answer at the beginning of these bytes, once it is complete.
///
/// # Errors
/// It is none, or beyond what any question of ours is answered with.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    let mut seen = 0;
    // How many values each array that is open still lacks.
    let mut open: Vec<usize> = Vec::new();
    loop {
        seen += 1;
        if seen > VALUES {
            return Err("the answer has too many values");
        }
        let Some(line) = line(&bytes[at..])? else {
            return Ok(None);
        };
        at += line.len() + 2;
        match line.split_first() {
            Some((b'+' | b'-' | b':', _)) => {}
            Some((b'$', digits)) => {
                if let Some(length) = number(digits)? {
                    let end = at.checked_add(length).and_then(|end| end.checked_add(2));
                    let end = end.ok_or("the answer is too long")?;
                    if end > bytes.len() {
                        return Ok(None);
                    }
                    at = end;
                }
            }
            Some((b'*', digits)) => match number(digits)? {
                None | Some(0) => {}
                Some(_) if open.len() == DEPTH => return Err("the answer is nested too deeply"),
                Some(count) if count > VALUES => return Err("the answer has too many values"),
                Some(count) => {
                    open.push(count);
                    continue;
                }
            },
            _ => return Err("the answer is not of this protocol"),
        }
        while let Some(lacks) = open.last_mut() {
            *lacks -= 1;
            if *lacks > 0 {
                break;
            }
            open.pop();
        }
        if open.is_empty() {
            return Ok(Some(at));
        }
    }
}

/// The first line, without its end, once it is complete.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    match bytes[..at].split_last() {
        Some((b'\r', line)) if !line.contains(&b'\r') => Ok(Some(line)),
        _ => Err("a line of the answer does not end as it must"),
    }
}

/// A length; `None` is the null of this protocol.
fn number(digits: &[u8]) -> Result<Option<usize>, &'static str> {
    const WRONG: &str = "a length in the answer is no number";
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.is_empty() || digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| WRONG)?;
    digits.parse().map(Some).map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_says() {
        for answer in [
            "+OK\r\n",
            "-ERR no\r\n",
            ":-7\r\n",
            "$3\r\na\r\n\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n:1\r\n$1\r\nx\r\n",
            "*2\r\n*1\r\n*0\r\n:3\r\n",
        ] {
            let whole = answer.as_bytes();
            assert_eq!(length(whole), Ok(Some(whole.len())), "{answer:?}");
            let more = [whole, b":1\r\n"].concat();
            assert_eq!(length(&more), Ok(Some(whole.len())), "{answer:?}");
            for cut in 0..whole.len() {
                assert_eq!(length(&whole[..cut]), Ok(None), "{answer:?} {cut}");
            }
            redis::parse_redis_value(whole).expect(answer);
        }
    }

    #[test]
    fn what_is_no_answer_of_ours_is_refused_before_it_is_parsed() {
        let deep = "*1\r\n".repeat(DEPTH + 1);
        let many = format!(
            "*2\r\n*40000\r\n{}*40000\r\n{}",
            ":1\r\n".repeat(40_000),
            ":1\r\n".repeat(40_000)
        );
        for answer in [
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n",
            "+OK\n",
            "+O\rK\r\n",
            "%1\r\n+a\r\n+b\r\n",
            ">1\r\n+a\r\n",
            "$\r\n",
            "$-2\r\n",
            "$+1\r\nx\r\n",
            "$99999999999999999999\r\n",
            "$184467440737095516161\r\n",
            "*1000000000\r\n",
            "*x\r\n",
            deep.as_str(),
            many.as_str(),
        ] {
            assert!(length(answer.as_bytes()).is_err(), "{answer:.40?}");
        }
        // As long as a length can be: it is never there.
        assert_eq!(length(b"$9223372036854775807\r\n"), Ok(None));
    }

    #[test]
    fn whatever_passes_is_parsed_without_a_panic() {
        // Every answer of up to six of these pieces.
        let pieces: [&[u8]; 7] = [
            b"*2\r\n",
            b"$1\r\nx\r\n",
            b":1\r\n",
            b"$2\r\nx\r\n\r\n",
            b"*-1\r\n",
            b"+\xff\r\n",
            b":x\r\n",
        ];
        let mut answers: Vec<Vec<u8>> = vec![Vec::new()];
        for _ in 0..6 {
            let longer = answers
                .iter()
                .flat_map(|answer| pieces.map(|piece| [answer, piece].concat()));
            let longer: Vec<_> = longer.collect();
            for answer in &longer {
                if let Ok(Some(length)) = length(answer) {
                    let _ = redis::parse_redis_value(&answer[..length]);
                }
            }
            answers = longer
                .into_iter()
                .filter(|answer| length(answer) == Ok(None))
                .collect();
        }
    }
}
