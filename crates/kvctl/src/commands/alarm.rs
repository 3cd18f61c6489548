//! alarm list, alarm disarm.

use std::ffi::OsString;

use super::Session;
use crate::args::Globals;
use crate::failure::{Failure, Outcome};
use crate::print::Streams;

pub(super) async fn list(globals: &Globals, words: &[OsString], to: &mut Streams<'_>) -> Outcome {
    if !words.is_empty() {
        return Err(Failure::bad_args("alarm list command accepts no arguments"));
    }
    let session = Session::open(globals, to).await?;
    let answer = session.client.alarm_list().await?;
    session.printer.alarm(to, &answer)
}

pub(super) async fn disarm(globals: &Globals, words: &[OsString], to: &mut Streams<'_>) -> Outcome {
    if !words.is_empty() {
        return Err(Failure::bad_args(
            "alarm disarm command accepts no arguments",
        ));
    }
    let session = Session::open(globals, to).await?;
    let answer = session.client.alarm_disarm_all().await?;
    session.printer.alarm(to, &answer)
}
