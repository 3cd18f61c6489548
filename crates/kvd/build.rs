//! Tells the binary which compiler and which commit built it.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=KVD_GIT_SHA");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    if let Some(version) = first_line(&rustc, &["--version"]) {
        // `rustc 1.95.0 (…)`: the middle word.
        let number = version.split_whitespace().nth(1).unwrap_or("unknown");
        println!("cargo::rustc-env=KVD_RUSTC_VERSION=Rust {number}");
    }
    if std::env::var_os("KVD_GIT_SHA").is_none()
        && let Some(sha) = first_line("git", &["rev-parse", "--short", "HEAD"])
    {
        println!("cargo::rustc-env=KVD_GIT_SHA={sha}");
    }
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
