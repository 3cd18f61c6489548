//! Whether a member of this version may join: the version that the cluster has agreed on must be one
//! that it speaks.
//!
//! Source: etcd `server/etcdserver/cluster_util.go` (`isCompatibleWithCluster`).

use std::time::Duration;

use kvd_api::ETCD_VERSION;
use kvd_raft::Dialer;
use tracing::warn;

use super::remote::{self, Cluster, Member};

/// The oldest version of a cluster that members can join.
const OLDEST: Version = (3, 0);

/// Major and minor.
type Version = (u64, u64);

/// What the members say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A version that this member speaks.
    Compatible,
    /// Another one.
    Incompatible,
    /// Nobody answers, or there is no version yet.
    Unknown,
}

/// Compares this member's version with what the members of `cluster` but `own_id` say.
pub(super) async fn compare(
    dialer: &dyn Dialer,
    cluster: &Cluster,
    own_id: u64,
    limit: Duration,
) -> Verdict {
    let others = || cluster.members.iter().filter(|member| member.id != own_id);
    let mut downgrading = None;
    for member in others() {
        let asked = first(member, |url| remote::is_downgrading(dialer, url, limit)).await;
        if asked.is_some() {
            downgrading = asked;
            break;
        }
    }
    let window = window(ETCD_VERSION, downgrading.unwrap_or(false));
    let mut verdict = Verdict::Unknown;
    for member in others() {
        let version = first(member, |url| remote::cluster_version(dialer, url, limit)).await;
        let Some(version) = version.as_deref().and_then(parse) else {
            continue;
        };
        if version < window.0 || version > window.1 {
            warn!(
                remote_member_id = format!("{:x}", member.id),
                remote_member_cluster_version = ?version,
                lowest = ?window.0,
                highest = ?window.1,
                "cluster version of remote member is not compatible"
            );
            return Verdict::Incompatible;
        }
        verdict = Verdict::Compatible;
    }
    verdict
}

/// What the first of a member's URLs that answers says.
async fn first<'a, T, F>(member: &'a Member, ask: impl Fn(&'a str) -> F) -> Option<T>
where
    F: Future<Output = Result<T, String>>,
{
    for url in &member.peer_urls {
        match ask(url).await {
            Ok(answer) => return Some(answer),
            Err(why) => warn!(url, why, "failed to reach the peer URL"),
        }
    }
    None
}

/// The lowest and highest version of a cluster that `own` may join. While it is being downgraded,
/// only a member of the version below may.
fn window(own: &str, is_downgrading: bool) -> (Version, Version) {
    let (major, minor) = parse(own).unwrap_or(OLDEST);
    match is_downgrading {
        true => ((major, minor + 1), (major, minor + 1)),
        false => (OLDEST, (major, minor)),
    }
}

fn parse(text: &str) -> Option<Version> {
    let mut parts = text.split('.');
    let mut number = || parts.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_joins_clusters_of_its_version_and_older_ones() {
        assert_eq!(window("3.7.1", false), ((3, 0), (3, 7)));
        assert_eq!(window("3.7.1", true), ((3, 8), (3, 8)));
        assert_eq!(parse("3.6.0"), Some((3, 6)));
        assert_eq!(parse("not_decided"), None);
    }
}
