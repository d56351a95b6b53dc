//! PutJoinToken: lets whoever knows the token's secret join nodes until it expires. Tokens that
//! have expired go.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::info;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::join_token::JoinTokenKey;
use crate::keyspace::{Kind, kind_prefix};
use crate::limits::NAME_BYTES_MAX;
use crate::rows::{Bounds, Rows};

/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;
/// Tokens that may be valid at once.
const TOKENS_MAX: usize = 1000;

impl Apply for pb::PutJoinToken {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        info(tx)?;
        let token = self.token.ok_or_else(|| Refusal::invalid("no token"))?;
        let named = (1..=NAME_BYTES_MAX).contains(&token.id.len());
        if !named || token.secret_sha256.len() != DIGEST_BYTES {
            return Err(Refusal::invalid("not a token"));
        }
        let slab = tx.home();
        let bounds = Bounds::prefix(kind_prefix(slab, Kind::JoinToken));
        let known = tx.list::<JoinTokenKey>(&bounds, TOKENS_MAX)?;
        let (expired, valid): (Vec<_>, Vec<_>) = known
            .into_iter()
            .partition(|(_, known)| known.expires_ms <= at.time_ms);
        if valid.len() >= TOKENS_MAX {
            return Err(Refusal::invalid("too many valid tokens"));
        }
        for (row, _) in expired {
            tx.delete(&row);
        }
        let id = Bytes::copy_from_slice(token.id.as_bytes());
        tx.put(&JoinTokenKey { slab, id }, &token)?;
        empty()
    }
}
