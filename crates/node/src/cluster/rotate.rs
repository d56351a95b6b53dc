//! One step towards another CA, on behalf of an operator who keeps its key.

use std::sync::Arc;
use std::time::Duration;

use granary_cluster::{
    Authority, CaRotation, KeySealer, Links, RotationError, RotationStep, Security,
};
use granary_meta_api::{Meta, pb as meta};
use granary_runtime::within;
use tonic::Status;

use super::pb::rotate_ca_reply::Step;
use super::pb::{NodeBehind, RotateCaReply, RotateCaRequest};

/// Longest time for one step: it asks every node.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Does the next step.
pub(super) async fn step(
    meta: &Meta,
    links: &Arc<Links>,
    sealer: Option<Arc<dyn KeySealer>>,
    request: &RotateCaRequest,
) -> Result<RotateCaReply, Status> {
    if matches!(links.security(), Security::Plain { .. }) {
        return Err(Status::failed_precondition(
            "the nodes talk in plain text: there is no CA to change",
        ));
    }
    let sealer = sealer.ok_or_else(|| {
        Status::failed_precondition(
            "this node has no master key: ask one with the role gateway, meta or worker",
        )
    })?;
    let next = Authority::from_pem(&request.certificate_pem, &request.key_pem);
    let next = next.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let certificate = next.certificate().to_vec();
    let rotation = CaRotation::new(meta.clone(), Arc::clone(links), sealer, next);
    let step = within(STEP_LIMIT, rotation.step()).await;
    let step = step.map_err(|late| Status::unavailable(late.to_string()))?;
    let step = step.map_err(refused)?;
    let trust = meta.query(meta::GetTrust {}).await;
    let trust = trust.map_err(|error| Status::unavailable(error.to_string()))?;
    let first = trust.ca_certificates.first();
    let mut reply = RotateCaReply {
        signs: first.is_some_and(|first| *first == certificate),
        ..Default::default()
    };
    let step = match step {
        RotationStep::Added => Step::Added,
        RotationStep::Waiting(nodes) => {
            let nodes = nodes.into_iter().map(|(node, reason)| NodeBehind {
                node: node.0,
                reason,
            });
            reply.behind = nodes.collect();
            Step::Waiting
        }
        RotationStep::Signs => Step::Signs,
        RotationStep::Finished => Step::Finished,
    };
    reply.set_step(step);
    Ok(reply)
}

fn refused(error: RotationError) -> Status {
    match error {
        RotationError::Meta(error) => Status::unavailable(error.to_string()),
        RotationError::Concurrent => Status::aborted(error.to_string()),
        RotationError::Refused(_)
        | RotationError::Seal
        | RotationError::NoAuthority
        | RotationError::TooMany(_) => Status::failed_precondition(error.to_string()),
    }
}
