//! Forms of browsers: the events of a form do not depend on how its bytes were cut, what is kept is
//! bounded, and a form that is written of what was read is read as the same.

#![no_main]

use granary_fuzz::{NOW, REGION, SECRET, checked, contains};
use granary_oss::callback::Callback;
use granary_oss::form::{
    FilePart, Form, FormError, FormEvent, FormParser, Success, redirect_target,
};
use granary_oss::query::Query;
use granary_oss::sign::SigningSecret;
use granary_oss::sign::post_policy::PostSignature;
use granary_types::limits::{
    FORM_BOUNDARY_BYTES_MAX, FORM_FIELD_NAME_BYTES_MAX, FORM_FIELD_VALUE_BYTES_MAX,
    FORM_FIELDS_MAX, OBJECT_KEY_BYTES_MAX,
};
use http::{HeaderMap, HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;

/// The boundary of the forms here.
const BOUNDARY: &[u8] = b"XyZ";
/// The one that forms are written again with.
const OTHER: &str = "the other boundary that is 0 no text";
/// Bytes that a parser may hold besides fields and a piece that it was fed: a delimiter.
const DELIMITER_BYTES_MAX: usize = FORM_BOUNDARY_BYTES_MAX + 128;

fuzz_target!(|data: &[u8]| {
    // The first byte says how the rest is cut.
    let Some((&cut, body)) = data.split_first() else {
        return;
    };
    check_content_type(body);
    let whole = events(BOUNDARY, body.chunks(body.len().max(1)));
    assert_eq!(events(BOUNDARY, body.chunks(usize::from(cut) + 1)), whole);
    assert_eq!(events(BOUNDARY, body.chunks(1)), whole);
    let events = match whole {
        Ok(events) => events,
        Err(error) => {
            checked::<()>(Err(error.to_oss()));
            return;
        }
    };
    check_again(&events, body);
    check_form(&events);
});

fn content_type(boundary: &[u8]) -> Vec<u8> {
    [b"multipart/form-data; boundary=\"", boundary, b"\""].concat()
}

/// The events of a body, with the file's bytes as one.
fn events<'a>(
    boundary: &[u8],
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<FormEvent>, FormError> {
    let mut parser = FormParser::new(&content_type(boundary)).expect("a legal boundary");
    let mut events: Vec<FormEvent> = Vec::new();
    let (mut fed, mut held_before_file) = (0, None);
    for piece in pieces {
        parser.feed(piece);
        fed += piece.len();
        while let Some(event) = parser.next_event()? {
            match (events.last_mut(), event) {
                (Some(FormEvent::Data(file)), FormEvent::Data(more)) => {
                    *file = [&file[..], &more[..]].concat().into();
                }
                (_, event) => events.push(event),
            }
        }
        assert!(parser.held() <= fed + 2);
        // The file's bytes are never kept.
        let began = events
            .iter()
            .any(|event| matches!(event, FormEvent::File(_)));
        if began && !events.contains(&FormEvent::FileEnd) {
            let before = *held_before_file.get_or_insert(parser.held());
            assert!(parser.held() <= before + DELIMITER_BYTES_MAX);
        }
    }
    Ok(events)
}

/// A boundary that is accepted separates parts.
fn check_content_type(line: &[u8]) {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(mut parser) = FormParser::new(line) else {
        return;
    };
    // Which one it is shows in that only the right one ends a part: with any other there is no event.
    parser.feed(b"--no boundary\r\n");
    assert!(parser.next_event().is_ok_and(|event| event.is_none()));
}

/// Writes the events as a form, as a browser does, and reads that.
fn check_again(events_read: &[FormEvent], body: &[u8]) {
    // Text that has the other boundary, or that has no way into a header line.
    let unwritable = |text: &str| text.contains(['\r', '\n']);
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let delimiter = format!("--{OTHER}");
    if contains(body, delimiter.as_bytes()) {
        return;
    }
    let mut form = Vec::new();
    let part = |head: String, value: &[u8]| {
        let head = format!("{delimiter}\r\nContent-Disposition: form-data; {head}\r\n\r\n");
        [head.as_bytes(), value, b"\r\n"].concat()
    };
    let mut file = None;
    for event in events_read {
        match event {
            FormEvent::Field { name, value } => {
                if unwritable(name) {
                    return;
                }
                let name = format!("name=\"{}\"", quoted(name));
                form.extend(part(name, value.as_bytes()));
            }
            FormEvent::File(read) => file = Some((read, Vec::new())),
            FormEvent::Data(bytes) => {
                if let Some((_, file)) = &mut file {
                    file.extend_from_slice(bytes);
                }
            }
            FormEvent::FileEnd => {
                let (
                    FilePart {
                        filename,
                        content_type,
                    },
                    bytes,
                ) = file.take().expect("it began");
                let texts = [filename, content_type];
                if texts.into_iter().flatten().any(|text| unwritable(text)) {
                    return;
                }
                let mut head = "name=\"file\"".to_owned();
                if let Some(filename) = filename {
                    head = format!("{head}; filename=\"{}\"", quoted(filename));
                }
                if let Some(content_type) = content_type {
                    head = format!("{head}\r\ncontent-type:{content_type}");
                }
                form.extend(part(head, &bytes));
            }
            FormEvent::End => form.extend_from_slice(format!("{delimiter}--").as_bytes()),
        }
    }
    // A form that breaks off is written up to there only.
    if events_read.last() == Some(&FormEvent::End) {
        let again = events(OTHER.as_bytes(), form.chunks(7));
        assert_eq!(again.as_deref(), Ok(events_read));
    }
}

fn check_form(events: &[FormEvent]) {
    let mut form = Form::default();
    let mut fields = 0;
    // What is passed over behind the file is no event.
    let is_file = |event: &&FormEvent| matches!(event, FormEvent::File(_));
    let mut behind = events.iter().skip_while(|event| !is_file(event));
    assert!(!behind.any(|event| matches!(event, FormEvent::Field { .. })));
    for event in events {
        match event {
            FormEvent::Field { name, value } => {
                assert!((1..=FORM_FIELD_NAME_BYTES_MAX).contains(&name.len()));
                assert!(value.len() <= FORM_FIELD_VALUE_BYTES_MAX);
                fields += 1;
                form.add(name, value.clone());
                assert!(form.field(&name.to_ascii_lowercase()).is_some());
            }
            FormEvent::File(file) => form.set_file(file.clone()),
            _ => {}
        }
    }
    assert!(fields <= FORM_FIELDS_MAX);
    if let Some(key) = checked(form.key()) {
        assert!((1..=OBJECT_KEY_BYTES_MAX).contains(&key.as_bytes().len()));
    }
    if let Some(headers) = checked(form.headers()) {
        for (name, value) in &headers {
            let name = name.as_str();
            assert!(!["authorization", "x-oss-signature", "x-oss-date"].contains(&name));
            let field = form.field(name).map(str::as_bytes);
            assert!(field == Some(value.as_bytes()) || name == "content-type");
        }
    }
    if let Some(Success::Redirect(page)) = checked(form.success()) {
        let target = redirect_target(&page, "bucket", "a key", "\"ETAG\"");
        HeaderValue::try_from(target.as_str()).expect("it is sent as Location");
        let (before, after): (Uri, Uri) =
            (page.parse().expect("a URL"), target.parse().expect("a URL"));
        assert_eq!(before.authority(), after.authority());
        assert_eq!(before.path(), after.path());
    }
    let _ = checked(Callback::of_form(
        &form,
        &HeaderMap::new(),
        &Query::default(),
    ));
    // Nobody can sign without the secret.
    if let Some(Some(signature)) = checked(PostSignature::of(&form)) {
        assert!(checked(signature.verify(&SigningSecret::new(SECRET), NOW, REGION)).is_none());
        let _ = checked(signature.policy());
    }
}
