//! Simple tokens: random text that every member knows the user of.
//!
//! A token is `SECRET.INDEX`: 16 random letters, and the log index at which members learnt of it. A
//! member that is asked before it is there waits. Members keep the SHA-256 of the secret, and so
//! does the log: neither files nor memory give a token away.
//!
//! A token lasts for its lifetime after its last use, by the clock of each member for itself. It is
//! gone when the user's password is changed, the user is deleted or auth is disabled.
//!
//! Differs from etcd: etcd replicates and keeps the tokens themselves.
//!
//! Source: etcd `server/auth/simple_token.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use parking_lot::Mutex;

use crate::error::{Error, Result};

const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// Letters of the secret part.
const SECRET_LETTERS: usize = 16;
/// Parts of the table, so that requests on different cores seldom meet.
const SHARDS: usize = 16;

/// What is kept of a token.
pub type Digest = [u8; SHA256_OUTPUT_LEN];

struct Token {
    user: Arc<str>,
    ends: Instant,
}

/// The tokens that this member knows.
pub struct SimpleTokens {
    lifetime: Duration,
    shards: [Mutex<HashMap<Digest, Token>>; SHARDS],
}

/// A token as a client shows it.
pub struct Shown {
    /// The log index at which members learnt of it.
    pub index: u64,
    digest: Digest,
}

impl SimpleTokens {
    /// No tokens; those to come last for `lifetime` after each use.
    pub fn new(lifetime: Duration) -> SimpleTokens {
        SimpleTokens {
            lifetime,
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Notes a token of `user`.
    pub fn assign(&self, digest: Digest, user: &str, now: Instant) {
        let token = Token {
            user: user.into(),
            ends: now + self.lifetime,
        };
        self.shard(&digest).lock().insert(digest, token);
    }

    /// The user of a token, which lasts on from `now`.
    pub fn user(&self, token: &Shown, now: Instant) -> Option<Arc<str>> {
        let mut shard = self.shard(&token.digest).lock();
        let known = shard.get_mut(&token.digest)?;
        if known.ends < now {
            shard.remove(&token.digest);
            return None;
        }
        known.ends = now + self.lifetime;
        Some(Arc::clone(&known.user))
    }

    /// Forgets the tokens of a user.
    pub fn forget_user(&self, user: &str) {
        for shard in &self.shards {
            shard.lock().retain(|_, token| &*token.user != user);
        }
    }

    /// Forgets all tokens.
    pub fn clear(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
    }

    /// Forgets the tokens whose time is over.
    pub fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            shard.lock().retain(|_, token| token.ends >= now);
        }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, digest: &Digest) -> &Mutex<HashMap<Digest, Token>> {
        &self.shards[usize::from(digest[0]) % SHARDS]
    }
}

impl Shown {
    /// Reads what a client shows; `None` when it cannot be a token.
    pub fn parse(text: &str) -> Option<Shown> {
        let (secret, index) = text.split_once('.')?;
        let digest = digest_of(secret)?;
        Some(Shown {
            index: index.parse().ok()?,
            digest,
        })
    }
}

/// A new secret.
///
/// Errors: [`Error::Internal`] when the system gives no random numbers.
pub fn new_secret() -> Result<String> {
    let random = SystemRandom::new();
    let mut secret = String::with_capacity(SECRET_LETTERS);
    let mut bytes = [0_u8; SECRET_LETTERS];
    while secret.len() < SECRET_LETTERS {
        random
            .fill(&mut bytes)
            .map_err(|_| Error::Internal("the system gives no random numbers".into()))?;
        // Bytes beyond the last whole multiple would make some letters likelier than others.
        let fit = bytes.iter().filter(|byte| **byte < 4 * 52);
        let letters = fit.map(|byte| char::from(LETTERS[usize::from(*byte % 52)]));
        secret.extend(letters.take(SECRET_LETTERS - secret.len()));
    }
    Ok(secret)
}

/// What is kept of a secret; `None` for what cannot be one.
pub fn digest_of(secret: &str) -> Option<Digest> {
    digest(&SHA256, secret.as_bytes()).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secret: &str) -> Shown {
        Shown::parse(&format!("{secret}.7")).expect("a token")
    }

    #[test]
    fn secrets_are_letters_and_differ() {
        let (one, two) = (new_secret().expect("random"), new_secret().expect("random"));
        assert_ne!(one, two);
        assert_eq!(one.len(), SECRET_LETTERS);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphabetic()));
    }

    #[test]
    fn a_token_lasts_from_its_last_use() {
        let tokens = SimpleTokens::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        tokens.assign(digest_of("abc").expect("a digest"), "alice", start);
        assert_eq!(tokens.user(&shown("abc"), at(9)).as_deref(), Some("alice"));
        assert_eq!(tokens.user(&shown("abc"), at(18)).as_deref(), Some("alice"));
        assert_eq!(tokens.user(&shown("abc"), at(29)), None);
        assert!(tokens.is_empty());
    }

    #[test]
    fn tokens_go_with_their_user() {
        let tokens = SimpleTokens::new(Duration::from_secs(10));
        let now = Instant::now();
        for (secret, user) in [("a", "alice"), ("b", "bob"), ("c", "alice")] {
            tokens.assign(digest_of(secret).expect("a digest"), user, now);
        }
        tokens.forget_user("alice");
        assert_eq!(tokens.len(), 1);
        assert_eq!(tokens.user(&shown("b"), now).as_deref(), Some("bob"));
        tokens.sweep(now + Duration::from_secs(11));
        assert!(tokens.is_empty());
    }

    #[test]
    fn what_is_no_token_is_not_taken_for_one() {
        for text in ["", "abc", "abc.", "abc.x", "abc.1.2", "abc.-1"] {
            assert!(Shown::parse(text).is_none(), "{text:?}");
        }
        assert_eq!(Shown::parse("abc.12").expect("a token").index, 12);
    }
}
