//! `watch` and `exec-watch`.

use std::process::{Command, Stdio};

use http::Method;

use super::args::Words;
use super::client::Client;
use super::exchange::Action;
use super::failure::{BAD_ARGS, Failure, Outcome, SERVER_ERROR};
use super::keys::target;
use super::print::{self, Reply};
use crate::print::Streams;

/// A watch that goes on behind each event.
struct Watcher<'a> {
    client: Client,
    key: &'a str,
    recursive: bool,
    /// The first index wanted; zero means what comes next.
    index: u64,
}

impl<'a> Watcher<'a> {
    async fn new(words: &Words, key: &'a str, to: &mut Streams<'_>) -> Outcome<Watcher<'a>> {
        let after = u64::try_from(words.number("after-index")).unwrap_or(0);
        Ok(Watcher {
            client: Client::new(words, to).await?,
            key,
            recursive: words.is("recursive"),
            index: if after == 0 { 0 } else { after + 1 },
        })
    }

    async fn next(&mut self, to: &mut Streams<'_>) -> Outcome<Reply> {
        loop {
            let query = vec![
                ("wait", "true".to_owned()),
                ("waitIndex", self.index.to_string()),
                ("recursive", self.recursive.to_string()),
            ];
            let mut action = Action::new(Method::GET, target(self.key, query));
            action.waits = true;
            let answer = self.client.send(&action, false, to).await;
            let reply = answer.and_then(|answer| print::read(&answer));
            let reply = reply.map_err(|error| error.into_failure(SERVER_ERROR))?;
            // Without one the server has closed the watch, and it begins again.
            if let Some(reply) = reply {
                self.index = reply.node.modified_index + 1;
                return Ok(reply);
            }
        }
    }
}

/// `watch KEY`.
pub(super) async fn watch(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let mut watcher = Watcher::new(words, words.key()?, to).await?;
    let run = async {
        loop {
            let reply = watcher.next(to).await?;
            if reply.node.dir {
                continue;
            }
            if watcher.recursive {
                writeln!(to.out, "[{}] {}", reply.action, reply.node.key)?;
            }
            print::reply(words, &reply, to)?;
            if !words.is("forever") {
                return Ok(());
            }
        }
    };
    until_interrupted(run).await
}

/// `exec-watch KEY -- COMMAND [ARGS...]`.
///
/// Differs from etcdctl: without `--` the key comes first, as its help says; there it comes last.
pub(super) async fn exec_watch(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let Some((key, command)) = words
        .args
        .split_first()
        .filter(|(_, rest)| !rest.is_empty())
    else {
        return Err(Failure::bad_args("key and command to exec required"));
    };
    let (program, args) = (&command[0], &command[1..]);
    let mut watcher = Watcher::new(words, key, to).await?;
    let run = async {
        loop {
            let reply = watcher.next(to).await?;
            if reply.node.dir {
                writeln!(to.err, "Ignored dir {} change", reply.node.key)?;
                continue;
            }
            let child = Command::new(program)
                .args(args)
                .env("ETCD_WATCH_ACTION", &reply.action)
                .env(
                    "ETCD_WATCH_MODIFIED_INDEX",
                    reply.node.modified_index.to_string(),
                )
                .env("ETCD_WATCH_KEY", &reply.node.key)
                .env("ETCD_WATCH_VALUE", &reply.node.value)
                .stdin(Stdio::null())
                .spawn();
            match child {
                // Nobody waits for its end but the system.
                Ok(mut child) => drop(tokio::task::spawn_blocking(move || child.wait())),
                Err(error) => {
                    let text = format!("exec: {program:?}: {error}\n");
                    return Err(Failure::new(BAD_ARGS, text));
                }
            }
        }
    };
    until_interrupted(run).await
}

/// Runs until the end, or until the user has had enough, which is no failure.
async fn until_interrupted(run: impl Future<Output = Outcome>) -> Outcome {
    tokio::select! {
        outcome = run => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
