//! The config file: YAML or JSON with etcd's keys (`embed.ConfigFromFile`).
//!
//! The keys are the flags' names, but for four maps: `client-transport-security`,
//! `peer-transport-security`, `socket-options` and `discovery-config`. A file replaces flags and
//! environment altogether. Keys that are not known are passed over, as etcd does, but named.
//!
//! Differs from etcd: a duration may also be written as text (`5s`), not only in nanoseconds; and a
//! key that stands there twice is refused.

use std::path::Path;

use serde_yaml_ng::{Mapping, Number, Value};

use crate::error::{Error, Result};
use crate::flags::parse::{Assignments, Source};
use crate::flags::table::{Flag, Group, Kind, find};
use crate::flags::value;
use crate::notes::Note;

/// Keys that are flags and yet not settings of a file.
const NOT_IN_FILE: [&str; 5] = [
    "config-file",
    "version",
    "raft-read-timeout",
    "raft-write-timeout",
    "discovery-fallback",
];

/// Reads the file at `path`.
pub fn read(path: &Path) -> Result<Assignments> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::OpenFile {
        path: path.to_owned(),
        source,
    })?;
    let mut assignments = parse(path, &text)?;
    assignments.note(Note::FileLoaded {
        path: path.to_owned(),
    });
    Ok(assignments)
}

fn parse(path: &Path, text: &str) -> Result<Assignments> {
    let document: Value = serde_yaml_ng::from_str(text).map_err(|source| Error::ParseFile {
        path: path.to_owned(),
        source,
    })?;
    let mut assignments = Assignments::default();
    if document.is_null() {
        return Ok(assignments);
    }
    let map = as_map("the document", &document)?;
    for (key, value) in map {
        let key = key_text(key);
        match key.as_str() {
            "client-transport-security" | "peer-transport-security" => {
                let peer = key.starts_with("peer");
                for (inner, value) in as_map(&key, value)? {
                    let inner = key_text(inner);
                    let flag = transport_flag(peer, &inner);
                    set(&mut assignments, &format!("{key}.{inner}"), &flag, value)?;
                }
            }
            "socket-options" => {
                for (inner, value) in as_map(&key, value)? {
                    let inner = key_text(inner);
                    let flag = format!("socket-{inner}");
                    set(&mut assignments, &format!("{key}.{inner}"), &flag, value)?;
                }
            }
            "discovery-config" => discovery(&mut assignments, &key, as_map(&key, value)?)?,
            _ => set(&mut assignments, &key, &key, value)?,
        }
    }
    Ok(assignments)
}

/// The flag that a key of a transport-security map stands for.
fn transport_flag(peer: bool, key: &str) -> String {
    match (peer, key) {
        (true, "allowed-cn" | "allowed-hostname") => format!("peer-cert-{key}"),
        (false, "allowed-cn" | "allowed-hostname") => format!("client-cert-{key}"),
        (true, _) => format!("peer-{key}"),
        // etcd has no key for revocation lists.
        (false, "crl-file") => "client-crl-file".into(),
        (false, _) => key.to_owned(),
    }
}

fn discovery(assignments: &mut Assignments, path: &str, map: &Mapping) -> Result<()> {
    for (key, value) in map {
        let key = key_text(key);
        let full = format!("{path}.{key}");
        match (key.as_str(), value) {
            ("client" | "secure" | "auth", Value::Mapping(inner)) => {
                discovery(assignments, &full, inner)?;
            }
            ("username", _) => set(assignments, &full, "discovery-user", value)?,
            ("insecure-skip-verify", _) => {
                set(
                    assignments,
                    &full,
                    "discovery-insecure-skip-tls-verify",
                    value,
                )?;
            }
            _ => set(assignments, &full, &format!("discovery-{key}"), value)?,
        }
    }
    Ok(())
}

