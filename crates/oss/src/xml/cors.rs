//! CORS rules of a bucket: the document, and which rule a browser's request falls under.
//!
//! Rules are asked in order and the first that fits decides (API reference, PutBucketCors and
//! OptionObject). A rule fits when its origins, methods and headers all do.

use super::de::{Element, malformed_xml, parse};
use super::ser::Writer;
use crate::error::OssError;

/// Rules of one bucket (API reference, PutBucketCors).
const RULES_MAX: usize = 20;
/// Largest `MaxAgeSeconds` (API reference, PutBucketCors).
const MAX_AGE_SECONDS_MAX: u64 = 999_999_999;
const METHODS: [&str; 5] = ["GET", "PUT", "DELETE", "POST", "HEAD"];

/// Body of PutBucketCors, answer of GetBucketCors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsConfiguration {
    /// The rules, first come first served; at least one.
    pub rules: Vec<CorsRule>,
    /// Whether every answer says `Vary: Origin`, also to requests that no rule fits.
    pub response_vary: bool,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsRule {
    /// Origins, each with at most one `*`.
    pub allowed_origins: Vec<String>,
    /// Methods in upper case.
    pub allowed_methods: Vec<String>,
    /// Headers a preflight may ask for, in lower case, each with at most one `*`.
    pub allowed_headers: Vec<String>,
    /// Headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// How long a browser may remember the answer to a preflight, in seconds.
    pub max_age_seconds: Option<u64>,
}

/// What an answer to a browser says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsGrant {
    /// `Access-Control-Allow-Origin`.
    pub origin: String,
    /// `Access-Control-Allow-Methods`.
    pub methods: String,
    /// `Access-Control-Allow-Headers`, of what a preflight asked for.
    pub headers: Option<String>,
    /// `Access-Control-Expose-Headers`.
    pub expose: Option<String>,
    /// `Access-Control-Max-Age`, in seconds.
    pub max_age_seconds: Option<u64>,
}

impl CorsConfiguration {
    /// Reads the document.
    ///
    /// # Errors
    /// MalformedXML without a rule, or for a rule without origins or methods; InvalidArgument for
    /// values that the service refuses.
    pub fn parse(body: &[u8]) -> Result<Self, OssError> {
        let root = parse(body, "CORSConfiguration")?;
        let mut rules = Vec::new();
        for rule in root.children_named("CORSRule") {
            if rules.len() == RULES_MAX {
                let message = "A bucket can have no more than 20 CORS rules.";
                return Err(OssError::invalid_argument(message, "CORSRule", ""));
            }
            rules.push(CorsRule::read(rule)?);
        }
        if rules.is_empty() {
            return Err(malformed_xml("there is no rule"));
        }
        let response_vary = match root.optional_text("ResponseVary")? {
            None => false,
            Some(text) if text.eq_ignore_ascii_case("true") => true,
            Some(text) if text.eq_ignore_ascii_case("false") => false,
            Some(other) => return Err(malformed_xml(format!("ResponseVary can not be {other}"))),
        };
        Ok(Self {
            rules,
            response_vary,
        })
    }

    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut xml = Writer::new("CORSConfiguration");
        for rule in &self.rules {
            xml.open("CORSRule");
            for (name, values) in [
                ("AllowedOrigin", &rule.allowed_origins),
                ("AllowedMethod", &rule.allowed_methods),
                ("AllowedHeader", &rule.allowed_headers),
                ("ExposeHeader", &rule.expose_headers),
            ] {
                for value in values {
                    xml.elem(name, value);
                }
            }
            xml.elem_if("MaxAgeSeconds", rule.max_age_seconds).close();
        }
        xml.elem("ResponseVary", self.response_vary);
        xml.finish()
    }

    /// What a request from `origin` with `method` is granted; `headers` are those a preflight asks
    /// for, separated by commas. `None` when no rule fits.
    pub fn grant(&self, origin: &str, method: &str, headers: &str) -> Option<CorsGrant> {
        let asked: Vec<String> = headers
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        let rule = self.rules.iter().find(|rule| {
            rule.origin(origin).is_some()
                && rule.allowed_methods.iter().any(|allowed| allowed == method)
                && asked.iter().all(|name| {
                    let mut patterns = rule.allowed_headers.iter();
                    patterns.any(|pattern| fits(pattern, name))
                })
        })?;
        let joined = |values: &[String]| (!values.is_empty()).then(|| values.join(", "));
        Some(CorsGrant {
            // A rule for every origin says so, unless caches have to tell origins apart.
            origin: match rule.origin(origin) {
                Some("*") if !self.response_vary => "*".to_owned(),
                _ => origin.to_owned(),
            },
            methods: rule.allowed_methods.join(", "),
            headers: joined(&asked),
            expose: joined(&rule.expose_headers),
            max_age_seconds: rule.max_age_seconds,
        })
    }
}

