//! Keys alone, no pointer.

use anyhow::{Result, ensure};
use kvd_tests::browser::{Browser, keys};
use kvd_tests::cluster::Cluster;
use serde_json::json;

use super::{get, no_complaints, put, turn};

const ACTIVE: &str = "(document.activeElement.name || document.activeElement.textContent.trim())";

/// Presses Tab until the control with this name or text has the focus, which must be seen.
fn tab_to(browser: &Browser, control: &str) -> Result<()> {
    for _ in 0..40 {
        browser.press(&keys::TAB.to_string())?;
        if browser.eval(ACTIVE)? == json!(control) {
            let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle")?;
            ensure!(
                outline != json!("none"),
                "the focus on {control} is not seen"
            );
            return Ok(());
        }
    }
    anyhow::bail!("{control} cannot be reached by Tab")
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_changed_and_deleted_by_keyboard_alone() -> Result<()> {
    let Some(turn) = turn().await? else {
        return Ok(());
    };
    let browser = &turn.browser;
    let cluster = Cluster::start(1, &[]).await?;
    let address = cluster.members[0].client_address();
    browser.open(&format!("http://{address}/ui/"))?;
    browser
        .until("document.querySelectorAll('tbody tr').length === 1")
        .await?;

    // The views, and everything in the frame, by Tab.
    for control in ["Cluster", "Metrics", "?"] {
        tab_to(browser, control)?;
    }
    browser.press(&keys::ENTER.to_string())?;
    browser
        .until("document.querySelector('dialog[open]')")
        .await?;
    the_focus_stays_in_the_dialog(browser)?;
    browser.press(&keys::ESCAPE.to_string())?;
    browser
        .until("!document.querySelector('dialog[open]')")
        .await?;
    ensure!(
        browser.eval(ACTIVE)? == json!("?"),
        "the focus goes back to where it was"
    );

    create(browser, &address).await?;
    change(browser, &address).await?;
    somebody_else_is_faster(browser, &address).await?;
    delete(browser, &address).await?;
    the_list(browser, &address).await?;
    no_complaints(browser)
}

fn the_focus_stays_in_the_dialog(browser: &Browser) -> Result<()> {
    let back = format!("{}{}", keys::SHIFT, keys::TAB);
    for press in [keys::TAB.to_string(), back] {
        for _ in 0..6 {
            browser.press(&press)?;
            let inside = "document.querySelector('dialog').contains(document.activeElement)";
            ensure!(
                browser.eval(inside)? == json!(true),
                "the focus left the dialog"
            );
        }
    }
    // Shortcuts of the page behind do nothing.
    browser.press("2")?;
    ensure!(
        browser.eval("location.hash")? == json!(""),
        "the page behind reacts"
    );
    Ok(())
}

/// Goes on from the editor to the review, and writes.
async fn review_and_write(browser: &Browser) -> Result<()> {
    browser.press(&format!("{}{}", keys::CONTROL, keys::ENTER))?;
    browser
        .until("document.querySelector('dialog h2').textContent === 'Review the change'")
        .await?;
    browser.press(&keys::ENTER.to_string())?;
    browser
        .until("!document.querySelector('dialog[open]')")
        .await?;
    Ok(())
}

async fn create(browser: &Browser, address: &str) -> Result<()> {
    browser.press("2")?;
    browser.until_shown("No keys here.").await?;
    browser.press("n")?;
    browser
        .until("document.activeElement.name === 'key'")
        .await?;
    // A key needs a name.
    browser.press(&keys::ENTER.to_string())?;
    browser.until_shown("A key has at least one byte.").await?;
    tab_to(browser, "key")?;
    browser.press("/config/\\x00name")?;
    tab_to(browser, "value")?;
    browser.press("{\"a\":1}")?;
    tab_to(browser, "Lay out JSON")?;
    browser.press(&keys::ENTER.to_string())?;
    browser
        .until("document.querySelector('dialog textarea').value.includes('\"a\": 1')")
        .await?;
    review_and_write(browser).await?;
    browser
        .until("document.querySelector('.keyname')?.textContent === '/config/\\\\x00name'")
        .await?;
    let made = get(address, "/config/\0name")?;
    let want = ("{\n  \"a\": 1\n}".to_owned(), "1".to_owned());
    ensure!(made == Some(want), "{made:?}");
    Ok(())
}

async fn change(browser: &Browser, address: &str) -> Result<()> {
    browser.press("e")?;
    browser
        .until("document.activeElement.name === 'value'")
        .await?;
    browser.eval("(document.activeElement.select(), true)")?;
    browser.press("second")?;
    review_and_write(browser).await?;
    browser
        .until("document.querySelector('.value')?.innerText.trim() === 'second'")
        .await?;
    let changed = get(address, "/config/\0name")?;
    ensure!(
        changed == Some(("second".into(), "2".into())),
        "{changed:?}"
    );
    Ok(())
}

/// A newer revision than the one that was seen is never overwritten unseen.
async fn somebody_else_is_faster(browser: &Browser, address: &str) -> Result<()> {
    browser.press("e")?;
    browser
        .until("document.activeElement.name === 'value'")
        .await?;
    browser.eval("(document.activeElement.select(), true)")?;
    browser.press("mine")?;
    put(address, "/config/\0name", "theirs")?;
    browser.press(&format!("{}{}", keys::CONTROL, keys::ENTER))?;
    browser
        .until("document.querySelector('dialog h2').textContent === 'Review the change'")
        .await?;
    browser.press(&keys::ENTER.to_string())?;
    browser.until_shown("Changed by somebody else").await?;
    browser.screenshot("conflict")?;
    let kept = get(address, "/config/\0name")?;
    ensure!(kept == Some(("theirs".into(), "3".into())), "{kept:?}");
    // Once theirs was seen, it may be replaced.
    browser.press(&format!("{}{}", keys::SHIFT, keys::TAB))?;
    browser.press(&keys::ENTER.to_string())?;
    browser
        .until("document.querySelector('dialog h2').textContent === 'Review the change'")
        .await?;
    browser.press(&keys::ENTER.to_string())?;
    browser
        .until("!document.querySelector('dialog[open]')")
        .await?;
    let written = get(address, "/config/\0name")?;
    ensure!(written == Some(("mine".into(), "4".into())), "{written:?}");
    Ok(())
}

async fn delete(browser: &Browser, address: &str) -> Result<()> {
    browser
        .until("document.querySelector('.value')?.innerText.trim() === 'mine'")
        .await?;
    browser.press("d")?;
    // The safe answer comes first.
    browser
        .until("document.activeElement.textContent === 'Cancel'")
        .await?;
    browser.press(&keys::ENTER.to_string())?;
    browser
        .until("!document.querySelector('dialog[open]')")
        .await?;
    ensure!(
        get(address, "/config/\0name")?.is_some(),
        "Cancel deletes nothing"
    );
    let asked = "document.querySelector('dialog .block')?.textContent === '/config/\\\\x00name'";
    browser.press_until("d", asked).await?;
    tab_to(browser, "Delete")?;
    browser.press(&keys::ENTER.to_string())?;
    browser.until_shown("No keys here.").await?;
    ensure!(get(address, "/config/\0name")?.is_none(), "it was deleted");
    Ok(())
}

/// Arrows in the list, and the search field.
async fn the_list(browser: &Browser, address: &str) -> Result<()> {
    for name in ["a", "b", "c"] {
        put(address, format!("/list/{name}"), name)?;
    }
    browser.press("/")?;
    browser
        .until("document.activeElement.name === 'prefix'")
        .await?;
    browser.press("/list/")?;
    browser.press(&keys::ENTER.to_string())?;
    browser
        .until("document.querySelectorAll('.keylist li').length === 3")
        .await?;
    browser.press(&keys::TAB.to_string())?;
    tab_to(browser, "New key…")?;
    browser.press(&keys::TAB.to_string())?;
    browser
        .until("document.activeElement.closest('.keylist')")
        .await?;
    browser.press(&keys::DOWN.to_string())?;
    browser.press(&keys::ENTER.to_string())?;
    browser
        .until("document.querySelector('.keyname')?.textContent === '/list/b'")
        .await?;
    browser.press("j")?;
    browser
        .until("document.querySelector('.keyname')?.textContent === '/list/c'")
        .await?;
    Ok(())
}
