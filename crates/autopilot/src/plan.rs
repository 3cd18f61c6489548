//! What the leader does about the members, and why not.
//!
//! One change at a time, and none while another is under way. A voter is removed only if those that
//! stay and answer are a quorum of what is left: by its own act autopilot never leaves fewer.

use std::time::Duration;

use crate::name;

/// A member, as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its ID.
    pub id: u64,
    /// Its name; empty until it has been started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Whether it was added without a vote.
    pub learner: bool,
    /// Whether consensus counts it as a voter now; one that was added with a vote may still be
    /// catching up.
    pub votes: bool,
    /// Whether it is the leader itself.
    pub local: bool,
    /// For how long the way to it has been open; `None` while it is not.
    pub reachable_for: Option<Duration>,
    /// For how long it has not been, as far as this leader knows.
    pub unreachable_for: Duration,
    /// For how long it has had all but the latest entries.
    pub caught_up_for: Option<Duration>,
    /// Entries of the leader's log that it lacks.
    pub lag: Option<u64>,
}

impl Member {
    /// What it is called, also before it has published its name.
    pub fn called(&self) -> &str {
        match name::called(&self.name, &self.peer_urls) {
            "" => self.peer_urls.first().map_or("", String::as_str),
            called => called,
        }
    }

    /// Whether it answers.
    pub fn answers(&self) -> bool {
        self.local || self.reachable_for.is_some()
    }

    /// Started, answers, and lacks little.
    pub fn is_healthy(&self) -> bool {
        self.local || (!self.name.is_empty() && self.answers() && self.caught_up_for.is_some())
    }

    /// For how long it has been healthy; the leader itself always is.
    pub fn stable_for(&self) -> Duration {
        match (self.local, self.reachable_for, self.caught_up_for) {
            (true, ..) => Duration::MAX,
            (false, Some(reachable), Some(caught_up)) if !self.name.is_empty() => {
                reachable.min(caught_up)
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether fewer than `desired` members are wanted than its number says. `None` when nobody
    /// says how many are wanted, or it has no number. None are wanted: all stop, and nobody leaves.
    pub fn is_surplus(&self, desired: Option<u32>, first_ordinal: u32) -> Option<bool> {
        is_surplus(self.called(), desired?, first_ordinal)
    }
}

/// Whether the member `name` is none of `desired` ones that are counted from `first_ordinal` on;
/// `None` when its name has no number.
pub fn is_surplus(name: &str, desired: u32, first_ordinal: u32) -> Option<bool> {
    let (_, number) = name::ordinal(name)?;
    Some(desired > 0 && number.saturating_sub(first_ordinal) >= desired)
}

/// Whether members are counted rather than numbered: no name ends in a number, so that nobody is one
/// of those that stay by its name alone.
fn is_counted(view: &View) -> bool {
    let mut members = view.members.iter();
    members.all(|member| name::ordinal(member.called()).is_none())
}

fn answering(view: &View) -> usize {
    view.members
        .iter()
        .filter(|member| member.answers())
        .count()
}

/// Whether the member `name`, which is told to stop, goes for good: by its number, or where members
/// are counted because more answer than are wanted. `desired` 0: all stop, and nobody leaves.
pub fn goes_for_good(view: &View, name: &str, desired: u32, first_ordinal: u32) -> bool {
    is_surplus(name, desired, first_ordinal)
        .unwrap_or_else(|| desired > 0 && is_counted(view) && answering(view) > desired as usize)
}

/// When dead members are removed although nobody said that they go for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// After so long without an answer.
    pub threshold: Duration,
    /// So many voters stay at least.
    pub min_quorum: u32,
}

/// What the leader was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For how long a learner must have been healthy to be promoted.
    pub stabilization: Duration,
    /// For how long a member that is wanted no more must have been silent to be removed: as long as
    /// it lives it leaves by itself.
    pub leave_after: Duration,
    /// For how long a learner that was added and never started is waited for.
    pub abandon_after: Duration,
    /// Whether and when dead members are removed.
    pub cleanup: Option<Cleanup>,
    /// The lowest number of names with ordinals.
    pub first_ordinal: u32,
}

/// Everything that the leader sees.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All members.
    pub members: Vec<Member>,
    /// How many are wanted, if somebody says so.
    pub desired: Option<u32>,
}

