//! watch: prints what happens to keys, or runs a command for each event.
//!
//! Source: etcd `etcdctl/ctlv3/command/watch_command.go`.

use std::ffi::OsString;
use std::io::BufRead as _;
use std::os::unix::ffi::OsStrExt as _;

use kvd_client::pb::ResponseHeader;
use kvd_client::{Error, EventType, Watch, WatchOptions, WatchResponse};
use tokio::sync::mpsc;

use super::child;
use super::{Session, bytes};
use crate::args::{Globals, WatchArgs, watch_line};
use crate::failure::{self, Failure, Outcome};
use crate::go_text::argify::argify;
use crate::go_text::quote::quote;
use crate::print::{Streams, Watched};

/// Responses of all watches that wait to be printed.
const UNPRINTED_MAX: usize = 16;

pub(super) async fn run(globals: &Globals, args: &WatchArgs, to: &mut Streams<'_>) -> Outcome {
    if args.env_key.is_none()
        && let Some(end) = &args.env_range_end
    {
        let end = quote(end.as_bytes());
        let message = format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}");
        return Err(Failure::bad_args(message));
    }
    if args.interactive {
        return interactive(globals, args, to).await;
    }
    if args.is_separated && args.command.is_empty() {
        let message = "bad number of arguments (found separator --, but no commands)";
        return Err(Failure::bad_args(message));
    }
    let (key, options) = watched(args)?;
    let session = Session::open(globals, to).await?;
    let client = session.client.with_required_leader();
    let mut events = match client.watch(key, options).await {
        Ok(watch) => Events::On(watch),
        Err(error) if failure::is_refused_login(&error) => return Err(error.into()),
        Err(error) => Events::Refused(error),
    };
    loop {
        let next = events.next().await;
        let ended = show(&session, next, &args.command, to).await?;
        if ended {
            let message = "watch is canceled by the server";
            return Err(Failure::new(failure::INTERRUPTED, message));
        }
    }
}

/// The key and the options that the words, or the environment in their place, ask for.
fn watched(args: &WatchArgs) -> Result<(Vec<u8>, WatchOptions), Failure> {
    let mut keys: Vec<&OsString> = args.keys.iter().collect();
    if let Some(key) = &args.env_key {
        if !keys.is_empty() {
            return Err(Failure::bad_args(
                "bad number of arguments (found conflicting environment key)",
            ));
        }
        keys.push(key);
        keys.extend(&args.env_range_end);
    }
    let mut options = WatchOptions::new().revision(args.rev);
    if args.prefix {
        options = options.prefix();
    }
    let key = match keys[..] {
        [] => return Err(Failure::bad_args("bad number of arguments")),
        [_, _] if args.prefix => {
            return Err(Failure::bad_args(
                "`range_end` and `--prefix` are mutually exclusive",
            ));
        }
        [key, end] => {
            options = options.range(bytes(end));
            bytes(key)
        }
        [key, ..] => bytes(key),
    };
    if args.prev_kv {
        options = options.prev_kv();
    }
    if args.progress_notify {
        options = options.progress_notify();
    }
    Ok((key, options))
}

/// A watch, or the answer of a server that refused to begin one.
enum Events {
    On(Watch),
    Refused(Error),
}

impl Events {
    async fn next(&mut self) -> Result<WatchResponse, Error> {
        match self {
            Events::On(watch) => watch.next().await,
            Events::Refused(error) => Err(error.clone()),
        }
    }
}

/// Prints one response and runs the command for its events; true when it was the last one.
async fn show(
    session: &Session,
    next: Result<WatchResponse, Error>,
    command: &[OsString],
    to: &mut Streams<'_>,
) -> Result<bool, Failure> {
    let shown = match next {
        Ok(response) => Watched {
            header: response.header,
            events: response.events,
            ..Watched::default()
        },
        Err(error) => {
            writeln!(to.err, "watch was canceled ({})", failure::text(&error))?;
            session.printer.watch(to, &canceled(error))?;
            to.out.flush()?;
            return Ok(true);
        }
    };
    if shown.events.is_empty() {
        writeln!(to.out, "progress notify: {}", shown.header.revision)?;
    }
    session.printer.watch(to, &shown)?;
    to.out.flush()?;
    if !command.is_empty() {
        execute(command, &shown).await?;
    }
    Ok(false)
}

fn canceled(error: Error) -> Watched {
    let (header, compact_revision, cancel_reason) = match error {
        Error::WatchCanceled {
            header,
            compact_revision,
            reason,
        } => (header, compact_revision, reason),
        _ => (ResponseHeader::default(), 0, String::new()),
    };
    Watched {
        header,
        events: Vec::new(),
        compact_revision,
        is_canceled: true,
        cancel_reason,
    }
}