fn set(assignments: &mut Assignments, key: &str, flag: &str, value: &Value) -> Result<()> {
    let known = find(flag).filter(|flag| flag.group != Group::Legacy);
    let Some(flag) = known.filter(|flag| !NOT_IN_FILE.contains(&flag.name)) else {
        assignments.note(Note::UnknownKey {
            key: key.to_owned(),
        });
        return Ok(());
    };
    let Some(text) = text_of(key, flag, value)? else {
        return Ok(());
    };
    assignments
        .set(flag, &text, Source::File)
        .map_err(|complaint| Error::FileValue {
            key: key.to_owned(),
            value: text,
            complaint,
        })
}

/// The value as a flag's text; `None` where etcd takes an empty value for the default.
fn text_of(key: &str, flag: &Flag, value: &Value) -> Result<Option<String>> {
    let shape = |wanted| Error::FileShape {
        key: key.to_owned(),
        found: describe(value).to_owned(),
        wanted,
    };
    let text = match (flag.kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Bool | Kind::Bare, value) => {
            let on = truth(value).ok_or_else(|| shape("true or false"))?;
            on.to_string()
        }
        (Kind::Int | Kind::Uint | Kind::Uint32, Value::Number(number)) => whole(number),
        (Kind::Int | Kind::Uint | Kind::Uint32, _) => return Err(shape("a whole number")),
        (Kind::Duration, Value::Number(number)) => format!("{}ns", whole(number)),
        (Kind::Duration, Value::String(text)) if value::duration(text).is_some() => text.clone(),
        (Kind::Duration, _) => return Err(shape("a duration in nanoseconds")),
        (Kind::List, Value::Sequence(items)) => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            items.ok_or_else(|| shape("a list of texts"))?.join(",")
        }
        (_, value) => scalar(value).ok_or_else(|| shape("a text"))?,
    };
    let empty_is_default = matches!(
        flag.kind,
        Kind::Urls | Kind::List | Kind::Origins | Kind::Choice(_)
    );
    Ok((!(text.is_empty() && empty_is_default)).then_some(text))
}

/// A boolean; etcd reads YAML 1.1, whose words for them are text in YAML 1.2.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::String(word) => match &word[..] {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// A number's digits. Templates write large ones as `8.589934592e+09`, which is a whole number to
/// etcd.
fn whole(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 => format!("{float:.0}"),
        _ => number.to_string(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(on) => Some(on.to_string()),
        _ => None,
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) | Value::Tagged(_) => "a map",
    }
}

fn key_text(key: &Value) -> String {
    scalar(key).unwrap_or_else(|| describe(key).to_owned())
}