/// Kinds of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A learner gets a vote.
    Promote,
    /// A member that is wanted no more is removed.
    Leave,
    /// A dead member is removed by the policy.
    Cleanup,
    /// A learner that never came is removed.
    Abandoned,
    /// A member whose disk was lost is removed, to be added anew.
    Replace,
    /// A learner is added.
    Join,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 6] = [
        Kind::Promote,
        Kind::Leave,
        Kind::Cleanup,
        Kind::Abandoned,
        Kind::Replace,
        Kind::Join,
    ];

    /// Its name in JSON, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Promote => "promote",
            Kind::Leave => "leave",
            Kind::Cleanup => "cleanup",
            Kind::Abandoned => "abandoned",
            Kind::Replace => "replace",
            Kind::Join => "join",
        }
    }
}

/// Something to do about a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What.
    pub kind: Kind,
    /// To whom.
    pub id: u64,
    /// Why.
    pub why: String,
}

/// The next action, and what is held back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most one.
    pub next: Option<Action>,
    /// Whom nothing is done about, and why.
    pub held: Vec<(u64, String)>,
}

/// Decides what the leader does next.
pub fn plan(view: &View, policy: &Policy) -> Plan {
    let mut plan = Plan::default();
    for member in view.members.iter().filter(|member| !member.local) {
        let Some(wish) = wish(view, policy, member) else {
            continue;
        };
        let under_way = change_under_way(view, member.id);
        let refused = match (&wish, &under_way) {
            (Err(why), _) => Some(why.clone()),
            (Ok(_), Some(why)) => Some(why.clone()),
            (Ok(action), None) => refusal(view, policy, member, action.kind).err(),
        };
        match (wish, refused) {
            (Ok(action), None) if plan.next.is_none() => plan.next = Some(action),
            (Ok(action), None) => {
                let why = format!("{}: one after the other", action.why);
                plan.held.push((member.id, why));
            }
            (_, Some(why)) => plan.held.push((member.id, why)),
            // A wish that is only a reason to wait is always refused above.
            (Err(_), None) => {}
        }
    }
    plan
}

/// What should become of a member, or why that has to wait; `None` when it is fine as it is.
fn wish(view: &View, policy: &Policy, member: &Member) -> Option<Result<Action, String>> {
    let action = |kind, why| {
        Some(Ok(Action {
            kind,
            id: member.id,
            why,
        }))
    };
    let silent = member.unreachable_for;
    let seconds = |time: Duration| time.as_secs();
    if member.is_surplus(view.desired, policy.first_ordinal) == Some(true) {
        let desired = view.desired.unwrap_or(0);
        if member.answers() {
            let why =
                format!("{desired} members are wanted: it leaves when its process is stopped");
            return Some(Err(why));
        }
        if silent < policy.leave_after {
            let why = format!(
                "{desired} members are wanted and it does not answer: it is removed after {} s",
                seconds(policy.leave_after)
            );
            return Some(Err(why));
        }
        let why = format!(
            "{desired} members are wanted, and it has not answered for {} s",
            seconds(silent)
        );
        return action(Kind::Leave, why);
    }
    if let Some(wish) = one_too_many(view, policy, member) {
        return Some(wish);
    }
    if member.learner {
        return learner(policy, member);
    }
    if !member.answers() && !member.votes {
        return Some(Err("it has not caught up and does not answer".to_owned()));
    }
    let cleanup = policy.cleanup?;
    if member.answers() {
        return None;
    }
    if silent < cleanup.threshold {
        let why = format!(
            "it has not answered for {} s; dead members are removed after {} s",
            seconds(silent),
            seconds(cleanup.threshold)
        );
        return Some(Err(why));
    }
    let why = format!("it has not answered for {} s", seconds(silent));
    action(Kind::Cleanup, why)
}

