//! elect: campaigns with a value and holds the leadership until a signal, or listens.
//!
//! Differs from etcd: the lease is revoked at the end, which etcdctl leaves to run out.
//!
//! Source: etcd `etcdctl/ctlv3/command/elect_command.go`.

use std::ffi::OsString;

use kvd_client::{Election, GetOptions, Session as Lease};

use super::child::Signals;
use super::{Session, bytes};
use crate::args::{ElectArgs, Globals};
use crate::failure::{Failure, Outcome};
use crate::print::{Streams, ranged};

pub(super) async fn run(globals: &Globals, args: &ElectArgs, to: &mut Streams<'_>) -> Outcome {
    let (name, proposal) = match &args.words[..] {
        [name] if args.listen => (name, None),
        [_] => return Err(Failure::bad_args("no proposal argument but -l not set")),
        [_, _] if args.listen => {
            return Err(Failure::bad_args("proposal given but -l is set"));
        }
        [name, proposal] => (name, Some(proposal)),
        _ => {
            return Err(Failure::bad_args(
                "elect takes one election name argument and an optional proposal argument",
            ));
        }
    };
    let session = Session::open(globals, to).await?;
    let lease = Lease::new(&session.client, Lease::TTL_DEFAULT).await?;
    let mut signals = Signals::new()?;
    let mut election = Election::new(&lease, bytes(name));
    let outcome = match proposal {
        None => observe(&session, &election, &mut signals, to).await,
        Some(value) => campaign(&session, &lease, &mut election, &mut signals, value, to).await,
    };
    // Tells nothing when it fails: this session leads no more, and the lease goes by itself.
    drop(lease.close().await);
    outcome
}

async fn observe(
    session: &Session,
    election: &Election<'_>,
    signals: &mut Signals,
    to: &mut Streams<'_>,
) -> Outcome {
    let mut observer = election.observe();
    loop {
        tokio::select! {
            _ = signals.next() => return Ok(()),
            next = observer.next() => match next {
                Ok(leader) => {
                    session.printer.get(to, &ranged(leader))?;
                    to.out.flush()?;
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    let details = format!("{}\n{}", failure.message, failure.details);
                    return Err(Failure::error("elect: observer lost").with_details(details));
                }
            }
        }
    }
}

async fn campaign(
    session: &Session,
    lease: &Lease,
    election: &mut Election<'_>,
    signals: &mut Signals,
    value: &OsString,
    to: &mut Streams<'_>,
) -> Outcome {
    let stop = async {
        signals.next().await;
    };
    election.campaign_unless(bytes(value), stop).await?;
    let key = election.key().cloned().unwrap_or_default();
    let leader = session.client.get(key, GetOptions::new()).await?;
    session.printer.get(to, &ranged(leader))?;
    to.out.flush()?;
    tokio::select! {
        _ = signals.next() => Ok(election.resign().await?),
        () = lease.expired() => Err(Failure::error("elect: session expired")),
    }
}
