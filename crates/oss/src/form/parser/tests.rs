//! Forms as browsers and libraries send them, cut in every way.

use granary_types::limits::FORM_BOUNDARY_BYTES_MAX;
use proptest::prelude::*;

use super::*;

const TYPE: &[u8] = b"multipart/form-data; boundary=XyZ";

fn parser() -> FormParser {
    FormParser::new(TYPE).unwrap()
}

/// The events of a body that comes in these pieces, with the file's bytes as one.
fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<FormEvent>, FormError> {
    let mut parser = parser();
    let mut events: Vec<FormEvent> = Vec::new();
    for piece in pieces {
        parser.feed(piece);
        while let Some(event) = parser.next_event()? {
            match (events.last_mut(), event) {
                (Some(FormEvent::Data(file)), FormEvent::Data(more)) => {
                    *file = Bytes::from([&file[..], &more[..]].concat());
                }
                (_, event) => events.push(event),
            }
        }
    }
    Ok(events)
}

fn whole(body: &[u8]) -> Result<Vec<FormEvent>, FormError> {
    events([body])
}

fn field(name: &str, value: &str) -> FormEvent {
    FormEvent::Field {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

fn file(name: Option<&str>, content_type: Option<&str>) -> FormEvent {
    FormEvent::File(FilePart {
        filename: name.map(str::to_owned),
        content_type: content_type.map(str::to_owned),
    })
}

fn data(bytes: &[u8]) -> FormEvent {
    FormEvent::Data(Bytes::copy_from_slice(bytes))
}

const PLAIN: &[u8] = b"--XyZ\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\na/b\r\n\
    --XyZ\r\nContent-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n\
    --XyZ\r\nContent-Disposition: form-data; name=\"File\"; filename=\"x.png\"\r\nContent-Type: image/png\r\n\r\n\
    one\r\n--Xy\r\n--XyZ1\r\n--XyZ-\r\ntwo\r\n--XyZ--\r\nepilogue";

fn plain() -> Vec<FormEvent> {
    vec![
        field("key", "a/b"),
        field("empty", ""),
        file(Some("x.png"), Some("image/png")),
        data(b"one\r\n--Xy\r\n--XyZ1\r\n--XyZ-\r\ntwo"),
        FormEvent::FileEnd,
        FormEvent::End,
    ]
}

#[test]
fn a_form_is_read_however_it_is_cut() {
    assert_eq!(whole(PLAIN).unwrap(), plain());
    assert_eq!(events(PLAIN.chunks(1)).unwrap(), plain());
    for cut in 0..PLAIN.len() {
        let (one, two) = PLAIN.split_at(cut);
        assert_eq!(events([one, two]).unwrap(), plain(), "cut at {cut}");
    }
}

#[test]
fn the_file_is_not_kept() {
    let mut parser = parser();
    parser.feed(b"--XyZ\r\nContent-Disposition: form-data; name=file\r\n\r\nx");
    assert_eq!(parser.next_event(), Ok(Some(file(None, None))));
    for _ in 0..64 {
        parser.feed(&[b'x'; 64 * 1024]);
        while let Some(FormEvent::Data(_)) = parser.next_event().unwrap() {}
        assert!(parser.held() < 1024, "{}", parser.held());
    }
}

#[test]
fn unusual_forms_are_read() {
    // A preamble, spaces behind boundaries, a part without a body, a file without a name.
    let body = b"preamble\r\n--XyZ \t\r\ncontent-disposition:form-data;name=a\r\n\r\n--XyZ\r\n\
        Content-Disposition: form-data; name=\"file\"\r\nX-Other: 1\r\n\r\n--XyZ--";
    let expected = [
        field("a", ""),
        file(None, None),
        FormEvent::FileEnd,
        FormEvent::End,
    ];
    assert_eq!(whole(body).unwrap(), expected);
    assert_eq!(events(body.chunks(1)).unwrap(), expected);
    assert_eq!(whole(b"--XyZ--").unwrap(), [FormEvent::End]);
    assert_eq!(whole(b"--XyZ").unwrap(), []);
}

#[test]
fn nested_forms_are_bytes() {
    let inner =
        b"--XyZinner\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nz\r\n--XyZinner--\r\n";
    let body = [
        b"--XyZ\r\nContent-Disposition: form-data; name=\"file\"\r\nContent-Type: multipart/form-data; boundary=XyZinner\r\n\r\n",
        &inner[..],
        b"\r\n--XyZ--\r\n",
    ]
    .concat();
    let read = whole(&body).unwrap();
    assert_eq!(read[1..], [data(inner), FormEvent::FileEnd, FormEvent::End]);
    assert_eq!(events(body.chunks(1)).unwrap(), read);
}

#[test]
fn what_is_no_form_is_told() {
    let part = |header: &str| format!("--XyZ\r\n{header}\r\n\r\nv\r\n--XyZ--");
    for header in [
        "Content-Type: text/plain",
        "Content-Disposition: form-data",
        "Content-Disposition: attachment; name=\"a\"",
        "no header at all",
        ": nothing",
        "Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b",
    ] {
        let error = whole(part(header).as_bytes()).unwrap_err();
        assert!(
            matches!(error, FormError::Malformed(_)),
            "{header}: {error:?}"
        );
    }
    let not_text = b"--XyZ\r\nContent-Disposition: form-data; name=a\r\n\r\n\xff\r\n--XyZ--";
    assert!(matches!(whole(not_text), Err(FormError::Malformed(_))));
    let coded =
        "Content-Disposition: form-data; name=\"file\"\r\nContent-Transfer-Encoding: base64";
    assert_eq!(whole(part(coded).as_bytes()), Err(FormError::Encoded));
    let two = "--XyZ\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n1\r\n".repeat(2);
    assert_eq!(whole(two.as_bytes()), Err(FormError::Files));
    for content_type in [&b""[..], b"text/plain"] {
        assert_eq!(
            FormParser::new(content_type).unwrap_err(),
            FormError::ContentType
        );
    }
    assert!(matches!(
        FormParser::new(b"multipart/form-data"),
        Err(FormError::Malformed(_))
    ));
}

const FILE_PART: &str = "--XyZ\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n1\r\n";

fn part(name: &str, value: &str) -> String {
    format!("--XyZ\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

#[test]
fn fields_behind_the_file_are_passed_over_unless_they_mean_something() {
    let file = [
        file(None, None),
        data(b"1"),
        FormEvent::FileEnd,
        FormEvent::End,
    ];
    for name in ["submit", "Upload to OSS", "name", "x", "x-os", "keys"] {
        let body = FILE_PART.to_owned() + &part(name, "go") + &part("empty", "") + "--XyZ--";
        assert_eq!(whole(body.as_bytes()).unwrap(), file, "{name}");
        assert_eq!(events(body.as_bytes().chunks(1)).unwrap(), file, "{name}");
    }
    for name in [
        "key",
        "Policy",
        "OSSAccessKeyId",
        "signature",
        "x-oss-credential",
        "x-oss-meta-a",
        "X-OSS-Object-Acl",
        "callback",
        "x:var",
        "success_action_status",
        "success_action_redirect",
        "Content-Type",
        "Content-Disposition",
        "Cache-Control",
        "Expires",
        "If-Match",
    ] {
        let body = FILE_PART.to_owned() + &part("submit", "go") + &part(name, "") + "--XyZ--";
        let error = FormError::Malformed("the file must be the last field");
        assert_eq!(whole(body.as_bytes()), Err(error), "{name}");
    }
    let two = FILE_PART.to_owned() + &part("submit", "go") + FILE_PART + "--XyZ--";
    assert_eq!(whole(two.as_bytes()), Err(FormError::Files));
}

#[test]
fn what_is_passed_over_is_not_kept_and_has_an_end() {
    let mut parser = parser();
    parser.feed(FILE_PART.as_bytes());
    parser.feed(b"--XyZ\r\nContent-Disposition: form-data; name=submit\r\n\r\n");
    while parser.next_event().unwrap().is_some() {}
    for _ in 0..FORM_FIELD_VALUE_BYTES_MAX / 65536 {
        parser.feed(&[b'x'; 65536]);
        assert_eq!(parser.next_event(), Ok(None));
        assert!(parser.held() < 1024, "{}", parser.held());
    }
    parser.feed(b"x");
    assert!(matches!(parser.next_event(), Err(FormError::TooLong(_))));
    let many = FILE_PART.to_owned() + &part("a", "").repeat(FORM_FIELDS_MAX + 1);
    assert!(matches!(whole(many.as_bytes()), Err(FormError::TooLong(_))));
    let value = part("a", &"v".repeat(FORM_FIELD_VALUE_BYTES_MAX));
    let large = FILE_PART.to_owned() + &value + &value + &part("a", "v");
    assert!(matches!(
        whole(large.as_bytes()),
        Err(FormError::TooLong(_))
    ));
}

#[test]
fn everything_that_is_kept_is_bounded() {
    let end = "--XyZ--";
    let too_long = |body: String| {
        let error = events(body.as_bytes().chunks(7001)).unwrap_err();
        assert!(matches!(error, FormError::TooLong(_)), "{error:?}");
    };
    let name = "n".repeat(FORM_FIELD_NAME_BYTES_MAX);
    let value = "v".repeat(FORM_FIELD_VALUE_BYTES_MAX);
    assert!(whole((part(&name, &value) + end).as_bytes()).is_ok());
    too_long(part(&format!("{name}n"), "") + end);
    too_long(part("a", &format!("{value}v")) + end);
    too_long(part("a", &value) + &part("b", &value) + &part("c", "v") + end);
    too_long(part("a", "").repeat(FORM_FIELDS_MAX + 1) + end);
    // Neither ends.
    too_long(format!(
        "--XyZ\r\nX: {}",
        "h".repeat(FORM_PART_HEADER_BYTES_MAX)
    ));
    too_long(format!(
        "--XyZ\r\n{}",
        "X: h\r\n".repeat(FORM_PART_HEADER_BYTES_MAX)
    ));
    let preamble = vec![b'p'; 2 * FORM_PADDING_BYTES_MAX];
    assert!(matches!(whole(&preamble), Err(FormError::Malformed(_))));
    assert_eq!(FORM_BOUNDARY_BYTES_MAX, 70);
}

proptest! {
    /// Whatever bytes come: no panic, and the same events for every way of cutting them.
    #[test]
    fn events_do_not_depend_on_the_cuts(
        pieces in prop::collection::vec(prop_oneof![
            Just(&b"\r\n"[..]), Just(&b"--"[..]), Just(&b"--XyZ"[..]), Just(&b"\r\n--XyZ\r\n"[..]),
            Just(&b"\r\n--XyZ--"[..]), Just(&b"\r"[..]), Just(&b"-"[..]), Just(&b" "[..]), Just(&b"x"[..]),
            Just(&b"Content-Disposition: form-data; name=\"a\"\r\n\r\n"[..]),
            Just(&b"Content-Disposition: form-data; name=\"key\"\r\n\r\n"[..]),
            Just(&b"Content-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n"[..]),
        ], 0..24),
        cut in 1usize..9,
    ) {
        let body = pieces.concat();
        prop_assert_eq!(events(body.chunks(cut)), whole(&body));
    }
}
