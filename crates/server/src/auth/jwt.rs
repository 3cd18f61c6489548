//! JSON web tokens, signed and verified with the keys of `--auth-token=jwt,...`.
//!
//! A token says its user, the auth revision at which it was made and when it ends. Any change of
//! users or roles makes it old. Members keep nothing of it, so a token is as good at a member with
//! the public key alone.
//!
//! Source: etcd `server/auth/{jwt,options}.go`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::caller::Caller;
use super::signing::{Algorithm, Keys};
use super::simple::{Digest, digest_of};
use crate::error::{Error, Result};

/// Verified tokens that are remembered, so that not every request costs a signature.
const REMEMBERED_MAX: usize = 4_096;

/// What `--auth-token=jwt,...` says.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// `sign-method`, such as `RS256`.
    pub sign_method: String,
    /// `pub-key`: a file.
    pub public_key: Option<PathBuf>,
    /// `priv-key`: a file.
    pub private_key: Option<PathBuf>,
    /// `ttl`.
    pub lifetime: Duration,
}

/// Makes and reads tokens.
pub struct Jwt {
    algorithm: Algorithm,
    keys: Keys,
    lifetime: Duration,
    remembered: Mutex<HashMap<Digest, Claims>>,
}

/// What a good token says.
#[derive(Clone)]
struct Claims {
    user: Arc<str>,
    revision: u64,
    /// Seconds since 1970; none if it never ends.
    ends: Option<f64>,
}

impl Jwt {
    /// Reads the keys.
    ///
    /// Errors: [`Error::Config`] for an unknown method, and for keys that are missing, that cannot
    /// be read or that do not belong together; [`Error::Io`].
    pub fn load(settings: &JwtSettings) -> Result<Jwt> {
        let algorithm = Algorithm::parse(&settings.sign_method)?;
        let read = |path: &Option<PathBuf>| {
            let Some(path) = path else {
                return Ok(Vec::new());
            };
            std::fs::read(path).map_err(|source| Error::Io {
                path: path.clone(),
                source,
            })
        };
        let keys = Keys::new(
            algorithm,
            &read(&settings.private_key)?,
            &read(&settings.public_key)?,
        )?;
        Ok(Jwt {
            algorithm,
            keys,
            lifetime: settings.lifetime,
            remembered: Mutex::default(),
        })
    }

    /// A token for `user` at an auth revision.
    ///
    /// Errors: [`Error::Unknown`] with the public key alone.
    pub fn sign(&self, user: &str, revision: u64) -> Result<String> {
        let header = json!({"alg": self.algorithm.name(), "typ": "JWT"});
        let ends = seconds_since_1970() + self.lifetime.as_secs_f64();
        // Whole seconds, as etcd has them.
        let claims = json!({"exp": ends.trunc() as i64, "revision": revision, "username": user});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.keys.sign(token.as_bytes())?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The caller that a token makes; `None` when it is not good.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let digest = digest_of(token)?;
        let remembered = self.remembered.lock().get(&digest).cloned();
        let claims = match remembered {
            Some(claims) => claims,
            None => {
                let claims = self.verified(token)?;
                let mut remembered = self.remembered.lock();
                if remembered.len() >= REMEMBERED_MAX {
                    remembered.clear();
                }
                remembered.insert(digest, claims.clone());
                claims
            }
        };
        let has_ended = claims.ends.is_some_and(|ends| seconds_since_1970() >= ends);
        (!has_ended).then_some(Caller {
            user: claims.user,
            revision: claims.revision,
        })
    }

    fn verified(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = decode(header)?;
        if header.get("alg")?.as_str()? != self.algorithm.name() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        if !self.keys.verify(signed.as_bytes(), &signature) {
            return None;
        }
        let claims: Value = decode(claims)?;
        let time = |name| match claims.get(name) {
            None => Some(None),
            Some(value) => value.as_f64().map(Some),
        };
        let not_before = time("nbf")?;
        if not_before.is_some_and(|begins| seconds_since_1970() < begins) {
            return None;
        }
        Some(Claims {
            user: claims.get("username")?.as_str()?.into(),
            // As in etcd, which reads any number and drops what is behind the point.
            revision: claims.get("revision")?.as_f64()? as u64,
            ends: time("exp")?,
        })
    }
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn seconds_since_1970() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}
