//! Ports that no other test takes, in this process or another one.
//!
//! A port is reserved by a locked file in a shared folder and stays reserved as long as the
//! [`Port`] lives. The range lies below the system's range for outgoing connections, so that no
//! client's socket sits on it by chance.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, bail};
use rand::Rng;

const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// A reserved loopback port.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: File,
}

impl Port {
    /// Reserves a port on which nothing listens.
    ///
    /// Errors: when the shared folder cannot be written, or no port is free.
    pub fn reserve() -> Result<Port> {
        let folder = std::env::temp_dir().join("kvd-test-ports");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // Another user's tests may share it; failing to widen it only matters to them.
        drop(fs::set_permissions(
            &folder,
            fs::Permissions::from_mode(0o777),
        ));
        let mut random = rand::rng();
        for _ in 0..10_000 {
            let number = random.random_range(FIRST..LAST);
            let reservation = File::create(folder.join(number.to_string()))?;
            if reservation.try_lock().is_ok()
                && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
            {
                return Ok(Port {
                    number,
                    _reservation: reservation,
                });
            }
        }
        bail!("no free port between {FIRST} and {LAST}")
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
