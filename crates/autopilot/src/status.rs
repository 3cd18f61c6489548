//! What autopilot tells of itself: the JSON of `GET /v1/autopilot`.
//!
//! IDs are texts in hexadecimal, since JavaScript's numbers hold no 64 bits. Lengths of time are in
//! milliseconds by a monotonic clock. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// How far a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Without data: it looks for a cluster, or for enough others to begin one.
    #[default]
    Waiting,
    /// Without data: it asks to be added to the cluster that is there.
    Joining,
    /// It will not go on by itself: see the reason.
    Refused,
    /// It is a member of a cluster.
    Member,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Whether this member acts by itself (`--initial-cluster-state auto`). The health below is
    /// told in any case.
    pub enabled: bool,
    /// The member that tells this.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// Why it waits or refuses; empty when all is well.
    pub reason: String,
    /// Who answered under the discovered addresses, while it is no member yet.
    pub seen: Vec<Seen>,
    /// The cluster's ID; empty before there is one.
    pub cluster_id: String,
    /// This member's ID.
    pub member_id: String,
    /// The leader's ID; empty while there is none.
    pub leader: String,
    /// Whether the leader judged: health, lag and plans are its view. Without a leader that
    /// answers, this member tells only what it knows itself.
    pub from_leader: bool,
    /// Whether a quorum is there and every member is healthy.
    pub healthy: bool,
    /// How many more voters may be lost before writes stop.
    pub failure_tolerance: u64,
    /// How many members vote.
    pub voters: u64,
    /// How many members are wanted, if somebody says so.
    pub desired_replicas: Option<u32>,
    /// Who says so: `statefulset kvd/etcd`, `file /etc/kvd/replicas`, or empty.
    pub desired_source: String,
    /// Why the source cannot be read now; the number above is then the last one known.
    pub desired_error: String,
    /// What the leader does next, if anything.
    pub next: Option<Next>,
    /// What it would do and does not, with the reason.
    pub held: Vec<Held>,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// The latest actions, newest first.
    pub actions: Vec<Done>,
}

/// Something that is about to be done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Next {
    /// `promote`, `leave`, `cleanup`, `abandoned`, `replace` or `join`.
    pub action: String,
    /// Whom it is about: name, or peer URL before there is one.
    pub member: String,
    /// Why.
    pub reason: String,
}

/// Something that is not done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Whom it is about.
    pub member: String,
    /// Why nothing is done.
    pub reason: String,
}

/// Something that was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// As in [`Next::action`].
    pub action: String,
    /// Whom it was about.
    pub member: String,
    /// Why.
    pub reason: String,
    /// Empty when it worked.
    pub error: String,
    /// How long ago.
    pub age_ms: u64,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// Its ID.
    pub id: String,
    /// Its name; empty until it has been started.
    pub name: String,
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// `leader`, `voter`, `learner`, or `joining` for a voter that has not caught up yet.
    pub role: String,
    /// Whether it was started, answers, and lags by little.
    pub healthy: bool,
    /// Time since the leader last heard of it; `None` when it never has.
    pub last_contact_ms: Option<u64>,
    /// Entries of the leader's log that it lacks; `None` when that is not known.
    pub lag: Option<u64>,
    /// For how long it has been healthy.
    pub stable_ms: u64,
    /// Whether it is one of those that are wanted; `None` when nobody says so.
    pub desired: Option<bool>,
}

/// Who answered under a discovered address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The address, or the name of a file that cannot be read.
    pub address: String,
    /// Who it said it is; empty when nobody answered.
    pub name: String,
    /// What was found: `empty`, `promised`, `started`, `stranger`, or why there is no answer.
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_missing_has_a_default() {
        let status = Status {
            enabled: true,
            phase: Phase::Joining,
            members: vec![MemberStatus {
                role: "leader".to_owned(),
                lag: Some(7),
                ..MemberStatus::default()
            }],
            ..Status::default()
        };
        let text = serde_json::to_string(&status).expect("JSON");
        assert!(text.contains(r#""phase":"joining""#), "{text}");
        assert_eq!(
            serde_json::from_str::<Status>(&text).expect("a status"),
            status
        );
        let least: Status = serde_json::from_str(r#"{"later":1}"#).expect("a status");
        assert_eq!(least, Status::default());
    }
}
