//! `--auth-token` and what belongs to it.
//!
//! Source: etcd `server/auth/{store,options}.go`, `decomposeOpts`, `jwtOptions`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kvd_server::auth::{JwtSettings, TokenKind};

use crate::error::Setting;
use crate::flags::value;

/// How long a JSON web token lasts unless `ttl` says otherwise. etcd: 5 minutes.
const JWT_LIFETIME: Duration = Duration::from_secs(300);

/// Reads `--auth-token`: a kind, and after commas what it needs.
///
/// Errors: [`Setting::AuthToken`]. Whether the keys are good is seen when the member starts.
pub(super) fn tokens(text: &str) -> Result<TokenKind, Setting> {
    let complain = |what: String| Setting::AuthToken {
        value: text.to_owned(),
        what,
    };
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options: BTreeMap<&str, &str> = BTreeMap::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) if !value.contains('=') => (name, value),
            _ => return Err(complain(format!("{part:?} is not NAME=VALUE"))),
        };
        if options.insert(name, value).is_some() {
            return Err(complain(format!("{name} is given twice")));
        }
    }
    match kind {
        // Users are known by their certificates alone.
        "" => Ok(TokenKind::None),
        "simple" => Ok(TokenKind::Simple),
        "jwt" => {
            let file = |name| options.get(name).filter(|path| !path.is_empty());
            let lifetime = match options.get("ttl").filter(|ttl| !ttl.is_empty()) {
                None => JWT_LIFETIME,
                Some(ttl) => value::duration(ttl)
                    .map(value::to_duration)
                    .ok_or_else(|| complain(format!("{ttl:?} is no length of time")))?,
            };
            Ok(TokenKind::Jwt(JwtSettings {
                sign_method: options.get("sign-method").copied().unwrap_or("").to_owned(),
                public_key: file("pub-key").map(PathBuf::from),
                private_key: file("priv-key").map(PathBuf::from),
                lifetime,
            }))
        }
        other => Err(complain(format!("there is no kind {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_etcd_reads() {
        assert!(matches!(tokens("simple"), Ok(TokenKind::Simple)));
        assert!(matches!(tokens(""), Ok(TokenKind::None)));
        let jwt = tokens("jwt,pub-key=a.pub,priv-key=a.key,sign-method=RS256,ttl=10m");
        let Ok(TokenKind::Jwt(jwt)) = jwt else {
            panic!("{jwt:?}");
        };
        assert_eq!(jwt.sign_method, "RS256");
        assert_eq!(jwt.public_key, Some("a.pub".into()));
        assert_eq!(jwt.lifetime, Duration::from_secs(600));
        for bad in ["jwt,a", "jwt,a=b=c", "jwt,a=1,a=2", "other", "jwt,ttl=x"] {
            let error = tokens(bad).expect_err(bad);
            assert!(
                error.to_string().contains("auth: invalid auth options"),
                "{error}"
            );
        }
    }
}
