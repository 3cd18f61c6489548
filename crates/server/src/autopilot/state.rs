//! What autopilot was told, what it has seen of the members so far, and what it did.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvd_autopilot::bootstrap::Promise;
use kvd_autopilot::plan::{self, Action, Kind, Plan, Policy, View};
use kvd_autopilot::status;
use kvd_raft::{Role, Status};
use parking_lot::Mutex;

use super::desired::{Desired, DesiredSource};
use crate::apply;
use crate::core::Core;
use crate::error::Result;

/// Actions that are remembered for the status.
const ACTIONS_MAX: usize = 20;
/// How much time between two looks counts as silence of the others. Looks are twice a second; when
/// more time passes, this process stood still or its clock jumped, and it is not known who was there.
const BETWEEN_LOOKS_MAX: Duration = Duration::from_secs(1);

/// What a member is told about acting by itself.
#[derive(Clone)]
pub struct Settings {
    /// Whether it acts; otherwise it only tells how the members are.
    pub enabled: bool,
    /// When the leader does what.
    pub policy: Policy,
    /// Who says how many members are wanted.
    pub desired: Option<Arc<dyn DesiredSource>>,
    /// `--initial-cluster-token`, as it was given.
    pub token: String,
    /// Tells this member's disk from every other; empty when it never was in auto mode.
    pub nonce: String,
    /// With what this member's cluster began, if it was there.
    pub promise: Option<Promise>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("enabled", &self.enabled)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            enabled: false,
            policy: Policy {
                stabilization: Duration::from_secs(10),
                leave_after: Duration::from_secs(10),
                abandon_after: Duration::from_secs(60),
                cleanup: None,
                first_ordinal: 0,
            },
            desired: None,
            token: String::new(),
            nonce: String::new(),
            promise: None,
        }
    }
}

/// What was seen of one member. Written by [`Autopilot::watch`] alone.
#[derive(Clone, Copy, Debug, Default)]
struct Track {
    /// When the way to it was last seen open.
    contact: Option<Instant>,
    /// For how long it was seen closed since then.
    silent: Duration,
    /// Since when it has all but the latest entries.
    caught_up_since: Option<Instant>,
}

impl Track {
    /// One look: whether the way to it is open, and the time since the look before, of which there
    /// was none if this member has just become one.
    fn look(&mut self, now: Instant, is_open: bool, before: Option<Instant>) {
        if is_open {
            self.contact = Some(now);
            self.silent = Duration::ZERO;
        } else if let Some(before) = before {
            let passed = now.saturating_duration_since(before);
            self.silent += passed.min(BETWEEN_LOOKS_MAX);
        }
    }
}

#[derive(Default)]
struct Watched {
    members: HashMap<u64, Track>,
    /// When it was last looked.
    looked: Option<Instant>,
    /// The leader's last entry at the look before; zero when this member did not lead.
    last_index: u64,
}

/// A member's autopilot. Part of [`Core`].
pub struct Autopilot {
    settings: Settings,
    desired: Desired,
    watched: Mutex<Watched>,
    plan: Mutex<Plan>,
    actions: Mutex<VecDeque<(Instant, status::Done)>>,
}

