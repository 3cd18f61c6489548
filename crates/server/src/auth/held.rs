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
    /// The hash of the password, which differs each time that one is set. None when it is not
    /// known by which one the user was recognised.
    password: Option<bytes::Bytes>,
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
        let view = auth.view();
        let user = caller.map(|caller| {
            let user = view.user(&caller.user);
            // The password may have been changed since the caller was recognised.
            let user = user.filter(|_| view.fresh(Some(&caller)).is_ok());
            HeldUser {
                password: user.map(|user| user.record().password.clone()),
                name: caller.user,
            }
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
        let password = view.user(&held.name).map(|user| &user.record().password);
        if password.is_none() || password != held.password.as_ref() {
            return Err(WireError::InvalidAuthToken);
        }
        let caller = Caller {
            user: std::sync::Arc::clone(&held.name),
            revision: view.revision(),
        };
        view.read(Some(&caller), key, range_end)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvd_api::pb::authpb;

    use super::*;
    use crate::auth::Settings;

    fn view(revision: u64, password: &'static str) -> View {
        let alice = authpb::User {
            name: "alice".into(),
            password: Bytes::from_static(password.as_bytes()),
            roles: vec!["root".to_owned()],
            ..authpb::User::default()
        };
        View::new(true, revision, vec![alice], Vec::new())
    }

    #[test]
    fn who_was_recognised_by_a_password_that_is_gone_is_not_held() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = kvd_mvcc::Options {
            engine: kvd_mvcc::EngineKind::Memory,
            ..kvd_mvcc::Options::default()
        };
        let (store, _writer) = kvd_mvcc::open(folder.path(), options).expect("a store");
        let auth = Auth::restore(&store, &Settings::default()).expect("no users");
        let alice = Caller {
            user: "alice".into(),
            revision: 5,
        };
        auth.publish(view(5, "old"));
        let before = Held::new(&auth, Some(alice.clone()));
        assert_eq!(before.check(&auth, b"key", b""), Ok(()));
        auth.publish(view(6, "new"));
        let between = Held::new(&auth, Some(alice));
        for held in [before, between] {
            let refused = held.check(&auth, b"key", b"");
            assert_eq!(refused, Err(WireError::InvalidAuthToken));
        }
    }
}
