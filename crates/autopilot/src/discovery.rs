//! `--discovery-dns`: where other members are looked for.
//!
//! ```text
//! etcd.kvd.svc.cluster.local        every address of the name, at the port of this member's peers
//! tasks.etcd:2380,10.0.0.7:2380     several, with ports
//! file:/etc/kvd/peers               HOST[:PORT] a line, read anew each time
//! ```

use std::fmt;

/// One place to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// All addresses of a host, which may be one itself.
    Host {
        /// The host, without brackets.
        host: String,
        /// The peer port there.
        port: u16,
    },
    /// A file with more of them.
    File(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Source::Host { host, port } => write!(f, "{host}:{port}"),
            Source::File(path) => write!(f, "file:{path}"),
        }
    }
}

/// Reads a list of places; `port` is taken where there is none.
///
/// Errors: the entry that cannot be read.
pub fn parse(text: &str, port: u16) -> Result<Vec<Source>, String> {
    let entries = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    entries
        .map(|entry| match entry.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Source::File(path.to_owned())),
            Some(_) => Err(entry.to_owned()),
            None => host(entry, port).ok_or_else(|| entry.to_owned()),
        })
        .collect()
}

/// Reads the lines of a file of places. Empty lines and those that begin with `#` say nothing.
///
/// Errors: the line that cannot be read.
pub fn parse_lines(text: &str, port: u16) -> Result<Vec<Source>, String> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| host(line, port).ok_or_else(|| line.to_owned()))
        .collect()
}

fn host(entry: &str, port: u16) -> Option<Source> {
    let (host, port) = if let Some(rest) = entry.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        match rest.strip_prefix(':') {
            Some(port) => (host, port.parse().ok()?),
            None if rest.is_empty() => (host, port),
            None => return None,
        }
    } else {
        match entry.rsplit_once(':') {
            // More than one colon without brackets is an IPv6 address.
            Some((host, _)) if host.contains(':') => (entry, port),
            Some((host, port)) => (host, port.parse().ok()?),
            None => (entry, port),
        }
    };
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    let fits = !host.is_empty() && port != 0 && host.chars().all(is_fit);
    fits.then(|| Source::Host {
        host: host.trim_end_matches('.').to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let sources = parse(text, 2380).expect("readable");
        sources.iter().map(Source::to_string).collect()
    }

    #[test]
    fn names_addresses_and_files_are_told_apart() {
        assert_eq!(texts("etcd.kvd.svc."), ["etcd.kvd.svc:2380"]);
        assert_eq!(texts("a:1, 10.0.0.7 ,"), ["a:1", "10.0.0.7:2380"]);
        assert_eq!(
            texts("[fd00::1]:7,fd00::2"),
            ["[fd00::1]:7", "[fd00::2]:2380"]
        );
        assert_eq!(texts("file:/etc/peers"), ["file:/etc/peers"]);
        for wrong in ["a:b", "a:0", "file:", "http://a:1", "[::1", "a b", "[::1]x"] {
            assert!(parse(wrong, 2380).is_err(), "{wrong}");
        }
        let lines = parse_lines("# hosts\n\na:1\n b \n", 9).expect("readable");
        let lines: Vec<String> = lines.iter().map(Source::to_string).collect();
        assert_eq!(lines, ["a:1", "b:9"]);
        assert_eq!(parse_lines("a:1\nb:x\n", 9), Err("b:x".to_owned()));
    }
}
