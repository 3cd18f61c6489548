//! Golden scripts over one key's revisions. Update with `UPDATE_GOLDENFILES=1`, then read the diff.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::*;

/// The key under test; `None` before its first change and when nothing is left of it.
#[derive(Default)]
struct Runner {
    key: Option<KeyIndex>,
}

impl Runner {
    fn dump(&self) -> String {
        let revisions = |generation: &Generation, ended: bool| {
            let last = generation.revisions.len().wrapping_sub(1);
            let shown = generation
                .revisions
                .iter()
                .enumerate()
                .map(|(place, revision)| {
                    let mark = if ended && place == last { "(t)" } else { "" };
                    format!("{revision}{mark}")
                });
            format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
        };
        match &self.key {
            None => "nothing".into(),
            Some(KeyIndex::Head(head)) => format!("head {}", show(head.found())),
            Some(KeyIndex::History(history)) => {
                let mut shown: Vec<_> = history
                    .ended
                    .iter()
                    .map(|ended| revisions(ended, true))
                    .collect();
                shown.push(revisions(&history.open, false));
                shown.join(" ")
            }
        }
    }
}

fn show(found: Found) -> String {
    let Found {
        modified,
        created,
        version,
    } = found;
    format!("{modified} created={created} version={version}")
}

fn show_or<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "none".into(), show)
}

fn parse(text: &str) -> Result<Revision, Box<dyn Error>> {
    let (main, sub) = text.split_once('.').unwrap_or((text, "0"));
    Ok(Revision::new(main.parse()?, sub.parse()?))
}

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let lease = args.lookup_parse("lease")?.unwrap_or(0);
        let revision = args.next_pos().map(|arg| parse(&arg.value)).transpose()?;
        let revision = revision.unwrap_or_default();
        args.reject_rest()?;
        let mut output = String::new();
        let previous = |(found, lease)| format!("{} lease={lease}", show(found));
        match command.name.as_str() {
            "put" => {
                let replaced = match &mut self.key {
                    Some(key) => key.put(revision, lease),
                    None => {
                        let created = revision.main;
                        let found = Found {
                            modified: revision,
                            created,
                            version: 1,
                        };
                        self.key = Some(KeyIndex::new(found, lease));
                        None
                    }
                };
                writeln!(output, "replaces {}", show_or(replaced, previous))?;
            }
            "delete" => {
                let deleted = self.key.as_mut().and_then(|key| key.tombstone(revision));
                writeln!(output, "deletes {}", show_or(deleted, previous))?;
            }
            "restore_tombstone" => self.key = Some(KeyIndex::from_tombstone(revision)),
            "get" => {
                let found = self.key.as_ref().and_then(|key| key.get(revision.main));
                writeln!(output, "{}", show_or(found, show))?;
            }
            "keep" => {
                let kept = self.key.as_ref().and_then(|key| key.keep(revision.main));
                writeln!(output, "keeps {}", show_or(kept, |kept| kept.to_string()))?;
            }
            "compact" => {
                let kept = self.key.as_mut().and_then(|key| key.compact(revision.main));
                writeln!(output, "keeps {}", show_or(kept, |kept| kept.to_string()))?;
                self.key.take_if(|key| key.is_empty());
            }
            "dump" => writeln!(output, "{}", self.dump())?,
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(output)
    }
}

#[test]
fn scripts() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/testscripts/key_index");
    for entry in std::fs::read_dir(dir).expect("the scripts are there") {
        let path = entry.expect("readable").path();
        goldenscript::run(&mut Runner::default(), path).expect("the script runs");
    }
}

#[test]
fn a_key_with_one_revision_is_a_head_of_32_bytes() {
    assert_eq!(size_of::<KeyIndex>(), 32);
}

#[test]
fn what_does_not_fit_a_head_is_kept_aside() {
    let version = i64::from(u32::MAX) + 1;
    let found = Found {
        modified: Revision::new(9, 0),
        created: 3,
        version,
    };
    let mut key = KeyIndex::new(found, 7);
    assert_eq!(key.latest(), Some((found, 7)));
    assert_eq!(key.compact(9), Some(Revision::new(9, 0)));
    assert_eq!(key.get(9), Some(found));
}
