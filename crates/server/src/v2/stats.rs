//! What `/v2/stats` shows, counted since the member started.
//!
//! Source: etcd 3.4 `etcdserver/api/v2stats`, `etcdserver/api/v2store/stats.go`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use kvd_api::pb::kvdcommandpb::V2Request;
use kvd_api::pb::kvdcommandpb::v2_request::Method;
use kvd_raft::{Role, Status};
use parking_lot::Mutex;
use serde_json::json;

/// What an operation counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read.
    Get,
    /// A plain PUT.
    Set,
    /// A DELETE.
    Delete,
    /// A PUT with `prevExist=true`.
    Update,
    /// A POST, or a PUT with `prevExist=false`.
    Create,
    /// A PUT that compares.
    CompareAndSwap,
    /// A DELETE that compares.
    CompareAndDelete,
}

impl Kind {
    /// What a change counts as.
    pub fn of(request: &V2Request) -> Kind {
        let compares = request.prev_index != 0 || !request.prev_value.is_empty();
        match Method::try_from(request.method).unwrap_or(Method::Put) {
            Method::Post => Kind::Create,
            Method::Delete if compares => Kind::CompareAndDelete,
            Method::Delete => Kind::Delete,
            Method::Put => match request.prev_exist {
                Some(false) => Kind::Create,
                _ if compares => Kind::CompareAndSwap,
                Some(true) => Kind::Update,
                None => Kind::Set,
            },
        }
    }
}

/// The names of [`Kind`], in its order, before `Success` and `Fail`.
const NAMES: [&str; 7] = [
    "gets",
    "sets",
    "delete",
    "update",
    "create",
    "compareAndSwap",
    "compareAndDelete",
];

/// All counters.
#[derive(Debug)]
pub struct Counters {
    /// By [`Kind`]: how many went well, how many did not.
    operations: [(AtomicU64, AtomicU64); NAMES.len()],
    expired: AtomicU64,
    watchers: AtomicI64,
    started: SystemTime,
    /// Since when which member leads.
    leader: Mutex<(u64, Instant, SystemTime)>,
    received: AtomicU64,
    sent: AtomicU64,
    followers: Mutex<BTreeMap<u64, Follower>>,
}

/// Round trips to one follower, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Follower {
    current: f64,
    sum: f64,
    sum_of_squares: f64,
    minimum: f64,
    maximum: f64,
    succeeded: u64,
    failed: u64,
}

impl Default for Counters {
    fn default() -> Counters {
        let now = SystemTime::now();
        Counters {
            operations: Default::default(),
            expired: AtomicU64::new(0),
            watchers: AtomicI64::new(0),
            started: now,
            leader: Mutex::new((0, Instant::now(), now)),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            followers: Mutex::default(),
        }
    }
}

