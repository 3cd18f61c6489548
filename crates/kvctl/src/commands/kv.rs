//! get, put, del, compaction.

use std::ffi::OsString;
use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use kvd_client::{DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Span};

use super::{Session, bytes, is_serializable};
use crate::args::{CompactionArgs, DelArgs, GetArgs, Globals, PutArgs};
use crate::failure::{Failure, Outcome};
use crate::go_text::number;
use crate::go_text::quote::quote;
use crate::print::Streams;

/// How long a range delete can still be interrupted.
const DELETE_GRACE: Duration = Duration::from_secs(2);

pub(super) async fn get(globals: &Globals, args: &GetArgs, to: &mut Streams<'_>) -> Outcome {
    let (key, options) = get_request(args)?;
    let mut session = Session::open(globals, to).await?;
    let request = options.into_request(key);
    let answer = if args.stream {
        session.client.range_streamed(request).await?
    } else {
        session.client.range(request).await?
    };
    if args.count_only && session.printer.name() != "fields" {
        return Err(Failure::bad_args(
            "--count-only is only for `--write-out=fields`",
        ));
    }
    if args.print_value_only && !session.printer.print_values_only() {
        return Err(Failure::bad_args(
            "print-value-only is only for `--write-out=simple`",
        ));
    }
    session.printer.get(to, &answer)
}

