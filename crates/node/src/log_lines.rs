//! How lines of the log look to people: the usual ones as the library writes them, and those of the
//! access log, of which each request has one, in the same form without the library's detours and without
//! the spans around it: it says itself which request it is about.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The target of the access log.
const ACCESS: &str = "access";

/// Formats events.
#[derive(Default)]
pub(crate) struct Lines {
    usual: Format,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if metadata.target() != ACCESS {
            return self.usual.format_event(context, writer, event);
        }
        SystemTime.format_time(&mut writer)?;
        write!(writer, " {:>5} {ACCESS}:", metadata.level().as_str())?;
        let mut fields = Fields {
            writer: &mut writer,
            outcome: Ok(()),
        };
        event.record(&mut fields);
        fields.outcome?;
        writer.write_char('\n')
    }
}

/// Writes ` name=value` for each field; the message without its name.
struct Fields<'a, 'b> {
    writer: &'a mut Writer<'b>,
    outcome: fmt::Result,
}

impl Fields<'_, '_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.outcome.is_err() {
            return;
        }
        self.outcome = self.writer.write_char(' ').and_then(|()| {
            if field.name() != "message" {
                self.writer.write_str(field.name())?;
                self.writer.write_char('=')?;
            }
            value(self.writer)
        });
    }
}

impl Visit for Fields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, |writer| printable(writer, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, |writer| write!(writer, "{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, |writer| printable(writer, &format!("{value:?}")));
    }
}

/// Writes what clients may have chosen: no control character reaches the log, so that none of them
/// begins a line or talks to a terminal.
fn printable(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte);
    if text.as_bytes().iter().all(is_plain) || !text.contains(char::is_control) {
        return writer.write_str(text);
    }
    text.chars().try_for_each(|char| match char.is_control() {
        true => write!(writer, "{}", char.escape_default()),
        false => writer.write_char(char),
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is behind the time.
    fn line(format: Option<Lines>, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let builder = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(kept.clone());
        match format {
            Some(lines) => {
                tracing::subscriber::with_default(builder.event_format(lines).finish(), log)
            }
            None => tracing::subscriber::with_default(builder.finish(), log),
        }
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        let (_, rest) = text.split_once(' ').unwrap();
        rest.to_owned()
    }

    #[test]
    fn access_lines_look_like_all_others() {
        let usual = line(None, || {
            tracing::info!(target: "access", key = %"a b", status = 200_u16, cut = false, name = ?"x", "request");
        });
        let ours = line(Some(Lines::default()), || {
            tracing::info!(target: "access", key = "a b", status = 200_u16, cut = false, name = ?"x", "request");
        });
        assert_eq!(ours, usual);
        assert_eq!(
            ours,
            " INFO access: request key=a b status=200 cut=false name=\"x\"\n"
        );
        let other = line(
            Some(Lines::default()),
            || tracing::warn!(target: "granary", "x"),
        );
        assert_eq!(other, " WARN granary: x\n");
    }

    #[test]
    fn what_clients_chose_begins_no_line() {
        let ours = line(Some(Lines::default()), || {
            tracing::info!(target: "access", key = "a\nINFO \u{1b}[1m\u{9b}é", "request");
        });
        assert_eq!(
            ours,
            " INFO access: request key=a\\nINFO \\u{1b}[1m\\u{9b}é\n"
        );
    }
}
