//! What an empty disk must not forget: its nonce, and what it has promised to begin with.
//!
//! ```text
//! NAME.etcd/autopilot/disk.json     {"nonce":"9f…","promise":{"epoch":3,"founders":[…]}}
//! NAME.etcd/member.removed          data of a member that was removed from the cluster; one copy
//! WAL-DIR.removed                   the same of its log; of a mount point WAL-DIR/set-aside
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use kvd_autopilot::bootstrap::Promise;
use kvd_server::directories;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Where the content of a directory goes that cannot be renamed.
const ASIDE: &str = "set-aside";

/// The state of a disk in auto mode. Everything that is set is durable on return.
#[derive(Debug)]
pub struct Disk {
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    nonce: String,
    promise: Option<Promise>,
}

impl Disk {
    /// Reads the state, or makes one with a new nonce.
    ///
    /// Errors: a directory or file that cannot be made, read or understood.
    pub fn open(data_dir: &Path, wal_dir: Option<&Path>) -> anyhow::Result<Disk> {
        let folder = data_dir.join("autopilot");
        let is_new = !folder.exists();
        directories::create(&[data_dir, &folder], is_new)?;
        let path = folder.join("disk.json");
        let state = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).with_context(|| {
                format!(
                    "{} is not what this version of kvd writes: restore it, or remove the data \
                     directory to begin anew",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State {
                nonce: String::new(),
                promise: None,
            },
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let disk = Disk {
            data_dir: data_dir.to_owned(),
            wal_dir: wal_dir.map(Path::to_owned),
            state: Mutex::new(state),
        };
        if disk.nonce().is_empty() {
            disk.renew()?;
        }
        Ok(disk)
    }

    /// Tells this disk from every other.
    pub fn nonce(&self) -> String {
        self.state.lock().nonce.clone()
    }

    /// What it has promised.
    pub fn promise(&self) -> Option<Promise> {
        self.state.lock().promise.clone()
    }

    /// Promises.
    ///
    /// Errors: it could not be made durable; the promise before may still count, and so may this.
    pub fn set_promise(&self, promise: &Promise) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        let next = State {
            promise: Some(promise.clone()),
            ..state.clone()
        };
        self.write(&next)?;
        *state = next;
        Ok(())
    }

    /// Makes another disk of it, which has promised nothing.
    ///
    /// Errors: it could not be made durable.
    pub fn renew(&self) -> anyhow::Result<()> {
        let next = State {
            nonce: format!(
                "{:032x}",
                u128::from_be_bytes(kvd_server::identity::random()?)
            ),
            promise: None,
        };
        self.write(&next)?;
        *self.state.lock() = next;
        Ok(())
    }

    /// Sets the data of a removed member aside, where one older copy makes room for it, and makes
    /// another disk of this one.
    ///
    /// Errors: what cannot be moved.
    pub fn set_aside(&self) -> anyhow::Result<()> {
        // First the log, if it is elsewhere: as long as the data is there, this is done again.
        let mut moved = Vec::new();
        moved.extend(self.wal_dir.clone());
        moved.push(self.data_dir.join("member"));
        self.renew()?;
        for path in moved {
            let Some(kept_as) = move_aside(&path)? else {
                continue;
            };
            tracing::warn!(
                data = %path.display(),
                kept_as = %kept_as.display(),
                "this member was removed from the cluster: its data is set aside, and it joins anew"
            );
        }
        Ok(())
    }

    fn write(&self, state: &State) -> anyhow::Result<()> {
        let folder = self.data_dir.join("autopilot");
        let path = folder.join("disk.json");
        let part = folder.join("disk.part");
        let text = json!({ "nonce": state.nonce, "promise": state.promise }).to_string();
        let written = || -> io::Result<()> {
            let mut file = File::create(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            File::open(&folder)?.sync_all()
        };
        written().with_context(|| path.display().to_string())
    }
}

/// Moves a directory out of the way and returns where to; `None` when nothing is there.
fn move_aside(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !path.exists() {
        return Ok(None);
    }
    let aside = path.with_extension("removed");
    let renamed = make_room(&aside).and_then(|()| fs::rename(path, &aside));
    let Err(error) = renamed else {
        if let Some(above) = path.parent() {
            sync(above)?;
        }
        return Ok(Some(aside));
    };
    // A mount point cannot be renamed, nor what lies in a folder of somebody else.
    let why = || format!("setting {} aside ({error})", path.display());
    move_content_aside(path).with_context(why)
}

/// Moves what is in a directory into one that stays in it.
fn move_content_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let aside = path.join(ASIDE);
    let mut moved = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != ASIDE && name != "lost+found" {
            moved.push(name);
        }
    }
    if moved.is_empty() {
        // Done before, and cut short then.
        return Ok(None);
    }
    // What says that the member was removed goes last: until then this is done again.
    moved.sort_by_key(|name| name == "removed");
    make_room(&aside)?;
    fs::create_dir(&aside)?;
    for name in moved {
        fs::rename(path.join(&name), aside.join(&name))?;
    }
    File::open(&aside)?.sync_all()?;
    File::open(path)?.sync_all()?;
    Ok(Some(aside))
}

/// Removes an older copy.
fn make_room(aside: &Path) -> io::Result<()> {
    match fs::remove_dir_all(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| folder.display().to_string())
}

fn parse(text: &str) -> Option<State> {
    let value: Value = serde_json::from_str(text).ok()?;
    let promise = value.get("promise").cloned().unwrap_or(Value::Null);
    Some(State {
        nonce: value.get("nonce")?.as_str()?.to_owned(),
        promise: serde_json::from_value(promise).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use kvd_autopilot::bootstrap::Founder;

    use super::*;

    #[test]
    fn a_promise_outlives_the_process_and_a_removed_member_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let disk = Disk::open(&data, None).unwrap();
        let promise = Promise {
            epoch: 3,
            founders: vec![Founder {
                name: "a".into(),
                peer_urls: vec!["http://a:1".into()],
                nonce: disk.nonce(),
            }],
        };
        disk.set_promise(&promise).unwrap();
        let again = Disk::open(&data, None).unwrap();
        assert_eq!(
            (again.nonce(), again.promise()),
            (disk.nonce(), Some(promise))
        );

        for content in ["first", "second"] {
            fs::create_dir(data.join("member")).unwrap();
            fs::write(data.join("member/x"), content).unwrap();
            let before = again.nonce();
            again.set_aside().unwrap();
            assert_ne!(again.nonce(), before);
            assert_eq!(again.promise(), None);
            assert!(!data.join("member").exists());
            assert_eq!(
                fs::read_to_string(data.join("member.removed/x")).unwrap(),
                content
            );
        }
        fs::write(data.join("autopilot/disk.json"), "{}").unwrap();
        assert!(Disk::open(&data, None).is_err());
    }

    #[test]
    fn the_content_of_a_mount_point_is_set_aside_within() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let aside = log.join(ASIDE);
        fs::create_dir_all(log.join("lost+found")).unwrap();
        assert_eq!(move_content_aside(&log).unwrap(), None);
        for content in ["first", "second"] {
            fs::write(log.join("1.wal"), content).unwrap();
            assert_eq!(move_content_aside(&log).unwrap(), Some(aside.clone()));
            assert_eq!(fs::read_to_string(aside.join("1.wal")).unwrap(), content);
            assert!(!log.join("1.wal").exists());
        }
        assert_eq!(move_content_aside(&log).unwrap(), None);
        assert!(aside.join("1.wal").exists() && log.join("lost+found").exists());
    }
}
