//! Passwords from a terminal, without showing them; or from whatever standard input is.

use std::io::{self, BufRead as _, IsTerminal as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

use crate::failure::{Failure, Outcome};
use crate::print::Streams;

/// What a shell reports of a program that an interrupt ended.
const INTERRUPTED: u8 = 130;

/// Asks for a password. An interrupt gives the terminal back as it was.
pub(crate) async fn password(prompt: &str, to: &mut Streams<'_>) -> Result<String, Failure> {
    // Before the prompt: a program that answers it at once must not see its answer shown.
    let hidden = Hidden::new().map_err(|err| failed(&err))?;
    to.out.write_all(prompt.as_bytes())?;
    to.out.flush()?;
    let (sender, line) = oneshot::channel();
    // A thread of its own, which the end of the process ends: reading cannot be interrupted.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        // Nobody listens any more after an interrupt.
        drop(sender.send(read.map(|_| line)));
    });
    let read = tokio::select! {
        read = line => read,
        _ = tokio::signal::ctrl_c() => {
            drop(hidden);
            return Err(Failure::silent(INTERRUPTED));
        }
    };
    drop(hidden);
    writeln!(to.out)?;
    to.out.flush()?;
    let line = match read {
        Ok(Ok(line)) => line,
        Ok(Err(err)) => return Err(failed(&err)),
        Err(_) => return Err(Failure::error("the terminal cannot be read")),
    };
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks twice for a new password, which must not be empty.
pub(super) async fn new_password(name: &str, to: &mut Streams<'_>) -> Result<String, Failure> {
    let asked = |failure: Failure| {
        let message = format!("failed to ask password: {}", failure.message);
        match failure.code {
            INTERRUPTED => failure,
            _ => Failure::bad_args(message),
        }
    };
    let first = password(&format!("Password of {name}: "), to).await;
    let first = first.map_err(asked)?;
    if first.is_empty() {
        return Err(Failure::bad_args("empty password"));
    }
    let prompt = format!("Type password of {name} again for confirmation: ");
    let second = password(&prompt, to).await.map_err(asked)?;
    if first != second {
        return Err(Failure::bad_args("given passwords are different"));
    }
    Ok(first)
}

/// The first word of standard input; empty when there is none.
pub(super) fn password_from_stdin() -> String {
    let mut line = String::new();
    // As in etcdctl, what cannot be read is no password.
    drop(io::stdin().lock().read_line(&mut line));
    line.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn failed(err: &io::Error) -> Failure {
    Failure::error(format!("the terminal cannot be read: {err}"))
}

/// While it lives, the terminal does not show what is typed. Nothing where there is no terminal.
struct Hidden {
    before: Option<Termios>,
}

impl Hidden {
    fn new() -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Hidden { before: None });
        }
        let before = tcgetattr(&stdin)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // What was typed ahead is the answer.
        tcsetattr(&stdin, OptionalActions::Now, &silent)?;
        Ok(Hidden {
            before: Some(before),
        })
    }

    fn restore(&self) -> io::Result<()> {
        if let Some(before) = &self.before {
            tcsetattr(io::stdin(), OptionalActions::Now, before)?;
        }
        Ok(())
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(err) = self.restore() {
            eprintln!("Warning: the terminal still hides what is typed ({err}); try: stty echo");
        }
    }
}

/// Splits `name:password`.
pub(super) fn split(user: &str) -> (&str, Option<&str>) {
    match user.split_once(':') {
        Some((name, password)) => (name, Some(password)),
        None => (user, None),
    }
}

/// Refuses a command line without enough words, or with too many.
pub(super) fn count<const N: usize>(
    words: &[std::ffi::OsString],
    otherwise: &str,
) -> Result<[String; N], Failure> {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.try_into().map_err(|_| Failure::bad_args(otherwise))
}

/// As [`count`], for a command without words.
pub(super) fn none(words: &[std::ffi::OsString], otherwise: &str) -> Outcome {
    count::<0>(words, otherwise).map(drop)
}
