//! The thread that looks at the files and at the clock.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::live::Live;

/// Longest time between two looks: what changes on disk is used by new connections after it.
const LOOK_MAX: Duration = Duration::from_millis(250);
const LOOK_MIN: Duration = Duration::from_millis(10);
/// Most time that a request to another member may take on a connection that must end.
const GRACE_MAX: Duration = Duration::from_secs(2);

/// Watches ports until it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches `ports`. `bound` (`--tls-recheck-interval`): within it a change has taken effect on
    /// open connections, too.
    ///
    /// Errors: no thread can be started.
    pub fn start(ports: Vec<Arc<Live>>, bound: Duration) -> io::Result<Watch> {
        let (stop, stopped) = channel();
        let look = (bound / 4).clamp(LOOK_MIN, LOOK_MAX);
        let grace = (bound / 2).min(GRACE_MAX);
        let thread = std::thread::Builder::new()
            .name("kvd-tls-watch".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(look) {
                    for live in &ports {
                        live.look(grace);
                    }
                }
            })?;
        Ok(Watch {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic was logged by the panic hook.
            let _panicked = thread.join();
        }
    }
}
