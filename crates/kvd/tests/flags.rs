//! The flag table against etcd's names, and the parser against Go's rules.

use std::time::Duration;

use kvd::command::{Command, prepare};
use kvd::error::Error;
use kvd::flags::env::Environment;
use kvd::flags::table::{Kind, Status, all, find};
use kvd::flags::value;
use kvd::notes::Note;
use kvd::settings::{AutoCompaction, LogFormat, LogLevel, LogOutput, Settings};

/// Every flag that etcd 3.7.1 parses (`embed.Config.AddFlags`, `etcdmain.newConfig`).
const ETCD: &str = "advertise-client-urls auth-token auth-token-ttl auto-compaction-mode \
    auto-compaction-retention auto-tls backend-batch-interval backend-batch-limit \
    backend-bbolt-freelist-type bcrypt-cost bootstrap-defrag-threshold-megabytes cert-file \
    cipher-suites client-cert-allowed-hostname client-cert-auth client-cert-file client-crl-file \
    client-key-file compact-hash-check-time compaction-batch-limit compaction-sleep-interval \
    config-file corrupt-check-time cors data-dir discovery-cacert discovery-cert \
    discovery-dial-timeout discovery-endpoints discovery-fallback \
    discovery-insecure-skip-tls-verify discovery-insecure-transport discovery-keepalive-time \
    discovery-keepalive-timeout discovery-key discovery-password discovery-request-timeout \
    discovery-srv discovery-srv-name discovery-token discovery-user distributed-tracing-address \
    distributed-tracing-instance-id distributed-tracing-sampling-rate \
    distributed-tracing-service-name downgrade-check-time election-timeout \
    enable-distributed-tracing enable-grpc-gateway enable-log-rotation enable-pprof feature-gates \
    force-new-cluster grpc-keepalive-interval grpc-keepalive-min-time grpc-keepalive-timeout \
    heartbeat-interval host-whitelist initial-advertise-peer-urls initial-cluster \
    initial-cluster-state initial-cluster-token initial-election-tick-advance key-file \
    listen-client-http-urls listen-client-urls listen-metrics-urls listen-peer-urls log-format \
    log-level log-outputs log-rotation-config-json logger max-concurrent-streams max-learners \
    max-request-bytes max-snapshots max-txn-ops max-wals memory-mlock metrics name peer-auto-tls \
    peer-cert-allowed-cn peer-cert-allowed-hostname peer-cert-file peer-client-cert-auth \
    peer-client-cert-file peer-client-key-file peer-crl-file peer-key-file \
    peer-skip-client-san-verification peer-trusted-ca-file pre-vote quota-backend-bytes \
    raft-read-timeout raft-write-timeout self-signed-cert-validity snapshot-catchup-entries \
    snapshot-count socket-reuse-address socket-reuse-port strict-reconfig-check tls-max-version \
    tls-min-version trusted-ca-file unsafe-no-fsync v2-deprecation version wal-dir \
    warning-apply-duration warning-unary-request-duration watch-progress-notify-interval \
    cluster-active-size cluster-remove-delay cluster-sync-interval config force max-result-buffer \
    max-retry-attempts peer-heartbeat-interval peer-election-timeout retry-interval snapshot v vv \
    test.coverprofile test.outputdir";

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn run_with(line: &str, pairs: &[(&str, &str)]) -> Result<(Settings, Vec<Note>), Error> {
    match prepare(&words(line), &environment(pairs)) {
        Ok(Command::Run(settings, notes)) => Ok((*settings, notes)),
        Ok(other) => panic!("{line}: {other:?}"),
        Err(failure) => Err(failure.error),
    }
}

fn run(line: &str) -> Result<Settings, Error> {
    run_with(line, &[]).map(|(settings, _)| settings)
}

fn complaint(line: &str) -> (u8, String) {
    let error = run(line).expect_err(line);
    (error.exit_code(), error.to_string())
}

#[test]
fn the_table_has_every_flag_of_etcd_once() {
    for name in ETCD.split_whitespace() {
        assert!(find(name).is_some(), "{name} is missing");
    }
    assert_eq!(
        ETCD.split_whitespace().count(),
        113 + 15,
        "etcd 3.7.1 has 128 names"
    );
    for flag in all() {
        assert_eq!(
            all().filter(|other| other.name == flag.name).count(),
            1,
            "{}",
            flag.name
        );
    }
}

