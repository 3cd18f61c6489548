//! Chromium without a screen, driven by WebDriver.
//!
//! The protocol is JSON over HTTP to `chromedriver`, which starts the browser. Source: W3C WebDriver;
//! what begins with `goog/` is chromedriver's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http;
use crate::process::Process;
use crate::wait;

/// Longest time that the browser may take for anything, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Set where a machine without a browser must not pass.
const REQUIRED: &str = "KVD_UI_REQUIRED";
/// Names a folder for screenshots.
const SCREENSHOTS: &str = "KVD_UI_SCREENSHOTS";

/// Keys that are no text, as WebDriver numbers them.
pub mod keys {
    /// Tab.
    pub const TAB: char = '\u{e004}';
    /// Return.
    pub const ENTER: char = '\u{e007}';
    /// Shift, held while the next keys are pressed.
    pub const SHIFT: char = '\u{e008}';
    /// Control, held while the next keys are pressed.
    pub const CONTROL: char = '\u{e009}';
    /// Escape.
    pub const ESCAPE: char = '\u{e00c}';
    /// Arrow down.
    pub const DOWN: char = '\u{e015}';
}

/// A browser with one page. Dropping it ends the browser and its driver.
#[derive(Debug)]
pub struct Browser {
    address: String,
    session: String,
    _driver: Process,
    _folder: TempDir,
}

fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut all = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    all.find(|candidate| candidate.is_file())
}

/// The browser and its driver.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let browser = program(&["chromium", "chromium-browser", "google-chrome"])?;
    Some((browser, program(&["chromedriver"])?))
}

impl Browser {
    /// Starts one; `None`, said on standard error, where there is no Chromium.
    ///
    /// Errors: when it does not start, or there is none and `KVD_UI_REQUIRED` is set.
    pub async fn start() -> Result<Option<Browser>> {
        let Some((browser, driver)) = programs() else {
            ensure!(
                std::env::var_os(REQUIRED).is_none(),
                "{REQUIRED} is set, and chromium or chromedriver is not installed"
            );
            eprintln!("skipped: chromium and chromedriver are not installed");
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("kvd-browser-").tempdir()?;
        let mut command = Command::new(driver);
        // Both keep files there and leave some when they are killed.
        command.arg("--port=0").env("TMPDIR", folder.path());
        let mut driver = Process::start(command, folder.path(), "chromedriver.log")?;
        let started = "was started successfully on port ";
        driver.wait_log(started, PATIENCE).await?;
        let log = driver.log();
        let port = log
            .split(started)
            .nth(1)
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
            .context("chromedriver names its port")?;
        let address = format!("127.0.0.1:{port}");
        let session = open_session(&address, &browser, folder.path())?;
        Ok(Some(Browser {
            address,
            session,
            _driver: driver,
            _folder: folder,
        }))
    }

    fn post(&self, command: &str, body: &Value) -> Result<Value> {
        let path = format!("/session/{}/{command}", self.session);
        exchange(&self.address, "POST", &path, &body.to_string())
    }

    fn get(&self, command: &str) -> Result<Value> {
        let path = format!("/session/{}/{command}", self.session);
        exchange(&self.address, "GET", &path, "")
    }

    /// Loads a page and waits until it is there.
    ///
    /// Errors: when it cannot be loaded.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("url", &json!({ "url": url }))?;
        Ok(())
    }

    /// Loads the page again.
    ///
    /// Errors: when it cannot be loaded.
    pub fn reload(&self) -> Result<()> {
        self.post("refresh", &json!({}))?;
        Ok(())
    }

    /// The value of an expression in the page.
    ///
    /// Errors: what it throws.
    pub fn eval(&self, expression: &str) -> Result<Value> {
        let script = format!("return ({expression});");
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
            .with_context(|| format!("in the page: {expression}"))
    }

    /// Runs the body of an async function in the page, and gives what it returns.
    ///
    /// Errors: what it throws.
    pub fn run(&self, body: &str) -> Result<Value> {
        let script = format!(
            "const done = arguments[arguments.length - 1]; (async () => {{ {body} }})()
             .then((value) => done({{ value: value ?? null }}), (error) => done({{ error: String(error) }}));"
        );
        let answer = self.post("execute/async", &json!({ "script": script, "args": [] }))?;
        match answer["error"].as_str() {
            Some(error) => bail!("in the page: {error}"),
            None => Ok(answer["value"].clone()),
        }
    }

    /// Waits until an expression in the page is true, and gives its value.
    ///
    /// Errors: after [`PATIENCE`], with what the page shows.
    pub async fn until(&self, expression: &str) -> Result<Value> {
        let seen = wait::until(expression, PATIENCE, || async {
            let value = self.eval(expression)?;
            let is_true = !matches!(value, Value::Null | Value::Bool(false));
            ensure!(
                is_true && value != json!("") && value != json!(0),
                "{value}"
            );
            Ok(value)
        })
        .await;
        match seen {
            Ok(value) => Ok(value),
            Err(error) => {
                let text = self.eval("document.body.innerText");
                let text = text.unwrap_or_default();
                let log = self.log().unwrap_or_default();
                bail!(
                    "{error:#}\nthe page:\n{}\nits log: {log:?}",
                    text.as_str().unwrap_or("")
                )
            }
        }
    }

