//! Names with ordinals, as a StatefulSet gives them: `etcd-2` is number 2 of `etcd`.

/// The set and the number of a name such as `etcd-2`; `None` when it has none.
///
/// Numbers have no leading zeros: `etcd-02` is the name of a machine.
pub fn ordinal(name: &str) -> Option<(&str, u32)> {
    let (set, number) = name.rsplit_once('-')?;
    let is_canonical = number == "0" || !number.starts_with('0');
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if set.is_empty() || !is_number || !is_canonical {
        return None;
    }
    Some((set, number.parse().ok()?))
}

/// What a member is called: its name, or until it has published that the first label of the host
/// in its peer URL, which is the pod's name in a StatefulSet.
pub fn called<'a>(name: &'a str, peer_urls: &'a [String]) -> &'a str {
    if !name.is_empty() {
        return name;
    }
    let Some((_, rest)) = peer_urls.first().and_then(|url| url.split_once("://")) else {
        return "";
    };
    let end = rest.find(['.', ':', '/']).unwrap_or(rest.len());
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_ends_the_name() {
        assert_eq!(ordinal("etcd-0"), Some(("etcd", 0)));
        assert_eq!(ordinal("my-db-12"), Some(("my-db", 12)));
        for other in [
            "etcd",
            "etcd-",
            "-1",
            "etcd-01",
            "etcd-x",
            "etcd-4294967296",
            "",
        ] {
            assert_eq!(ordinal(other), None, "{other}");
        }
    }

    #[test]
    fn who_has_no_name_yet_is_called_after_its_url() {
        let urls = ["http://etcd-3.etcd:2380".to_owned()];
        assert_eq!(called("", &urls), "etcd-3");
        assert_eq!(called("a", &urls), "a");
        assert_eq!(called("", &["unix:///run/x".to_owned()]), "");
        assert_eq!(called("", &[]), "");
    }
}
