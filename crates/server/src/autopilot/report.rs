//! The status of this member's cluster, as this member sees it.

use kvd_autopilot::plan::{self, View};
use kvd_autopilot::status::{Held, MemberStatus, Next, Phase, Status};
use kvd_raft::Role;

use super::state::{called, millis};
use crate::apply;
use crate::core::Core;

/// What `GET /v1/autopilot` says. Only the leader's knows lags and plans.
pub fn report(core: &Core) -> Status {
    let autopilot = core.autopilot();
    let settings = autopilot.settings();
    let raft = core.status();
    let leads = raft.role == Role::Leader;
    let reading = autopilot.desired().last();
    let mut report = Status {
        enabled: settings.enabled,
        name: core.config().name.clone(),
        phase: Phase::Member,
        cluster_id: format!("{:x}", core.cluster_id()),
        member_id: format!("{:x}", core.member_id()),
        leader: raft.leader.map_or_else(String::new, |id| format!("{id:x}")),
        from_leader: leads,
        desired_replicas: reading.count,
        desired_source: autopilot.desired().source(),
        desired_error: reading.error.unwrap_or_default(),
        actions: autopilot.actions(),
        ..Status::default()
    };
    let view = match autopilot.view(core, &raft) {
        Ok(view) => view,
        Err(error) => {
            report.reason = format!("the member records cannot be read: {error}");
            return report;
        }
    };
    if leads {
        report.healthy = plan::is_healthy(&view);
        report.failure_tolerance = plan::failure_tolerance(&view) as u64;
    } else if raft.leader.is_none() {
        report.reason = "there is no leader: a quorum of the voters must be there".to_owned();
    }
    report.voters = view.members.iter().filter(|member| !member.learner).count() as u64;
    let plan = autopilot.plan();
    report.next = plan.next.map(|action| Next {
        action: action.kind.name().to_owned(),
        member: called(&view, &action),
        reason: action.why,
    });
    report.held = plan
        .held
        .into_iter()
        .map(|(id, reason)| Held {
            member: name(&view, id),
            reason,
        })
        .collect();
    report.members = members(core, &view, raft.leader);
    report
}

fn name(view: &View, id: u64) -> String {
    let member = view.members.iter().find(|member| member.id == id);
    member.map_or_else(|| format!("{id:x}"), |member| member.called().to_owned())
}

fn members(core: &Core, view: &View, leader: Option<u64>) -> Vec<MemberStatus> {
    let autopilot = core.autopilot();
    let first = autopilot.settings().policy.first_ordinal;
    let leads = leader == Some(core.member_id());
    // A record that cannot be read shows no client URLs; that it cannot is said elsewhere.
    let records = apply::members(core.store()).unwrap_or_default();
    let of = |member: &plan::Member| MemberStatus {
        id: format!("{:x}", member.id),
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: records
            .iter()
            .find(|record| record.id == member.id)
            .map_or_else(Vec::new, |record| record.client_ur_ls.clone()),
        role: match (leader == Some(member.id), member.learner, member.votes) {
            (true, ..) => "leader",
            (false, true, _) => "learner",
            (false, false, true) => "voter",
            (false, false, false) => "joining",
        }
        .to_owned(),
        healthy: match leads {
            true => member.is_healthy(),
            false => !member.name.is_empty() && member.answers(),
        },
        last_contact_ms: match member.local {
            true => Some(0),
            false => autopilot.contact(member.id).map(millis),
        },
        lag: member.lag,
        stable_ms: match member.local {
            // Since it leads, or since it was first looked at: how long it has had all entries.
            true => member.caught_up_for.map_or(0, millis),
            false => millis(member.stable_for()),
        },
        desired: member
            .is_surplus(view.desired, first)
            .map(|surplus| !surplus),
    };
    view.members.iter().map(of).collect()
}
