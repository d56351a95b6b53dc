//! An account.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    AccountKey(Account) -> state::Account {
        account: u64,
    }
);
