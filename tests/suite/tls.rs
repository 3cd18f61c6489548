//! TLS on both ports: who is let in and who is not, what both sides are told, and files that
//! change.
#![allow(missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::etcdserverpb::RangeRequest;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_tests::cluster::Cluster;
use kvd_tests::pki::{Authority, Issued, Leaf, Secret, Shift};
use kvd_tests::secure::Identity;
use kvd_tests::wait;
use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

const PATIENCE: Duration = Duration::from_secs(20);

/// One authority, the member's files, and a folder for them.
struct Setup {
    authority: Authority,
    secret: Secret,
    folder: tempfile::TempDir,
    leaf: Issued,
}

impl Setup {
    fn new() -> Result<Setup> {
        let authority = Authority::new("authority")?;
        let folder = tempfile::tempdir()?;
        let leaf = authority.issue(&Leaf::new("member", 1))?;
        let secret = Secret::new(
            &folder.path().join("secret"),
            &[
                ("tls.crt", leaf.cert.as_bytes()),
                ("tls.key", leaf.key.as_bytes()),
                ("ca.crt", authority.pem().as_bytes()),
                ("crl", &authority.revoke(&[66])?),
            ],
        )?;
        Ok(Setup {
            authority,
            secret,
            folder,
            leaf,
        })
    }

    fn line(&self, extra: &[&str]) -> Vec<String> {
        let files = [
            ("--cert-file", "tls.crt"),
            ("--key-file", "tls.key"),
            ("--trusted-ca-file", "ca.crt"),
            ("--client-crl-file", "crl"),
            ("--peer-cert-file", "tls.crt"),
            ("--peer-key-file", "tls.key"),
            ("--peer-trusted-ca-file", "ca.crt"),
        ];
        let files = files
            .into_iter()
            .flat_map(|(flag, name)| [flag.to_owned(), self.secret.path(name)]);
        let extra = extra.iter().map(|argument| (*argument).to_owned());
        files.chain(extra).collect()
    }

