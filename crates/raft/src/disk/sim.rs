//! A disk in memory that remembers the order of everything done to it.
//!
//! ```text
//!  event 0   create a            crash_image(4, seed): `a` was synced (3), so its first bytes
//!  event 1   write  a [0, 5000)  are there; the name is durable only if an event 4 or earlier
//!  event 2   sync_dir            synced the directory, else it is kept by a throw of the dice;
//!  event 3   sync   a            of the write in event 4 each 4 KiB block is kept or lost.
//!  event 4   write  a [5000, 20000)
//! ```

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile, DiskLock};

/// Size of the pieces in which an un-synced write survives or is lost.
const BLOCK_BYTES: u64 = 4096;

/// Where an injected fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::sync_data`].
    Sync,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`Disk::rename`].
    Rename,
    /// [`DiskFile::preallocate`].
    Preallocate,
}

/// What happens at a [`FaultPoint`].
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The call fails with this operating system error number (5 is EIO, 28 is ENOSPC).
    Errno(i32),
    /// The call takes this much longer, each time.
    Stall(Duration),
}

/// A disk in memory; clones share it. See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What was durable before the first event.
    base: BTreeMap<PathBuf, Vec<u8>>,
    events: Vec<Event>,
    names: BTreeMap<PathBuf, u64>,
    files: HashMap<u64, Vec<u8>>,
    next_file: u64,
    faults: Vec<Armed>,
    space_left: Option<u64>,
}

#[derive(Debug)]
struct Armed {
    point: FaultPoint,
    skip: usize,
    fault: Fault,
}

