//! Hosts with names: members that find one another by SRV records, and one that comes back with
//! another address while DNS is slow, or at once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvd_podsim::dns::{self, Records, Services, Zone};
use kvd_podsim::host;
use kvd_tests::process::{Process, kvctl};
use kvd_tests::{http, member, wait};
use rustix::process::Signal;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);
/// What is promised for a machine that has time, and what is asserted on one that has none.
const PROMISED: Duration = Duration::from_secs(2);
const BOUND: Duration = Duration::from_secs(10);
const DOMAIN: &str = "kvd.test";
const READY: &str = "ready to serve client requests";

#[test]
fn members_find_one_another_by_srv_records_and_follow_a_name_to_another_address() -> Result<()> {
    let name =
        "moves::members_find_one_another_by_srv_records_and_follow_a_name_to_another_address";
    host::isolated(name, moves())
}

/// A member on a host of its own.
struct Host {
    name: &'static str,
    /// How many hosts there were before: makes its address.
    number: u8,
    process: Option<Process>,
}

struct Hosts {
    folder: TempDir,
    zone: Arc<Zone>,
    hosts: Vec<Host>,
    used: u8,
}

impl Host {
    fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, 1, self.number)
    }

    fn netns(&self) -> String {
        format!("host{}", self.number)
    }

    fn clients(&self) -> String {
        format!("{}:2379", self.ip())
    }

    fn metrics(&self) -> Result<String> {
        Ok(http::get(&self.clients(), "/metrics")?.body)
    }

    /// The hexadecimal ID of the leader, and its own.
    fn status(&self) -> Result<(String, String)> {
        let reply = http::post(&self.clients(), "/v3/maintenance/status", "{}")?.json()?;
        let hex = |value: &serde_json::Value| -> Result<String> {
            Ok(format!(
                "{:x}",
                value.as_str().context("an ID")?.parse::<u64>()?
            ))
        };
        Ok((hex(&reply["leader"])?, hex(&reply["header"]["member_id"])?))
    }
}

impl Hosts {
    async fn new() -> Result<Hosts> {
        let folder = tempfile::Builder::new().prefix("kvd-moves-").tempdir()?;
        host::run("ip", &["addr", "add", "10.96.0.10/32", "dev", "lo"])?;
        let zone = Arc::new(Zone::default());
        dns::serve(Arc::clone(&zone)).await?;
        let conf = folder.path().join("resolv.conf");
        let text = format!(
            "nameserver {}\noptions timeout:1 attempts:2\n",
            dns::ADDRESS
        );
        std::fs::write(&conf, text)?;
        let conf = conf.display().to_string();
        host::run("mount", &["--bind", &conf, "/etc/resolv.conf"])?;
        Ok(Hosts {
            folder,
            zone,
            hosts: Vec::new(),
            used: 1,
        })
    }

    /// Adds a host that nobody knows yet.
    fn add(&mut self, name: &'static str) -> Result<()> {
        let number = self.number();
        self.hosts.push(Host {
            name,
            number,
            process: None,
        });
        self.connect(self.hosts.len() - 1)
    }

    fn number(&mut self) -> u8 {
        self.used += 1;
        self.used
    }

    fn connect(&self, place: usize) -> Result<()> {
        let host = &self.hosts[place];
        let (netns, number, ip) = (host.netns(), host.number, host.ip());
        host::ip(&format!(
            "netns add {netns}\n\
             link add veth{number} type veth peer name eth0 netns {netns}\n\
             link set veth{number} master cni0 up\n"
        ))?;
        host::ip_in(
            &netns,
            &format!(
                "addr add {ip}/16 dev eth0\n\
                 link set lo up\n\
                 link set eth0 up\n\
                 route add default via 10.244.0.1\n"
            ),
        )
    }

    /// Tells DNS where the hosts are.
    fn publish(&self) {
        let entry = |host: &Host| (format!("{}.{DOMAIN}", host.name), vec![host.ip()]);
        self.zone
            .publish(self.hosts.iter().map(entry).collect::<Records>());
    }

    /// Starts the member on a host with what SRV records say, and nothing else, of the others.
    fn start(&mut self, place: usize) -> Result<()> {
        self.start_with(place, &[])
    }

