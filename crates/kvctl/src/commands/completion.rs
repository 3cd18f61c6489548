//! completion: scripts for shells.

use std::ffi::OsString;

use clap_complete::{Shell, generate};

use crate::args::{command, help};
use crate::failure::{Failure, Outcome};
use crate::print::Streams;

pub(super) fn completion(words: &[OsString], to: &mut Streams<'_>) -> Outcome {
    let [shell] = words else {
        let message = format!("accepts 1 arg(s), received {}", words.len());
        return Err(Failure::error(message).with_details(usage()));
    };
    let shell = match shell.to_str() {
        Some("bash") => Shell::Bash,
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        Some("powershell") => Shell::PowerShell,
        _ => {
            let message = format!("invalid argument {shell:?} for \"kvctl completion\"");
            return Err(Failure::error(message).with_details(usage()));
        }
    };
    // Through memory: the generator panics when it cannot write, and a closed pipe is no error.
    let mut script = Vec::new();
    generate(shell, &mut command(), "kvctl", &mut script);
    to.out.write_all(&script)?;
    Ok(())
}

fn usage() -> String {
    help::usage_of("completion")
}
