//! Members killed at each step of joining and of leaving. A step is the line that says in the log
//! that it was reached.

use anyhow::{Context, Result, ensure};
use kvd_tests::member::READY;
use kvd_tests::wait;
use rustix::process::Signal;

use super::set::{SOON, Set, has, id_of, put};

/// Kills a member as soon as its log has `line`.
async fn kill_at(set: &mut Set, index: usize, line: &str) -> Result<()> {
    wait::until(line, SOON, || async {
        let log = set.members[index].log();
        ensure!(log.contains(line), "{log}");
        Ok(())
    })
    .await?;
    set.members[index].kill()
}

/// Starts a member as an orchestrator would: again, when it ends since it was removed.
async fn come_back(set: &mut Set, index: usize) -> Result<()> {
    set.start(index)?;
    let Err(first) = set.members[index].wait_ready(SOON).await else {
        return Ok(());
    };
    let ended = set.members[index].wait_exit(SOON).await;
    let ended = ended.with_context(|| format!("{first:#}"))?;
    ensure!(ended.success(), "{ended}: {}", set.members[index].log());
    set.start(index)?;
    set.members[index].wait_ready(SOON).await
}

#[tokio::test]
async fn a_member_killed_at_each_step_of_joining_gets_there() -> Result<()> {
    let mut set = Set::new(4, &[])?;
    set.start_all(3).await?;
    set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    set.show(&[0, 1, 2, 3])?;
    for line in [
        // It has been added, and knows who it is.
        "joins the cluster that is there",
        // That is on its disk, and its log begins.
        "starting a member",
        "this member knows a leader",
        "published local member to cluster through raft",
        READY,
    ] {
        set.start(3)?;
        kill_at(&mut set, 3, line).await?;
        // With what it has on its disk by then it gets there.
        set.start(3)?;
        let ready = set.members[3].wait_ready(SOON).await;
        ready.with_context(|| format!("killed at {line:?}"))?;
        // A disk that is lost, perhaps half-way to a vote, is another one.
        set.members[3].kill()?;
        std::fs::remove_dir_all(set.members[3].data_dir())?;
    }
    set.start(3)?;
    set.members[3].wait_ready(SOON).await?;
    set.wait_members(0, &["db-0", "db-1", "db-2", "db-3"])
        .await?;
    Ok(())
}

/// The steps of leaving. Two members leave at once, and each is killed at one of them.
const LEAVING: [[&str; 2]; 3] = [
    [
        "this member leaves the cluster for good",
        "\"action\":\"leave\"",
    ],
    [
        "received signal; shutting down...",
        "leadership handed over",
    ],
    ["the member has stopped", "this member leaves the cluster"],
];

#[tokio::test]
async fn members_killed_while_they_leave_are_gone_and_come_back() -> Result<()> {
    killed_while_leaving(&LEAVING[..1]).await
}

#[tokio::test]
#[ignore = "half a minute; one round of it runs always"]
async fn members_killed_at_each_step_of_leaving_are_gone_and_come_back() -> Result<()> {
    killed_while_leaving(&LEAVING).await
}

async fn killed_while_leaving(rounds: &[[&str; 2]]) -> Result<()> {
    let all = ["db-0", "db-1", "db-2", "db-3", "db-4"];
    let mut set = Set::new(5, &[])?;
    set.wanted();
    set.start_all(5).await?;
    for lines in rounds {
        let before = set.wait_members(0, &all).await?;
        let last = format!("{:x}", id_of(&before, "db-4")?);
        wait::until("db-4 leads", SOON, || async {
            let status = set.status(4)?;
            if status["leader"] != last {
                // Whoever leads now is told; if it is not this one, the next time finds another.
                for member in &set.members {
                    drop(member.kvctl(&["move-leader", &last])?);
                }
            }
            ensure!(status["leader"] == last, "{status:#}");
            Ok(())
        })
        .await?;
        put(&set.members[0], lines[0]).await?;
        set.want(3)?;
        set.members[3].signal(Signal::TERM)?;
        set.members[4].signal(Signal::TERM)?;
        kill_at(&mut set, 3, lines[0]).await?;
        kill_at(&mut set, 4, lines[1]).await?;
        // Either it has removed itself, or the leader has found it dead.
        let three = set.wait_members(0, &["db-0", "db-1", "db-2"]).await;
        three.with_context(|| format!("killed at {lines:?}"))?;
        put(&set.members[1], lines[1]).await?;
        set.want(5)?;
        come_back(&mut set, 3).await?;
        come_back(&mut set, 4).await?;
        let after = set.wait_members(0, &all).await?;
        for name in ["db-3", "db-4"] {
            ensure!(id_of(&after, name)? != id_of(&before, name)?, "{after:?}");
        }
        for key in lines {
            ensure!(has(&set.members[4], key).await?, "{key}");
        }
    }
    Ok(())
}

/// A member whose learner record was removed before it heard anything: nobody would tell it.
#[tokio::test]
async fn a_member_removed_before_its_first_contact_joins_anew() -> Result<()> {
    let mut set = Set::new(2, &["--autopilot-bootstrap-expect=1"])?;
    set.start_all(1).await?;
    set.wait_members(0, &["db-0"]).await?;
    set.show(&[0, 1])?;
    // Nobody reaches it: it has the address of a port on which nothing listens.
    set.members[1].add_arguments(&["--listen-peer-urls", "http://127.0.0.1:0"]);
    set.start(1)?;
    kill_at(&mut set, 1, "starting a member").await?;
    let added = super::set::list(&set.members[0]).await?;
    let learner = added.iter().find(|member| member.is_learner);
    let id = learner
        .with_context(|| format!("no learner: {added:?}"))?
        .id;
    let removed = set.members[0].kvctl(&["member", "remove", &format!("{id:x}")])?;
    ensure!(removed.status.success(), "{removed:?}");
    set.start(1)?;
    let ended = set.members[1].wait_exit(SOON).await?;
    let log = set.members[1].log();
    ensure!(ended.success(), "{ended}: {log}");
    ensure!(
        log.contains("permanently removed from the cluster"),
        "{log}"
    );
    let listen = set.members[1].peer_url();
    set.members[1].add_arguments(&["--listen-peer-urls", &listen]);
    set.start(1)?;
    set.members[1].wait_ready(SOON).await?;
    let both = set.wait_members(0, &["db-0", "db-1"]).await?;
    ensure!(id_of(&both, "db-1")? != id, "{both:?}");
    Ok(())
}