impl CorsRule {
    fn read(rule: &Element) -> Result<Self, OssError> {
        let values = |name| -> Vec<String> {
            let elements = rule.children_named(name);
            let texts = elements.map(|element| element.text().trim().to_owned());
            texts.filter(|text| !text.is_empty()).collect()
        };
        let read = Self {
            allowed_origins: values("AllowedOrigin"),
            allowed_methods: values("AllowedMethod"),
            allowed_headers: values("AllowedHeader")
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            expose_headers: values("ExposeHeader"),
            max_age_seconds: max_age(rule)?,
        };
        if read.allowed_origins.is_empty() || read.allowed_methods.is_empty() {
            return Err(malformed_xml(
                "a rule needs an AllowedOrigin and an AllowedMethod",
            ));
        }
        let refuse = |message: &'static str, name, value: &str| {
            Err(OssError::invalid_argument(message, name, value))
        };
        for method in &read.allowed_methods {
            if !METHODS.contains(&method.as_str()) {
                let message = "AllowedMethod must be GET, PUT, DELETE, POST or HEAD.";
                return refuse(message, "AllowedMethod", method);
            }
        }
        for (name, patterns) in [
            ("AllowedOrigin", &read.allowed_origins),
            ("AllowedHeader", &read.allowed_headers),
        ] {
            if let Some(bad) = patterns.iter().find(|p| p.matches('*').count() > 1) {
                return refuse("There can be one * at most.", name, bad);
            }
        }
        if let Some(bad) = read.expose_headers.iter().find(|name| name.contains('*')) {
            return refuse("ExposeHeader can have no *.", "ExposeHeader", bad);
        }
        let texts = read.allowed_origins.iter().chain(&read.expose_headers);
        for text in texts.chain(&read.allowed_headers) {
            // They are sent back in headers.
            if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
                return refuse("The value is not one of a header.", "CORSRule", text);
            }
        }
        Ok(read)
    }

    /// The pattern that an origin fits.
    fn origin(&self, origin: &str) -> Option<&str> {
        let mut patterns = self.allowed_origins.iter();
        patterns
            .find(|pattern| fits(pattern, origin))
            .map(String::as_str)
    }
}

fn max_age(rule: &Element) -> Result<Option<u64>, OssError> {
    let Some(text) = rule.optional_text("MaxAgeSeconds")? else {
        return Ok(None);
    };
    let seconds = text.parse().ok().filter(|s| *s <= MAX_AGE_SECONDS_MAX);
    seconds.map(Some).ok_or_else(|| {
        let message = "MaxAgeSeconds must be an integer between 0 and 999999999.";
        OssError::invalid_argument(message, "MaxAgeSeconds", text)
    })
}

