//! The page's own modules, as the browser runs them.

use anyhow::{Result, ensure};
use kvd_tests::cluster::Cluster;
use serde_json::json;

use super::turn;

/// Throws at the first thing that is not as it must be.
const CHECKS: &str = r#"
const base = new URL('./', document.baseURI);
const load = (name) => import(new URL(name, base));
const { escape, unescape, utf8, equal, prefixRange, keyAfter, compare, fromBase64, toBase64,
        fromHex, toHex, idToHex, hexToId, size } = await load('bytes.js');
const { diffLines } = await load('diff.js');
const { formatJson } = await load('value.js');
const { parse, quantile, buckets, sum } = await load('prometheus.js');
const { allows, describe, toPermission } = await load('permissions.js');
const check = (good, what) => { if (!good) throw new Error(what); };
const same = (a, b, what) => check(JSON.stringify(a) === JSON.stringify(b), `${what}: ${JSON.stringify(a)}`);
const throws = (work, what) => { try { work(); } catch { return; } throw new Error(what); };

// Escaped, every sequence of bytes is itself again, and nothing unseen is left.
let state = 1;
const random = () => (state = (state * 48271) % 2147483647);
for (let round = 0; round < 3000; round++) {
  const odd = [92, 120, 110, 0xe2, 0x80, 0xae, 10, 13];
  const byte = () => (random() % 3 ? random() % 256 : odd[random() % odd.length]);
  const bytes = Uint8Array.from({ length: random() % 24 }, byte);
  for (const lines of [false, true]) {
    const text = escape(bytes, lines);
    check(equal(unescape(text), bytes), `escape ${[...bytes]}`);
    check(!/[^\P{C}\n\t]/u.test(text), `unseen ${[...bytes]}`);
  }
  check(equal(fromBase64(toBase64(bytes)), bytes), 'base64');
  check(equal(fromHex(toHex(bytes)), bytes), 'hex');
}
same(escape(utf8('grün/日本\u202e\\')), 'grün/日本\\xe2\\x80\\xae\\\\', 'escape');
for (const bad of ['\\', '\\x', '\\x1', '\\xgg', '\\q']) throws(() => unescape(bad), bad);
throws(() => fromHex('123'), 'hex');

same([...prefixRange(utf8('a')).end], [98], 'prefix');
same([...prefixRange(new Uint8Array([97, 255])).end], [98], 'prefix of 255');
same([...prefixRange(new Uint8Array([255])).end], [0], 'prefix of all');
same([...prefixRange(new Uint8Array([])).key], [0], 'no prefix');
same([...keyAfter(utf8('a'))], [97, 0], 'key after');
check(compare(utf8('a'), utf8('a\0')) < 0 && compare(utf8('b'), utf8('a\0')) > 0, 'order');

same(idToHex('18446744073709551615'), 'ffffffffffffffff', 'ID');
same(idToHex('-1'), 'ffffffffffffffff', 'negative ID');
same(hexToId('ffffffffffffffff'), '-1', 'hex ID');
same(hexToId('12345'), '74565', 'hex ID');
for (const bad of ['', 'xyz', '11111111111111111']) throws(() => hexToId(bad), bad);
same([size(0), size(999), size(1024), size(1536000)], ['0 B', '999 B', '1.00 KiB', '1.46 MiB'], 'size');

same(diffLines('a\nb\nc', 'a\nx\nc'), [[' ', 'a'], ['-', 'b'], ['+', 'x'], [' ', 'c']], 'diff');
same(diffLines('a', 'a'), null, 'no diff');
for (let round = 0; round < 200; round++) {
  const text = () => Array.from({ length: random() % 9 }, () => 'abc'[random() % 3]).join('\n');
  const [a, b] = [text(), text()];
  const rows = diffLines(a, b) ?? a.split('\n').map((line) => [' ', line]);
  same(rows.filter(([kind]) => kind !== '+').map(([, line]) => line).join('\n'), a, 'before');
  same(rows.filter(([kind]) => kind !== '-').map(([, line]) => line).join('\n'), b, 'after');
}

const long = '{"n":12345678901234567890,"s":"a, \\"b\\": {","e":{},"l":[],"x":[1,-2.5e9,true,null]}';
check(formatJson(long).includes('12345678901234567890'), 'large numbers stay');
check(formatJson(long).includes('"e": {},\n  "l": [],'), formatJson(long));
same(JSON.parse(formatJson(long)).s, 'a, "b": {', 'strings stay');
same(formatJson('{'), null, 'no JSON');

const text = '# HELP a_b words here\na_b{x="1\\"2",y="\\\\n"} 3\na_b 4\nh_bucket{le="0.1"} 10\nh_bucket{le="+Inf"} 20\n';
const { values, help } = parse(text);
same(values.get('a_b')[0].labels, { x: '1"2', y: '\\n' }, 'labels');
same([sum(values, 'a_b'), sum(values, 'none'), help.get('a_b')], [7, null, 'words here'], 'metrics');
same(quantile([], buckets(values, 'h'), 0.25), 0.05, 'quantile');
same(quantile(buckets(values, 'h'), buckets(values, 'h'), 0.5), null, 'nothing observed');

const b64 = (text) => toBase64(utf8(text));
const permissions = [
  { key: b64('/a/'), range_end: b64('/a0') },
  { permType: 'WRITE', key: b64('k') },
  { permType: 'READWRITE', key: b64('m'), range_end: 'AA==' },
].map(toPermission);
const may = (what, key) => allows(permissions, what, utf8(key));
same([may('read', '/a/x'), may('write', '/a/x'), may('read', '/b')], [true, false, false], 'prefix');
same([may('write', 'k'), may('read', 'k'), may('write', 'kk')], [true, false, false], 'one key');
same([may('write', 'm'), may('read', 'zz'), may('read', 'l')], [true, true, false], 'open end');
same(permissions.map((one) => describe(one).text), ['/a/*', 'the key k', 'from m on'], 'words');
return 'good';
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_modules_keep_bytes_and_numbers_as_they_are() -> Result<()> {
    let Some(turn) = turn().await? else {
        return Ok(());
    };
    let cluster = Cluster::start(1, &[]).await?;
    let address = cluster.members[0].client_address();
    turn.browser.open(&format!("http://{address}/ui/"))?;
    let outcome = turn.browser.run(CHECKS)?;
    ensure!(outcome == json!("good"), "{outcome}");
    Ok(())
}
