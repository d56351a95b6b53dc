//! PutAccount: a new account with its first access key. What there is already is never changed by it.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::info;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::access_key::AccessKeyKey;
use crate::keyspace::account::AccountKey;
use crate::limits::NAME_BYTES_MAX;
use crate::rows::Rows;

impl Apply for pb::PutAccount {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        info(tx)?;
        let (Some(account), Some(mut key)) = (self.account, self.key) else {
            return Err(Refusal::invalid("no account, or no access key"));
        };
        let fits = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len());
        if account.id == 0 || key.account != account.id || !fits(&account.name) || !fits(&key.id) {
            return Err(Refusal::invalid("not an account with a key of its own"));
        }
        let slab = tx.home();
        let account_row = AccountKey {
            slab,
            account: account.id,
        };
        let key_row = AccessKeyKey {
            slab,
            id: Bytes::copy_from_slice(key.id.as_bytes()),
        };
        if tx.exists(&account_row)? {
            return Err(Refusal::invalid("there is an account of this id"));
        }
        if tx.exists(&key_row)? {
            return Err(Refusal::invalid("there is an access key of this id"));
        }
        key.created_ms = at.time_ms;
        tx.put(&account_row, &account)?;
        tx.put(&key_row, &key)?;
        empty()
    }
}