#[test]
fn defaults_and_aliases_are_well_formed() {
    for flag in all() {
        if flag.kind != Kind::Bare {
            assert_eq!(
                value::check(flag.kind, flag.default),
                Ok(()),
                "{}",
                flag.name
            );
        }
        if let Status::Alias(target) = flag.status {
            let target = find(target).unwrap_or_else(|| panic!("{} leads nowhere", flag.name));
            assert_eq!(target.kind, flag.kind, "{}", flag.name);
            assert_eq!(target.default, flag.default, "{}", flag.name);
            assert!(!matches!(target.status, Status::Alias(_)), "{}", flag.name);
        }
        if let Status::NotYet(sentence) = flag.status {
            assert!(sentence.ends_with('.'), "{}", flag.name);
        }
    }
}

#[test]
fn one_or_two_dashes_and_both_ways_to_give_a_value() {
    for line in ["--name a", "-name a", "--name=a", "-name=a"] {
        assert_eq!(run(line).expect(line).name, "a", "{line}");
    }
    assert_eq!(
        run("--wal-dir=a=b").expect("text").wal_dir,
        Some("a=b".into())
    );
    for (line, on) in [
        ("--pre-vote", true),
        ("--pre-vote=true", true),
        ("-pre-vote=0", false),
        ("--pre-vote=F", false),
        ("--force-new-cluster --pre-vote=f", false),
    ] {
        assert_eq!(run(line).expect(line).pre_vote, on, "{line}");
    }
    assert_eq!(
        run("--heartbeat-interval 0x32 --")
            .expect("hex")
            .heartbeat_interval
            .as_millis(),
        50
    );
}

