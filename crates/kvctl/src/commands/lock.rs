//! lock: holds a lock until a signal, or while a command runs.
//!
//! Differs from etcd: SIGTERM is passed on to the command, which etcdctl leaves running; and the
//! lock's lease is revoked at the end, which etcdctl leaves to run out.
//!
//! Source: etcd `etcdctl/ctlv3/command/lock_command.go`.

use std::ffi::OsString;

use kvd_client::{Client, GetOptions, Mutex, Session as Lease};
use rustix::process::{Pid, Signal, kill_process};

use super::child::{self, Asked, Signals};
use super::{Session, bytes};
use crate::args::{Globals, LockArgs};
use crate::failure::{Failure, Outcome};
use crate::print::{Streams, ranged};

pub(super) async fn run(globals: &Globals, args: &LockArgs, to: &mut Streams<'_>) -> Outcome {
    let [name, command @ ..] = &args.words[..] else {
        return Err(Failure::bad_args(
            "lock takes a lock name argument and an optional command to execute",
        ));
    };
    let session = Session::open(globals, to).await?;
    // As in etcdctl, a TTL that makes no sense is the default of sessions.
    let ttl = if args.ttl > 0 {
        args.ttl
    } else {
        Lease::TTL_DEFAULT
    };
    let lease = Lease::new(&session.client, ttl).await?;
    let mut mutex = Mutex::new(&lease, bytes(name));
    let mut signals = Signals::new()?;
    let stop = async {
        signals.next().await;
    };
    let outcome = match mutex.lock_unless(stop).await {
        Ok(_) => hold(&session, &lease, &mut mutex, &mut signals, command, to).await,
        Err(error) => Err(error.into()),
    };
    // Tells nothing when it fails: the lock is released, and the lease goes by itself.
    drop(lease.close().await);
    outcome
}

async fn hold(
    session: &Session,
    lease: &Lease,
    mutex: &mut Mutex<'_>,
    signals: &mut Signals,
    command: &[OsString],
    to: &mut Streams<'_>,
) -> Outcome {
    if !command.is_empty() {
        let ran = execute(mutex, signals, command).await;
        let unlocked = mutex.unlock().await;
        ran?;
        return Ok(unlocked?);
    }
    show(&session.client, mutex, session, to).await?;
    tokio::select! {
        _ = signals.next() => Ok(mutex.unlock().await?),
        () = lease.expired() => Err(Failure::error("session expired")),
    }
}

async fn show(
    client: &Client,
    mutex: &Mutex<'_>,
    session: &Session,
    to: &mut Streams<'_>,
) -> Outcome {
    let key = mutex.key().cloned().unwrap_or_default();
    let found = client.get(key, GetOptions::new()).await?;
    if found.kvs.is_empty() {
        return Err(Failure::error("lock lost on init"));
    }
    session.printer.get(to, &ranged(found))?;
    to.out.flush()?;
    Ok(())
}

async fn execute(mutex: &Mutex<'_>, signals: &mut Signals, command: &[OsString]) -> Outcome {
    use std::os::unix::ffi::OsStringExt as _;
    let failed = |why: child::Why| Failure::new(why.code, why.text);
    let key = mutex.key().cloned().unwrap_or_default();
    let revision = mutex.header().map_or(0, |header| header.revision);
    let mut process = child::command(command);
    process
        .env("ETCD_LOCK_KEY", OsString::from_vec(key.to_vec()))
        .env("ETCD_LOCK_REV", revision.to_string());
    let mut running = match process.spawn() {
        Ok(running) => running,
        Err(err) => return child::judge(Err(err), command).map_err(failed),
    };
    loop {
        tokio::select! {
            status = running.wait() => return child::judge(status, command).map_err(failed),
            asked = signals.next() => if asked == Asked::Terminate {
                let id = running.id().and_then(|id| i32::try_from(id).ok());
                if let Some(pid) = id.and_then(Pid::from_raw) {
                    // It may have ended in this very moment, which the next turn sees.
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
        }
    }
}
