//! Users and TLS.

use anyhow::{Result, ensure};
use kvd_tests::browser::{Browser, keys};
use kvd_tests::cluster::Cluster;
use kvd_tests::member::Member;
use kvd_tests::pki::{Authority, Leaf};
use kvd_tests::process::kvctl as kvctl_with_input;
use serde_json::json;

use super::{look, no_complaints, turn};

/// Runs `kvctl` against a member with TLS.
fn kvctl(member: &Member, authority: &str, arguments: &[&str]) -> Result<()> {
    let mut line = vec!["--cacert", authority];
    line.extend(arguments);
    let output = member.kvctl(&line)?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(())
}

/// Root, who may do everything, and alice, who reads what begins with `/app/` and has a key of her
/// own.
fn make_users(member: &Member, authority: &str) -> Result<()> {
    for line in [
        "put /app/name value",
        "put /secret hidden",
        "user add root:rootpw",
        "user grant-role root root",
        "role add readers",
        "role grant-permission readers read /app/ --prefix",
        "role grant-permission readers readwrite /own",
        "user add alice:alicepw",
        "user grant-role alice readers",
        "auth enable",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        kvctl(member, authority, &arguments)?;
    }
    Ok(())
}

async fn sign_in(browser: &Browser, user: &str, password: &str) -> Result<()> {
    browser
        .until("document.querySelector('dialog[open] [name=user]')")
        .await?;
    browser.eval("(document.querySelector('[name=user]').value = '', document.querySelector('[name=password]').value = '', document.querySelector('[name=user]').focus(), true)")?;
    browser.press(&format!("{user}{}{password}{}", keys::TAB, keys::ENTER))
}

#[tokio::test(flavor = "multi_thread")]
async fn users_sign_in_over_tls_and_do_what_they_may() -> Result<()> {
    let Some(turn) = turn().await? else {
        return Ok(());
    };
    let browser = &turn.browser;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let authority = Authority::new("authority")?;
    let issued = authority.issue(&Leaf::new("member", 1))?;
    let (ca, cert, key) = (path("ca.crt"), path("tls.crt"), path("tls.key"));
    std::fs::write(&ca, authority.pem())?;
    std::fs::write(&cert, issued.cert)?;
    std::fs::write(&key, issued.key)?;
    let line = [
        "--cert-file",
        &cert,
        "--key-file",
        &key,
        "--bcrypt-cost",
        "4",
    ];
    let mut cluster = Cluster::prepare_with_tls(1, &line, (true, false))?;
    cluster.start_all().await?;
    let member = &cluster.members[0];
    make_users(member, &ca)?;

    browser.open(&format!("{}/ui/", member.client_url()))?;
    browser
        .until("document.querySelector('dialog[open] [name=user]')")
        .await?;
    look(browser, "sign-in")?;
    sign_in(browser, "alice", "wrong").await?;
    browser
        .until_shown("authentication failed, invalid user ID or password")
        .await?;
    sign_in(browser, "alice", "alicepw").await?;
    browser
        .until("document.querySelectorAll('tbody tr').length === 1")
        .await?;
    browser
        .until("document.querySelector('#user').textContent === 'alice'")
        .await?;
    what_a_reader_sees(browser).await?;
    who_am_i(browser).await?;

    // A reload keeps the session, in this tab alone.
    browser.reload()?;
    browser
        .until("document.querySelector('#user').textContent === 'alice'")
        .await?;
    ensure!(
        browser.eval("localStorage.length")? == json!(0),
        "no token is kept for ever"
    );

    the_session_ends(browser, member, &ca).await?;
    root_writes(browser).await?;
    no_complaints(browser)
}

async fn what_a_reader_sees(browser: &Browser) -> Result<()> {
    browser.click("nav a", "Keys")?;
    browser
        .until_shown("Permission denied: none of your roles allows this.")
        .await?;
    browser.until_shown("alice may read:").await?;
    look(browser, "keys-denied")?;
    browser.click("main a", "/app/*")?;
    browser
        .until("document.querySelectorAll('.keylist li').length === 1")
        .await?;
    browser.click(".keylist .name", "/app/name")?;
    browser
        .until_shown("Read only: no role of alice may write this key.")
        .await?;
    let buttons = browser.eval("[...document.querySelectorAll('.detail button')].some((b) => /Edit|Delete/.test(b.textContent))")?;
    ensure!(buttons == json!(false), "a reader is offered to write");
    look(browser, "key-read-only")?;
    // What the page cannot know is refused by the member, and said.
    browser.press("n")?;
    browser
        .until("document.activeElement.name === 'key'")
        .await?;
    browser.press("new")?;
    browser.press(&format!("{}{}", keys::CONTROL, keys::ENTER))?;
    browser
        .until("document.querySelector('dialog h2').textContent === 'Review the change'")
        .await?;
    browser.press(&keys::ENTER.to_string())?;
    browser.until("document.querySelector('dialog [role=alert]:not([hidden])')?.textContent.startsWith('Permission denied')").await?;
    browser.press(&keys::ESCAPE.to_string())?;
    browser
        .until("!document.querySelector('dialog[open]')")
        .await?;
    browser.eval("location.hash = '#/watch?k=/secret'")?;
    browser
        .until_shown("Permission denied: none of your roles allows this.")
        .await
}

async fn who_am_i(browser: &Browser) -> Result<()> {
    browser.click("#user", "alice")?;
    browser.until_shown("readers").await?;
    browser.until_shown("/app/*").await?;
    look(browser, "who-am-i")?;
    browser.click("button", "Close")
}

/// A token that is no longer good leads to the form, and the work goes on after it.
async fn the_session_ends(browser: &Browser, member: &Member, ca: &str) -> Result<()> {
    browser.eval("location.hash = '#/keys?p=/app/&k=/app/name'")?;
    browser.until_shown("Read only").await?;
    // A new password ends what was given out for the old one.
    let url = member.client_url();
    let line = ["--endpoints", &url, "--cacert", ca, "--user", "root:rootpw"];
    let change = ["user", "passwd", "alice", "--interactive=false"];
    let output = kvctl_with_input(&[&line[..], &change].concat(), "changed\n")?;
    ensure!(output.status.success(), "{output:?}");
    browser.press("r")?;
    browser
        .until_shown("Your session has ended. Please sign in again.")
        .await?;
    look(browser, "session-ended")?;
    sign_in(browser, "alice", "changed").await?;
    browser
        .until("!document.querySelector('dialog[open]')")
        .await?;
    browser.until_shown("Read only").await
}

async fn root_writes(browser: &Browser) -> Result<()> {
    browser.click("#user", "alice")?;
    browser.click("button", "Sign out")?;
    sign_in(browser, "root", "rootpw").await?;
    browser
        .until("document.querySelector('#user').textContent === 'root'")
        .await?;
    browser.until("[...document.querySelectorAll('.detail button')].some((b) => b.textContent === 'Delete…')").await?;
    browser.press("d")?;
    browser
        .until("document.activeElement.textContent === 'Cancel'")
        .await?;
    browser.click("button", "Delete")?;
    browser.until_shown("was deleted at revision").await
}
