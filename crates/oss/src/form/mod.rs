//! Forms of browsers (`multipart/form-data`), as PostObject takes them.
//!
//! [`FormParser`] turns bytes into events without holding the file; [`Form`] is what came before the
//! file: the fields, and what they mean for the object. It must not know who may upload: the policy is
//! read in [`crate::sign::post_policy`].

mod disposition;
mod error;
mod fields;
mod parser;

pub use error::FormError;
pub use fields::{Form, Success, redirect_target};
pub use parser::{FilePart, FormEvent, FormParser};
