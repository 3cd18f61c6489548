//! Every view of a cluster of three.

use std::time::Duration;

use anyhow::{Result, ensure};
use kvd_tests::browser::Browser;
use kvd_tests::cluster::Cluster;
use serde_json::json;

use super::{call, encode, get, look, no_complaints, put, turn};

/// What would run if a name or value ever became markup.
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>";

/// Keys of every kind, and leases. Returns the ID of a lease with two keys.
fn fill(address: &str) -> Result<String> {
    for port in [5432, 5433, 5434] {
        let value = json!({ "host": "db.internal", "port": port, "replicas": ["a", "b"] });
        put(address, "/app/database", value.to_string())?;
    }
    put(address, "/app/motd", "Welcome.\nClosed on Sunday.\n")?;
    put(
        address,
        "/app/motd",
        "Welcome.\nClosed on Saturday.\nThere is tea.\n",
    )?;
    put(address, b"/bin/\x00\xff", (0..=255u8).collect::<Vec<u8>>())?;
    put(address, HOSTILE, HOSTILE)?;
    put(address, "/big", "0123456789abcde\n".repeat(8_192))?;
    let operations: Vec<_> = (0..120)
        .map(|i| json!({ "request_put": { "key": encode(format!("/pods/web-{i:03}")), "value": encode("Running") } }))
        .collect();
    call(address, "kv/txn", &json!({ "success": operations }))?;
    let lease = call(
        address,
        "lease/grant",
        &json!({ "TTL": "900", "ID": "74565" }),
    )?;
    let lease = lease["ID"].as_str().unwrap_or_default().to_owned();
    for key in ["/services/a", "/services/b"] {
        let body = json!({ "key": encode(key), "value": encode("10.0.0.1:80"), "lease": lease });
        call(address, "kv/put", &body)?;
    }
    Ok(lease)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_shows_what_the_cluster_has() -> Result<()> {
    let Some(turn) = turn().await? else {
        return Ok(());
    };
    let browser = &turn.browser;
    let mut cluster = Cluster::start(3, &["--max-txn-ops", "200"]).await?;
    let address = cluster.members[0].client_address();
    fill(&address)?;
    browser.open(&format!("http://{address}/ui"))?;
    the_cluster(browser).await?;
    an_alarm(browser, &address).await?;
    the_keys(browser).await?;
    a_key(browser).await?;
    hostile_names(browser).await?;
    the_watch(browser, &address).await?;
    the_leases(browser, &address).await?;
    the_metrics(browser, &address).await?;
    earlier_lives(browser, &address).await?;
    the_frame(browser).await?;
    no_complaints(browser)?;

    cluster.members[2].kill()?;
    browser.eval("location.hash = '#/cluster'")?;
    browser.until_shown("2 of 3 answer").await?;
    browser
        .until("document.querySelector('tbody .state.bad')")
        .await?;
    look(browser, "cluster-one-down")?;
    cluster.members[0]
        .terminate(Duration::from_secs(30))
        .await?;
    browser
        .until_shown("This member does not answer since")
        .await?;
    look(browser, "no-answer")
}

async fn the_cluster(browser: &Browser) -> Result<()> {
    browser
        .until("document.querySelectorAll('tbody tr').length === 3")
        .await?;
    browser
        .until("document.querySelectorAll('tbody .state.good').length === 3")
        .await?;
    browser.until_shown("3 of 3 answer").await?;
    browser.until_shown("1 more may fail").await?;
    let leaders = browser.eval("document.querySelectorAll('tbody .role-leader').length")?;
    ensure!(leaders == json!(1), "{leaders} leaders");
    browser
        .until("document.querySelectorAll('.checks .good').length === 4")
        .await?;
    browser
        .until("document.querySelector('#health').textContent === 'healthy'")
        .await?;
    browser
        .until("document.querySelectorAll('tbody th a[href$=\"/ui/\"]').length === 3")
        .await?;
    look(browser, "cluster")
}

async fn an_alarm(browser: &Browser, address: &str) -> Result<()> {
    let status = call(address, "maintenance/status", &json!({}))?;
    let id = &status["header"]["member_id"];
    let alarm = |action| json!({ "action": action, "memberID": id, "alarm": "NOSPACE" });
    call(address, "maintenance/alarm", &alarm("ACTIVATE"))?;
    browser.until_shown("NOSPACE raised by m0.").await?;
    browser
        .until("document.querySelectorAll('tbody .state.bad').length === 1")
        .await?;
    browser
        .until("document.querySelector('#health').textContent === 'ALARM NOSPACE'")
        .await?;
    look(browser, "cluster-alarm")?;
    call(address, "maintenance/alarm", &alarm("DEACTIVATE"))?;
    browser
        .until("!document.querySelector('.alarmed').checkVisibility()")
        .await?;
    Ok(())
}

async fn the_keys(browser: &Browser) -> Result<()> {
    browser.click("nav a", "Keys")?;
    browser.until_shown("1–100 of 127 keys at revision").await?;
    browser.click("button", "Next 100")?;
    browser
        .until("document.querySelectorAll('.keylist li').length === 127")
        .await?;
    look(browser, "keys")?;
    browser.eval("(document.querySelector('[name=prefix]').value = '/app/', true)")?;
    browser.click("button", "Search")?;
    browser
        .until("document.querySelectorAll('.keylist li').length === 2")
        .await?;
    // The store as it was before the message of the day.
    browser.eval("(document.querySelector('[name=revision]').value = '2', true)")?;
    browser.click("button", "Search")?;
    browser.until_shown("1 key at revision 2").await?;
    browser.eval("(document.querySelector('[name=revision]').value = 'x', true)")?;
    browser.click("button", "Search")?;
    browser
        .until_shown("A revision is a number above 0.")
        .await?;
    Ok(())
}

async fn a_key(browser: &Browser) -> Result<()> {
    browser.eval("location.hash = '#/keys?p=/app/&k=/app/database'")?;
    browser.until_shown("5434").await?;
    browser
        .until("document.querySelectorAll('.versions li').length === 3")
        .await?;
    browser.until_shown("there was no such key before").await?;
    browser.eval("(document.querySelector('.versions details').open = true, true)")?;
    browser
        .until("document.querySelector('.versions .diff .gone')?.textContent.includes('5433')")
        .await?;
    look(browser, "key")?;
    for (tab, text) in [
        ("Hex", "00000000  7b 22"),
        ("Text", "{\"host\""),
        ("JSON", "\"host\": "),
    ] {
        browser.click("[role=tab]", tab)?;
        browser
            .until(&format!(
                "document.querySelector('.value').innerText.includes({})",
                json!(text)
            ))
            .await?;
    }
    browser.eval("location.hash = '#/keys?k=/bin/' + encodeURIComponent('\\\\x00\\\\xff')")?;
    browser.until_shown("f0 f1 f2 f3 f4 f5 f6 f7").await?;
    browser.eval("location.hash = '#/keys?k=/big'")?;
    browser
        .until_shown("The first 32.0 KiB of 128 KiB.")
        .await?;
    browser.click("button", "Show all")?;
    browser
        .until("document.querySelector('.value pre').textContent.length === 131072")
        .await?;
    browser.eval("location.hash = '#/keys?k=/nothing'")?;
    browser.until_shown("There is no such key.").await
}

/// A key that was deleted twice and is there again, one that is not, and what compaction takes.
async fn earlier_lives(browser: &Browser, address: &str) -> Result<()> {
    let delete = json!({ "key": encode("/app/phoenix") });
    put(address, "/app/phoenix", "first")?;
    put(address, "/app/phoenix", "first, changed")?;
    call(address, "kv/deleterange", &delete)?;
    // More revisions in between than are looked through at once.
    for number in 0..100 {
        put(address, "/app/noise", number.to_string())?;
    }
    let second = put(address, "/app/phoenix", "second")?;
    call(address, "kv/deleterange", &delete)?;
    put(address, "/app/phoenix", "third")?;
    browser.eval("location.hash = '#/keys?p=/app/&k=/app/phoenix'")?;
    browser
        .until("document.querySelectorAll('.versions > li').length === 6")
        .await?;
    browser.click("button", "Older versions")?;
    browser.until_shown("there was no such key before").await?;
    let shown = "[...document.querySelectorAll('.versions > li')].map((e) => \
                 e.classList.contains('deletion') ? 'deleted' : \
                 e.querySelector('.muted').textContent.split(' · ')[0])";
    let expected = json!([
        "version 1, now",
        "deleted",
        "version 1",
        "deleted",
        "version 2",
        "version 1"
    ]);
    let versions = browser.eval(shown)?;
    ensure!(versions == expected, "{versions}");
    browser.eval("(document.querySelectorAll('.versions details')[2].open = true, true)")?;
    browser.until_shown("first, changed").await?;
    look(browser, "key-earlier-lives")?;

    // One that is gone has a history, too.
    call(address, "kv/deleterange", &delete)?;
    browser.eval("location.hash = '#/keys?k=/app/phoenix'")?;
    browser.until_shown("There is no such key.").await?;
    browser
        .until("document.querySelector('.versions > li.deletion + li details')")
        .await?;
    browser.eval("(document.querySelector('.versions details').open = true, true)")?;
    browser.until_shown("third").await?;
    browser.click("button", "Edit from this version…")?;
    browser
        .until("document.querySelector('dialog[open] textarea')?.value === 'third'")
        .await?;
    browser.click("button", "Cancel")?;

    put(address, "/app/phoenix", "fourth")?;
    let revision = second["header"]["revision"].clone();
    call(address, "kv/compaction", &json!({ "revision": revision }))?;
    browser.eval("location.hash = '#/keys?p=/app/&k=/app/phoenix'")?;
    browser.until_shown("was compacted.").await?;
    let versions = browser.eval(shown)?;
    let expected = json!([
        "version 1, now",
        "deleted",
        "version 1",
        "deleted",
        "version 1"
    ]);
    ensure!(versions == expected, "{versions}");
    Ok(())
}

async fn hostile_names(browser: &Browser) -> Result<()> {
    let open = format!(
        "location.hash = '#/keys?k=' + encodeURIComponent({})",
        json!(HOSTILE)
    );
    browser.eval(&open)?;
    browser
        .until(&format!(
            "document.querySelector('.value pre')?.textContent === {}",
            json!(HOSTILE)
        ))
        .await?;
    let made = browser.eval("document.querySelectorAll('main img, main script').length")?;
    ensure!(made == json!(0), "a value became markup");
    browser.press("d")?;
    browser
        .until("document.querySelector('dialog[open]')")
        .await?;
    look(browser, "hostile-delete")?;
    browser.click("button", "Cancel")?;
    let title = browser.eval("document.title")?;
    ensure!(title == json!("Keys · kvd"), "{title}");
    Ok(())
}

async fn the_watch(browser: &Browser, address: &str) -> Result<()> {
    browser.eval("location.hash = '#/watch?p=/live/'")?;
    browser.until_shown("Watching since revision").await?;
    put(address, "/live/a", "one")?;
    put(address, "/live/a", "two")?;
    put(address, "/other", "unseen")?;
    call(
        address,
        "kv/deleterange",
        &json!({ "key": encode("/live/a") }),
    )?;
    browser
        .until("document.querySelectorAll('.events li').length === 3")
        .await?;
    let kinds =
        browser.eval("[...document.querySelectorAll('.events .tag')].map((e) => e.textContent)")?;
    ensure!(kinds == json!(["deleted", "changed", "created"]), "{kinds}");
    browser.eval("(document.querySelectorAll('.events details')[1].open = true)")?;
    browser
        .until("document.querySelector('.events .diff .new')?.textContent.includes('two')")
        .await?;
    look(browser, "watch")?;
    browser.click("button", "Pause")?;
    put(address, "/live/b", "held")?;
    browser.until_shown("paused, 1 waiting").await?;
    browser.click("button", "Go on")?;
    browser
        .until("document.querySelectorAll('.events li').length === 4")
        .await?;
    browser.click("button", "Stop")?;
    browser.until_shown("Stopped.").await?;
    // From the past.
    browser.click("button", "Clear")?;
    browser.eval("(document.querySelector('[name=from]').value = '2', document.querySelector('[name=key]').value = '/app/database', true)")?;
    browser.click("button", "Start")?;
    browser
        .until("document.querySelectorAll('.events li').length === 3")
        .await?;
    browser.click("button", "Stop")
}

async fn the_leases(browser: &Browser, address: &str) -> Result<()> {
    browser.click("nav a", "Leases")?;
    browser.until_shown("1 lease").await?;
    browser.until_shown("/services/b").await?;
    look(browser, "leases")?;
    browser.click("button", "Revoke…")?;
    browser.until_shown("2 keys will be deleted:").await?;
    look(browser, "lease-revoke")?;
    browser.click("button", "Revoke")?;
    browser.until_shown("There are no leases.").await?;
    ensure!(
        get(address, "/services/a")?.is_none(),
        "the lease's keys are gone"
    );
    Ok(())
}

async fn the_metrics(browser: &Browser, address: &str) -> Result<()> {
    browser.click("nav a", "Metrics")?;
    browser
        .until("document.querySelectorAll('.spark').length >= 10")
        .await?;
    put(address, "/metrics", "x")?;
    let puts =
        "[...document.querySelectorAll('.chart')].find((e) => e.innerText.startsWith('Puts'))";
    browser
        .until(&format!("{puts}.querySelector('.spark')"))
        .await?;
    browser.eval("(document.querySelector('.all-metrics').open = true)")?;
    browser.eval(
        "(() => { const f = document.querySelector('[name=metric]'); f.value = 'etcd_server_has_leader'; \
         f.dispatchEvent(new Event('input')); return true; })()",
    )?;
    browser
        .until("document.querySelectorAll('.all-metrics tbody tr').length === 1")
        .await?;
    look(browser, "metrics")
}

/// Help, the theme, reduced motion.
async fn the_frame(browser: &Browser) -> Result<()> {
    browser.press("?")?;
    browser
        .until("document.querySelector('dialog[open]')?.innerText.includes('next key, key before')")
        .await?;
    look(browser, "help")?;
    browser.click("button", "Close")?;
    let background = "getComputedStyle(document.documentElement).backgroundColor";
    let light = browser.eval(background)?;
    // From the system's to light, then to dark; it stays after a reload.
    browser.press("t")?;
    browser.press("t")?;
    let dark = browser.eval(background)?;
    ensure!(light != dark, "the theme changes: {light}");
    browser.reload()?;
    browser.until("document.querySelector('nav a')").await?;
    ensure!(browser.eval(background)? == dark, "the theme is kept");
    browser.press("t")?;
    ensure!(
        browser.eval("localStorage.length")? == json!(0),
        "nothing else is stored"
    );
    Ok(())
}
