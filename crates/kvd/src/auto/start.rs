//! A start in auto mode: the data, the questions, and what the server is told then.

use std::sync::Arc;
use std::time::Duration;

use kvd_autopilot::plan::Policy;
use kvd_server::autopilot::{self, Desired};
use kvd_server::config::Join;
use kvd_server::{Config, identity};

use super::begin::{self, Began, Beginner};
use super::desired;
use super::disk::Disk;
use super::early::{Early, Ports};
use crate::settings::{Autopilot, Settings};

/// Least silence after which one that is wanted no more is removed: a connection that is made anew
/// takes no longer.
const LEAVE_AFTER_LEAST: Duration = Duration::from_secs(2);

/// Finds out who this member is, in auto mode; serves the ports meanwhile.
///
/// Errors: its data cannot be read, or what it must remember not be written.
pub async fn find_out(
    settings: &Settings,
    auto: &Autopilot,
    ports: &Ports<'_>,
    config: &mut Config,
) -> anyhow::Result<()> {
    let disk = Disk::open(&settings.data_dir, settings.wal_dir.as_deref())?;
    if identity::is_removed(&settings.data_dir) && !settings.force_new_cluster {
        disk.set_aside()?;
    }
    let disk = Arc::new(disk);
    let token = &settings.initial_cluster_token;
    let found = identity::load(&settings.data_dir)?;
    let source = auto.desired.as_ref().map(desired::source);
    let desired = Desired::new(source.clone());
    let dialer = ports.security.peer_dialer();
    let beginner = Beginner::new(
        settings,
        auto,
        dialer,
        disk.clone(),
        &desired,
        found.as_ref(),
    );
    let early = Early::start(beginner.board(), ports)?;
    let mut promise = None;
    match &found {
        Some(identity) => {
            if config.token_is_explicit && !identity.has_token(token) {
                beginner.refuse_token(identity).await;
            }
            beginner.check(identity).await;
            promise = begin::begun_with(&disk, identity, token);
        }
        None => match beginner.begin().await? {
            Began::Founders(founders) => promise = Some(founders),
            Began::Joined {
                cluster_id,
                member_id,
                peers,
            } => {
                config.join = Some(Join {
                    cluster_id,
                    member_id,
                    peers,
                });
            }
        },
    }
    early.stop().await;
    config.token_is_explicit = false;
    if let Some(promise) = &promise {
        config.initial_cluster_token = identity::founders_token(token, &promise.founders);
        let founders = promise.founders.iter();
        config.initial_cluster = founders
            .map(|founder| (founder.name.clone(), founder.peer_urls.clone()))
            .collect();
    }
    config.autopilot = autopilot::Settings {
        desired: source,
        nonce: disk.nonce(),
        promise,
        ..acting(settings, auto)
    };
    Ok(())
}

/// A member that tells how the others are, and does nothing about it.
pub fn watching(settings: &Settings) -> autopilot::Settings {
    autopilot::Settings {
        token: settings.initial_cluster_token.clone(),
        ..autopilot::Settings::default()
    }
}

/// A member in auto mode.
fn acting(settings: &Settings, auto: &Autopilot) -> autopilot::Settings {
    let others = watching(settings);
    autopilot::Settings {
        enabled: true,
        policy: Policy {
            stabilization: auto.stabilization,
            leave_after: auto.stabilization.max(LEAVE_AFTER_LEAST),
            cleanup: auto.cleanup,
            first_ordinal: auto.first_ordinal,
            ..others.policy
        },
        ..others
    }
}
