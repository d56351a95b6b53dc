//! The joining side: keeps nonce and key, asks one seed after the other, keeps what it gets.
//!
//! It can be cut off anywhere and run again: the same nonce gets the same node id. The token's
//! secret is told only to a node under the CA whose fingerprint the token names.

use std::convert::Infallible;
use std::time::Duration;

use granary_meta_api::pb::state;
use granary_runtime::{Backoff, Runtime, within};
use granary_types::NodeId;
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::server::is_host_and_port;
use super::{GiveUp, needs_master_key};
use crate::failure::{Mismatch, mismatch, plain};
use crate::links::{connect_as_stranger, is_tls_spoken_at};
use crate::pb;
use crate::pb::join_client::JoinClient;
use crate::{
    AddressBook, Credentials, Identity, JoinAttempt, JoinToken, Peer, StateDir, StateError,
    TrustError,
};

/// Longest time for one seed's answer: it asks the root, which may be electing a leader.
const ANSWER_LIMIT: Duration = Duration::from_secs(35);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long nobody may help before that is told; then twice as long, and so on.
const TELL_AFTER: Duration = Duration::from_millis(2500);
/// Longest time between two such words.
const TELL_EVERY_MAX: Duration = Duration::from_secs(40);
/// Bytes of an answer at most: it lists all nodes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a node says when it joins.
#[derive(Clone, Debug)]
pub struct JoinParameters {
    /// The token.
    pub token: JoinToken,
    /// Cluster addresses (host:port) of nodes to ask, tried in turn.
    pub seeds: Vec<String>,
    /// The node's zone, address, roles and gateway; its id does not matter.
    pub node: state::Node,
    /// The node it replaces.
    pub replaces: Option<NodeId>,
    /// What counts against giving that one up, and does not matter.
    pub give_up: GiveUp,
    /// Whether the cluster goes without TLS between nodes.
    pub plaintext: bool,
}

/// A node that is in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Which one.
    pub identity: Identity,
    /// False when the state directory was a node's before, and nothing had to be done.
    pub fresh: bool,
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A key or certificate.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// No address to ask.
    #[error("no address of a node to ask was given")]
    NoSeeds,
    /// The cluster refused: asking again cannot help.
    #[error("the cluster refused ({seed}): {reason}")]
    Refused {
        /// Who said so.
        seed: String,
        /// Why.
        reason: String,
    },
    /// What is to be asked is no address.
    #[error("{0} is not HOST:PORT: that is how the address of a node to ask is written")]
    Address(String),
    /// Somebody is there, and asking again cannot help; what each address says.
    #[error("no node lets this one join: {0}")]
    Hopeless(String),
    /// Nobody gave a useful answer in time; what each address says. It can be tried again.
    #[error("no node answered in time: {0}")]
    NoAnswer(String),
    /// The directory's certificate has expired and it cannot get a new one by joining.
    #[error(
        "the certificate of node {0} has expired: have it signed anew with the CA's key, or join \
         as a new node that replaces it"
    )]
    Expired(NodeId),
    /// The answer is not what was asked for.
    #[error("{seed} gave an answer that makes no sense: {reason}")]
    Senseless {
        /// Who said so.
        seed: String,
        /// What is wrong.
        reason: String,
    },
}

