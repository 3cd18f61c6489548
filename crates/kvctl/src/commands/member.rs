//! member list.

use super::{Session, is_serializable};
use crate::args::{Globals, MemberListArgs};
use crate::failure::Outcome;
use crate::print::Streams;

pub(super) async fn list(
    globals: &Globals,
    args: &MemberListArgs,
    to: &mut Streams<'_>,
) -> Outcome {
    let linearizable = !is_serializable(&args.consistency)?;
    let session = Session::open(globals, to)?;
    let answer = session.client.member_list(linearizable).await?;
    session.printer.member_list(to, &answer)
}
