//! What `--version` prints.

/// The lines of `--version`: etcd's four, so that tools that read them go on working, then ours.
///
/// The first line names the etcd release whose API is spoken, which is what such tools compare.
pub fn lines() -> String {
    format!(
        "etcd Version: {}\nGit SHA: {}\nGo Version: none ({})\nGo OS/Arch: {}/{}\n\
         kvd Version: {}\n",
        kvd_api::ETCD_VERSION,
        option_env!("KVD_GIT_SHA").unwrap_or("unknown"),
        option_env!("KVD_RUSTC_VERSION").unwrap_or("Rust"),
        std::env::consts::OS,
        architecture(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Go's name of the processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn begins_with_etcds_lines() {
        let text = super::lines();
        let starts: Vec<&str> = text
            .lines()
            .map(|line| line.split(':').next().unwrap_or_default())
            .collect();
        let expected = [
            "etcd Version",
            "Git SHA",
            "Go Version",
            "Go OS/Arch",
            "kvd Version",
        ];
        assert_eq!(starts, expected);
        assert!(text.starts_with("etcd Version: 3.7.1\n"), "{text}");
    }
}