    async fn start(&self, extra: &[&str]) -> Result<Cluster> {
        let line = self.line(extra);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let mut cluster = Cluster::prepare_with_tls(1, &line, (true, true))?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    fn identity(&self, leaf: &Leaf) -> Result<Identity> {
        Identity::new(&self.authority.pem(), Some(&self.authority.issue(leaf)?))
    }
}

async fn range(identity: &Identity, address: &str) -> Result<()> {
    let mut client = KvClient::new(identity.channel(address).await?);
    let request = RangeRequest {
        key: "k".into(),
        ..RangeRequest::default()
    };
    tokio::time::timeout(PATIENCE, client.range(request)).await??;
    Ok(())
}

async fn wait_log(cluster: &Cluster, text: &str) -> Result<()> {
    wait::until(text, PATIENCE, || async {
        let log = cluster.members[0].log();
        let odd: Vec<&str> = log
            .lines()
            .filter(|line| !line.contains("\"info\""))
            .collect();
        ensure!(log.contains(text), "it is not logged: {}", odd.join("\n"));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_that_fit_are_let_in() -> Result<()> {
    let setup = Setup::new()?;
    let extra = [
        "--client-cert-auth",
        "--client-cert-allowed-cn",
        "alice,bob",
        "--peer-cert-allowed-cn",
        "member",
    ];
    let cluster = setup.start(&extra).await?;
    let member = &cluster.members[0];
    let address = member.client_address();
    let alice = Leaf::new("alice", 10);
    range(&setup.identity(&alice)?, &address).await?;
    ensure!(
        setup
            .identity(&alice)?
            .get(&address, "/health")
            .await?
            .contains("\"health\":\"true\""),
        "HTTP/1 on the same port"
    );

    let other = Authority::new("other")?;
    let day = Duration::from_secs(24 * 3600);
    let expired = Leaf {
        valid: (Shift::Ago(2 * day), Shift::Ago(Duration::from_secs(60))),
        ..alice.clone()
    };
    let early = Leaf {
        valid: (Shift::In(day), Shift::In(2 * day)),
        ..alice.clone()
    };
    let server_only = Leaf {
        uses: vec![ExtendedKeyUsagePurpose::ServerAuth],
        ..alice.clone()
    };
    let roots = setup.authority.pem();
    for (what, identity, reason) in [
        (
            "no certificate",
            Identity::new(&roots, None)?,
            "peer sent no certificates",
        ),
        (
            "another authority",
            Identity::new(&roots, Some(&other.issue(&alice)?))?,
            "UnknownIssuer",
        ),
        ("expired", setup.identity(&expired)?, "certificate expired"),
        (
            "not yet valid",
            setup.identity(&early)?,
            "certificate not valid yet",
        ),
        (
            "revoked",
            setup.identity(&Leaf::new("alice", 66))?,
            "certificate serial 42 revoked",
        ),
        (
            "a server's",
            setup.identity(&server_only)?,
            "extended key usage",
        ),
        (
            "another name",
            setup.identity(&Leaf::new("carol", 11))?,
            "client certificate authentication failed",
        ),
    ] {
        // Lines about refused connections are limited; a client that tries again gets one.
        wait::until(reason, PATIENCE, || async {
            let let_in = range(&identity, &address).await;
            ensure!(let_in.is_err(), "let in");
            ensure!(member.log().contains(reason), "it is not logged");
            Ok(())
        })
        .await
        .context(what)?;
    }
    ensure!(
        member
            .log()
            .contains("rejected connection on client endpoint"),
        "etcd's words"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_certificate_must_fit_its_address_and_name() -> Result<()> {
    let setup = Setup::new()?;
    let extra = [
        "--peer-client-cert-auth",
        "--peer-cert-allowed-hostname",
        "localhost",
    ];
    let cluster = setup.start(&extra).await?;
    let peer = cluster.members[0].peer_address();
    let good = setup.identity(&Leaf::new("member", 20))?;
    ensure!(
        good.get(&peer, "/version").await?.contains("etcdserver"),
        "a member is let in"
    );
    let elsewhere = Leaf {
        names: vec![
            "localhost".into(),
            "10.255.255.1".into(),
            "127.0.0.1".into(),
        ],
        ..Leaf::new("member", 21)
    };
    ensure!(
        setup
            .identity(&elsewhere)?
            .get(&peer, "/version")
            .await
            .is_ok(),
        "one of its names fits"
    );
    let wrong_address = Leaf {
        names: vec!["10.255.255.1".into()],
        ..Leaf::new("member", 22)
    };
    let wrong = setup.identity(&wrong_address)?.get(&peer, "/version").await;
    ensure!(
        wrong.is_err() || !wrong?.contains("etcdserver"),
        "it has no allowed name"
    );
    wait_log(&cluster, "client certificate authentication failed").await?;

    // Without the list of names, the address decides.
    let cluster = setup.start(&["--peer-client-cert-auth"]).await?;
    let peer = cluster.members[0].peer_address();
    let wrong = setup.identity(&wrong_address)?.get(&peer, "/version").await;
    ensure!(
        wrong.is_err() || !wrong?.contains("etcdserver"),
        "let in from a wrong address"
    );
    wait_log(
        &cluster,
        "certificate is valid for 10.255.255.1, not 127.0.0.1",
    )
    .await?;
    let skipping = setup
        .start(&[
            "--peer-client-cert-auth",
            "--peer-skip-client-san-verification",
        ])
        .await?;
    let peer = skipping.members[0].peer_address();
    ensure!(
        setup
            .identity(&wrong_address)?
            .get(&peer, "/version")
            .await?
            .contains("etcdserver"),
        "skipped"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_and_secure_do_not_mix_and_both_sides_say_so() -> Result<()> {
    let setup = Setup::new()?;
    let cluster = setup.start(&[]).await?;
    let address = cluster.members[0].client_address();
    let mut stream = TcpStream::connect(&address).await?;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.0 400 Bad Request"), "{answer}");
    ensure!(
        answer.contains("Client sent an HTTP request to an HTTPS server."),
        "{answer}"
    );
    // When the answer overtakes the request, the client only says that it was closed.
    wait::until("an answer that says why", PATIENCE, || async {
        let plain = Endpoint::from_shared(format!("http://{address}"))?
            .connect()
            .await;
        let error = match plain {
            Err(error) => format!("{error:?}"),
            Ok(channel) => {
                let asked = KvClient::new(channel).range(RangeRequest::default()).await;
                format!("{:?}", asked.err().context("a plain request was answered")?)
            }
        };
        ensure!(error.contains("plaintext request to a TLS port"), "{error}");
        Ok(())
    })
    .await?;
    wait_log(&cluster, "the client speaks plain HTTP to a TLS port").await?;

    let plain = Cluster::start(1, &[]).await?;
    let address = plain.members[0].client_address();
    let leaf = Leaf::new("alice", 30);
    let error = setup
        .identity(&leaf)?
        .connect(&address)
        .await
        .err()
        .context("a handshake")?;
    ensure!(error.to_string().contains("InvalidContentType"), "{error}");
    wait_log(&plain, "the client speaks TLS to a port without TLS").await?;

    // Noise is neither.
    for noise in [
        &b"\x00\x01\x02\x03"[..],
        b"\x16\x03\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    ] {
        for member in [&cluster.members[0], &plain.members[0]] {
            let mut stream = TcpStream::connect(member.client_address()).await?;
            stream.write_all(noise).await?;
            stream.shutdown().await?;
            let mut rest = Vec::new();
            // A reset is an end, too.
            drop(stream.read_to_end(&mut rest).await);
        }
    }
    range(
        &setup.identity(&leaf)?,
        &cluster.members[0].client_address(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_socket_serves_http_and_https_when_both_urls_name_it() -> Result<()> {
    let setup = Setup::new()?;
    let line = setup.line(&["--client-cert-auth"]);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let mut cluster = Cluster::prepare(1, &line)?;
    let address = cluster.members[0].client_address();
    let metrics = kvd_tests::ports::Port::reserve()?;
    let metrics = format!("127.0.0.1:{}", metrics.number());
    let both = format!("http://{address},https://{address}");
    let socket = cluster.folder().join("s.sock").display().to_string();
    let sockets = format!("{both},unixs://{socket}");
    cluster.members[0].add_arguments(&[
        "--listen-client-urls",
        &sockets,
        "--listen-metrics-urls",
        &format!("https://{metrics}"),
    ]);
    cluster.start_all().await?;
    cluster.members[0].wait_leader(PATIENCE).await?;
    let identity = setup.identity(&Leaf::new("alice", 40))?;
    range(&identity, &address).await?;
    ensure!(
        identity
            .get(&metrics, "/metrics")
            .await?
            .contains("kvd_tls_certificate_not_after_seconds"),
        "metrics with TLS"
    );
    ensure!(
        Identity::new(&setup.authority.pem(), None)?
            .get(&metrics, "/metrics")
            .await
            .is_err(),
        "metrics want a certificate"
    );
    ensure!(Path::new(&socket).exists(), "the socket");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_used_and_bad_ones_are_not() -> Result<()> {
    let mut setup = Setup::new()?;
    let cluster = setup
        .start(&["--client-cert-auth", "--tls-recheck-interval", "1s"])
        .await?;
    let address = cluster.members[0].client_address();
    let alice = setup.identity(&Leaf::new("alice", 50))?;
    let mut open = KvClient::new(alice.channel(&address).await?);
    open.range(RangeRequest {
        key: "k".into(),
        ..RangeRequest::default()
    })
    .await?;

    // A certificate without its key is not used.
    let fresh = setup.authority.issue(&Leaf::new("member", 2))?;
    let files = |cert: &str, key: &str, crl: &[u8]| -> Vec<(String, Vec<u8>)> {
        vec![
            ("tls.crt".into(), cert.into()),
            ("tls.key".into(), key.into()),
            ("ca.crt".into(), setup.authority.pem().into()),
            ("crl".into(), crl.to_vec()),
        ]
    };
    let none = setup.authority.revoke(&[66])?;
    let bad = files(&fresh.cert, &setup.leaf.key, &none);
    let good = files(&fresh.cert, &fresh.key, &none);
    let revoking = files(&fresh.cert, &fresh.key, &setup.authority.revoke(&[50])?);
    let mut swap = |files: &[(String, Vec<u8>)]| {
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(n, c)| (n.as_str(), c.as_slice()))
            .collect();
        setup.secret.swap(&files)
    };
    swap(&bad)?;
    wait_log(&cluster, "the TLS files have changed and cannot be used").await?;
    range(&alice, &address)
        .await
        .context("the old files are in use")?;
    let metrics = alice.get(&address, "/metrics").await?;
    ensure!(
        metrics.contains("kvd_tls_reload_failing{port=\"client\"} 1"),
        "{metrics}"
    );
    ensure!(
        metrics.contains("kvd_tls_reloads_total{port=\"client\",result=\"failure\"} 1"),
        "{metrics}"
    );

    swap(&good)?;
    wait_log(
        &cluster,
        "the TLS files have changed; new connections use them",
    )
    .await?;
    let stream = alice.connect(&address).await?;
    let shown = stream
        .get_ref()
        .1
        .peer_certificates()
        .context("a certificate")?;
    ensure!(
        shown[0].as_ref() == pem_der(&fresh.cert)?,
        "the new certificate is shown"
    );
    open.range(RangeRequest {
        key: "k".into(),
        ..RangeRequest::default()
    })
    .await
    .context("open connections go on")?;

    swap(&revoking)?;
    wait_log(&cluster, "closing a connection: the certificate shown").await?;
    wait::until("the end of the revoked client", PATIENCE, || {
        let mut open = open.clone();
        async move {
            let asked = open
                .range(RangeRequest {
                    key: "k".into(),
                    ..RangeRequest::default()
                })
                .await;
            ensure!(asked.is_err(), "it is served");
            Ok(())
        }
    })
    .await?;
    let bob = setup.identity(&Leaf::new("bob", 51))?;
    let metrics = bob.get(&address, "/metrics").await?;
    ensure!(
        metrics.contains("kvd_tls_reload_failing{port=\"client\"} 0"),
        "{metrics}"
    );
    ensure!(
        metrics.contains("kvd_tls_closed_connections_total{port=\"client\"}"),
        "{metrics}"
    );
    Ok(())
}

fn pem_der(pem: &str) -> Result<Vec<u8>> {
    use rustls::pki_types::pem::PemObject;
    Ok(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes())?.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_when_its_certificate_runs_out() -> Result<()> {
    let setup = Setup::new()?;
    let cluster = setup
        .start(&["--client-cert-auth", "--tls-recheck-interval", "1s"])
        .await?;
    let address = cluster.members[0].client_address();
    let short = Leaf {
        valid: (
            Shift::Ago(Duration::from_secs(60)),
            Shift::In(Duration::from_secs(4)),
        ),
        ..Leaf::new("alice", 60)
    };
    let mut stream = setup.identity(&short)?.connect(&address).await?;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let mut piece = [0; 1024];
    ensure!(
        stream.read(&mut piece).await? > 0,
        "it is served while it is valid"
    );
    let mut rest = Vec::new();
    // How it ends does not matter.
    drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await?);
    wait_log(&cluster, "closing a connection: the certificate shown").await
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_certificates_serve_a_cluster_and_outlive_restarts() -> Result<()> {
    let mut cluster =
        Cluster::prepare_with_tls(3, &["--auto-tls", "--peer-auto-tls"], (true, true))?;
    cluster.start_all().await?;
    let fixtures = cluster.members[0].data_dir().join("fixtures");
    let read =
        |path: &str| std::fs::read_to_string(fixtures.join(path)).with_context(|| path.to_owned());
    let cert = read("client/cert.pem")?;
    read("peer/cert.pem")?;
    for (path, mode) in [
        ("client/key.pem", 0o600),
        ("peer/key.pem", 0o600),
        ("client", 0o700),
    ] {
        let found = std::fs::metadata(fixtures.join(path))?.permissions().mode() & 0o777;
        ensure!(found == mode, "{path} has mode {found:o}");
    }
    let data = std::fs::metadata(cluster.members[0].data_dir())?
        .permissions()
        .mode()
        & 0o777;
    ensure!(data == 0o700, "the data directory has mode {data:o}");
    // Who trusts the certificate itself can verify the member.
    let identity = Identity::new(&cert, None)?;
    range(&identity, &cluster.members[0].client_address()).await?;
    cluster.members[0].kill()?;
    cluster.restart(0).await?;
    ensure!(read("client/cert.pem")? == cert, "it is made once");
    range(&identity, &cluster.members[0].client_address()).await
}

/// Runs a program that may be missing; `None` when it is.
fn run(program: &str, arguments: &[&str]) -> Result<Option<String>> {
    let made = Command::new(program)
        .args(arguments)
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::null())
        .output();
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{program} is not installed: skipped");
            Ok(None)
        }
        made => {
            let made = made?;
            let (out, err) = (
                String::from_utf8_lossy(&made.stdout),
                String::from_utf8_lossy(&made.stderr),
            );
            Ok(Some(format!("{out}{err}")))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_clients_are_served_with_their_own_tls() -> Result<()> {
    let setup = Setup::new()?;
    let cluster = setup.start(&["--client-cert-auth"]).await?;
    let url = cluster.members[0].client_url();
    let address = cluster.members[0].client_address();
    let alice = setup.authority.issue(&Leaf::new("alice", 70))?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = setup.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let (cert, key) = (write("a.crt", &alice.cert)?, write("a.key", &alice.key)?);
    let ca = setup.secret.path("ca.crt");
    let etcdctl = std::env::var("ETCDCTL_BIN").unwrap_or_else(|_| "etcdctl".to_owned());
    let tls = [
        "--endpoints",
        &url,
        "--cacert",
        &ca,
        "--cert",
        &cert,
        "--key",
        &key,
    ];
    if let Some(said) = run(&etcdctl, &[&tls[..], &["put", "foo", "bar"]].concat())? {
        ensure!(said == "OK\n", "{said}");
        let said = run(&etcdctl, &[&tls[..], &["get", "foo"]].concat())?;
        ensure!(said.as_deref() == Some("foo\nbar\n"), "{said:?}");
        let bare = [
            "--endpoints",
            &url,
            "--cacert",
            &ca,
            "--dial-timeout=1s",
            "--command-timeout=2s",
            "get",
            "foo",
        ];
        let said = run(&etcdctl, &bare)?.unwrap_or_default();
        ensure!(
            !said.contains("bar"),
            "served without a certificate: {said}"
        );
    }
    let curl = ["-sS", "--cacert", &ca, "--cert", &cert, "--key", &key];
    let route = format!("{url}/v3/kv/range");
    for protocol in ["--http1.1", "--http2"] {
        let body = ["-d", "{\"key\":\"Zm9v\"}"];
        let line = [&curl[..], &[protocol], &body, &[route.as_str()]].concat();
        if let Some(said) = run("curl", &line)? {
            ensure!(said.contains("\"header\""), "{protocol}: {said}");
        }
    }
    if let Some(said) = run("curl", &["-sS", "--cacert", &ca, &format!("{url}/health")])? {
        ensure!(
            said.starts_with("curl: ("),
            "served without a certificate: {said}"
        );
    }
    for (version, wanted) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let line = [
            "s_client",
            "-connect",
            &address,
            "-CAfile",
            &ca,
            "-cert",
            &cert,
            "-key",
            &key,
            "-alpn",
            "h2",
            "-servername",
            "localhost",
            version,
        ];
        if let Some(said) = run("openssl", &line)? {
            ensure!(said.contains("Verify return code: 0 (ok)"), "{said}");
            ensure!(
                said.contains("ALPN protocol: h2") && said.contains(wanted),
                "{said}"
            );
        }
    }
    if let Some(said) = run("openssl", &["s_client", "-connect", &address, "-tls1_1"])? {
        ensure!(said.contains("alert"), "TLS 1.1 is spoken: {said}");
    }
    Ok(())
}
