//! A reply of `/v2/keys`, and how it is printed.

use serde::Deserialize;

use super::args::Words;
use super::client::Error;
use super::exchange::Answer;
use super::failure::Outcome;
use crate::go_text::json::{Object, array, string};
use crate::print::Streams;

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) key: String,
    pub(super) dir: bool,
    pub(super) value: String,
    pub(super) nodes: Option<Vec<Node>>,
    pub(super) created_index: u64,
    pub(super) modified_index: u64,
    pub(super) expiration: Option<String>,
    pub(super) ttl: i64,
}

/// A reply.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Reply {
    pub(super) action: String,
    pub(super) node: Node,
    pub(super) prev_node: Option<Node>,
    /// `X-Etcd-Index`.
    #[serde(skip)]
    pub(super) index: u64,
}

/// A refusal.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Refusal {
    error_code: i64,
    message: String,
    cause: String,
    index: u64,
}

/// Reads an answer of `/v2/keys`; none when its body is empty.
pub(super) fn read(answer: &Answer) -> Result<Option<Reply>, Error> {
    let invalid = |_| {
        Error::other(
            "client: response is invalid json. The endpoint is probably not valid etcd cluster \
             endpoint",
        )
    };
    if answer.status.is_success() {
        if answer.body.is_empty() {
            return Ok(None);
        }
        let mut reply: Reply = serde_json::from_slice(&answer.body).map_err(invalid)?;
        reply.index = answer.index;
        return Ok(Some(reply));
    }
    let Refusal {
        error_code,
        message,
        cause,
        index,
    } = serde_json::from_slice(&answer.body).map_err(invalid)?;
    Err(Error::other(format!(
        "{error_code}: {message} ({cause}) [{index}]"
    )))
}

/// Prints a reply in the format that was asked for.
pub(super) fn reply(words: &Words, reply: &Reply, to: &mut Streams<'_>) -> Outcome {
    let previous = reply.prev_node.clone().unwrap_or_default();
    let is_deletion = reply.action == "delete";
    match words.output() {
        "simple" if is_deletion => writeln!(to.out, "PrevNode.Value: {}", previous.value)?,
        "simple" => writeln!(to.out, "{}", reply.node.value)?,
        "extended" => {
            let Node {
                key,
                created_index,
                modified_index,
                ttl,
                value,
                ..
            } = &reply.node;
            writeln!(to.out, "Key: {key}\nCreated-Index: {created_index}")?;
            writeln!(to.out, "Modified-Index: {modified_index}")?;
            if reply.prev_node.is_some() {
                writeln!(to.out, "PrevNode.Value: {}", previous.value)?;
            }
            writeln!(to.out, "TTL: {ttl}\nIndex: {}", reply.index)?;
            if !is_deletion {
                writeln!(to.out, "\n{value}")?;
            }
        }
        "json" => {
            let previous = reply.prev_node.as_ref();
            let object = Object::new()
                .raw("action", &string(&reply.action))
                .raw("node", &json(&reply.node))
                .raw("prevNode", &previous.map_or("null".to_owned(), json));
            writeln!(to.out, "{}", object.finish())?;
        }
        other => writeln!(to.err, "Unsupported output format: {other}")?,
    }
    // A watch is read line by line.
    to.out.flush()?;
    Ok(())
}

fn json(node: &Node) -> String {
    let nodes = match &node.nodes {
        Some(nodes) => array(nodes.iter().map(json)),
        None => "null".to_owned(),
    };
    Object::new()
        .raw("key", &string(&node.key))
        .bool("dir", node.dir)
        .raw("value", &string(&node.value))
        .raw("nodes", &nodes)
        .raw("createdIndex", &node.created_index.to_string())
        .raw("modifiedIndex", &node.modified_index.to_string())
        .optional("expiration", node.expiration.as_deref().map(string))
        .int("ttl", node.ttl)
        .finish()
}
