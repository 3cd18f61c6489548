//! The current view, the tokens, and who a request comes from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use kvd_api::error::WireError;
use kvd_api::pb::authpb;
use kvd_mvcc::{Store, Table};
use prost::Message;
use tokio::sync::watch;

use super::caller::{Caller, Credentials};
use super::jwt::{Jwt, JwtSettings};
use super::password::{self, Passwords};
use super::simple::{Digest, Shown, SimpleTokens};
use super::view::View;
use crate::error::{Error, Result};

/// Key of [`Table::Auth`]: whether auth is on.
pub(crate) const ENABLED: &[u8] = b"authEnabled";
/// Key of [`Table::Auth`]: the auth revision.
pub(crate) const REVISION: &[u8] = b"authRevision";

/// Which tokens there are (`--auth-token`).
#[derive(Clone, Debug)]
pub enum TokenKind {
    /// None: users are known by their certificates alone.
    None,
    /// Random text that members know.
    Simple,
    /// JSON web tokens.
    Jwt(JwtSettings),
}

/// What a member is told about auth when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which tokens there are.
    pub tokens: TokenKind,
    /// How long a simple token lasts after its last use (`--auth-token-ttl`).
    pub token_lifetime: Duration,
    /// How dear it is to hash a password (`--bcrypt-cost`).
    pub bcrypt_cost: u32,
    /// Whether a certificate's common name is a user (`--client-cert-auth`).
    pub by_certificate: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            tokens: TokenKind::Simple,
            token_lifetime: Duration::from_secs(300),
            bcrypt_cost: password::COST,
            by_certificate: false,
        }
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one, for as long as the member runs"
)]
enum Tokens {
    None,
    Simple(SimpleTokens),
    Jwt(Jwt),
}

/// Why it is not known who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unidentified {
    /// The token is not good.
    Invalid,
    /// Members learn of the token at this log index, which is not applied here yet.
    NotApplied(u64),
}

/// Users, roles and tokens of this member.
pub struct Auth {
    enabled: AtomicBool,
    view: ArcSwap<View>,
    /// Counts the views, for who wants to hear of a new one.
    changes: watch::Sender<u64>,
    tokens: Tokens,
    passwords: Passwords,
    by_certificate: bool,
}

impl Auth {
    /// The users and roles that `store` holds, and the keys of the settings.
    ///
    /// Errors: [`Error::Internal`] when a stored user or role cannot be read; those of the keys.
    pub fn restore(store: &Store, settings: &Settings) -> Result<Auth> {
        let tokens = match &settings.tokens {
            TokenKind::None => Tokens::None,
            TokenKind::Simple => Tokens::Simple(SimpleTokens::new(settings.token_lifetime)),
            TokenKind::Jwt(settings) => Tokens::Jwt(Jwt::load(settings)?),
        };
        let auth = Auth {
            enabled: AtomicBool::new(false),
            view: ArcSwap::default(),
            changes: watch::Sender::new(0),
            tokens,
            passwords: Passwords::new(settings.bcrypt_cost),
            by_certificate: settings.by_certificate,
        };
        auth.reload(store)?;
        Ok(auth)
    }

    /// Replaces users and roles by those that `store` holds. Tokens of users that are as before
    /// stay good.
    ///
    /// Errors: [`Error::Internal`] when a stored user or role cannot be read.
    pub(crate) fn reload(&self, store: &Store) -> Result<()> {
        let enabled = store.table_get(Table::Auth, ENABLED);
        let revision = store.table_get(Table::Auth, REVISION);
        let revision = match revision.as_deref().map(<[u8; 8]>::try_from) {
            Some(Ok(bytes)) => u64::from_be_bytes(bytes),
            Some(Err(_)) => return Err(Error::Internal("the auth revision is damaged".into())),
            None => 0,
        };
        let users = read_all::<authpb::User>(store, Table::AuthUsers, "user")?;
        let roles = read_all::<authpb::Role>(store, Table::AuthRoles, "role")?;
        let view = View::new(enabled.as_deref() == Some(&[1]), revision, users, roles);
        let old = self.view();
        if view.is_enabled() {
            for user in old.users() {
                let name = String::from_utf8_lossy(&user.record().name);
                let kept = view.user(&name);
                if kept.is_none_or(|kept| kept.record().password != user.record().password) {
                    self.forget_tokens_of(&name);
                }
            }
        } else {
            self.forget_tokens();
        }
        self.publish(view);
        Ok(())
    }

