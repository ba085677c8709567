//! Where a session is, for its log lines and for those who look at it.

use crate::backend::talk::BackendStep;

/// What a session is doing; names the moment in the log, and steers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Initializing,
    ReadingProxyProtocol,
    SslHandshaking,
    SendingGreeting,
    InDelayPipelining,
    ResolvingClientAddress,
    InAuth,
    InStarttls,
    InHttpAuth,
    AtBackend(BackendStep),
    Proxying,
}

impl Step {
    /// The words after "while" in a log line.
    pub(crate) fn action(self) -> &'static str {
        match self {
            Self::Initializing => "initializing session",
            Self::ReadingProxyProtocol => "reading PROXY protocol",
            Self::SslHandshaking => "SSL handshaking",
            Self::SendingGreeting => "sending client greeting line",
            Self::InDelayPipelining => "in delay pipelining state",
            Self::ResolvingClientAddress => "in resolving client address",
            Self::InAuth => "in auth state",
            Self::InStarttls => "in starttls state",
            Self::InHttpAuth => "in http auth state",
            Self::AtBackend(step) => step.action(),
            Self::Proxying => "proxying",
        }
    }
}
