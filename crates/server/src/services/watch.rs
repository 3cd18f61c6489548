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
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{FutureExt, Stream, StreamExt};
use kvd_api::error::{WireError, too_large_in_stream};
use kvd_api::pb::etcdserverpb::watch_create_request::FilterType;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::watch_server;
use kvd_api::pb::etcdserverpb::{WatchCreateRequest, WatchRequest};
use kvd_api::wire::WatchResponse;
use kvd_mvcc::{Delivery, Event, WatchOptions, WatchStream};
use prost::Message;
use prost::encoding::encoded_len_varint;
use tokio::sync::watch;
use tokio_stream::wrappers;
use tonic::{Code, Request, Response, Status, Streaming};

use super::kv::off_thread;
use super::leader_check::{LeaderCheck, every};
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
/// So often something else than an event is looked for first: a client that reads as fast as events
/// come must be heard, too.
const RARE_TURN: u32 = 16;

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
        let responses = Responses::Idle(Box::new(session));
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
    /// Everything that happens besides. Each part is asked only when it has something to say.
    rare: SelectAll<BoxStream<'static, Happened>>,
    /// Counts what was asked for: see [`RARE_TURN`].
    turn: u32,
    /// What the stream showed of its client. Each watcher is made on behalf of whom it stands for
    /// at that time.
    credentials: Credentials,
    /// The stream in the audit log.
    entry: Option<Arc<Entry>>,
    /// Tells of changes of auth.
    auth_changes: watch::Receiver<u64>,
    wishes: HashMap<i64, Wish>,
    /// Responses that are made and not yet taken.
    ready: VecDeque<WatchResponse>,
}

/// What happened to a session.
enum Happened {
    Request(Result<WatchRequest, Status>),
    Delivery(Option<Delivery>),
    Progress,
    LeaderLost,
    AuthChanged,
}

/// What takes a while: see [`Session::finish`].
enum Work {
    Request(WatchRequest),
    /// Pairs before many events.
    LookUps(WatchResponse, Arc<[Arc<Event>]>, bool),
}

/// The next step of a stream.
enum Step {
    Response(WatchResponse),
    Work(Work),
}

/// The responses of a session, which is away while it works.
enum Responses {
    Idle(Box<Session>),
    Working(Pin<Box<dyn Future<Output = Result<Box<Session>, Status>> + Send>>),
    Over,
}