    /// Presses keys until an expression in the page is true: what is pressed while the page exchanges
    /// what it shows is lost, to a person, too.
    ///
    /// Errors: as [`Browser::until`].
    pub async fn press_until(&self, keys: &str, expression: &str) -> Result<Value> {
        let often = wait::until(expression, PATIENCE, || async {
            self.press(keys)?;
            wait::until(expression, Duration::from_secs(2), || async {
                ensure!(self.eval(expression)? == true, "not yet");
                Ok(())
            })
            .await
        });
        // Whether it came or not, `until` says what there is.
        drop(often.await);
        self.until(expression).await
    }

    /// Waits until the page shows a text.
    ///
    /// Errors: as [`Browser::until`].
    pub async fn until_shown(&self, text: &str) -> Result<()> {
        let expression = format!("document.body.innerText.includes({})", json!(text));
        self.until(&expression).await?;
        Ok(())
    }

    /// Presses keys one after the other; [`keys::SHIFT`] and [`keys::CONTROL`] are held to the end.
    ///
    /// Errors: when the browser does not take them.
    pub fn press(&self, keys: &str) -> Result<()> {
        let mut actions = Vec::new();
        let mut held = Vec::new();
        for key in keys.chars() {
            actions.push(json!({ "type": "keyDown", "value": key.to_string() }));
            if key == keys::SHIFT || key == keys::CONTROL {
                held.push(key);
            } else {
                actions.push(json!({ "type": "keyUp", "value": key.to_string() }));
            }
        }
        for key in held {
            actions.push(json!({ "type": "keyUp", "value": key.to_string() }));
        }
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.post("actions", &body)?;
        Ok(())
    }

    /// Clicks the first element of a selector that has this text, in the top dialog if one is open.
    ///
    /// Errors: when there is none.
    pub fn click(&self, selector: &str, text: &str) -> Result<()> {
        let clicked = self.eval(&format!(
            "(() => {{
                const dialogs = [...document.querySelectorAll('dialog[open]')];
                const root = dialogs.at(-1) ?? document;
                const all = [...root.querySelectorAll({})];
                const one = all.find((e) => e.textContent.trim() === {} && e.getClientRects().length);
                one?.click();
                return one !== undefined;
            }})()",
            json!(selector),
            json!(text)
        ))?;
        ensure!(clicked == json!(true), "there is no {selector} {text:?}");
        Ok(())
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", &body)
    }

    /// Says which theme the system has.
    ///
    /// Errors: when the browser does not take it.
    pub fn prefer_dark(&self, dark: bool) -> Result<()> {
        let value = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", &features)?;
        Ok(())
    }

    /// Sets the size of the page, in pixels.
    ///
    /// Errors: when the browser does not take it.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &size)?;
        Ok(())
    }

    /// Writes what is seen to `NAME.png`, if `KVD_UI_SCREENSHOTS` names a folder.
    ///
    /// Errors: when it cannot be written.
    pub fn screenshot(&self, name: &str) -> Result<()> {
        let Some(folder) = std::env::var_os(SCREENSHOTS).map(PathBuf::from) else {
            return Ok(());
        };
        let image = self.get("screenshot")?;
        let image = STANDARD.decode(image.as_str().context("an image")?)?;
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("{name}.png")), image)?;
        Ok(())
    }

    /// What the browser's console got since the last call, without answers that only have a bad
    /// status: those are the page's to explain. Violations of the content security policy, errors of
    /// scripts and what failed to load at all are among it.
    ///
    /// Errors: when the browser does not tell.
    pub fn log(&self) -> Result<Vec<String>> {
        let entries = self.post("se/log", &json!({ "type": "browser" }))?;
        let entries = entries.as_array().context("a list")?.iter();
        let told = entries.filter(|entry| {
            let message = entry["message"].as_str().unwrap_or_default();
            entry["source"] != "network" || !message.contains("responded with a status of")
        });
        Ok(told.map(ToString::to_string).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its driver is ended anyway; asked first, the browser ends in order.
        let path = format!("/session/{}", self.session);
        let patience = Duration::from_secs(5);
        drop(http::request_within(
            patience,
            &self.address,
            "DELETE",
            &path,
            "",
            "",
        ));
    }
}

fn open_session(address: &str, browser: &Path, folder: &Path) -> Result<String> {
    let profile = folder.join("profile");
    let options = json!({
        "binary": browser,
        "args": [
            "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-sandbox",
            "--no-first-run", "--hide-scrollbars", "--window-size=1280,800",
            format!("--user-data-dir={}", profile.display()),
        ],
    });
    let wanted = json!({
        "browserName": "chrome",
        "acceptInsecureCerts": true,
        "goog:loggingPrefs": { "browser": "ALL" },
        "goog:chromeOptions": options,
    });
    let body = json!({ "capabilities": { "alwaysMatch": wanted } }).to_string();
    let session = exchange(address, "POST", "/session", &body)?;
    let session = session["sessionId"].as_str().context("a session")?;
    Ok(session.to_owned())
}

fn exchange(address: &str, method: &str, path: &str, body: &str) -> Result<Value> {
    let kind = "Content-Type: application/json\r\n";
    let reply = http::request_within(PATIENCE, address, method, path, kind, body)?;
    let mut answer = reply.json()?;
    if reply.status == 200 {
        return Ok(answer["value"].take());
    }
    let value = &answer["value"];
    bail!("{method} {path}: {}: {}", value["error"], value["message"])
}
