//! Callbacks: after an object is stored, an application server is told, and its answer becomes the
//! client's. What is stored stays, whatever the server does.
//!
//! Invariants: a server is dialled at the address that was checked, never at one that was resolved
//! again; redirects are not followed; every call has a time, a size, and a place among those at once.

mod client;
mod signer;
mod target;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_oss::callback::{Callback, CallbackUrl, Stored};
use granary_oss::{ErrorCode, OssError};
use granary_runtime::{Runtime, within};
use granary_types::ObjectKey;
use http::header::{CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::sync::Semaphore;

use crate::body::Payload;
use crate::config::{ConfigError, GatewayConfig};
use crate::ctx::Ctx;
use crate::metrics::Metrics;
use crate::render::Output;
use client::Client;
use signer::Signer;
pub(crate) use target::Allowed;

/// Time one server gets, from its name to the last byte of its answer (API reference, Callback).
const CALL_TIME: Duration = Duration::from_secs(5);
/// What a stored object without a type is called, as in answers to readers.
const TYPE_UNKNOWN: &str = "application/octet-stream";

/// Calls application servers.
pub(crate) struct Callbacks {
    runtime: Runtime,
    client: Client,
    signer: Option<Arc<Signer>>,
    places: Semaphore,
}

/// Why a server's answer is not the client's.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Too many calls at once.
    #[error("Too many callback requests.")]
    Busy,
    /// Its variables make the body too long.
    #[error("The callback body is too long.")]
    BodyTooLong,
    /// Not within the time.
    #[error("Cost too long time.")]
    Slow,
    /// None of its addresses may be called.
    #[error("Private address is forbidden to callback.")]
    Forbidden,
    /// No connection, or it broke.
    #[error("Error status : -1.OSS can not connect to your callbackUrl, please check it.")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another status than 200.
    #[error("Error status : {0}.")]
    Status(u16),
    /// More than may be relayed.
    #[error("Error Status : 400.User server return too long content-length value.")]
    TooLong,
    /// An answer that is no JSON.
    #[error("Response body is not valid json format.")]
    NotJson,
}

impl Callbacks {
    /// Reads the key and the certificates that the settings name.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it should be; a host that is none.
    pub(crate) fn new(config: &GatewayConfig, runtime: &Runtime) -> Result<Self, ConfigError> {
        Ok(Self {
            client: Client::new(
                runtime.clone(),
                Allowed::parse(&config.callback_hosts, &config.callback_ports_refused)?,
                &config.callback_ca_file,
            )?,
            signer: Signer::read(config)?.map(Arc::new),
            places: Semaphore::new(config.callbacks_in_flight_max.min(Semaphore::MAX_PERMITS)),
            runtime: runtime.clone(),
        })
    }

    /// Refuses, before anything is stored, what is known to be refused later.
    ///
    /// # Errors
    /// InvalidArgument for an address that may not be called.
    pub(crate) fn check(&self, callback: Option<&Callback>) -> Result<(), OssError> {
        let urls = callback.map(|callback| callback.urls.as_slice());
        let refused = |url: &&CallbackUrl| self.client.refuses(url);
        match urls.unwrap_or_default().iter().find(refused) {
            None => Ok(()),
            Some(url) => Err(OssError::invalid_argument(
                Failure::Forbidden.to_string(),
                "callback",
                url.authority.as_str(),
            )),
        }
    }

