//! member list, add, remove, update, promote.
//!
//! Source: etcd `etcdctl/ctlv3/command/member_command.go`.

use std::ffi::OsString;

use kvd_client::pb::{Member, MemberListResponse, ResponseHeader};

use super::{Session, is_serializable};
use crate::args::{Globals, MemberAddArgs, MemberCommand, MemberListArgs, MemberUpdateArgs};
use crate::failure::{Failure, Outcome};
use crate::go_text::number;
use crate::go_text::quote::quote;
use crate::print::Streams;

pub(super) async fn run(
    globals: &Globals,
    command: &MemberCommand,
    to: &mut Streams<'_>,
) -> Outcome {
    match command {
        MemberCommand::Add(args) => add(globals, args, to).await,
        MemberCommand::List(args) => list(globals, args, to).await,
        MemberCommand::Promote(args) => promote(globals, &args.words, to).await,
        MemberCommand::Remove(args) => remove(globals, &args.words, to).await,
        MemberCommand::Update(args) => update(globals, args, to).await,
    }
}

async fn list(globals: &Globals, args: &MemberListArgs, to: &mut Streams<'_>) -> Outcome {
    let linearizable = !is_serializable(&args.consistency)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.member_list(linearizable).await?;
    session.printer.member_list(to, &answer)
}

async fn add(globals: &Globals, args: &MemberAddArgs, to: &mut Streams<'_>) -> Outcome {
    let words: Vec<_> = args
        .words
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let name = match &words[..] {
        [] => return Err(Failure::bad_args("member name not provided")),
        [name] => name,
        _ => {
            let url = |word: &&std::borrow::Cow<'_, str>| word.to_lowercase().starts_with("http");
            let meant = words.iter().filter(url);
            let hints = meant.map(|word| format!(", did you mean --peer-urls={word}"));
            let hints: String = hints.collect();
            return Err(Failure::bad_args(format!("too many arguments{hints}")));
        }
    };
    let urls = urls(&args.peer_urls)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.member_add(urls, args.learner).await?;
    session.printer.member_add(to, &answer)?;
    if session.printer.name() != "simple" {
        return Ok(());
    }
    let added = answer.member.map_or(0, |member| member.id);
    let entries = answer.members.iter().flat_map(|member| {
        let name = if member.id == added {
            name
        } else {
            &member.name[..]
        };
        member
            .peer_ur_ls
            .iter()
            .map(move |url| format!("{name}={url}"))
    });
    let cluster: Vec<String> = entries.collect();
    let quoted = |text: &str| quote(text.as_bytes());
    writeln!(to.out)?;
    writeln!(to.out, "ETCD_NAME={}", quoted(name))?;
    writeln!(
        to.out,
        "ETCD_INITIAL_CLUSTER={}",
        quoted(&cluster.join(","))
    )?;
    let urls = quoted(&args.peer_urls);
    writeln!(to.out, "ETCD_INITIAL_ADVERTISE_PEER_URLS={urls}")?;
    writeln!(to.out, "ETCD_INITIAL_CLUSTER_STATE=\"existing\"")?;
    Ok(())
}

async fn remove(globals: &Globals, words: &[OsString], to: &mut Streams<'_>) -> Outcome {
    let id = member_id(words)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.member_remove(id).await?;
    changed(
        &session,
        to,
        id,
        "removed from",
        answer.header,
        answer.members,
    )
}

async fn update(globals: &Globals, args: &MemberUpdateArgs, to: &mut Streams<'_>) -> Outcome {
    let id = member_id(&args.words)?;
    let urls = urls(&args.peer_urls)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.member_update(id, urls).await?;
    changed(
        &session,
        to,
        id,
        "updated in",
        answer.header,
        answer.members,
    )
}

async fn promote(globals: &Globals, words: &[OsString], to: &mut Streams<'_>) -> Outcome {
    let id = member_id(words)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.member_promote(id).await?;
    changed(
        &session,
        to,
        id,
        "promoted in",
        answer.header,
        answer.members,
    )
}