/// Whether a text fits a pattern with at most one `*`.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            text.len() >= before.len() + after.len()
                && text.starts_with(before)
                && text.ends_with(after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code::ErrorCode;

    const RULES: &str = "<CORSConfiguration>\
        <CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
        <AllowedMethod>HEAD</AllowedMethod><AllowedHeader>X-One</AllowedHeader>\
        <ExposeHeader>x-oss-test</ExposeHeader><ExposeHeader>ETag</ExposeHeader>\
        <MaxAgeSeconds>60</MaxAgeSeconds></CORSRule>\
        <CORSRule><AllowedOrigin>http://www.example.com</AllowedOrigin>\
        <AllowedOrigin>https://*.example.org</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>\
        <AllowedMethod>POST</AllowedMethod><AllowedHeader>*</AllowedHeader></CORSRule>";

    fn rules(vary: bool) -> CorsConfiguration {
        let vary = format!("{RULES}<ResponseVary>{vary}</ResponseVary></CORSConfiguration>");
        CorsConfiguration::parse(vary.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = rules(false);
        let grant = |origin, method, headers| rules.grant(origin, method, headers);
        let read = grant("http://any", "GET", "").unwrap();
        assert_eq!(
            (read.origin.as_str(), read.methods.as_str()),
            ("*", "GET, HEAD")
        );
        assert_eq!(read.expose.as_deref(), Some("x-oss-test, ETag"));
        assert_eq!((read.headers, read.max_age_seconds), (None, Some(60)));
        let write = grant("http://www.example.com", "PUT", "X-Oss-Test2, x-b").unwrap();
        assert_eq!(write.origin, "http://www.example.com");
        assert_eq!(write.methods, "PUT, POST");
        assert_eq!(write.headers.as_deref(), Some("x-oss-test2, x-b"));
        assert_eq!((write.expose, write.max_age_seconds), (None, None));
        assert!(grant("https://a.b.example.org", "POST", "").is_some());
        for (origin, method, headers) in [
            ("http://any", "PUT", ""),
            ("http://any", "GET", "x-two"),
            ("https://example.org", "PUT", ""),
            ("http://www.example.com", "DELETE", ""),
            ("http://WWW.example.com", "PUT", ""),
        ] {
            assert_eq!(grant(origin, method, headers), None, "{origin} {method}");
        }
    }

    #[test]
    fn caches_that_tell_origins_apart_get_the_origin() {
        let grant = rules(true).grant("http://any", "GET", "").unwrap();
        assert_eq!(grant.origin, "http://any");
    }

    #[test]
    fn what_is_written_is_read() {
        for vary in [false, true] {
            let rules = rules(vary);
            assert_eq!(rules.rules[0].allowed_headers, ["x-one"]);
            assert_eq!(CorsConfiguration::parse(&rules.to_xml()).unwrap(), rules);
        }
    }

    #[test]
    fn refusals() {
        let body = |inner: &str| format!("<CORSConfiguration>{inner}</CORSConfiguration>");
        let rule = |inner: &str| {
            body(&format!(
                "<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>{inner}\
                 </CORSRule>"
            ))
        };
        let one = "<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule>";
        for (body, code) in [
            (body(""), ErrorCode::MalformedXML),
            (body("<CORSRule/>"), ErrorCode::MalformedXML),
            (body(&one.repeat(21)), ErrorCode::InvalidArgument),
            (
                rule("<AllowedMethod>PATCH</AllowedMethod>"),
                ErrorCode::InvalidArgument,
            ),
            (
                rule("<AllowedOrigin>*.*</AllowedOrigin>"),
                ErrorCode::InvalidArgument,
            ),
            (
                rule("<AllowedOrigin>a&#10;b</AllowedOrigin>"),
                ErrorCode::InvalidArgument,
            ),
            (
                rule("<ExposeHeader>*</ExposeHeader>"),
                ErrorCode::InvalidArgument,
            ),
            (
                rule("<MaxAgeSeconds>-1</MaxAgeSeconds>"),
                ErrorCode::InvalidArgument,
            ),
            (
                rule("<MaxAgeSeconds>1000000000</MaxAgeSeconds>"),
                ErrorCode::InvalidArgument,
            ),
        ] {
            assert_eq!(
                CorsConfiguration::parse(body.as_bytes())
                    .unwrap_err()
                    .code(),
                code,
                "{body}"
            );
        }
        let bad = rule("<MaxAgeSeconds>-1</MaxAgeSeconds>");
        let error = CorsConfiguration::parse(bad.as_bytes()).unwrap_err();
        assert_eq!(error.extra_value("ArgumentName"), Some("MaxAgeSeconds"));
        assert_eq!(error.extra_value("ArgumentValue"), Some("-1"));
        assert!(CorsConfiguration::parse(body(&one.repeat(20)).as_bytes()).is_ok());
    }
}
