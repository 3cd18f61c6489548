//! etcd's Watch service: any number of watchers on one stream.
//!
//! ```text
//!  requests ─► create, cancel, progress ─┐
//!  store's WatchStream ─► deliveries ────┼─► ready ─► the client, as it has room
//!  timers ─► progress, lost leader ──────┘
//! ```
//!
//! Everything of a stream happens when the connection asks for its next response, so that a client
//! that does not read holds up nobody: its deliveries wait in the store's bounded outbox. A created
//! response is ready before any event of its watcher is taken from there.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/{watch,interceptor}.go`.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::watch_create_request::FilterType;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::watch_server;
use kvd_api::pb::etcdserverpb::{WatchCreateRequest, WatchRequest};
use kvd_api::wire::WatchResponse;
use kvd_mvcc::{Delivery, Event, WatchOptions, WatchStream};
use prost::Message;
use prost::encoding::encoded_len_varint;
use tokio::sync::watch;
use tokio::time::Interval;
use tonic::{Code, Request, Response, Status, Streaming};

use super::kv::off_thread;
use super::leader_check::{self, LeaderCheck, every};
use crate::apply::v2;
use crate::audit::{Entry, Pending};
use crate::auth::{Credentials, Held, View};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::limits;

/// The watch ID of a response that is for no single watcher.
const NO_WATCHER: i64 = -1;
/// Events whose pairs before are looked up on the thread of the connection.
const INLINE_LOOK_UPS: usize = 16;

/// The responses of one stream.
pub type ResponseStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub struct WatchService {
    core: Arc<Core>,
}

impl WatchService {
    /// The service of the member `core`.
    pub fn new(core: Arc<Core>) -> WatchService {
        WatchService { core }
    }
}

#[tonic::async_trait]
impl watch_server::Watch for WatchService {
    type WatchStream = ResponseStream;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        let leader = LeaderCheck::wanted(&self.core, request.metadata());
        let credentials = self.core.credentials(&request);
        let core = Arc::clone(&self.core);
        let entry = request.extensions().get::<Arc<Entry>>().cloned();
        let session = Session::new(core, request.into_inner(), credentials, leader, entry);
        let responses = stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            match session.next().await {
                Ok(response) => Some((Ok(response), Some(session))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// How a watcher wants its events.
#[derive(Clone, Debug)]
struct Wish {
    key: Bytes,
    range_end: Bytes,
    /// On whose behalf.
    held: Held,
    prev_kv: bool,
    fragment: bool,
    /// Whether the next period's end is told; none if no period's is.
    progress: Option<bool>,
}

/// One client's stream.
struct Session {
    core: Arc<Core>,
    watches: WatchStream,
    requests: Streaming<WatchRequest>,
    /// What the stream showed of its client. Each watcher is made on behalf of whom it stands for
    /// at that time.
    credentials: Credentials,
    /// The stream in the audit log.
    entry: Option<Arc<Entry>>,
    /// Tells of changes of auth.
    auth_changes: watch::Receiver<u64>,
    /// The client has said all it has to say.
    requests_ended: bool,
    wishes: HashMap<i64, Wish>,
    /// Responses that are made and not yet taken.
    ready: VecDeque<WatchResponse>,
    progress: Interval,
    leader: Option<LeaderCheck>,
}

/// What happened to a session.
enum Happened {
    Request(Result<Option<WatchRequest>, Status>),
    Delivery(Option<Delivery>),
    Progress,
    LeaderLost,
    AuthChanged,
}

impl Session {
    fn new(
        core: Arc<Core>,
        requests: Streaming<WatchRequest>,
        credentials: Credentials,
        leader: Option<LeaderCheck>,
        entry: Option<Arc<Entry>>,
    ) -> Session {
        let period = core.config().watch_progress_interval;
        Session {
            watches: core.store().watch_stream(),
            requests,
            credentials,
            entry,
            auth_changes: core.auth().changes(),
            requests_ended: false,
            wishes: HashMap::new(),
            ready: VecDeque::new(),
            progress: every(period + jitter(&core, period)),
            leader,
            core,
        }
    }

    /// Waits for the next response; an error ends the stream.
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(response);
            }
            match self.happens().await {
                Happened::Request(Ok(Some(request))) => self.request(request).await,
                Happened::AuthChanged => self.drop_forbidden(),
                // The client may still want to hear.
                Happened::Request(Ok(None)) => self.requests_ended = true,
                Happened::Request(Err(status)) if status.code() == Code::Cancelled => {
                    return Err(WireError::WatchCanceled.into());
                }
                Happened::Request(Err(status)) => return Err(status),
                Happened::Delivery(Some(delivery)) => self.delivery(delivery).await?,
                Happened::Delivery(None) => return Err(WireError::ServerStopped.into()),
                Happened::Progress => self.tell_progress(),
                Happened::LeaderLost => return Err(WireError::NoLeader.into()),
            }
        }
    }

