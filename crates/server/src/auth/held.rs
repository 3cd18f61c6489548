//! Decisions that must hold for longer than a moment: for one read, or for as long as a stream
//! lasts.

use kvd_api::error::WireError;

use super::caller::Caller;
use super::store::Auth;
use super::view::{Verdict, View};

/// A read that was permitted and is under way.
#[must_use = "a read is permitted only if nothing has changed at its end"]
pub struct Reading {
    /// The caller's revision; none while auth is off.
    revision: Option<u64>,
}

impl Auth {
    /// Begins a read on behalf of `caller`, if `check` permits it.
    ///
    /// Errors: those of `check`.
    pub fn reading(
        &self,
        caller: Option<Caller>,
        check: impl FnOnce(&View, Option<&Caller>) -> Verdict,
    ) -> Result<Reading, WireError> {
        if !self.is_enabled() {
            return Ok(Reading { revision: None });
        }
        check(&self.view(), caller.as_ref())?;
        Ok(Reading {
            revision: caller.map(|caller| caller.revision),
        })
    }
}

impl Reading {
    /// Refuses what was read if users or roles have changed meanwhile: it may have been written
    /// after the permission was gone.
    ///
    /// Errors: [`WireError::RevisionOfAuthStoreIsOld`].
    pub fn finish(self, auth: &Auth) -> Verdict {
        match self.revision {
            Some(revision) if revision != auth.view().revision() => {
                Err(WireError::RevisionOfAuthStoreIsOld)
            }
            _ => Ok(()),
        }
    }
}

/// A stream's caller, recognised when the stream began. The token may run out meanwhile, and auth
/// may change; what must not change is the user.
#[derive(Clone, Debug)]
pub struct Held {
    user: Option<HeldUser>,
}

#[derive(Clone)]
struct HeldUser {
    name: std::sync::Arc<str>,
    /// The hash of the password, which differs each time that one is set.
    password: bytes::Bytes,
}

/// Hashes are secrets.
impl std::fmt::Debug for HeldUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Held {
    /// The stream of `caller`.
    pub fn new(auth: &Auth, caller: Option<Caller>) -> Held {
        let user = caller.map(|caller| HeldUser {
            password: auth
                .view()
                .user(&caller.user)
                .map(|user| user.record().password.clone())
                .unwrap_or_default(),
            name: caller.user,
        });
        Held { user }
    }

    /// Whether the caller may still read a range.
    ///
    /// Errors: [`WireError::InvalidAuthToken`] when the user is gone or has another password;
    /// [`WireError::UserNameIsEmpty`] when auth was turned on meanwhile; those of [`View::read`].
    pub fn check(&self, auth: &Auth, key: &[u8], range_end: &[u8]) -> Verdict {
        if !auth.is_enabled() {
            return Ok(());
        }
        let view = auth.view();
        let held = self.user.as_ref().ok_or(WireError::UserNameIsEmpty)?;
        let user = view.user(&held.name);
        if user.is_none_or(|user| user.record().password != held.password) {
            return Err(WireError::InvalidAuthToken);
        }
        let caller = Caller {
            user: std::sync::Arc::clone(&held.name),
            revision: view.revision(),
        };
        view.read(Some(&caller), key, range_end)
    }
}
