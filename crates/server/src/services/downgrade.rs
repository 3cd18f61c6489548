//! Downgrade: whether the cluster could go to an older version, and the job of doing so.
//!
//! Source: etcd `server/etcdserver/v3_server.go`, `server/etcdserver/version/version.go`.

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::downgrade_request::DowngradeAction;
use kvd_api::pb::etcdserverpb::{DowngradeRequest, DowngradeResponse};
use kvd_api::pb::kvdcommandpb::DowngradeInfoSet;
use kvd_api::pb::kvdcommandpb::command::Request;

use crate::apply;
use crate::core::Core;
use crate::error::Result;

/// A version without its patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    major: u64,
    minor: u64,
}

impl Version {
    /// Reads `X.Y` or `X.Y.Z`, which may go on as semantic versions do.
    fn parse(text: &str) -> Option<Version> {
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers.split('.');
        let mut number = || {
            let part = parts.next()?;
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| part.parse::<u64>().ok()).flatten()
        };
        let (major, minor) = (number()?, number()?);
        match parts.next() {
            Some(patch) if patch.parse::<u64>().is_err() => return None,
            // A suffix stands only behind three numbers.
            None if numbers.len() != text.len() => return None,
            _ => {}
        }
        parts.next().is_none().then_some(Version { major, minor })
    }
}

pub(super) async fn downgrade(core: &Core, request: DowngradeRequest) -> Result<DowngradeResponse> {
    // The answer tells the version before: in etcd it changes some seconds later.
    let before = cluster_version(core);
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => {
            validate(core, &request.version).await?;
        }
        Ok(DowngradeAction::Enable) => {
            let Version { major, minor } = validate(core, &request.version)
                .await
                .inspect_err(|error| tracing::warn!(%error, "reject downgrade request"))?;
            set(core, true, format!("{major}.{minor}.0")).await?;
        }
        Ok(DowngradeAction::Cancel) => {
            core.read_barrier().await?;
            if apply::downgrade(core.store())?.enabled {
                set(core, false, String::new()).await?;
            } else {
                // etcd answers as if there had been a job.
                let error = WireError::NoInflightDowngrade.message();
                tracing::warn!(error, "failed to cancel downgrade");
            }
        }
        Err(_) => return Err(WireError::UnknownMethod.into()),
    }
    let Version { major, minor } = before?;
    Ok(DowngradeResponse {
        header: Some(core.header(core.store().current_revision())),
        version: format!("{major}.{minor}"),
    })
}

/// Checks that the cluster may go to `target`: one minor version down, and no job under way.
async fn validate(core: &Core, target: &str) -> Result<Version> {
    let target = Version::parse(target).ok_or(WireError::WrongDowngradeTargetVersionFormat)?;
    cluster_version(core)?;
    // Another member may have started a job just now.
    core.read_barrier().await?;
    let current = cluster_version(core)?;
    let allowed = current.minor.checked_sub(1).map(|minor| Version {
        major: current.major,
        minor,
    });
    if allowed != Some(target) {
        return Err(WireError::InvalidDowngradeTargetVersion.into());
    }
    if apply::downgrade(core.store())?.enabled {
        return Err(WireError::DowngradeInProcess.into());
    }
    Ok(target)
}

fn cluster_version(core: &Core) -> Result<Version> {
    let version = apply::cluster_version(core.store());
    let version = version.and_then(|version| Version::parse(&version));
    Ok(version.ok_or(WireError::ClusterVersionUnavailable)?)
}

async fn set(core: &Core, enabled: bool, version: String) -> Result<()> {
    let request = DowngradeInfoSet { enabled, version };
    core.propose(Request::DowngradeInfoSet(request))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        let version = |major, minor| Some(Version { major, minor });
        assert_eq!(Version::parse("3.6"), version(3, 6));
        assert_eq!(Version::parse("3.6.11"), version(3, 6));
        assert_eq!(Version::parse("3.6.0-rc.1"), version(3, 6));
        for wrong in [
            "", "3", "3.", "3.x", "v3.6", "3.6.1.2", "3.-6", "3.6.x", "+3.6",
        ] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }
}