    /// Waits for whatever comes first. Nothing is lost when the future is dropped.
    async fn happens(&mut self) -> Happened {
        let leader_lost = leader_check::lost(&mut self.leader);
        tokio::select! {
            request = self.requests.message(), if !self.requests_ended => {
                Happened::Request(request)
            }
            delivery = self.watches.next() => Happened::Delivery(delivery),
            _ = self.progress.tick() => Happened::Progress,
            () = leader_lost => Happened::LeaderLost,
            Ok(()) = self.auth_changes.changed() => Happened::AuthChanged,
        }
    }

    async fn request(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let written = self.written(&create).await;
                let response = self.create(create).await;
                if let Some(mut written) = written {
                    written.answered(match response.canceled {
                        // Whatever the reason is: nothing is watched.
                        true => Code::FailedPrecondition,
                        false => Code::Ok,
                    });
                }
                self.ready.push_back(response);
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                if self.watches.cancel(cancel.watch_id) {
                    self.wishes.remove(&cancel.watch_id);
                    self.ready.push_back(WatchResponse {
                        watch_id: cancel.watch_id,
                        canceled: true,
                        ..self.response(self.core.store().current_revision())
                    });
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => self.watches.request_progress_all(),
            None => tracing::debug!("a watch request that asks for nothing known"),
        }
    }

    async fn create(&mut self, mut request: WatchCreateRequest) -> WatchResponse {
        if request.start_revision < 0 {
            return self.refuse(WireError::Compacted.to_string());
        }
        if request.key.is_empty() {
            // The smallest key there is.
            request.key = Bytes::from_static(b"\0");
        }
        let held = match self.permitted(&request).await {
            Ok(held) => held,
            Err(refusal) => return self.refuse(auth_refusal(&refusal)),
        };
        let most = self.core.config().watchers_per_stream_max;
        if self.watches.len() >= most {
            return self.refuse(format!("kvd: a stream may have {most} watchers at most"));
        }
        let filters = |filter| request.filters.contains(&(filter as i32));
        let mut options = WatchOptions {
            start_revision: request.start_revision,
            id: request.watch_id,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            // The smallest key there is.
            key: request.key.clone(),
            range_end: request.range_end.clone(),
        };
        if !self.core.config().v2_keys_visible {
            v2::hide(&options.key, &mut options.range_end);
        }
        match self.watches.watch(options) {
            Ok(made) => {
                let wish = Wish {
                    key: request.key,
                    range_end: request.range_end,
                    held,
                    prev_kv: request.prev_kv,
                    fragment: request.fragment,
                    progress: request.progress_notify.then_some(true),
                };
                self.wishes.insert(made.id, wish);
                WatchResponse {
                    watch_id: made.id,
                    created: true,
                    ..self.response(made.revision)
                }
            }
            Err(error) => self.refuse(error.to_string()),
        }
    }

    /// A watcher in the audit log.
    async fn written(&self, request: &WatchCreateRequest) -> Option<Pending> {
        let stream = self.entry.as_ref()?;
        let caller = self.core.identify(&self.credentials).await.ok().flatten();
        let audit = self.core.audit();
        Some(Pending::part(audit, stream, caller.as_ref(), request))
    }

    /// Whether the range may be watched, and on whose behalf.
    async fn permitted(&self, request: &WatchCreateRequest) -> Result<Held> {
        let caller = self.core.identify(&self.credentials).await?;
        let (key, range_end) = (&request.key, &request.range_end);
        let check = |view: &View| view.read(caller.as_ref(), key, range_end);
        self.core.authorize(check).await?;
        Ok(Held::new(self.core.auth(), caller))
    }

    /// Ends the watchers whose ranges may no longer be read.
    fn drop_forbidden(&mut self) {
        let auth = self.core.auth();
        let mut forbidden: Vec<(i64, WireError)> = Vec::new();
        for (id, wish) in &self.wishes {
            if let Err(refusal) = wish.held.check(auth, &wish.key, &wish.range_end) {
                forbidden.push((*id, refusal));
            }
        }
        forbidden.sort_by_key(|(id, _)| *id);
        for (id, refusal) in forbidden {
            self.wishes.remove(&id);
            self.watches.cancel(id);
            self.ready.push_back(WatchResponse {
                watch_id: id,
                canceled: true,
                cancel_reason: go_text(refusal),
                ..self.response(self.core.store().current_revision())
            });
        }
    }

    fn refuse(&self, cancel_reason: String) -> WatchResponse {
        WatchResponse {
            watch_id: NO_WATCHER,
            created: true,
            canceled: true,
            cancel_reason,
            ..self.response(self.core.store().current_revision())
        }
    }

    async fn delivery(&mut self, delivery: Delivery) -> Result<(), Status> {
        match delivery {
            Delivery::Events {
                id,
                revision,
                events,
            } => self.events(id, revision, events).await,
            Delivery::Compacted {
                id,
                compact_revision,
            } => {
                self.ready.push_back(WatchResponse {
                    watch_id: id,
                    canceled: true,
                    compact_revision,
                    ..self.response(0)
                });
                Ok(())
            }
            Delivery::Progress { id, revision } => {
                self.ready.push_back(WatchResponse {
                    watch_id: id.unwrap_or(NO_WATCHER),
                    ..self.response(revision)
                });
                Ok(())
            }
        }
    }

