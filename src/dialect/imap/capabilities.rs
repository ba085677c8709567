//! What an IMAP client may be told before its login of what its backend offers.
//!
//! Only what is known to hold on the session that follows the login, where every byte goes through
//! unchanged. What is to be done before the login, what a proxy says by itself (AUTH=, SASL-IR,
//! LITERAL-, ID, STARTTLS), what would end the login under the proxy (UNAUTHENTICATE), what names hosts
//! that a client need not reach (referrals, JMAPACCESS), and private or unknown words never appear.

use crate::backend::capabilities::common;

/// Words of IANA's registry, and two of drafts that are in wide use; a word that ends with `=` stands for
/// all its parameters.
const TOLD: [&str; 66] = [
    "ACL",                          // RFC 4314
    "ANNOTATE-EXPERIMENT-1",        // RFC 5257
    "APPENDLIMIT",                  // RFC 7889
    "APPENDLIMIT=",                 // RFC 7889
    "BINARY",                       // RFC 3516
    "CATENATE",                     // RFC 4469
    "CHILDREN",                     // RFC 3348
    "CONDSTORE",                    // RFC 7162
    "CONTEXT=SEARCH",               // RFC 5267
    "CONTEXT=SORT",                 // RFC 5267
    "CONVERT",                      // RFC 5259
    "CREATE-SPECIAL-USE",           // RFC 6154
    "ENABLE",                       // RFC 5161
    "ESEARCH",                      // RFC 4731
    "ESORT",                        // RFC 5267
    "FILTERS",                      // RFC 5466
    "I18NLEVEL=1",                  // RFC 5255
    "I18NLEVEL=2",                  // RFC 5255
    "IDLE",                         // RFC 2177
    "IMAP4",                        // RFC 1730
    "INPROGRESS",                   // RFC 9585
    "LIST-EXTENDED",                // RFC 5258
    "LIST-METADATA",                // RFC 9590
    "LIST-MYRIGHTS",                // RFC 8440
    "LIST-STATUS",                  // RFC 5819
    "MESSAGELIMIT=",                // RFC 9738
    "METADATA",                     // RFC 5464
    "METADATA-SERVER",              // RFC 5464
    "MOVE",                         // RFC 6851
    "MULTIAPPEND",                  // RFC 3502
    "MULTISEARCH",                  // RFC 7377
    "NAMESPACE",                    // RFC 2342
    "NOTIFY",                       // RFC 5465
    "OBJECTID",                     // RFC 8474
    "PARTIAL",                      // RFC 9394
    "PREVIEW",                      // RFC 8970
    "PREVIEW=FUZZY",                // its draft, as Dovecot has it
    "QRESYNC",                      // RFC 7162
    "QUOTA",                        // RFC 9208
    "QUOTA=RES-STORAGE",            // RFC 9208
    "QUOTA=RES-MESSAGE",            // RFC 9208
    "QUOTA=RES-MAILBOX",            // RFC 9208
    "QUOTA=RES-ANNOTATION-STORAGE", // RFC 9208
    "QUOTASET",                     // RFC 9208
    "REPLACE",                      // RFC 8508
    "RIGHTS=",                      // RFC 4314
    "SAVEDATE",                     // RFC 8514
    "SAVELIMIT=",                   // RFC 9738
    "SEARCH=FUZZY",                 // RFC 6203
    "SEARCHRES",                    // RFC 5182
    "SORT",                         // RFC 5256
    "SORT=DISPLAY",                 // RFC 5957
    "SPECIAL-USE",                  // RFC 6154
    "STATUS=SIZE",                  // RFC 8438
    "THREAD=ORDEREDSUBJECT",        // RFC 5256
    "THREAD=REFERENCES",            // RFC 5256
    "THREAD=REFS",                  // its draft, as Dovecot and Cyrus have it
    "UIDONLY",                      // RFC 9586
    "UIDPLUS",                      // RFC 4315
    "UNSELECT",                     // RFC 3691
    "URLAUTH",                      // RFC 4467
    "URLAUTH=BINARY",               // RFC 5524
    "URL-PARTIAL",                  // RFC 5550
    "UTF8=ACCEPT",                  // RFC 6855
    "UTF8=ONLY",                    // RFC 6855
    "WITHIN",                       // RFC 5032
];

