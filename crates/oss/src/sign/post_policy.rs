//! Policies of forms: who signed one, and whether a form keeps to it (API reference, PostObject).
//!
//! A policy is a JSON document in base64 that its owner signs and anybody may post with: V1 is
//! HMAC-SHA1 of the base64 text, V4 HMAC-SHA256 of it with the derived key. What is signed is the
//! field as it was sent.
//!
//! Decisions where the service is not documented:
//! - The signature is verified before the policy is read.
//! - A field that the form does not have counts as empty. `bucket` is the bucket that is addressed,
//!   `content-type` the type that the object gets, whichever field or part says it.
//! - The name in a condition may lack its `$`.
//! - A V4 policy must name version, credential and date (and token) exactly, a prefix is not enough.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_types::Timestamp;
use granary_types::limits::POST_POLICY_CONDITIONS_MAX;
use serde_json::Value;
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{
    SECURITY_TOKEN_HEADER, SigningSecret, check_skew, invalid_date, parse_basic_iso8601, v1, v4,
};
use crate::error::{OssError, ec};
use crate::error_code::ErrorCode;
use crate::form::Form;

/// Longest policy that an answer shows, in bytes.
const SHOWN_BYTES_MAX: usize = 8 * 1024;

/// What a condition in a list may begin with.
const MODES: [&str; 5] = ["eq", "starts-with", "in", "not-in", "content-length-range"];

/// A form's signature as presented, read but not verified.
#[derive(Clone)]
pub struct PostSignature {
    access_key_id: String,
    security_token: Option<String>,
    /// The field `policy`, as it was sent.
    policy: String,
    signature: String,
    scheme: Scheme,
}

#[derive(Clone)]
enum Scheme {
    V1,
    V4 { scope: v4::Scope, date: String },
}

impl PostSignature {
    /// Finds the signature among the fields; `None` for an anonymous form.
    ///
    /// # Errors
    /// InvalidArgument when a part of it is missing, malformed, or of both versions.
    pub fn of(form: &Form) -> Result<Option<Self>, OssError> {
        let has = |name: &&str| form.field(name).is_some();
        let v1 = ["ossaccesskeyid", "signature"].iter().any(has);
        let v4 = [
            "x-oss-signature-version",
            "x-oss-credential",
            "x-oss-signature",
        ]
        .iter()
        .any(has);
        match (v1, v4, has(&"policy")) {
            (false, false, false) => Ok(None),
            (true, true, _) => Err(OssError::new(ErrorCode::InvalidArgument)
                .message("Only one authentication mechanism is allowed: the form has signatures of two versions.")
                .ec(ec::TWO_SIGNATURES)),
            (_, true, _) => Self::v4(form).map(Some),
            (_, false, _) => Self::v1(form).map(Some),
        }
    }

    fn v1(form: &Form) -> Result<Self, OssError> {
        Ok(Self {
            policy: required(form, "policy")?,
            access_key_id: required(form, "OSSAccessKeyId")?,
            signature: required(form, "Signature")?,
            security_token: form.text(SECURITY_TOKEN_HEADER).map(str::to_owned),
            scheme: Scheme::V1,
        })
    }

    fn v4(form: &Form) -> Result<Self, OssError> {
        let policy = required(form, "policy")?;
        let version = required(form, "x-oss-signature-version")?;
        if version != v4::ALGORITHM {
            return Err(OssError::invalid_argument(
                "Unsupported signature version of a form: use OSS4-HMAC-SHA256, or none for V1.",
                "x-oss-signature-version",
                version,
            )
            .ec(ec::UNKNOWN_SCHEME));
        }
        let credential = required(form, "x-oss-credential")?;
        let (access_key_id, scope) = v4::parse_credential(&credential).ok_or_else(|| {
            let message = "The credential is invalid.";
            OssError::invalid_argument(message, "x-oss-credential", credential.as_str())
                .ec(ec::V4_CREDENTIAL_DATE)
        })?;
        Ok(Self {
            policy,
            access_key_id,
            signature: required(form, "x-oss-signature")?,
            security_token: form.text(SECURITY_TOKEN_HEADER).map(str::to_owned),
            scheme: Scheme::V4 {
                scope,
                date: required(form, "x-oss-date")?,
            },
        })
    }

