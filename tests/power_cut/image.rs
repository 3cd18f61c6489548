//! Images of the disk after a power cut: what was durable, and a choice of the rest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;

use crate::disk::{
    BLOCK, Content, Disk, FileChange, NameChange, Names, Node, Versions, apply_name, blocks,
};

/// What survives of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    Nothing,
    Everything,
    /// Each block and name with probability a half.
    Half,
    /// With probability 0.95.
    Most,
    /// As `Half`, and blocks may be torn between sectors of 512 bytes.
    Torn,
}

impl Survives {
    /// Draws a way, each equally often.
    pub fn draw(random: &mut StdRng) -> Survives {
        use Survives::{Everything, Half, Most, Nothing, Torn};
        [Nothing, Everything, Half, Most, Torn][random.random_range(0..5)]
    }

    /// How many of `count` changes in a row survive.
    fn prefix(self, random: &mut StdRng, count: usize) -> usize {
        let keep = match self {
            Survives::Nothing => return 0,
            Survives::Everything => return count,
            Survives::Half | Survives::Torn => 0.5,
            Survives::Most => 0.95,
        };
        if random.random_bool(keep) {
            count
        } else {
            random.random_range(0..=count)
        }
    }
}

/// Writes an image of `disk` into the new folder `target`.
///
/// Errors: when a file cannot be written.
pub fn write(
    disk: &Disk<'_>,
    survives: Survives,
    random: &mut StdRng,
    target: &Path,
) -> Result<()> {
    write_dir(disk, 0, survives, random, target)
}

fn write_dir(
    disk: &Disk<'_>,
    node: usize,
    survives: Survives,
    random: &mut StdRng,
    target: &Path,
) -> Result<()> {
    fs::create_dir(target)?;
    let Node::Dir(versions) = &disk.nodes[node] else {
        return Ok(());
    };
    for (name, node) in names(versions, survives, random) {
        let path = target.join(name);
        match &disk.nodes[node] {
            Node::Dir(_) => write_dir(disk, node, survives, random, &path)?,
            Node::File(versions) => {
                write_file(&content(versions, survives, random, disk.bytes()), &path)?;
            }
        }
    }
    Ok(())
}

fn names(versions: &Versions<Names, NameChange>, survives: Survives, random: &mut StdRng) -> Names {
    let mut names = versions.durable.clone();
    let kept = survives.prefix(random, versions.pending.len());
    versions.pending[..kept]
        .iter()
        .for_each(|(_, change)| apply_name(&mut names, change));
    names
}

/// Chooses the content of a file.
pub fn content(
    versions: &Versions<Content, FileChange>,
    survives: Survives,
    random: &mut StdRng,
    bytes: &[u8],
) -> Content {
    let pending = &versions.pending;
    let mut content = versions.durable.clone();
    if survives == Survives::Everything {
        pending
            .iter()
            .for_each(|(_, change)| content.apply(change, bytes));
        return content;
    }
    let is_cut = |change: &FileChange| matches!(change, FileChange::Truncate(_));
    let cuts = pending.iter().filter(|(_, change)| is_cut(change)).count();
    let cuts_kept = survives.prefix(random, cuts);
    let choice = Choice::draw(pending, cuts_kept, survives, random);
    let mut cut = 0;
    for (index, (_, change)) in pending.iter().enumerate() {
        match change {
            FileChange::Truncate(size) => {
                if cut < cuts_kept {
                    content.cut(*size);
                }
                cut += 1;
            }
            FileChange::Extend(size) => {
                if survives.prefix(random, 1) == 1 {
                    content.size = content.size.max(*size);
                }
            }
            FileChange::Write {
                offset,
                data,
                length,
            } => {
                for (block, start, end) in blocks(*offset, *length) {
                    let (start, end) = choice.part(index, block, start, end);
                    if start < end {
                        content.write_block(block, start, end, *offset, data.as_ref(), bytes);
                        content.size = content.size.max(end);
                    }
                }
            }
        }
    }
    content
}

/// How far each block got.
struct Choice {
    /// Per block: the pending changes before this index are in it.
    reached: BTreeMap<u64, usize>,
    /// Per block: this change is in it only as far as this position in the file.
    torn: BTreeMap<u64, (usize, u64)>,
}