impl Stream for Responses {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<WatchResponse, Status>>> {
        loop {
            match &mut *self {
                Responses::Over => return Poll::Ready(None),
                Responses::Working(work) => match work.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(session)) => *self = Responses::Idle(session),
                    Poll::Ready(Err(status)) => {
                        *self = Responses::Over;
                        return Poll::Ready(Some(Err(status)));
                    }
                },
                Responses::Idle(session) => match session.poll_step(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Step::Response(response))) => {
                        return Poll::Ready(Some(Ok(response)));
                    }
                    Poll::Ready(Ok(Step::Work(work))) => {
                        if let Responses::Idle(mut session) =
                            std::mem::replace(&mut *self, Responses::Over)
                        {
                            *self = Responses::Working(Box::pin(async move {
                                session.finish(work).await?;
                                Ok(session)
                            }));
                        }
                    }
                    Poll::Ready(Err(status)) => {
                        *self = Responses::Over;
                        return Poll::Ready(Some(Err(status)));
                    }
                },
            }
        }
    }
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
        let auth_changes = core.auth().changes();
        let mut rare = SelectAll::new();
        // The client may still want to hear when it has nothing more to say.
        rare.push(requests.map(Happened::Request).boxed());
        let changes = wrappers::WatchStream::from_changes(auth_changes.clone());
        rare.push(changes.map(|_| Happened::AuthChanged).boxed());
        let ticks = every(period + jitter(&core, period));
        let ticks = stream::unfold(ticks, |mut ticks| async move {
            ticks.tick().await;
            Some((Happened::Progress, ticks))
        });
        rare.push(ticks.boxed());
        if let Some(leader) = leader {
            let lost = leader.lost().map(|()| Happened::LeaderLost);
            rare.push(stream::once(lost).boxed());
        }
        Session {
            watches: core.store().watch_stream(),
            rare,
            turn: 0,
            credentials,
            entry,
            auth_changes,
            wishes: HashMap::new(),
            ready: VecDeque::new(),
            core,
        }
    }

    /// What is to be done next; an error ends the stream.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Result<Step, Status>> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Poll::Ready(Ok(Step::Response(response)));
            }
            let happened = std::task::ready!(self.poll_happens(context));
            let work = match happened {
                Happened::Delivery(Some(delivery)) => self.delivery(delivery),
                Happened::Delivery(None) => {
                    return Poll::Ready(Err(WireError::ServerStopped.into()));
                }
                Happened::Request(Ok(request)) => Some(Work::Request(request)),
                Happened::Request(Err(status)) if status.code() == Code::Cancelled => {
                    return Poll::Ready(Err(WireError::WatchCanceled.into()));
                }
                Happened::Request(Err(status)) => {
                    let too_large = too_large_in_stream(&status, self.message_max());
                    return Poll::Ready(Err(too_large.unwrap_or(status)));
                }
                Happened::LeaderLost => return Poll::Ready(Err(WireError::NoLeader.into())),
                Happened::AuthChanged => {
                    self.drop_forbidden();
                    None
                }
                Happened::Progress => {
                    self.tell_progress();
                    None
                }
            };
            if let Some(work) = work {
                return Poll::Ready(Ok(Step::Work(work)));
            }
        }
    }

    /// Whatever comes first. Events go first, because nearly everything is one, yet not for ever.
    fn poll_happens(&mut self, context: &mut Context<'_>) -> Poll<Happened> {
        self.turn = self.turn.wrapping_add(1);
        if self.turn.is_multiple_of(RARE_TURN)
            && let Poll::Ready(Some(happened)) = self.rare.poll_next_unpin(context)
        {
            return Poll::Ready(happened);
        }
        if let Poll::Ready(delivery) = self.watches.poll_next(context) {
            return Poll::Ready(Happened::Delivery(delivery));
        }
        match self.rare.poll_next_unpin(context) {
            Poll::Ready(Some(happened)) => Poll::Ready(happened),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Does what takes a while.
    async fn finish(&mut self, work: Work) -> Result<(), Status> {
        match work {
            Work::Request(request) => self.request(request).await,
            Work::LookUps(response, events, fragment) => {
                let encoded = off_thread(self.core.store(), move |store| {
                    let encode = |event: &Arc<Event>| store.event_with_prev(event);
                    Ok(events.iter().map(encode).collect())
                })
                .await?;
                self.respond(response, encoded, fragment);
            }
        }
        Ok(())
    }

    async fn request(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let written = match &self.entry {
                    Some(stream) => written(&self.core, &self.credentials, stream, &create).await,
                    None => None,
                };
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
        let held = match permitted(&self.core, &self.credentials, &request).await {
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

    fn delivery(&mut self, delivery: Delivery) -> Option<Work> {
        match delivery {
            Delivery::Events {
                id,
                revision,
                events,
            } => return self.events(id, revision, events),
            Delivery::Compacted {
                id,
                compact_revision,
            } => self.ready.push_back(WatchResponse {
                watch_id: id,
                canceled: true,
                compact_revision,
                ..self.response(0)
            }),
            Delivery::Progress { id, revision } => self.ready.push_back(WatchResponse {
                watch_id: id.unwrap_or(NO_WATCHER),
                ..self.response(revision)
            }),
        }
        None
    }

    fn events(&mut self, id: i64, revision: i64, events: Arc<[Arc<Event>]>) -> Option<Work> {
        // What was written after a permission was gone must not be told: the change of auth may
        // be known here only now.
        if self.auth_changes.has_changed().unwrap_or(false) {
            self.auth_changes.mark_unchanged();
            self.drop_forbidden();
        }
        let wish = self.wishes.get_mut(&id)?;
        wish.progress = wish.progress.map(|_| false);
        let (prev_kv, fragment) = (wish.prev_kv, wish.fragment);
        self.core
            .metrics()
            .debugging_mvcc_events
            .inc_by(events.len() as u64);
        let response = WatchResponse {
            watch_id: id,
            ..self.response(revision)
        };
        let encoded = if !prev_kv {
            events.iter().map(|event| event.encoded()).collect()
        } else if events.len() <= INLINE_LOOK_UPS {
            let store = self.core.store();
            let encode = |event: &Arc<Event>| store.event_with_prev(event);
            events.iter().map(encode).collect()
        } else {
            return Some(Work::LookUps(response, events, fragment));
        };
        self.respond(response, encoded, fragment);
        None
    }

    fn respond(&mut self, response: WatchResponse, encoded: Vec<Bytes>, fragment: bool) {
        if fragment {
            let limit = self.message_max();
            self.ready.extend(fragments(response, encoded, limit));
        } else {
            self.ready.push_back(WatchResponse {
                events: encoded,
                ..response
            });
        }
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

    /// The largest message that a client may send, and that fragments stay below.
    fn message_max(&self) -> usize {
        self.core.config().request_bytes_max + limits::REQUEST_OVERHEAD_BYTES
    }

    fn response(&self, revision: i64) -> WatchResponse {
        WatchResponse {
            header: Some(self.core.header(revision)),
            ..WatchResponse::default()
        }
    }
}

/// A watcher of `stream` in the audit log.
async fn written(
    core: &Core,
    credentials: &Credentials,
    stream: &Arc<Entry>,
    request: &WatchCreateRequest,
) -> Option<Pending> {
    let caller = core.identify(credentials).await.ok().flatten();
    Some(Pending::part(
        core.audit(),
        stream,
        caller.as_ref(),
        request,
    ))
}

/// Whether the range may be watched, and on whose behalf.
async fn permitted(
    core: &Core,
    credentials: &Credentials,
    request: &WatchCreateRequest,
) -> Result<Held> {
    let caller = core.identify(credentials).await?;
    let (key, range_end) = (&request.key, &request.range_end);
    let check = |view: &View| view.read(caller.as_ref(), key, range_end);
    core.authorize(check).await?;
    Ok(Held::new(core.auth(), caller))
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
    let streams = core.store().watch_streams().unsigned_abs();
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
