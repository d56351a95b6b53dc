//! The evaluation itself.

use granary_types::{AccountId, BucketAcl, ObjectAcl};

use crate::{Access, Action};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// No signature.
    Anonymous,
    /// A verified signature of one of this account's keys.
    Account(AccountId),
}

impl Caller {
    /// The account, if there is one.
    pub fn account(self) -> Option<AccountId> {
        match self {
            Self::Anonymous => None,
            Self::Account(account) => Some(account),
        }
    }
}

/// What matters of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketFacts {
    /// Who owns it.
    pub owner: AccountId,
    /// Its access control list.
    pub acl: BucketAcl,
}

/// What matters of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Its access control list; `Default` follows the bucket.
    pub acl: ObjectAcl,
}

/// Everything a decision may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The bucket; `None` for actions on the account.
    pub bucket: Option<BucketFacts>,
    /// The object: `None` while it has not been looked up, `Some(None)` when there is none.
    pub object: Option<Option<ObjectFacts>>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Refuse.
    Deny,
    /// It depends on the object's own list: look it up and ask again with it.
    NeedsObject,
}

/// Decides whether `caller` may perform `action`.
///
/// The owner is decided without [`Facts::object`], so the common case costs no look-up.
pub fn evaluate(caller: Caller, action: Action, facts: &Facts) -> Decision {
    let Some(bucket) = facts.bucket else {
        let signed = caller.account().is_some();
        return allow_if(action.access() == Access::Account && signed);
    };
    if caller.account() == Some(bucket.owner) {
        return Decision::Allow;
    }
    let open_to_all: fn(BucketAcl) -> bool = match action.access() {
        Access::Account | Access::Owner => return Decision::Deny,
        Access::ReadObject => |acl| acl != BucketAcl::Private,
        Access::WriteObject => |acl| acl == BucketAcl::PublicReadWrite,
    };
    let Some(object) = facts.object else {
        return Decision::NeedsObject;
    };
    let effective = match object.map_or(ObjectAcl::Default, |object| object.acl) {
        ObjectAcl::Default => bucket.acl,
        ObjectAcl::Private => BucketAcl::Private,
        ObjectAcl::PublicRead => BucketAcl::PublicRead,
        ObjectAcl::PublicReadWrite => BucketAcl::PublicReadWrite,
    };
    allow_if(open_to_all(effective))
}

fn allow_if(condition: bool) -> Decision {
    if condition {
        Decision::Allow
    } else {
        Decision::Deny
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Caller = Caller::Account(AccountId(1));
    const OTHER: Caller = Caller::Account(AccountId(2));
    const READ: Action = Action::new("GetObject", Access::ReadObject);
    const WRITE: Action = Action::new("PutObject", Access::WriteObject);
    const LIST: Action = Action::new("ListObjects", Access::Owner);
    const LIST_BUCKETS: Action = Action::new("ListBuckets", Access::Account);

    fn facts(acl: BucketAcl, object: Option<Option<ObjectAcl>>) -> Facts {
        Facts {
            bucket: Some(BucketFacts {
                owner: AccountId(1),
                acl,
            }),
            object: object.map(|object| object.map(|acl| ObjectFacts { acl })),
        }
    }

    #[test]
    fn the_owner_may_do_everything_without_a_look_up() {
        for acl in BucketAcl::ALL {
            for action in [READ, WRITE, LIST] {
                assert_eq!(evaluate(OWNER, action, &facts(*acl, None)), Decision::Allow);
            }
        }
    }

    #[test]
    fn strangers_get_what_the_lists_open() {
        use BucketAcl as B;
        use ObjectAcl as O;
        for (bucket, object, read, write) in [
            (B::Private, None, false, false),
            (B::PublicRead, None, true, false),
            (B::PublicReadWrite, None, true, true),
            (B::Private, Some(O::Default), false, false),
            (B::Private, Some(O::PublicRead), true, false),
            (B::Private, Some(O::PublicReadWrite), true, true),
            (B::PublicRead, Some(O::Default), true, false),
            (B::PublicRead, Some(O::Private), false, false),
            (B::PublicReadWrite, Some(O::Private), false, false),
            (B::PublicReadWrite, Some(O::PublicRead), true, false),
        ] {
            for caller in [Caller::Anonymous, OTHER] {
                let facts = facts(bucket, Some(object));
                assert_eq!(evaluate(caller, READ, &facts), allow_if(read), "{facts:?}");
                assert_eq!(
                    evaluate(caller, WRITE, &facts),
                    allow_if(write),
                    "{facts:?}"
                );
                assert_eq!(evaluate(caller, LIST, &facts), Decision::Deny, "{facts:?}");
            }
        }
    }

    #[test]
    fn a_strangers_access_to_an_object_needs_its_list() {
        let open = facts(BucketAcl::PublicReadWrite, None);
        assert_eq!(evaluate(OTHER, READ, &open), Decision::NeedsObject);
        assert_eq!(
            evaluate(Caller::Anonymous, WRITE, &open),
            Decision::NeedsObject
        );
        assert_eq!(evaluate(OTHER, LIST, &open), Decision::Deny);
    }

    #[test]
    fn account_actions_need_a_signature() {
        let none = Facts {
            bucket: None,
            object: None,
        };
        assert_eq!(evaluate(OTHER, LIST_BUCKETS, &none), Decision::Allow);
        assert_eq!(
            evaluate(Caller::Anonymous, LIST_BUCKETS, &none),
            Decision::Deny
        );
        assert_eq!(evaluate(OTHER, WRITE, &none), Decision::Deny);
    }

    #[test]
    fn actions_are_spelled_as_in_policies() {
        assert_eq!(WRITE.to_string(), "oss:PutObject");
    }
}
