//! What `state` of a disk record may be, for everybody who reads or says it.

/// In use.
pub const IN: u32 = 0;
/// Given up by the keeper of placement until it is healthy again.
pub const OUT: u32 = 1;
/// Given up for good by an operator.
pub const REMOVED: u32 = 2;
/// Only said, never stored: an operator takes back what was given up for good.
pub const READMITTED: u32 = 3;