/// Where members are counted and there are more than are wanted, whoever has been silent for longest
/// goes: the others have taken its place.
fn one_too_many(view: &View, policy: &Policy, member: &Member) -> Option<Result<Action, String>> {
    let desired = view.desired.filter(|desired| *desired > 0)?;
    let all = view.members.len();
    if member.answers() || all <= desired as usize || !is_counted(view) {
        return None;
    }
    let silent = view.members.iter().filter(|other| !other.answers());
    let longest = silent.max_by_key(|other| (other.unreachable_for, other.id))?;
    let seconds = member.unreachable_for.as_secs();
    if longest.id != member.id {
        let why = format!(
            "{desired} members are wanted of {all}, and {} has been silent for longer",
            longest.called()
        );
        return Some(Err(why));
    }
    if member.unreachable_for < policy.leave_after {
        let why = format!(
            "{desired} members are wanted of {all}, and it does not answer: it is removed after {} s",
            policy.leave_after.as_secs()
        );
        return Some(Err(why));
    }
    Some(Ok(Action {
        kind: Kind::Leave,
        id: member.id,
        why: format!(
            "{desired} members are wanted of {all}, and it has not answered for {seconds} s"
        ),
    }))
}

fn learner(policy: &Policy, member: &Member) -> Option<Result<Action, String>> {
    let action = |kind, why| {
        Some(Ok(Action {
            kind,
            id: member.id,
            why,
        }))
    };
    if member.name.is_empty() {
        let silent = member.unreachable_for;
        if !member.answers() && silent >= policy.abandon_after {
            let why = format!("it was added {} s ago and never came", silent.as_secs());
            return action(Kind::Abandoned, why);
        }
        return Some(Err("it was added and is not started yet".to_owned()));
    }
    if !member.answers() {
        return Some(Err("it does not answer".to_owned()));
    }
    if member.caught_up_for.is_none() {
        return Some(Err(match member.lag {
            Some(lag) => format!("it lacks {lag} entries of the log"),
            None => "it is not known how much of the log it has".to_owned(),
        }));
    }
    let stable = member.stable_for();
    if stable < policy.stabilization {
        let why = format!(
            "it has been healthy for {:.1} s; it is promoted after {:.1} s",
            stable.as_secs_f64(),
            policy.stabilization.as_secs_f64()
        );
        return Some(Err(why));
    }
    let why = format!(
        "it has caught up and been healthy for {} s",
        stable.as_secs()
    );
    action(Kind::Promote, why)
}

/// A change that is not finished: somebody else than `id` is to have a vote and has none yet. One
/// that died meanwhile has no part in any quorum, and may go.
fn change_under_way(view: &View, id: u64) -> Option<String> {
    let mut others = view.members.iter().filter(|member| member.id != id);
    let joining = others.find(|member| !member.learner && !member.votes)?;
    Some(format!(
        "{} is getting its vote: one after the other",
        joining.called()
    ))
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether an action keeps the cluster safe.
///
/// Errors: why it does not.
fn refusal(view: &View, policy: &Policy, member: &Member, kind: Kind) -> Result<(), String> {
    match kind {
        Kind::Promote | Kind::Abandoned | Kind::Join => Ok(()),
        Kind::Leave | Kind::Replace => check_removal(view, member, 1),
        Kind::Cleanup => {
            let least = policy.cleanup.map_or(0, |cleanup| cleanup.min_quorum);
            check_removal(view, member, usize::try_from(least).unwrap_or(usize::MAX))
        }
    }
}

/// Refuses to remove a voter when those that stay and answer are no quorum of what is left, or
/// fewer than `least` voters stay.
fn check_removal(view: &View, member: &Member, least: usize) -> Result<(), String> {
    if member.learner {
        return Ok(());
    }
    let stay = view
        .members
        .iter()
        .filter(|other| other.id != member.id && !other.learner);
    let (mut voters, mut healthy) = (0, 0);
    for other in stay {
        voters += 1;
        healthy += usize::from(other.votes && other.answers());
    }
    if voters < least.max(1) {
        return Err(format!(
            "{voters} voters would stay, and at least {} must",
            least.max(1)
        ));
    }
    if healthy < quorum(voters) {
        return Err(format!(
            "without it {healthy} of {voters} voters answer, and {} must",
            quorum(voters)
        ));
    }
    Ok(())
}

/// Who asks to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// The ID that it would have: it follows from its disk.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
}