    /// The first good answer of the servers, in their order.
    async fn call(
        &self,
        metrics: &Metrics,
        callback: &Callback,
        stored: &Stored<'_>,
    ) -> Result<Bytes, Failure> {
        metrics.callbacks.inc();
        let _place = self.places.try_acquire().map_err(|_| Failure::Busy)?;
        let body = callback.body(stored).ok_or(Failure::BodyTooLong)?;
        let body = Bytes::from(body);
        let mut failure = Failure::Busy;
        for url in &callback.urls {
            let one = self.call_one(callback, url, body.clone(), stored);
            failure = match within(CALL_TIME, one).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Slow,
            };
            let cause = std::error::Error::source(&failure).map(ToString::to_string);
            tracing::debug!(host = %url.authority, %failure, cause, "callback failed");
        }
        Err(failure)
    }

    async fn call_one(
        &self,
        callback: &Callback,
        url: &CallbackUrl,
        body: Bytes,
        stored: &Stored<'_>,
    ) -> Result<Bytes, Failure> {
        let host = callback.host.as_deref().unwrap_or(&url.authority);
        let mut headers = http::HeaderMap::new();
        let mut set = |name: &'static str, value: &str| {
            // What no header can carry was refused when the callback was read.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        set("host", host);
        set("content-type", callback.body_type.as_str());
        set("connection", "close");
        set("user-agent", "aliyun-oss-callback");
        set("x-oss-request-id", stored.request_id);
        set("x-oss-bucket", stored.bucket);
        set("x-oss-tag", "CALLBACK");
        if let Some(signer) = &self.signer {
            let (signer, text) = (Arc::clone(signer), url.string_to_sign(&body));
            let entropy = Arc::clone(self.runtime.entropy());
            let signing = self.runtime.blocking(move || signer.sign(&*entropy, &text));
            let signature = signing.await.map_err(client::broken)?;
            let signature = signature.map_err(client::broken)?;
            set("authorization", &signature);
            set("x-oss-signature-version", "1.0");
            if let Some(signer) = &self.signer {
                set("x-oss-pub-key-url", signer.public_key_url());
            }
        }
        self.client.post(url, callback.sni, headers, body).await
    }
}

/// What was stored, as far as a callback tells of it.
pub(crate) struct Upload<'a> {
    pub(crate) operation: &'static str,
    pub(crate) key: &'a ObjectKey,
    pub(crate) version: &'a state::Version,
    /// The object's `Content-Type`, which the answer of a commit does not have.
    pub(crate) content_type: Option<&'a str>,
    pub(crate) md5: Option<[u8; 16]>,
}

/// Ends an upload: without a callback with its own answer, else with the application server's.
///
/// # Errors
/// CallbackFailed, with the headers that the upload's answer would have had.
pub(crate) async fn finish(
    cx: &Ctx,
    callback: Option<Callback>,
    upload: Upload<'_>,
    mut output: Output,
) -> Result<Output, OssError> {
    let Some(callback) = callback else {
        return Ok(output);
    };
    let version = upload.version;
    let stored = Stored {
        bucket: cx.bucket()?.name.as_str(),
        object: upload.key.as_str(),
        etag: &version.etag,
        size: version.size,
        mime_type: upload.content_type.unwrap_or(TYPE_UNKNOWN),
        crc64: version.has_crc64.then_some(version.crc64),
        content_md5: upload.md5.map(|md5| STANDARD.encode(md5)),
        client_ip: cx.origin.client_ip,
        request_id: &cx.origin.request_id,
        operation: upload.operation,
    };
    let (callbacks, metrics) = (&cx.shared.callbacks, &cx.shared.metrics);
    // Boxed: every upload's future would have room for a connection and its handshake.
    match Box::pin(callbacks.call(metrics, &callback, &stored)).await {
        Ok(answer) => {
            output.status = StatusCode::OK;
            output.headers.remove(LOCATION);
            output.payload = Payload::Whole(answer);
            Ok(output.header(CONTENT_TYPE, "application/json"))
        }
        Err(failure) => {
            metrics.callbacks_failed.inc();
            let error = OssError::new(ErrorCode::CallbackFailed).message(failure.to_string());
            let told = [
                ETAG,
                HeaderName::from_static("x-oss-hash-crc64ecma"),
                HeaderName::from_static("x-oss-version-id"),
            ];
            let headers = told.into_iter().filter_map(|name| {
                let value = output.headers.get(&name)?.clone();
                Some((name, value))
            });
            Err(headers.fold(error, |error, (name, value)| error.header(name, value)))
        }
    }
}
