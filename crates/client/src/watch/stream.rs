//! The task that keeps watches going over one gRPC stream after another.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::{
    ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
};
use kvd_api::wire;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tonic::{Code, Streaming};

use super::options::WatchOptions;
use super::response::{Joiner, WatchResponse};
use crate::auth::Token;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::retry::{jittered, stream_failed};

/// Responses that wait for their reader; then the stream is not read any further.
const UNREAD_MAX: usize = 16;
/// Requests to the task, and from it to the server, that may wait.
const REQUESTS_MAX: usize = 16;
/// Pause before a stream that ended is opened again, first and longest.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// The watch that a response about none, or about all, names.
const NO_WATCH: i64 = -1;

impl Client {
    /// Watches keys over a stream of its own, and returns once the server watches: what happens
    /// after that is delivered. Waits for a server as long as it takes.
    ///
    /// Errors: [`Error::WatchCanceled`] and any error that trying again does not help.
    pub async fn watch(&self, key: impl Into<Bytes>, options: WatchOptions) -> Result<Watch> {
        self.watch_stream().watch(key, options).await
    }

    /// A stream that many watches can share.
    pub fn watch_stream(&self) -> WatchStream {
        let (commands, queue) = mpsc::channel(REQUESTS_MAX);
        let dropped = Arc::new(Notify::new());
        let task = Task {
            client: self.clone(),
            commands: queue,
            dropped: Arc::clone(&dropped),
            waiting: VecDeque::new(),
            active: HashMap::new(),
            progress: false,
        };
        tokio::spawn(task.run());
        WatchStream { commands, dropped }
    }
}

/// One stream for many watches; cheap to clone. It ends with the last handle and watch.
#[derive(Clone, Debug)]
pub struct WatchStream {
    commands: mpsc::Sender<Command>,
    dropped: Arc<Notify>,
}

impl WatchStream {
    /// As [`Client::watch`], over this stream.
    pub async fn watch(&self, key: impl Into<Bytes>, options: WatchOptions) -> Result<Watch> {
        let (sender, responses) = mpsc::channel(UNREAD_MAX);
        let (created, creation) = oneshot::channel();
        let entry = Entry {
            request: options.into_request(key),
            responses: sender,
            created: Some(created),
        };
        // Made first: when this future is dropped before the server answered, so is the watch.
        let mut watch = Watch {
            responses,
            dropped: Arc::clone(&self.dropped),
            created: ResponseHeader::default(),
        };
        let sent = self.commands.send(Command::Watch(entry)).await;
        sent.map_err(|_| Error::WatchClosed)?;
        watch.created = creation.await.map_err(|_| Error::WatchClosed)??;
        Ok(watch)
    }

    /// Asks for a progress notification on every watch of this stream, which the server sends once
    /// all of them have everything up to its revision. Lost when the connection is.
    pub async fn request_progress(&self) -> Result<()> {
        let sent = self.commands.send(Command::Progress).await;
        sent.map_err(|_| Error::WatchClosed)
    }
}

/// A watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    responses: mpsc::Receiver<Result<WatchResponse>>,
    dropped: Arc<Notify>,
    created: ResponseHeader,
}

impl Watch {
    /// The next response. After an error the watch is over.
    ///
    /// Errors: [`Error::WatchCanceled`] when the server ended the watch, [`Error::WatchClosed`]
    /// when it was over before, or any error that trying again does not help. Safe to cancel.
    pub async fn next(&mut self) -> Result<WatchResponse> {
        self.responses
            .recv()
            .await
            .unwrap_or(Err(Error::WatchClosed))
    }

    /// The header of the server's answer when it began to watch.
    pub fn created(&self) -> &ResponseHeader {
        &self.created
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.responses.close();
        self.dropped.notify_one();
    }
}

#[derive(Debug)]
enum Command {
    Watch(Entry),
    Progress,
}

/// A watch as the task knows it.
#[derive(Debug)]
struct Entry {
    /// Asks for the watch; its start is moved on with every response.
    request: WatchCreateRequest,
    responses: mpsc::Sender<Result<WatchResponse>>,
    created: Option<oneshot::Sender<Result<ResponseHeader>>>,
}

impl Entry {
    /// Whether nobody wants it any more.
    fn is_dropped(&self) -> bool {
        self.responses.is_closed()
    }

    /// Ends it with an error, which goes to whoever waits.
    async fn fail(self, error: Error) {
        match self.created {
            // Nobody hears it when the watch was dropped meanwhile.
            Some(created) => drop(created.send(Err(error))),
            None => drop(self.responses.send(Err(error)).await),
        }
    }
}

