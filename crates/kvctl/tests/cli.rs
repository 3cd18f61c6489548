//! The built program against a fake server: exit codes, streams, failover, environment.
#![allow(missing_docs)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use kvd_api::error::{self, WireError};
use kvd_api::pb::etcdserverpb as pb;
use kvd_api::pb::etcdserverpb::kv_server::{Kv, KvServer};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::wire::RangeResponse;
use prost::Message as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// Holds `foo` = `bar`; refuses a put of `leased`; echoes a put's value as the previous one.
struct Fake;

fn header() -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: 1,
        member_id: 2,
        revision: 3,
        raft_term: 4,
    })
}

fn range(request: &pb::RangeRequest) -> Result<RangeResponse, Status> {
    if request.key.is_empty() {
        return Err(WireError::EmptyKey.into());
    }
    let pair = KeyValue {
        key: "foo".into(),
        value: "bar".into(),
        version: 1,
        ..Default::default()
    };
    let many = if request.range_end.is_empty() {
        1
    } else {
        20_000
    };
    let kvs = vec![pair.encode_to_vec().into(); many];
    Ok(RangeResponse {
        header: header(),
        kvs,
        more: false,
        count: many as i64,
    })
}

#[tonic::async_trait]
impl Kv for Fake {
    type RangeStreamStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<pb::RangeStreamResponse, Status>>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<RangeResponse> {
        range(request.get_ref()).map(Response::new)
    }

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Answer<Self::RangeStreamStream> {
        let whole = range(request.get_ref())?;
        let piece = pb::RangeStreamResponse {
            range_response: Some(whole),
        };
        Ok(Response::new(tokio_stream::iter(vec![Ok(piece)])))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        let put = request.into_inner();
        if put.lease != 0 {
            return Err(WireError::RequestedLeaseNotFound.into());
        }
        let prev_kv = put.prev_kv.then(|| KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            ..Default::default()
        });
        Ok(Response::new(pb::PutResponse {
            header: header(),
            prev_kv,
        }))
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Answer<pb::DeleteRangeResponse> {
        let answer = pb::DeleteRangeResponse {
            header: header(),
            deleted: 1,
            prev_kvs: vec![],
        };
        Ok(Response::new(answer))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        let ops = request.get_ref().success.len();
        let op = pb::ResponseOp {
            response: Some(pb::response_op::Response::ResponsePut(
                pb::PutResponse::default(),
            )),
        };
        let answer = pb::TxnResponse {
            header: header(),
            succeeded: true,
            responses: vec![op; ops],
        };
        Ok(Response::new(answer))
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        Err(error::unimplemented("KV.Compact"))
    }
}

/// Starts the fake on a port of its own for the rest of the process.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("address").to_string();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
            tonic::transport::Server::builder()
                .add_service(KvServer::new(Fake))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("serve");
        });
    });
    address
}

/// A port on which nothing listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").to_string()
}

