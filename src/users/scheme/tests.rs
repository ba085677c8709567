//! Password fields that doveadm and crypt(3) have written, and such as must not be taken.

use super::*;

/// What doveadm pw and crypt(3) made of `geheim!`.
const GOOD: &[&str] = &[
    "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$8mdzze7iXOc86MMobC9B5w$m0M3gUF7r9ZZw3p8ux41TMo/HUgyj89CdknV6cko4DE",
    "{ARGON2I}$argon2i$v=19$m=32768,t=4,p=1$gtJk0B/chWAsDhFoKE+txg$bnpandziB95+5Oy5u8Do6RKQZ+YT9mlVuG+DBODbhw0",
    "{BLF-CRYPT}$2y$05$FOdSE3PgsWhIfFQiR2xtMedimxdt3AOuyyTk2nYkm2dXJujnAa2wS",
    "$2y$05$FOdSE3PgsWhIfFQiR2xtMedimxdt3AOuyyTk2nYkm2dXJujnAa2wS",
    "{SHA512-CRYPT}$6$8I5N/2sdW5s81wPt$VRIUQcdoQtHHuGaPJfjNYp6BdT4DtML04fWjOU2WfzNWnFsdjQEJTAhiVPT51pSgVqSBbM2rHsRyVWaksz5nr.",
    "{SHA256-CRYPT}$5$cnSIR7Brk73mQLlZ$wtjk4uyg8uiRIJHfDTPRFCIYgdUtT9rqTaT86apCZv2",
    "{SSHA512}5NcBGMQtHx0Sj1H1kKkaBQWPSPTyH8c4C42LOjyFlEjgj0FH5tIl84PRDM2xDa7HWsDMRUDPV/uwh0UIVEEx3UM3JD4=",
    "{SSHA256}nEq2FvMcmWhRSaO+5s+BZ9M3HdNo+NoA42iRWaoC5zWESKNc",
    "{PLAIN}geheim!",
    "{plain.b64}Z2VoZWltIQ==",
    "{PLAIN.HEX}67656865696d21",
    "{CRYPT}$2y$05$dvpB5WnFq4wQvZJHYh2ku.tbQ.sDhH.qOTjGb5MUI3TBytTNaggm.",
    "{SSHA512.HEX}86bf6bb908e20d1e245d19d4a80caf9758869d30b23be95e35dc0b98222e10398ecf5d8ab898edac408bdc9a912474df0721bae450dbb54b075417b751598a6a1328d50a",
    "{SSHA256.B64}z2R8SSz6Y5wcoKvDgvxbX+e4ZZMoJAVUJDVaiJGqQYGuHlvw",
    "{ARGON2ID.B64}JGFyZ29uMmlkJHY9MTkkbT02NTUzNix0PTMscD0xJDBpTnBPNmRNZmFRK3FtdlBxcnJhc1EkaXNYWTdMTElpSGdxeGZ5b0tWMEUyTXB0dGc3Uk9NRktWY0ZpL2VvdTU5SQ==",
    "{BLF-CRYPT.B64}JDJ5JDA1JGlDdGc3RHU0YUdTMW1adlNQNGRyWk8xbEhNbkVPY2N0Nnl4OXNlVExjelcwWG5xY0tqWTdt",
];

#[test]
fn what_doveadm_writes_fits_its_password_and_no_other() {
    for field in GOOD {
        let hash = Hash::parse(field).expect(field);
        assert!(hash.fits(b"geheim!"), "{field}");
        for wrong in [
            &b"geheim"[..],
            b"",
            b"geheim!!",
            b"geheim!\0",
            &[b'a'; 5000],
        ] {
            assert!(!hash.fits(wrong), "{field} {wrong:?}");
        }
    }
}

#[test]
fn what_is_made_here_fits_and_is_no_more_than_its_bounds() {
    let field = make("pässwörd".as_bytes()).expect("a hash");
    assert!(
        field.starts_with("{ARGON2ID}$argon2id$v=19$m=32768,t=2,p=1$"),
        "{field}"
    );
    let hash = Hash::parse(&field).expect("its own form");
    assert!(hash.fits("pässwörd".as_bytes()) && !hash.fits(b"x"));
    for bad in [&b""[..], b"a\0b", &[b'a'; 513]] {
        assert!(make(bad).is_err());
    }
}

#[test]
fn hashes_that_take_too_much_are_refused_with_their_numbers() {
    let salted = "$8mdzze7iXOc86MMobC9B5w$m0M3gUF7r9ZZw3p8ux41TMo/HUgyj89CdknV6cko4DE";
    for params in [
        "m=4194304,t=1,p=1",
        "m=262145,t=1,p=1",
        "m=65536,t=17,p=1",
        "m=65536,t=4294967295,p=1",
        "m=65536,t=1,p=17",
    ] {
        let error = Hash::parse(&format!("$argon2id$v=19${params}{salted}")).expect_err(params);
        assert!(error.contains(params), "{error}");
    }
    let tail = &GOOD[2]["{BLF-CRYPT}$2y$05".len()..];
    assert!(Hash::parse(&format!("$2y$15{tail}")).is_err());
    assert!(Hash::parse(&format!("$2y$31{tail}")).is_err());
    let tail = &GOOD[5]["{SHA256-CRYPT}$5".len()..];
    for rounds in ["999", "1000001", "999999999999", "x"] {
        assert!(
            Hash::parse(&format!("$5$rounds={rounds}{tail}")).is_err(),
            "{rounds}"
        );
    }
    assert!(Hash::parse(&format!("$5$rounds=1000{tail}")).is_ok());
}

#[test]
fn no_error_repeats_what_may_be_a_password() {
    for field in [
        "xyzzy",
        "{xyzzy}",
        "{xyzzy",
        "{SHA}xyzzy",
        "{PLAIN.B64}xyzzy!",
        "{PLAIN.HEX}xyzzy",
        "{SSHA256}xyzzy!",
        "{SSHA512}xyzzyxyz",
        "{ARGON2ID}xyzzy",
        "$argon2id$xyzzy",
        "$argon2id$v=19$m=65536,t=1,p=1$8mdzze7iXOc86MMobC9B5w",
        "$6$xyzzy",
        "$6$xyzzy$xyzzy",
        "$2y$xyzzy",
        "$y$xyzzy",
        "$1$xyzzy",
        "$xyzzy$",
        "{PLAIN}xyzzy\u{1}",
        "{PLAIN}",
        "",
    ] {
        let error = Hash::parse(field).expect_err(field);
        assert!(!error.contains("xyzzy"), "{error}");
    }
    let error = Hash::parse("{DES-CRYPT}xyzzy").expect_err("not known");
    assert!(
        error.starts_with("scheme DES-CRYPT is not known here"),
        "{error}"
    );
}

#[test]
fn the_cost_is_that_of_the_parameters() {
    let cost = |at: usize| Hash::parse(GOOD[at]).expect("good").cost();
    assert_eq!(cost(0), ("ARGON2ID", [65536, 3, 1]));
    assert_eq!(cost(2), ("BLF-CRYPT", [5, 0, 0]));
    assert_eq!(cost(4), ("SHA512-CRYPT", [5000, 0, 0]));
    assert_eq!(cost(8), ("PLAIN", [0; 3]));
}
