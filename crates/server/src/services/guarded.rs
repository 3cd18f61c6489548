//! The end of a call's message, where what was decided at its head is looked at once more.
//!
//! A client may send its message as slowly as it likes. Whose call was admitted, and who loses the
//! password, a role or the user before the message is whole, must not have it carried out. The
//! messages of streams are checked one by one, by their services.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::{Body as HttpBody, Frame, SizeHint};
use kvd_api::error::WireError;
use tonic::Status;

use crate::auth::{Credentials, Rule};
use crate::core::Core;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is asked at the end.
pub struct Guard {
    core: Arc<Core>,
    rule: Rule,
    credentials: Credentials,
    /// The auth revision at the head; none if auth was off.
    revision: Option<u64>,
}

impl Guard {
    /// The guard of a call, if it needs one.
    pub fn new(
        core: &Arc<Core>,
        rule: Rule,
        credentials: Credentials,
        revision: Option<u64>,
    ) -> Option<Guard> {
        match rule {
            Rule::Open | Rule::Messages => None,
            Rule::Anyone | Rule::User | Rule::Admin => Some(Guard {
                core: Arc::clone(core),
                rule,
                credentials,
                revision,
            }),
        }
    }

    /// Refuses what would be refused now. Costs next to nothing while nothing has changed.
    fn check(&self) -> Result<(), Status> {
        let auth = self.core.auth();
        if !auth.is_enabled() || self.revision == Some(auth.view().revision()) {
            return Ok(());
        }
        let caller = auth.identify(&self.credentials, self.core.applied_index());
        let caller = caller.map_err(|_| WireError::InvalidAuthToken)?;
        Ok(self.rule.check(&auth.view(), caller.as_ref())?)
    }
}

/// A body with a guard at its end.
pub struct Guarded<B> {
    body: B,
    /// None once it was asked.
    guard: Option<Guard>,
}

impl<B> Guarded<B> {
    /// Puts `guard` behind `body`.
    pub fn new(body: B, guard: Option<Guard>) -> Guarded<B> {
        Guarded { body, guard }
    }
}

impl<B> HttpBody for Guarded<B>
where
    B: HttpBody + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        let is_over = match &frame {
            Some(Ok(frame)) => frame.is_trailers(),
            Some(Err(_)) => false,
            None => true,
        };
        if is_over
            && let Some(guard) = this.guard.take()
            && let Err(refusal) = guard.check()
        {
            return Poll::Ready(Some(Err(refusal.into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        // Whoever believes that would not come for the end.
        self.guard.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
