//! Reads request bodies into a small bounded tree, refusing what the service refuses.
//!
//! Refused (MalformedXML): a wrong root element, anything but comments after it, a DTD or a named
//! entity other than XML's five, unbalanced tags, bytes that are not UTF-8, more than the limits below.
//! Accepted although strict parsers refuse it: control characters, raw or as references (`&#x1;`),
//! because clients store keys made of them. Namespaces and attributes are ignored.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::error::OssError;
use crate::error_code::ErrorCode;

/// Elements of one document: 10,000 parts with three elements each, and room to spare.
const ELEMENTS_MAX: usize = 65_536;
/// Nesting of one document; the deepest schema of the API has fewer than ten levels.
const DEPTH_MAX: usize = 32;

/// An element: its local name, its own text, its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The name without its namespace prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text with its white space, references resolved; CDATA included, children excluded.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The child elements in document order.
    pub fn children(&self) -> &[Element] {
        &self.children
    }

    /// The child elements of one name.
    pub fn children_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The only child of that name; `None` when there is none.
    ///
    /// # Errors
    /// MalformedXML when there are several.
    pub fn optional(&self, name: &str) -> Result<Option<&Element>, OssError> {
        let mut found = self.children.iter().filter(|child| child.name == name);
        match (found.next(), found.next()) {
            (first, None) => Ok(first),
            _ => Err(malformed_xml(format!(
                "the element {name} occurs more than once"
            ))),
        }
    }

    /// The only child of that name.
    ///
    /// # Errors
    /// MalformedXML when there is none or there are several.
    pub fn required(&self, name: &str) -> Result<&Element, OssError> {
        self.optional(name)?
            .ok_or_else(|| malformed_xml(format!("the element {name} is missing")))
    }

    /// The trimmed text of the only child of that name; `None` when absent or empty.
    ///
    /// # Errors
    /// MalformedXML when there are several.
    pub fn optional_text(&self, name: &str) -> Result<Option<&str>, OssError> {
        Ok(self
            .optional(name)?
            .map(|child| child.text.trim())
            .filter(|text| !text.is_empty()))
    }
}

/// The service's answer to a body it cannot use; `reason` is kept for the log.
pub fn malformed_xml(reason: impl Into<String>) -> OssError {
    OssError::new(ErrorCode::MalformedXML).source(reason.into())
}

