//! The parts of a form (RFC 2046, section 5.1; RFC 7578): bytes in, events out.
//!
//! Invariants: the file's bytes are never kept, only what may be the beginning of a delimiter; what
//! is kept is bounded by `limits.rs`; events do not depend on how the bytes were cut.

use bytes::{Bytes, BytesMut};
use granary_types::limits::{
    FORM_FIELD_NAME_BYTES_MAX, FORM_FIELD_VALUE_BYTES_MAX, FORM_FIELDS_BYTES_MAX, FORM_FIELDS_MAX,
    FORM_PADDING_BYTES_MAX, FORM_PART_HEADER_BYTES_MAX,
};
use memchr::memmem;

use super::disposition::{self, Disposition};
use super::error::FormError;
use super::fields;

/// Spaces that may follow a boundary on its line.
const LINE_PADDING_MAX: usize = 64;
/// The field that is the file.
const FILE: &str = "file";

/// What a part says that holds the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePart {
    /// The name of the file at the client, perhaps with a path.
    pub filename: Option<String>,
    /// `Content-Type` of the part.
    pub content_type: Option<String>,
}

/// What comes next in a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormEvent {
    /// A field before the file, whole. Behind the file there are only fields that mean nothing, which
    /// are no events.
    Field {
        /// Its name, as it was sent.
        name: String,
        /// Its value.
        value: String,
    },
    /// The file begins.
    File(FilePart),
    /// Bytes of the file.
    Data(Bytes),
    /// The file ends.
    FileEnd,
    /// The form ends; what follows means nothing.
    End,
}

/// Reads a form as its bytes come: [`FormParser::feed`], then [`FormParser::next_event`] until it has no
/// event.
#[derive(Debug)]
pub struct FormParser {
    /// CR LF, two hyphens and the boundary.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    state: State,
    /// Header lines of the part so far.
    part: Headers,
    /// The value of the field so far, unless it is passed over.
    value: Vec<u8>,
    /// How long it is so far, also when it is passed over.
    value_bytes: usize,
    /// Bytes before the first part.
    padding: usize,
    fields: usize,
    /// Fields so far, also those that are passed over, with the header lines of all parts.
    bytes: usize,
    file_seen: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Preamble,
    Headers,
    /// The headers are over; the part may be empty, and its delimiter begin with their last CR LF.
    Begin,
    /// A field; without a name one that is passed over.
    Field(Option<String>),
    File,
    End,
}

#[derive(Debug, Default)]
struct Headers {
    bytes: usize,
    disposition: Option<Disposition>,
    content_type: Option<String>,
}

/// Where the part's bytes end.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// At `at`; the next part, if there is one, begins at `next`.
    Delimiter {
        at: usize,
        next: usize,
        closing: bool,
    },
    /// Not before here.
    NotYet(usize),
}

/// What follows the text of a delimiter.
enum Line {
    Closing(usize),
    Part(usize),
    /// No delimiter: the boundary is only the beginning of this line.
    Other,
    Unknown,
}

impl FormParser {
    /// A parser for a body of this `Content-Type`.
    ///
    /// # Errors
    /// [`FormError::ContentType`], [`FormError::Malformed`].
    pub fn new(content_type: &[u8]) -> Result<Self, FormError> {
        if !disposition::is_form(content_type) {
            return Err(FormError::ContentType);
        }
        let boundary = disposition::boundary(content_type).ok_or(FormError::Malformed(
            "the Content-Type has no boundary of 1 to 70 characters",
        ))?;
        Ok(Self {
            delimiter: [b"\r\n--", boundary.as_slice()].concat(),
            // The first delimiter has no line before it.
            buffer: BytesMut::from(&b"\r\n"[..]),
            state: State::Preamble,
            part: Headers::default(),
            value: Vec::new(),
            value_bytes: 0,
            padding: 0,
            fields: 0,
            bytes: 0,
            file_seen: false,
        })
    }

    /// Takes bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.state != State::End {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Bytes that stand in memory for what was read so far, at most.
    pub fn held(&self) -> usize {
        self.bytes + self.value.len() + self.buffer.len()
    }

    /// The next event; `None` when it takes more bytes. After [`FormEvent::End`] there is none: a body
    /// that ends before it is malformed.
    ///
    /// # Errors
    /// What is wrong with the form; then it is over.
    pub fn next_event(&mut self) -> Result<Option<FormEvent>, FormError> {
        loop {
            let step = match &self.state {
                State::Preamble => self.skip_preamble()?,
                State::Headers => self.read_header()?,
                State::Begin => self.begin()?,
                State::Field(_) => self.read_field()?,
                State::File => self.read_file(),
                State::End => return Ok(None),
            };
            match step {
                Step::Event(event) => return Ok(Some(event)),
                Step::Again => {}
                Step::NeedsMore => return Ok(None),
            }
        }
    }