/// What may be told of what each backend offers; IMAP4rev1 and what the proxy says by itself are added.
pub(super) fn before_login(lists: &[Vec<String>]) -> Vec<String> {
    let mut told = vec!["IMAP4rev1".to_owned()];
    told.extend(common(lists, may_be_told));
    told.extend(["LITERAL-", "SASL-IR", "ID"].map(str::to_owned));
    told
}

/// Of what a backend offers before a login, in upper case, what still holds behind it. There every byte
/// goes through, so that it may be anything but what belongs to the login.
pub(super) fn behind_login(offered: &[String]) -> Vec<String> {
    let is_of_login = |word: &str| {
        matches!(word, "STARTTLS" | "LOGINDISABLED" | "SASL-IR") || word.starts_with("AUTH=")
    };
    let as_registered = |word: &String| match word.strip_prefix("IMAP4REV") {
        Some(number) => format!("IMAP4rev{number}"),
        None => word.clone(),
    };
    let is_text = |word: &String| word.bytes().all(|byte| byte.is_ascii_graphic());
    let words = offered.iter().filter(|word| is_text(word));
    let words = words.filter(|word| !is_of_login(word));
    words.map(as_registered).collect()
}

/// Whether a capability, in upper case, is on the list.
fn may_be_told(item: &str) -> bool {
    TOLD.iter().any(|told| match told.strip_suffix('=') {
        Some(_) => item.len() > told.len() && item.starts_with(told),
        None => item == *told,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a server's answer to CAPABILITY, without what is always added.
    fn told_of(list: &str) -> String {
        let told = before_login(&[list.split(' ').map(str::to_owned).collect()]);
        let (first, rest) = told.split_first().expect("IMAP4rev1 is always told");
        assert_eq!(first, "IMAP4rev1");
        let (rest, added) = rest.split_at(rest.len() - 3);
        assert_eq!(added, ["LITERAL-", "SASL-IR", "ID"]);
        rest.join(" ")
    }

    #[test]
    fn of_dovecot() {
        let told = told_of(
            "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT SORT=DISPLAY THREAD=REFERENCES \
             THREAD=REFS THREAD=ORDEREDSUBJECT MULTIAPPEND URL-PARTIAL CATENATE UNSELECT CHILDREN \
             NAMESPACE UIDPLUS LIST-EXTENDED I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH ESORT SEARCHRES \
             WITHIN CONTEXT=SEARCH LIST-STATUS BINARY MOVE SNIPPET=FUZZY PREVIEW=FUZZY PREVIEW \
             STATUS=SIZE SAVEDATE COMPRESS=DEFLATE INPROGRESS NOTIFY LITERAL+ QUOTA SPECIAL-USE \
             XDOVECOT AUTH=PLAIN STARTTLS",
        );
        assert_eq!(
            told,
            "ENABLE IDLE SORT SORT=DISPLAY THREAD=REFERENCES THREAD=REFS THREAD=ORDEREDSUBJECT \
             MULTIAPPEND URL-PARTIAL CATENATE UNSELECT CHILDREN NAMESPACE UIDPLUS LIST-EXTENDED \
             I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH ESORT SEARCHRES WITHIN CONTEXT=SEARCH \
             LIST-STATUS BINARY MOVE PREVIEW=FUZZY PREVIEW STATUS=SIZE SAVEDATE INPROGRESS NOTIFY \
             QUOTA SPECIAL-USE"
        );
    }

    #[test]
    fn of_cyrus() {
        let told = told_of(
            "IMAP4rev1 LITERAL+ ID ENABLE ACL ANNOTATE-EXPERIMENT-1 BINARY CATENATE CHILDREN \
             CONDSTORE CREATE-SPECIAL-USE DIGEST=SHA1 ESEARCH ESORT LIST-EXTENDED LIST-METADATA \
             LIST-MYRIGHTS LIST-STATUS MAILBOX-REFERRALS METADATA MOVE MULTIAPPEND MULTISEARCH \
             NAMESPACE NO_ATOMIC_RENAME OBJECTID PREVIEW QRESYNC QUOTA REPLACE RIGHTS=kxten \
             SAVEDATE SEARCH=FUZZY SEARCHRES SORT SORT=DISPLAY SPECIAL-USE STATUS=SIZE \
             THREAD=ORDEREDSUBJECT THREAD=REFERENCES THREAD=REFS UIDPLUS UNAUTHENTICATE UNSELECT \
             URL-PARTIAL WITHIN XLIST LOGINDISABLED COMPRESS=DEFLATE X-QUOTA=STORAGE \
             X-QUOTA=MESSAGE X-REPLICATION XMOVE LOGIN-REFERRALS STARTTLS UTF8=ACCEPT",
        );
        assert_eq!(
            told,
            "ENABLE ACL ANNOTATE-EXPERIMENT-1 BINARY CATENATE CHILDREN CONDSTORE \
             CREATE-SPECIAL-USE ESEARCH ESORT LIST-EXTENDED LIST-METADATA LIST-MYRIGHTS \
             LIST-STATUS METADATA MOVE MULTIAPPEND MULTISEARCH NAMESPACE OBJECTID PREVIEW QRESYNC \
             QUOTA REPLACE RIGHTS=KXTEN SAVEDATE SEARCH=FUZZY SEARCHRES SORT SORT=DISPLAY \
             SPECIAL-USE STATUS=SIZE THREAD=ORDEREDSUBJECT THREAD=REFERENCES THREAD=REFS UIDPLUS \
             UNSELECT URL-PARTIAL WITHIN UTF8=ACCEPT"
        );
    }

    #[test]
    fn of_courier_exchange_and_gmail() {
        let courier = "IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT \
                       THREAD=REFERENCES SORT QUOTA IDLE ACL ACL2=UNION STARTTLS \
                       XMAGICTRASH AUTH=CRAM-MD5";
        assert_eq!(
            told_of(courier),
            "UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT THREAD=REFERENCES SORT QUOTA IDLE \
             ACL"
        );
        let exchange = "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT \
                        CLIENTACCESSRULES CLIENTNETWORKPRESENCELOCATION BACKENDAUTHENTICATE \
                        CHILDREN IDLE NAMESPACE LITERAL+";
        assert_eq!(
            told_of(exchange),
            "IMAP4 UIDPLUS MOVE UNSELECT CHILDREN IDLE NAMESPACE"
        );
        let gmail = "IMAP4rev1 UNSELECT IDLE NAMESPACE QUOTA ID XLIST CHILDREN X-GM-EXT-1 \
                     UIDPLUS COMPRESS=DEFLATE ENABLE MOVE CONDSTORE ESEARCH UTF8=ACCEPT \
                     LIST-EXTENDED LIST-STATUS LITERAL- SPECIAL-USE APPENDLIMIT=35651584 \
                     XYZZY SASL-IR AUTH=XOAUTH2 AUTH=PLAIN-CLIENTTOKEN";
        assert_eq!(
            told_of(gmail),
            "UNSELECT IDLE NAMESPACE QUOTA CHILDREN UIDPLUS ENABLE MOVE CONDSTORE ESEARCH \
             UTF8=ACCEPT LIST-EXTENDED LIST-STATUS SPECIAL-USE APPENDLIMIT=35651584"
        );
    }

    #[test]
    fn a_word_is_compared_whole() {
        let list =
            "IMAP4rev2 IDLEX APPENDLIMIT= RIGHTS SORT=FUTURE MOVE=2 XIDLE AUTH=SCRAM-SHA-1-PLUS";
        assert_eq!(told_of(list), "");
    }
}
