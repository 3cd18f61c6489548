//! `get`, `ls`, `set`, `mk`, `update`, `mkdir`, `setdir`, `updatedir`, `rm`, `rmdir`.

use http::Method;

use super::args::Words;
use super::client::Client;
use super::exchange::{Action, form, path};
use super::failure::{BAD_ARGS, Failure, Outcome, SERVER_ERROR};
use super::print::{self, Node, Reply};
use crate::print::Streams;

/// The path of a key: one slash in front, none doubled, one at the end kept.
pub(super) fn target(key: &str, query: Vec<(&str, String)>) -> String {
    let mut elements: Vec<&str> = Vec::new();
    for element in key.split('/') {
        match element {
            "" | "." => {}
            ".." => drop(elements.pop()),
            element => elements.push(element),
        }
    }
    let mut target = format!("/v2/keys/{}", path(&elements.join("/")));
    if elements.is_empty() && !key.ends_with('/') {
        target.truncate(target.len() - 1);
    } else if key.ends_with('/') && !target.ends_with('/') {
        target.push('/');
    }
    if !query.is_empty() {
        target.push('?');
        target.push_str(&form(query));
    }
    target
}

async fn send(words: &Words, action: Action, once: bool, to: &mut Streams<'_>) -> Outcome<Reply> {
    let mut client = Client::new(words, to).await?;
    let answer = client.send(&action, once, to).await;
    let reply = answer.and_then(|answer| print::read(&answer));
    match reply {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(Failure::error(
            SERVER_ERROR,
            "client: response body is empty",
        )),
        Err(error) => Err(error.into_failure(SERVER_ERROR)),
    }
}

async fn read(words: &Words, key: &str, recursive: bool, to: &mut Streams<'_>) -> Outcome<Reply> {
    let query = vec![
        ("recursive", recursive.to_string()),
        ("sorted", words.is("sort").to_string()),
        ("quorum", words.is("quorum").to_string()),
    ];
    send(
        words,
        Action::new(Method::GET, target(key, query)),
        false,
        to,
    )
    .await
}

/// `get KEY`.
pub(super) async fn get(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let reply = read(words, words.key()?, false, to).await?;
    if reply.node.dir {
        let text = format!("{}: is a directory\n", reply.node.key);
        return Err(Failure::new(BAD_ARGS, text));
    }
    print::reply(words, &reply, to)
}

/// `ls [KEY]`.
pub(super) async fn ls(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let key = words.args.first().map_or("/", String::as_str);
    let reply = read(words, key, words.is("recursive"), to).await?;
    if words.output() != "simple" {
        return print::reply(words, &reply, to);
    }
    if !reply.node.dir {
        writeln!(to.out, "{}", reply.node.key)?;
    }
    list(
        reply.node.nodes.as_deref().unwrap_or_default(),
        words.is("p"),
        to,
    )
}

fn list(nodes: &[Node], marks: bool, to: &mut Streams<'_>) -> Outcome {
    for node in nodes {
        let mark = if node.dir && marks { "/" } else { "" };
        writeln!(to.out, "{}{mark}", node.key)?;
        list(node.nodes.as_deref().unwrap_or_default(), marks, to)?;
    }
    Ok(())
}

/// A change of one key. `prev_exist` makes it go through only once.
async fn put(
    words: &Words,
    key: &str,
    query: Vec<(&str, String)>,
    value: Option<String>,
    once: bool,
    to: &mut Streams<'_>,
) -> Outcome<Reply> {
    let mut action = Action::new(Method::PUT, target(key, query));
    action.body = Some(body(words, value));
    send(words, action, once, to).await
}

fn body(words: &Words, value: Option<String>) -> (&'static str, String) {
    let mut pairs = Vec::new();
    if let Some(value) = value {
        pairs.push(("value", value));
    }
    if words.number("ttl") > 0 {
        pairs.push(("ttl", words.number("ttl").to_string()));
    }
    ("application/x-www-form-urlencoded", form(pairs))
}

/// What of `--swap-with-value` and `--with-value`, and the same for the index, is given.
fn compared<'a>(words: &Words, value: &str, index: &str) -> Vec<(&'a str, String)> {
    let mut query = Vec::new();
    if !words.text(value).is_empty() {
        query.push(("prevValue", words.text(value).to_owned()));
    }
    if words.number(index) != 0 {
        // As etcdctl: a negative number becomes a very large one.
        query.push((
            "prevIndex",
            (words.number(index).cast_unsigned()).to_string(),
        ));
    }
    query
}

/// `set KEY VALUE`.
pub(super) async fn set(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let (key, value) = (words.key()?, words.value()?);
    let query = compared(words, "swap-with-value", "swap-with-index");
    let reply = put(words, key, query, Some(value), false, to).await?;
    print::reply(words, &reply, to)
}

/// `mk KEY VALUE`.
pub(super) async fn mk(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let (key, value) = (words.key()?, words.value()?);
    let reply = if words.is("in-order") {
        let mut action = Action::new(Method::POST, target(key, Vec::new()));
        action.body = Some(body(words, Some(value)));
        // Differs from etcdctl, which may make two keys when an endpoint fails.
        send(words, action, true, to).await?
    } else {
        let query = vec![("prevExist", "false".to_owned())];
        put(words, key, query, Some(value), true, to).await?
    };
    print::reply(words, &reply, to)
}

/// `update KEY VALUE`.
pub(super) async fn update(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let (key, value) = (words.key()?, words.value()?);
    let query = vec![("prevExist", "true".to_owned())];
    let reply = put(words, key, query, Some(value), false, to).await?;
    print::reply(words, &reply, to)
}

/// `mkdir KEY`, `setdir KEY`, `updatedir KEY`.
pub(super) async fn set_directory(
    words: &Words,
    exists: Option<bool>,
    to: &mut Streams<'_>,
) -> Outcome {
    let key = words.key()?;
    let mut query = vec![("dir", "true".to_owned())];
    if let Some(exists) = exists {
        query.push(("prevExist", exists.to_string()));
    }
    let reply = put(words, key, query, None, exists == Some(false), to).await?;
    match words.output() {
        "simple" => Ok(()),
        _ => print::reply(words, &reply, to),
    }
}

/// `rm KEY`, `rmdir KEY`.
pub(super) async fn rm(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let key = words.key()?;
    let mut query = compared(words, "with-value", "with-index");
    if words.is("dir") || words.command == "rmdir" {
        query.push(("dir", "true".to_owned()));
    }
    if words.is("recursive") {
        query.push(("recursive", "true".to_owned()));
    }
    let action = Action::new(Method::DELETE, target(key, query));
    let reply = send(words, action, true, to).await?;
    if reply.node.dir && words.output() == "simple" {
        return Ok(());
    }
    print::reply(words, &reply, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_paths() {
        for (key, want) in [
            ("/", "/v2/keys/"),
            ("", "/v2/keys"),
            ("a", "/v2/keys/a"),
            ("//a//b/", "/v2/keys/a/b/"),
            ("/a b", "/v2/keys/a%20b"),
            ("/a/../b", "/v2/keys/b"),
        ] {
            assert_eq!(target(key, Vec::new()), want, "{key}");
        }
    }
}
