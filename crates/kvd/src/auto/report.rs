//! The status of a member's cluster, from its leader if that answers.

use std::time::Duration;

use kvd_autopilot::status::Status;
use kvd_server::autopilot;
use kvd_server::core::Core;

use super::exchange::{self, Ask};

/// How long the leader may take.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// What `GET /v1/autopilot` says on the member `core`.
pub async fn status(core: &Core) -> Status {
    let own = autopilot::report(core);
    if own.from_leader || own.leader.is_empty() {
        return own;
    }
    let leader = own.members.iter().find(|member| member.id == own.leader);
    let urls = leader
        .map(|leader| leader.peer_urls.clone())
        .unwrap_or_default();
    let host = urls.first().and_then(|url| url.split_once("://"));
    let host = host.map_or("", |(_, host)| host).to_owned();
    let dialing = core.config().dialer.dial(core.leader(), urls);
    let ask = Ask {
        host: &host,
        path: "/autopilot/status",
        ..Ask::default()
    };
    match exchange::json::<Status>(dialing, ask, PATIENCE).await {
        // Who led a moment ago may not any more; then its view is as good as this one's.
        Ok(theirs) if theirs.from_leader => Status {
            name: own.name,
            member_id: own.member_id,
            enabled: own.enabled,
            phase: own.phase,
            ..theirs
        },
        Ok(_) => own,
        Err(why) => Status {
            reason: format!("the leader does not tell how the members are: {why}"),
            ..own
        },
    }
}
