//! The roles of a process, one file each: what it starts, in which order, and how it stops.

pub(crate) mod backup;
pub(crate) mod gateway;
pub(crate) mod meta;
pub(crate) mod storage;
pub(crate) mod worker;
