//! The machine: what it must have, and a corner of it that nothing else sees.
//!
//! A test starts itself once more in network, mount and process namespaces of its own. There it is
//! root of everything: addresses and names collide with nobody's, no packet leaves, and when it
//! ends, however it ends, the kernel takes all that it started and mounted with it.

use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};

/// Set in the inner process.
const INSIDE: &str = "KVD_PODSIM_INSIDE";
/// Set where a test that cannot run must fail instead of being skipped, as in CI.
const REQUIRED: &str = "KVD_PODSIM_REQUIRED";
/// How many lines of what an inner process said its failure quotes.
const END: usize = 60;
/// What is run, and the Debian package of each.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("pivot_root", "util-linux"),
    ("mount", "mount"),
];

/// The link address of the pods' gateway.
const GATEWAY_MAC: &str = "02:00:0a:f4:00:01";

/// One set of pods at a time: they share this machine's cores.
static ONE: Mutex<()> = Mutex::new(());

/// Runs `test` in a corner of its own. `name` is the name of the `#[test]` function that calls.
///
/// Where the machine lacks something, prints `skipped` and the reason, unless
/// `KVD_PODSIM_REQUIRED` is set.
///
/// Errors: what the test fails with.
pub fn isolated<F>(name: &str, test: F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    side_by_side(name, 1, &[], |_| test)
}

/// The same `count` times at once, each in a corner of its own and with `variables` in its
/// environment; `test` is told which it is, from 0 on.
///
/// Errors: what the first of them fails with.
pub fn side_by_side<F>(
    name: &str,
    count: usize,
    variables: &[(&str, String)],
    test: impl FnOnce(usize) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    if let Some(inside) = std::env::var_os(INSIDE) {
        let number = inside.to_str().and_then(|number| number.parse().ok());
        prepare()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        return runtime.block_on(test(number.context("which of them")?));
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(reason) = supported() {
        if std::env::var_os(REQUIRED).is_some() {
            bail!("{REQUIRED} is set and {name} cannot run: {reason:#}");
        }
        println!("skipped: {name}: {reason:#}");
        return Ok(());
    }
    let mut inner = Vec::with_capacity(count);
    for number in 0..count {
        // However this process ends, the inner ones end with it.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--net", "--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(std::env::current_exe()?)
            .args(["--exact", name, "--include-ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .env(INSIDE, number.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = [told(child.stdout.take()), told(child.stderr.take())];
        inner.push((child, said));
    }
    // All are waited for before any is judged.
    let mut ended = Vec::with_capacity(count);
    for (mut child, said) in inner {
        let status = child.wait();
        let said = said.into_iter().flat_map(|lines| lines.join().ok());
        ended.push((status?, said.flatten().collect::<Vec<_>>()));
    }
    for (status, said) in ended {
        let end = &said[said.len().saturating_sub(END)..];
        let end = end.join("\n");
        ensure!(status.success(), "{name} failed inside: {status}\n{end}");
    }
    Ok(())
}

/// Passes on what an inner process says, and keeps it without stack backtraces.
fn told(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let lines = stream.map(|stream| BufReader::new(stream).split(b'\n'));
        let mut kept = Vec::new();
        for line in lines.into_iter().flatten().map_while(std::io::Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            println!("{line}");
            let frame = line.trim_start();
            let number = frame.split(':').next().unwrap_or_default();
            let is_frame = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
            if !(frame.len() < line.len() && (is_frame || frame.starts_with("at "))) {
                kept.push(line);
            }
        }
        kept
    })
}

fn supported() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "it takes root to make network namespaces"
    );
    for (program, package) in PROGRAMS {
        ensure!(find(program), "{program} is missing ({package})");
    }
    kustomize()?;
    let try_out = "mount -t tmpfs podsim /mnt && ip link add podsim0 type bridge && \
                   mkdir /mnt/netns && mount --bind /mnt/netns /mnt/netns";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc"])
        .args(["sh", "-c", try_out])
        .output()?;
    ensure!(
        output.status.success(),
        "this machine refuses namespaces: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Whether a test that needs a further program can run. Where it cannot, says `skipped` and why,
/// as [`isolated`] does.
///
/// Errors: `KVD_PODSIM_REQUIRED` is set.
pub fn has(program: &str, package: &str) -> Result<bool> {
    let found = find(program);
    if !found {
        ensure!(
            std::env::var_os(REQUIRED).is_none(),
            "{REQUIRED} is set and {program} is missing ({package})"
        );
        println!("skipped: {program} is missing ({package})");
    }
    Ok(found)
}

fn find(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

fn kustomize() -> Result<Vec<String>> {
    if find("kustomize") {
        return Ok(vec!["kustomize".to_owned(), "build".to_owned()]);
    }
    ensure!(find("kubectl"), "neither kustomize nor kubectl is here");
    Ok(vec!["kubectl".to_owned(), "kustomize".to_owned()])
}

/// Renders a folder below `deploy/k8s`.
///
/// Errors: when there is no kustomize, or it refuses.
pub fn render(folder: &str) -> Result<String> {
    let command = kustomize()?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy/k8s")
        .join(folder);
    let output = Command::new(&command[0])
        .args(&command[1..])
        .arg(&path)
        .output()?;
    ensure!(
        output.status.success(),
        "{command:?} {}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// What `create-cluster.sh --print` writes.
///
/// Errors: when it refuses.
pub fn created(arguments: &[&str]) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/k8s/create-cluster.sh");
    let output = Command::new(&script)
        .arg("--print")
        .args(arguments)
        .env("KUSTOMIZE", kustomize()?.join(" "))
        .output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Inside: a place for named network namespaces, and a node's network.
fn prepare() -> Result<()> {
    std::fs::create_dir_all("/run/netns")?;
    run("mount", &["-t", "tmpfs", "podsim", "/run/netns"])?;
    run("ip", &["link", "set", "lo", "up"])?;
    // A bridge without an address of its own takes the lowest of its ports', which changes when that
    // pod goes: the others would not reach the name server until they ask for the gateway anew.
    let bridge = [
        "link",
        "add",
        "cni0",
        "address",
        GATEWAY_MAC,
        "type",
        "bridge",
    ];
    run("ip", &bridge)?;
    run("ip", &["addr", "add", "10.244.0.1/16", "dev", "cni0"])?;
    run("ip", &["link", "set", "cni0", "up"])
}

/// Runs a program to its end.
///
/// Errors: when it fails, with what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Runs commands of `ip`, one a line.
///
/// Errors: when one fails; those after it are not run.
pub fn ip(commands: &str) -> Result<()> {
    batch(&[], commands)
}

/// The same in a network namespace.
///
/// Errors: when one fails; those after it are not run.
pub fn ip_in(netns: &str, commands: &str) -> Result<()> {
    batch(&["-n", netns], commands)
}

fn batch(arguments: &[&str], commands: &str) -> Result<()> {
    use std::io::Write;
    let mut child = Command::new("ip")
        .args(arguments)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip")?;
    let mut input = child.stdin.take().context("its standard input")?;
    input.write_all(commands.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "ip {}: {}\n{commands}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
