//! Callbacks of uploads: the store tells an application server what was stored, and the client what
//! that server answered (API reference, Callback).
//!
//! This module reads what the client asks for, and makes the body and the string that is signed. It
//! must not know how servers are reached, nor which ones may be.
//!
//! Decisions where the service is not documented:
//! - A `${variable}` that OSS does not have is refused; a custom one that the request does not set is
//!   empty.
//! - In a body of JSON, a variable outside a string becomes a JSON value (`size` a number, everything
//!   else a string), and one inside a string its escaped text.
//! - There is no information about images: `imageInfo.*` is empty, as OSS has it for what is no image.

mod template;
mod url;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_types::limits::{CALLBACK_BYTES_MAX, CALLBACK_URLS_MAX};
use http::HeaderMap;
use http::uri::Authority;
use serde_json::{Map, Value};

use crate::error::{OssError, ec};
use crate::error_code::ErrorCode;
use crate::form::Form;
use crate::query::Query;
pub use template::Stored;
use template::Template;
pub use url::CallbackUrl;

/// Headers of an upload that ask for a callback.
const HEADERS: [&str; 2] = ["x-oss-callback", "x-oss-callback-var"];
/// Parameters that do.
const PARAMETERS: [&str; 2] = ["callback", "callback-var"];
/// Members of the configuration that ask for something this version does not do.
const UNBUILT: [&str; 2] = ["callbackPolicy", "additionalHeaders"];

/// How the body of a callback is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyType {
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `application/json`.
    Json,
}

impl BodyType {
    /// The `Content-Type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Form => "application/x-www-form-urlencoded",
            Self::Json => "application/json",
        }
    }
}

/// A callback that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Whom to tell: the first one that answers well.
    pub urls: Vec<CallbackUrl>,
    /// `Host` of the request; `None` for the URL's.
    pub host: Option<String>,
    /// How the body is written.
    pub body_type: BodyType,
    /// Whether the server's name is sent when the connection is secured.
    pub sni: bool,
    body: Template,
    variables: BTreeMap<String, String>,
}

impl Callback {
    /// What an upload's headers or parameters ask for; `None` for nothing.
    ///
    /// # Errors
    /// InvalidArgument for what is malformed or asked for in two ways; NotImplemented for what this
    /// version does not do.
    pub fn of_request(headers: &HeaderMap, query: &Query) -> Result<Option<Self>, OssError> {
        let given = |at: usize| -> Result<Option<String>, OssError> {
            let header = HEADERS.get(at).and_then(|name| headers.get(*name));
            let parameter = PARAMETERS.get(at).and_then(|name| query.get(name));
            match (header, parameter) {
                (Some(_), Some(_)) => Err(twice(at)),
                (Some(value), None) => Ok(Some(String::from_utf8_lossy(value.as_bytes()).into())),
                (None, value) => Ok(value.map(str::to_owned)),
            }
        };
        let (callback, variables) = (given(0)?, given(1)?);
        let variables = variables.as_deref().map(variables_of).transpose()?;
        let Some(callback) = callback else {
            return Ok(None);
        };
        Self::parse(&callback, variables.unwrap_or_default()).map(Some)
    }

    /// What a form asks for: in its own fields (`callback`, and `x:name` for each variable), or like
    /// every other upload.
    ///
    /// # Errors
    /// As [`Callback::of_request`].
    pub fn of_form(
        form: &Form,
        headers: &HeaderMap,
        query: &Query,
    ) -> Result<Option<Self>, OssError> {
        let Some(callback) = form.field("callback") else {
            return Self::of_request(headers, query);
        };
        for at in [0, 1] {
            let header = HEADERS
                .get(at)
                .is_some_and(|name| headers.contains_key(*name));
            if header || PARAMETERS.get(at).is_some_and(|name| query.contains(name)) {
                return Err(twice(at));
            }
        }
        let own = || form.fields().filter(|(name, _)| name.starts_with("x:"));
        let bytes: usize = own().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > CALLBACK_BYTES_MAX {
            return Err(variables_too_long());
        }
        let variables: BTreeMap<String, String> = own()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self::parse(callback, variables).map(Some)
    }