    /// Who claims to have signed.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The STS token that goes with temporary keys.
    pub fn security_token(&self) -> Option<&str> {
        self.security_token.as_deref()
    }

    /// A label for logs.
    pub fn kind(&self) -> &'static str {
        match self.scheme {
            Scheme::V1 => "v1_form",
            Scheme::V4 { .. } => "v4_form",
        }
    }

    /// Verifies the signature; `region` is the id that V4 clients sign with.
    ///
    /// # Errors
    /// SignatureDoesNotMatch; for V4 AccessDenied for a date that cannot be read,
    /// RequestTimeTooSkewed for one to come, InvalidArgument for a scope that is not ours.
    pub fn verify(
        &self,
        secret: &SigningSecret,
        now: Timestamp,
        region: &str,
    ) -> Result<(), OssError> {
        let computed = match &self.scheme {
            Scheme::V1 => v1::sign(secret.expose(), self.policy.as_bytes()),
            Scheme::V4 { scope, date } => {
                check_scope(scope, date, now, region)?;
                v4::sign(secret.v4_key(scope), &self.policy)
            }
        };
        if self.signature.as_bytes().ct_eq(computed.as_bytes()).into() {
            return Ok(());
        }
        let error = OssError::new(ErrorCode::SignatureDoesNotMatch)
            .extra("OSSAccessKeyId", self.access_key_id.as_str());
        Err(match self.policy.len() <= SHOWN_BYTES_MAX {
            true => error
                .extra("SignatureProvided", self.signature.as_str())
                .extra("StringToSign", self.policy.as_str()),
            false => error,
        })
    }

    /// The policy, once its signature is known to be good.
    ///
    /// # Errors
    /// InvalidPolicyDocument; for V4 AccessDenied when it does not name a field of the signature.
    pub fn policy(&self) -> Result<PostPolicy, OssError> {
        let policy = PostPolicy::parse(&self.policy)?;
        if let Scheme::V4 { .. } = self.scheme {
            let fields = ["x-oss-signature-version", "x-oss-credential", "x-oss-date"];
            let token = self
                .security_token
                .is_some()
                .then_some(SECURITY_TOKEN_HEADER);
            if let Some(field) = fields.into_iter().chain(token).find(|f| !policy.names(f)) {
                let what = format!("Extra input fields: {field}");
                return Err(denied(&what).ec(ec::POST_POLICY_EXTRA_FIELD));
            }
        }
        Ok(policy)
    }
}

fn required(form: &Form, name: &'static str) -> Result<String, OssError> {
    form.text(&name.to_ascii_lowercase())
        .map(str::to_owned)
        .ok_or_else(|| {
            let message = match name {
                "OSSAccessKeyId" => "Post request accessKeyId is empty.",
                "Signature" => "Post request signature is empty.",
                "policy" => "Post request policy is empty.",
                _ => "The bucket POST must contain the specified field name.",
            };
            let error = OssError::invalid_argument(message, name, "");
            match name {
                "policy" => error.ec(ec::POST_POLICY_MISSING),
                _ => error.ec(ec::POST_SIGNATURE_INCOMPLETE),
            }
        })
}

fn check_scope(
    scope: &v4::Scope,
    date: &str,
    now: Timestamp,
    region: &str,
) -> Result<(), OssError> {
    let signed_at = parse_basic_iso8601(date).ok_or_else(invalid_date)?;
    if signed_at > now {
        // How long a form is good for is its policy's to say.
        check_skew(signed_at, now)?;
    }
    let wrong = |what: &str, value: &str, ec| {
        let message = format!("The signing {what} in credential is invalid.");
        Err(OssError::invalid_argument(message, "x-oss-credential", value).ec(ec))
    };
    if !date.starts_with(scope.date.as_str()) {
        return wrong("date", &scope.date, ec::V4_CREDENTIAL_DATE);
    }
    if scope.region != region {
        return wrong("region", &scope.region, ec::V4_REGION);
    }
    if scope.product != v4::PRODUCT {
        return wrong("product", &scope.product, ec::V4_PRODUCT);
    }
    Ok(())
}

/// What the owner of a policy allows.
#[derive(Clone, Debug, PartialEq)]
pub struct PostPolicy {
    expires_at: Timestamp,
    conditions: Vec<Condition>,
    /// Bytes that the object may have.
    length: (u64, u64),
}

