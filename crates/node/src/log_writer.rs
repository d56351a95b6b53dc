//! Where log lines go, a batch at a time.

use std::io::{self, BufWriter, Write};
use std::time::Duration;

/// Rest after a batch. Lines that come meanwhile need not wake the thread that writes: with a line
/// for each request, waking it costs more than the line. A process that is killed loses what came in
/// that time.
const REST: Duration = Duration::from_millis(5);
const BATCH_BYTES: usize = 64 * 1024;

/// Collects lines until it is flushed, as the thread that writes does when no more of them wait.
pub(crate) struct Batches<W: Write>(BufWriter<W>);

impl<W: Write> Batches<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self(BufWriter::with_capacity(BATCH_BYTES, inner))
    }
}

impl<W: Write> Write for Batches<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        std::thread::sleep(REST);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Calls(Vec<Vec<u8>>);

    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_together_when_no_more_wait() {
        let mut batches = Batches::new(Calls::default());
        batches.write_all(b"one\n").unwrap();
        batches.write_all(b"two\n").unwrap();
        assert!(batches.0.get_ref().0.is_empty());
        batches.flush().unwrap();
        assert_eq!(batches.0.get_ref().0, [b"one\ntwo\n".to_vec()]);
    }
}
