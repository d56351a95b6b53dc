//! The Accounts service: makes accounts and says which of their keys count. A node of a cluster answers
//! it to operators, a `granary server` on a socket that only its owner can open.
//!
//! A secret leaves it once, with the account that it was made for; it is sealed from then on.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use granary_cluster::KeySealer;
use granary_meta_api::{Meta, MetaError, pb as meta};
use granary_runtime::{CancellationToken, Runtime};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::cluster::pb::accounts_server::{Accounts, AccountsServer};
use crate::cluster::pb::{
    CreateAccountReply, CreateAccountRequest, ListAccessKeysRequest, Report, SetAccessKeyReply,
    SetAccessKeyRequest,
};
use crate::credentials::new_pair;
use crate::roles::meta::ROOT_ACCOUNT;

/// The socket of a `granary server`, in its metadata directory.
pub(crate) const SOCKET_FILE: &str = "admin.sock";
/// Account ids have 16 digits, as those of the service, and JSON keeps them whole.
const ACCOUNT_ID_MIN: u64 = 1_000_000_000_000_000;
const ACCOUNT_IDS: u64 = 8_000_000_000_000_000;
/// Longest display name, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Keys on a page.
const PAGE_KEYS: u32 = 500;

/// A page of access keys, as it travels.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct KeysPage {
    pub(crate) keys: Vec<KeyEntry>,
    pub(crate) more: bool,
}

/// An access key and whose it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyEntry {
    pub(crate) account_id: String,
    pub(crate) name: String,
    pub(crate) access_key_id: String,
    pub(crate) enabled: bool,
    /// Seconds since 1970.
    pub(crate) created_at: u64,
}

/// Answers operators.
#[derive(Clone)]
pub(crate) struct AccountsService {
    pub(crate) runtime: Runtime,
    pub(crate) meta: Meta,
    /// On nodes that have the master key.
    pub(crate) sealer: Option<Arc<dyn KeySealer>>,
    /// The root account's key is given to the process, which enables it at every start.
    pub(crate) root_is_configured: bool,
}

impl AccountsService {
    pub(crate) fn routes(self) -> Routes {
        Routes::new(AccountsServer::new(self))
    }

    /// Serves on a socket in `dir`, for its owner only, until `until`. What an earlier process left
    /// there goes: the caller holds the lock of `dir`.
    ///
    /// # Errors
    /// The socket cannot be made, because the path is too long or the file system has none.
    pub(crate) fn serve_socket(self, dir: &Path, until: CancellationToken) -> anyhow::Result<()> {
        let file = dir.join(SOCKET_FILE);
        let shown = || format!("cannot listen on {}", file.display());
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(shown);
            }
            _ => {}
        }
        let listener = UnixListener::bind(&file).with_context(shown)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
            .with_context(shown)?;
        let runtime = self.runtime.clone();
        let server = Server::builder().add_routes(self.routes());
        runtime.spawn(async move {
            let connections = UnixListenerStream::new(listener);
            let until = until.cancelled_owned();
            let served = server.serve_with_incoming_shutdown(connections, until);
            if let Err(error) = served.await {
                tracing::error!(%error, "accounts cannot be administered until the next start");
            }
            let _ = std::fs::remove_file(&file);
        });
        Ok(())
    }

    async fn create(&self, name: String) -> Result<CreateAccountReply, Status> {
        if name.trim().is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control)
        {
            return Err(Status::invalid_argument(format!(
                "an account's name has 1 to {NAME_BYTES_MAX} bytes and no control characters"
            )));
        }
        let Some(sealer) = &self.sealer else {
            return Err(Status::unavailable(
                "this node has no master key: ask one with the role gateway or meta",
            ));
        };
        let entropy = self.runtime.entropy().as_ref();
        let pair = new_pair(entropy);
        let sealed = sealer.seal(pair.secret.as_bytes());
        let sealed = sealed.ok_or_else(|| Status::internal("the secret could not be sealed"))?;
        let id = ACCOUNT_ID_MIN + entropy.below(ACCOUNT_IDS);
        let command = meta::PutAccount {
            account: Some(meta::state::Account { id, name }),
            key: Some(meta::state::AccessKey {
                id: pair.id.clone(),
                account: id,
                sealed_secret: sealed.into(),
                disabled: false,
                created_ms: 0,
            }),
        };
        decided(self.meta.propose(command).await)?;
        tracing::info!(
            account = id,
            access_key_id = pair.id,
            "account made by an operator"
        );
        Ok(CreateAccountReply {
            account_id: id.to_string(),
            access_key_id: pair.id,
            access_key_secret: pair.secret,
        })
    }

    async fn set_key(&self, id: &str, enabled: bool) -> Result<bool, Status> {
        let found = self.meta.query(meta::GetAccessKey { id: id.to_owned() });
        let found = found.await.map_err(unanswered)?;
        let key = found.key.filter(|_| found.found);
        let mut key =
            key.ok_or_else(|| Status::not_found(format!("there is no access key {id}")))?;
        if self.root_is_configured && key.account == ROOT_ACCOUNT.0 {
            return Err(Status::failed_precondition(
                "the root account's key is the server's own setting: start it with another one, which \
                 disables the one before",
            ));
        }
        if key.disabled != enabled {
            return Ok(false);
        }
        key.disabled = !enabled;
        decided(
            self.meta
                .propose(meta::PutAccessKey { key: Some(key) })
                .await,
        )?;
        tracing::info!(
            access_key_id = id,
            enabled,
            "access key changed by an operator"
        );
        Ok(true)
    }
}