#[derive(Debug, Clone)]
enum Event {
    Create {
        path: PathBuf,
        file: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    SyncDir {
        dir: PathBuf,
    },
    Write {
        file: u64,
        offset: u64,
        bytes: Bytes,
    },
    Resize {
        file: u64,
        bytes: u64,
    },
    Sync {
        file: u64,
    },
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// A disk that holds these files, all durable.
    pub fn with_files(files: BTreeMap<PathBuf, Vec<u8>>) -> SimDisk {
        let mut state = State {
            base: files.clone(),
            ..State::default()
        };
        for (path, content) in files {
            let file = state.next_file;
            state.next_file += 1;
            state.names.insert(path, file);
            state.files.insert(file, content);
        }
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How many events are recorded. Whoever learns of a durable write notes this number: an
    /// image at it or later must contain the write.
    pub fn event_count(&self) -> usize {
        self.state.lock().events.len()
    }

    /// The disk as a power cut right after the first `events` events could have left it. The
    /// same seed gives the same image.
    pub fn crash_image(&self, events: usize, seed: u64) -> SimDisk {
        let state = self.state.lock();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut replay = Replay::new(&state.base);
        for event in state.events.iter().take(events) {
            replay.push(event);
        }
        SimDisk::with_files(replay.cut(&mut rng))
    }

    /// The disk as a process killed right after the first `events` events leaves it: everything
    /// is there to be read, but what was not synced can still be lost in a later
    /// [`SimDisk::crash_image`].
    pub fn kill_image(&self, events: usize) -> SimDisk {
        let state = self.state.lock();
        let image = SimDisk::with_files(state.base.clone());
        let mut killed = image.state.lock();
        killed.events = state.events.iter().take(events).cloned().collect();
        killed.next_file = state.next_file;
        for event in state.events.iter().take(events) {
            apply_name(&mut killed.names, event);
            if let Event::Write { file, .. } | Event::Resize { file, .. } = event {
                let content = killed.files.entry(*file).or_default();
                apply_content(content, event, &mut || true);
            }
        }
        drop(killed);
        image
    }

    /// The content of every file as a reader sees it now.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state.lock();
        let content = |file: &u64| state.files.get(file).cloned().unwrap_or_default();
        state
            .names
            .iter()
            .map(|(path, file)| (path.clone(), content(file)))
            .collect()
    }

    /// Arms a fault: `skip` calls pass the point first. An error strikes every later call until
    /// [`SimDisk::heal`].
    pub fn inject(&self, point: FaultPoint, skip: usize, fault: Fault) {
        self.state.lock().faults.push(Armed { point, skip, fault });
    }

    /// Limits how much all files together may still grow; `None` lifts the limit. A write
    /// beyond it stores what fits and fails with ENOSPC.
    pub fn set_space_left(&self, bytes: Option<u64>) {
        self.state.lock().space_left = bytes;
    }

    /// Removes all armed faults.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    fn strike(&self, point: FaultPoint) -> io::Result<()> {
        let mut pause = Duration::ZERO;
        let mut errno = None;
        for armed in self
            .state
            .lock()
            .faults
            .iter_mut()
            .filter(|armed| armed.point == point)
        {
            if armed.skip > 0 {
                armed.skip -= 1;
                continue;
            }
            match armed.fault {
                Fault::Errno(number) => errno = Some(number),
                Fault::Stall(length) => pause += length,
            }
        }
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        errno.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number)))
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.next_file;
        state.next_file += 1;
        state.names.insert(path.to_owned(), file);
        state.files.insert(file, Vec::new());
        state.events.push(Event::Create {
            path: path.to_owned(),
            file,
        });
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            file,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        let file = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            file,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.strike(FaultPoint::Rename)?;
        let mut state = self.state.lock();
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.events.push(Event::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.events.push(Event::Remove {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.strike(FaultPoint::SyncDir)?;
        self.state.lock().events.push(Event::SyncDir {
            dir: dir.to_owned(),
        });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| path.file_name()?.to_str().map(str::to_owned);
        Ok(inside.filter_map(name).collect())
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn DiskLock>> {
        Ok(Box::new(SimLock))
    }
}

#[derive(Debug)]
struct SimLock;

impl DiskLock for SimLock {}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl SimFile {
    /// Makes the file `bytes` long at least, as far as space allows; returns the reached length.
    fn grow(state: &mut State, file: u64, bytes: u64) -> u64 {
        let content = state.files.entry(file).or_default();
        let old = content.len() as u64;
        if bytes <= old {
            return old;
        }
        let granted = state
            .space_left
            .map_or(bytes - old, |left| left.min(bytes - old));
        if let Some(left) = &mut state.space_left {
            *left -= granted;
        }
        content.resize((old + granted) as usize, 0);
        old + granted
    }

    fn resize(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let reached = SimFile::grow(&mut state, self.file, bytes);
        if reached < bytes {
            return Err(io::Error::from_raw_os_error(28));
        }
        let file = self.file;
        state
            .files
            .entry(file)
            .or_default()
            .truncate(bytes as usize);
        state.events.push(Event::Resize { file, bytes });
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.strike(FaultPoint::Write)?;
        let mut state = self.disk.state.lock();
        let end = offset + bytes.len() as u64;
        let reached = SimFile::grow(&mut state, self.file, end);
        let fits = bytes.len().min(reached.saturating_sub(offset) as usize);
        let content = state.files.entry(self.file).or_default();
        let start = (offset as usize).min(content.len());
        content[start..start + fits].copy_from_slice(&bytes[..fits]);
        let bytes = Bytes::copy_from_slice(&bytes[..fits]);
        state.events.push(Event::Write {
            file: self.file,
            offset,
            bytes,
        });
        if reached < end {
            Err(io::Error::from_raw_os_error(28))
        } else {
            Ok(())
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.strike(FaultPoint::Read)?;
        let state = self.disk.state.lock();
        let content = state.files.get(&self.file).map_or(&[][..], Vec::as_slice);
        let start = content.len().min(offset as usize);
        let read = buffer.len().min(content.len() - start);
        buffer[..read].copy_from_slice(&content[start..start + read]);
        Ok(read)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.strike(FaultPoint::Sync)?;
        self.disk
            .state
            .lock()
            .events
            .push(Event::Sync { file: self.file });
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self
            .disk
            .state
            .lock()
            .files
            .get(&self.file)
            .map_or(0, |content| content.len() as u64))
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.resize(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.disk.strike(FaultPoint::Preallocate)?;
        if self.size()? >= bytes {
            Ok(())
        } else {
            self.resize(bytes)
        }
    }
}

/// What is durable, and what waits for a sync, after some events.
struct Replay {
    names: BTreeMap<PathBuf, u64>,
    files: HashMap<u64, Vec<u8>>,
    waiting_names: Vec<Event>,
    waiting: BTreeMap<u64, Vec<Event>>,
}

impl Replay {
    fn new(base: &BTreeMap<PathBuf, Vec<u8>>) -> Replay {
        // The numbers are those that `with_files` gave.
        let numbered = || base.iter().zip(0..);
        Replay {
            names: numbered()
                .map(|((path, _), file)| (path.clone(), file))
                .collect(),
            files: numbered()
                .map(|((_, content), file)| (file, content.clone()))
                .collect(),
            waiting_names: Vec::new(),
            waiting: BTreeMap::new(),
        }
    }

    fn push(&mut self, event: &Event) {
        match event {
            Event::Write { file, .. } | Event::Resize { file, .. } => {
                self.waiting.entry(*file).or_default().push(event.clone());
            }
            Event::Sync { file } => {
                for event in self.waiting.remove(file).unwrap_or_default() {
                    apply_content(self.files.entry(*file).or_default(), &event, &mut || true);
                }
            }
            Event::SyncDir { dir } => {
                for event in std::mem::take(&mut self.waiting_names) {
                    if parent(&event) == Some(dir) {
                        apply_name(&mut self.names, &event);
                    } else {
                        self.waiting_names.push(event);
                    }
                }
            }
            Event::Create { .. } | Event::Rename { .. } | Event::Remove { .. } => {
                self.waiting_names.push(event.clone());
            }
        }
    }

    /// Throws the dice over what waits, and returns the files that are left.
    fn cut(mut self, rng: &mut StdRng) -> BTreeMap<PathBuf, Vec<u8>> {
        let kept_share = [0.0, 0.5, 0.95, 1.0][rng.random_range(0..4)];
        for event in &self.waiting_names {
            // A rename is one step: it is kept or lost as a whole.
            if rng.random_bool(kept_share) {
                apply_name(&mut self.names, event);
            }
        }
        for (file, events) in &self.waiting {
            let content = self.files.entry(*file).or_default();
            for event in events {
                apply_content(content, event, &mut || rng.random_bool(kept_share));
            }
        }
        let files = &mut self.files;
        let content = |file| files.get(&file).cloned().unwrap_or_default();
        self.names
            .into_iter()
            .map(|(path, file)| (path, content(file)))
            .collect()
    }
}

fn parent(event: &Event) -> Option<&Path> {
    match event {
        Event::Create { path, .. } | Event::Remove { path } => path.parent(),
        Event::Rename { to, .. } => to.parent(),
        _ => None,
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, u64>, event: &Event) {
    match event {
        Event::Create { path, file } => {
            names.insert(path.clone(), *file);
        }
        Event::Remove { path } => {
            names.remove(path);
        }
        Event::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        _ => {}
    }
}

/// Applies a write block by block, each only when `kept` says so; a resize likewise.
fn apply_content(content: &mut Vec<u8>, event: &Event, kept: &mut dyn FnMut() -> bool) {
    match event {
        Event::Resize { bytes, .. } if kept() => content.resize(*bytes as usize, 0),
        Event::Write { offset, bytes, .. } => {
            let (mut at, end) = (*offset, *offset + bytes.len() as u64);
            while at < end {
                let stop = end.min((at / BLOCK_BYTES + 1) * BLOCK_BYTES);
                if kept() {
                    let piece = &bytes[(at - offset) as usize..(stop - offset) as usize];
                    if content.len() < stop as usize {
                        content.resize(stop as usize, 0);
                    }
                    content[at as usize..stop as usize].copy_from_slice(piece);
                }
                at = stop;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        Path::new("/d").join(name)
    }

    #[test]
    fn a_synced_file_with_a_synced_name_survives_every_cut() {
        let disk = SimDisk::new();
        let file = disk.create(&path("a")).expect("create");
        file.write_at(&[7; 10_000], 0).expect("write");
        file.sync_data().expect("sync");
        disk.sync_dir(Path::new("/d")).expect("sync the directory");
        let durable = disk.event_count();
        file.write_at(&[8; 10_000], 0).expect("overwrite");
        for seed in 0..50 {
            let image = disk.crash_image(durable, seed).files();
            assert_eq!(image[&path("a")], vec![7; 10_000], "seed {seed}");
        }
    }

    #[test]
    fn unsynced_blocks_are_lost_or_kept_one_by_one() {
        let disk = SimDisk::new();
        let file = disk.create(&path("a")).expect("create");
        file.write_at(&[1; 16_384], 0).expect("write");
        file.sync_data().expect("sync");
        disk.sync_dir(Path::new("/d")).expect("sync the directory");
        file.write_at(&[2; 16_384], 0).expect("overwrite");
        let mut mixed = 0;
        for seed in 0..100 {
            let image = disk.crash_image(disk.event_count(), seed).files();
            let content = &image[&path("a")];
            for block in content.chunks(4096) {
                assert!(
                    block.iter().all(|byte| *byte == block[0]),
                    "seed {seed}: a torn block"
                );
            }
            mixed += usize::from(content.contains(&1) && content.contains(&2));
        }
        assert!(
            mixed > 10,
            "only {mixed} of 100 images mix old and new blocks"
        );
    }

    #[test]
    fn an_unsynced_name_is_sometimes_lost() {
        let disk = SimDisk::new();
        disk.create(&path("a"))
            .expect("create")
            .sync_data()
            .expect("sync");
        let kept = (0..100)
            .filter(|seed| {
                !disk
                    .crash_image(disk.event_count(), *seed)
                    .files()
                    .is_empty()
            })
            .count();
        assert!((10..90).contains(&kept), "kept in {kept} of 100 images");
    }

    #[test]
    fn a_killed_process_leaves_what_a_later_power_cut_can_take() {
        let disk = SimDisk::new();
        let file = disk.create(&path("a")).expect("create");
        disk.sync_dir(Path::new("/d")).expect("sync the directory");
        file.write_at(b"abc", 0).expect("write");
        let events = disk.event_count();
        file.write_at(b"xyz", 0).expect("after the kill");
        let killed = disk.kill_image(events);
        assert_eq!(killed.files()[&path("a")], b"abc");
        let lost = |disk: &SimDisk| {
            let images = (0..50).map(|seed| disk.crash_image(disk.event_count(), seed));
            images
                .filter(|image| image.files()[&path("a")].is_empty())
                .count()
        };
        assert!(lost(&killed) > 0);
        killed
            .open(&path("a"))
            .expect("open")
            .sync_data()
            .expect("sync");
        assert_eq!(lost(&killed), 0);
    }

    #[test]
    fn a_full_disk_stores_what_fits_and_says_so() {
        let disk = SimDisk::new();
        let file = disk.create(&path("a")).expect("create");
        disk.set_space_left(Some(3));
        let error = file.write_at(b"abcdef", 0).expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.files()[&path("a")], b"abc");
        disk.set_space_left(None);
        file.write_at(b"abcdef", 0).expect("space again");
    }

    #[test]
    fn an_armed_fault_strikes_after_the_skipped_calls() {
        let disk = SimDisk::new();
        let file = disk.create(&path("a")).expect("create");
        disk.inject(FaultPoint::Sync, 1, Fault::Errno(5));
        file.sync_data().expect("skipped");
        assert_eq!(
            file.sync_data().expect_err("struck").raw_os_error(),
            Some(5)
        );
        disk.heal();
        file.sync_data().expect("healed");
    }
}
