//! What a request to `/v2/keys` asks for: its parameters, checked in etcd's order.

use bytes::Bytes;
use http::Method;
use kvd_api::go::parse_bool;
use kvd_api::pb::kvdcommandpb::v2_request::Method as Change;
use kvd_api::pb::kvdcommandpb::{V2Error, V2Request};

use super::error::{
    INDEX_NAN, INVALID_FIELD, PREV_VALUE_REQUIRED, REFRESH_TTL_REQUIRED, REFRESH_VALUE, TTL_NAN,
};
use super::form::Form;

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    /// A read.
    Get {
        path: Bytes,
        recursive: bool,
        quorum: bool,
    },
    /// A watch.
    Watch {
        path: Bytes,
        recursive: bool,
        stream: bool,
        since: u64,
    },
    /// A change, and whether the reply has no nodes.
    Write(V2Request, bool),
}

/// Reads the parameters of a request to `path`.
///
/// Errors: code and cause of the first one that is wrong.
pub(super) fn parse(method: &Method, path: Bytes, form: &Form) -> Result<Asked, V2Error> {
    let prev_index = number(form, "prevIndex")?;
    let since = number(form, "waitIndex")?;
    let recursive = boolean(form, "recursive")?;
    // Children are always in order of key.
    boolean(form, "sorted")?;
    let wait = boolean(form, "wait")?;
    let dir = boolean(form, "dir")?;
    let quorum = boolean(form, "quorum")?;
    let stream = boolean(form, "stream")?;
    if wait && method != Method::GET {
        return Err(error(
            INVALID_FIELD,
            "\"wait\" can only be used with GET requests",
        ));
    }
    let prev_value = form.get("prevValue");
    if prev_value.is_some_and(Bytes::is_empty) {
        return Err(error(PREV_VALUE_REQUIRED, "\"prevValue\" cannot be empty"));
    }
    let no_value = boolean(form, "noValueOnSuccess")?;
    let ttl = ttl(form)?;
    let prev_exist = nullable(form, "prevExist")?;
    let refresh = nullable(form, "refresh")?.unwrap_or(false);
    let value = form.get("value").cloned().unwrap_or_default();
    if refresh && !value.is_empty() {
        return Err(error(REFRESH_VALUE, "A value was provided on a refresh"));
    }
    if refresh && ttl.is_none() {
        return Err(error(REFRESH_TTL_REQUIRED, "No TTL value set"));
    }
    let change = match *method {
        Method::PUT => Change::Put,
        Method::POST => Change::Post,
        Method::DELETE => Change::Delete,
        _ if wait => {
            return Ok(Asked::Watch {
                path,
                recursive,
                stream,
                since,
            });
        }
        _ => {
            let quorum = quorum && method == Method::GET;
            return Ok(Asked::Get {
                path,
                recursive,
                quorum,
            });
        }
    };
    let request = V2Request {
        method: change as i32,
        path,
        value,
        dir,
        recursive,
        prev_value: prev_value.cloned().unwrap_or_default(),
        prev_index,
        prev_exist,
        refresh,
        ttl: ttl.map(|ttl| i64::try_from(ttl).unwrap_or(i64::MAX)),
        ..V2Request::default()
    };
    Ok(Asked::Write(request, no_value))
}

fn error(code: u32, cause: impl Into<String>) -> V2Error {
    let cause = cause.into().into();
    V2Error { code, cause }
}

/// Digits and nothing else, as Go's `ParseUint` wants them.
fn unsigned(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

fn number(form: &Form, name: &str) -> Result<u64, V2Error> {
    match form.get(name) {
        Some(text) => {
            unsigned(text).ok_or_else(|| error(INDEX_NAN, format!("invalid value for \"{name}\"")))
        }
        None => Ok(0),
    }
}

/// The TTL in seconds; an empty one is none.
fn ttl(form: &Form) -> Result<Option<u64>, V2Error> {
    match form.get("ttl") {
        Some(text) if !text.is_empty() => match unsigned(text) {
            Some(ttl) => Ok(Some(ttl)),
            None => Err(error(TTL_NAN, "invalid value for \"ttl\"")),
        },
        _ => Ok(None),
    }
}

fn boolean(form: &Form, name: &str) -> Result<bool, V2Error> {
    match form.get(name) {
        Some(text) => parse_bool(text)
            .ok_or_else(|| error(INVALID_FIELD, format!("invalid value for \"{name}\""))),
        None => Ok(false),
    }
}

/// As [`boolean`], but absent is no answer; and the name has no quotes in the cause, in etcd.
fn nullable(form: &Form, name: &str) -> Result<Option<bool>, V2Error> {
    let Some(text) = form.get(name) else {
        return Ok(None);
    };
    match parse_bool(text) {
        Some(value) => Ok(Some(value)),
        None => Err(error(INVALID_FIELD, format!("invalid value for {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(method: &Method, text: &str) -> Result<Asked, (u32, String)> {
        let mut form = Form::default();
        form.parse(text.as_bytes()).unwrap();
        let asked = parse(method, "/a".into(), &form);
        asked.map_err(|error| (error.code, String::from_utf8(error.cause.to_vec()).unwrap()))
    }

    #[test]
    fn what_is_wrong_first_is_said() {
        for (method, text, code, cause) in [
            (
                Method::PUT,
                "prevIndex=-1",
                203,
                "invalid value for \"prevIndex\"",
            ),
            (
                Method::GET,
                "waitIndex=+1",
                203,
                "invalid value for \"waitIndex\"",
            ),
            (
                Method::GET,
                "recursive=yes",
                209,
                "invalid value for \"recursive\"",
            ),
            (
                Method::PUT,
                "prevExist=",
                209,
                "invalid value for prevExist",
            ),
            (
                Method::PUT,
                "wait=true",
                209,
                "\"wait\" can only be used with GET requests",
            ),
            (
                Method::PUT,
                "prevValue=",
                201,
                "\"prevValue\" cannot be empty",
            ),
            (Method::PUT, "ttl=x", 202, "invalid value for \"ttl\""),
            (
                Method::PUT,
                "refresh=1&value=x&ttl=1",
                211,
                "A value was provided on a refresh",
            ),
            (Method::PUT, "refresh=1", 212, "No TTL value set"),
        ] {
            let got = parsed(&method, text).unwrap_err();
            assert_eq!(got, (code, cause.to_owned()), "{text}");
        }
    }

    #[test]
    fn methods_and_wait_choose() {
        let asked = parsed(&Method::HEAD, "quorum=true&recursive=1").unwrap();
        let path = Bytes::from("/a");
        assert_eq!(
            asked,
            Asked::Get {
                path: path.clone(),
                recursive: true,
                quorum: false
            }
        );
        let asked = parsed(&Method::GET, "wait=T&waitIndex=7&stream=t").unwrap();
        assert_eq!(
            asked,
            Asked::Watch {
                path,
                recursive: false,
                stream: true,
                since: 7
            }
        );
        let asked = parsed(&Method::PUT, "ttl=&value=x&noValueOnSuccess=true").unwrap();
        let Asked::Write(request, true) = asked else {
            panic!("{asked:?}");
        };
        assert_eq!((request.ttl, &request.value[..]), (None, &b"x"[..]));
    }
}