impl Autopilot {
    /// One that has seen nothing yet.
    pub fn new(settings: Settings) -> Autopilot {
        Autopilot {
            desired: Desired::new(settings.desired.clone()),
            settings,
            watched: Mutex::default(),
            plan: Mutex::default(),
            actions: Mutex::default(),
        }
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many members are wanted.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Looks at all members once; to be called at an even pace.
    pub(super) fn watch(&self, core: &Core) {
        let status = core.status();
        let leads = status.role == Role::Leader;
        let now = Instant::now();
        let mut watched = self.watched.lock();
        let before = std::mem::replace(
            &mut watched.last_index,
            if leads { status.last_index } else { 0 },
        );
        let ids: Vec<u64> = status
            .voters
            .iter()
            .chain(&status.learners)
            .copied()
            .collect();
        watched.members.retain(|id, _| ids.contains(id));
        let looked = watched.looked.replace(now);
        for id in ids {
            let is_new = !watched.members.contains_key(&id);
            let track = watched.members.entry(id).or_default();
            let is_open = id == core.member_id() || core.node().connected_since(id).is_some();
            track.look(now, is_open, looked.filter(|_| !is_new));
            let has = match id == core.member_id() {
                true => Some(status.last_index),
                false => core.node().matched_index(id),
            };
            let caught_up = before > 0 && has.is_some_and(|has| has >= before);
            track.caught_up_since = match caught_up {
                true => track.caught_up_since.or(Some(now)),
                false => None,
            };
        }
    }

    /// The members as they were last seen, with what their records say now.
    ///
    /// Errors: the records cannot be read.
    pub(super) fn view(&self, core: &Core, status: &Status) -> Result<View> {
        let now = Instant::now();
        let watched = self.watched.lock();
        let member = |record: kvd_api::pb::etcdserverpb::Member| {
            let track = watched.members.get(&record.id);
            let local = record.id == core.member_id();
            let since = |at: Instant| now.saturating_duration_since(at);
            let reachable = core.node().connected_since(record.id).map(since);
            let lag = match local {
                true => Some(0),
                false => core
                    .node()
                    .matched_index(record.id)
                    .map(|matched| status.last_index.saturating_sub(matched)),
            };
            plan::Member {
                id: record.id,
                name: record.name,
                peer_urls: record.peer_ur_ls,
                learner: record.is_learner,
                votes: status.voters.contains(&record.id),
                local,
                reachable_for: reachable,
                unreachable_for: match (reachable, track) {
                    (None, Some(track)) => track.silent,
                    _ => Duration::ZERO,
                },
                caught_up_for: track.and_then(|track| track.caught_up_since).map(since),
                lag,
            }
        };
        Ok(View {
            members: apply::members(core.store())?
                .into_iter()
                .map(member)
                .collect(),
            desired: self.desired.last().count,
        })
    }

    /// When the way to a member was last seen open.
    pub(super) fn contact(&self, id: u64) -> Option<Duration> {
        let watched = self.watched.lock();
        let contact = watched.members.get(&id)?.contact?;
        Some(contact.elapsed())
    }

    /// Whether it has been looked often enough to judge.
    pub(super) fn has_looked(&self) -> bool {
        self.watched.lock().last_index > 0
    }

    pub(super) fn set_plan(&self, plan: Plan) {
        *self.plan.lock() = plan;
    }

    pub(super) fn plan(&self) -> Plan {
        self.plan.lock().clone()
    }

    /// Notes and logs what was done.
    pub(super) fn did(&self, core: &Core, kind: Kind, member: &str, why: &str, error: &str) {
        if error.is_empty() {
            tracing::info!(
                action = kind.name(),
                member,
                reason = why,
                "autopilot acted"
            );
            core.metrics()
                .autopilot_actions
                .with_label_values(&[kind.name()])
                .inc();
        } else {
            tracing::warn!(
                action = kind.name(),
                member,
                reason = why,
                error,
                "autopilot could not act; it tries again"
            );
        }
        let done = status::Done {
            action: kind.name().to_owned(),
            member: member.to_owned(),
            reason: why.to_owned(),
            error: error.to_owned(),
            age_ms: 0,
        };
        let mut actions = self.actions.lock();
        // What fails again and again is one line.
        if let Some((at, last)) = actions.front_mut()
            && *last == done
        {
            *at = Instant::now();
            return;
        }
        actions.push_front((Instant::now(), done));
        actions.truncate(ACTIONS_MAX);
    }

    pub(super) fn actions(&self) -> Vec<status::Done> {
        let actions = self.actions.lock();
        let aged = |(at, done): &(Instant, status::Done)| status::Done {
            age_ms: millis(at.elapsed()),
            ..done.clone()
        };
        actions.iter().map(aged).collect()
    }
}

/// What `action` is about, for people.
pub(super) fn called(view: &View, action: &Action) -> String {
    let member = view.members.iter().find(|member| member.id == action.id);
    member.map_or_else(
        || format!("{:x}", action.id),
        |member| member.called().to_owned(),
    )
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_stood_still_takes_nobody_for_silent() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut track = Track::default();
        track.look(at(0), false, None);
        assert_eq!(track.silent, Duration::ZERO);
        track.look(at(500), false, Some(at(0)));
        track.look(at(1_000), false, Some(at(500)));
        assert_eq!(track.silent, Duration::from_secs(1));
        // An hour in which nobody looked.
        track.look(at(3_600_000), false, Some(at(1_000)));
        assert_eq!(track.silent, Duration::from_secs(2));
        // A clock that went back.
        track.look(at(1_000), false, Some(at(3_600_000)));
        assert_eq!(track.silent, Duration::from_secs(2));
        track.look(at(1_500), true, Some(at(1_000)));
        assert_eq!(track.silent, Duration::ZERO);
        assert_eq!(track.contact, Some(at(1_500)));
    }
}