    fn skip_preamble(&mut self) -> Result<Step, FormError> {
        match self.find() {
            Found::Delimiter { next, closing, .. } => Ok(self.past_delimiter(next, closing, None)),
            Found::NotYet(safe) => {
                let _ = self.buffer.split_to(safe);
                self.padding += safe;
                match self.padding > FORM_PADDING_BYTES_MAX {
                    true => Err(FormError::Malformed("the boundary does not come")),
                    false => Ok(Step::NeedsMore),
                }
            }
        }
    }

    fn read_header(&mut self) -> Result<Step, FormError> {
        let Some(end) = memmem::find(&self.buffer, b"\r\n") else {
            return match self.part.bytes + self.buffer.len() > FORM_PART_HEADER_BYTES_MAX {
                true => Err(FormError::TooLong("the header of a part")),
                false => Ok(Step::NeedsMore),
            };
        };
        self.part.bytes += end + 2;
        if self.part.bytes > FORM_PART_HEADER_BYTES_MAX {
            return Err(FormError::TooLong("the header of a part"));
        }
        if end == 0 {
            self.count(self.part.bytes)?;
            self.state = State::Begin;
            return Ok(Step::Again);
        }
        let line = self.buffer.split_to(end + 2);
        self.part.read(line.get(..end).unwrap_or_default())?;
        Ok(Step::Again)
    }

    /// Decides what the part is. Its CR LF is still there: it may belong to the next delimiter.
    fn begin(&mut self) -> Result<Step, FormError> {
        let disposition = self.part.disposition.as_ref();
        let name = &disposition
            .ok_or(FormError::Malformed(
                "a part has no Content-Disposition with a name",
            ))?
            .name;
        if name.len() > FORM_FIELD_NAME_BYTES_MAX {
            return Err(FormError::TooLong("the name of a field"));
        }
        let is_file = name.eq_ignore_ascii_case(FILE);
        let is_empty = match self.starts_with_delimiter() {
            Some(is_empty) => is_empty,
            None => return Ok(Step::NeedsMore),
        };
        if !is_empty {
            let _ = self.buffer.split_to(2);
        }
        let Headers {
            disposition,
            content_type,
            ..
        } = std::mem::take(&mut self.part);
        let Disposition { name, filename } = disposition.unwrap_or_default();
        if is_file {
            if self.file_seen {
                return Err(FormError::Files);
            }
            self.file_seen = true;
            self.state = State::File;
            return Ok(Step::Event(FormEvent::File(FilePart {
                filename,
                content_type,
            })));
        }
        if self.file_seen && fields::means_something(&name) {
            return Err(FormError::Malformed("the file must be the last field"));
        }
        self.fields += 1;
        if self.fields > FORM_FIELDS_MAX {
            return Err(FormError::TooLong("the form has more than 1000 fields"));
        }
        // A button to submit with stands behind the file in the service's own example.
        self.state = State::Field(Some(name).filter(|_| !self.file_seen));
        Ok(Step::Again)
    }

    /// `None` when that takes more bytes.
    fn starts_with_delimiter(&self) -> Option<bool> {
        let begins = self.delimiter.len().min(self.buffer.len());
        if self.buffer.get(..begins) != self.delimiter.get(..begins) {
            return Some(false);
        }
        match self.line_after(self.buffer.get(self.delimiter.len()..)?) {
            Line::Closing(_) | Line::Part(_) => Some(true),
            Line::Other => Some(false),
            Line::Unknown => None,
        }
    }

    fn read_field(&mut self) -> Result<Step, FormError> {
        let found = self.find();
        let (Found::Delimiter { at: bytes, .. } | Found::NotYet(bytes)) = found;
        let piece = self.buffer.split_to(bytes);
        if let State::Field(Some(_)) = &self.state {
            self.value.extend_from_slice(&piece);
        }
        self.value_bytes += piece.len();
        if self.value_bytes > FORM_FIELD_VALUE_BYTES_MAX {
            return Err(FormError::TooLong("the value of a field"));
        }
        if self.bytes + self.value_bytes > FORM_FIELDS_BYTES_MAX {
            return Err(FormError::TooLong("all fields together"));
        }
        let Found::Delimiter { at, next, closing } = found else {
            return Ok(Step::NeedsMore);
        };
        let value_bytes = std::mem::take(&mut self.value_bytes);
        self.count(value_bytes)?;
        let value = String::from_utf8(std::mem::take(&mut self.value))
            .map_err(|_| FormError::Malformed("the value of a field is not UTF-8"))?;
        let state = std::mem::replace(&mut self.state, State::End);
        let event = match state {
            State::Field(Some(name)) => Some(FormEvent::Field { name, value }),
            _ => None,
        };
        Ok(self.past_delimiter(next - at, closing, event))
    }

