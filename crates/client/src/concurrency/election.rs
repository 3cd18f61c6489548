//! Electing a leader, who announces a value.
//!
//! Source: etcd `client/v3/concurrency/election.go`.

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::ResponseHeader;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::pb::mvccpb::event::EventType;

use super::mutex::first_pair;
use super::session::Session;
use super::wait;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{GetOptions, GetResponse, PutOptions};
use crate::txn::{Compare, Op, Txn};
use crate::watch::{Watch, WatchOptions};

/// An election under a name, for one session.
#[derive(Debug)]
pub struct Election<'s> {
    session: &'s Session,
    prefix: Bytes,
    place: Option<Place>,
}

/// This session's candidacy.
#[derive(Clone, Debug)]
struct Place {
    key: Bytes,
    /// When it was created.
    revision: i64,
    header: ResponseHeader,
}

impl<'s> Election<'s> {
    /// The election with this name. Nothing is asked of a server yet.
    pub fn new(session: &'s Session, name: impl AsRef<[u8]>) -> Self {
        Election {
            session,
            prefix: prefix(name),
            place: None,
        }
    }

    /// Waits until this session leads, announcing `value`; returns the fencing token.
    ///
    /// When this future is dropped before, the candidacy stays until [`Election::resign`] or the
    /// session's end: see [`Election::campaign_unless`].
    pub async fn campaign(&mut self, value: impl Into<Bytes>) -> Result<i64> {
        self.campaign_unless(value, std::future::pending()).await
    }

    /// As [`Election::campaign`], but gives up, and withdraws, once `stop` is ready.
    ///
    /// Errors: [`Error::Canceled`] when it was; [`Error::SessionExpired`].
    pub async fn campaign_unless(
        &mut self,
        value: impl Into<Bytes>,
        stop: impl Future<Output = ()>,
    ) -> Result<i64> {
        let value = value.into();
        let revision = self.stand(&value).await?;
        let waited = tokio::select! {
            waited = wait::for_turn(self.session.client(), &self.prefix, revision - 1) => waited,
            () = self.session.expired() => Err(Error::SessionExpired),
            () = stop => Err(Error::Canceled),
        };
        if let Err(error) = waited {
            // What failed first says more than a failure to withdraw; the lease does the rest.
            drop(self.resign().await);
            return Err(error);
        }
        Ok(revision)
    }

    /// Puts the candidacy, or takes up the one that this session has already.
    async fn stand(&mut self, value: &Bytes) -> Result<i64> {
        let lease = self.session.lease();
        let key: Bytes = [&self.prefix, format!("{lease:x}").as_bytes()]
            .concat()
            .into();
        let put = Op::put(key.clone(), value.clone(), PutOptions::new().lease(lease));
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone()).equal(0)])
            .and_then([put])
            .or_else([Op::get(key.clone(), GetOptions::new())]);
        let answer = self.session.client().txn(txn).await?;
        let header = answer.header.unwrap_or_default();
        let before = match answer.responses.into_iter().next() {
            Some(op) => first_pair(op.response)?,
            None => None,
        };
        let revision = before.as_ref().map(|kv| kv.create_revision);
        let revision = revision.unwrap_or(header.revision);
        self.place = Some(Place {
            key,
            revision,
            header,
        });
        if before.is_some_and(|kv| kv.value != value) {
            self.proclaim(value.clone()).await?;
        }
        Ok(revision)
    }

    /// Announces another value without another election.
    ///
    /// Errors: [`Error::NotLeader`] when this session does not lead any more.
    pub async fn proclaim(&mut self, value: impl Into<Bytes>) -> Result<()> {
        let place = self.place.as_mut().ok_or(Error::NotLeader)?;
        let lease = PutOptions::new().lease(self.session.lease());
        let txn = Txn::new()
            .when([Compare::create_revision(place.key.clone()).equal(place.revision)])
            .and_then([Op::put(place.key.clone(), value, lease)]);
        let answer = self.session.client().txn(txn).await?;
        if !answer.succeeded {
            self.place = None;
            return Err(Error::NotLeader);
        }
        place.header = answer.header.unwrap_or_default();
        Ok(())
    }

    /// Gives up leading, or the candidacy; nothing happens without one.
    pub async fn resign(&mut self) -> Result<()> {
        let Some(place) = self.place.take() else {
            return Ok(());
        };
        let delete = Op::delete(place.key.clone(), crate::DeleteOptions::new());
        let txn = Txn::new()
            .when([Compare::create_revision(place.key).equal(place.revision)])
            .and_then([delete]);
        self.session.client().txn(txn).await.map(drop)
    }

    /// The leader's key and value.
    ///
    /// Errors: [`Error::NoLeader`].
    pub async fn leader(&self) -> Result<GetResponse> {
        let client = self.session.client();
        let found = client.get(self.prefix.clone(), wait::oldest()).await?;
        if found.kvs.is_empty() {
            return Err(Error::NoLeader);
        }
        Ok(found)
    }

    /// Follows what leaders announce.
    pub fn observe(&self) -> Observer {
        Observer {
            client: self.session.client().clone(),
            prefix: self.prefix.clone(),
            state: State::Looking,
        }
    }

    /// The key of this session's candidacy; `None` without one.
    pub fn key(&self) -> Option<&Bytes> {
        self.place.as_ref().map(|place| &place.key)
    }

    /// The create revision of [`Election::key`], higher for each later leader.
    pub fn fencing_token(&self) -> Option<i64> {
        self.place.as_ref().map(|place| place.revision)
    }

    /// A condition that holds while this session leads; see [`super::Mutex::is_owner`].
    pub fn is_leader(&self) -> Option<Compare> {
        let place = self.place.as_ref()?;
        Some(Compare::create_revision(place.key.clone()).equal(place.revision))
    }

    /// The header of the last answer that changed the candidacy.
    pub fn header(&self) -> Option<&ResponseHeader> {
        self.place.as_ref().map(|place| &place.header)
    }
}