#[tonic::async_trait]
impl Accounts for AccountsService {
    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountReply>, Status> {
        let made = self.create(request.into_inner().name).await?;
        Ok(Response::new(made))
    }

    async fn list_access_keys(
        &self,
        request: Request<ListAccessKeysRequest>,
    ) -> Result<Response<Report>, Status> {
        let query = meta::ListAccessKeys {
            after: request.into_inner().after,
            limit: PAGE_KEYS,
        };
        let page = self.meta.query(query).await.map_err(unanswered)?;
        let entry = |found: meta::AccessKeyResult| {
            let (key, account) = (found.key?, found.account.unwrap_or_default());
            Some(KeyEntry {
                account_id: key.account.to_string(),
                name: account.name,
                access_key_id: key.id,
                enabled: !key.disabled,
                created_at: key.created_ms / 1000,
            })
        };
        let page = KeysPage {
            keys: page.keys.into_iter().filter_map(entry).collect(),
            more: page.more,
        };
        let json =
            serde_json::to_string(&page).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(Report { json }))
    }

    async fn set_access_key(
        &self,
        request: Request<SetAccessKeyRequest>,
    ) -> Result<Response<SetAccessKeyReply>, Status> {
        let SetAccessKeyRequest {
            access_key_id,
            enabled,
        } = request.into_inner();
        let changed = self.set_key(&access_key_id, enabled).await?;
        Ok(Response::new(SetAccessKeyReply { changed }))
    }
}

fn unanswered(error: MetaError) -> Status {
    Status::unavailable(error.to_string())
}

/// A change that may have been made is not asked for again from another node: an account would be made
/// twice. Only what certainly was not made is answered with Unavailable.
fn decided<R>(decision: Result<Result<R, meta::Rejection>, MetaError>) -> Result<(), Status> {
    match decision {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(rejection)) => Err(Status::failed_precondition(rejection.detail)),
        Err(
            error @ (MetaError::UnknownOutcome(_) | MetaError::Expired(_) | MetaError::Internal(_)),
        ) => Err(Status::aborted(format!(
            "{error}; granary admin account list shows whether it was done"
        ))),
        Err(error) => Err(unanswered(error)),
    }
}

#[cfg(test)]
mod tests {
    use granary_types::ShardId;
    use tonic::Code;

    use super::*;

    #[test]
    fn another_node_is_asked_only_for_what_was_not_done() {
        let text = String::new;
        for (error, code) in [
            (MetaError::UnknownOutcome(text()), Code::Aborted),
            (MetaError::Expired(text()), Code::Aborted),
            (MetaError::Internal(text()), Code::Aborted),
            (MetaError::Busy(ShardId::ROOT), Code::Unavailable),
            (MetaError::NoSpace(text()), Code::Unavailable),
            (MetaError::Unavailable(text()), Code::Unavailable),
        ] {
            let status = decided::<()>(Err(error.clone())).unwrap_err();
            assert_eq!(status.code(), code, "{error}");
        }
    }
}