#[test]
fn mistakes_have_etcds_texts_and_exit_codes() {
    for (line, code, text) in [
        ("--nope", 2, "flag provided but not defined: -nope"),
        ("---x", 2, "bad flag syntax: ---x"),
        ("--=x", 2, "bad flag syntax: --=x"),
        ("--name", 2, "flag needs an argument: -name"),
        (
            "--heartbeat-interval=x",
            2,
            "invalid value \"x\" for flag -heartbeat-interval: parse error",
        ),
        (
            "--heartbeat-interval=-1",
            2,
            "invalid value \"-1\" for flag -heartbeat-interval: parse error",
        ),
        (
            "--pre-vote=maybe",
            2,
            "invalid boolean value \"maybe\" for -pre-vote: parse error",
        ),
        ("--pre-vote false", 1, "\"false\" is not a valid flag"),
        ("foo", 1, "\"foo\" is not a valid flag"),
        ("-- foo", 1, "\"foo\" is not a valid flag"),
        (
            "--listen-peer-urls localhost:2380",
            2,
            "invalid value \"localhost:2380\" for flag -listen-peer-urls: URL scheme must be \
             http, https, unix, or unixs: localhost:2380",
        ),
        (
            "--initial-cluster-state=foo",
            2,
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (
            "--feature-gates=Foo=true",
            2,
            "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
        ),
        (
            "--max-concurrent-streams=99999999999",
            2,
            "invalid value \"99999999999\" for flag -max-concurrent-streams: strconv.ParseUint: \
             parsing \"99999999999\": value out of range",
        ),
        (
            "--listen-client-urls http://127.0.0.1:1",
            1,
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            "--listen-client-urls http://foo:1 --advertise-client-urls http://foo:1",
            1,
            "expected IP in URL for binding (http://foo:1)",
        ),
        (
            "--election-timeout 100",
            1,
            "--election-timeout[100ms] should be at least as 5 times as \
             --heartbeat-interval[100ms]",
        ),
        (
            "--heartbeat-interval 0",
            1,
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (
            "--election-timeout 60000",
            1,
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (
            "--auto-compaction-mode=foo",
            1,
            "unknown auto-compaction-mode \"foo\"",
        ),
        (
            "--feature-gates=LeaseCheckpointPersist=true",
            1,
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
             LeaseCheckpoint",
        ),
        (
            "--log-format=foo",
            1,
            "unknown log format: foo, supported values json, console",
        ),
        ("--logger=foo", 1, "unknown logger option \"foo\""),
        ("--log-level=foo", 1, "unrecognized level: \"foo\""),
        ("--config-file /nope", 1, "open /nope: "),
        ("gateway start", 1, "kvd has no \"gateway\" subcommand"),
        (
            "--initial-advertise-peer-urls http://:2380",
            1,
            "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\"",
        ),
        (
            "--listen-peer-urls https://127.0.0.1:1",
            1,
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (
            "--cors example.com",
            2,
            "invalid value \"example.com\" for flag -cors: URL scheme must be http, https, unix, \
             or unixs: example.com",
        ),
    ] {
        let (found, message) = complaint(line);
        assert_eq!(found, code, "{line}: {message}");
        assert!(message.starts_with(text), "{line}: {message}");
    }
}

#[test]
fn flags_that_are_not_built_are_refused_by_name_unless_they_say_the_default() {
    for (line, name) in [
        ("--auth-token jwt,sign-method", "auth: invalid auth options"),
        ("--memory-mlock", "--memory-mlock: "),
        (
            "--experimental-memory-mlock",
            "--memory-mlock: locking the process",
        ),
        ("--enable-log-rotation", "--enable-log-rotation: "),
    ] {
        let (code, message) = complaint(line);
        assert_eq!(code, 1, "{line}");
        assert!(message.starts_with(name), "{message}");
    }
    run("--bcrypt-cost 0xa --corrupt-check-time=0ms").expect("defaults are no wish");
}

#[test]
fn the_first_members_are_found_in_one_way() {
    for (line, text) in [
        (
            "--initial-cluster a=http://a:1 --discovery-srv x",
            "multiple discovery or bootstrap flags are set",
        ),
        (
            "--discovery-srv x --discovery-token t --discovery-endpoints e",
            "multiple discovery or bootstrap flags are set",
        ),
        (
            "--discovery-token t",
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            "--discovery-token t --discovery-endpoints e,,f",
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            "--discovery-token t --discovery-endpoints e --initial-cluster-state existing",
            "discovery URL should not be set when joining existing initial cluster",
        ),
        ("--discovery-fallback proxy", "v2 proxy is deprecated"),
    ] {
        let (code, message) = complaint(line);
        assert_eq!(code, 1, "{line}");
        assert!(message.starts_with(text), "{message}");
    }
    let srv = run("--discovery-srv example.com --discovery-srv-name x").expect("settings");
    assert!(srv.initial_cluster.is_empty());
    let registry = run("--name a --discovery-token t --discovery-endpoints e").expect("settings");
    assert_eq!(registry.initial_cluster_token, "t");
    assert_eq!(registry.initial_cluster.len(), 1);
    // Half of it must not make a cluster of one.
    let half = run("--discovery-srv-name x").expect("settings");
    assert!(half.initial_cluster.is_empty());
}

#[test]
fn what_is_slow_and_what_is_measured() {
    let settings = run("").expect("defaults").monitoring;
    let defaults = (settings.slow_request, settings.slow_apply);
    let milliseconds = Duration::from_millis;
    assert_eq!(defaults, (milliseconds(300), milliseconds(100)));
    assert!(!settings.is_extensive && !settings.pprof);
    let line = "--warning-unary-request-duration=1s --experimental-warning-apply-duration=5s \
                --metrics extensive --enable-pprof";
    let (settings, notes) = run_with(line, &[]).expect("settings");
    let settings = settings.monitoring;
    let given = (settings.slow_request, settings.slow_apply);
    assert_eq!(given, (milliseconds(1_000), milliseconds(5_000)));
    assert!(settings.is_extensive && settings.pprof);
    assert!(notes.contains(&Note::Pprof), "{notes:?}");
}

#[test]
fn tls_flags_that_do_not_fit_are_refused_in_etcds_words() {
    let client = "--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://a:1";
    let peer = "--listen-peer-urls https://127.0.0.1:1";
    for (line, text) in [
        (
            client.to_owned(),
            "TLS key/cert (--cert-file, --key-file) must be provided for client url \
             https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            format!("{client} --cert-file c"),
            "KeyFile and CertFile must both be present[key: , cert: c]",
        ),
        (
            format!("{client} --cert-file c --key-file k --client-key-file x"),
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: x, cert: ]",
        ),
        (
            "--listen-metrics-urls https://127.0.0.1:1".to_owned(),
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            "--peer-key-file k".to_owned(),
            "KeyFile and CertFile must both be present[key: k, cert: ]",
        ),
        (
            format!(
                "{peer} --peer-cert-file c --peer-key-file k --peer-cert-allowed-cn a,b \
                 --peer-cert-allowed-hostname h"
            ),
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\" \"b\"], \
             hostnames=[\"h\"])",
        ),
        (
            "--tls-min-version TLS1.1".to_owned(),
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            "--tls-min-version TLS1.3 --tls-max-version TLS1.2".to_owned(),
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            "--cipher-suites TLS_X".to_owned(),
            "unexpected TLS cipher suite \"TLS_X\"",
        ),
        (
            "--tls-recheck-interval 0s".to_owned(),
            "--tls-recheck-interval must be >0 (set to 0s)",
        ),
        (
            "--listen-client-urls http://127.0.0.1:1 --advertise-client-urls http://a:1 \
             --listen-client-http-urls https://127.0.0.1:1"
                .to_owned(),
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
             https://127.0.0.1:1",
        ),
    ] {
        let (code, message) = complaint(&line);
        assert_eq!(code, 1, "{line}: {message}");
        assert_eq!(message, text, "{line}");
    }
}

#[test]
fn tls_flags_are_settings_and_say_what_has_no_effect() {
    let (settings, notes) = run_with(
        "--cert-file c --key-file k --trusted-ca-file t --client-cert-auth --client-crl-file r \
         --peer-cert-file p --peer-key-file q --peer-auto-tls --tls-recheck-interval 2s \
         --cipher-suites TLS_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 \
         --cors http://b:1,http://a:1 --host-whitelist a,b",
        &[],
    )
    .expect("accepted");
    let file = |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string());
    assert_eq!(
        file(&settings.client_tls.trusted_ca_file).as_deref(),
        Some("t")
    );
    assert_eq!(file(&settings.client_tls.crl_file).as_deref(), Some("r"));
    assert_eq!(file(&settings.peer_tls.cert_file).as_deref(), Some("p"));
    assert!(settings.client_tls.client_cert_auth && !settings.peer_tls.client_cert_auth);
    assert_eq!(settings.tls_recheck_interval, Duration::from_secs(2));
    assert_eq!(settings.cors.len(), 2);
    assert!(settings.host_whitelist.contains("b"));
    let is_said = |wanted: &str| {
        notes
            .iter()
            .any(|note| format!("{note:?}").contains(wanted))
    };
    for wanted in [
        "SuitesLeftOut",
        "TlsUnused { port: \"client\"",
        "TlsUnused { port: \"peer\"",
        "CertAuthUnused { flag: \"client-cert-auth\"",
        "AutoTlsUnused { port: \"peer\"",
    ] {
        assert!(is_said(wanted), "{wanted}: {notes:?}");
    }
}

#[test]
fn old_and_senseless_flags_are_accepted_with_a_warning() {
    let (settings, notes) = run_with(
        "--experimental-compaction-batch-limit=7 --experimental-initial-corrupt-check=true \
         --experimental-stop-grpc-service-on-defrag=true --backend-batch-limit 5 --proxy off \
         --experimental-enable-v2v3 /x -snapshot --max-wals=0",
        &[],
    )
    .expect("accepted");
    assert_eq!(settings.compaction_batch_limit, Some(7));
    assert!(settings.feature_gates.is_enabled("InitialCorruptCheck"));
    let ignored: Vec<&str> = notes
        .iter()
        .filter_map(|note| match note {
            Note::Ignored { name, .. } => Some(*name),
            _ => None,
        })
        .collect();
    assert_eq!(
        ignored,
        [
            "backend-batch-limit",
            "proxy",
            "experimental-enable-v2v3",
            "snapshot",
            "max-wals"
        ]
    );
    assert!(notes.contains(&Note::Gates {
        names: vec!["StopGRPCServiceOnDefrag"]
    }));
}

#[test]
fn the_last_of_two_wins_with_a_warning() {
    let (settings, notes) = run_with("--name a --name b", &[]).expect("accepted");
    assert_eq!(settings.name, "b");
    assert!(notes.contains(&Note::Twice { name: "name" }), "{notes:?}");
}

#[test]
fn kvd_variables_win_over_etcds_and_flags_exclude_both() {
    let both = [
        ("ETCD_NAME", "a"),
        ("KVD_NAME", "b"),
        ("ETCD_DATA_DIR", ""),
        ("ETCD_NOPE", "1"),
    ];
    let (settings, notes) = run_with("", &both).expect("accepted");
    assert_eq!(settings.name, "b");
    assert_eq!(settings.data_dir.to_str(), Some("b.etcd"));
    assert!(
        notes.contains(&Note::UnknownVariable {
            variable: "ETCD_NOPE".into()
        }),
        "{notes:?}"
    );
    for variable in ["ETCD_NAME", "KVD_NAME"] {
        let error = run_with("--name c", &[(variable, "a")]).expect_err("conflict");
        assert_eq!(error.exit_code(), 1);
        assert_eq!(
            error.to_string(),
            format!(
                "conflicting environment variable {variable:?} is shadowed by corresponding \
                 command-line flag (either unset environment variable or disable flag)"
            )
        );
    }
    let old = [("ETCD_EXPERIMENTAL_COMPACTION_BATCH_LIMIT", "3")];
    assert!(
        run_with("--compaction-batch-limit 4", &old).is_err(),
        "an old name is the same flag"
    );
    let error = run_with("", &[("ETCD_HEARTBEAT_INTERVAL", "zz")]).expect_err("not a number");
    assert_eq!(
        error.to_string(),
        "invalid value \"zz\" for ETCD_HEARTBEAT_INTERVAL: parse error"
    );
    assert_eq!(error.exit_code(), 1);
    let (_, notes) = run_with("", &[("ETCD_VERSION", "3.5.0")]).expect("a base image's variable");
    assert!(notes.contains(&Note::VersionVariable {
        variable: "ETCD_VERSION".into()
    }));
}

#[test]
fn a_config_file_replaces_flags_and_environment() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("kvd.yml");
    std::fs::write(
        &path,
        "name: filed\nlisten-client-urls: http://127.0.0.1:1\n",
    )
    .expect("write");
    let path = path.to_str().expect("path");
    let line = format!("--name flagged --config-file {path} --cert-file refused-otherwise");
    let (settings, notes) =
        run_with(&line, &[("ETCD_NAME", "conflicting-otherwise")]).expect("file");
    assert_eq!(settings.name, "filed");
    assert!(
        matches!(notes.as_slice(), [Note::FileLoaded { .. }, ..]),
        "{notes:?}"
    );
    let (settings, _) = run_with("", &[("ETCD_CONFIG_FILE", path)]).expect("by variable");
    assert_eq!(settings.name, "filed");
}

#[test]
fn help_and_version_come_before_rules() {
    for line in [
        "--help",
        "-h",
        "--name a -help --nope",
        "--cert-file x --help",
    ] {
        assert!(
            matches!(
                prepare(&words(line), &Environment::new()),
                Ok(Command::Help)
            ),
            "{line}"
        );
    }
    for line in ["--version", "--cert-file x -version", "--version=true"] {
        let command = prepare(&words(line), &Environment::new());
        assert!(matches!(command, Ok(Command::Version)), "{line}");
    }
    assert!(run("--version=false").is_ok());
}

#[test]
fn values_become_types() {
    let settings = run(
        "--name a --quota-backend-bytes=-1 --snapshot-count=0 --max-concurrent-streams=0 \
         --grpc-keepalive-timeout=0s --auto-compaction-retention=5m --log-level=debug \
         --log-format=console --log-outputs=stderr,/tmp/x.log,stderr --wal-dir=/w \
         --listen-metrics-urls http://127.0.0.1:9,http://127.0.0.1:8",
    )
    .expect("settings");
    assert_eq!(settings.quota_bytes, None);
    assert_eq!(settings.snapshot_count, 10_000);
    assert_eq!(settings.max_concurrent_streams, u32::MAX);
    assert_eq!(settings.keepalive_interval, None);
    assert_eq!(
        settings.auto_compaction,
        AutoCompaction::Periodic(std::time::Duration::from_secs(300))
    );
    assert_eq!(settings.log.level, LogLevel::Debug);
    assert_eq!(settings.log.format, LogFormat::Console);
    assert_eq!(
        settings.log.outputs,
        [LogOutput::Stderr, LogOutput::File("/tmp/x.log".into())]
    );
    assert_eq!(
        kvd::urls::join(&settings.listen_metrics_urls),
        "http://127.0.0.1:8,http://127.0.0.1:9"
    );
    assert_eq!(
        kvd::urls::join_members(&settings.initial_cluster),
        "a=http://localhost:2380"
    );
    let revision = run("--auto-compaction-mode=revision --auto-compaction-retention=1000");
    assert_eq!(
        revision.expect("settings").auto_compaction,
        AutoCompaction::Revision(1000)
    );
    let hours = run("--auto-compaction-retention=2")
        .expect("settings")
        .auto_compaction;
    assert_eq!(
        hours,
        AutoCompaction::Periodic(std::time::Duration::from_secs(7200))
    );
    for warn in ["warn", "warning", "Warning"] {
        let settings = run(&format!("--log-level={warn}")).expect(warn);
        assert_eq!(settings.log.level, LogLevel::Warn, "{warn}");
    }
    for bad in ["5x", "-5", "-5m"] {
        let (code, _) = complaint(&format!("--auto-compaction-retention={bad}"));
        assert_eq!(code, 1, "{bad}");
    }
}
