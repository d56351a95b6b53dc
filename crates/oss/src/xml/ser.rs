//! Writes response documents: declaration, two-space indentation and escaping as the service sends them.
//!
//! Invariant: whatever text goes in, the document is well-formed enough for the SDKs' parsers.
//! Control characters, which XML 1.0 cannot carry raw, become decimal references (`&#1;`), the form
//! the service uses; clients that list such keys ask for `encoding-type=url` and never see them.

use std::fmt::{self, Write as _};

/// A document under construction.
#[derive(Debug)]
pub struct Writer {
    document: String,
    open: Vec<&'static str>,
}

impl Writer {
    /// Starts a document with its root element.
    pub fn new(root: &'static str) -> Self {
        Self::with_capacity(root, 512)
    }

    /// Like [`Writer::new`], with room for `bytes`.
    pub fn with_capacity(root: &'static str, bytes: usize) -> Self {
        let mut document = String::with_capacity(bytes);
        document.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let mut writer = Self {
            document,
            open: Vec::with_capacity(4),
        };
        writer.open(root);
        writer
    }

    /// Opens a nested element.
    pub fn open(&mut self, name: &'static str) -> &mut Self {
        self.indent();
        self.tag("<", name, ">\n");
        self.open.push(name);
        self
    }

    /// Closes the innermost open element. One that nothing was written into stays on its line: there
    /// are clients that take white space in it for its content.
    pub fn close(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            if self.ends_with_start_of(name) {
                self.document.pop();
            } else {
                self.indent();
            }
            self.tag("</", name, ">\n");
        }
        self
    }

    /// Writes an element with text; empty text gives `<name></name>`.
    pub fn elem(&mut self, name: &str, text: impl fmt::Display) -> &mut Self {
        self.indent();
        self.tag("<", name, ">");
        // Writing to a String cannot fail.
        let _ = write!(Escaping(&mut self.document), "{text}");
        self.tag("</", name, ">\n");
        self
    }

    /// Writes the element only when there is a value.
    pub fn elem_if<T: fmt::Display>(&mut self, name: &str, text: Option<T>) -> &mut Self {
        if let Some(text) = text {
            self.elem(name, text);
        }
        self
    }

    /// Writes what `content` writes inside a nested element.
    pub fn nested(&mut self, name: &'static str, content: impl FnOnce(&mut Self)) -> &mut Self {
        self.open(name);
        content(self);
        self.close()
    }

    /// Closes everything that is open and returns the document's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        while !self.open.is_empty() {
            self.close();
        }
        self.document.into_bytes()
    }

    /// A document whose root has text and no elements.
    pub fn text_document(root: &'static str, text: &str) -> Vec<u8> {
        let document = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        let mut writer = Self {
            document,
            open: Vec::new(),
        };
        writer.elem(root, text);
        writer.finish()
    }

    /// Text is escaped: what looks like a tag is one.
    fn ends_with_start_of(&self, name: &str) -> bool {
        let tag = self.document.strip_suffix(">\n");
        tag.and_then(|tag| tag.strip_suffix(name))
            .is_some_and(|before| before.ends_with('<'))
    }

    fn indent(&mut self) {
        for _ in 0..self.open.len() {
            self.document.push_str("  ");
        }
    }

    fn tag(&mut self, before: &str, name: &str, after: &str) {
        self.document.push_str(before);
        self.document.push_str(name);
        self.document.push_str(after);
    }
}

/// Escapes what is written through it, without an intermediate string.
struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(stays) {
            self.0.push_str(text);
            return Ok(());
        }
        let mut rest = text;
        while let Some(at) = rest.find(needs_escape) {
            let (plain, tail) = rest.split_at(at);
            self.0.push_str(plain);
            let mut characters = tail.chars();
            match characters.next() {
                Some('&') => self.0.push_str("&amp;"),
                Some('<') => self.0.push_str("&lt;"),
                Some('>') => self.0.push_str("&gt;"),
                Some(other) => write!(self.0, "&#{};", u32::from(other))?,
                None => {}
            }
            rest = characters.as_str();
        }
        self.0.push_str(rest);
        Ok(())
    }
}

/// Whether a byte begins nothing that is escaped. U+FFFE and U+FFFF begin with 0xef, as much else does.
fn stays(byte: u8) -> bool {
    !matches!(byte, b'&' | b'<' | b'>' | 0..=8 | 0xb..=0x1f | 0x7f | 0xef)
}

/// Markup, what XML 1.0 forbids raw, and CR, which parsers would turn into LF.
fn needs_escape(character: char) -> bool {
    matches!(
        character,
        '&' | '<' | '>' | '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}' | '\u{fffe}' | '\u{ffff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nests_and_escapes() {
        let mut xml = Writer::new("A");
        xml.elem("B", "a<b>&\"'\u{1}\r\n\t\u{7f}中")
            .elem("C", "")
            .elem_if("D", None::<u8>);
        xml.nested("E", |xml| {
            xml.elem("F", 7);
        });
        xml.open("G");
        let text = String::from_utf8(xml.finish()).unwrap();
        assert_eq!(
            text,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<A>\n  \
             <B>a&lt;b&gt;&amp;\"'&#1;&#13;\n\t&#127;中</B>\n  <C></C>\n  \
             <E>\n    <F>7</F>\n  </E>\n  <G></G>\n</A>\n"
        );
    }

    #[test]
    fn what_begins_like_something_forbidden_stays() {
        // U+FF01 and U+FEFF begin with the byte of U+FFFE, which is forbidden.
        for (text, expected) in [
            ("！\u{feff}ab", "！\u{feff}ab"),
            ("a\u{fffe}b\u{ffff}", "a&#65534;b&#65535;"),
            ("ab&", "ab&amp;"),
        ] {
            let document = String::from_utf8(Writer::text_document("A", text)).unwrap();
            assert!(
                document.ends_with(&format!("<A>{expected}</A>\n")),
                "{document}"
            );
        }
    }

    #[test]
    fn what_holds_nothing_holds_no_white_space() {
        let mut xml = Writer::new("A");
        xml.nested("B", |xml| {
            xml.nested("C", |_| {});
        });
        xml.nested("D", |xml| {
            xml.elem("D", "<D>\n");
        });
        let text = String::from_utf8(xml.finish()).unwrap();
        let (_, body) = text.split_once("?>\n").unwrap();
        assert_eq!(
            body,
            "<A>\n  <B>\n    <C></C>\n  </B>\n  <D>\n    <D>&lt;D&gt;\n</D>\n  </D>\n</A>\n"
        );
        let empty = String::from_utf8(Writer::new("A").finish()).unwrap();
        assert!(empty.ends_with("?>\n<A></A>\n"));
    }

    #[test]
    fn a_root_may_be_just_text() {
        let text = String::from_utf8(Writer::text_document("L", "oss-x")).unwrap();
        assert!(text.ends_with("?>\n<L>oss-x</L>\n"));
    }
}
