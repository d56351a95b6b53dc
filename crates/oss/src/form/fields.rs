//! What a form says before its file: the fields, and what they mean for the object.

use std::collections::BTreeMap;

use granary_types::ObjectKey;
use granary_types::limits::{FORM_HEADERS_BYTES_MAX, OBJECT_KEY_BYTES_MAX};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use super::parser::FilePart;
use crate::address::{object_key_too_long, parse_object_key};
use crate::error::OssError;
use crate::error_code::ErrorCode;
use crate::escape;

/// Fields that become headers of the object besides `x-oss-*`.
const CONTENT_FIELDS: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];
/// Fields that say who asks, or that are read apart.
const NOT_OF_THE_OBJECT: [&str; 10] = [
    "x-oss-callback",
    "x-oss-callback-var",
    "x-oss-content-type",
    "x-oss-content-sha256",
    "x-oss-credential",
    "x-oss-date",
    "x-oss-security-token",
    "x-oss-signature",
    "x-oss-signature-version",
    "x-oss-additional-headers",
];
/// Fields that mean something besides those above, `x-oss-*` and `x:*`. A form's `Content-Type` and the
/// conditions of a write are among them.
const MEANINGFUL: [&str; 13] = [
    "callback",
    "callback-var",
    "content-type",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "key",
    "ossaccesskeyid",
    "policy",
    "signature",
    "success_action_redirect",
    "success_action_status",
];
/// What stands for the name of the file in a key.
const FILENAME: &str = "${filename}";

/// Whether a field of this name says anything about the object or who asks for it; the name in either
/// case.
pub(super) fn means_something(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let listed = CONTENT_FIELDS.iter().chain(&MEANINGFUL);
    name.starts_with("x-oss-") || name.starts_with("x:") || listed.into_iter().any(|n| *n == name)
}

/// A form up to its file. Names of fields are the same in upper and lower case; of two fields of a
/// name the first one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    fields: BTreeMap<String, String>,
    file: FilePart,
}

/// How the client wants to hear that it worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Success {
    /// With this status: 200, 201 (with a document) or 204.
    Status(StatusCode),
    /// By being sent to this page, which is told the object.
    Redirect(String),
}

impl Form {
    /// Adds a field, unless there is one of that name.
    pub fn add(&mut self, name: &str, value: String) {
        self.fields
            .entry(name.to_ascii_lowercase())
            .or_insert(value);
    }

    /// What the file's part says.
    pub fn set_file(&mut self, file: FilePart) {
        self.file = file;
    }

