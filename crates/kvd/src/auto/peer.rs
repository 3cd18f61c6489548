//! What a running member answers to others about autopilot.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use kvd_autopilot::bootstrap::JoinRequest;
use kvd_gateway::AutopilotPeer;
use kvd_server::autopilot;
use kvd_server::core::Core;

/// The member `core` on its peer port.
pub struct MemberPeer {
    core: Arc<Core>,
}

impl MemberPeer {
    /// Answers for `core`.
    pub fn new(core: Arc<Core>) -> MemberPeer {
        MemberPeer { core }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer cannot be written");
        "{}".to_owned()
    })
}

impl AutopilotPeer for MemberPeer {
    fn identity(&self) -> String {
        json(&autopilot::identity(&self.core))
    }

    fn join(&self, request: Bytes) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async move {
            let request: JoinRequest = serde_json::from_slice(&request)
                .map_err(|error| format!("the request cannot be read: {error}"))?;
            Ok(json(&autopilot::join(&self.core, &request).await))
        })
    }

    fn status(&self) -> String {
        json(&autopilot::report(&self.core))
    }
}