/// Reads a document whose root must be `root`.
///
/// # Errors
/// MalformedXML; see the module's comment.
pub fn parse(body: &[u8], root: &str) -> Result<Element, OssError> {
    let text = std::str::from_utf8(body).map_err(|_| malformed_xml("the body is not UTF-8"))?;
    let mut reader = Reader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut tree = Tree {
        root,
        open: Vec::new(),
        done: None,
        elements: 0,
    };
    loop {
        let event = reader
            .read_event()
            .map_err(|error| malformed_xml(error.to_string()))?;
        match event {
            Event::Start(start) => tree.start(&start)?,
            Event::Empty(start) => {
                tree.start(&start)?;
                tree.end();
            }
            Event::End(_) => tree.end(),
            Event::Text(text) => tree.text(&text.into_inner())?,
            Event::CData(data) => tree.text(&data.into_inner())?,
            Event::GeneralRef(reference) => tree.text(&resolve(&reference.into_inner())?)?,
            Event::DocType(_) => return Err(malformed_xml("a DTD is not allowed")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    if !tree.open.is_empty() {
        return Err(malformed_xml("the document ends inside an element"));
    }
    tree.done
        .ok_or_else(|| malformed_xml("the document has no root element"))
}

struct Tree<'a> {
    root: &'a str,
    open: Vec<Element>,
    done: Option<Element>,
    elements: usize,
}

impl Tree<'_> {
    fn start(&mut self, start: &BytesStart<'_>) -> Result<(), OssError> {
        let local_name = start.local_name();
        let name: &str = local_name.as_ref();
        self.elements += 1;
        if self.done.is_some() {
            return Err(malformed_xml("there is an element after the root"));
        }
        if self.open.is_empty() && name != self.root {
            return Err(malformed_xml(format!("the root is not {}", self.root)));
        }
        if self.elements > ELEMENTS_MAX || self.open.len() >= DEPTH_MAX {
            return Err(malformed_xml("the document is too large"));
        }
        self.open.push(Element {
            name: name.to_owned(),
            ..Element::default()
        });
        Ok(())
    }

    fn end(&mut self) {
        if let Some(element) = self.open.pop() {
            match self.open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => self.done = Some(element),
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<(), OssError> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(malformed_xml("there is text outside the root")),
        }
        Ok(())
    }
}

/// A reference without its `&` and `;`. Any character but NUL may be written by number.
fn resolve(reference: &str) -> Result<String, OssError> {
    let unknown = || malformed_xml(format!("the reference &{reference}; is not allowed"));
    let character = match reference {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = reference.strip_prefix('#').ok_or_else(unknown)?;
            let (digits, radix) = match number.strip_prefix(['x', 'X']) {
                Some(digits) => (digits, 16),
                None => (number, 10),
            };
            let unsigned = digits.bytes().all(|b| b.is_ascii_hexdigit());
            u32::from_str_radix(digits, radix)
                .ok()
                .filter(|code| unsigned && *code != 0)
                .and_then(char::from_u32)
                .ok_or_else(unknown)?
        }
    };
    Ok(character.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Writer;
    use proptest::prelude::*;

    #[test]
    fn reads_what_clients_send() {
        let body = "\u{feff}<?xml version='1.0' encoding='UTF-8'?>\n<!-- c --><A xmlns=\"http://doc\" b='1'>\
                    <p:K> a&#x1;&#2;&amp;<!-- x -->b<![CDATA[<c>]]> </p:K><E/><E></E></A>\n<!-- end -->";
        let root = parse(body.as_bytes(), "A").unwrap();
        assert_eq!(root.required("K").unwrap().text(), " a\u{1}\u{2}&b<c> ");
        assert_eq!(root.children_named("E").count(), 2);
        assert!(root.optional("E").is_err());
        assert_eq!(root.optional_text("K").unwrap(), Some("a\u{1}\u{2}&b<c>"));
        assert_eq!(root.optional_text("X").unwrap(), None);
    }

    #[test]
    fn refuses_what_the_service_refuses() {
        let deep = format!("<A>{}{}</A>", "<B>".repeat(40), "</B>".repeat(40));
        let wide = format!("<A>{}</A>", "<B/>".repeat(70_000));
        let bodies: &[&[u8]] = &[
            b"",
            b"   ",
            b"text",
            b"<B></B>",
            b"<A>",
            b"<A><B></A></B>",
            b"</A>",
            b"<A></A><A></A>",
            b"<A></A>junk",
            b"junk<A></A>",
            b"<!DOCTYPE A [<!ENTITY x 'y'>]><A>&x;</A>",
            b"<A>&x;</A>",
            b"<A>&#0;</A>",
            b"<A>&#xD800;</A>",
            b"<A>&#+1;</A>",
            b"<A>\xff</A>",
            deep.as_bytes(),
            wide.as_bytes(),
        ];
        for body in bodies {
            let outcome = parse(body, "A").map_err(|error| error.code());
            let shown = String::from_utf8_lossy(body.get(..body.len().min(60)).unwrap());
            assert_eq!(outcome, Err(ErrorCode::MalformedXML), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "[^\0]{0,40}") {
            let mut xml = Writer::new("R");
            xml.elem("K", &text);
            let root = parse(&xml.finish(), "R").unwrap();
            prop_assert_eq!(root.required("K").unwrap().text(), text);
        }

        #[test]
        fn arbitrary_bytes_never_panic(body: Vec<u8>) {
            let _ = parse(&body, "A");
        }
    }
}