    fn read_file(&mut self) -> Step {
        match self.find() {
            Found::Delimiter {
                at: 0,
                next,
                closing,
            } => self.past_delimiter(next, closing, Some(FormEvent::FileEnd)),
            Found::Delimiter { at: bytes, .. } | Found::NotYet(bytes) if bytes > 0 => {
                Step::Event(FormEvent::Data(self.buffer.split_to(bytes).freeze()))
            }
            _ => Step::NeedsMore,
        }
    }

    /// Goes on behind a delimiter, whose line ends at `next`. The end of the form is an event of its
    /// own, after that of the part.
    fn past_delimiter(&mut self, next: usize, closing: bool, event: Option<FormEvent>) -> Step {
        if closing && event.is_some() {
            // The delimiter stays until it is the end's turn.
            self.state = State::Preamble;
            return event.map_or(Step::Again, Step::Event);
        }
        let _ = self.buffer.split_to(next);
        if closing {
            self.state = State::End;
            self.buffer.clear();
            return Step::Event(FormEvent::End);
        }
        self.state = State::Headers;
        self.part = Headers::default();
        event.map_or(Step::Again, Step::Event)
    }

    fn count(&mut self, bytes: usize) -> Result<(), FormError> {
        self.bytes += bytes;
        match self.bytes > FORM_FIELDS_BYTES_MAX {
            true => Err(FormError::TooLong("all fields together")),
            false => Ok(()),
        }
    }

    fn find(&self) -> Found {
        let mut from = 0;
        while let Some(rest) = self.buffer.get(from..)
            && let Some(found) = memmem::find(rest, &self.delimiter)
        {
            let at = from + found;
            let after = at + self.delimiter.len();
            match self.line_after(self.buffer.get(after..).unwrap_or_default()) {
                Line::Closing(length) => {
                    return Found::Delimiter {
                        at,
                        next: after + length,
                        closing: true,
                    };
                }
                Line::Part(length) => {
                    return Found::Delimiter {
                        at,
                        next: after + length,
                        closing: false,
                    };
                }
                Line::Unknown => return Found::NotYet(at),
                Line::Other => from = at + 1,
            }
        }
        // A delimiter may have begun.
        let tail = self
            .buffer
            .len()
            .saturating_sub(self.delimiter.len() - 1)
            .max(from);
        let window = self.buffer.get(tail..).unwrap_or_default();
        let begun = memchr::memchr_iter(b'\r', window).find(|at| {
            self.delimiter
                .starts_with(window.get(*at..).unwrap_or_default())
        });
        Found::NotYet(begun.map_or(self.buffer.len(), |at| tail + at))
    }

    /// What stands behind the boundary on its line: hyphens at the end of the form, spaces and CR LF
    /// before a part. A longer boundary (of a form within the form) is not ours.
    fn line_after(&self, rest: &[u8]) -> Line {
        match rest {
            [b'-', b'-', ..] => return Line::Closing(2),
            [b'-'] => return Line::Unknown,
            _ => {}
        }
        let spaces = rest
            .iter()
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
        if spaces > LINE_PADDING_MAX {
            return Line::Other;
        }
        match rest.get(spaces..).unwrap_or_default() {
            [b'\r', b'\n', ..] => Line::Part(spaces + 2),
            [] | [b'\r'] => Line::Unknown,
            _ => Line::Other,
        }
    }
}

enum Step {
    Event(FormEvent),
    Again,
    NeedsMore,
}

impl Headers {
    fn read(&mut self, line: &[u8]) -> Result<(), FormError> {
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = match colon.and_then(|at| line.split_at_checked(at)) {
            Some((name, value)) if !name.is_empty() => (name, value.get(1..).unwrap_or_default()),
            _ => return Err(FormError::Malformed("a header of a part has no name")),
        };
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-disposition") {
            let read = disposition::parse(value).ok_or(FormError::Malformed(
                "a part has no Content-Disposition with a name",
            ))?;
            if self.disposition.replace(read).is_some() {
                return Err(FormError::Malformed(
                    "a part has two Content-Disposition headers",
                ));
            }
        } else if name.eq_ignore_ascii_case(b"content-type") {
            let text = std::str::from_utf8(value)
                .map_err(|_| FormError::Malformed("the Content-Type of a part is not text"))?;
            self.content_type = Some(text.to_owned()).filter(|text| !text.is_empty());
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            let plain = ["7bit", "8bit", "binary"];
            if !plain
                .iter()
                .any(|coding| value.eq_ignore_ascii_case(coding.as_bytes()))
            {
                return Err(FormError::Encoded);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
