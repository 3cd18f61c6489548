//! Texts that users read, compared with files. `KVD_BLESS=1` writes the files anew.

use std::path::Path;

fn check(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("KVD_BLESS").is_some() {
        std::fs::write(&path, text).expect("write");
    }
    let kept = std::fs::read_to_string(&path).expect("run once with KVD_BLESS=1");
    assert!(
        kept == text,
        "{file} is not current: run KVD_BLESS=1 cargo test -p kvd --test golden"
    );
}

#[test]
fn help_is_as_kept() {
    check("tests/golden/help.txt", &kvd::flags::help::help());
}

#[test]
fn flag_documentation_is_current() {
    check("../../docs/flags.md", &kvd::flags::docs::markdown());
}
