//! The body of a callback: a text with `${variables}`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use granary_types::limits::CALLBACK_BODY_BYTES_MAX;

use super::BodyType;
use crate::escape;

/// What was stored, for the variables.
#[derive(Clone, Debug)]
pub struct Stored<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// The key.
    pub object: &'a str,
    /// The object's tag, without quotation marks.
    pub etag: &'a str,
    /// Its bytes.
    pub size: u64,
    /// Its `Content-Type`.
    pub mime_type: &'a str,
    /// Its CRC-64, if it has one.
    pub crc64: Option<u64>,
    /// Base64 of its MD5, where it is known.
    pub content_md5: Option<String>,
    /// Who uploaded it.
    pub client_ip: IpAddr,
    /// The id of the upload.
    pub request_id: &'a str,
    /// The operation's name.
    pub operation: &'a str,
}

/// Variables of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Bucket,
    Object,
    Etag,
    Size,
    MimeType,
    Crc64,
    ContentMd5,
    ClientIp,
    ReqId,
    Operation,
    /// What this store knows nothing of: images, virtual private clouds.
    Empty,
}

const SYSTEM: [(&str, System); 14] = [
    ("bucket", System::Bucket),
    ("object", System::Object),
    ("etag", System::Etag),
    ("size", System::Size),
    ("mimeType", System::MimeType),
    ("crc64", System::Crc64),
    ("contentMd5", System::ContentMd5),
    ("clientIp", System::ClientIp),
    ("reqId", System::ReqId),
    ("operation", System::Operation),
    ("vpcId", System::Empty),
    ("imageInfo.height", System::Empty),
    ("imageInfo.width", System::Empty),
    ("imageInfo.format", System::Empty),
];

/// A text with variables in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable {
        name: Variable,
        /// Whether it stands inside a string, if the text is JSON.
        in_string: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    System(System),
    /// `x:name`.
    Custom(String),
}

impl Template {
    /// Reads a text; `None` when a variable does not end, or is not known.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        let (mut in_string, mut escaped) = (false, false);
        while let Some((before, after)) = rest.split_once("${") {
            for c in before.chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if in_string => escaped = true,
                    '"' => in_string = !in_string,
                    _ => {}
                }
            }
            let (name, after) = after.split_once('}')?;
            pieces.push(Piece::Text(before.to_owned()));
            let name = match name.starts_with("x:") {
                true => Variable::Custom(name.to_owned()),
                false => Variable::System(SYSTEM.iter().find(|(known, _)| *known == name)?.1),
            };
            pieces.push(Piece::Variable { name, in_string });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Some(Self(pieces))
    }

    /// The text with every variable replaced, as the body's type writes values; `None` when that
    /// is longer than a body may be.
    pub(super) fn render(
        &self,
        body_type: BodyType,
        stored: &Stored<'_>,
        custom: &BTreeMap<String, String>,
    ) -> Option<String> {
        let mut text = String::new();
        for piece in &self.0 {
            if text.len() > CALLBACK_BODY_BYTES_MAX {
                return None;
            }
            let (name, in_string) = match piece {
                Piece::Text(plain) => {
                    text.push_str(plain);
                    continue;
                }
                Piece::Variable { name, in_string } => (name, *in_string),
            };
            let value = match name {
                Variable::System(system) => system.value(stored),
                Variable::Custom(name) => custom.get(name).cloned().unwrap_or_default(),
            };
            let is_number = matches!(name, Variable::System(System::Size));
            match body_type {
                BodyType::Form => text.push_str(&escape::encode(value.as_bytes())),
                BodyType::Json if is_number && !in_string => text.push_str(&value),
                BodyType::Json => {
                    let quoted = serde_json::Value::from(value).to_string();
                    let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
                    text.push_str(match (in_string, inner) {
                        (true, Some(inner)) => inner,
                        _ => &quoted,
                    });
                }
            }
        }
        (text.len() <= CALLBACK_BODY_BYTES_MAX).then_some(text)
    }
}

impl System {
    fn value(self, stored: &Stored<'_>) -> String {
        match self {
            Self::Bucket => stored.bucket.to_owned(),
            Self::Object => stored.object.to_owned(),
            Self::Etag => stored.etag.to_owned(),
            Self::Size => stored.size.to_string(),
            Self::MimeType => stored.mime_type.to_owned(),
            Self::Crc64 => stored.crc64.map(|crc| crc.to_string()).unwrap_or_default(),
            Self::ContentMd5 => stored.content_md5.clone().unwrap_or_default(),
            Self::ClientIp => stored.client_ip.to_string(),
            Self::ReqId => stored.request_id.to_owned(),
            Self::Operation => stored.operation.to_owned(),
            Self::Empty => String::new(),
        }
    }
}
