//! Ordered raw query parameters and their decoded lookups.
//!
//! The raw spelling is kept because signature V4 canonicalises it; everything else looks at decoded
//! names and values. Knows no parameter by name. The number of parameters is bounded.

use crate::error::OssError;
use crate::error_code::ErrorCode;
use crate::escape;

/// Parameters of one request at most; the longest real request (a presigned V4 GET with every
/// response override and a processing instruction) has fewer than thirty.
const PARAMETERS_MAX: usize = 256;

/// The query of a request, in the order of arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    parameters: Vec<Parameter>,
}

/// One parameter. `k` and `k=` are the same parameter with an empty value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What arrived: a name, and behind an `=` a value that is not empty.
    raw: String,
    /// Where the name ends.
    name_end: usize,
    /// Decoded, where that is something else.
    name: Option<String>,
    value: Option<String>,
}

impl Parameter {
    /// The name as it arrived, still percent-encoded.
    pub fn raw_name(&self) -> &str {
        self.raw.get(..self.name_end).unwrap_or_default()
    }

    /// The value as it arrived, still percent-encoded; empty for a bare name.
    pub fn raw_value(&self) -> &str {
        self.raw.get(self.name_end + 1..).unwrap_or_default()
    }

    /// The decoded name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.raw_name())
    }

    /// The decoded value; empty for a bare name.
    pub fn value(&self) -> &str {
        self.value.as_deref().unwrap_or_else(|| self.raw_value())
    }
}

impl Query {
    /// Parses what follows the `?` of a request target; `None` when there was no `?`.
    ///
    /// # Errors
    /// InvalidArgument when there are too many parameters or a decoded one is not UTF-8.
    pub fn parse(raw: Option<&str>) -> Result<Self, OssError> {
        let mut parameters = Vec::new();
        for pair in raw.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
            if parameters.len() == PARAMETERS_MAX {
                return Err(OssError::new(ErrorCode::InvalidArgument)
                    .message("The request has too many query parameters."));
            }
            let (raw_name, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
            let raw = if raw_value.is_empty() { raw_name } else { pair };
            parameters.push(Parameter {
                raw: raw.to_owned(),
                name_end: raw_name.len(),
                name: decode(raw_name)?,
                value: decode(raw_value)?,
            });
        }
        Ok(Self { parameters })
    }

    /// A query of decoded parameters, encoded as the SDKs do. For clients and tests.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut query = Self::default();
        for (name, value) in pairs {
            query.push(name, value);
        }
        query
    }

    /// Appends one decoded parameter. For clients and tests.
    pub fn push(&mut self, name: &str, value: &str) {
        let mut raw = escape::encode(name.as_bytes());
        let name_end = raw.len();
        let raw_value = escape::encode(value.as_bytes());
        if !value.is_empty() {
            raw.push('=');
            raw.push_str(&raw_value);
        }
        self.parameters.push(Parameter {
            name: (raw.get(..name_end) != Some(name)).then(|| name.to_owned()),
            value: (raw_value != value).then(|| value.to_owned()),
            raw,
            name_end,
        });
    }

    /// The decoded value of the first parameter of that name; `Some("")` for a bare name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|p| p.name() == name)
            .map(Parameter::value)
    }

    /// The first non-empty decoded value of that name: for parameters whose empty value means absent.
    pub fn get_non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// True when the parameter is there, with or without a value.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All parameters in the order of arrival, duplicates included.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter()
    }

    /// True when there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    /// The raw query as a request target carries it, without the `?`.
    pub fn to_raw(&self) -> String {
        let mut raw = String::new();
        for parameter in &self.parameters {
            if !raw.is_empty() {
                raw.push('&');
            }
            raw.push_str(&parameter.raw);
        }
        raw
    }
}

/// The decoded text, unless it is the same.
fn decode(raw: &str) -> Result<Option<String>, OssError> {
    if !raw.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Ok(None);
    }
    let decoded = String::from_utf8(escape::decode_query(raw)).map_err(|_| {
        OssError::new(ErrorCode::InvalidArgument)
            .message("The query parameters must be encoded in UTF-8.")
    })?;
    Ok(Some(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn looks_up_decoded_values() {
        let query = Query::parse(Some("acl&prefix=a%2Fb+c&&uploads=&x=1&x=2&=v")).unwrap();
        assert_eq!(query.get("acl"), Some(""));
        assert_eq!(query.get("uploads"), Some(""));
        assert_eq!(query.get_non_empty("uploads"), None);
        assert_eq!(query.get("prefix"), Some("a/b c"));
        assert_eq!(query.get("x"), Some("1"), "the first duplicate wins");
        assert_eq!(query.get("missing"), None);
        assert_eq!(query.get(""), Some("v"));
        assert_eq!(query.iter().count(), 6);
        let raw: Vec<_> = query
            .iter()
            .map(|p| (p.raw_name(), p.raw_value()))
            .collect();
        assert_eq!(raw[1], ("prefix", "a%2Fb+c"));
    }

    #[test]
    fn is_bounded_and_utf8() {
        assert!(Query::parse(None).unwrap().is_empty());
        let many = vec!["a"; PARAMETERS_MAX].join("&");
        assert!(Query::parse(Some(&many)).is_ok());
        let error = Query::parse(Some(&format!("{many}&a"))).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(Query::parse(Some("prefix=%FF")).is_err());
    }

    proptest! {
        #[test]
        fn what_clients_send_arrives(pairs in proptest::collection::vec((".{1,8}", ".{0,8}"), 0..8)) {
            let query = Query::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            prop_assert_eq!(Query::parse(Some(&query.to_raw())).unwrap(), query);
        }
    }
}
