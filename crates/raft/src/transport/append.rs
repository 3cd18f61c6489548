//! Appends and heartbeats: numbered requests on a stream that stays open.
//!
//! ```text
//!   sender                                     receiver
//!     │ ── 7: entries 10..12 ──────────────────▶ │ handed to the log in order,
//!     │ ── 8: entries 13..13 ──────────────────▶ │ not waiting for one another
//!     │ ◀───────────────────────── 7: success ── │ 10..12 are on disk
//!     │ ◀───────────────────────── 8: success ── │
//! ```
//!
//! openraft sends in *sessions*: a session is a stream of requests with a stream of replies, and
//! ends at the first conflict or when openraft drops it. A [`Session`] does not open a stream of
//! its own but borrows the [`Link`], so that a heartbeat costs one message each way. Replies to
//! requests of a session that was dropped are recognised by their number and passed over.
//!
//! A session asks openraft for a request before it opens a link, because openraft waits out its
//! back-off there.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::Stream;
use kvd_api::pb::kvdpeerpb as pb;
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::client::{Peer, Purpose, unreachable};
use super::codec;
use crate::type_config::{LogId, TypeConfig};

/// Requests that may be under way on a link.
const REQUESTS_MAX: usize = 128;
/// Bytes that may be under way on a link, unless a single request is larger.
const BYTES_MAX: usize = 16 << 20;

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<pb::AppendReply>, Status>> + Send>>;

/// A stream to a peer, open or being opened.
pub(crate) struct Link {
    requests: mpsc::UnboundedSender<pb::AppendRequest>,
    replies: Replies,
    next_sequence: u64,
}

enum Replies {
    Opening(Opening),
    Open(Box<Streaming<pb::AppendReply>>),
}

impl Link {
    fn open(peer: &Arc<Peer>, purpose: Purpose) -> Link {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let mut client = peer.client(purpose);
        let request = peer.request(UnboundedReceiverStream::new(outgoing));
        let opening = Box::pin(async move { Ok(client.append(request).await?.into_inner()) });
        Link {
            requests,
            replies: Replies::Opening(opening),
            next_sequence: 0,
        }
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<pb::AppendReply, Status>> {
        loop {
            match &mut self.replies {
                Replies::Opening(opening) => {
                    let replies = ready!(opening.as_mut().poll(cx))?;
                    self.replies = Replies::Open(Box::new(replies));
                }
                Replies::Open(replies) => {
                    let reply = ready!(Pin::new(replies.as_mut()).poll_next(cx));
                    let ended = || kvd_api::error::peer_unavailable("the peer ended the stream");
                    return Poll::Ready(reply.unwrap_or_else(|| Err(ended())));
                }
            }
        }
    }
}

/// A request that waits for its reply.
struct Pending {
    sequence: u64,
    prev: Option<LogId>,
    last: Option<LogId>,
    bytes: usize,
    sent: Instant,
}

/// One of openraft's append streams over a link.
pub(crate) struct Session<'s, S> {
    peer: &'s Arc<Peer>,
    purpose: Purpose,
    link: &'s mut Option<Link>,
    /// `None` once openraft has no more requests, or the session is over.
    input: Option<S>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
}

type Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