    /// The same with further arguments, which win.
    fn start_with(&mut self, place: usize, arguments: &[&str]) -> Result<()> {
        let (name, number) = (self.hosts[place].name, self.hosts[place].number);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.hosts[place].netns()))
            .arg(member::binary("kvd")?)
            .args(["--name", name, "--data-dir"])
            .arg(self.folder.path().join(name))
            .args(["--discovery-srv", DOMAIN, "--discovery-srv-name", "one"])
            .args(["--initial-cluster-token", "moves"])
            .args(["--listen-peer-urls", "http://0.0.0.0:2380"])
            .args(["--listen-client-urls", "http://0.0.0.0:2379"]);
        for (flag, port) in [
            ("--initial-advertise-peer-urls", 2380),
            ("--advertise-client-urls", 2379),
        ] {
            command.args([flag, &format!("http://{name}.{DOMAIN}:{port}")]);
        }
        command.args(arguments).env_remove("KVD_BIN");
        let log = format!("{name}.{number}.log");
        self.hosts[place].process = Some(Process::start(command, self.folder.path(), &log)?);
        Ok(())
    }

    async fn ready(&mut self, place: usize) -> Result<()> {
        let process = self.hosts[place].process.as_mut().context("it runs")?;
        process.wait_log(READY, SOON).await
    }

    /// Takes a host off the network, so that no packet tells of its end, and gives its member
    /// another one. DNS knows nothing of it yet.
    async fn lose(&mut self, place: usize) -> Result<()> {
        let number = self.hosts[place].number;
        host::run("ip", &["link", "set", &format!("veth{number}"), "down"])?;
        let mut old = self.hosts[place].process.take().context("it runs")?;
        old.signal(Signal::KILL)?;
        old.wait_exit(SOON).await?;
        host::run("ip", &["netns", "del", &self.hosts[place].netns()])?;
        self.hosts[place].number = self.number();
        self.connect(place)
    }

    async fn leader(&self) -> Result<usize> {
        wait::until("one leader", SOON, || async {
            let mut leaders = BTreeMap::new();
            for (place, host) in self.hosts.iter().enumerate() {
                let Ok((leader, own)) = host.status() else {
                    continue;
                };
                if leader == own {
                    leaders.insert(leader, place);
                }
            }
            ensure!(leaders.len() == 1, "{leaders:?}");
            Ok(*leaders.values().next().context("one")?)
        })
        .await
    }

    fn id(&self, place: usize) -> Result<String> {
        Ok(self.hosts[place].status()?.1)
    }

    fn kvctl(&self, arguments: &[&str]) -> Result<String> {
        let discovery = ["--discovery-srv", DOMAIN, "--discovery-srv-name", "one"];
        let arguments: Vec<&str> = discovery.iter().chain(arguments).copied().collect();
        let output = kvctl(&arguments, "")?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until the member at `place`, which listens and whom DNS knows by now, is served by the
    /// leader: it cannot be ready before that. Says how long it took.
    async fn reached(&mut self, place: usize, what: &str) -> Result<()> {
        let started = Instant::now();
        let process = self.hosts[place].process.as_mut().context("it runs")?;
        process.wait_log(READY, BOUND).await?;
        let took = started.elapsed();
        println!("{what}: reached {took:?} after DNS knew; promised: {PROMISED:?}");
        Ok(())
    }

    /// Waits until `place` accepts peers.
    async fn listens(&self, place: usize) -> Result<()> {
        let address = (self.hosts[place].ip(), 2380);
        wait::until("it listens", SOON, || async {
            TcpStream::connect(address)?;
            Ok(())
        })
        .await
    }
}

fn logs(hosts: &Hosts) -> PathBuf {
    hosts.folder.path().to_owned()
}

