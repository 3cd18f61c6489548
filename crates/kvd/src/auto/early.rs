//! The ports of a process that is no member yet.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::board::Board;
use crate::ports::{Listeners, Security};
use crate::serve::{self, Cores, Listener, Options, Protocols, Secure, Services, Serving, limits};

/// The sockets, and what serving them needs.
pub struct Ports<'a> {
    /// The sockets of the member.
    pub listeners: &'a Listeners,
    /// TLS on them.
    pub security: &'a Security,
    /// Whose threads serve.
    pub cores: &'a Arc<Cores>,
    /// How many connections may be open.
    pub connections: &'a limits::Connections,
}

/// What is served until the member is.
pub struct Early {
    serving: Vec<Serving>,
}

impl Early {
    /// Serves what `board` shows on all TCP sockets. They share their queues with the listeners of
    /// `ports`, which are served after [`Early::stop`].
    ///
    /// Errors: there are no more descriptors.
    pub fn start(board: &Arc<Board>, ports: &Ports<'_>) -> anyhow::Result<Early> {
        let Ports {
            listeners,
            security,
            cores,
            connections,
        } = *ports;
        let cloned = listeners.try_clone().context("serving early")?;
        let start = |listeners: Vec<Listener>, router, tls: Secure| {
            let services = Services::alike(router);
            let options = Options {
                protocols: Protocols::HttpOnly,
                tls: Some(tls),
                ..Options::default()
            };
            serve::start(listeners, &services, options, cores, connections).context("serving early")
        };
        let waiting = || kvd_gateway::waiting_router(board.clone());
        let peers = kvd_gateway::waiting_peer_router(board.clone());
        let mut clients = cloned.client;
        clients.extend(cloned.client_http);
        Ok(Early {
            serving: vec![
                start(cloned.peer, peers, security.of_peers())?,
                start(clients, waiting(), security.of_clients())?,
                start(cloned.metrics, waiting(), security.of_metrics())?,
            ],
        })
    }

    /// Ends it: from now on, connections wait for the member. Answers under way are finished.
    pub async fn stop(self) {
        for serving in self.serving {
            serving.stop(Duration::from_millis(500)).await;
        }
    }
}
