//! Requests in few words.
//!
//! A transaction is written as `COMPARES ? OPS : OPS`. Compares are joined by `&&`, operations by
//! `;`, and a nested transaction stands in parentheses:
//!
//! ```text
//! a.value = 1 && b..d.version > 0 ? put c 1; (d.mod = 0 ? del d : ) : get a
//! ```

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_api::pb::etcdserverpb::request_op::Request;
use kvd_api::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

/// `key` or `key..end`; `key..` is all keys from `key` on.
pub(super) fn span(text: &str) -> (Bytes, Bytes) {
    match text.split_once("..") {
        None => (bytes(text), Bytes::new()),
        Some((key, "")) => (bytes(key), bytes("\0")),
        Some((key, end)) => (bytes(key), bytes(end)),
    }
}

pub(super) fn delete(keys: &str) -> DeleteRangeRequest {
    let (key, range_end) = span(keys);
    DeleteRangeRequest {
        key,
        range_end,
        prev_kv: false,
    }
}

pub(super) fn get(keys: &str) -> RangeRequest {
    let (key, range_end) = span(keys);
    RangeRequest {
        key,
        range_end,
        ..Default::default()
    }
}

pub(super) fn txn(text: &str) -> Result<TxnRequest, String> {
    let (compares, branches) = text.split_once('?').ok_or("no ?")?;
    let compares = compares
        .split("&&")
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let compare = compares.map(parse_compare).collect::<Result<_, _>>()?;
    let branches = split_outside(branches, ':');
    let branch = |index: usize| -> Result<Vec<RequestOp>, String> {
        let ops = branches.get(index).copied().unwrap_or_default();
        let ops = split_outside(ops, ';').into_iter().map(str::trim);
        ops.filter(|text| !text.is_empty()).map(parse_op).collect()
    };
    Ok(TxnRequest {
        compare,
        success: branch(0)?,
        failure: branch(1)?,
    })
}

/// Splits at a separator that is not in parentheses.
fn split_outside(text: &str, separator: char) -> Vec<&str> {
    let mut depth = 0;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == separator && depth == 0
    })
    .collect()
}

fn parse_op(text: &str) -> Result<RequestOp, String> {
    let request = if let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
        Request::RequestTxn(txn(inner)?)
    } else {
        let mut words = text.split_whitespace();
        let (name, key) = (words.next().unwrap_or(""), words.next().ok_or("no key")?);
        let rest: Vec<&str> = words.collect();
        let has = |flag: &str| rest.contains(&flag);
        let number = |name: &str| -> i64 {
            let value = rest.iter().find_map(|word| word.strip_prefix(name));
            value.map_or(0, |value| value.parse().expect("a number"))
        };
        match name {
            "put" => {
                let value = rest
                    .first()
                    .filter(|word| !word.starts_with('+'))
                    .unwrap_or(&"");
                Request::RequestPut(PutRequest {
                    prev_kv: has("+prev"),
                    ignore_value: has("+ignore_value"),
                    ignore_lease: has("+ignore_lease"),
                    lease: number("+lease="),
                    ..put(key, value)
                })
            }
            "del" => Request::RequestDeleteRange(DeleteRangeRequest {
                prev_kv: has("+prev"),
                ..delete(key)
            }),
            "get" => Request::RequestRange(RangeRequest {
                revision: number("+rev="),
                limit: number("+limit="),
                serializable: has("+serializable"),
                ..get(key)
            }),
            _ => return Err(format!("unknown operation {text:?}")),
        }
    };
    Ok(RequestOp {
        request: Some(request),
    })
}

fn parse_compare(text: &str) -> Result<Compare, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [what, result, value @ ..] = words.as_slice() else {
        return Err(format!("bad compare {text:?}"));
    };
    let (keys, target) = what.rsplit_once('.').ok_or("no target")?;
    let (key, range_end) = span(keys);
    let result = match *result {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        other => return Err(format!("bad result {other:?}")),
    };
    let number = || -> Result<i64, String> {
        value
            .first()
            .ok_or("no value")?
            .parse()
            .map_err(|_| "not a number".to_owned())
    };
    let is_set = !value.is_empty();
    let (target, union): (_, fn(i64) -> TargetUnion) = match target {
        "version" => (CompareTarget::Version, TargetUnion::Version),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease),
        "value" => {
            let target_union = is_set.then(|| TargetUnion::Value(bytes(value[0])));
            let (result, target) = (result as i32, CompareTarget::Value as i32);
            return Ok(Compare {
                result,
                target,
                key,
                range_end,
                target_union,
            });
        }
        other => return Err(format!("bad target {other:?}")),
    };
    let target_union = if is_set { Some(union(number()?)) } else { None };
    let (result, target) = (result as i32, target as i32);
    Ok(Compare {
        result,
        target,
        key,
        range_end,
        target_union,
    })
}