/// The key and options that the words and flags of a get stand for.
pub(super) fn get_request(args: &GetArgs) -> Result<(Bytes, GetOptions), Failure> {
    let Some(key) = args.keys.first() else {
        return Err(Failure::bad_args(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    };
    only_one(args.prefix, args.from_key)?;
    if args.keys_only && args.count_only {
        return Err(Failure::bad_args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let mut options = GetOptions::new();
    if is_serializable(&args.consistency)? {
        options = options.serializable();
    }
    let span = span(args.keys.get(1), args.prefix, args.from_key)?;
    // The order is what etcdctl complains of first.
    let order = sort_order(&args.order)?;
    options = options
        .span(span)
        .limit(args.limit)
        .revision(args.rev.max(0))
        .sort(sort_target(&args.sort_by)?, order);
    if args.keys_only {
        options = options.keys_only();
    }
    if args.count_only {
        options = options.count_only();
    }
    for (name, min, max) in [
        ("Create", args.min_create_rev, args.max_create_rev),
        ("Mod", args.min_mod_rev, args.max_mod_rev),
    ] {
        if max > 0 && min > max {
            let message = format!("getMin{name}Rev(={min}) > getMax{name}Rev(={max})");
            return Err(Failure::bad_feature(message));
        }
    }
    options = options
        .min_create_revision(args.min_create_rev.max(0))
        .max_create_revision(args.max_create_rev.max(0))
        .min_mod_revision(args.min_mod_rev.max(0))
        .max_mod_revision(args.max_mod_rev.max(0));
    Ok((bytes(key).into(), options))
}

fn sort_order(order: &str) -> Result<SortOrder, Failure> {
    match order.to_uppercase().as_str() {
        "" => Ok(SortOrder::None),
        "ASCEND" => Ok(SortOrder::Ascend),
        "DESCEND" => Ok(SortOrder::Descend),
        _ => Err(Failure::bad_feature(format!("bad sort order {order}"))),
    }
}

fn sort_target(target: &str) -> Result<SortTarget, Failure> {
    match target.to_uppercase().as_str() {
        "" | "KEY" => Ok(SortTarget::Key),
        "CREATE" => Ok(SortTarget::Create),
        "MODIFY" => Ok(SortTarget::Mod),
        "VALUE" => Ok(SortTarget::Value),
        "VERSION" => Ok(SortTarget::Version),
        _ => Err(Failure::bad_feature(format!("bad sort target {target}"))),
    }
}

fn only_one(prefix: bool, from_key: bool) -> Outcome {
    if prefix && from_key {
        return Err(Failure::bad_args(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        ));
    }
    Ok(())
}

fn span(end: Option<&OsString>, prefix: bool, from_key: bool) -> Result<Span, Failure> {
    match (end, prefix, from_key) {
        (Some(_), true, _) | (Some(_), _, true) => Err(Failure::bad_args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        )),
        (Some(end), _, _) => Ok(Span::Range(bytes(end).into())),
        (None, true, _) => Ok(Span::Prefix),
        (None, _, true) => Ok(Span::FromKey),
        (None, false, false) => Ok(Span::Key),
    }
}

pub(super) async fn put(globals: &Globals, args: &PutArgs, to: &mut Streams<'_>) -> Outcome {
    let (key, value, options) = put_request(args, true)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.put(key, value, options).await?;
    session.printer.put(to, &answer)
}

/// The key, value and options that the words and flags of a put stand for. A value that is missing
/// is read from standard input where `may_read` allows it.
pub(super) fn put_request(
    args: &PutArgs,
    may_read: bool,
) -> Result<(Bytes, Bytes, PutOptions), Failure> {
    let too_few =
        || Failure::bad_args("put command needs 1 argument and input from stdin or 2 arguments");
    let Some(key) = args.words.first() else {
        return Err(too_few());
    };
    let value = match args.words.get(1) {
        Some(_) if args.ignore_value => {
            return Err(Failure::bad_args(
                "put command needs only 1 argument when 'ignore-value' is set",
            ));
        }
        Some(value) => bytes(value),
        None if args.ignore_value => Vec::new(),
        None if may_read => {
            let mut value = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut value)
                .map_err(|_| too_few())?;
            if value.is_empty() {
                return Err(too_few());
            }
            value
        }
        None => return Err(too_few()),
    };
    let lease_id = number::parse_int(&args.lease, 16)
        .map_err(|why| Failure::bad_args(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    let mut options = PutOptions::new().lease(lease_id);
    if args.prev_kv {
        options = options.prev_kv();
    }
    if args.ignore_value {
        options = options.ignore_value();
    }
    if args.ignore_lease {
        options = options.ignore_lease();
    }
    Ok((bytes(key).into(), value.into(), options))
}

pub(super) async fn del(globals: &Globals, args: &DelArgs, to: &mut Streams<'_>) -> Outcome {
    let (key, options) = del_request(args)?;
    warn_of_range(args, to).await?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.delete(key, options).await?;
    session.printer.del(to, &answer)
}

/// The key and options that the words and flags of a delete stand for.
pub(super) fn del_request(args: &DelArgs) -> Result<(Bytes, DeleteOptions), Failure> {
    let (Some(key), 1..=2) = (args.keys.first(), args.keys.len()) else {
        return Err(Failure::bad_args(
            "del command needs one argument as key and an optional argument as range_end",
        ));
    };
    only_one(args.prefix, args.from_key)?;
    let span = span(args.keys.get(1), args.prefix, args.from_key)?;
    let mut options = DeleteOptions::new().span(span);
    if args.prev_kv {
        options = options.prev_kv();
    }
    Ok((bytes(key).into(), options))
}

/// Leaves time to think again before a whole range goes.
pub(super) async fn warn_of_range(args: &DelArgs, to: &mut Streams<'_>) -> Outcome {
    if let ([from, end], false) = (&args.keys[..], args.range) {
        writeln!(
            to.err,
            "Warning: Keys between {} and {} will be deleted. Please interrupt the command within \
             next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.",
            quote(&bytes(from)),
            quote(&bytes(end)),
        )?;
        tokio::time::sleep(DELETE_GRACE).await;
    }
    Ok(())
}

pub(super) async fn compaction(
    globals: &Globals,
    args: &CompactionArgs,
    to: &mut Streams<'_>,
) -> Outcome {
    let [revision] = &args.words[..] else {
        return Err(Failure::bad_args("compaction command needs 1 argument"));
    };
    let revision = number::parse_int(&revision.to_string_lossy(), 10).map_err(Failure::error)?;
    let session = Session::open(globals, to).await?;
    session.client.compact(revision, args.physical).await?;
    writeln!(to.out, "compacted revision {revision}")?;
    Ok(())
}