async fn moves() -> Result<()> {
    let mut hosts = Hosts::new().await?;
    for name in ["a", "b", "c"] {
        hosts.add(name)?;
    }
    hosts.publish();
    let offered = |port| {
        let host = |name: &str| (format!("{name}.{DOMAIN}"), port);
        ["a", "b", "c"].map(host).to_vec()
    };
    hosts.zone.publish_services(Services::from([
        (format!("_etcd-server-one._tcp.{DOMAIN}"), offered(2380)),
        (format!("_etcd-client-one._tcp.{DOMAIN}"), offered(2379)),
    ]));
    for place in 0..3 {
        hosts.start(place)?;
    }
    for place in 0..3 {
        hosts.ready(place).await?;
    }
    ensure!(hosts.kvctl(&["put", "key", "1"])? == "OK\n");
    let members = hosts.kvctl(&["member", "list"])?;
    for name in ["a", "b", "c"] {
        let url = format!("started, {name}, http://{name}.{DOMAIN}:2380");
        ensure!(
            members.contains(&url),
            "{members}\nlogs: {:?}",
            logs(&hosts)
        );
    }

    println!("a follower whose new address DNS learns late");
    let leader = hosts.leader().await?;
    let moved = (leader + 1) % 3;
    let id = hosts.id(moved)?;
    hosts.lose(moved).await?;
    hosts.start(moved)?;
    hosts.listens(moved).await?;
    wait::until("the leader has lost it", SOON, || async {
        let gone = format!("Remote=\"{id}\"}} 0");
        ensure!(hosts.hosts[leader].metrics()?.contains(&gone));
        Ok(())
    })
    .await?;
    hosts.publish();
    hosts.reached(moved, "DNS was late").await?;

    println!("a follower whose new address DNS knows before it is there");
    let moved = (leader + 2) % 3;
    hosts.lose(moved).await?;
    hosts.publish();
    hosts.start(moved)?;
    hosts.listens(moved).await?;
    hosts.reached(moved, "DNS was early").await?;

    println!("the leader");
    let moved = hosts.leader().await?;
    hosts.lose(moved).await?;
    hosts.start(moved)?;
    hosts.listens(moved).await?;
    hosts.leader().await?;
    hosts.publish();
    hosts.reached(moved, "it led").await?;
    ensure!(hosts.kvctl(&["get", "key", "--print-value-only"])? == "1\n");
    removed_unheard(&mut hosts).await
}

/// One that joins by SRV records, is removed before it has heard anything, and is started again:
/// what it has of the others is what it was told when it joined.
async fn removed_unheard(hosts: &mut Hosts) -> Result<()> {
    println!("a member that is removed before its first contact");
    hosts.add("d")?;
    hosts.publish();
    let offered = |port| ["a", "b", "c", "d"].map(|name| (format!("{name}.{DOMAIN}"), port));
    hosts.zone.publish_services(Services::from([
        (
            format!("_etcd-server-one._tcp.{DOMAIN}"),
            offered(2380).to_vec(),
        ),
        (
            format!("_etcd-client-one._tcp.{DOMAIN}"),
            offered(2379)[..3].to_vec(),
        ),
    ]));
    let url = format!("http://d.{DOMAIN}:2380");
    let added = wait::until("d is added", SOON, || async {
        hosts.kvctl(&["member", "add", "d", "--learner", "--peer-urls", &url])
    })
    .await?;
    let id = added
        .split_whitespace()
        .nth(1)
        .context("its ID")?
        .to_owned();
    // Nobody reaches it: it listens elsewhere.
    let arguments = [
        "--initial-cluster-state",
        "existing",
        "--listen-peer-urls",
        "http://127.0.0.1:9",
    ];
    hosts.start_with(3, &arguments)?;
    let process = hosts.hosts[3].process.as_mut().context("it runs")?;
    process.wait_log("starting a member", SOON).await?;
    process.signal(Signal::KILL)?;
    process.wait_exit(SOON).await?;
    hosts.kvctl(&["member", "remove", &id])?;
    hosts.start_with(3, &arguments)?;
    let process = hosts.hosts[3].process.as_mut().context("it runs")?;
    let status = process.wait_exit(SOON).await?;
    let log = process.log();
    ensure!(status.success(), "{status}: {log}");
    ensure!(
        log.contains("the member has been permanently removed from the cluster"),
        "{log}"
    );
    // And it is not started again as if nothing had happened.
    hosts.start_with(3, &arguments)?;
    let process = hosts.hosts[3].process.as_mut().context("it runs")?;
    let status = process.wait_exit(SOON).await?;
    ensure!(
        !status.success() && process.log().contains("remove the data directory"),
        "{status}: {}",
        process.log()
    );
    Ok(())
}