/// Makes a state directory that of a node of the cluster. A directory that is a node's already
/// stays as it is, unless its certificate has expired: then it joins again as the same node.
/// While nobody lets it in, `tell` hears now and then what each address says.
///
/// # Errors
/// Refused, not answered within `limit`, or the directory cannot be written.
pub async fn join_cluster(
    runtime: &Runtime,
    state: &StateDir,
    parameters: &JoinParameters,
    limit: Duration,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Joined, JoinError> {
    let before = blocking(runtime, state, StateDir::credentials).await?;
    let own = before.as_ref().and_then(Credentials::identity);
    if let (Some(credentials), Some(identity)) = (before, own.clone()) {
        let facts = credentials.facts().map_err(TrustError::from)?;
        if runtime.now() < facts.not_after {
            return Ok(Joined {
                identity,
                fresh: false,
            });
        }
        if !blocking(runtime, state, |state| Ok(state.has_joined())).await? {
            return Err(JoinError::Expired(identity.node));
        }
    }
    let clock = runtime.clone();
    let attempt = blocking(runtime, state, move |state| state.join_attempt(&clock)).await?;
    let said = Said::of(&parameters.seeds);
    let (seed, reply) = tokio::select! {
        answer = ask(runtime, &attempt, parameters, limit, &said) => answer?,
        never = say(runtime, &said, tell) => match never {},
    };
    let senseless = |reason: String| JoinError::Senseless {
        seed: seed.clone(),
        reason,
    };
    if own.is_some_and(|own| own.cluster_id != reply.cluster_id || own.node.0 != reply.node) {
        return Err(senseless("it is another node's".to_owned()));
    }
    if reply.master_key.is_empty() && needs_master_key(&parameters.node.roles) {
        return Err(senseless("the master key is missing".to_owned()));
    }
    let identity = Identity {
        cluster_id: reply.cluster_id.clone(),
        node: NodeId(reply.node),
    };
    let credentials = Credentials {
        cluster_id: reply.cluster_id.clone(),
        local: Peer::Node(identity.node),
        key: std::sync::Arc::new(attempt.key),
        certificate: reply.certificate.to_vec(),
        bundle: reply
            .ca_certificates
            .iter()
            .map(|der| der.to_vec())
            .collect(),
    };
    if let Err(error) = credentials.check() {
        return Err(senseless(error.to_string()));
    }
    let (kept, of) = (credentials, identity.clone());
    blocking(runtime, state, move |state| keep(state, &of, &kept, &reply)).await?;
    Ok(Joined {
        identity,
        fresh: true,
    })
}

/// Keeps what the cluster answered; the identity last.
fn keep(
    state: &StateDir,
    identity: &Identity,
    credentials: &Credentials,
    reply: &pb::JoinReply,
) -> Result<(), StateError> {
    state.put_bundle(&credentials.bundle)?;
    state.put_certificate(&credentials.certificate)?;
    if !reply.master_key.is_empty() {
        state.put_master_key(&reply.master_key)?;
    }
    let book = AddressBook::in_memory(Vec::new());
    book.take(reply.map_epoch, &reply.peers);
    state.put_peers(&identity.cluster_id, reply.map_epoch, book.nodes())?;
    state.put_identity(identity)
}

/// What each address has said last.
struct Said(Mutex<Vec<(String, String)>>);

impl Said {
    fn of(seeds: &[String]) -> Self {
        let silent = |seed: &String| (seed.clone(), "no answer yet".to_owned());
        Self(Mutex::new(seeds.iter().map(silent).collect()))
    }

    fn note(&self, place: usize, reason: String) {
        if let Some((_, last)) = self.0.lock().get_mut(place) {
            *last = reason;
        }
    }

    fn text(&self) -> String {
        let said = self.0.lock();
        let texts = said
            .iter()
            .map(|(seed, reason)| format!("{seed}: {reason}"));
        texts.collect::<Vec<_>>().join("; ")
    }
}

/// Tells what is said, at growing intervals.
async fn say(runtime: &Runtime, said: &Said, tell: &(dyn Fn(&str) + Sync)) -> Infallible {
    let mut pause = TELL_AFTER;
    loop {
        runtime.sleep(pause).await;
        tell(&said.text());
        pause = (pause * 2).min(TELL_EVERY_MAX);
    }
}

async fn ask(
    runtime: &Runtime,
    attempt: &JoinAttempt,
    parameters: &JoinParameters,
    limit: Duration,
    said: &Said,
) -> Result<(String, pb::JoinReply), JoinError> {
    let csr = attempt.key.request().map_err(TrustError::from)?;
    let request = pb::JoinRequest {
        token_id: parameters.token.id().to_owned(),
        token_secret: parameters.token.secret().to_vec().into(),
        nonce: attempt.nonce.to_vec().into(),
        csr: csr.into(),
        node: Some(parameters.node.clone()),
        replaces: parameters.replaces.unwrap_or_default().0,
        force: parameters.give_up.force,
        accept_loss: parameters.give_up.accept_loss,
    };
    let pinned = (!parameters.plaintext).then(|| parameters.token.fingerprint());
    if parameters.seeds.is_empty() {
        return Err(JoinError::NoSeeds);
    }
    if let Some(seed) = parameters.seeds.iter().find(|seed| !is_host_and_port(seed)) {
        return Err(JoinError::Address(seed.clone()));
    }
    let mut backoff = Backoff::new(runtime, FIRST_PAUSE, LONGEST_PAUSE, limit);
    loop {
        // Where somebody is that will never do, and nobody who may.
        let (mut never, mut later) = (false, false);
        for (place, seed) in parameters.seeds.iter().enumerate() {
            let channel = connect_as_stranger(runtime, seed, pinned)?;
            let mut client = JoinClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let patience = ANSWER_LIMIT.min(backoff.remaining(runtime));
            let answer = within(patience, client.join(request.clone())).await;
            let status = match answer {
                Ok(Ok(reply)) => return Ok((seed.clone(), reply.into_inner())),
                Ok(Err(status)) => status,
                Err(elapsed) => Status::deadline_exceeded(elapsed.to_string()),
            };
            if matches!(
                status.code(),
                Code::PermissionDenied | Code::InvalidArgument
            ) {
                let (seed, reason) = (seed.clone(), plain(&status));
                return Err(JoinError::Refused { seed, reason });
            }
            let fingerprint = parameters.token.fingerprint();
            let tls_there = parameters.plaintext
                && std::error::Error::source(&status).is_some()
                && is_tls_spoken_at(runtime, seed, fingerprint).await;
            let found = match tls_there {
                true => Some(Mismatch::TlsThere),
                false => mismatch(&status),
            };
            let reason = match found {
                Some(mismatch) => {
                    never = true;
                    said_of(mismatch).to_owned()
                }
                None => {
                    // Without a cause below it is the node itself that has spoken.
                    later |= std::error::Error::source(&status).is_none();
                    plain(&status)
                }
            };
            said.note(place, reason);
        }
        let asked = said.text();
        if never && !later {
            return Err(JoinError::Hopeless(asked));
        }
        if !backoff.wait(runtime).await {
            return Err(JoinError::NoAnswer(asked));
        }
        tracing::debug!(%asked, "no node lets this one join yet, trying again");
    }
}

fn said_of(mismatch: Mismatch) -> &'static str {
    match mismatch {
        Mismatch::NotTrusted => {
            "its certificate is not of the CA that the token names: the token is of another cluster, or \
             from before granary admin rotate-ca (granary admin token makes a new one)"
        }
        Mismatch::PlainThere => {
            "it speaks no TLS: if the cluster goes without, this node needs plaintext = true too"
        }
        Mismatch::TlsThere => "it speaks TLS, and this node has plaintext = true",
    }
}

/// A call of the state directory, away from the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    runtime: &Runtime,
    state: &StateDir,
    call: impl FnOnce(&StateDir) -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    let directory = state.clone();
    match runtime.blocking(move || call(&directory)).await {
        Ok(outcome) => outcome,
        Err(cancelled) => Err(StateError::Io {
            path: state.path().to_owned(),
            doing: "use",
            source: std::io::Error::other(cancelled),
        }),
    }
}
