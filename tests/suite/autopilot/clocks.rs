//! Clocks that jump, and processes that stand still: nobody is taken for dead, and what is to be
//! healed is healed.
//!
//! A wall clock is shifted while the process runs, by a preloaded library (`clock.c`); a monotonic
//! clock between two starts of a process, by a time namespace of its own (as root; says `skipped`
//! elsewhere).

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::set::{SOON, Set, has, id_of, put};

/// Whoever is silent for so long is removed.
const POLICY: [&str; 3] = [
    "--autopilot-cleanup-dead-members",
    "--autopilot-dead-member-threshold=2s",
    "--autopilot-min-quorum=1",
];
const ALL: [&str; 3] = ["db-0", "db-1", "db-2"];
const DAY: i64 = 24 * 3600;
const YEAR: i64 = 365 * DAY;

fn compile(folder: &Path) -> Result<String> {
    let library = folder.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/autopilot/clock.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .output()
        .with_context(|| format!("starting {compiler}"))?;
    ensure!(output.status.success(), "{compiler}: {output:?}");
    Ok(library.display().to_string())
}

#[tokio::test]
async fn wall_clocks_that_jump_change_nothing() -> Result<()> {
    let mut set = Set::new(3, &POLICY)?;
    let library = compile(set.folder.path())?;
    let mut clocks = Vec::new();
    for (index, member) in set.members.iter_mut().enumerate() {
        let path = set.folder.path().join(format!("clock-{index}"));
        std::fs::write(&path, 0_i64.to_ne_bytes())?;
        member.set_variable("LD_PRELOAD", &library);
        member.set_variable("WALL_CLOCK_SHIFT", path.display());
        clocks.push(std::fs::File::options().write(true).open(path)?);
    }
    set.start_all(3).await?;
    let before = set.wait_members(0, &ALL).await?;
    // Each its own way, one after the other and to and fro.
    let mut written = Vec::new();
    for shifts in [
        [DAY, -DAY, 0],
        [-10 * YEAR, 40 * YEAR, 1],
        [40 * YEAR, -10 * YEAR, -DAY],
    ] {
        for (clock, shift) in clocks.iter().zip(shifts) {
            clock.write_all_at(&shift.to_ne_bytes(), 0)?;
        }
        let key = format!("{shifts:?}");
        put(&set.members[1], &key).await?;
        written.push(key);
    }
    // While the clocks are apart, a disk is lost: that takes longer than the dead are waited for.
    set.members[2].kill()?;
    std::fs::remove_dir_all(set.members[2].data_dir())?;
    set.start(2)?;
    set.members[2].wait_ready(SOON).await?;
    let after = set.wait_members(0, &ALL).await?;
    for name in ["db-0", "db-1"] {
        ensure!(id_of(&after, name)? == id_of(&before, name)?, "{after:?}");
    }
    for key in &written {
        ensure!(has(&set.members[2], key).await?, "{key}");
    }
    // At its end each says something, with the time by its clock.
    for (index, year) in ["206", "201"].into_iter().enumerate() {
        set.members[index].terminate(SOON).await?;
        let log = set.members[index].log();
        let jumped = log.contains(&format!("\"ts\":\"{year}"));
        ensure!(jumped, "the clock has not jumped: {log}");
        ensure!(!log.contains("\"action\":\"cleanup\""), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn members_that_stood_still_take_nobody_for_dead() -> Result<()> {
    let mut set = Set::new(3, &POLICY)?;
    set.start_all(3).await?;
    let before = set.wait_members(0, &ALL).await?;
    for member in &set.members {
        member.signal(Signal::STOP)?;
    }
    // How long all stand still: longer than the dead are waited for.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for member in &set.members {
        member.signal(Signal::CONT)?;
    }
    put(&set.members[0], "after").await?;
    let after = set.wait_members(0, &ALL).await?;
    ensure!(after == before, "{after:?}, not {before:?}");
    for member in &set.members {
        ensure!(!member.log().contains("\"action\":\"cleanup\""));
    }
    Ok(())
}

/// A time namespace whose monotonic clock is `seconds` ahead, for as long as this lives.
struct Ahead {
    holder: Child,
}

impl Ahead {
    /// `None` where the machine refuses, with the reason printed.
    fn new(seconds: u32) -> Result<Option<Ahead>> {
        let seconds = seconds.to_string();
        let holder = Command::new("unshare")
            .args(["--time", "--monotonic", &seconds, "--boottime", &seconds])
            .args(["--fork", "--kill-child", "sleep", "infinity"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(holder) = holder else {
            println!("skipped: there is no unshare (util-linux)");
            return Ok(None);
        };
        let ahead = Ahead { holder };
        let wanted = Duration::from_secs(seconds.parse()?);
        for _ in 0..100 {
            let shown = Command::new("nsenter")
                .args(ahead.words())
                .args(["cat", "/proc/uptime"])
                .output();
            if let Ok(output) = shown {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let uptime = text.split_whitespace().next().unwrap_or_default();
                if uptime
                    .parse()
                    .is_ok_and(|uptime: f64| uptime >= wanted.as_secs_f64())
                {
                    return Ok(Some(ahead));
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("skipped: this machine gives no time namespaces");
        Ok(None)
    }

    /// What `nsenter` needs to go there.
    fn words(&self) -> Vec<String> {
        let id = self.holder.id();
        vec![format!("--time=/proc/{id}/ns/time_for_children")]
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

#[tokio::test]
async fn monotonic_clocks_that_differ_after_each_start_change_nothing() -> Result<()> {
    let mut set = Set::new(3, &POLICY)?;
    let mut clocks = Vec::new();
    for days in [100, 0, 3_000] {
        let Some(clock) = Ahead::new(days * 24 * 3600)? else {
            return Ok(());
        };
        clocks.push(clock);
    }
    let under = |set: &mut Set, member: usize, clock: &Ahead| {
        let mut words = vec!["nsenter".to_owned()];
        words.extend(clock.words());
        set.members[member].run_under(words);
    };
    for (member, clock) in clocks.iter().enumerate() {
        under(&mut set, member, clock);
    }
    set.start_all(3).await?;
    let before = set.wait_members(0, &ALL).await?;
    // Each starts again under another one's clock, ahead of its own or behind it.
    for member in 0..3 {
        set.members[member].terminate(SOON).await?;
        under(&mut set, member, &clocks[(member + 1) % 3]);
        set.start(member)?;
        set.members[member].wait_ready(SOON).await?;
        put(&set.members[member], &format!("after {member}")).await?;
    }
    let after = set.wait_members(0, &ALL).await?;
    ensure!(after == before, "{after:?}, not {before:?}");
    Ok(())
}
