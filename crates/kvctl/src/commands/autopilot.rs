//! autopilot status: how the members are, and what is done about them.

use kvd_autopilot::status::Status;

use super::Session;
use crate::args::Globals;
use crate::failure::{self, Failure, Outcome};
use crate::print::Streams;

/// Where a member tells it.
const PATH: &str = "/v1/autopilot";

/// Prints what the first of the endpoints that answers says.
pub(super) async fn status(globals: &Globals, to: &mut Streams<'_>) -> Outcome {
    let session = Session::open(globals, to).await?;
    let mut refusals = Vec::new();
    for endpoint in session.endpoints() {
        match session.client.page(&endpoint, PATH).await {
            Ok((code, body)) if code.is_success() => {
                let status: Status = serde_json::from_slice(&body).map_err(|error| {
                    Failure::error(format!("the answer of {endpoint} cannot be read: {error}"))
                })?;
                return session.printer.autopilot(to, &status);
            }
            Ok((code, _)) => refusals.push(format!(
                "{endpoint} answered {code}: it is no kvd that knows autopilot, or serves HTTP elsewhere \
                 (--listen-client-http-urls)"
            )),
            Err(error) => refusals.push(format!("{endpoint}: {}", failure::text(&error))),
        }
    }
    Err(Failure::error(refusals.join("; ")))
}