/// What becomes of a request to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is a member already, with this disk.
    Known,
    /// It is to be added as a learner.
    Add,
    /// First this member goes, whose place it takes.
    Replace(Action),
    /// Later.
    Wait(String),
    /// Not unless somebody changes something.
    Refuse(String),
}

/// Decides about a request to be added, on the leader.
pub fn admit(view: &View, policy: &Policy, who: &Applicant, learners_max: usize) -> Admission {
    if view.members.iter().any(|member| member.id == who.id) {
        return Admission::Known;
    }
    if view
        .desired
        .and_then(|desired| is_surplus(&who.name, desired, policy.first_ordinal))
        == Some(true)
    {
        return Admission::Wait(format!(
            "{} members are wanted, and {} is none of them",
            view.desired.unwrap_or(0),
            who.name
        ));
    }
    let shares = |member: &&Member| {
        member
            .peer_urls
            .iter()
            .any(|url| who.peer_urls.contains(url))
    };
    let has_name = |member: &&Member| !member.name.is_empty() && member.name == who.name;
    let old = view
        .members
        .iter()
        .find(|member| shares(member) || has_name(member));
    if let Some(old) = old {
        return replace(view, policy, who, old);
    }
    if let Some(desired) = view.desired.filter(|desired| *desired > 0)
        && name::ordinal(&who.name).is_none()
        && is_counted(view)
        && answering(view) >= desired as usize
    {
        return Admission::Wait(format!("{desired} members are wanted, and as many answer"));
    }
    if let Some(why) = change_under_way(view, who.id) {
        return Admission::Wait(why);
    }
    let learners: Vec<&str> = view
        .members
        .iter()
        .filter(|member| member.learner)
        .map(Member::called)
        .collect();
    if learners.len() >= learners_max {
        return Admission::Wait(format!(
            "{} must be promoted first: {learners_max} at a time",
            learners.join(", ")
        ));
    }
    let voters = voters(view);
    let healthy = voters
        .iter()
        .filter(|voter| voter.votes && voter.answers())
        .count();
    match healthy >= quorum(voters.len()) {
        true => Admission::Add,
        false => Admission::Wait(format!("{healthy} of {} voters answer", voters.len())),
    }
}

fn replace(view: &View, policy: &Policy, who: &Applicant, old: &Member) -> Admission {
    let called = old.called();
    if old.local {
        return Admission::Refuse(format!(
            "the leader itself is {called}: two members with one name"
        ));
    }
    if old.answers() {
        return Admission::Refuse(format!(
            "{called} (member {:x}) answers with its own disk: two members with one name, or one \
             whose end is not known yet",
            old.id
        ));
    }
    if let Some(why) = change_under_way(view, old.id) {
        return Admission::Wait(why);
    }
    match refusal(view, policy, old, Kind::Replace) {
        Ok(()) => Admission::Replace(Action {
            kind: Kind::Replace,
            id: old.id,
            why: format!(
                "{} came back without the disk of {called} ({:x})",
                who.name, old.id
            ),
        }),
        Err(why) => Admission::Wait(format!("the old {called} cannot be removed now: {why}")),
    }
}

/// The members that count for the quorum.
fn voters(view: &View) -> Vec<&Member> {
    let members = view.members.iter();
    members.filter(|member| !member.learner).collect()
}

/// How many more voters may be lost.
pub fn failure_tolerance(view: &View) -> usize {
    let voters = voters(view);
    let healthy = voters
        .iter()
        .filter(|voter| voter.votes && voter.is_healthy())
        .count();
    healthy.saturating_sub(quorum(voters.len()))
}

/// Whether all members are healthy, and all voters have their vote.
pub fn is_healthy(view: &View) -> bool {
    let is_whole = |member: &Member| member.is_healthy() && (member.learner || member.votes);
    !view.members.is_empty() && view.members.iter().all(is_whole)
}

#[cfg(test)]
mod tests;
