//! The web page at `/ui`: its files, embedded, and how they are served.
//!
//! ```text
//! GET /ui            308 to /ui/
//! GET /ui/           index.html
//! GET /ui/*.js …     the files of assets/, as they are: no build step
//! GET /ui/port.json  what else this port answers, so that the page asks for nothing in vain
//! ```
//!
//! The page is a client like any other. It speaks to the port that it came from, by the JSON gateway
//! (`/v3`), `/v1/members`, `/metrics` and the probes, with the token of whoever signs in. Nothing
//! here knows of members or keys.
//!
//! Every answer forbids the browser to load, run or call anything from elsewhere ([`CSP`]), and has
//! an `ETag` of its content: a page is asked for again at each load and sent only when it changed.

mod assets;
mod serve;

pub use assets::{ASSETS, Asset};
pub use serve::{CSP, Port, router};
