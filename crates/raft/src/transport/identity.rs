//! Who speaks to whom: metadata on every request, checked before anything else.
//!
//! | key | value |
//! |---|---|
//! | `kvd-cluster-id` | the sender's cluster id, in hexadecimal |
//! | `kvd-from` | the sender's member id, in hexadecimal |
//! | `kvd-to` | the member id that the sender means to reach, in hexadecimal |

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::metadata::{MetadataMap, MetadataValue};

const CLUSTER: &str = "kvd-cluster-id";
const FROM: &str = "kvd-from";
const TO: &str = "kvd-to";

/// How often the same complaint about the same peer is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// This member's own ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request does not say which cluster and members it is for")]
    Anonymous,
    #[error("cluster id {theirs:x} of member {from:x} is not this cluster's {ours:x}")]
    OtherCluster { from: u64, ours: u64, theirs: u64 },
    #[error("member {from:x} means to reach member {to:x}, but this is member {ours:x}")]
    OtherMember { from: u64, to: u64, ours: u64 },
}

impl Identity {
    /// The metadata of a request to member `to`.
    pub(crate) fn metadata(&self, to: u64) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for (key, id) in [(CLUSTER, self.cluster_id), (FROM, self.member_id), (TO, to)] {
            let value = MetadataValue::try_from(format!("{id:x}"));
            metadata.insert(key, value.expect("hexadecimal digits are ASCII"));
        }
        metadata
    }

    /// The sender's member id, if the request is meant for this member of this cluster.
    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<u64, Refusal> {
        let read = |key| {
            let text = metadata.get(key).and_then(|value| value.to_str().ok());
            text.and_then(|text| u64::from_str_radix(text, 16).ok())
                .ok_or(Refusal::Anonymous)
        };
        let (theirs, from, to) = (read(CLUSTER)?, read(FROM)?, read(TO)?);
        if theirs != self.cluster_id {
            return Err(Refusal::OtherCluster {
                from,
                ours: self.cluster_id,
                theirs,
            });
        }
        if to != self.member_id {
            return Err(Refusal::OtherMember {
                from,
                to,
                ours: self.member_id,
            });
        }
        Ok(from)
    }
}

/// Lets one line a minute through for each subject.
#[derive(Default)]
pub(crate) struct LogLimit {
    last: Mutex<HashMap<String, Instant>>,
}

/// Subjects remembered; more are logged every time.
const SUBJECTS_MAX: usize = 1_000;

impl LogLimit {
    /// Whether to log about `subject` now.
    pub(crate) fn allows(&self, subject: &str) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock();
        if let Some(at) = last.get_mut(subject) {
            let due = now.duration_since(*at) >= LOG_INTERVAL;
            if due {
                *at = now;
            }
            return due;
        }
        if last.len() < SUBJECTS_MAX {
            last.insert(subject.to_owned(), now);
        }
        true
    }

    /// Forgets a subject; true when it had been logged about.
    pub(crate) fn clear(&self, subject: &str) -> bool {
        self.last.lock().remove(subject).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_member_of_this_cluster_is_reached() {
        let one = Identity {
            cluster_id: 0xc,
            member_id: 1,
        };
        let two = Identity {
            cluster_id: 0xc,
            member_id: 2,
        };
        let foreign = Identity {
            cluster_id: 0xd,
            member_id: 1,
        };
        assert_eq!(two.check(&one.metadata(2)), Ok(1));
        let refusal = two.check(&foreign.metadata(2));
        assert_eq!(
            refusal,
            Err(Refusal::OtherCluster {
                from: 1,
                ours: 0xc,
                theirs: 0xd
            })
        );
        let refusal = two.check(&one.metadata(3));
        assert_eq!(
            refusal,
            Err(Refusal::OtherMember {
                from: 1,
                to: 3,
                ours: 2
            })
        );
        assert_eq!(two.check(&MetadataMap::new()), Err(Refusal::Anonymous));
    }

    #[test]
    fn a_subject_is_logged_once_until_it_is_cleared() {
        let limit = LogLimit::default();
        assert!(limit.allows("a"));
        assert!(!limit.allows("a"));
        assert!(limit.allows("b"));
        assert!(limit.clear("a"));
        assert!(!limit.clear("a"));
        assert!(limit.allows("a"));
    }
}
