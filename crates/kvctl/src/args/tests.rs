//! Words and environment, and what they come to; the messages are etcdctl's.

use std::time::Duration;

use super::*;
use crate::failure::Failure;

fn parsed(words: &[&str], variables: &[(&str, &str)]) -> (Result<Parsed, Failure>, Vec<String>) {
    let words: Vec<_> = words.iter().map(Into::into).collect();
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    let mut warnings = Vec::new();
    let environment = Environment::new(variables);
    let parsed = parse(&words, &environment, &mut |warning| warnings.push(warning));
    (parsed, warnings)
}

fn run(words: &[&str]) -> (Globals, Command) {
    match parsed(words, &[]).0.expect("parsed") {
        Parsed::Run(globals, command) => (*globals, *command),
        Parsed::Help(text) => panic!("help: {text}"),
    }
}

fn help(words: &[&str]) -> String {
    match parsed(words, &[]).0.expect("parsed") {
        Parsed::Help(text) => text,
        other => panic!("{other:?}"),
    }
}

fn refused(words: &[&str]) -> Failure {
    parsed(words, &[]).0.expect_err("refused")
}

fn get(words: &[&str]) -> GetArgs {
    match run(words).1 {
        Command::Get(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn commands_are_named_by_any_prefix_of_their_own() {
    assert!(matches!(
        run(&["mem", "li"]).1,
        Command::Member(MemberCommand::List(_))
    ));
    assert!(matches!(run(&["g", "a"]).1, Command::Get(_)));
    let failure = refused(&["m"]);
    assert_eq!(failure.code, 1);
    assert_eq!(failure.message, "unknown command \"m\" for \"kvctl\"");
    assert!(
        failure.details.contains("\tmove-leader\n"),
        "{}",
        failure.details
    );
    assert!(
        failure.details.ends_with("Run 'kvctl --help' for usage.\n"),
        "{}",
        failure.details
    );
    // Differs from etcd, which prints help and exits 0: a failure never does.
    assert_eq!(
        refused(&["member", "nosuch"]).message,
        "unknown command \"nosuch\" for \"kvctl member\""
    );
}

#[test]
fn flags_stand_anywhere_and_the_last_one_counts() {
    let (globals, _) = run(&["--write-out", "json", "get", "a", "--hex", "-w", "fields"]);
    assert_eq!(globals.write_out, "fields");
    assert!(globals.hex);
    let (globals, _) = run(&["get", "-wjson", "a", "--command-timeout=1m30s"]);
    assert_eq!(globals.write_out, "json");
    assert_eq!(globals.command_timeout, Duration::from_secs(90));
    assert_eq!(get(&["get", "a", "--limit", "1", "--limit=2"]).limit, 2);
    assert_eq!(get(&["get", "a", "--rev", "-1"]).rev, -1);
}

#[test]
fn booleans_are_bare_or_take_a_value_after_an_equals_sign() {
    assert!(get(&["get", "a", "--prefix"]).prefix);
    assert!(!get(&["get", "a", "--prefix=F"]).prefix);
    let args = get(&["get", "a", "--prefix", "false"]);
    assert!(args.prefix);
    assert_eq!(args.keys, ["a", "false"]);
}

#[test]
fn two_dashes_end_the_flags() {
    assert_eq!(
        get(&["get", "--", "-a", "--prefix"]).keys,
        ["-a", "--prefix"]
    );
    assert_eq!(get(&["get", "--", ""]).keys, [""]);
}

#[test]
fn endpoints_are_a_list_or_repeated() {
    assert_eq!(run(&["get", "a"]).0.endpoints(), ["127.0.0.1:2379"]);
    let (globals, _) = run(&["--endpoints", "a:1, b:2", "--endpoints=c:3", "get", "a"]);
    assert_eq!(globals.endpoints(), ["a:1", "b:2", "c:3"]);
    assert_eq!(
        run(&["--endpoints", "", "get", "a"]).0.endpoints(),
        Vec::<String>::new()
    );
}

#[test]
fn nonsense_is_refused_in_pflags_words() {
    for (words, message) in [
        (&["get", "--nosuch"][..], "unknown flag: --nosuch"),
        (&["get", "-x", "a"], "unknown shorthand flag: 'x' in -x"),
        (&["put", "a", "-5"], "unknown shorthand flag: '5' in -5"),
        (&["get", "a", "--limit"], "flag needs an argument: --limit"),
        (&["get", "a", "-w"], "flag needs an argument: 'w' in -w"),
        (
            &["get", "a", "--limit", "abc"],
            "invalid argument \"abc\" for \"--limit\" flag: \
             strconv.ParseInt: parsing \"abc\": invalid syntax",
        ),
        (
            &["get", "a", "--prefix=maybe"],
            "invalid argument \"maybe\" for \"--prefix\" flag: \
             strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
        (
            &["--dial-timeout", "3", "get", "a"],
            "invalid argument \"3\" for \"--dial-timeout\" flag: \
             time: missing unit in duration \"3\"",
        ),
    ] {
        let failure = refused(words);
        assert_eq!(
            (failure.code, &failure.message[..]),
            (1, message),
            "{words:?}"
        );
        assert!(
            failure.details.starts_with("Usage:\n  kvctl "),
            "{}",
            failure.details
        );
    }
}

#[test]
fn the_environment_sets_global_flags_and_ours_wins() {
    let variables = [
        ("ETCDCTL_ENDPOINTS", "a:1"),
        ("KVCTL_ENDPOINTS", "b:2"),
        ("ETCDCTL_HEX", "true"),
    ];
    let (parsed, warnings) = parsed(&["get", "a"], &variables);
    let Ok(Parsed::Run(globals, _)) = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(globals.endpoints(), ["b:2"]);
    assert!(globals.hex);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn a_flag_and_its_variable_together_are_refused() {
    for words in [
        &["--endpoints", "a:1", "get", "a"][..],
        &["get", "a", "--endpoints=a:1"],
    ] {
        let (parsed, _) = parsed(words, &[("ETCDCTL_ENDPOINTS", "b:2")]);
        assert_eq!(
            parsed.expect_err("conflict"),
            Failure::error(
                "conflicting environment variable is shadowed by corresponding command-line flag \
                 (either unset environment variable or disable flag)): ETCDCTL_ENDPOINTS"
            )
        );
    }
    let (parsed, _) = parsed(
        &["--endpoints", "a:1", "version"],
        &[("ETCDCTL_ENDPOINTS", "b:2")],
    );
    parsed.expect("version asks no server");
}

#[test]
fn variables_that_make_no_sense_are_told() {
    let (unknown, warnings) = parsed(
        &["get", "a"],
        &[("ETCDCTL_FOO", "1"), ("ETCDCTL_API", "3"), ("OTHER", "x")],
    );
    unknown.expect("a warning only");
    assert_eq!(
        warnings,
        ["Warning: unrecognized environment variable ETCDCTL_FOO"]
    );
    let (bad, _) = parsed(&["get", "a"], &[("ETCDCTL_DIAL_TIMEOUT", "abc")]);
    assert_eq!(
        bad.expect_err("bad value").message,
        "invalid value \"abc\" for ETCDCTL_DIAL_TIMEOUT: time: invalid duration \"abc\""
    );
}

#[test]
fn tls_is_asked_for_by_any_of_its_flags() {
    for (words, asks) in [
        (&["get", "a"][..], false),
        (&["--insecure-transport=false", "get", "a"], true),
        (&["--insecure-skip-tls-verify", "get", "a"], true),
        (&["--cacert", "x", "get", "a"], true),
        (&["--cert", "x", "--key", "y", "get", "a"], true),
        (&["-d", "example.org", "get", "a"], false),
        (
            &[
                "-d",
                "example.org",
                "--insecure-discovery=false",
                "get",
                "a",
            ],
            true,
        ),
    ] {
        assert_eq!(
            run(words).0.tls().expect("options").is_some(),
            asks,
            "{words:?}"
        );
    }
    for (words, message) in [
        (
            &["--cert", "", "get", "a"][..],
            "empty string is passed to --cert option",
        ),
        (
            &["--key", "y", "get", "a"],
            "KeyFile and CertFile must both be present[key: y, cert: ]",
        ),
    ] {
        let failure = run(words).0.tls().expect_err("refused");
        assert_eq!(failure, Failure::bad_args(message));
    }
}

#[test]
fn flags_of_a_command_may_stand_before_its_name() {
    for words in [
        &["--consistency", "s", "get", "a"][..],
        &["--consistency=s", "--prefix", "x", "get", "a"],
        &["-w", "json", "--consistency", "s", "get", "a"],
        &["--hex", "--consistency", "s", "ge", "a"],
    ] {
        let Command::Get(get) = run(words).1 else {
            panic!("{words:?} is another command");
        };
        assert_eq!(get.consistency, "s", "{words:?}");
        assert_eq!(get.keys.last().and_then(|key| key.to_str()), Some("a"));
    }
    let (_, list) = run(&["--consistency", "s", "member", "list"]);
    assert!(matches!(list, Command::Member(_)), "{list:?}");
    // After the separator nothing is a flag.
    let Command::Put(put) = run(&["put", "a", "--", "--prev-kv"]).1 else {
        panic!("another command");
    };
    assert_eq!(put.words.len(), 2);
}

#[test]
fn help_has_cobras_layout() {
    assert_eq!(
        help(&["compaction", "--help"]),
        "Compacts the event history in kvd\n\n\
         Usage:\n  kvctl compaction [options] <revision> [flags]\n\n\
         Flags:\n  -h, --help       help for compaction\n      \
         --physical   'true' to wait for compaction to physically remove all old revisions\n\
         Use \"kvctl options\" for a list of global command-line options (applies to all \
         commands).\n"
    );
    assert_eq!(
        help(&["help", "mem", "list"]),
        help(&["member", "list", "-h"])
    );
    let member = help(&["member"]);
    assert!(
        member.contains("Available Commands:\n  add         Adds"),
        "{member}"
    );
    let root = help(&[]);
    assert!(
        root.contains("\nKey-value commands\n  compaction  Compacts"),
        "{root}"
    );
    let health = help(&["endpoint", "health", "--help"]);
    assert!(
        health.contains("Global Flags:\n      --cluster   use all endpoints"),
        "{health}"
    );
    let options = super::help::options();
    assert!(
        options.contains(
            "      --endpoints strings            gRPC endpoints (default [127.0.0.1:2379])\n"
        ),
        "{options}"
    );
}

#[test]
fn every_command_stands_under_a_heading() {
    let root = help(&[]);
    for command in command().get_subcommands() {
        let name = command.get_name();
        assert!(root.contains(&format!("\n  {name:11} ")), "{name}");
    }
}

#[test]
fn the_definitions_are_sound() {
    command().debug_assert();
}