fn prefix(name: impl AsRef<[u8]>) -> Bytes {
    [name.as_ref(), b"/"].concat().into()
}

/// What leaders of an election announce, in order; not every value of an earlier leader, but always
/// the latest.
#[derive(Debug)]
pub struct Observer {
    client: Client,
    prefix: Bytes,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It is not known who leads.
    Looking,
    /// Nobody leads: waits for the first key.
    Vacant(Watch),
    /// Somebody leads: waits for changes of this key. Events that came at once wait their turn.
    Led(Watch, std::collections::VecDeque<GetResponse>),
}

impl Observer {
    /// The next value. Safe to cancel.
    pub async fn next(&mut self) -> Result<GetResponse> {
        loop {
            match &mut self.state {
                State::Looking => {
                    let options = wait::oldest();
                    let found = self.client.get(self.prefix.clone(), options).await?;
                    let revision = found.header.map_or(0, |header| header.revision);
                    match found.kvs.first().cloned() {
                        Some(leader) => {
                            return self.follow(leader, found.header.unwrap_or_default()).await;
                        }
                        None => {
                            let options = WatchOptions::new().prefix().without_deletes();
                            let options = options.revision(revision + 1);
                            let watch = self.client.watch(self.prefix.clone(), options).await?;
                            self.state = State::Vacant(watch);
                        }
                    }
                }
                State::Vacant(watch) => {
                    let response = watch.next().await?;
                    let first = response.events.into_iter().find_map(|event| event.kv);
                    if let Some(leader) = first {
                        let revision = leader.mod_revision;
                        let header = ResponseHeader {
                            revision,
                            ..response.header
                        };
                        // Dropped from here on, this future leaves the leader to be found anew.
                        self.state = State::Looking;
                        return self.follow(leader, header).await;
                    }
                }
                State::Led(watch, ready) => {
                    if let Some(next) = ready.pop_front() {
                        return Ok(next);
                    }
                    let response = watch.next().await?;
                    let header = response.header;
                    let mut gone = false;
                    for event in response.events {
                        if event.r#type() == EventType::Delete {
                            gone = true;
                            break;
                        }
                        ready.extend(event.kv.map(|kv| answer(kv, header)));
                    }
                    if gone {
                        let last = ready.pop_back();
                        self.state = State::Looking;
                        if let Some(last) = last {
                            return Ok(last);
                        }
                    }
                }
            }
        }
    }

    /// Watches the leader's key from its latest change on.
    async fn follow(&mut self, leader: KeyValue, header: ResponseHeader) -> Result<GetResponse> {
        let from = WatchOptions::new().revision(header.revision + 1);
        let watch = self.client.watch(leader.key.clone(), from).await?;
        self.state = State::Led(watch, std::collections::VecDeque::new());
        Ok(answer(leader, header))
    }
}

fn answer(kv: KeyValue, header: ResponseHeader) -> GetResponse {
    GetResponse {
        header: Some(header),
        kvs: vec![kv],
        ..GetResponse::default()
    }
}