struct Task {
    client: Client,
    commands: mpsc::Receiver<Command>,
    dropped: Arc<Notify>,
    /// Watches that the server does not have yet. The first one is asked for, and only that one:
    /// a refusal does not say which watch it means.
    waiting: VecDeque<Entry>,
    /// Watches by the server's ID on the current stream.
    active: HashMap<i64, Entry>,
    /// Whether progress was asked for before there was a stream.
    progress: bool,
}

/// How one stream ended.
enum Ended {
    /// No handle and no watch is left.
    Unused,
    Broken(Error),
}

/// One gRPC stream: what goes out and what comes in.
struct Wire {
    requests: mpsc::Sender<WatchRequest>,
    /// What could not be handed over yet. Never waited for while nothing is read, since a server
    /// may wait in its turn until something is.
    outgoing: VecDeque<WatchRequest>,
    responses: Streaming<wire::WatchResponse>,
    token: Option<Token>,
    joiner: Joiner,
    asked_for_first: bool,
}

impl Task {
    async fn run(mut self) {
        let mut pause = REOPEN_PAUSE.0;
        loop {
            while self.waiting.is_empty() && !self.progress {
                match self.commands.recv().await {
                    Some(command) => self.accept(command),
                    None => return,
                }
            }
            let ended = match self.open().await {
                Ok(Some(mut wire)) => {
                    let opened = Instant::now();
                    let ended = self.serve(&mut wire).await;
                    if opened.elapsed() > REOPEN_PAUSE.1 {
                        pause = REOPEN_PAUSE.0;
                    }
                    ended
                }
                Ok(None) => Ended::Unused,
                Err(error) => Ended::Broken(error),
            };
            let error = match ended {
                Ended::Unused => return,
                Ended::Broken(error) => error,
            };
            if ends_watches(&error) {
                self.fail_all(error).await;
                continue;
            }
            self.requeue();
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(REOPEN_PAUSE.1);
        }
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Watch(entry) => self.waiting.push_back(entry),
            Command::Progress => self.progress = true,
        }
    }

    /// Opens a stream with whatever waits first; `None` when nobody wants one any more.
    async fn open(&mut self) -> Result<Option<Wire>> {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        // A server answers a stream when it has something to say, so it is asked something first.
        let first = match self.waiting.front() {
            Some(entry) => create(entry),
            None => progress(),
        };
        let asked_for_first = !self.waiting.is_empty();
        self.progress &= asked_for_first;
        // Cannot fail: the channel is new.
        drop(requests.try_send(first));
        let opening = self.client.open_watch(queue);
        let mut opening = std::pin::pin!(opening);
        let opened = loop {
            tokio::select! {
                opened = &mut opening => break opened,
                () = self.dropped.notified() => {
                    if self.commands.is_closed() && self.waiting.iter().all(Entry::is_dropped) {
                        return Ok(None);
                    }
                }
            }
        };
        let (responses, token) = opened?;
        Ok(Some(Wire {
            requests,
            outgoing: VecDeque::new(),
            responses,
            token,
            joiner: Joiner::default(),
            asked_for_first,
        }))
    }

    async fn serve(&mut self, wire: &mut Wire) -> Ended {
        let mut has_handles = true;
        loop {
            if !wire.asked_for_first
                && let Some(entry) = self.waiting.front()
            {
                wire.outgoing.push_back(create(entry));
                wire.asked_for_first = true;
            }
            if std::mem::take(&mut self.progress) {
                wire.outgoing.push_back(progress());
            }
            let unused = self.waiting.iter().all(Entry::is_dropped) && self.active.is_empty();
            if unused && !has_handles {
                return Ended::Unused;
            }
            tokio::select! {
                command = self.commands.recv(), if has_handles => match command {
                    Some(command) => self.accept(command),
                    None => has_handles = false,
                },
                () = self.dropped.notified() => self.cancel_dropped(wire),
                permit = wire.requests.clone().reserve_owned(), if !wire.outgoing.is_empty() => {
                    if let (Ok(permit), Some(next)) = (permit, wire.outgoing.pop_front()) {
                        permit.send(next);
                    }
                }
                message = wire.responses.message() => match message {
                    Ok(Some(message)) => {
                        if let Err(error) = self.take(wire, message).await {
                            return Ended::Broken(error);
                        }
                    }
                    Ok(None) => return Ended::Broken(stream_ended(&self.client)),
                    Err(status) => {
                        let endpoints = self.client.endpoint_list();
                        return Ended::Broken(stream_failed(&status, &endpoints));
                    }
                },
            }
        }
    }

    async fn take(&mut self, wire: &mut Wire, message: wire::WatchResponse) -> Result<()> {
        let id = message.watch_id;
        if message.created {
            wire.asked_for_first = false;
            if let Some(entry) = self.waiting.pop_front() {
                return self.created(wire, entry, message).await;
            }
        } else if message.canceled {
            wire.joiner.forget(id);
            if let Some(entry) = self.active.remove(&id) {
                entry.fail(canceled(message)).await;
            }
        } else if let Some(response) = wire.joiner.join(&message)? {
            if id == NO_WATCH {
                let ids: Vec<i64> = self.active.keys().copied().collect();
                for id in ids {
                    self.deliver(id, response.clone()).await;
                }
            } else {
                self.deliver(id, response).await;
            }
        }
        Ok(())
    }

    /// The server's answer to the request for a watch.
    async fn created(
        &mut self,
        wire: &mut Wire,
        mut entry: Entry,
        message: wire::WatchResponse,
    ) -> Result<()> {
        if message.canceled || message.watch_id == NO_WATCH {
            let refusal = canceled(message);
            if self.client.is_outdated(&refusal, wire.token.as_ref()).await {
                // Another stream, with another token, is not refused.
                self.waiting.push_front(entry);
                return Err(stream_ended(&self.client));
            }
            entry.fail(refusal).await;
            return Ok(());
        }
        let header = message.header.unwrap_or_default();
        if entry.request.start_revision == 0 {
            // From here on it is known what "now" was, whenever the connection is lost.
            entry.request.start_revision = header.revision + 1;
        }
        if let Some(created) = entry.created.take() {
            // Nobody waits any more when the watch was dropped meanwhile: seen just below.
            drop(created.send(Ok(header)));
        }
        if entry.is_dropped() {
            wire.outgoing.push_back(cancel(message.watch_id));
            return Ok(());
        }
        self.active.insert(message.watch_id, entry);
        Ok(())
    }

    async fn deliver(&mut self, id: i64, response: WatchResponse) {
        let Some(entry) = self.active.get_mut(&id) else {
            return; // The watch was dropped, and the server does not know it yet.
        };
        let next = response.next_revision();
        entry.request.start_revision = next.max(entry.request.start_revision);
        // When it is dropped now, `dropped` is notified, too.
        drop(entry.responses.send(Ok(response)).await);
    }

    fn cancel_dropped(&mut self, wire: &mut Wire) {
        let gone = self.active.iter().filter(|(_, entry)| entry.is_dropped());
        let gone: Vec<i64> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.active.remove(&id);
            wire.joiner.forget(id);
            wire.outgoing.push_back(cancel(id));
        }
    }

    /// Lets every watch begin again, on the next stream, where it stood.
    fn requeue(&mut self) {
        let active = self.active.drain().map(|(_, entry)| entry);
        self.waiting.extend(active);
        self.waiting.retain(|entry| !entry.is_dropped());
    }

    async fn fail_all(&mut self, error: Error) {
        let active = self.active.drain().map(|(_, entry)| entry);
        let all: Vec<Entry> = active.chain(self.waiting.drain(..)).collect();
        self.progress = false;
        for entry in all {
            entry.fail(error.clone()).await;
        }
    }
}

/// Whether trying again does not help. A member without a leader says so only to those that asked
/// for one, and they want to know.
fn ends_watches(error: &Error) -> bool {
    match error {
        Error::Etcd { code, .. } => {
            let again = matches!(code, Code::Unavailable | Code::Internal);
            !again || error.wire() == Some(WireError::NoLeader)
        }
        Error::ConnectionLost { .. } | Error::NoConnection { .. } | Error::DeadlineExceeded => {
            false
        }
        Error::Login(why) => ends_watches(why),
        _ => true,
    }
}

fn stream_ended(client: &Client) -> Error {
    Error::ConnectionLost {
        endpoint: client.endpoint_list(),
        reason: "the stream ended".to_owned(),
    }
}

fn canceled(message: wire::WatchResponse) -> Error {
    Error::WatchCanceled {
        header: message.header.unwrap_or_default(),
        compact_revision: message.compact_revision,
        reason: message.cancel_reason,
    }
}

fn create(entry: &Entry) -> WatchRequest {
    request(RequestUnion::CreateRequest(entry.request.clone()))
}

fn cancel(watch_id: i64) -> WatchRequest {
    request(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
}

fn progress() -> WatchRequest {
    request(RequestUnion::ProgressRequest(WatchProgressRequest {}))
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}
