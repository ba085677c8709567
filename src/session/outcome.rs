//! What a session counts of itself: its login, and its end.

use std::sync::Arc;

use jiff::Timestamp;

use super::Session;
use super::error::Cause;
use crate::log::escape;
use crate::metrics::{FailedLogin, Outcome};
use crate::sasl::Method;

impl Session {
    /// The client is in.
    pub(super) fn count_success(&self) {
        let metrics = &self.service.metrics;
        metrics.count_login(self.method.unwrap_or(Method::NONE), Outcome::Success);
        let times = [
            (&metrics.login_time, self.login_time),
            (&metrics.auth_time, self.auth_time),
            (&metrics.backend_time, self.backend_time),
        ];
        for (histogram, time) in times {
            if let Some(time) = time {
                histogram.note(time);
            }
        }
        self.runtime.lately.note_success();
    }

    /// The login came to nothing; `detail` is what is known of why, escaped.
    pub(super) fn count_failure(&self, outcome: Outcome, detail: String) {
        let method = self.method.unwrap_or(Method::NONE);
        self.service.metrics.count_login(method, outcome);
        if !outcome.is_failure() {
            return;
        }
        let facts = self.entry.facts();
        let (client, login) = (facts.client, facts.login.as_deref().map(escape));
        drop(facts);
        self.runtime.lately.note_failure(FailedLogin {
            at: Timestamp::now(),
            server: Arc::clone(&self.service.metrics),
            client,
            login: login.unwrap_or_default(),
            method: method.name,
            outcome,
            detail,
        });
    }

    /// The session ends with a login that was not decided, for this reason.
    pub(super) fn count_ended_login(&self, cause: &Cause) {
        let mut detail = self.describe(cause);
        if let Some(error) = cause.io_error() {
            detail = format!("{detail}: {error}");
        }
        if let (Cause::Backend(_), Some(upstream)) = (cause, &self.entry.facts().upstream) {
            detail = format!("{upstream}: {detail}");
        }
        self.count_failure(cause.outcome(), detail);
    }

    /// It has come to its end.
    pub(super) fn count_end(&self, reason: &'static str) {
        let metrics = &self.service.metrics;
        metrics.count_end(reason, self.accepted().elapsed());
    }
}