impl Choice {
    fn draw(
        pending: &[(usize, FileChange)],
        cuts_kept: usize,
        survives: Survives,
        random: &mut StdRng,
    ) -> Choice {
        let mut writes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        // Behind a cut that did not survive, nothing that came later does.
        let mut lost_from = u64::MAX;
        let mut cuts = 0;
        for (index, (_, change)) in pending.iter().enumerate() {
            match change {
                FileChange::Truncate(size) => {
                    cuts += 1;
                    if cuts > cuts_kept {
                        lost_from = lost_from.min(size / BLOCK);
                    }
                }
                FileChange::Extend(_) => {}
                FileChange::Write { offset, length, .. } => {
                    for (block, _, _) in blocks(*offset, *length) {
                        if block < lost_from {
                            writes.entry(block).or_default().push(index);
                        }
                    }
                }
            }
        }
        let mut choice = Choice {
            reached: BTreeMap::new(),
            torn: BTreeMap::new(),
        };
        for (block, writes) in writes {
            let kept = survives.prefix(random, writes.len());
            if kept > 0 {
                choice.reached.insert(block, writes[kept - 1] + 1);
            }
            if survives == Survives::Torn && kept < writes.len() && random.random_bool(0.5) {
                let sectors = random.random_range(1..8);
                choice
                    .torn
                    .insert(block, (writes[kept], block * BLOCK + sectors * 512));
            }
        }
        choice
    }

    /// The part of a change's write to a block that is on the disk.
    fn part(&self, index: usize, block: u64, start: u64, end: u64) -> (u64, u64) {
        if self
            .reached
            .get(&block)
            .is_some_and(|reached| index < *reached)
        {
            return (start, end);
        }
        match self.torn.get(&block) {
            Some((torn, position)) if *torn == index => (start, end.min(*position)),
            _ => (start, start),
        }
    }
}

fn write_file(content: &Content, path: &Path) -> Result<()> {
    let file = File::create_new(path)?;
    file.set_len(content.size)?;
    for (block, bytes) in &content.blocks {
        let at = block * BLOCK;
        if at < content.size {
            let length = BLOCK.min(content.size - at) as usize;
            file.write_all_at(&bytes[..length], at)?;
        }
    }
    Ok(())
}

/// Checks that the model, when everything survives, is what is in `folder`: nothing went by unseen.
///
/// Errors: the first difference. A longer file is none, if what it has more is zeros: a call that
/// extended it came after the last record.
pub fn compare(disk: &Disk<'_>, folder: &Path) -> Result<()> {
    compare_dir(disk, 0, folder)
}

fn compare_dir(disk: &Disk<'_>, node: usize, folder: &Path) -> Result<()> {
    let mut random = rand::SeedableRng::seed_from_u64(0);
    let Node::Dir(versions) = &disk.nodes[node] else {
        return Ok(());
    };
    let expected = names(versions, Survives::Everything, &mut random);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.push(entry?.file_name().to_string_lossy().into_owned());
    }
    found.sort();
    let names: Vec<&String> = expected.keys().collect();
    ensure!(
        found.iter().eq(names.iter().copied()),
        "{} holds {found:?}, the trace says {names:?}",
        folder.display()
    );
    for (name, node) in &expected {
        let path = folder.join(name);
        match &disk.nodes[*node] {
            Node::Dir(_) => compare_dir(disk, *node, &path)?,
            Node::File(versions) => {
                let bytes = disk.bytes();
                compare_file(
                    &content(versions, Survives::Everything, &mut random, bytes),
                    &path,
                )?;
            }
        }
    }
    Ok(())
}

fn compare_file(expected: &Content, path: &Path) -> Result<()> {
    let found = fs::read(path)?;
    let size = found.len() as u64;
    ensure!(
        size >= expected.size,
        "{}: {size} bytes, not {}",
        path.display(),
        expected.size
    );
    let zeros = [0; BLOCK as usize];
    for (number, block) in found.chunks(BLOCK as usize).enumerate() {
        let expected = expected
            .blocks
            .get(&(number as u64))
            .map_or(&zeros[..], |block| block);
        ensure!(
            block == &expected[..block.len()],
            "{}: block {number} is not what was traced",
            path.display()
        );
    }
    Ok(())
}
