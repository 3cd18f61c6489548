//! The files of the page.

/// One file.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Its name under `/ui/`; empty for the page itself.
    pub name: &'static str,
    /// The value of `Content-Type`.
    pub kind: &'static str,
    /// What is in it.
    pub content: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($name:literal, $kind:expr, $file:literal) => {
        Asset {
            name: $name,
            kind: $kind,
            content: include_bytes!(concat!("../assets/", $file)),
        }
    };
    ($file:literal, $kind:expr) => {
        asset!($file, $kind, $file)
    };
}

/// Every file. A test compares the list with the folder.
pub const ASSETS: &[Asset] = &[
    asset!("", HTML, "index.html"),
    asset!("style.css", CSS),
    asset!("icon.svg", SVG),
    asset!("api.js", JS),
    asset!("app.js", JS),
    asset!("bytes.js", JS),
    asset!("cluster.js", JS),
    asset!("diff.js", JS),
    asset!("dom.js", JS),
    asset!("editor.js", JS),
    asset!("history.js", JS),
    asset!("keys.js", JS),
    asset!("leases.js", JS),
    asset!("metrics.js", JS),
    asset!("permissions.js", JS),
    asset!("prometheus.js", JS),
    asset!("session.js", JS),
    asset!("theme.js", JS),
    asset!("value.js", JS),
    asset!("watch.js", JS),
];