fn kvctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("KVCTL_") || name.starts_with("ETCDCTL_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

fn run(args: &[&str]) -> Ended {
    kvctl(args).output().expect("run").into()
}

fn run_with_input(args: &[&str], input: &str) -> Ended {
    let mut child = kvctl(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(input.as_bytes())
        .expect("write");
    child.wait_with_output().expect("wait").into()
}

#[test]
fn success_is_0_with_data_on_stdout_alone() {
    let address = server();
    for (args, out) in [
        (&["get", "foo"][..], "foo\nbar\n"),
        (&["get", "foo", "--stream"], "foo\nbar\n"),
        (&["get", "foo", "--print-value-only"], "bar\n"),
        (&["put", "foo", "bar"], "OK\n"),
        (&["put", "foo", "bar", "--prev-kv"], "OK\nfoo\nbar\n"),
        (&["del", "foo"], "1\n"),
        (
            &["get", "foo", "-w", "json"],
            "{\"header\":{\"cluster_id\":1,\"member_id\":2,\"revision\":3,\"raft_term\":4},\
             \"kvs\":[{\"key\":\"Zm9v\",\"version\":1,\"value\":\"YmFy\"}],\"count\":1}\n",
        ),
    ] {
        let ended = run(&[&["--endpoints", &address], args].concat());
        assert_eq!(
            (ended.code, &ended.out[..], &ended.err[..]),
            (Some(0), out, ""),
            "{args:?}"
        );
    }
}

#[test]
fn every_failure_has_etcdctls_exit_code_and_words() {
    let address = server();
    for (code, args, message) in [
        (1, &["get", ""][..], "etcdserver: key is not provided"),
        (
            1,
            &["put", "a", "b", "--lease", "12ff"],
            "etcdserver: requested lease not found",
        ),
        (
            1,
            &["compaction", "abc"],
            "strconv.ParseInt: parsing \"abc\": invalid syntax",
        ),
        (
            1,
            &["compaction", "5"],
            "rpc error: code = Unimplemented desc = kvd does not implement KV.Compact yet",
        ),
        (
            2,
            &["--endpoints", "", "get", "a"],
            "etcdclient: no available endpoints",
        ),
        (
            128,
            &["--cacert", "nosuch.pem", "get", "a"],
            "open nosuch.pem: no such file or directory",
        ),
        (
            4,
            &["get", "foo", "-w", "table"],
            "table not supported as output format",
        ),
        (
            4,
            &["get", "foo", "-w", "bogus"],
            "unsupported output format",
        ),
        (
            4,
            &["get", "foo", "--consistency", "x"],
            "unknown consistency flag \"x\"",
        ),
        (
            4,
            &["check", "perf", "--load", "bogus"],
            "unknown load option bogus",
        ),
        (
            128,
            &["get"],
            "get command needs one argument as key and an optional argument as range_end",
        ),
        (
            128,
            &["get", "foo", "--count-only"],
            "--count-only is only for `--write-out=fields`",
        ),
        (128, &["watch"], "bad number of arguments"),
        (
            128,
            &["watch", "foo", "--"],
            "bad number of arguments (found separator --, but no commands)",
        ),
        (
            128,
            &["watch", "a", "b", "--prefix"],
            "`range_end` and `--prefix` are mutually exclusive",
        ),
        (
            128,
            &["lock"],
            "lock takes a lock name argument and an optional command to execute",
        ),
        (
            128,
            &["elect", "name"],
            "no proposal argument but -l not set",
        ),
        (
            128,
            &["put", "foo"],
            "put command needs 1 argument and input from stdin or 2 arguments",
        ),
        (
            128,
            &["put", "a", "b", "--lease", "zz"],
            "bad lease ID (strconv.ParseInt: parsing \"zz\": invalid syntax), expecting ID in Hex",
        ),
    ] {
        let mut command = kvctl(args);
        // Not a flag, since some cases bring their own endpoints.
        if !args.contains(&"--endpoints") {
            command.env("KVCTL_ENDPOINTS", &address);
        }
        let ended = Ended::from(command.output().expect("run"));
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.err);
        assert_eq!(ended.out, "", "{args:?}");
        assert_eq!(ended.err, format!("Error: {message}\n"), "{args:?}");
    }
}

#[test]
fn a_transaction_is_read_from_stdin() {
    let address = server();
    let args = ["--endpoints", &address, "txn"];
    let ended = run_with_input(&args, "mod(\"a\") > \"0\"\n\nput a \"b c\"\nput d e\n\n\n");
    assert_eq!(
        (ended.code, &ended.out[..]),
        (Some(0), "SUCCESS\n\nOK\n\nOK\n"),
        "{}",
        ended.err
    );
    let ended = run_with_input(&[&args[..], &["-i"]].concat(), "\n\n\n");
    assert_eq!(
        ended.out,
        "compares:\nsuccess requests (get, put, del):\nfailure requests (get, put, del):\nSUCCESS\n"
    );
    for (code, input, message) in [
        (3, "", "Error: EOF\n"),
        (3, "\nget a", "Error: EOF\n"),
        (3, "bogus\n\n", "Error: malformed comparison: bogus\n"),
        (3, "\nput\n\n", "Error: invalid txn compare request: put\n"),
        (3, "\nfoo bar\n\n", "Error: invalid txn request: foo bar\n"),
        (
            3,
            "\nget a --nosuch\n\n",
            "Error: invalid txn request: get a --nosuch\n",
        ),
        (
            3,
            "\nget a --help\n\n",
            "Error: invalid txn request: get a --help\n",
        ),
        (3, "\nput a \"\\q\"\n\n", "Error: invalid syntax\n"),
        (4, "\nget a --order x\n\n", "Error: bad sort order x\n"),
        (128, "\nput a\n\n", "Error: put command needs 1 argument"),
    ] {
        let ended = run_with_input(&args, input);
        assert_eq!(ended.code, Some(code), "{input:?}: {}", ended.err);
        assert!(ended.err.starts_with(message), "{input:?}: {}", ended.err);
    }
}

#[test]
fn a_value_is_read_from_stdin() {
    let address = server();
    let ended = run_with_input(
        &["--endpoints", &address, "put", "a", "--prev-kv"],
        "from stdin",
    );
    assert_eq!(
        (ended.code, &ended.out[..]),
        (Some(0), "OK\na\nfrom stdin\n")
    );
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let address = server();
    let mut child = kvctl(&["--endpoints", &address, "get", "", "--prefix"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut first = [0; 4];
    child
        .stdout
        .take()
        .expect("stdout")
        .read_exact(&mut first)
        .expect("read");
    assert_eq!(&first, b"foo\n");
    let ended = Ended::from(child.wait_with_output().expect("wait"));
    assert_eq!((ended.code, &ended.err[..]), (Some(0), ""));
}

#[test]
fn nobody_listening_is_told_with_what_to_do() {
    let (one, two) = (nobody(), nobody());
    let endpoints = format!("{one},{two}");
    for command in [&["get", "a"][..], &["put", "a", "b"], &["member", "list"]] {
        let args = ["--endpoints", &endpoints, "--command-timeout", "100ms"];
        let ended = run(&[&args[..], command].concat());
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.err.starts_with("Error: context deadline exceeded\n"),
            "{}",
            ended.err
        );
        for part in [&one[..], &two, "refused", "--endpoints", "KVCTL_ENDPOINTS"] {
            assert!(ended.err.contains(part), "{part}: {}", ended.err);
        }
    }
}

#[test]
fn an_endpoint_that_is_down_does_not_matter() {
    let endpoints = format!("{},{}", nobody(), server());
    let ended = run(&["--endpoints", &endpoints, "put", "a", "b"]);
    assert_eq!(
        (ended.code, &ended.out[..]),
        (Some(0), "OK\n"),
        "{}",
        ended.err
    );
}

#[test]
fn an_unhealthy_endpoint_fails_the_command() {
    let nobody = nobody();
    let args = [
        "--endpoints",
        &nobody,
        "--command-timeout",
        "100ms",
        "endpoint",
        "health",
    ];
    let ended = run(&args);
    assert_eq!((ended.code, &ended.out[..]), (Some(1), ""));
    let told = format!(
        "{nobody} is unhealthy: failed to commit proposal: context deadline exceeded\n\
         Error: unhealthy cluster\n"
    );
    assert!(ended.err.starts_with(&told), "{}", ended.err);

    let ended = run(&[
        "--endpoints",
        &nobody,
        "--command-timeout",
        "100ms",
        "endpoint",
        "status",
    ]);
    assert_eq!(ended.code, Some(1));
    let told =
        format!("Failed to get the status of endpoint {nobody} (context deadline exceeded)\n");
    assert!(ended.err.starts_with(&told), "{}", ended.err);
}

#[test]
fn a_flag_with_its_variable_is_refused() {
    let mut command = kvctl(&["--endpoints", "a:1", "get", "a"]);
    let ended = Ended::from(
        command
            .env("ETCDCTL_ENDPOINTS", "b:2")
            .output()
            .expect("run"),
    );
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("conflicting environment variable"),
        "{}",
        ended.err
    );
}

#[test]
fn variables_of_watch_stand_for_its_key_and_nothing_else() {
    let watch = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = kvctl(&[&["watch"], args].concat());
        command.envs(variables.iter().copied());
        Ended::from(command.output().expect("run"))
    };
    let key = ("ETCDCTL_WATCH_KEY", "k");
    for (args, variables, message) in [
        (
            &["foo"][..],
            &[key][..],
            "bad number of arguments (found conflicting environment key)",
        ),
        (
            &["foo", "--", "true"],
            &[key],
            "bad number of arguments (found conflicting environment key)",
        ),
        (
            &[],
            &[("ETCDCTL_WATCH_RANGE_END", "z")],
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END=\"z\"",
        ),
    ] {
        let ended = watch(args, variables);
        assert_eq!(ended.code, Some(128), "{args:?}");
        assert_eq!(ended.err, format!("Error: {message}\n"), "{args:?}");
    }
}

