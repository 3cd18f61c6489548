//! Passwords: hashed with bcrypt, on threads that may take their time.
//!
//! Hashing takes tens of milliseconds of a core by design. At most as many run at once as there
//! are cores, so that guessing passwords starves nothing else; those beyond a bound are refused.
//!
//! Whether there is such a user must not show in the time an answer takes: without a stored hash
//! the password is compared with one of nobody, at the same cost.
//!
//! Source: etcd `server/auth/store.go`, `CheckPassword`; `server/etcdserver/v3_server.go`,
//! `UserAdd`.

use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcrypt::Version;
use kvd_api::error::WireError;
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// etcd's default of `--bcrypt-cost`.
pub const COST: u32 = 10;
/// What bcrypt takes for a cost.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
/// Longest password, in bytes. Go's bcrypt refuses longer ones, as it would not look at the rest.
const BYTES_MAX: usize = 72;
/// Passwords that may wait to be hashed or compared.
const WAITING_MAX: usize = 1_024;

/// Hashes and compares passwords.
pub struct Passwords {
    cost: u32,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The hash of a password that nobody has, once it was needed.
    nobody: OnceLock<String>,
}

impl Passwords {
    /// Hashes at `cost`; as in etcd, the default is taken for one that bcrypt does not have.
    pub fn new(cost: u32) -> Passwords {
        let given = cost;
        let cost = if COSTS.contains(&given) { given } else { COST };
        if cost != given {
            tracing::warn!(
                min_cost = COSTS.start(),
                max_cost = COSTS.end(),
                default_cost = COST,
                given_cost = given,
                "use default bcrypt cost instead of the invalid given cost"
            );
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Passwords {
            cost,
            running: Arc::new(Semaphore::new(cores)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            nobody: OnceLock::new(),
        }
    }

    /// Hashes a password as it is replicated: bcrypt's text in base64.
    ///
    /// Errors: [`Error::Unknown`] for one of more than 72 bytes; [`WireError::TooManyRequests`].
    pub async fn hash(&self, password: String) -> Result<String> {
        if password.len() > BYTES_MAX {
            let text = "bcrypt: password length exceeds 72 bytes";
            return Err(Error::Unknown(text.into()));
        }
        let cost = self.cost;
        let hash = self.run(move || hash(&password, cost)).await??;
        Ok(STANDARD.encode(hash))
    }

    /// Whether `password` is the one of `hash`, in time that does not tell if there is a hash.
    ///
    /// Errors: [`WireError::TooManyRequests`].
    pub async fn verify(&self, password: String, hash: Option<bytes::Bytes>) -> Result<bool> {
        let cost = self.cost;
        let known = self.nobody.get().cloned();
        let (matches, nobody) = self
            .run(move || {
                let stored = hash.and_then(|hash| String::from_utf8(hash.to_vec()).ok());
                // A stored hash that is none, such as that of no password, is nobody's either.
                let stored = stored.filter(|hash| hash.starts_with("$2"));
                let nobody = match known {
                    Some(nobody) => nobody,
                    None => self::hash("", cost)?,
                };
                let is_stored = stored.is_some();
                let against = stored.as_ref().unwrap_or(&nobody);
                let matches = bcrypt::verify(&password, against).unwrap_or(false);
                Ok::<_, Error>((matches && is_stored, nobody))
            })
            .await??;
        self.nobody.get_or_init(|| nobody);
        Ok(matches)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let waiting = Arc::clone(&self.waiting).try_acquire_owned();
        let waiting = waiting.map_err(|_| WireError::TooManyRequests)?;
        let running = Arc::clone(&self.running).acquire_owned().await;
        let running = running.map_err(|_| WireError::ServerStopped)?;
        // A caller that goes away does not end the work: its place is taken until that is done.
        let done = tokio::task::spawn_blocking(move || {
            let _places = (waiting, running);
            work()
        })
        .await;
        done.map_err(|error| Error::Internal(format!("a password was not hashed: {error}")))
    }
}

/// Decodes what [`Passwords::hash`] made.
pub fn decode(hashed: &str) -> Option<Vec<u8>> {
    STANDARD.decode(hashed).ok()
}

fn hash(password: &str, cost: u32) -> Result<String> {
    let parts = bcrypt::hash_with_result(password, cost)
        .map_err(|error| Error::Internal(format!("a password cannot be hashed: {error}")))?;
    // The only version that Go's bcrypt writes.
    Ok(parts.format_for_version(Version::TwoA))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: u32 = 4;

    async fn stored(passwords: &Passwords, password: &str) -> Option<bytes::Bytes> {
        let hashed = passwords.hash(password.into()).await.expect("hashed");
        decode(&hashed).map(Into::into)
    }

    #[tokio::test]
    async fn the_right_password_alone_matches() {
        let passwords = Passwords::new(CHEAP);
        let hash = stored(&passwords, "secret").await;
        let verify = |password: &str, hash| passwords.verify(password.into(), hash);
        assert!(verify("secret", hash.clone()).await.expect("compared"));
        assert!(!verify("Secret", hash).await.expect("compared"));
        assert!(!verify("", None).await.expect("compared"));
        // As in etcd, an empty password is one.
        let empty = stored(&passwords, "").await;
        assert!(verify("", empty).await.expect("compared"));
        assert!(
            !verify("", Some(bytes::Bytes::new()))
                .await
                .expect("compared")
        );
    }

    #[tokio::test]
    async fn long_passwords_are_refused_in_gos_words() {
        let passwords = Passwords::new(CHEAP);
        assert!(passwords.hash("x".repeat(72)).await.is_ok());
        let error = passwords.hash("x".repeat(73)).await.expect_err("refused");
        assert_eq!(
            error.to_string(),
            "bcrypt: password length exceeds 72 bytes"
        );
    }

    #[tokio::test]
    async fn hashes_are_those_of_gos_bcrypt() {
        let passwords = Passwords::new(CHEAP);
        let hash = stored(&passwords, "pw").await.expect("a hash");
        assert!(hash.starts_with(b"$2a$04$"), "{hash:?}");
        assert_eq!(Passwords::new(3).cost, COST);
        assert_eq!(Passwords::new(32).cost, COST);
    }
}