    /// Takes the request's own `x-oss-*` headers as fields that the form does not have, so that what
    /// they ask for is neither ignored nor hidden from the policy. A header signs nothing here.
    pub fn add_headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let name = name.as_str();
            if name.starts_with("x-oss-")
                && !NOT_OF_THE_OBJECT.contains(&name)
                && let Ok(value) = std::str::from_utf8(value.as_bytes())
            {
                self.add(name, value.trim().to_owned());
            }
        }
    }

    /// A field's value; the name is in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A field that is there and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.field(name).filter(|value| !value.is_empty())
    }

    /// The fields by lower-case name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The type of the object: `x-oss-content-type`, else `Content-Type`, else what the file's part
    /// says.
    pub fn content_type(&self) -> Option<&str> {
        let fields = ["x-oss-content-type", "content-type"];
        let field = fields.iter().find_map(|name| self.text(name));
        field.or(self.file.content_type.as_deref())
    }

    /// The object's key, with the name of the file in it if it asks for that.
    ///
    /// # Errors
    /// IncorrectNumberOfFilesInPOSTRequest when there is no key, as OSS answers; InvalidObjectName.
    pub fn key(&self) -> Result<ObjectKey, OssError> {
        let Some(key) = self.field("key") else {
            return Err(
                OssError::new(ErrorCode::IncorrectNumberOfFilesInPOSTRequest)
                    .message("The bucket POST must contain the specified field name."),
            );
        };
        let name = self.file.filename.as_deref().unwrap_or_default();
        // Some browsers send the path of the file at the client.
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        // A key of 2 MB may ask for the name a hundred thousand times.
        let asked = key.matches(FILENAME).count();
        let length = key.len() - asked * FILENAME.len() + asked.saturating_mul(name.len());
        if length > OBJECT_KEY_BYTES_MAX {
            return Err(object_key_too_long());
        }
        parse_object_key(key.replace(FILENAME, name).as_bytes())
    }

    /// What the fields say about the object, as headers of PutObject.
    ///
    /// # Errors
    /// InvalidArgument for a field that no header can carry; MetadataTooLarge when they are too long
    /// together.
    pub fn headers(&self) -> Result<HeaderMap, OssError> {
        let mut headers = HeaderMap::new();
        let mut bytes = 0;
        let mut insert = |name: &str, value: &str| {
            bytes += name.len() + value.len();
            if bytes > FORM_HEADERS_BYTES_MAX {
                return Err(OssError::new(ErrorCode::MetadataTooLarge)
                    .extra("MaxMetadataSize", FORM_HEADERS_BYTES_MAX.to_string()));
            }
            let invalid = || {
                let message = "The field cannot be a header of the object.";
                OssError::invalid_argument(message, name, value)
            };
            let header = HeaderName::try_from(name).map_err(|_| invalid())?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid())?;
            headers.insert(header, value);
            Ok::<_, OssError>(())
        };
        for (name, value) in self.fields() {
            let own = name.starts_with("x-oss-") && !NOT_OF_THE_OBJECT.contains(&name);
            if own || CONTENT_FIELDS.contains(&name) {
                insert(name, value)?;
            }
        }
        if let Some(content_type) = self.content_type() {
            insert("content-type", content_type)?;
        }
        Ok(headers)
    }

    /// How success is told: `success_action_redirect`, else `success_action_status`. A status that
    /// OSS does not know is 204, as there.
    ///
    /// # Errors
    /// InvalidArgument for a redirect that is no URL.
    pub fn success(&self) -> Result<Success, OssError> {
        if let Some(url) = self.text("success_action_redirect") {
            let parsed: Option<Uri> = url.parse().ok();
            let is_url = parsed.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
            });
            // What is behind a `#` was not looked at.
            let is_header = !url.contains(char::is_control);
            return match is_url && is_header {
                true => Ok(Success::Redirect(url.to_owned())),
                false => Err(OssError::invalid_argument(
                    "The value of success_action_redirect must be a URL.",
                    "success_action_redirect",
                    url,
                )),
            };
        }
        Ok(Success::Status(match self.text("success_action_status") {
            Some("200") => StatusCode::OK,
            Some("201") => StatusCode::CREATED,
            _ => StatusCode::NO_CONTENT,
        }))
    }
}

