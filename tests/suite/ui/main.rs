//! The web page in a real browser: every view, plain and with TLS and users, by mouse and by
//! keyboard alone.
//!
//! `KVD_UI_SCREENSHOTS=FOLDER` keeps what was seen, light and dark, wide and narrow. Without
//! Chromium the tests say `skipped`, unless `KVD_UI_REQUIRED` is set.
#![allow(missing_docs)]

mod keyboard;
mod modules;
mod ports;
mod users;
mod views;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kvd_tests::browser::Browser;
use kvd_tests::http;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// One browser at a time: several would only wait for each other.
static TURN: Mutex<()> = Mutex::const_new(());

/// A browser and the turn to use it.
pub struct Turn {
    pub browser: Browser,
    _guard: MutexGuard<'static, ()>,
}

/// The browser; `None` where there is none.
pub async fn turn() -> Result<Option<Turn>> {
    let guard = TURN.lock().await;
    let browser = Browser::start().await?;
    Ok(browser.map(|browser| Turn {
        browser,
        _guard: guard,
    }))
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Calls the gateway of a member without TLS.
pub fn call(address: &str, path: &str, body: &Value) -> Result<Value> {
    let reply = http::post(address, &format!("/v3/{path}"), &body.to_string())?;
    ensure!(reply.status == 200, "{path}: {reply:?}");
    reply.json()
}

pub fn put(address: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Value> {
    let body = json!({ "key": encode(key), "value": encode(value) });
    call(address, "kv/put", &body)
}

/// The value and version of a key, if it is there.
pub fn get(address: &str, key: &str) -> Result<Option<(String, String)>> {
    let answer = call(address, "kv/range", &json!({ "key": encode(key) }))?;
    let pair = &answer["kvs"][0];
    if pair.is_null() {
        return Ok(None);
    }
    let value = STANDARD.decode(pair["value"].as_str().unwrap_or_default())?;
    let version = pair["version"].as_str().unwrap_or_default().to_owned();
    Ok(Some((String::from_utf8(value)?, version)))
}

/// What is wrong with the page as it is now: text without contrast, controls without a name, more
/// width than there is.
const FAULTS: &str = r"
const faults = [];
const shown = { opacityProperty: true, visibilityProperty: true };
const seen = (e) => e.checkVisibility(shown) && e.getClientRects().length > 0;
const parse = (text) => {
  const numbers = text.match(/[\d.]+/g).map(Number);
  return { rgb: numbers.slice(0, 3), alpha: numbers[3] ?? 1 };
};
const luminance = (rgb) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (e) => {
  for (let at = e; at; at = at.parentElement) {
    const { rgb, alpha } = parse(getComputedStyle(at).backgroundColor);
    if (alpha === 1) return rgb;
  }
  return [255, 255, 255];
};
for (const e of document.querySelectorAll('body *')) {
  if (!seen(e) || e.closest('[disabled], .visually-hidden, svg, dialog:not([open]), [inert]')) continue;
  const text = [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
  if (!text) continue;
  const front = luminance(parse(getComputedStyle(e).color).rgb);
  const back = luminance(behind(e));
  const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
  if (contrast >= 4.5) continue;
  const what = `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`;
  faults.push(`contrast ${contrast.toFixed(2)}: ${what}`);
}
const controls = 'a, button, input, textarea, [tabindex], svg[role=img], meter, progress';
for (const e of document.querySelectorAll(controls)) {
  if (!seen(e) || e.tabIndex === -1) continue;
  const named = e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length || e.title;
  if (!named) faults.push(`no name: ${e.outerHTML.slice(0, 120)}`);
}
for (const e of document.querySelectorAll('[style]')) faults.push(`inline style: ${e.tagName}`);
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
if (wide > 0) faults.push(`${wide} pixels too wide`);
return faults;
";

/// Looks at the page in both themes, wide and narrow, and keeps what it sees.
pub fn look(browser: &Browser, name: &str) -> Result<()> {
    for (size, width, height) in [("wide", 1280, 800), ("narrow", 390, 844)] {
        browser.resize(width, height)?;
        for (theme, dark) in [("light", false), ("dark", true)] {
            browser.prefer_dark(dark)?;
            // Colours change by transition where the system allows motion.
            browser.run(
                "await Promise.allSettled(document.getAnimations().map((a) => a.finished));",
            )?;
            browser.screenshot(&format!("{name}-{theme}-{size}"))?;
            let faults = browser.run(FAULTS)?;
            ensure!(faults == json!([]), "{name}, {theme}, {size}: {faults:#}");
        }
    }
    browser.resize(1280, 800)?;
    browser.prefer_dark(false)
}

/// Nothing was refused by the content security policy, and no script failed.
pub fn no_complaints(browser: &Browser) -> Result<()> {
    let log = browser.log()?;
    ensure!(log.is_empty(), "the browser's console: {log:#?}");
    Ok(())
}