    async fn events(
        &mut self,
        id: i64,
        revision: i64,
        events: Vec<Arc<Event>>,
    ) -> Result<(), Status> {
        // What was written after a permission was gone must not be told: the change of auth may
        // be known here only now.
        if self.auth_changes.has_changed().unwrap_or(false) {
            self.auth_changes.mark_unchanged();
            self.drop_forbidden();
        }
        let Some(wish) = self.wishes.get_mut(&id) else {
            return Ok(());
        };
        wish.progress = wish.progress.map(|_| false);
        let (prev_kv, fragment) = (wish.prev_kv, wish.fragment);
        self.core
            .metrics()
            .debugging_mvcc_events
            .inc_by(events.len() as u64);
        let store = self.core.store();
        let encoded = if !prev_kv {
            events.iter().map(|event| event.encoded()).collect()
        } else if events.len() <= INLINE_LOOK_UPS {
            let encode = |event: &Arc<Event>| store.event_with_prev(event);
            events.iter().map(encode).collect()
        } else {
            off_thread(store, move |store| {
                let encode = |event: &Arc<Event>| store.event_with_prev(event);
                Ok(events.iter().map(encode).collect())
            })
            .await?
        };
        let response = WatchResponse {
            watch_id: id,
            ..self.response(revision)
        };
        if fragment {
            let limit = self.core.config().request_bytes_max + limits::REQUEST_OVERHEAD_BYTES;
            self.ready.extend(fragments(response, encoded, limit));
        } else {
            self.ready.push_back(WatchResponse {
                events: encoded,
                ..response
            });
        }
        Ok(())
    }

    /// Has every watcher that wants it told how far it is, unless it had events in this period.
    fn tell_progress(&mut self) {
        for (id, wish) in &mut self.wishes {
            if wish.progress == Some(true) {
                self.watches.request_progress(*id);
            }
            wish.progress = wish.progress.map(|_| true);
        }
    }

    fn response(&self, revision: i64) -> WatchResponse {
        WatchResponse {
            header: Some(self.core.header(revision)),
            ..WatchResponse::default()
        }
    }
}

/// Why a watcher is refused. etcd knows these reasons and calls all others a lack of permission.
fn auth_refusal(error: &Error) -> String {
    go_text(match error {
        Error::Wire(
            known @ (WireError::InvalidAuthToken
            | WireError::RevisionOfAuthStoreIsOld
            | WireError::UserNameIsEmpty),
        ) => *known,
        _ => WireError::PermissionDenied,
    })
}

/// A status as Go prints it.
fn go_text(error: WireError) -> String {
    format!("rpc error: code = {:?} desc = {error}", error.code())
}

/// Cuts a response into parts below `limit` bytes, as far as single events allow.
fn fragments(empty: WatchResponse, events: Vec<Bytes>, limit: usize) -> Vec<WatchResponse> {
    let overhead = WatchResponse {
        fragment: true,
        ..empty.clone()
    }
    .encoded_len();
    let mut parts = vec![empty.clone()];
    let mut bytes = overhead;
    for event in events {
        let size = 1 + encoded_len_varint(event.len() as u64) + event.len();
        if let Some(last) = parts.last_mut()
            && !last.events.is_empty()
            && bytes + size >= limit
        {
            last.fragment = true;
            parts.push(empty.clone());
            bytes = overhead;
        }
        bytes += size;
        if let Some(last) = parts.last_mut() {
            last.events.push(event);
        }
    }
    parts
}

/// Up to a tenth of the period, so that not all streams tell their progress at once.
fn jitter(core: &Core, period: Duration) -> Duration {
    let streams = core.store().watch_stats().streams.unsigned_abs();
    // Neighbours in the order of their opening are far apart.
    let part = streams.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    period.mul_f64(part as f64 / f64::from(1 << 16) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_stay_below_the_limit() {
        let empty = WatchResponse {
            watch_id: 7,
            ..WatchResponse::default()
        };
        let events: Vec<Bytes> = [10, 10, 10, 100, 10]
            .map(|size| Bytes::from(vec![0; size]))
            .to_vec();
        let parts = fragments(empty.clone(), events.clone(), 32);
        let sizes: Vec<usize> = parts.iter().map(|part| part.events.len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
        let marks: Vec<bool> = parts.iter().map(|part| part.fragment).collect();
        assert_eq!(marks, [true, true, true, false]);
        for part in parts.iter().filter(|part| part.events.len() > 1) {
            assert!(part.encoded_len() < 32);
        }
        let whole = fragments(empty, events, 1 << 20);
        assert_eq!((whole.len(), whole[0].fragment), (1, false));
    }
}
