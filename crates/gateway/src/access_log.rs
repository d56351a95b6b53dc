//! One line per request in the target `access`, and the counters that go with it, written when the
//! last byte of the answer was taken or the client left.
//!
//! The line has the bucket and the key; metrics never do.

use std::sync::Arc;
use std::time::Duration;

use granary_types::AccountId;
use http::StatusCode;

use crate::admission::Permit;
use crate::ctx::Shared;
use crate::server::phase::Phase;

/// What is known of a request from its head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) request_id: String,
    pub(crate) remote: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) user_agent: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
}

/// The end of one request.
pub(crate) struct Completion {
    pub(crate) shared: Arc<Shared>,
    pub(crate) phase: Arc<Phase>,
    pub(crate) seen: Seen,
    /// The operation's name, or `Unknown`.
    pub(crate) operation: &'static str,
    pub(crate) account: Option<AccountId>,
    /// How the request was signed, or `anonymous`.
    pub(crate) signature: &'static str,
    pub(crate) status: StatusCode,
    /// The error code, or empty.
    pub(crate) code: &'static str,
    pub(crate) started: Duration,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) cut: bool,
    /// Kept until the answer is complete.
    pub(crate) permit: Option<Permit>,
}

impl Completion {
    /// Begins now.
    pub(crate) fn new(shared: Arc<Shared>, phase: Arc<Phase>, seen: Seen) -> Self {
        Self {
            started: shared.runtime.monotonic(),
            shared,
            phase,
            seen,
            operation: "Unknown",
            account: None,
            signature: "",
            status: StatusCode::OK,
            code: "",
            bytes_in: 0,
            bytes_out: 0,
            cut: false,
            permit: None,
        }
    }

    /// Counts bytes of the answer.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes_out += bytes;
        self.shared.metrics.bytes_out.inc_by(bytes);
    }

    /// The answer could not be completed; the connection is cut so that the client notices.
    pub(crate) fn cut(&mut self, error: &dyn std::error::Error) {
        self.cut = true;
        let request_id = &self.seen.request_id;
        tracing::error!(%error, %request_id, operation = self.operation, "answer cut");
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let now = self.shared.runtime.monotonic();
        self.phase.idle(now);
        let took = now.saturating_sub(self.started);
        let label = if self.code.is_empty() {
            "OK"
        } else {
            self.code
        };
        self.shared
            .metrics
            .completed(self.operation, label, took, self.bytes_in);
        let seen = &self.seen;
        tracing::info!(
            target: "access",
            request_id = seen.request_id.as_str(),
            remote = seen.remote.as_str(),
            account = self.account.map_or(0, |account| account.0),
            signature = self.signature,
            operation = self.operation,
            bucket = seen.bucket.as_str(),
            key = seen.key.as_str(),
            method = seen.method.as_str(),
            uri = seen.target.as_str(),
            host = seen.host.as_str(),
            status = self.status.as_u16(),
            code = self.code,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            cut = self.cut,
            user_agent = seen.user_agent.as_str(),
            "request"
        );
    }
}
