//! PutAccessKey: creates or replaces an access key of an account.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::access_key::AccessKeyKey;
use crate::keyspace::account::AccountKey;
use crate::limits::NAME_BYTES_MAX;
use crate::rows::Rows;

impl Apply for pb::PutAccessKey {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let Some(mut key) = self.key else {
            return Err(Refusal::invalid("no access key"));
        };
        if key.id.is_empty() || key.id.len() > NAME_BYTES_MAX {
            return Err(Refusal::invalid("not an access key id"));
        }
        let slab = tx.home();
        if !tx.exists(&AccountKey {
            slab,
            account: key.account,
        })? {
            return Err(Refusal::invalid("no such account"));
        }
        let row = AccessKeyKey {
            slab,
            id: Bytes::copy_from_slice(key.id.as_bytes()),
        };
        key.created_ms = tx.get(&row)?.map_or(at.time_ms, |known| known.created_ms);
        tx.put(&row, &key)?;
        empty()
    }
}
