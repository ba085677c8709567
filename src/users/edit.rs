//! Changing one line of a password file. Every other byte of it stays as it is, and so do the fields behind
//! the password of this one.

use super::line::check_login;
use super::lines;
use crate::secret::Wiped;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It was not there.
    Added,
    /// It has another password.
    Changed,
    /// It is gone.
    Removed,
}

/// The text in which the login has this password field.
///
/// # Errors
/// For people: no such login is possible, or it stands there more than once.
pub(crate) fn set(text: &[u8], login: &str, field: &str) -> Result<(Wiped<Vec<u8>>, Done), String> {
    check_login(login)?;
    let Some((start, end)) = find(text, login)? else {
        let ends = text.is_empty() || text.ends_with(b"\n");
        let separator: &[u8] = if ends { b"" } else { b"\n" };
        let line = [
            text,
            separator,
            login.as_bytes(),
            b":",
            field.as_bytes(),
            b"\n",
        ]
        .concat();
        return Ok((Wiped(line), Done::Added));
    };
    // Behind the login, which stays as it is written.
    let colon = |from: usize| {
        text[from..end]
            .iter()
            .position(|&byte| byte == b':')
            .map(|at| from + at)
    };
    let name_end = colon(start).unwrap_or(end);
    let old_end = colon((name_end + 1).min(end)).unwrap_or(end);
    let parts = [&text[..name_end], b":", field.as_bytes(), &text[old_end..]];
    Ok((Wiped(parts.concat()), Done::Changed))
}

/// The text without the line of the login.
///
/// # Errors
/// For people: it does not stand there, or more than once.
pub(crate) fn remove(text: &[u8], login: &str) -> Result<(Wiped<Vec<u8>>, Done), String> {
    let (start, end) = find(text, login)?.ok_or_else(|| format!("there is no login {login:?}"))?;
    let next = text[end..].iter().position(|&byte| byte == b'\n');
    let next = next.map_or(text.len(), |at| end + at + 1);
    Ok((
        Wiped([&text[..start], &text[next..]].concat()),
        Done::Removed,
    ))
}

/// From where to where the line of a login goes, without its end.
fn find(text: &[u8], login: &str) -> Result<Option<(usize, usize)>, String> {
    let mut found = lines(text).filter(|place| {
        let is_remark = place.text(text).starts_with(b"#");
        !is_remark && place.login(text).eq_ignore_ascii_case(login.as_bytes())
    });
    let first = found.next();
    if let (Some(first), Some(second)) = (first, found.next()) {
        return Err(format!(
            "login {login:?} stands in line {} and in line {}: take one of them out",
            first.line, second.line
        ));
    }
    Ok(first.map(|place| (place.start as usize, place.end as usize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# ours: a\r\nanna:{PLAIN}a:::::: backend=x\r\n\n bad line\nBert:old\ncarl:{PLAIN}c:user=d";

    fn set_in(text: &str, login: &str) -> (String, Done) {
        let (text, done) = set(text.as_bytes(), login, "NEW").expect("possible");
        (String::from_utf8(text.to_vec()).expect("text"), done)
    }

    #[test]
    fn one_field_is_changed_and_every_other_byte_stays() {
        for (login, old, new) in [
            ("ANNA", "anna:{PLAIN}a:::::: ", "anna:NEW:::::: "),
            ("bert", "Bert:old\n", "Bert:NEW\n"),
            ("carl", "carl:{PLAIN}c:user=d", "carl:NEW:user=d"),
        ] {
            assert_eq!(set_in(TEXT, login), (TEXT.replace(old, new), Done::Changed));
        }
        assert_eq!(
            set_in("dora", "dora"),
            ("dora:NEW".to_owned(), Done::Changed)
        );
    }

    #[test]
    fn a_new_line_comes_to_the_end() {
        assert_eq!(
            set_in(TEXT, "dora"),
            (format!("{TEXT}\ndora:NEW\n"), Done::Added)
        );
        assert_eq!(set_in("", "dora"), ("dora:NEW\n".to_owned(), Done::Added));
        assert_eq!(
            set_in("# a\n", "dora"),
            ("# a\ndora:NEW\n".to_owned(), Done::Added)
        );
        for login in ["", "a:b", " a", "#a", "a\n"] {
            assert!(set(b"", login, "NEW").is_err(), "{login:?}");
        }
    }

    #[test]
    fn a_line_is_taken_out() {
        let without = |login: &str| remove(TEXT.as_bytes(), login).map(|(text, _)| text.to_vec());
        let expected = TEXT.replace("Bert:old\n", "");
        assert_eq!(without("bert"), Ok(expected.into_bytes()));
        let expected = TEXT.replace("carl:{PLAIN}c:user=d", "");
        assert_eq!(without("Carl"), Ok(expected.into_bytes()));
        assert!(without("dora").is_err());
        assert!(without("# ours").is_err());
    }

    #[test]
    fn a_login_that_stands_twice_is_left_alone() {
        let error = set(b"a:x\nb:y\nA:z\n", "a", "NEW")
            .map(|_| ())
            .expect_err("twice");
        assert!(error.contains("line 1 and in line 3"), "{error}");
    }
}
