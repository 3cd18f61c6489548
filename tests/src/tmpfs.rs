//! A small disk to fill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// A tmpfs that is mounted as long as this lives.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts `mebibytes` at `path`. `None`, with the reason printed, where that is not permitted.
    ///
    /// Errors: when the mount point cannot be made.
    pub fn mount(path: &Path, mebibytes: u32) -> Result<Option<Tmpfs>> {
        fs::create_dir_all(path)?;
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "kvd-test"])
            .arg(path)
            .output();
        let reason = match mount {
            Ok(output) if output.status.success() => {
                let path = path.to_owned();
                return Ok(Some(Tmpfs { path }));
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        println!("skipped, since no small disk can be mounted: {reason}");
        Ok(None)
    }

    /// Makes it `mebibytes` large.
    ///
    /// Errors: when that is refused.
    pub fn resize(&self, mebibytes: u32) -> Result<()> {
        let output = Command::new("mount")
            .args(["-o", &format!("remount,size={mebibytes}m")])
            .arg(&self.path)
            .output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a member that a failed test leaves behind may still hold files there.
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
    }
}
