use std::os::unix::fs::PermissionsExt;

use super::*;

/// A store directory with one finished generation.
fn finished(root: &Path) {
    let (directory, found) = Directory::open(root, EngineKind::Redb).expect("create");
    assert_eq!(found, Found::Fresh);
    fs::write(directory.generation_dir().join("data"), "x").expect("the engine's file");
    directory.finish_creation().expect("finish");
}

#[test]
fn a_store_is_fresh_then_unclean_then_clean() {
    let root = tempfile::tempdir().expect("tempdir");
    let root = root.path().join("a/b");
    finished(&root);
    assert_eq!(
        fs::metadata(&root).expect("there").permissions().mode() & 0o777,
        0o700
    );
    let (directory, found) = Directory::open(&root, EngineKind::Redb).expect("open");
    assert_eq!(found, Found::Unclean);
    directory.mark_clean().expect("mark");
    drop(directory);
    let (directory, found) = Directory::open(&root, EngineKind::Redb).expect("open");
    assert_eq!(found, Found::Clean);
    directory.clear_clean().expect("clear");
    drop(directory);
    let (_, found) = Directory::open(&root, EngineKind::Redb).expect("open");
    assert_eq!(found, Found::Unclean);
}

#[test]
fn an_interrupted_creation_starts_over() {
    let root = tempfile::tempdir().expect("tempdir");
    let (directory, _) = Directory::open(root.path(), EngineKind::Sled).expect("create");
    fs::write(directory.generation_dir().join("half"), "x").expect("write");
    drop(directory);
    let (directory, found) = Directory::open(root.path(), EngineKind::Redb).expect("open");
    assert_eq!(found, Found::Fresh);
    assert!(!directory.generation_dir().join("half").exists());
}

#[test]
fn switching_replaces_the_generation_and_a_half_one_is_removed() {
    let root = tempfile::tempdir().expect("tempdir");
    finished(root.path());
    let (mut directory, _) = Directory::open(root.path(), EngineKind::Redb).expect("open");
    let next = directory.next_generation().expect("next");
    fs::write(next.join("data"), "new").expect("write");
    drop(directory); // a crash before the switch
    directory = Directory::open(root.path(), EngineKind::Redb)
        .expect("open")
        .0;
    assert!(!next.exists());
    assert_eq!(
        fs::read(directory.generation_dir().join("data")).expect("read"),
        b"x"
    );

    let next = directory.next_generation().expect("next");
    fs::write(next.join("data"), "new").expect("write");
    directory.switch().expect("switch");
    drop(directory); // a crash after it
    directory = Directory::open(root.path(), EngineKind::Redb)
        .expect("open")
        .0;
    assert_eq!(
        fs::read(directory.generation_dir().join("data")).expect("read"),
        b"new"
    );
    assert!(!root.path().join("db/1").exists());
}

#[test]
fn what_cannot_be_opened_says_why() {
    let root = tempfile::tempdir().expect("tempdir");
    finished(root.path());
    let open = |engine| Directory::open(root.path(), engine).map(|_| ());
    let held = Directory::open(root.path(), EngineKind::Redb).expect("open");
    assert!(matches!(open(EngineKind::Redb), Err(Error::Locked { .. })));
    drop(held);
    assert!(matches!(
        open(EngineKind::Sled),
        Err(Error::WrongEngine { .. })
    ));

    let replace = |name: &str, content: &str| {
        let old = fs::read(root.path().join(name)).expect("read");
        fs::write(root.path().join(name), content).expect("write");
        old
    };
    let old = replace("FORMAT", "kvd-mvcc 9\nengine redb\n");
    let newer = open(EngineKind::Redb);
    assert!(matches!(
        newer,
        Err(Error::NewerFormat {
            found: 9,
            supported: 1,
            ..
        })
    ));
    fs::write(root.path().join("FORMAT"), old).expect("write");
    for (name, content) in [("FORMAT", "nonsense"), ("CURRENT", "x"), ("CURRENT", "7")] {
        let old = replace(name, content);
        assert!(
            matches!(open(EngineKind::Redb), Err(Error::Corrupt { .. })),
            "{name} {content}"
        );
        fs::write(root.path().join(name), old).expect("write");
    }
    for name in ["FORMAT", "CURRENT"] {
        let old = fs::read(root.path().join(name)).expect("read");
        fs::remove_file(root.path().join(name)).expect("remove");
        assert!(
            matches!(open(EngineKind::Redb), Err(Error::Corrupt { .. })),
            "{name} missing"
        );
        fs::write(root.path().join(name), old).expect("write");
    }
    open(EngineKind::Redb).expect("nothing was changed by the refusals");
}