fn changed(
    session: &Session,
    to: &mut Streams<'_>,
    id: u64,
    what: &str,
    header: Option<ResponseHeader>,
    members: Vec<Member>,
) -> Outcome {
    let cluster = header.map_or(0, |header| header.cluster_id);
    let line = format!("Member {id:16x} {what} cluster {cluster:16x}");
    // The answers to these changes and to a list are the same on the wire.
    let answer = MemberListResponse { header, members };
    session.printer.member_change(to, &line, &answer)
}

fn urls(flag: &str) -> Result<Vec<String>, Failure> {
    if flag.is_empty() {
        return Err(Failure::bad_args("member peer urls not provided"));
    }
    let checked = |url: &str| {
        let checked = check_url(url).map(|()| url.to_owned());
        checked.map_err(Failure::error)
    };
    flag.split(',').map(checked).collect()
}

/// Refuses what cannot be a member's URL, in the words of etcd's client: a server asks this of a
/// member that is added, and takes whatever an update names.
///
/// Source: etcd `client/pkg/types/urls.go`; Go `net/url`.
fn check_url(text: &str) -> Result<(), String> {
    let text = text.trim();
    let cannot_be_read = |why: &str| format!("parse {}: {why}", quote(text.as_bytes()));
    let unknown_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err(cannot_be_read("net/url: invalid control character in URL"));
    }
    let (scheme, rest) = text.split_once(':').ok_or_else(unknown_scheme)?;
    match &scheme.to_ascii_lowercase()[..] {
        "http" | "https" => {}
        "unix" | "unixs" => return Ok(()),
        "" => return Err(cannot_be_read("missing protocol scheme")),
        other if other.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            return Err(unknown_scheme());
        }
        _ => {
            return Err(cannot_be_read(
                "first path segment in URL cannot contain colon",
            ));
        }
    }
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let (authority, behind) = match authority.find(['/', '?', '#']) {
        Some(end) => authority.split_at(end),
        None => (authority, ""),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.contains(' ') {
        return Err(cannot_be_read("invalid character \" \" in host name"));
    }
    let name_ends = host.find(']').unwrap_or(0);
    let Some(colon) = host[name_ends..].find(':') else {
        return Err(format!(
            "URL address does not have the form \"host:port\": {text}"
        ));
    };
    let port = &host[name_ends + colon..];
    if !port[1..].bytes().all(|byte| byte.is_ascii_digit()) {
        let port = quote(port.as_bytes());
        return Err(cannot_be_read(&format!("invalid port {port} after host")));
    }
    if behind.starts_with('/') {
        return Err(format!("URL must not contain a path: {text}"));
    }
    Ok(())
}

fn member_id(words: &[OsString]) -> Result<u64, Failure> {
    let [word] = words else {
        return Err(Failure::bad_args("member ID is not provided"));
    };
    number::parse_uint(&word.to_string_lossy(), 16)
        .map_err(|why| Failure::bad_args(format!("bad member ID arg ({why}), expecting ID in Hex")))
}

#[cfg(test)]
mod tests {
    use super::check_url;

    #[test]
    fn what_cannot_be_a_members_url_is_refused_in_etcdctls_words() {
        for url in [
            "http://[::1]:5",
            "http://a:",
            "HTTP://a:1",
            " https://a:1",
            "http://u@a:1",
            "unix:///x",
        ] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for (url, why) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            (
                "localhost:2380",
                "URL scheme must be http, https, unix, or unixs: localhost:2380",
            ),
            (
                "127.0.0.1:2380",
                "parse \"127.0.0.1:2380\": first path segment in URL cannot contain colon",
            ),
            (":foo", "parse \":foo\": missing protocol scheme"),
            (
                "http://a",
                "URL address does not have the form \"host:port\": http://a",
            ),
            (
                "http://[::1]",
                "URL address does not have the form \"host:port\": http://[::1]",
            ),
            (
                "http:a:1",
                "URL address does not have the form \"host:port\": http:a:1",
            ),
            (
                "http://a:b",
                "parse \"http://a:b\": invalid port \":b\" after host",
            ),
            (
                "http://a b:1",
                "parse \"http://a b:1\": invalid character \" \" in host name",
            ),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
        ] {
            assert_eq!(check_url(url), Err(why.to_owned()), "{url}");
        }
    }
}
