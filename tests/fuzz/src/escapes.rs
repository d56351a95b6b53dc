//! Percent-encoding once more, written in another way than `granary_oss::escape`.

/// Percent-encodes all but letters, digits and `-._~`.
pub fn encoded(bytes: &[u8]) -> String {
    let one = |byte: &u8| match char::from(*byte) {
        plain @ ('A'..='Z' | 'a'..='z' | '0'..='9' | '-' | '.' | '_' | '~') => plain.to_string(),
        _ => format!("%{byte:02X}"),
    };
    bytes.iter().map(one).collect()
}

/// Decodes what stands in a query: `+` is a space, and a `%` that begins no escape is one.
pub fn decoded_query(text: &str) -> Vec<u8> {
    decoded(&text.replace('+', " ")).0
}

/// Decodes a path; `None` when a `%` begins no escape.
pub fn decoded_path(text: &str) -> Option<Vec<u8>> {
    let (bytes, well_formed) = decoded(text);
    well_formed.then_some(bytes)
}

fn decoded(text: &str) -> (Vec<u8>, bool) {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    let mut well_formed = true;
    for piece in pieces {
        let digits = piece.get(..2);
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => {
                well_formed = false;
                bytes.push(b'%');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    (bytes, well_formed)
}
