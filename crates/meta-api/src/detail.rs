//! What the detail of a rejection says where a reason alone does not tell a client's mistakes apart. Part
//! of the protocol: replicas of several versions say the same.

use crate::pb;
use crate::pb::rejection::Reason;

/// Of [`Reason::Invalid`]: a list of parts does not ascend.
pub const PART_ORDER: &str = "InvalidPartOrder";
/// Of [`Reason::NoSuchKey`]: it is not the source of a rename that is missing, but the directory of the
/// new path.
pub const NO_PARENT: &str = "the new path has no such parent";

/// Kinds of records that are as long as a client makes them.
const OF_CLIENTS: [&str; 2] = ["Head", "Version"];

/// Of [`Reason::Invalid`]: a record of a kind would be longer than allowed, in bytes.
pub fn record_too_long(kind: &str, bytes: usize, bytes_max: usize) -> String {
    format!("a {kind} record of {bytes} bytes exceeds {bytes_max}")
}

/// Whether an object's record would be too long. Whoever proposed has checked that it is not, but against
/// what there was: two changes at once can be too much together.
pub fn is_object_too_long(rejection: &pb::Rejection) -> bool {
    let says = |kind: &&str| {
        let rest = rejection.detail.strip_prefix("a ");
        let rest = rest.and_then(|rest| rest.strip_prefix(*kind));
        rest.is_some_and(|rest| rest.starts_with(" record of "))
    };
    rejection.reason() == Reason::Invalid && OF_CLIENTS.iter().any(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_objects_record_is_too_long_by_a_clients_doing() {
        for (kind, expected) in [("Head", true), ("Version", true), ("PartPage", false)] {
            let detail = record_too_long(kind, 18_000, 16_384);
            let of = |reason| pb::Rejection::with_detail(reason, detail.clone());
            assert_eq!(is_object_too_long(&of(Reason::Invalid)), expected, "{kind}");
            assert!(!is_object_too_long(&of(Reason::NoSuchKey)));
        }
    }
}
