//! The OSS dialect: everything that is particular to the wire protocol and nothing else.
//!
//! Pure: no I/O, no clock (time is an argument), no randomness, no async runtime. It must not know
//! how objects are stored, who may do what, or how a request is routed to an operation.
//!
//! | module | what it knows |
//! |---|---|
//! | [`address`] | Host header and path → bucket and key |
//! | [`callback`] | what a callback of an upload says, and to whom |
//! | [`query`] | ordered raw query parameters and their decoded lookups |
//! | [`escape`] | the percent-encoding variants of the protocol |
//! | [`error_code`], [`mod@error`] | the table of error codes; an error, its XML and its HEAD form |
//! | [`form`] | forms of browsers: their parts and fields |
//! | [`sign`] | signatures V1, V2 and V4 in header and URL, V1 and V4 in forms: reading, verifying, and making them |
//! | [`header`] | typed request headers, HTTP and ISO dates |
//! | [`listing`] | parameters of list requests, continuation tokens |
//! | [`xml`] | request bodies and response documents |

pub mod address;
pub mod callback;
pub mod error;
pub mod error_code;
pub mod escape;
pub mod form;
pub mod header;
pub mod listing;
pub mod query;
pub mod sign;
pub mod xml;

pub use error::{OssError, render_error};
pub use error_code::ErrorCode;
