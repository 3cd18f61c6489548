//! Harness of the black-box suites: real `kvd` processes on loopback, real clients, recorded
//! histories and the check that they are linearizable.
//!
//! - [`ports`]: ports that no other test takes.
//! - [`member`]: one `kvd` process: start, kill, pause, logs.
//! - [`process`]: any other program with its log: `kvd` with odd arguments, scripts.
//! - [`tmpfs`]: a small disk to fill.
//! - [`cluster`]: several of them, and what they must agree on.
//! - [`browser`]: Chromium without a screen, driven by WebDriver.
//! - [`wait`]: conditions with a deadline, never sleeps.
//! - [`http`]: just enough HTTP/1.1 to see the bytes that a server sends.
//! - [`history`]: what clients did and saw.
//! - [`linearizable`]: Porcupine's algorithm over a history.
//! - [`workload`]: concurrent clients that record a history.
//!
//! A suite takes its binaries from the build folder it runs in; `KVD_BIN` and `KVCTL_BIN` name
//! others.

pub mod browser;
pub mod cluster;
pub mod history;
pub mod http;
pub mod linearizable;
pub mod member;
pub mod pki;
pub mod ports;
pub mod process;
pub mod secure;
pub mod tmpfs;
pub mod wait;
pub mod workload;