    /// Whether callers must show who they are. Every request asks.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// The users and roles of now.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// A number that changes with the view.
    pub fn generation(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Tells of new views.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Puts a new view in place. Apply alone does.
    pub(crate) fn publish(&self, view: View) {
        let enabled = view.is_enabled();
        self.view.store(Arc::new(view));
        self.enabled.store(enabled, Ordering::Release);
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// Whom a request's credentials stand for; nobody if it shows none.
    ///
    /// Errors: [`Unidentified`].
    pub fn identify(
        &self,
        credentials: &Credentials,
        applied: u64,
    ) -> Result<Option<Caller>, Unidentified> {
        let revision = || self.view().revision();
        let Some(token) = &credentials.token else {
            return Ok(credentials.common_name.as_ref().map(|name| Caller {
                user: Arc::clone(name),
                revision: revision(),
            }));
        };
        match &self.tokens {
            Tokens::None => Err(Unidentified::Invalid),
            Tokens::Jwt(jwt) => jwt.caller(token).map(Some).ok_or(Unidentified::Invalid),
            Tokens::Simple(tokens) => {
                // The revision first: a change between the two makes the caller old, not fresh.
                let revision = revision();
                let shown = Shown::parse(token).ok_or(Unidentified::Invalid)?;
                match tokens.user(&shown, Instant::now()) {
                    Some(user) => Ok(Some(Caller { user, revision })),
                    None if shown.index > applied => Err(Unidentified::NotApplied(shown.index)),
                    None => Err(Unidentified::Invalid),
                }
            }
        }
    }

    /// Whether a certificate's common name is a user.
    pub fn by_certificate(&self) -> bool {
        self.by_certificate
    }

    /// Hashes and compares passwords.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Whether members must be told of a new token before it is good.
    ///
    /// Errors: [`WireError::AuthFailed`] when there are no tokens, as in etcd.
    pub fn tokens_are_replicated(&self) -> Result<bool, WireError> {
        match &self.tokens {
            Tokens::None => Err(WireError::AuthFailed),
            Tokens::Simple(_) => Ok(true),
            Tokens::Jwt(_) => Ok(false),
        }
    }

    /// Makes a token that no member needs to be told of.
    ///
    /// Errors: those of signing.
    pub fn sign(&self, user: &str, revision: u64) -> Result<String> {
        match &self.tokens {
            Tokens::Jwt(jwt) => jwt.sign(user, revision),
            Tokens::None | Tokens::Simple(_) => Err(WireError::AuthFailed.into()),
        }
    }

    /// Notes a simple token. Its end is this member's own affair: nothing replicated depends on
    /// the clock.
    pub(crate) fn assign_token(&self, digest: Digest, user: &str) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.assign(digest, user, Instant::now());
        }
    }

    pub(crate) fn forget_tokens_of(&self, user: &str) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.forget_user(user);
        }
    }

    pub(crate) fn forget_tokens(&self) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.clear();
        }
    }

    /// Forgets the tokens whose time is over.
    pub fn sweep(&self) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.sweep(Instant::now());
        }
    }
}

impl From<Unidentified> for Error {
    fn from(_: Unidentified) -> Error {
        WireError::InvalidAuthToken.into()
    }
}

fn read_all<T: Message + Default>(store: &Store, table: Table, what: &str) -> Result<Vec<T>> {
    let stored = store.table_scan(table);
    let read = stored.into_iter().map(|(_, bytes)| T::decode(bytes));
    read.collect::<Result<_, _>>()
        .map_err(|error| Error::Internal(format!("a stored {what} is damaged: {error}")))
}
