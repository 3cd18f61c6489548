//! Who asks to be added, and who this member is.

use std::sync::Arc;

use kvd_autopilot::bootstrap::{Answer, JoinReply, JoinRequest, Known, Started};
use kvd_autopilot::plan::{self, Admission, Applicant, Kind};
use kvd_raft::Change;
use parking_lot::Mutex;

use crate::apply;
use crate::core::Core;
use crate::error::Result;
use crate::identity;
use crate::members;

/// Who this member is, for those that look for a cluster.
pub fn identity(core: &Core) -> Answer {
    let settings = core.autopilot().settings();
    let config = core.config();
    let mut peer_urls = config.peer_urls.clone();
    peer_urls.sort();
    let members = apply::members(core.store()).unwrap_or_else(|error| {
        tracing::error!(%error, "the member records cannot be read");
        Vec::new()
    });
    let leader = match core.leader() {
        0 => String::new(),
        id => format!("{id:x}"),
    };
    Answer {
        token: settings.token.clone(),
        name: config.name.clone(),
        peer_urls,
        nonce: settings.nonce.clone(),
        promise: settings.promise.clone(),
        started: Some(Started {
            cluster_id: format!("{:x}", core.cluster_id()),
            member_id: format!("{:x}", core.member_id()),
            leader,
            members: members
                .into_iter()
                .map(|member| Known {
                    id: format!("{:x}", member.id),
                    name: member.name,
                    peer_urls: member.peer_ur_ls,
                })
                .collect(),
        }),
    }
}

/// Adds who asks, as far as this member leads and the cluster can take it.
pub async fn join(core: &Arc<Core>, request: &JoinRequest) -> JoinReply {
    if let Some(reply) = refused(core, request) {
        return reply;
    }
    let who = Applicant {
        id: identity::member_id(
            &request.peer_urls,
            &format!("{}#{}", request.token, request.nonce),
        ),
        name: request.name.clone(),
        peer_urls: request.peer_urls.clone(),
    };
    if apply::is_removed(core.store(), who.id) {
        return JoinReply::Renew;
    }
    // At most a removal, then an addition.
    for _ in 0..2 {
        match step(core, &who).await {
            Ok(Some(reply)) => return reply,
            Ok(None) => {}
            Err(error) => {
                return JoinReply::Wait {
                    reason: format!("the leader cannot change the members now: {error}"),
                };
            }
        }
    }
    JoinReply::Wait {
        reason: "the members have changed meanwhile".to_owned(),
    }
}

fn refused(core: &Core, request: &JoinRequest) -> Option<JoinReply> {
    let settings = core.autopilot().settings();
    let refuse = |reason: String| Some(JoinReply::Refused { reason });
    if !settings.enabled {
        return refuse(
            "the leader does not run with --initial-cluster-state auto: add this member with \
             `kvctl member add`, or start all members in auto mode"
                .to_owned(),
        );
    }
    let own = format!("{:x}", core.cluster_id());
    if request.token != settings.token || request.cluster_id != own {
        return refuse(format!(
            "it asks for the cluster {} with the token {:?}; this is {own} with {:?}",
            request.cluster_id, request.token, settings.token
        ));
    }
    if request.name.is_empty() || request.nonce.is_empty() || request.peer_urls.is_empty() {
        return refuse("its request lacks a name, a nonce or a peer URL".to_owned());
    }
    if !core.is_leader() {
        return Some(JoinReply::Wait {
            reason: "the member that was asked does not lead any more".to_owned(),
        });
    }
    None
}

/// One look and one change. `None`: a change was made, and another is due.
async fn step(core: &Arc<Core>, who: &Applicant) -> Result<Option<JoinReply>> {
    let decided = Mutex::new(None);
    let pick = || {
        let view = core.autopilot().view(core, &core.status()).ok()?;
        let policy = &core.autopilot().settings().policy;
        let admission = plan::admit(&view, policy, who, core.config().learners_max);
        let change = match &admission {
            Admission::Add => Some(Change::Add(kvd_raft::Member {
                id: who.id,
                name: String::new(),
                peer_urls: who.peer_urls.clone(),
                voter: false,
            })),
            Admission::Replace(action) => Some(Change::Remove(action.id)),
            Admission::Known | Admission::Wait(_) | Admission::Refuse(_) => None,
        };
        let named = view.members.into_iter().find(|member| member.id == who.id);
        *decided.lock() = Some((admission, named.is_some_and(|known| !known.name.is_empty())));
        change
    };
    let done = members::as_leader_if(core, &pick).await;
    let decided = decided.into_inner();
    let member = || JoinReply::Member {
        cluster_id: format!("{:x}", core.cluster_id()),
        member_id: format!("{:x}", who.id),
    };
    let error = done
        .as_ref()
        .err()
        .map_or_else(String::new, ToString::to_string);
    match decided {
        None => done.map(|_| {
            Some(JoinReply::Wait {
                reason: "the member records cannot be read".to_owned(),
            })
        }),
        // With this disk it has been started: its data was deleted, and it is another one now.
        Some((Admission::Known, true)) => Ok(Some(JoinReply::Renew)),
        Some((Admission::Known, false)) => Ok(Some(member())),
        Some((Admission::Wait(reason), _)) => Ok(Some(JoinReply::Wait { reason })),
        Some((Admission::Refuse(reason), _)) => Ok(Some(JoinReply::Refused { reason })),
        Some((Admission::Add, _)) => {
            let why = "it has an empty disk and asked";
            core.autopilot()
                .did(core, Kind::Join, &who.name, why, &error);
            done.map(|_| Some(member()))
        }
        Some((Admission::Replace(action), _)) => {
            core.autopilot()
                .did(core, Kind::Replace, &who.name, &action.why, &error);
            done.map(|_| None)
        }
    }
}