    fn parse(text: &str, variables: BTreeMap<String, String>) -> Result<Self, OssError> {
        let invalid = |message: &'static str| argument(message, "callback", text);
        if text.len() > CALLBACK_BYTES_MAX {
            return Err(argument(
                "The length of callback exceed max value.",
                "callback",
                "",
            ));
        }
        let decoded = STANDARD.decode(text.trim()).map_err(|_| {
            invalid("The callback configuration is not base64 encoded.").ec(ec::CALLBACK_BASE64)
        })?;
        let members: Map<String, Value> = serde_json::from_slice(&decoded)
            .map_err(|_| invalid("The callback configuration is not json format."))?;
        if let Some(name) = UNBUILT.iter().find(|name| members.contains_key(**name)) {
            return Err(OssError::new(ErrorCode::NotImplemented).extra("Header", *name));
        }
        let member = |name: &str| -> Result<Option<&str>, ()> {
            match members.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.as_str())),
                Some(_) => Err(()),
            }
        };
        let bad_url = || invalid("The callback url configuration is invalid.").ec(ec::CALLBACK_URL);
        let urls = member("callbackUrl").map_err(|()| bad_url())?;
        let urls: Vec<&str> = urls
            .unwrap_or_default()
            .split(';')
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .collect();
        if urls.len() > CALLBACK_URLS_MAX {
            let message = "The number of callback url exceed max value.";
            return Err(invalid(message).ec(ec::CALLBACK_URLS));
        }
        let urls: Option<Vec<CallbackUrl>> = urls.into_iter().map(CallbackUrl::parse).collect();
        let urls = urls.filter(|urls| !urls.is_empty()).ok_or_else(bad_url)?;
        let bad_host = || invalid("The callback host configuration is invalid.");
        let host = member("callbackHost").map_err(|()| bad_host())?;
        let host = host.filter(|host| !host.is_empty());
        if host.is_some_and(|host| host.parse::<Authority>().is_err() || host.contains('@')) {
            return Err(bad_host());
        }
        let body_type = member("callbackBodyType").map_err(|()| {
            let message = "The callback body type configuration is invalid.";
            invalid(message).ec(ec::CALLBACK_BODY_TYPE)
        })?;
        let body_type = match body_type {
            None | Some("" | "application/x-www-form-urlencoded") => BodyType::Form,
            Some("application/json") => BodyType::Json,
            Some(_) => {
                let message = "The body type of callback is not supported.";
                return Err(invalid(message).ec(ec::CALLBACK_BODY_TYPE));
            }
        };
        let bad_body = || invalid("The callback body is invalid.");
        let body = member("callbackBody").map_err(|()| bad_body())?;
        let body = body
            .filter(|body| !body.is_empty())
            .ok_or_else(|| invalid("The callback body is empty.").ec(ec::CALLBACK_BODY_EMPTY))?;
        let sni = match members.get("callbackSNI") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => true,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => false,
            Some(_) => return Err(invalid("The callback SNI configuration is invalid.")),
        };
        Ok(Self {
            urls,
            host: host.map(str::to_owned),
            body_type,
            sni,
            body: Template::parse(body).ok_or_else(bad_body)?,
            variables,
        })
    }

    /// The body that tells what was stored; `None` when its variables make it too long.
    pub fn body(&self, stored: &Stored<'_>) -> Option<Vec<u8>> {
        let text = self.body.render(self.body_type, stored, &self.variables);
        text.map(String::into_bytes)
    }
}

/// Base64 of `{"x:name": "value"}`. Other names stand for nothing, and are no mistake: the Python SDK's
/// tests send some.
fn variables_of(text: &str) -> Result<BTreeMap<String, String>, OssError> {
    let invalid = || {
        argument(
            "The callback var is not expecten json.",
            "callback-var",
            text,
        )
    };
    if text.len() > CALLBACK_BYTES_MAX {
        return Err(variables_too_long());
    }
    let decoded = STANDARD.decode(text.trim()).map_err(|_| invalid())?;
    let mut members: BTreeMap<String, String> =
        serde_json::from_slice(&decoded).map_err(|_| invalid())?;
    members.retain(|name, _| name.starts_with("x:"));
    match members
        .keys()
        .any(|name| name.bytes().any(|b| b.is_ascii_uppercase()))
    {
        true => Err(invalid()),
        false => Ok(members),
    }
}

fn variables_too_long() -> OssError {
    let message = "The length of callback var exceed max value.";
    argument(message, "callback-var", "")
}

fn twice(at: usize) -> OssError {
    let (parameter, message) = match at {
        0 => (
            "callback",
            "Either the callback query string parameter or the x-oss-callback header should be specified, not both.",
        ),
        _ => (
            "callback-var",
            "Either the callback-var query string parameter or the x-oss-callback-var header should be specified, not both.",
        ),
    };
    argument(message, parameter, "")
}

fn argument(message: &'static str, name: &str, value: &str) -> OssError {
    OssError::invalid_argument(message, name, value)
}

#[cfg(test)]
mod tests;