fn as_map<'a>(key: &str, value: &'a Value) -> Result<&'a Mapping> {
    static EMPTY: std::sync::OnceLock<Mapping> = std::sync::OnceLock::new();
    match value {
        Value::Mapping(map) => Ok(map),
        Value::Null => Ok(EMPTY.get_or_init(Mapping::new)),
        other => Err(Error::FileShape {
            key: key.to_owned(),
            found: describe(other).to_owned(),
            wanted: "a map",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Assignments> {
        parse(Path::new("kvd.yml"), text)
    }

    #[test]
    fn reads_etcds_keys_from_yaml_and_json() {
        for text in [
            "name: a\nheartbeat-interval: 50\npre-vote: false\nlog-outputs: [stdout, x.log]\n\
             grpc-keepalive-interval: 3000000000\nauto-compaction-retention: 1\n\
             listen-peer-urls:\nsocket-options: {reuse-port: true}\nwal-dir: null\n",
            "{\"name\": \"a\", \"heartbeat-interval\": 50, \"pre-vote\": false, \"log-outputs\": \
             [\"stdout\", \"x.log\"], \"grpc-keepalive-interval\": 3000000000, \
             \"auto-compaction-retention\": \"1\", \"socket-options\": {\"reuse-port\": true}}",
        ] {
            let read = parsed(text).expect("parse");
            assert_eq!(read.get("name"), "a");
            assert_eq!(read.get("heartbeat-interval"), "50");
            assert_eq!(read.get("pre-vote"), "false");
            assert_eq!(read.get("log-outputs"), "stdout,x.log");
            assert_eq!(
                value::duration(read.get("grpc-keepalive-interval")),
                Some(3_000_000_000)
            );
            assert_eq!(read.get("auto-compaction-retention"), "1");
            assert_eq!(read.get("socket-reuse-port"), "true");
            assert_eq!(read.get("listen-peer-urls"), "http://localhost:2380");
            read.check_built().expect("nothing refused");
        }
    }

    #[test]
    fn refuses_what_is_not_built_by_its_flag() {
        let error = parsed("memory-mlock: true")
            .expect("parse")
            .check_built()
            .expect_err("not built")
            .to_string();
        assert!(error.starts_with("--memory-mlock: locking"), "{error}");
        let discovery = "discovery-config: {token: t, client: {auth: {username: u}}}";
        let read = parsed(discovery).expect("parse");
        assert_eq!(read.get("discovery-user"), "u");
        assert_eq!(read.get("discovery-token"), "t");
        let defaults = "client-transport-security: {cert-file: '', client-cert-auth: false}";
        parsed(defaults)
            .expect("parse")
            .check_built()
            .expect("defaults are no refusal");
    }

    #[test]
    fn transport_security_is_the_flags_of_its_port() {
        let read = parsed(
            "client-transport-security: {cert-file: a, allowed-cn: [x, y], crl-file: c,\n\
             skip-client-san-verification: true, auto-tls: true}\n\
             peer-transport-security: {client-cert-file: b, allowed-hostname: [h],\n\
             skip-client-san-verification: true, trusted-ca-file: t, auto-tls: true}\n\
             self-signed-cert-validity: 2\n",
        )
        .expect("parse");
        for (flag, value) in [
            ("cert-file", "a"),
            ("client-cert-allowed-cn", "x,y"),
            ("client-crl-file", "c"),
            ("skip-client-san-verification", "true"),
            ("auto-tls", "true"),
            ("peer-client-cert-file", "b"),
            ("peer-cert-allowed-hostname", "h"),
            ("peer-skip-client-san-verification", "true"),
            ("peer-trusted-ca-file", "t"),
            ("peer-auto-tls", "true"),
            ("self-signed-cert-validity", "2"),
        ] {
            assert_eq!(read.get(flag), value, "{flag}");
        }
        read.check_built().expect("nothing refused");
    }

    #[test]
    fn passes_over_unknown_keys_but_names_them() {
        let mut read = parsed("nonsense: 4\nraft-read-timeout: 1").expect("parse");
        let keys =
            ["nonsense", "raft-read-timeout"].map(|key| Note::UnknownKey { key: key.into() });
        assert_eq!(read.take_notes(), keys);
    }

    #[test]
    fn reads_the_booleans_of_yaml_11_and_whole_numbers_however_written() {
        let read = parsed(
            "pre-vote: no\nstrict-reconfig-check: Off\nenable-pprof: yes\nunsafe-no-fsync: on\n\
             quota-backend-bytes: 8.589934592e+09\ngrpc-keepalive-interval: 3e9\n",
        )
        .expect("parse");
        assert_eq!(read.get("pre-vote"), "false");
        assert_eq!(read.get("strict-reconfig-check"), "false");
        assert_eq!(read.get("enable-pprof"), "true");
        assert_eq!(read.get("unsafe-no-fsync"), "true");
        assert_eq!(read.get("quota-backend-bytes"), "8589934592");
        assert_eq!(
            value::duration(read.get("grpc-keepalive-interval")),
            Some(3_000_000_000)
        );
    }

    #[test]
    fn complains_about_shapes() {
        for text in [
            "heartbeat-interval: x",
            "pre-vote: 1",
            "name: [a]",
            "socket-options: 4",
            "[a]",
            "grpc-keepalive-interval: soon",
        ] {
            assert!(
                matches!(parsed(text), Err(Error::FileShape { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            parsed("data-dir: ["),
            Err(Error::ParseFile { .. })
        ));
        assert!(matches!(
            parsed("heartbeat-interval: -1"),
            Err(Error::FileValue { .. })
        ));
        assert!(matches!(
            parsed("heartbeat-interval: 100.5"),
            Err(Error::FileValue { .. })
        ));
        assert!(matches!(
            parsed("listen-peer-urls: x"),
            Err(Error::FileValue { .. })
        ));
    }
}