impl Counters {
    /// Counts an operation.
    pub fn count(&self, kind: Kind, went_well: bool) {
        let (succeeded, failed) = &self.operations[kind as usize];
        let counter = if went_well { succeeded } else { failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a node whose TTL has ended.
    pub fn expire(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts watches that begin, or with -1 end.
    pub fn watcher(&self, change: i64) {
        self.watchers.fetch_add(change, Ordering::Relaxed);
    }

    /// Another member leads now.
    pub fn leads(&self, leader: u64) {
        let mut now = self.leader.lock();
        if now.0 != leader {
            *now = (leader, Instant::now(), SystemTime::now());
            self.followers.lock().clear();
        }
    }

    /// Counts a message that came from a peer.
    pub fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that went to a peer.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer of a follower.
    pub fn answered(&self, follower: u64, took: Duration) {
        let millis = took.as_secs_f64() * 1_000.0;
        let mut followers = self.followers.lock();
        let follower = followers.entry(follower).or_default();
        follower.current = millis;
        follower.minimum = match follower.succeeded {
            0 => millis,
            _ => follower.minimum.min(millis),
        };
        follower.maximum = follower.maximum.max(millis);
        follower.sum += millis;
        follower.sum_of_squares += millis * millis;
        follower.succeeded += 1;
    }

    /// Counts a message to a follower that was lost.
    pub fn failed(&self, follower: u64) {
        self.followers.lock().entry(follower).or_default().failed += 1;
    }

    pub(super) fn store_json(&self) -> String {
        let mut text = String::from("{");
        for (name, (succeeded, failed)) in NAMES.iter().zip(&self.operations) {
            let (succeeded, failed) = (
                succeeded.load(Ordering::Relaxed),
                failed.load(Ordering::Relaxed),
            );
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\"{name}Success\":{succeeded},\"{name}Fail\":{failed},"
            );
        }
        let expired = self.expired.load(Ordering::Relaxed);
        let watchers = self.watchers.load(Ordering::Relaxed);
        let _ = write!(text, "\"expireCount\":{expired},\"watchers\":{watchers}}}");
        text
    }

    pub(super) fn self_json(&self, id: u64, name: &str, status: &Status) -> String {
        let state = match status.role {
            Role::Leader => "StateLeader",
            Role::Candidate => "StateCandidate",
            Role::Follower | Role::Learner => "StateFollower",
        };
        let (leader, since, at) = *self.leader.lock();
        let leader = match leader {
            0 => String::new(),
            id => format!("{id:x}"),
        };
        format!(
            "{{\"name\":{name},\"id\":\"{id:x}\",\"state\":\"{state}\",\"startTime\":\"{started}\",\
             \"leaderInfo\":{{\"leader\":\"{leader}\",\"uptime\":\"{uptime}\",\
             \"startTime\":\"{at}\"}},\"recvAppendRequestCnt\":{received},\
             \"sendAppendRequestCnt\":{sent}}}",
            name = json!(name),
            started = time(self.started),
            uptime = go_duration(since.elapsed()),
            at = time(at),
            received = self.received.load(Ordering::Relaxed),
            sent = self.sent.load(Ordering::Relaxed),
        )
    }

    pub(super) fn leader_json(&self, id: u64) -> String {
        let followers = self.followers.lock();
        let followers: Vec<String> = followers
            .iter()
            .map(|(id, follower)| format!("\"{id:x}\":{}", follower.json()))
            .collect();
        let followers = followers.join(",");
        format!("{{\"leader\":\"{id:x}\",\"followers\":{{{followers}}}}}")
    }
}

impl Follower {
    fn json(&self) -> String {
        let count = self.succeeded.max(1) as f64;
        let average = self.sum / count;
        let variance = self.sum_of_squares / count - average * average;
        format!(
            "{{\"latency\":{{\"current\":{},\"average\":{},\"standardDeviation\":{},\
             \"minimum\":{},\"maximum\":{}}},\"counts\":{{\"fail\":{},\"success\":{}}}}}",
            self.current,
            average,
            variance.max(0.0).sqrt(),
            self.minimum,
            self.maximum,
            self.failed,
            self.succeeded
        )
    }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

/// A duration as Go writes it: `1h2m3.5s`, `1.5s`, `12.3ms`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let trimmed = |number: f64, unit: &str| {
        let text = format!("{number:.9}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{unit}")
    };
    if seconds == 0 {
        return trimmed((duration.as_secs_f64() * 1e9).round() / 1e6, "ms");
    }
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    let rest = Duration::new(seconds % 60, duration.subsec_nanos()).as_secs_f64();
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if seconds >= 60 {
        let _ = write!(text, "{minutes}m");
    }
    text + &trimmed(rest, "s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        for (nanos, want) in [
            (2_190_440_635, "2.190440635s"),
            (1_500_000, "1.5ms"),
            (60_000_000_000, "1m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), want);
        }
    }

    #[test]
    fn followers_are_summed_up() {
        let counters = Counters::default();
        counters.leads(0xa);
        counters.answered(0xb, Duration::from_millis(2));
        counters.answered(0xb, Duration::from_millis(4));
        counters.failed(0xb);
        assert_eq!(
            counters.leader_json(0xa),
            "{\"leader\":\"a\",\"followers\":{\"b\":{\"latency\":{\"current\":4,\"average\":3,\
             \"standardDeviation\":1,\"minimum\":2,\"maximum\":4},\"counts\":{\"fail\":1,\
             \"success\":2}}}}"
        );
    }
}