impl<'s, S> Session<'s, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    pub(crate) fn new(
        peer: &'s Arc<Peer>,
        purpose: Purpose,
        link: &'s mut Option<Link>,
        input: S,
    ) -> Session<'s, S> {
        let pending = VecDeque::new();
        Session {
            peer,
            purpose,
            link,
            input: Some(input),
            pending,
            pending_bytes: 0,
        }
    }

    /// Sends what openraft has ready, as far as the window allows.
    fn poll_input(&mut self, cx: &mut Context<'_>) {
        while self.pending.len() < REQUESTS_MAX && self.pending_bytes < BYTES_MAX {
            let Some(input) = &mut self.input else { return };
            match Pin::new(input).poll_next(cx) {
                Poll::Ready(Some(request)) => self.send(request),
                Poll::Ready(None) => self.input = None,
                Poll::Pending => return,
            }
        }
    }

    fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) {
        if self.pending.is_empty() {
            // A link that broke while nobody looked is replaced.
            self.link.take_if(|link| link.requests.is_closed());
        }
        let link = self
            .link
            .get_or_insert_with(|| Link::open(self.peer, self.purpose));
        let sequence = link.next_sequence;
        link.next_sequence += 1;
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let message = codec::append_out(request, sequence);
        let bytes = message.encoded_len();
        self.peer.events().peer_sent(self.peer.id, bytes as u64);
        self.pending.push_back(Pending {
            sequence,
            prev,
            last,
            bytes,
            sent: Instant::now(),
        });
        self.pending_bytes += bytes;
        // When the link has just broken, reading the replies says how.
        let _ = link.requests.send(message);
    }

    /// Takes the reply to the oldest request.
    fn take_reply(&mut self, reply: pb::AppendReply) -> Option<Item> {
        use pb::append_reply::Result as Reply;
        let oldest = self.pending.front()?;
        if reply.sequence < oldest.sequence {
            return None; // It answers a session that was dropped.
        }
        if reply.sequence > oldest.sequence {
            return Some(Err(
                self.end(NetworkError::from_string("a reply is missing").into())
            ));
        }
        let Pending {
            prev,
            last,
            bytes,
            sent,
            ..
        } = self.pending.pop_front()?;
        self.pending_bytes -= bytes;
        self.peer.answered();
        self.peer
            .events()
            .peer_round_trip(self.peer.id, sent.elapsed());
        let partial = |session: &mut Self, up_to: Option<LogId>| {
            if up_to != last {
                session.finish();
            }
            Ok(Ok(up_to))
        };
        Some(match reply.result {
            Some(Reply::Success(_)) => Ok(Ok(last)),
            Some(Reply::Partial(up_to)) => partial(self, Some(codec::log_id_in(up_to))),
            Some(Reply::Nothing(_)) => partial(self, None),
            Some(Reply::Conflict(_)) => match prev {
                Some(prev) => {
                    self.finish();
                    Ok(Err(StreamAppendError::Conflict(prev)))
                }
                None => {
                    let what = "a conflict before the first entry";
                    Err(self.end(NetworkError::from_string(what).into()))
                }
            },
            Some(Reply::HigherVote(vote)) => match codec::vote_in(Some(vote)) {
                Ok(vote) => {
                    self.finish();
                    Ok(Err(StreamAppendError::HigherVote(vote)))
                }
                Err(error) => Err(self.end(NetworkError::new(&error).into())),
            },
            Some(Reply::Failed(text)) => {
                let status = kvd_api::error::peer_unavailable(text);
                self.peer.failed(&status);
                Err(self.end(unreachable(&status)))
            }
            None => Err(self.end(NetworkError::from_string("an empty reply").into())),
        })
    }

    /// Takes no more requests and waits for no more replies. The link stays.
    fn finish(&mut self) {
        self.input = None;
        self.pending.clear();
        self.pending_bytes = 0;
    }

    /// Finishes because of an error that leaves the link useless.
    fn end(&mut self, error: RPCError<TypeConfig>) -> RPCError<TypeConfig> {
        self.finish();
        *self.link = None;
        error
    }
}

impl<S> Stream for Session<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    type Item = Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = self.get_mut();
        loop {
            this.poll_input(cx);
            if this.pending.is_empty() {
                return if this.input.is_none() {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                };
            }
            let Some(link) = this.link.as_mut() else {
                return Poll::Ready(None);
            };
            match ready!(link.poll_reply(cx)) {
                Ok(reply) => {
                    if let Some(item) = this.take_reply(reply) {
                        return Poll::Ready(Some(item));
                    }
                }
                Err(status) => {
                    this.peer.failed(&status);
                    let error = this.end(unreachable(&status));
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
