//! Actions: what an operation asks permission for, in the spelling of RAM policies.

/// Which right of an access control list covers an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// On the account itself, outside any bucket: any signed caller, for its own things.
    Account,
    /// Reading an object's bytes or attributes: open under `public-read` and `public-read-write`.
    ReadObject,
    /// Writing or deleting an object: open under `public-read-write`.
    WriteObject,
    /// Listing or changing a bucket, its configuration or access control: the owner.
    Owner,
}

/// An action as policies name it (`oss:PutObject`), with the list right that covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    name: &'static str,
    access: Access,
}

impl Action {
    /// An action; `name` is the part after `oss:`.
    pub const fn new(name: &'static str, access: Access) -> Self {
        Self { name, access }
    }

    /// The part after `oss:`.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The list right that covers it.
    pub const fn access(self) -> Access {
        self.access
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "oss:{}", self.name)
    }
}