/// A page of the client's, told what was stored: `bucket`, `key` and `etag` in its query.
pub fn redirect_target(url: &str, bucket: &str, key: &str, etag: &str) -> String {
    // `http` takes fragments off, but clients may write them.
    let (page, fragment) = match url.split_once('#') {
        Some((page, fragment)) => (page, format!("#{fragment}")),
        None => (url, String::new()),
    };
    let joint = if page.contains('?') { '&' } else { '?' };
    let encode = |text: &str| escape::encode(text.as_bytes());
    format!(
        "{page}{joint}bucket={}&key={}&etag={}{fragment}",
        encode(bucket),
        encode(key),
        encode(etag)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&str, &str)], filename: Option<&str>) -> Form {
        let mut form = Form::default();
        for (name, value) in fields {
            form.add(name, (*value).to_owned());
        }
        form.set_file(FilePart {
            filename: filename.map(str::to_owned),
            content_type: Some("image/png".to_owned()),
        });
        form
    }

    #[test]
    fn names_are_the_same_in_every_case_and_the_first_counts() {
        let form = form(&[("Key", "a"), ("KEY", "b"), ("X-OSS-Meta-A", "1")], None);
        assert_eq!(form.field("key"), Some("a"));
        assert_eq!(form.headers().unwrap()["x-oss-meta-a"], "1");
    }

    #[test]
    fn a_key_that_asks_for_the_name_too_often_is_too_long() {
        let name = "n".repeat(17_000);
        for (key, name, fits) in [
            ("${filename}".repeat(190_000), name.as_str(), false),
            ("${filename}".repeat(1023), "n", true),
            ("${filename}".repeat(1024), "n", false),
            ("${filename}".repeat(190_000) + "k", "", true),
        ] {
            let key = form(&[("key", &key)], Some(name)).key();
            match key {
                Ok(_) => assert!(fits),
                Err(error) => {
                    assert!(!fits);
                    assert_eq!(error.code(), ErrorCode::InvalidObjectName);
                }
            }
        }
    }

    #[test]
    fn fields_that_become_headers_are_bounded_together() {
        let many = "aaaa:,".repeat(20_000);
        let error = form(&[("x-oss-persistent-headers", &many)], None).headers();
        assert_eq!(error.unwrap_err().code(), ErrorCode::MetadataTooLarge);
        let half = "a".repeat(FORM_HEADERS_BYTES_MAX / 2);
        let fields = [("x-oss-meta-a", half.as_str()), ("x-oss-meta-b", &half)];
        assert!(form(&fields[..1], None).headers().is_ok());
        assert!(form(&fields, None).headers().is_err());
    }

    #[test]
    fn the_key_takes_the_name_of_the_file() {
        for (key, filename, expected) in [
            ("dir/${filename}", Some("a.png"), "dir/a.png"),
            ("${filename}-${filename}", Some("a"), "a-a"),
            ("${filename}", Some("C:\\photos\\b.png"), "b.png"),
            ("${filename}", Some("/home/x/中.png"), "中.png"),
            ("${filename}.bin", None, ".bin"),
            ("plain", Some("a"), "plain"),
        ] {
            let key = form(&[("key", key)], filename).key().unwrap();
            assert_eq!(key.as_str(), expected);
        }
        for (fields, code) in [
            (&[][..], ErrorCode::IncorrectNumberOfFilesInPOSTRequest),
            (&[("key", "")][..], ErrorCode::InvalidObjectName),
            (&[("key", "${filename}")][..], ErrorCode::InvalidObjectName),
            (&[("key", "/a")][..], ErrorCode::InvalidObjectName),
        ] {
            assert_eq!(
                form(fields, None).key().unwrap_err().code(),
                code,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn the_type_has_an_order() {
        let typed = |fields: &[(&str, &str)]| {
            let headers = form(fields, None).headers().unwrap();
            headers["content-type"].to_str().unwrap().to_owned()
        };
        assert_eq!(typed(&[]), "image/png");
        assert_eq!(typed(&[("Content-Type", "a/b")]), "a/b");
        assert_eq!(
            typed(&[("Content-Type", "a/b"), ("x-oss-content-type", "c/d")]),
            "c/d"
        );
    }

    #[test]
    fn headers_are_defaults_and_sign_nothing() {
        let mut form = form(&[("x-oss-object-acl", "private")], None);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-oss-object-acl", "public-read"),
            ("x-oss-forbid-overwrite", "true"),
            ("x-oss-date", "20260101T000000Z"),
            ("authorization", "OSS a:b"),
            ("cache-control", "max-age=0"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        form.add_headers(&headers);
        assert_eq!(form.field("x-oss-object-acl"), Some("private"));
        assert_eq!(form.field("x-oss-forbid-overwrite"), Some("true"));
        for name in ["x-oss-date", "authorization", "cache-control"] {
            assert_eq!(form.field(name), None, "{name}");
        }
    }

    #[test]
    fn fields_that_no_header_can_carry_are_told() {
        for (name, value) in [("x-oss-meta-a b", "1"), ("Cache-Control", "a\r\nb: c")] {
            let error = form(&[(name, value)], None).headers().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{name}");
        }
    }

    #[test]
    fn success_is_told_as_asked() {
        let status = |code| Success::Status(StatusCode::from_u16(code).unwrap());
        for (value, expected) in [
            ("200", 200),
            ("201", 201),
            ("204", 204),
            ("404", 204),
            ("", 204),
        ] {
            let told = form(&[("success_action_status", value)], None).success();
            assert_eq!(told.unwrap(), status(expected));
        }
        let page = |url: &str| form(&[("Success_Action_Redirect", url)], None).success();
        assert_eq!(
            page("https://h/p?q=1").unwrap(),
            Success::Redirect("https://h/p?q=1".to_owned())
        );
        for url in [
            "/p",
            "javascript:alert(1)",
            "https://h/\r\nx",
            "https://h/p#\r\nx: y",
            "https://h/p#\0",
            "ftp://h/",
        ] {
            assert_eq!(
                page(url).unwrap_err().code(),
                ErrorCode::InvalidArgument,
                "{url}"
            );
        }
        for (url, expected) in [
            (
                "http://h/p",
                "http://h/p?bucket=b&key=a%2Fb%20c&etag=%22E%22",
            ),
            (
                "http://h/p?q=1#f",
                "http://h/p?q=1&bucket=b&key=a%2Fb%20c&etag=%22E%22#f",
            ),
        ] {
            assert_eq!(redirect_target(url, "b", "a/b c", "\"E\""), expected);
        }
    }
}
