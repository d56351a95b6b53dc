//! Progress bars on a terminal's standard error; elsewhere they show nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One bar; it is gone when it is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar of so many things.
    pub(crate) fn counting(what: String, total: u64) -> Self {
        Self::new(
            what,
            total,
            "{prefix:24} {bar:32} {pos}/{len}, {eta} left {msg}",
        )
    }

    /// A bar of so much time.
    pub(crate) fn timing(what: String, total: Duration) -> Self {
        let total = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
        Self::new(what, total, "{prefix:24} {bar:32} {percent} % {msg}")
    }

    fn new(what: String, total: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(total).with_style(style).with_prefix(what))
    }

    pub(crate) fn set_count(&self, count: u64) {
        self.0.set_position(count);
    }

    pub(crate) fn set_time(&self, time: Duration) {
        self.0
            .set_position(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    pub(crate) fn say(&self, text: String) {
        self.0.set_message(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