#[test]
fn interactive_lines_that_make_no_sense_are_told() {
    let input = "bogus\n\nwatch\nwatch a b --prefix\nwatch -- echo\n";
    let ended = run_with_input(&["watch", "-i"], input);
    assert_eq!((ended.code, &ended.out[..]), (Some(3), ""));
    assert_eq!(
        ended.err,
        "Invalid command bogus (only support watch)\n\
         Invalid command:  (watch and progress supported)\n\
         Invalid command watch (command type or key is not provided)\n\
         Invalid command watch a b --prefix (`range_end` and `--prefix` are mutually exclusive)\n\
         Invalid command watch -- echo (bad number of arguments)\n\
         Error: error reading watch request line: EOF\n"
    );
    let ended = run_with_input(&["watch", "-i"], "watch a --bad\n");
    assert_eq!(ended.code, Some(128));
    assert_eq!(ended.err, "Error: unknown flag: --bad\n");
}

#[test]
fn version_completion_and_options_need_no_server() {
    let version = run(&["version"]);
    let expected = concat!(
        "kvctl version: ",
        env!("CARGO_PKG_VERSION"),
        "\nAPI version: 3.7\n"
    );
    assert_eq!((version.code, &version.out[..]), (Some(0), expected));
    for (shell, part) in [
        ("bash", "complete -F _kvctl"),
        ("zsh", "#compdef kvctl"),
        ("fish", "complete -c kvctl"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = run(&["completion", shell]);
        assert_eq!(script.code, Some(0), "{shell}");
        assert!(script.out.contains(part), "{shell}");
        assert!(script.out.contains("print-value-only"), "{shell}");
    }
    let none = run(&["completion"]);
    assert_eq!(none.code, Some(1));
    assert!(
        none.err
            .starts_with("Error: accepts 1 arg(s), received 0\nUsage:\n"),
        "{}",
        none.err
    );
    let options = run(&["options"]);
    assert!(
        options.out.contains("--command-timeout duration"),
        "{}",
        options.out
    );
}
