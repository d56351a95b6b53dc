//! Answers and errors as HTTP. Nothing else writes a status, a document or a common header.

use bytes::Bytes;
use granary_oss::OssError;
use granary_oss::error::{render_error, render_error_header};
use granary_oss::header::date::format_http_date;
use granary_types::Timestamp;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::access_log::Completion;
use crate::body::{Payload, ResponseBody};

/// What `Server` says: clients and tools recognise the dialect by it.
pub(crate) const SERVER: &str = "AliyunOSS";

/// The answer of an operation.
pub(crate) struct Output {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// `Content-Length` of an answer that carries no body: to HEAD, or by the service's own custom, which
    /// costs the connection.
    pub(crate) length: Option<u64>,
    /// How fast the payload may be sent, in bits per second.
    pub(crate) traffic_limit: Option<u64>,
}

impl Output {
    /// An answer without a body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            length: None,
            traffic_limit: None,
        }
    }

    /// 200 with a document.
    pub(crate) fn xml(document: Vec<u8>) -> Self {
        let mut output = Self::empty(StatusCode::OK);
        output
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        output.payload = Payload::Whole(Bytes::from(document));
        output
    }

    /// Adds a header. A value that no header can carry (it was checked when it was stored) is left
    /// out rather than failing the whole answer.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        insert(&mut self.headers, name, value);
        self
    }

    /// Adds one of the service's own headers, unless there is no value.
    pub(crate) fn oss(mut self, name: &'static str, value: Option<impl AsRef<str>>) -> Self {
        if let Some(value) = value {
            insert(
                &mut self.headers,
                HeaderName::from_static(name),
                value.as_ref(),
            );
        }
        self
    }
}

/// Sets a header; see [`Output::header`].
pub(crate) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => {
            headers.insert(name, value);
        }
        Err(_) => tracing::warn!(%name, "stored header has an illegal value, left out"),
    }
}

/// What every answer says besides its own.
pub(crate) struct Common<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) host_id: &'a str,
    pub(crate) method: &'a Method,
    pub(crate) now: Timestamp,
    /// Milliseconds since the head was complete.
    pub(crate) server_time_ms: u128,
    /// Whether the connection ends with this answer.
    pub(crate) close: bool,
}

/// The response to an answer.
pub(crate) fn output(
    output: Output,
    common: &Common<'_>,
    completion: Completion,
) -> Response<ResponseBody> {
    let Output {
        status,
        headers,
        payload,
        length,
        traffic_limit,
    } = output;
    let body_allowed = status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED;
    let length = length.or_else(|| payload.length().filter(|_| body_allowed));
    let payload = match payload {
        _ if common.method == Method::HEAD => Payload::Empty,
        Payload::Empty if length.is_some_and(|length| length > 0) => {
            Payload::Withheld { head_left: false }
        }
        payload => payload,
    };
    let common = &Common {
        close: common.close || matches!(payload, Payload::Withheld { .. }),
        ..*common
    };
    let mut response = Response::new(ResponseBody::new(payload, traffic_limit, completion));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(length) = length {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    set_common(response.headers_mut(), common);
    response
}

/// The response to an error: the document, or for HEAD its header form.
pub(crate) fn error(
    error: &OssError,
    common: &Common<'_>,
    completion: Completion,
) -> Response<ResponseBody> {
    let status = error.status();
    let bodiless = common.method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let payload = match bodiless {
        true => Payload::Empty,
        false => Payload::Whole(render_error(error, common.request_id, common.host_id).into()),
    };
    let length = payload.length();
    let mut response = Response::new(ResponseBody::new(payload, None, completion));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in error.headers() {
        headers.insert(name, value.clone());
    }
    if status != StatusCode::NOT_MODIFIED {
        headers.insert("x-oss-ec", HeaderValue::from_static(error.ec_text()));
        if bodiless {
            let document = render_error_header(error, common.request_id, common.host_id);
            headers.insert("x-oss-err", document);
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length.unwrap_or(0)));
        }
    }
    set_common(headers, common);
    response
}

fn set_common(headers: &mut HeaderMap, common: &Common<'_>) {
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    insert(headers, DATE, &format_http_date(common.now));
    insert(
        headers,
        HeaderName::from_static("x-oss-request-id"),
        common.request_id,
    );
    let server_time = common.server_time_ms.to_string();
    insert(
        headers,
        HeaderName::from_static("x-oss-server-time"),
        &server_time,
    );
    let connection = if common.close { "close" } else { "keep-alive" };
    headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
}