/// Runs the command once for each event, one after the other.
async fn execute(command: &[OsString], response: &Watched) -> Outcome {
    for event in &response.events {
        let kind = match event.r#type() {
            EventType::Put => "PUT",
            EventType::Delete => "DELETE",
        };
        let kv = event.kv.clone().unwrap_or_default();
        let mut child = child::command(command);
        child
            .env("ETCD_WATCH_REVISION", response.header.revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", quote(kind.as_bytes()))
            .env("ETCD_WATCH_KEY", quote(&kv.key))
            .env("ETCD_WATCH_VALUE", quote(&kv.value));
        if let Err(why) = child::run(child, command).await {
            let words: Vec<String> = command.iter().map(|word| quote(word.as_bytes())).collect();
            let told = format!("command [{}] error ({})\n", words.join(" "), why.text);
            return Err(Failure::silent(failure::ERROR).with_details(told));
        }
    }
    Ok(())
}

/// A response of one of the watches, and the command to run for it.
type Next = (Result<WatchResponse, Error>, Vec<OsString>);

/// Reads `watch` and `progress` lines; every watch shares one stream.
async fn interactive(globals: &Globals, args: &WatchArgs, to: &mut Streams<'_>) -> Outcome {
    let session = Session::open(globals, to).await?;
    let client = session.client.with_required_leader();
    let stream = client.watch_stream();
    let (responses, mut printed) = mpsc::channel::<Next>(UNPRINTED_MAX);
    let mut lines = lines();
    loop {
        tokio::select! {
            next = printed.recv() => if let Some((next, command)) = next {
                show(&session, next, &command, to).await?;
            },
            line = lines.recv() => {
                let line = line.unwrap_or_else(|| Err("EOF".to_owned())).map_err(|why| {
                    Failure::invalid_input(format!("error reading watch request line: {why}"))
                })?;
                match interpret(&line, args)? {
                    Asked::Watch(key, options, command) => {
                        let begin = stream.watch(key, options);
                        let mut begin = std::pin::pin!(begin);
                        // The next line may be `progress`, which a server passes over as long as
                        // it does not have the watch. What others bring is printed meanwhile:
                        // they share the stream, which stands still when nobody reads.
                        let begun = loop {
                            tokio::select! {
                                begun = &mut begin => break begun,
                                next = printed.recv() => if let Some((next, command)) = next {
                                    show(&session, next, &command, to).await?;
                                },
                            }
                        };
                        let events = begun.map_or_else(Events::Refused, Events::On);
                        tokio::spawn(forward(events, command, responses.clone()));
                    }
                    Asked::Progress => stream.request_progress().await?,
                    Asked::Nothing(told) => writeln!(to.err, "{told}")?,
                }
            }
        }
    }
}

/// Passes on what a watch brings.
async fn forward(mut events: Events, command: Vec<OsString>, responses: mpsc::Sender<Next>) {
    loop {
        let next = events.next().await;
        let is_last = next.is_err();
        if responses.send((next, command.clone())).await.is_err() || is_last {
            return;
        }
    }
}

/// What a line asks for.
enum Asked {
    Watch(Vec<u8>, WatchOptions, Vec<OsString>),
    Progress,
    /// Nothing that is known: what to tell.
    Nothing(String),
}

fn interpret(line: &[u8], args: &WatchArgs) -> Result<Asked, Failure> {
    let shown = String::from_utf8_lossy(line);
    let words = argify(line).map_err(|_| Failure::invalid_input("invalid syntax"))?;
    let Some(first) = words.first() else {
        let told = format!("Invalid command: {shown} (watch and progress supported)");
        return Ok(Asked::Nothing(told));
    };
    match &first[..] {
        b"watch" => {}
        b"progress" => return Ok(Asked::Progress),
        _ => {
            let told = format!("Invalid command {shown} (only support watch)");
            return Ok(Asked::Nothing(told));
        }
    }
    if words.len() < 2 && args.env_key.is_none() {
        let told = format!("Invalid command {shown} (command type or key is not provided)");
        return Ok(Asked::Nothing(told));
    }
    let mut asked = watch_line(words).map_err(Failure::bad_args)?;
    if asked.is_separated && asked.command.is_empty() {
        let message = "bad number of arguments (found separator --, but no commands)";
        return Err(Failure::bad_args(message));
    }
    if asked.is_separated && asked.keys.is_empty() && args.env_key.is_none() {
        let told = format!("Invalid command {shown} (bad number of arguments)");
        return Ok(Asked::Nothing(told));
    }
    asked.env_key = args.env_key.clone();
    asked.env_range_end = args.env_range_end.clone();
    if asked.keys.len() == 2 && asked.prefix {
        let told =
            format!("Invalid command {shown} (`range_end` and `--prefix` are mutually exclusive)");
        return Ok(Asked::Nothing(told));
    }
    let (key, options) = watched(&asked)?;
    Ok(Asked::Watch(key, options, asked.command))
}

/// The lines of standard input. They are read on a thread of their own, which the end of the
/// process ends: reading cannot be interrupted.
fn lines() -> mpsc::Receiver<Result<Vec<u8>, String>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            let line = match read {
                Ok(_) if line.pop() == Some(b'\n') => Ok(line),
                Ok(_) => Err("EOF".to_owned()),
                Err(err) => Err(err.to_string()),
            };
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    lines
}