/// One condition on a field; names are in lower case.
#[derive(Clone, Debug, PartialEq)]
struct Condition {
    /// The name as the policy spells it, for the answer.
    spelling: String,
    field: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Equal(String),
    StartsWith(String),
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl PostPolicy {
    /// Reads the document: base64 of `{"expiration": …, "conditions": […]}`.
    ///
    /// # Errors
    /// InvalidPolicyDocument.
    pub fn parse(text: &str) -> Result<Self, OssError> {
        // Some clients wrap long lines.
        let compact: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let decoded = STANDARD
            .decode(compact)
            .map_err(|_| invalid("it is not base64."))?;
        let decoded = String::from_utf8(decoded).map_err(|_| invalid("it is not UTF-8."))?;
        let document: Value = serde_json::from_str(&without_dollar_escapes(&decoded))
            .map_err(|error| invalid("Invalid JSON.").source(error))?;
        let expiration = document
            .get("expiration")
            .ok_or_else(|| invalid("Policy missing expiration.").ec(ec::POST_POLICY_EXPIRATION))?;
        let expires_at = expiration
            .as_str()
            .and_then(time_of)
            .ok_or_else(|| invalid(format!("Invalid 'expiration' value: '{expiration}'")))?;
        let conditions = document
            .get("conditions")
            .ok_or_else(|| invalid("Policy missing conditions.").ec(ec::POST_POLICY_CONDITIONS))?;
        let listed = conditions.as_array().ok_or_else(|| {
            invalid("Invalid 'conditions' value: must be a List.").ec(ec::POST_POLICY_NO_LIST)
        })?;
        if listed.is_empty() {
            let message = "Invalid 'conditions' value: must not be empty.";
            return Err(invalid(message).ec(ec::POST_POLICY_EMPTY));
        }
        if listed.len() > POST_POLICY_CONDITIONS_MAX {
            return Err(invalid("Policy has too many conditions."));
        }
        let mut policy = Self {
            expires_at,
            conditions: Vec::with_capacity(listed.len()),
            length: (0, u64::MAX),
        };
        for condition in listed {
            policy.add(condition)?;
        }
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Result<(), OssError> {
        match condition {
            Value::Object(simple) => {
                let mut properties = simple.iter();
                let (Some((name, value)), None) = (properties.next(), properties.next()) else {
                    return Err(invalid(
                        "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.",
                    ));
                };
                let value = text_of(value)?;
                self.push(name, Test::Equal(value));
            }
            Value::Array(parts) => self.add_list(parts)?,
            _ => {
                let message = "Invalid Condition: must be a Map or a List.";
                return Err(invalid(message).ec(ec::POST_POLICY_CONDITION));
            }
        }
        Ok(())
    }

    fn add_list(&mut self, parts: &[Value]) -> Result<(), OssError> {
        let operator = parts.first().map_or(Ok(String::new()), text_of)?;
        let operator = operator.to_ascii_lowercase();
        if !MODES.contains(&operator.as_str()) {
            let message = "Invalid Condition: unknown operator.";
            return Err(invalid(message).ec(ec::POST_POLICY_MODE));
        }
        let [_, first, second] = parts else {
            let message = "Invalid Condition: wrong number of elements.";
            return Err(invalid(message).ec(ec::POST_POLICY_ELEMENTS));
        };
        if operator == "content-length-range" {
            let (least, most) = (
                number_of(first, ec::POST_POLICY_LEAST)?,
                number_of(second, ec::POST_POLICY_MOST)?,
            );
            if least > most {
                let message = "Invalid content-length-range: the least is above the most.";
                return Err(invalid(message).ec(ec::POST_POLICY_RANGE));
            }
            self.length = (self.length.0.max(least), self.length.1.min(most));
            return Ok(());
        }
        let name = text_of(first)?;
        let test = match operator.as_str() {
            "eq" => Test::Equal(text_of(second)?),
            "starts-with" => Test::StartsWith(text_of(second)?),
            "in" => Test::In(texts_of(second)?),
            _ => Test::NotIn(texts_of(second)?),
        };
        self.push(&name, test);
        Ok(())
    }

    fn push(&mut self, name: &str, test: Test) {
        let spelling = name.strip_prefix('$').unwrap_or(name).to_owned();
        let field = spelling.to_ascii_lowercase();
        self.conditions.push(Condition {
            spelling,
            field,
            test,
        });
    }

    /// Whether a condition says what the field must be, exactly.
    fn names(&self, field: &str) -> bool {
        let exact = |c: &Condition| c.field == field && matches!(c.test, Test::Equal(_));
        self.conditions.iter().any(exact)
    }

    /// Checks the time and every condition on the form's fields, before anything in them is replaced.
    ///
    /// # Errors
    /// AccessDenied with the condition that does not hold.
    pub fn check(&self, form: &Form, bucket: &str, now: Timestamp) -> Result<(), OssError> {
        if now > self.expires_at {
            return Err(denied("Policy expired.").ec(ec::POST_POLICY_EXPIRED));
        }
        let value = |field: &str| match field {
            "bucket" => bucket,
            "content-type" => form.content_type().unwrap_or_default(),
            field => form.field(field).unwrap_or_default(),
        };
        match self.conditions.iter().find(|c| !c.holds(value(&c.field))) {
            None => Ok(()),
            Some(condition) => {
                let what = format!("Policy Condition failed: {}", condition.shown());
                Err(denied(&what).ec(ec::POST_POLICY_FAILED))
            }
        }
    }

    /// The least and the most bytes that the object may have.
    pub fn length_range(&self) -> (u64, u64) {
        self.length
    }
}

impl Condition {
    fn holds(&self, value: &str) -> bool {
        match &self.test {
            Test::Equal(expected) => value == expected,
            Test::StartsWith(prefix) => value.starts_with(prefix.as_str()),
            Test::In(allowed) => allowed.iter().any(|allowed| allowed == value),
            Test::NotIn(refused) => !refused.iter().any(|refused| refused == value),
        }
    }

    /// `["eq", "$key", "a"]`, as the service quotes it.
    fn shown(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let list = |texts: &[String]| {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        };
        let (operator, operand) = match &self.test {
            Test::Equal(text) => ("eq", quoted(text)),
            Test::StartsWith(text) => ("starts-with", quoted(text)),
            Test::In(texts) => ("in", list(texts)),
            Test::NotIn(texts) => ("not-in", list(texts)),
        };
        let field = quoted(&format!("${}", self.spelling));
        let shown = format!("[\"{operator}\", {field}, {operand}]");
        match shown.len() <= SHOWN_BYTES_MAX {
            true => shown,
            false => format!("[\"{operator}\", {field}, …]"),
        }
    }
}

fn denied(what: &str) -> OssError {
    OssError::new(ErrorCode::AccessDenied).message(format!("Invalid according to Policy: {what}"))
}

fn invalid(what: impl AsRef<str>) -> OssError {
    OssError::new(ErrorCode::InvalidPolicyDocument)
        .message(format!("Invalid Policy: {}", what.as_ref()))
}

/// Policies may write a literal `$` as `\$`, which JSON does not know.
fn without_dollar_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('$') => plain.push_str("\\u0024"),
                other => {
                    plain.push('\\');
                    plain.extend(other);
                }
            },
            c => plain.push(c),
        }
    }
    plain
}

/// `2014-12-01T12:00:00.000Z`; a fraction is not needed.
fn time_of(text: &str) -> Option<Timestamp> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let millis = at.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(millis).ok().map(Timestamp)
}

fn wrong_type() -> OssError {
    invalid("Invalid Condition: a value has the wrong type.").ec(ec::POST_POLICY_TYPE)
}

fn text_of(value: &Value) -> Result<String, OssError> {
    value.as_str().map(str::to_owned).ok_or_else(wrong_type)
}

fn texts_of(value: &Value) -> Result<Vec<String>, OssError> {
    let texts = value.as_array().ok_or_else(wrong_type)?;
    texts.iter().map(text_of).collect()
}

fn number_of(value: &Value, ec: &'static str) -> Result<u64, OssError> {
    let digits = value.as_str().and_then(|text| text.parse().ok());
    let number = value.as_u64().or(digits);
    number.ok_or_else(|| wrong_type().ec(ec))
}

#[cfg(test)]
mod tests;
