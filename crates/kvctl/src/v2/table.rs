//! Every command and flag of API 2, in the order in which help shows them.

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, or `=true`, `=false`.
    Bool,
    /// A whole number; with the default that help shows.
    Int,
    /// Any text.
    Text,
    /// A duration as Go writes it.
    Duration,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Its name.
    pub(super) name: &'static str,
    /// One letter for it; empty for none.
    pub(super) short: &'static str,
    pub(super) kind: Kind,
    /// Its default as help shows it; empty for none.
    pub(super) default: &'static str,
    pub(super) help: &'static str,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) args: &'static str,
    /// More about it; empty for nothing.
    pub(super) description: &'static str,
    pub(super) flags: &'static [Flag],
}

const fn flag(
    name: &'static str,
    short: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        short,
        kind,
        default,
        help,
    }
}

const fn command(
    name: &'static str,
    help: &'static str,
    args: &'static str,
    flags: &'static [Flag],
) -> Command {
    Command {
        name,
        help,
        args,
        description: "",
        flags,
    }
}

use Kind::{Bool, Duration, Int, Text};

const TTL: Flag = flag("ttl", "", Int, "0", "key time-to-live in seconds");
const SORT: Flag = flag("sort", "", Bool, "", "returns result in sorted order");
const QUORUM: Flag = flag("quorum", "q", Bool, "", "require quorum for get request");
const AFTER: Flag = flag("after-index", "", Int, "0", "watch after the given index");

// One row a command or flag reads better than one line a field.
#[rustfmt::skip]
pub(super) const GLOBALS: &[Flag] = &[
    flag("debug", "", Bool, "",
        "output cURL commands which can be used to reproduce the request"),
    flag("no-sync", "", Bool, "",
        "don't synchronize cluster information before sending request"),
    flag("output", "o", Text, "\"simple\"",
        "output response in the given format (simple, `extended` or `json`)"),
    flag("discovery-srv", "D", Text, "",
        "domain name to query for SRV records describing cluster endpoints"),
    flag("insecure-discovery", "", Bool, "",
        "accept insecure SRV records describing cluster endpoints"),
    flag("peers", "C", Text, "", "DEPRECATED - \"--endpoints\" should be used instead"),
    flag("endpoint", "", Text, "", "DEPRECATED - \"--endpoints\" should be used instead"),
    flag("endpoints", "", Text, "",
        "a comma-delimited list of machine addresses in the cluster (default: \
         \"http://127.0.0.1:2379,http://127.0.0.1:4001\")"),
    flag("cert-file", "", Text, "", "identify HTTPS client using this SSL certificate file"),
    flag("key-file", "", Text, "", "identify HTTPS client using this SSL key file"),
    flag("ca-file", "", Text, "",
        "verify certificates of HTTPS-enabled servers using this CA bundle"),
    flag("username", "u", Text, "",
        "provide username[:password] and prompt if password is not supplied."),
    flag("timeout", "", Duration, "2s", "connection timeout per request"),
    flag("total-timeout", "", Duration, "5s",
        "timeout for the command execution (except watch)"),
];

/// Commands that etcdctl has and kvctl refuses by name.
pub(super) const UNBUILT: [&str; 5] = ["backup", "user", "role", "auth", "import"];

#[rustfmt::skip]
pub(super) const COMMANDS: &[Command] = &[
    command("cluster-health", "check the health of the etcd cluster", " ", &[
        flag("forever", "f", Bool, "", "forever check the health every 10 second until CTRL+C"),
    ]),
    command("mk", "make a new key with a given value", "<key> <value>", &[
        flag("in-order", "", Bool, "", "create in-order key under directory <key>"), TTL,
    ]),
    command("mkdir", "make a new directory", "<key>", &[TTL]),
    command("rm", "remove a key or a directory", "<key>", &[
        flag("dir", "", Bool, "", "removes the key if it is an empty directory or a key-value pair"),
        flag("recursive", "r", Bool, "",
            "removes the key and all child keys(if it is a directory)"),
        flag("with-value", "", Text, "", "previous value"),
        flag("with-index", "", Int, "0", "previous index"),
    ]),
    command("rmdir", "removes the key if it is an empty directory or a key-value pair", "<key>",
        &[]),
    command("get", "retrieve the value of a key", "<key>", &[SORT, QUORUM]),
    command("ls", "retrieve a directory", "[key]", &[
        SORT,
        flag("recursive", "r", Bool, "",
            "returns all key names recursively for the given path"),
        flag("p", "", Bool, "", "append slash (/) to directories"),
        QUORUM,
    ]),
    Command {
        name: "set",
        help: "set the value of a key",
        args: "<key> <value>",
        description: "Set sets the value of a key.\n\n   When <value> begins with '-', <value> is \
                      interpreted as a flag.\n   Insert '--' for workaround:\n\n   $ set -- <key> \
                      <value>",
        flags: &[
            TTL,
            flag("swap-with-value", "", Text, "", "previous value"),
            flag("swap-with-index", "", Int, "0", "previous index"),
        ],
    },
    command("setdir", "create a new directory or update an existing directory TTL", "<key>",
        &[TTL]),
    command("update", "update an existing key with a given value", "<key> <value>", &[TTL]),
    command("updatedir", "update an existing directory", "<key> <value>", &[TTL]),
    command("watch", "watch a key for changes", "<key>", &[
        flag("forever", "f", Bool, "", "forever watch a key until CTRL+C"),
        AFTER,
        flag("recursive", "r", Bool, "", "returns all values for key and child keys"),
    ]),
    command("exec-watch", "watch a key for changes and exec an executable",
        "<key> <command> [args...]", &[
        AFTER,
        flag("recursive", "r", Bool, "", "watch all values for key and child keys"),
    ]),
];

/// The commands of `member`, whose names are those behind it.
#[rustfmt::skip]
pub(super) const MEMBER_COMMANDS: &[Command] = &[
    command("member list", "enumerate existing cluster members", " ", &[]),
    command("member add", "add a new member to the etcd cluster", "<name> <peerURL>", &[]),
    command("member remove", "remove an existing member from the etcd cluster", "<memberID>", &[]),
    command("member update", "update an existing member in the etcd cluster",
        "<memberID> <peerURLs>", &[]),
];

/// What help says of `member`.
pub(super) const MEMBER_HELP: &str = "member add, remove and list subcommands";
